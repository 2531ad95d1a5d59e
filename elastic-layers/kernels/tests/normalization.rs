//! Batch normalisation against Burn's own, over shapes, layouts, levels and threads.

mod common;

use burn::tensor::{Device, Tensor, module};
use common::{LAYOUTS, Layout, assert_close, everywhere, laid_out, process, tensor, values};
use elastic_kernels::{Activation, BatchNormOutput, batch_norm, batch_norm_train};
use proptest::prelude::*;

const EPSILON: f64 = 1e-5;

#[derive(Clone, Debug)]
struct Case {
    input: [usize; 4],
    activation: Activation,
    layout: Layout,
}

type Training = fn(Tensor<4>, Tensor<1>, Tensor<1>, Activation) -> BatchNormOutput;

fn burns(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, activation: Activation) -> BatchNormOutput {
    let result = module::batch_norm_train(x, gamma, beta, EPSILON);
    BatchNormOutput { output: activation.forward(result.output), mean: result.mean, variance: result.variance }
}

fn ours(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, activation: Activation) -> BatchNormOutput {
    batch_norm_train(x, gamma, beta, EPSILON, activation)
}

/// Scale and shift that use all of ReLU6: values from about -6 to 10.
fn parameters(channels: usize, device: &Device) -> [Tensor<1>; 2] {
    [tensor::<1>(2, [channels], device) * 4.0 + 1.0, tensor::<1>(3, [channels], device) * 4.0 + 2.0]
}

const NAMES: [(&str, f32); 6] =
    [("output", 1e-5), ("mean", 1e-5), ("variance", 1e-5), ("input", 1e-4), ("gamma", 1e-4), ("beta", 1e-4)];

/// Output, mean, variance, and the gradients of input, gamma and beta.
fn outcome(case: &Case, training: Training) -> [Vec<f32>; 6] {
    let device = Device::flex().autodiff();
    let [source, x] = laid_out(1, case.input, case.layout, &device);
    let [gamma, beta] = parameters(case.input[1], &device).map(|parameter| parameter.detach().require_grad());
    let result = training(x + 0.3, gamma.clone(), beta.clone(), case.activation);
    let weighted = result.output.clone() * tensor(4, case.input, &device);
    let grads = weighted.sum().backward();
    [
        values(result.output),
        values(result.mean),
        values(result.variance),
        values(source.grad(&grads).expect("a value")),
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
    let [_, x] = laid_out(1, case.input, case.layout, &device);
    let [gamma, beta] = parameters(case.input[1], &device);
    let result = training(x.clone(), gamma.clone(), beta.clone(), case.activation);
    let normalized = given(x, [gamma, beta, result.mean.clone(), result.variance.clone()]);
    [values(result.output), values(result.mean), values(result.variance), values(normalized)]
}

fn check(case: &Case) {
    let _process = process();
    let expected = outcome(case, burns);
    for (level, found) in everywhere(|| outcome(case, ours)) {
        for (part, (name, tolerance)) in NAMES.into_iter().enumerate() {
            // One number in a channel: its gradient is a difference of equals.
            if name == "input" && case.input[0] * case.input[2] * case.input[3] < 3 {
                continue;
            }
            assert_close(&format!("{level:?} {name}"), &expected[part], &found[part], tolerance);
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
            assert_close(&format!("{level:?} plain {name}"), &expected[part], &found[part], 1e-5);
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
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

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
