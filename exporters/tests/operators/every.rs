//! Every operation of the table at random shapes, and the document that the table becomes.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig};
use burn::nn::pool::{
    AdaptiveAvgPool1dConfig, AdaptiveAvgPool2dConfig, AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig,
    MaxPool2dConfig,
};
use burn::nn::{LayerNormConfig, LinearConfig, PReluConfig, PaddingConfig1d, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use burn::tensor::{Bool, Device, Int, Tensor, activation};
use elastic_layers::capture::{InputShapes, Tensors};
use exporters::runtime::RuntimeKind;
use exporters::{OPERATORS, OnnxExporter, operator_table, random_reference, verify};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{Files, TOLERANCE, runtimes, trained_norm};

/// A batch of maps: channels, height, width.
type Map = [usize; 3];

/// The operations that were seen in forwards that agreed with Burn in every runtime.
#[derive(Default)]
struct Seen(BTreeSet<String>);

impl Seen {
    /// Exports, runs and compares; what the file has is what the table says of the operations.
    fn check<I: InputShapes, O: Tensors, M: Module>(
        &mut self,
        name: &str,
        model: &M,
        inputs: I,
        symbolic: bool,
        forward: impl Fn(&M, I::Tensors) -> O,
    ) where
        I::Tensors: Clone,
    {
        let exporter = OnnxExporter::new(inputs.clone()).with_symbolic_batch(symbolic);
        let onnx = exporter.export(model, &forward).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut files = Files::new();
        let path = files.save("operation", &onnx);
        let reference = random_reference(inputs, &Device::default(), |inputs| forward(model, inputs));
        let report = verify(&path, &[reference], &runtimes(), TOLERANCE);
        let accepted = report.entries.iter().all(|entry| entry.passed || (is_missing(&entry.runtime, name)));
        assert!(accepted, "{name}: {report}");

        let captured = onnx.captured_operations();
        let row = |burn: &String| {
            OPERATORS.iter().find(|row| row.burn == burn).unwrap_or_else(|| panic!("{burn} is not in the table"))
        };
        let allowed: BTreeSet<&str> = captured.keys().flat_map(|burn| row(burn).onnx).copied().collect();
        for operator in onnx.operators().keys() {
            assert!(allowed.contains(operator) || *operator == "Identity", "{name}: {operator} is not in the table");
        }
        self.0.extend(captured.keys().cloned());
    }

    fn of_map<O: Tensors>(&mut self, name: &str, [channels, height, width]: Map, forward: impl Fn(Tensor<4>) -> O) {
        let model: Vec<Param<Tensor<1>>> = vec![];
        self.check(name, &model, [2, channels, height, width], true, |_, x| forward(x));
    }

    fn fixed<O: Tensors>(&mut self, name: &str, [channels, height, width]: Map, forward: impl Fn(Tensor<4>) -> O) {
        let model: Vec<Param<Tensor<1>>> = vec![];
        self.check(name, &model, [2, channels, height, width], false, |_, x| forward(x));
    }
}

/// What a runtime does not have, as the table says.
fn is_missing(runtime: &RuntimeKind, name: &str) -> bool {
    *runtime == RuntimeKind::Rten && name.contains("dilated max pool")
}

fn arithmetic(seen: &mut Seen, map: Map) {
    let row = |x: &Tensor<4>| x.clone().mean_dim(3);
    seen.of_map("arithmetic", map, |x| {
        let y = row(&x);
        (x.clone() + y.clone()) * (x.clone() - y.clone()) / (x.abs() + 0.5) + y
    });
    seen.of_map("scalars", map, |x| (x * 3.0 - 0.5) / 7.0 + 0.25);
    seen.of_map("remainder", map, |x| x.clone().remainder(row(&x).abs() + 0.5) + x.remainder_scalar(0.7));
    seen.of_map("powers", map, |x| {
        let positive = x.clone().abs() + 0.5;
        x.clone().powi_scalar(3) + positive.clone().powf_scalar(1.3) + positive.clone().powf(row(&positive))
    });
    seen.of_map("signs", map, |x| x.clone().sign() + x.clone().neg() * x.abs());
    seen.of_map("clamps", map, |x| x.clone().clamp(-0.5, 0.75) + x.clone().clamp_min(0.0) + x.clamp_max(0.3));
    seen.of_map("comparisons", map, |x| {
        let y = row(&x);
        let pairs = [
            x.clone().greater(y.clone()),
            x.clone().greater_equal(y.clone()),
            x.clone().lower(y.clone()),
            x.clone().lower_equal(y.clone()),
            x.clone().equal(y.clone()),
            x.clone().not_equal(y),
        ];
        sum(pairs)
    });
    seen.of_map("comparisons with scalars", map, |x| {
        let x = (x * 2.0).round();
        sum([
            x.clone().greater_scalar(0.0),
            x.clone().greater_equal_scalar(0.0),
            x.clone().lower_scalar(0.0),
            x.clone().lower_equal_scalar(0.0),
            x.clone().equal_scalar(0.0),
            x.not_equal_scalar(1.0),
        ])
    });
    seen.of_map("truth", map, |x| {
        let (low, high) = (x.clone().lower_scalar(-0.5), x.clone().greater_scalar(0.2));
        let either = low.clone().bool_or(high.clone()).bool_xor(low.clone().bool_and(high.clone().bool_not()));
        x.clone().mask_where(either, x.clone() * 3.0).mask_fill(high, 0.5) + low.int().float()
    });
    seen.of_map("whole numbers", map, |x| (x.clone() * 4.0).int().float() + (x * 3.0).trunc());
}

fn sum<const N: usize>(truths: [Tensor<4, Bool>; N]) -> Tensor<4> {
    truths
        .into_iter()
        .enumerate()
        .map(|(place, truth)| truth.float() * (place + 1) as f32)
        .reduce(|sum, next| sum + next)
        .expect("some")
}

fn functions(seen: &mut Seen, map: Map) {
    seen.of_map("exponentials", map, |x| {
        x.clone().exp() + (x.clone().abs() + 0.1).log() + x.clone().abs().log1p() + x.exp().log1p()
    });
    seen.of_map("roots", map, |x| (x.clone().abs() + 0.1).sqrt() + (x.abs() + 0.3).recip());
    seen.of_map("circle", map, |x| x.clone().sin() + x.clone().cos() + (x / 9.0).tan());
    seen.of_map("hyperbola", map, |x| x.clone().tanh() + (x.clone() / 4.0).sinh() + (x / 4.0).cosh());
    seen.of_map("inverses", map, |x| {
        let unit = x.clone().tanh() * 0.9;
        unit.clone().asin()
            + unit.clone().acos()
            + unit.atanh()
            + x.clone().atan()
            + x.clone().asinh()
            + (x.abs() + 1.0).acosh()
    });
    seen.of_map("rounding", map, |x| x.clone().round() + x.clone().floor() * 2.0 + x.ceil() * 4.0);
    seen.of_map("erf", map, Tensor::erf);
    seen.of_map("activations", map, |x| {
        activation::relu(x.clone())
            + activation::sigmoid(x.clone())
            + activation::leaky_relu(x.clone(), 0.2)
            + activation::gelu(x.clone())
            + activation::hard_sigmoid(x.clone(), 0.2, 0.5)
            + activation::log_sigmoid(x)
    });
    seen.of_map("softmaxes", map, |x| {
        activation::softmax(x.clone(), 1) + activation::log_softmax(x.clone(), 2) + activation::softmin(x, 3)
    });
    let prelu = PReluConfig::new().with_num_parameters(map[0]).init(&Device::default());
    seen.check("prelu", &prelu, [2, map[0], map[1], map[2]], true, |prelu, x| prelu.forward(x));
}

fn shapes(seen: &mut Seen, map: Map) {
    let [channels, height, width] = map;
    seen.of_map("transposed", map, |x| x.swap_dims(1, 2).permute([0, 3, 2, 1]).reshape([0, -1]));
    seen.of_map("flip", map, |x| x.flip([1, 3]));
    seen.of_map("slices", map, |x| {
        let part = x.clone().slice_dim(3, 0..width.div_ceil(2)).slice_dim(1, channels / 2..channels);
        part.mean_dim(2).mean_dim(3)
    });
    seen.of_map("repeated", map, |x| x.repeat_dim(1, 2).repeat_dim(3, 3));
    seen.of_map("joined", map, |x| Tensor::cat(vec![x.clone() * 2.0, x], 2));
    seen.of_map("selected", map, |x| {
        let places: Vec<i32> = (0..channels as i32).rev().chain([0]).collect();
        let places = Tensor::<1, Int>::from_ints(places.as_slice(), &x.device());
        x.select(1, places)
    });
    seen.of_map("expanded", map, |x| {
        let [batch, ..] = x.dims();
        x.clone().mean_dim(3).expand([batch, channels, height, width]) + x
    });
    seen.of_map("made", map, |x| {
        let ([batch, ..], device) = (x.dims(), x.device());
        let make = [
            Tensor::<4>::ones([batch, 1, height, width], &device),
            Tensor::zeros([batch, 2, height, width], &device),
            Tensor::full([batch, 1, height, width], 0.5, &device),
            x,
        ];
        Tensor::cat(make.to_vec(), 1)
    });
    seen.of_map("padded", map, |x| {
        let edge = x.clone().pad((1, 2, 0, 1), PadMode::Edge);
        edge + x.pad((1, 2, 0, 1), PadMode::Constant(0.75))
    });
}

fn reductions(seen: &mut Seen, map: Map) {
    seen.of_map("over an axis", map, |x| {
        x.clone().sum_dim(1)
            + x.clone().max_dim(2)
            + x.clone().min_dim(3)
            + x.clone().prod_dim(1)
            + x.clone().mean_dim(3)
            + x.max_abs_dim(1)
    });
    seen.of_map("over axes", map, |x| x.clone().sum_dims(&[1, 3]) + x.mean_dims(&[2, 3]));
    seen.of_map("places", map, |x| x.clone().argmax(1).float() + x.argmin(3).float());
    seen.of_map("values and places", map, |x| {
        let (largest, at) = x.clone().max_dim_with_indices(3);
        let (smallest, from) = x.min_dim_with_indices(1);
        largest * at.float() + smallest * from.float()
    });
    seen.fixed("over everything", map, |x| {
        x.clone().mean() + x.clone().sum() / 100.0 + x.clone().max() + x.clone().min() + (x.tanh() * 0.1 + 1.0).prod()
    });
}

fn convolutions(seen: &mut Seen, [channels, height, width]: Map) {
    let device = Device::default();
    let (inputs, line) = ([2, 2 * channels, height, width], [2, 2 * channels, height]);
    for (groups, bias) in [(1, true), (2, false)] {
        let conv = Conv2dConfig::new([2 * channels, 4], [3, 2])
            .with_stride([2, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 2, 1))
            .with_groups(groups)
            .with_bias(bias);
        let model = (conv.init(&device), trained_norm(4));
        seen.check("conv2d", &model, inputs, true, |(conv, norm), x| norm.forward(conv.forward(x)));
        let conv =
            Conv1dConfig::new(2 * channels, 4, 2).with_padding(PaddingConfig1d::Explicit(1, 0)).with_groups(groups);
        seen.check("conv1d", &conv.init(&device), line, true, |conv, x| conv.forward(x));
        let up = ConvTranspose2dConfig::new([2 * channels, 4], [2, 3]).with_stride([2, 1]).with_groups(groups);
        seen.check("conv_transpose2d", &up.init(&device), inputs, true, |up, x| up.forward(x));
        let up = ConvTranspose1dConfig::new([2 * channels, 4], 3).with_stride(2).with_groups(groups);
        seen.check("conv_transpose1d", &up.init(&device), line, true, |up, x| up.forward(x));
        let linear = LinearConfig::new(height, 3).with_bias(bias).init(&device);
        seen.check("linear", &linear, line, true, |linear, x| linear.forward(x));
    }
    let norm = LayerNormConfig::new(width).init(&device);
    seen.check("layer_norm", &norm, inputs, true, |norm, x| norm.forward(x));
    seen.check("batch_norm", &trained_norm(2 * channels), inputs, true, |norm, x| norm.forward(x));
    seen.of_map("products", [channels, height, width], |x| x.clone().matmul(x.clone().swap_dims(2, 3)).matmul(x));
}

fn pools(seen: &mut Seen, map: Map) {
    let pad = PaddingConfig2d::Explicit(1, 0, 1, 0);
    let max = MaxPool2dConfig::new([2, 1]).with_strides([1, 1]).with_padding(pad.clone());
    seen.of_map("max pool", map, |x| max.init().forward(x));
    let dilated = MaxPool2dConfig::new([2, 1]).with_dilation([2, 1]).with_padding(pad.clone());
    seen.of_map("dilated max pool", [map[0], map[1] + 1, map[2]], |x| dilated.init().forward(x));
    let average = AvgPool2dConfig::new([2, 1]).with_strides([2, 1]).with_padding(pad);
    seen.of_map("average pool", map, |x| average.init().forward(x));
    let line = |x: Tensor<4>| x.flatten::<3>(2, 3);
    let max = MaxPool1dConfig::new(2).with_padding(PaddingConfig1d::Explicit(1, 1));
    seen.of_map("max pool of a line", map, |x| max.init().forward(line(x)));
    let average = AvgPool1dConfig::new(2).with_padding(PaddingConfig1d::Explicit(1, 1));
    seen.of_map("average pool of a line", map, |x| average.init().forward(line(x)));
    for size in [[1, 1], [3, 2]] {
        seen.of_map("adaptive pool", map, |x| AdaptiveAvgPool2dConfig::new(size).init().forward(x));
        seen.of_map("adaptive pool of a line", map, |x| AdaptiveAvgPool1dConfig::new(size[0]).init().forward(line(x)));
    }
    for mode in
        [InterpolateMode::Nearest, InterpolateMode::Bilinear, InterpolateMode::Bicubic, InterpolateMode::Lanczos3]
    {
        let options = InterpolateOptions::new(mode.clone()).with_output_size([5, 7]);
        seen.of_map(&format!("{mode:?}"), map, |x| interpolate(x, options.clone()));
    }
}

/// Every row of the table is seen at every shape; nothing is seen that is not in it.
#[test]
fn every_operation_at_random_shapes() {
    let sizes = (1usize..=4, 1usize..=7, 1usize..=7);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 6, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let result = runner.run(&sizes, |(channels, height, width)| {
        let (map, mut seen) = ([channels, height, width], Seen::default());
        for check in [arithmetic, functions, shapes, reductions, convolutions, pools] {
            check(&mut seen, map);
        }
        let table: BTreeSet<String> = OPERATORS.iter().map(|row| row.burn.to_string()).collect();
        prop_assert_eq!(seen.0, table);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// `UPDATE_DOCUMENTS=1` writes the document instead.
#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/onnx-operators.md");
    let text = format!(
        "# Operations that can be exported\n\n\
         Burn's operations, as a captured forward holds them, and the ONNX operators that they become. Generated from \
         `exporters/src/operators.rs`; a test fails where the two differ, and `UPDATE_DOCUMENTS=1 cargo test -p \
         exporters --test operators the_document` writes this file. Operations on integers and truth \
         values that only move elements (`BaseInt`, `BaseBool`) become what their `BaseFloat` form does. A model with other operations is refused, and all of \
         them are named with the module that they are behind.\n\n{}",
        operator_table()
    );
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, &text).expect("writes");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("a committed file"), text);
}
