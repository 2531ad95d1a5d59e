//! The optimizer against Burn's, bit for bit.

mod common;

use burn::nn::{Linear, LinearConfig};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::Device;
use common::{everywhere, process, tensor, values};
use elastic_kernels::{SgdConfig, set_enabled};
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

#[test]
fn clipping_is_burns() {
    let _process = process();
    let clipping = Some(burn::grad_clipping::GradientClippingConfig::Norm(0.01));
    let momentum = Some(MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true });
    let start = LinearConfig::new(5, 4).init(&Device::flex().autodiff());
    let train = |mut optimizer: ModuleOptimizer| {
        let mut layer = start.clone();
        for seed in 0..3 {
            let gradient = gradients(&layer, seed);
            layer = optimizer.step(0.05, layer, gradient);
        }
        bits(&layer)
    };
    let ours = SgdConfig::new().with_momentum(momentum.clone()).with_gradient_clipping(clipping.clone()).init();
    let burns = burn::optim::SgdConfig::new().with_momentum(momentum).with_gradient_clipping(clipping).init();
    let found = train(ours);
    assert_eq!(found, train(burns));
    assert_ne!(found, bits(&start), "the layer has learned");
}
