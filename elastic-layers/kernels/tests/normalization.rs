//! Batch normalisation against Burn's own, over shapes, layouts, levels and threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};
use common::{
    GRADIENT, LAYOUTS, Layout, OUTPUT, assert_close, assert_sums, doubles, everywhere, laid_out, process, tensor,
    values, view,
};
use elastic_kernels::{
    Activation, BatchNormOutput, Part, batch_norm, batch_norm_train, conv2d_batch_norm, conv2d_batch_norm_train,
};
use proptest::prelude::*;

const EPSILON: f64 = 1e-5;

#[derive(Clone, Debug)]
struct Case {
    input: [usize; 4],
    activation: Activation,
    layout: Layout,
}

type Training = fn(Tensor<4>, Tensor<1>, Tensor<1>, Activation) -> BatchNormOutput<4>;

fn burns(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, activation: Activation) -> BatchNormOutput<4> {
    let result = module::batch_norm_train(x, gamma, beta, EPSILON);
    BatchNormOutput { output: activation.forward(result.output), mean: result.mean, variance: result.variance }
}

fn ours(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, activation: Activation) -> BatchNormOutput<4> {
    batch_norm_train(x, gamma, beta, EPSILON, activation)
}

/// Scale and shift that use all of ReLU6: values from about -6 to 10.
fn parameters(channels: usize, device: &Device) -> [Tensor<1>; 2] {
    [tensor::<1>(2, [channels], device) * 4.0 + 1.0, tensor::<1>(3, [channels], device) * 4.0 + 2.0]
}

const NAMES: [(&str, f64); 6] = [
    ("output", OUTPUT),
    ("mean", OUTPUT),
    ("variance", OUTPUT),
    ("input", GRADIENT),
    ("gamma", GRADIENT),
    ("beta", GRADIENT),
];

/// Output, mean, variance, and the gradients of input, gamma and beta.
fn outcome(case: &Case, training: Training) -> [Vec<f32>; 6] {
    let device = Device::flex().autodiff();
    let [source, x] = laid_out(1, case.input, case.layout, &device, |x| x);
    let [gamma, beta] = parameters(case.input[1], &device).map(|parameter| parameter.detach().require_grad());
    let result = training(x + 0.3, gamma.clone(), beta.clone(), case.activation);
    let weighted = result.output.clone() * tensor(4, case.input, &device);
    let grads = weighted.sum().backward();
    [
        values(result.output),
        values(result.mean),
        values(result.variance),
        values(view(source.grad(&grads).expect("a value"), case.input, case.layout)),
        values(gamma.grad(&grads).expect("a value")),
        values(beta.grad(&grads).expect("a value")),
    ]
}

/// Output, mean and variance on a device that records nothing; then with these as given statistics.
fn plain_outcome(
    case: &Case,
    training: Training,
    given: impl Fn(Tensor<4>, [Tensor<1>; 4]) -> Tensor<4>,
) -> [Vec<f32>; 4] {
    let device = Device::flex();
    let [_, x] = laid_out(1, case.input, case.layout, &device, |x| x);
    let [gamma, beta] = parameters(case.input[1], &device);
    let result = training(x.clone(), gamma.clone(), beta.clone(), case.activation);
    let normalized = given(x, [gamma, beta, result.mean.clone(), result.variance.clone()]);
    [values(result.output), values(result.mean), values(result.variance), values(normalized)]
}

/// The absolute values of what the gradients of [`outcome`] sum, at most.
fn terms(case: &Case) -> [Vec<f64>; 3] {
    let device = Device::flex();
    let [_, x] = laid_out(1, case.input, case.layout, &device, |x| x);
    let [gamma, beta] = parameters(case.input[1], &device).map(|parameter| parameter.cast(DType::F64));
    let result = burns((x + 0.3).cast(DType::F64), gamma.clone().ones_like(), beta.zeros_like(), Activation::None);
    let normalized = result.output.abs();
    let grad = tensor(4, case.input, &device).cast(DType::F64).abs();
    let channels = case.input[1];
    let per_channel = |x: Tensor<4>| x.sum_dims(&[0, 2, 3]).reshape([channels]);
    let count = (case.input.iter().product::<usize>() / channels) as f64;
    let gamma_terms = per_channel(grad.clone() * normalized.clone());
    let beta_terms = per_channel(grad.clone());
    let spread = |x: Tensor<1>| x.reshape([1, channels, 1, 1]);
    let scale = spread(gamma.abs() / (result.variance + EPSILON).sqrt());
    let input_terms =
        scale * (grad + spread(beta_terms.clone()) / count + normalized * spread(gamma_terms.clone()) / count);
    [doubles(input_terms), doubles(gamma_terms), doubles(beta_terms)]
}

/// The mean of the absolute values of an input that is moved by `shift`; see [`terms`].
fn mean_terms(case: &Case, shift: f64) -> Vec<f64> {
    let [_, x] = laid_out(1, case.input, case.layout, &Device::flex(), |x| x);
    doubles((x + shift).abs().mean_dims(&[0, 2, 3]).reshape([case.input[1]]))
}

/// [`assert_sums`] of `f32`.
fn assert_terms(name: &str, expected: &[f32], found: &[f32], terms: &[f64], tolerance: f64) {
    let [expected, found] = [expected, found].map(|values| values.iter().copied().map(f64::from).collect::<Vec<_>>());
    assert_sums(name, &expected, &found, terms, tolerance);
}

fn check(case: &Case) {
    let _process = process();
    let expected = outcome(case, burns);
    let (terms, means) = (terms(case), mean_terms(case, 0.3));
    for (level, found) in everywhere(|| outcome(case, ours)) {
        for (part, (name, tolerance)) in NAMES.into_iter().enumerate() {
            let name = format!("{level:?} {name}");
            let (expected, found) = (&expected[part], &found[part]);
            match part {
                1 => assert_terms(&name, expected, found, &means, tolerance),
                3.. => assert_terms(&name, expected, found, &terms[part - 3], tolerance),
                _ => assert_close(&name, expected, found, tolerance),
            }
        }
    }
    let expected = plain_outcome(case, burns, |x, [gamma, beta, mean, variance]| {
        case.activation.forward(module::batch_norm(x, gamma, beta, mean, variance, EPSILON))
    });
    let found = everywhere(|| {
        plain_outcome(case, ours, |x, [gamma, beta, mean, variance]| {
            batch_norm(x, gamma, beta, mean, variance, EPSILON, case.activation)
        })
    });
    for (level, found) in found {
        for (part, name) in ["output", "mean", "variance", "given"].into_iter().enumerate() {
            let name = format!("{level:?} plain {name}");
            match part {
                1 => assert_terms(&name, &expected[part], &found[part], &mean_terms(case, 0.0), OUTPUT),
                _ => assert_close(&name, &expected[part], &found[part], OUTPUT),
            }
        }
    }
}

prop_compose! {
    fn cases()(
        input in [1usize..8, 1usize..20, 1usize..20, 1usize..20],
        small in any::<bool>(),
        activation in prop::sample::select(vec![Activation::None, Activation::Relu, Activation::Relu6]),
        layout in prop::sample::select(LAYOUTS.to_vec()),
    ) -> Case {
        let [n, c, h, w] = input;
        Case { input: if small { [n + 1, c, 1, 1] } else { [n, c, h, w] }, activation, layout }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_burn(case in cases()) {
        check(&case);
    }
}

#[test]
fn layers_of_mobilenet_equal_burn() {
    for (channels, size) in [(16, 28), (96, 14), (144, 7), (320, 1)] {
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            check(&Case { input: [64, channels, size, size], activation, layout: Layout::Contiguous });
        }
    }
}

/// Where nothing else holds the input it is overwritten; where something does, it is not.
#[test]
fn a_held_input_is_not_overwritten() {
    let _process = process();
    let device = Device::flex();
    let x = tensor::<4>(1, [2, 3, 5, 5], &device);
    let before = values(x.clone());
    let [gamma, beta] = parameters(3, &device);
    let result = ours(x.clone(), gamma.clone(), beta.clone(), Activation::None);
    let given =
        batch_norm(x.clone(), gamma.clone(), beta.clone(), result.mean, result.variance, EPSILON, Activation::None);
    assert_eq!(values(x.clone()), before);
    assert_eq!(values(given), values(result.output.clone()));
    let owned = ours(x, gamma, beta, Activation::None);
    assert_eq!(values(owned.output), values(result.output));
}

/// A NaN must stay visible behind an activation, so that a diverged network is not taken for a good one.
#[test]
fn not_a_number_stays_one() {
    let _process = process();
    let device = Device::flex();
    for (level, finite) in everywhere(|| {
        let x = tensor::<4>(1, [2, 1, 3, 3], &device).slice_fill([0..1, 0..1, 0..1, 0..1], f32::NAN);
        let [gamma, beta] = parameters(1, &device);
        let output = values(ours(x, gamma, beta, Activation::Relu6).output);
        output.iter().any(|value| value.is_finite())
    }) {
        assert!(!finite, "{level:?}");
    }
}

/// Any number of axes behind the channels, also none.
#[test]
fn other_ranks_equal_burn() {
    fn check<const D: usize>(shape: [usize; D]) {
        let device = Device::flex();
        let x = tensor::<D>(1, shape, &device);
        let [gamma, beta] = parameters(shape[1], &device);
        let expected = module::batch_norm_train(x.clone(), gamma.clone(), beta.clone(), EPSILON);
        let found = batch_norm_train(x.clone(), gamma.clone(), beta.clone(), EPSILON, Activation::None);
        assert_close("output", &values(expected.output), &values(found.output), OUTPUT);
        assert_close("mean", &values(expected.mean.clone()), &values(found.mean.clone()), OUTPUT);
        assert_close("variance", &values(expected.variance.clone()), &values(found.variance.clone()), OUTPUT);
        let given = module::batch_norm(
            x.clone(),
            gamma.clone(),
            beta.clone(),
            found.mean.clone(),
            found.variance.clone(),
            EPSILON,
        );
        let ours = batch_norm(x, gamma, beta, found.mean, found.variance, EPSILON, Activation::None);
        assert_close("given", &values(given), &values(ours), OUTPUT);
    }
    let _process = process();
    check([6, 5]);
    check([6, 5, 7]);
    check([3, 5, 2, 3, 4]);
}

/// A convolution and the normalisation behind it.
#[derive(Clone, Debug)]
struct Fused {
    input: [usize; 4],
    outputs: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
    activation: Activation,
    layout: Layout,
}

prop_compose! {
    fn fused(input: [Range<usize>; 4])(
        input in input,
        outputs in 1usize..40,
        kernel in prop::sample::select(vec![1usize, 3]),
        stride in 1usize..3,
        depthwise in any::<bool>(),
        activation in prop::sample::select(vec![Activation::None, Activation::Relu, Activation::Relu6]),
        layout in prop::sample::select(LAYOUTS.to_vec()),
    ) -> Fused {
        Fused { input, outputs, kernel, stride, depthwise, activation, layout }
    }
}

impl Fused {
    fn weight(&self) -> [usize; 4] {
        let [_, channels, ..] = self.input;
        let [outputs, inputs] = if self.depthwise { [channels, 1] } else { [self.outputs, channels] };
        [outputs, inputs, self.kernel, self.kernel]
    }

    fn options(&self) -> ConvOptions<2> {
        let groups = if self.depthwise { self.input[1] } else { 1 };
        ConvOptions::new([self.stride; 2], [self.kernel / 2; 2], [1; 2], groups)
    }

    /// Output, the gradient of the input, and those of the whole parameters, of which the first channels are used: by the
    /// kernels, fused or not.
    fn of_parts(&self, rest: usize, is_part: bool, is_fused: bool) -> [Vec<f32>; 5] {
        let device = Device::flex().autodiff();
        let [source, x] = laid_out(1, self.input, self.layout, &device, |x| x);
        let sizes = self.weight();
        let whole = [sizes[0] + rest, if self.depthwise { 1 } else { sizes[1] + rest }, sizes[2], sizes[3]];
        let weight = tensor::<4>(2, whole, &device).require_grad();
        let [gamma, beta] = parameters(whole[0], &device).map(|parameter| parameter.detach().require_grad());
        let affine = [&gamma, &beta].map(|parameter| match is_part {
            true => Part::new(parameter.clone(), [sizes[0]]),
            false => parameter.clone().slice(0..sizes[0]).into(),
        });
        let used = match is_part {
            true => Part::new(weight.clone(), sizes),
            false => weight.clone().slice(sizes.map(|size| 0..size)).into(),
        };
        let [g, b] = affine;
        let output = match is_fused {
            true => conv2d_batch_norm_train(x, used, self.options(), g, b, EPSILON, self.activation).output,
            false => {
                let convolved = elastic_kernels::conv2d(x, used, None, self.options());
                batch_norm_train(convolved, g, b, EPSILON, self.activation).output
            }
        };
        let grads = (output.clone() * tensor(4, output.dims(), &device)).sum().backward();
        let parameters = [gamma, beta].map(|parameter| values(parameter.grad(&grads).unwrap()));
        let [gamma, beta] = parameters;
        [values(output), values(source.grad(&grads).unwrap()), values(weight.grad(&grads).unwrap()), gamma, beta]
    }

    /// A gradient of the output: zeros where rounding could move a number over an edge of the activation.
    fn upstream(&self, device: &Device) -> Tensor<4> {
        let plain = Device::flex();
        let [_, x] = laid_out(1, self.input, self.layout, &plain, |x| x);
        let weight = tensor::<4>(2, self.weight(), &plain);
        let [gamma, beta] = parameters(self.weight()[0], &plain);
        let output = burns(module::conv2d(x, weight, None, self.options()), gamma, beta, Activation::None).output;
        let edges: &[f32] = match self.activation {
            Activation::None => &[],
            Activation::Relu => &[0.0],
            Activation::Relu6 => &[0.0, 6.0],
        };
        let upstream = tensor::<4>(4, output.dims(), &plain);
        let upstream = edges.iter().fold(upstream, |upstream, edge| {
            let is_near = (output.clone() - *edge).abs().lower_elem(1e-3);
            upstream.mask_fill(is_near, 0.0)
        });
        upstream.to_device(device)
    }

    /// Output, mean, variance, and the gradients of input, weight, gamma and beta.
    fn outcome(&self, is_fused: bool) -> [Vec<f32>; 7] {
        let device = Device::flex().autodiff();
        let [source, x] = laid_out(1, self.input, self.layout, &device, |x| x);
        let weight = tensor::<4>(2, self.weight(), &device).require_grad();
        let [gamma, beta] = parameters(self.weight()[0], &device).map(|parameter| parameter.detach().require_grad());
        let (affine, options) = ([gamma.clone(), beta.clone()], self.options());
        let [g, b] = affine;
        let result = if is_fused {
            conv2d_batch_norm_train(x, weight.clone(), options, g, b, EPSILON, self.activation)
        } else {
            burns(module::conv2d(x, weight.clone(), None, options), g, b, self.activation)
        };
        let grads = (result.output.clone() * self.upstream(&device)).sum().backward();
        [
            values(result.output),
            values(result.mean),
            values(result.variance),
            values(view(source.grad(&grads).unwrap(), self.input, self.layout)),
            values(weight.grad(&grads).unwrap()),
            values(gamma.grad(&grads).unwrap()),
            values(beta.grad(&grads).unwrap()),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Enough numbers for each channel that its deviation is not itself a rounding error.
    #[test]
    fn a_convolution_in_front_equals_burn(
        case in fused([3usize..7, 1usize..20, 3usize..14, 3usize..14]),
    ) {
        // A normalised channel does not depend on its weight's length: the gradient of a single one is a rounding error.
        let kernel = if case.depthwise || case.input[1] == 1 { 3 } else { case.kernel };
        let _process = process();
        let case = Fused { kernel, ..case };
        let expected = case.outcome(false);
        for (level, found) in everywhere(|| case.outcome(true)) {
            let names = ["output", "mean", "variance", "input", "weight", "gamma", "beta"];
            for (part, name) in names.into_iter().enumerate() {
                // The mean's terms may cancel.
                let limit = if matches!(part, 0 | 2) { OUTPUT } else { GRADIENT };
                assert_close(&format!("{level:?} {name}"), &expected[part], &found[part], limit);
            }
        }
    }

    #[test]
    fn a_convolution_in_front_of_given_statistics_equals_burn(
        case in fused([1usize..4, 1usize..20, 1usize..14, 1usize..14]),
    ) {
        let _process = process();
        let device = Device::flex();
        let [_, x] = laid_out(1, case.input, case.layout, &device, |x| x);
        let weight = tensor::<4>(2, case.weight(), &device);
        let [gamma, beta] = parameters(case.weight()[0], &device);
        let statistics = [tensor::<1>(5, gamma.dims(), &device), tensor::<1>(6, gamma.dims(), &device).abs() + 0.5];
        let [mean, variance] = statistics.clone();
        let convolved = module::conv2d(x.clone(), weight.clone(), None, case.options());
        let normalized = module::batch_norm(convolved, gamma.clone(), beta.clone(), mean, variance, EPSILON);
        let expected = values(case.activation.forward(normalized));
        let [mean, variance] = statistics;
        let found = everywhere(|| {
            let parameters = [gamma.clone(), beta.clone(), mean.clone(), variance.clone()];
            values(conv2d_batch_norm(x.clone(), weight.clone(), case.options(), parameters, EPSILON, case.activation))
        });
        for (level, found) in found {
            assert_close(&format!("{level:?}"), &expected, &found, OUTPUT);
        }
    }

    #[test]
    fn parts_of_parameters_are_the_same_sliced(
        case in fused([1usize..4, 1usize..20, 1usize..14, 1usize..14]), rest in 0usize..40, is_fused in any::<bool>(),
    ) {
        let _process = process();
        let run = || [true, false].map(|is_part| case.of_parts(rest, is_part, is_fused));
        for (level, [part, sliced]) in everywhere(run) {
            prop_assert!(part == sliced, "{:?}", level);
        }
    }
}
