//! Views of larger layers against PyTorch's small ones, element by element: outputs and all gradients.
//!
//! The numbers are in `fixtures/layers.json`, which `python/layer_fixtures.py` writes.

mod common;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::GradientsParams;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::{Device, Int, Tensor};
use common::conv::{Case, conv_transpose2d, conv1d, conv2d};
use common::layers::{Maps, batch_norm, group_norm, layer_norm, linear, prelu, squeeze_excite};
use common::subject::{Part, Subject, VIEW, Width};
use common::{Entry, Run, assert_close, device, filled, fractions, gradients, in_zeros, replaced, tensor, to_f64};
use elastic_layers::kernels::{Activation, SgdConfig, add, fork, global_mean};
use elastic_layers::{
    Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, ElasticLinear,
    ElasticLinearConfig, SearchSpace, Size, Statistics,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    cases: Vec<Fixture>,
}

#[derive(Deserialize)]
struct Fixture {
    layer: String,
    #[serde(flatten)]
    sizes: Sizes,
    option: bool,
    image: [usize; 2],
    input: Vec<f32>,
    upstream: Vec<f32>,
    output: Vec<f32>,
    input_gradient: Vec<f32>,
    parameters: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<f32>>,
}

/// Of the supernet and the view, for every part of a concatenation.
type Parts = Vec<[usize; 2]>;

#[derive(Deserialize)]
#[serde(untagged)]
enum Sizes {
    Convolution {
        groups: Parts,
        inputs: Parts,
        outputs: Parts,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        padding: [usize; 2],
        padding_out: [usize; 2],
    },
    Maps {
        features: Parts,
        other: Parts,
    },
}

fn width(parts: &Parts) -> Width {
    Width(parts.iter().map(|&[max, active]| Part { max, active, elastic: max > 1 }).collect())
}

impl Fixture {
    fn case(&self, batch: usize) -> Case {
        let Sizes::Convolution { groups, inputs, outputs, kernel, stride, dilation, padding, padding_out } =
            &self.sizes
        else {
            panic!("{}: the sizes of a convolution", self.layer);
        };
        Case {
            groups: width(groups),
            each: [width(inputs), width(outputs)],
            bias: self.option,
            batch,
            kernel: *kernel,
            stride: *stride,
            dilation: *dilation,
            padding: PaddingConfig2d::Explicit(padding[0], padding[1], padding[0], padding[1]),
            padding_out: *padding_out,
            image: self.image,
            seed: 1,
        }
    }

    fn maps(&self, batch: usize) -> Maps {
        let Sizes::Maps { features, other } = &self.sizes else { panic!("{}: the sizes of maps", self.layer) };
        let (features, other) = (width(features), width(other));
        Maps { features, other, option: self.option, batch, map: self.image, seed: 1 }
    }

    /// The view's parameters are PyTorch's, and the rest of the supernet is random.
    fn check<E: Elastic, B: Module, const D: usize>(&self, subject: &Subject<E, B, D>, change: impl Fn(E) -> E) {
        let mut known = 0;
        let all = common::entries(&subject.supernet);
        for Entry { path, .. } in &all {
            known += usize::from(self.parameters.contains_key(path));
        }
        assert_eq!(known, self.parameters.len(), "{}: all parameters are used", self.layer);
        let supernet = filled(subject.supernet.clone(), |path, shape| {
            let old = &all.iter().find(|entry| entry.path == path).expect("a parameter").values;
            self.parameters
                .get(path)
                .map_or_else(|| old.clone(), |small| replaced(old, small, shape, subject.used(path)))
        });
        let view = change(supernet.select(&subject.architectures[VIEW]));
        let run =
            Run::new(&self.input, subject.inputs[VIEW], |_| self.upstream.clone(), |x| (subject.forward)(&view, x));
        assert_close(&format!("{}: output", self.layer), &run.output, &to_f64(&self.output), 1e-5);
        let input_gradient = to_f64(&self.input_gradient);
        assert_close(&format!("{}: input gradient", self.layer), &run.input_gradient, &input_gradient, 1e-5);
        let found = gradients(&view, &run.gradients);
        assert_eq!(found.len(), self.gradients.len(), "{}: gradients", self.layer);
        for Entry { path, shape, values } in found {
            let expected = in_zeros(&self.gradients[&path], &shape, subject.used(&path));
            assert_close(&format!("{}: {path} gradient", self.layer), &values, &to_f64(&expected), 1e-5);
        }
    }
}

#[test]
fn views_are_the_layers_of_pytorch() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/layers.json"));
    let file: File = serde_json::from_str(&text.expect("the fixtures")).expect("fixtures as the script writes them");
    assert_eq!(file.cases.len(), 22);
    for fixture in &file.cases {
        match fixture.layer.as_str() {
            "conv1d" => fixture.check(&conv1d(&fixture.case(2), fractions), |view| view),
            "conv2d" => fixture.check(&conv2d(&fixture.case(2), fractions), |view| view),
            "conv_transpose2d" => fixture.check(&conv_transpose2d(&fixture.case(2), fractions), |view| view),
            "linear" => fixture.check(&linear(&fixture.maps(2)), |view| view),
            // In evaluation, its parameters are trained with the running statistics.
            "batch_norm" => fixture.check(&batch_norm(&fixture.maps(3)), |view: ElasticBatchNorm| {
                let in_evaluation = || view.with_statistics(Statistics::Running).freeze().set_require_grad(true);
                if fixture.option { view } else { in_evaluation() }
            }),
            "group_norm" => fixture.check(&group_norm(&fixture.maps(2)), |view| view),
            "layer_norm" => fixture.check(&layer_norm(&fixture.maps(2)), |view| view),
            "prelu" => fixture.check(&prelu(&fixture.maps(2)), |view| view),
            "squeeze_excite" => fixture.check(&squeeze_excite(&fixture.maps(2)), |view| view),
            other => panic!("no such layer: {other}"),
        }
    }
}

/// A stem, and a block as MobileNetV2's, with a shortcut.
#[derive(Module, Elastic, Debug)]
struct Network {
    stem: ElasticConv2d,
    expand: ElasticConv2d,
    depthwise: ElasticConv2d,
    project: ElasticConv2d,
    norms: Vec<ElasticBatchNorm>,
    classifier: ElasticLinear,
}

impl Network {
    fn new(width: &Size, middle: &Size, device: &Device) -> Self {
        let conv = |inputs: &Size, outputs: &Size, kernel: usize| {
            let padding = PaddingConfig2d::Explicit(kernel / 2, kernel / 2, kernel / 2, kernel / 2);
            let config = match inputs == outputs {
                true => ElasticConv2dConfig::depthwise(inputs.clone(), [kernel; 2]),
                false => ElasticConv2dConfig::new([inputs.clone(), outputs.clone()], [kernel; 2]),
            };
            config.with_padding(padding).with_bias(false).init(device)
        };
        Self {
            stem: conv(&2.into(), width, 3),
            expand: conv(width, middle, 1),
            depthwise: conv(middle, middle, 3),
            project: conv(middle, width, 1),
            norms: [width, middle, middle, width]
                .map(|features| ElasticBatchNormConfig::new(features.clone()).init(device))
                .into(),
            classifier: ElasticLinearConfig::new(width.clone(), 4).init(device),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.norms[0].forward_convolved(&self.stem, images, Activation::Relu6);
        let [x, shortcut] = fork(x);
        let x = self.norms[1].forward_convolved(&self.expand, x, Activation::Relu6);
        let x = self.norms[2].forward_convolved(&self.depthwise, x, Activation::Relu6);
        let x = add(shortcut, self.norms[3].forward_convolved(&self.project, x, Activation::None));
        self.classifier.forward(global_mean(x))
    }
}

/// A weight whose first entries are others.
fn beginning_with<const D: usize>(weight: Param<Tensor<D>>, shape: [usize; D], values: &[f32]) -> Param<Tensor<D>> {
    weight.map(|weight| {
        let first = tensor(values, shape, &weight.device());
        weight.slice_assign(shape.map(|size| 0..size), first).detach().require_grad()
    })
}

/// The losses of 50 steps of training of a view, by the kernels, are those of PyTorch's network on the same batches: in
/// 64-bit floats, from which PyTorch's own in 32-bit floats differ by 3e-7 at most.
#[test]
fn fifty_steps_follow_the_losses_of_pytorch() {
    #[derive(Deserialize)]
    struct Curves {
        f32: Vec<f64>,
        f64: Vec<f64>,
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/losses.json"));
    let curves: Curves = serde_json::from_str(&text.expect("the fixture")).expect("curves as the script writes them");
    assert_eq!(curves.f64.len(), 50);

    let (device, mut space) = (device(), SearchSpace::new());
    let mut dim = |name, base: usize| space.channels(name, base).range(1..=base + base / 2).add().expect("a dimension");
    let (width, middle) = (dim("width", 6), dim("middle", 12));
    let mut network = Network::new(&width, &middle, &device);
    let Network { stem, expand, depthwise, project, classifier, .. } = &mut network;
    for (seed, layer, shape) in [
        (1, stem, [6, 2, 3, 3]),
        (2, expand, [12, 6, 1, 1]),
        (3, depthwise, [12, 1, 3, 3]),
        (4, project, [6, 12, 1, 1]),
    ] {
        let values = fractions(seed, shape.iter().product());
        layer.weight = beginning_with(layer.weight.clone(), shape, &values);
    }
    // Burn keeps it as [inputs, outputs].
    let rows = fractions(5, 4 * 6);
    let columns: Vec<f32> = (0..6 * 4).map(|place| rows[place % 4 * 6 + place / 4]).collect();
    classifier.weight = beginning_with(classifier.weight.clone(), [6, 4], &columns);
    classifier.bias = classifier.bias.take().map(|bias| beginning_with(bias, [4], &[0.0; 4]));

    let shape = [12, 2, 9, 7];
    let batch: usize = shape.iter().product();
    let batches = fractions(100, 50 * batch);
    let labels = Tensor::<1, Int>::arange(0..12, &device).remainder_scalar(4);
    let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: false };
    let decay = WeightDecayConfig { penalty: 1e-3 };
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).with_weight_decay(Some(decay)).init();
    for (step, images) in batches.chunks(batch).enumerate() {
        let view = network.select(&space.base());
        let brightness = labels.clone().float().reshape([12, 1, 1, 1]) * 0.125;
        let images = tensor(images, shape, &device) + brightness;
        let loss = CrossEntropyLossConfig::new().init(&device).forward(view.forward(images), labels.clone());
        let found = f64::from(loss.clone().into_scalar::<f32>());
        let expected = curves.f64[step];
        assert!((curves.f32[step] - expected).abs() < 3e-7, "step {step}: PyTorch's own");
        assert!((found - expected).abs() < 2e-6, "step {step}: expected {expected}, found {found}");
        let gradients = GradientsParams::from_grads(loss.backward(), &view);
        drop(view);
        network = optimizer.step(0.05, network, gradients);
    }
}
