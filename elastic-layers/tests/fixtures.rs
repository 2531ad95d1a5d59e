//! Views of larger layers against PyTorch's small ones, element by element: outputs and all gradients.
//!
//! The numbers are in `fixtures/layers.json`, which `python/layer_fixtures.py` writes.

mod common;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use common::conv::{Case, conv_transpose2d, conv1d, conv2d};
use common::layers::{Maps, batch_norm, group_norm, layer_norm, linear, prelu, squeeze_excite};
use common::subject::{Part, Subject, VIEW, Width};
use common::{Entry, Run, assert_close, filled, fractions, gradients, in_zeros, replaced, to_f64};
use elastic_layers::{Elastic, ElasticBatchNorm, Statistics};
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
