//! A convolution behind a normalisation makes its input again instead of keeping it: to the same bits.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use common::{everywhere, process, tensor, values};
use elastic_kernels::{Activation, conv2d, conv2d_batch_norm_train};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    channels: [usize; 3],
    size: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
    /// Whether the second convolution is normalised, too.
    normalized: bool,
    activation: Activation,
}

/// The gradients of the input and of all parameters of two convolutions; the first is normalised, and something is done
/// with the maps between them.
fn gradients(case: &Case, between: fn(Tensor<4>) -> Tensor<4>) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let Case { batch, channels: [first, middle, last], size, kernel, stride, depthwise, normalized, activation } =
        *case;
    let (last, each, groups) = if depthwise { (middle, 1, middle) } else { (last, middle, 1) };
    let x = tensor::<4>(1, [batch, first, size, size], &device).require_grad();
    let weights = [
        tensor::<4>(2, [middle, first, 1, 1], &device).require_grad(),
        tensor::<4>(3, [last, each, kernel, kernel], &device).require_grad(),
    ];
    let affine = [(4, middle), (5, middle), (6, last), (7, last)]
        .map(|(seed, channels)| (tensor::<1>(seed, [channels], &device) * 4.0 + 2.0).detach().require_grad());
    let [gamma, beta, gamma_behind, beta_behind] = affine.clone();
    let options = |stride, padding, groups| ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
    let output =
        conv2d_batch_norm_train(x.clone(), weights[0].clone(), options(1, 0, 1), gamma, beta, 1e-5, activation).output;
    let output = between(output);
    let options = options(stride, kernel / 2, groups);
    let weight = weights[1].clone();
    let output = match normalized {
        true => {
            conv2d_batch_norm_train(output, weight, options, gamma_behind, beta_behind, 1e-5, Activation::None).output
        }
        false => conv2d(output, weight, None, options),
    };
    let seed = tensor::<4>(8, output.dims(), &device);
    let grads = (output * seed).sum().backward();
    let weights = weights.iter().map(|weight| values(weight.grad(&grads).expect("a value")));
    let affine = affine.iter().take(if normalized { 4 } else { 2 });
    [values(x.grad(&grads).expect("a value"))]
        .into_iter()
        .chain(weights)
        .chain(affine.map(|parameter| values(parameter.grad(&grads).expect("a value"))))
        .collect()
}

prop_compose! {
    fn cases()(
        batch in 1usize..5,
        channels in [1usize..20, 1usize..40, 1usize..20],
        size in 1usize..14,
        kernel in prop::sample::select(vec![1usize, 3, 5]),
        stride in 1usize..3,
        depthwise in any::<bool>(),
        normalized in any::<bool>(),
        activation in prop::sample::select(vec![Activation::None, Activation::Relu, Activation::Relu6]),
    ) -> Case {
        Case { batch, channels, size, kernel, stride, depthwise, normalized, activation }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_input_that_is_made_again_is_the_one_that_was(case in cases()) {
        let _process = process();
        let copied = everywhere(|| gradients(&case, |maps| maps * 1.0));
        for (level, found) in everywhere(|| gradients(&case, |maps| maps)) {
            let (_, expected) = copied.iter().find(|(copied, _)| *copied == level).expect("all levels");
            prop_assert_eq!(&found, expected, "{:?}", level);
        }
    }
}
