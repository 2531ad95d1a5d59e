//! The optimizer against Burn's, bit for bit.

mod common;

use burn::grad_clipping::GradientClippingConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use common::{assert_close, everywhere, process, tensor, values};
use elastic_kernels::{Part, SgdConfig, conv2d, set_enabled};
use proptest::prelude::*;

/// Both configurations, ours and Burn's.
#[derive(Clone, Debug)]
struct Case {
    weight_decay: Option<WeightDecayConfig>,
    momentum: Option<MomentumConfig>,
}

impl Case {
    fn ours(&self) -> SgdConfig {
        SgdConfig::new().with_weight_decay(self.weight_decay.clone()).with_momentum(self.momentum.clone())
    }

    fn burns(&self) -> burn::optim::SgdConfig {
        burn::optim::SgdConfig::new().with_weight_decay(self.weight_decay.clone()).with_momentum(self.momentum.clone())
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let momentum = (0.0..=0.99f64, prop_oneof![Just(0.0), Just(0.1), Just(0.9)], any::<bool>());
    (prop::option::of(0.0..0.1f32), prop::option::of(momentum)).prop_map(|(penalty, momentum)| Case {
        weight_decay: penalty.map(|penalty| WeightDecayConfig { penalty }),
        momentum: momentum.map(|(momentum, dampening, nesterov)| MomentumConfig { momentum, dampening, nesterov }),
    })
}

/// The weight after each of some steps, whose gradients lie transposed in every second step.
fn steps<O: Optimizer>(optimizer: &O, shape: [usize; 2]) -> Vec<Vec<u32>> {
    let device = Device::flex();
    let mut weight = tensor(1, shape, &device);
    let mut state = None;
    let mut after = Vec::new();
    for step in 0..4u64 {
        let gradient = match step % 2 {
            0 => tensor(2 + step, shape, &device),
            _ => tensor::<2>(2 + step, [shape[1], shape[0]], &device).swap_dims(0, 1),
        };
        (weight, state) = optimizer.step(0.1 / (1.0 + step as f64), weight, gradient, state);
        after.push(values(weight.clone()).into_iter().map(f32::to_bits).collect());
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn steps_are_burns(case in cases(), shape in [1..=40usize, 1..=40usize]) {
        let _process = process();
        let expected = steps(&case.burns().build(), shape);
        for (level, found) in everywhere(|| steps(&case.ours().build(), shape)) {
            prop_assert_eq!(&found, &expected, "{:?}", level);
        }
    }
}

#[test]
fn a_weight_that_many_threads_step_is_burns() {
    let _process = process();
    let case = Case {
        weight_decay: Some(WeightDecayConfig { penalty: 1e-3 }),
        momentum: Some(MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true }),
    };
    // More than one task, and one that is not whole.
    let shape = [301, 401];
    let expected = steps(&case.burns().build(), shape);
    for (level, found) in everywhere(|| steps(&case.ours().build(), shape)) {
        assert!(found == expected, "{level:?}");
    }
}

/// A gradient for a layer.
fn gradients(layer: &Linear, seed: u64) -> GradientsParams {
    let loss = layer.forward(tensor(seed, [3, 5], &Device::flex().autodiff())).powi_scalar(2).sum();
    GradientsParams::from_grads(loss.backward(), layer)
}

fn bits(layer: &Linear) -> Vec<u32> {
    let bias = layer.bias.as_ref().expect("a bias").val();
    values(layer.weight.val()).into_iter().chain(values(bias)).map(f32::to_bits).collect()
}

#[test]
fn records_are_burns() {
    let _process = process();
    let case =
        Case { weight_decay: None, momentum: Some(MomentumConfig { momentum: 0.9, dampening: 0.1, nesterov: false }) };
    let start = LinearConfig::new(5, 4).init(&Device::flex().autodiff());
    // Two steps of one, and a third of the other, which goes on from its record.
    let train = |first: ModuleOptimizer, second: ModuleOptimizer| {
        let (mut first, mut layer) = (first, start.clone());
        for seed in 0..2 {
            let gradient = gradients(&layer, seed);
            layer = first.step(0.05, layer, gradient);
        }
        let mut second = second.load_record(first.to_record());
        let gradient = gradients(&layer, 2);
        bits(&second.step(0.05, layer, gradient))
    };
    let (ours, burns) = (|| case.ours().init(), || case.burns().init());
    let expected = train(burns(), burns());
    assert_eq!(train(ours(), burns()), expected, "a record of ours");
    assert_eq!(train(burns(), ours()), expected, "a record of Burn's");
    set_enabled(false);
    let off = train(ours(), ours());
    set_enabled(true);
    assert_eq!(off, expected, "with the kernels off");
}

#[test]
fn what_others_hold_is_not_overwritten() {
    let _process = process();
    let case =
        Case { weight_decay: None, momentum: Some(MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true }) };
    let mut optimizer = case.ours().init();
    let start = LinearConfig::new(5, 4).init(&Device::flex().autodiff());
    let layer = optimizer.step(0.05, start.clone(), gradients(&start, 0));
    let (held, state) = (layer.clone(), optimizer.clone());
    let before = bits(&held);
    let gradient = gradients(&layer, 1);
    let expected = bits(&optimizer.step(0.05, layer, gradient));
    assert_eq!(bits(&held), before);
    // The copy of the optimizer has the velocity from before the step.
    let again = bits(&{ state }.step(0.05, held.clone(), gradients(&held, 1)));
    assert_eq!(again, expected);
}

/// The weight after each of some steps, in which a convolution used the first channels only; `change` comes between the
/// gradient and the step.
fn steps_on_parts<O: Optimizer>(
    optimizer: &O,
    parts: &[[usize; 2]],
    change: fn(Tensor<4>) -> Tensor<4>,
) -> Vec<Vec<u32>> {
    let device = Device::flex().autodiff();
    // Large enough for memory that is used again.
    let mut weight = tensor::<4>(1, [120, 150, 1, 1], &Device::flex());
    let mut state = None;
    let mut after = Vec::new();
    for (seed, [outputs, inputs]) in (2..).zip(parts.iter().copied()) {
        let leaf = Tensor::<4>::from_data(weight.to_data(), &device).require_grad();
        let x = tensor(seed, [2, inputs, 3, 3], &device);
        let part = Part::new(leaf.clone(), [outputs, inputs, 1, 1]);
        let loss = conv2d(x, part, None, ConvOptions::new([1; 2], [0; 2], [1; 2], 1)).powi_scalar(2).sum();
        // Alone, so that it can be changed in place.
        let gradient = change(leaf.grad_remove(&mut loss.backward()).expect("a gradient"));
        (weight, state) = optimizer.step(1e-3, weight, gradient, state);
        after.push(values(weight.clone()).into_iter().map(f32::to_bits).collect());
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the steps leave out, and whatever memory they use again.
    #[test]
    fn steps_on_parts_are_burns(
        case in cases(), parts in prop::collection::vec([1..=120usize, 1..=150usize], 2..6), is_changed in any::<bool>(),
    ) {
        let _process = process();
        let change: fn(Tensor<4>) -> Tensor<4> = if is_changed { |gradient| gradient + 0.5 } else { |gradient| gradient };
        let run = || {
            let expected = steps_on_parts(&case.burns().build(), &parts, change);
            (steps_on_parts(&case.ours().build(), &parts, change), expected)
        };
        for (level, (found, expected)) in everywhere(run) {
            prop_assert!(found == expected, "{:?}", level);
        }
    }
}

#[test]
fn clipping_is_burns() {
    let _process = process();
    let momentum = Some(MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true });
    let shape = [301, 401];
    let length = |norm: f32| Some(GradientClippingConfig::Norm(norm));
    // Gradients of these shapes are some 200 long.
    for (clipping, is_same) in
        [(length(1e4), true), (length(0.5), false), (Some(GradientClippingConfig::Value(0.1)), true)]
    {
        let start = LinearConfig::new(shape[0], shape[1]).with_bias(false).init(&Device::flex().autodiff());
        let train = |mut optimizer: ModuleOptimizer| {
            let mut layer = start.clone();
            for seed in 0..4 {
                let mut gradients = GradientsParams::new();
                gradients.register(layer.weight.id, tensor::<2>(seed, shape, &Device::flex()));
                layer = optimizer.step(0.05, layer, gradients);
            }
            values(layer.weight.val())
        };
        let ours = SgdConfig::new().with_momentum(momentum.clone()).with_gradient_clipping(clipping.clone());
        let burns =
            burn::optim::SgdConfig::new().with_momentum(momentum.clone()).with_gradient_clipping(clipping.clone());
        let expected = train(burns.init());
        let moved: Vec<f32> =
            values(start.weight.val()).iter().zip(&expected).map(|(start, end)| end - start).collect();
        assert!(
            moved.iter().all(|moved| moved.is_finite()) && moved.iter().any(|moved| *moved != 0.0),
            "it has learned"
        );
        for (level, found) in everywhere(|| train(ours.init())) {
            if is_same {
                assert!(found == expected, "{level:?} {clipping:?}");
            } else {
                assert_close(&format!("{level:?} {clipping:?}"), &expected, &found, 1e-6);
            }
        }
    }
}
