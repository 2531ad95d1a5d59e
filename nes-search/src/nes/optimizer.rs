//! The optimizer of H (equation 9 of the paper).

use burn::config::Config;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, RecordState};
use burn::tensor::{Device, Tensor, TensorData};

/// Configuration of [`Nes`].
#[derive(Config, Debug)]
pub struct NesConfig {
    /// Upper bound of every entry of H, in steps; the lower one is 0. Of a dimension with n values the upper bound is n,
    /// since H is rounded down.
    pub upper: Vec<f64>,
    /// Weight of the past in a running mean of the gradients; 0, the paper's, has none.
    #[config(default = 0.0)]
    pub momentum: f64,
}

impl NesConfig {
    /// The optimizer of one parameter.
    pub fn build(&self) -> Nes {
        Nes { upper: self.upper.iter().map(|&upper| upper as f32).collect(), momentum: self.momentum }
    }

    /// The optimizer of a module of architecture hyperparameters.
    pub fn init(&self) -> ModuleOptimizer {
        ModuleOptimizer::from(self.build())
    }
}

/// Gradient descent on architecture hyperparameters, kept inside their bounds:
/// `H <- clamp(H - lr G, 0, upper)` (equation 9), where `G` may be a running mean of gradients.
#[derive(Clone, Debug)]
pub struct Nes {
    upper: Vec<f32>,
    momentum: f64,
}

/// State of [`Nes`].
#[derive(RecordState, Clone)]
pub struct NesState<const D: usize> {
    /// Running mean of the gradients.
    pub mean: Tensor<D>,
}

impl Optimizer for Nes {
    type State<const D: usize> = NesState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let mean = match state {
            Some(state) => state.mean.mul_scalar(self.momentum) + grad.mul_scalar(1.0 - self.momentum),
            None => grad,
        };
        let shape = tensor.shape();
        assert_eq!(shape.num_elements(), self.upper.len(), "Nes: one upper bound per hyperparameter");
        let upper = Tensor::from_data(TensorData::new(self.upper.clone(), shape), &tensor.device());
        let stepped = (tensor - mean.clone().mul_scalar(lr)).clamp_min(0.0).min_pair(upper);
        (stepped, Some(NesState { mean }))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.mean = state.mean.to_device(device);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nes::ArchParams;
    use burn::optim::OptimizerRecord;

    fn near(values: &[f64], expected: &[f64]) {
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-5, "expected {expected}, got {value}");
        }
    }

    #[test]
    fn a_step_is_against_the_gradient_and_within_the_bounds() {
        let mut optimizer = NesConfig::new(vec![10.0, 10.0, 4.0]).init();
        let params = ArchParams::new(&[5.0, 1.0, 3.0], &Device::default());
        let gradient = params.gradient(&[0.5, 1.0, -9.0]);
        let params = optimizer.step(2.0, params, gradient);
        near(&params.values(), &[4.0, 0.0, 4.0]);
    }

    #[test]
    fn momentum_averages_gradients() {
        let mut optimizer = NesConfig::new(vec![10.0]).with_momentum(0.75).init();
        let mut params = ArchParams::new(&[5.0], &Device::default());
        for (gradient, expected) in [(1.0, 4.0), (-1.0, 3.5), (0.0, 3.125)] {
            let gradients = params.gradient(&[gradient]);
            params = optimizer.step(1.0, params, gradients);
            near(&params.values(), &[expected]);
        }
    }

    #[test]
    fn a_resumed_optimizer_goes_on_bit_for_bit() {
        let config = NesConfig::new(vec![20.0; 3]).with_momentum(0.9);
        let gradient = |step: i32| [0, 1, 2].map(|dim| f64::from(step * 7 + dim * 3).sin());
        let run = |optimizer: &mut ModuleOptimizer, mut params: ArchParams, steps: std::ops::Range<i32>| {
            for step in steps {
                let gradients = params.gradient(&gradient(step));
                params = optimizer.step(0.5, params, gradients);
            }
            params
        };
        let start = ArchParams::new(&[9.0, 8.0, 7.0], &Device::default());
        let whole = run(&mut config.init(), start.clone(), 0..10);

        let mut first = config.init();
        let half = run(&mut first, start, 0..4);
        let bytes = first.to_record().into_bytes().unwrap();
        let mut second = config.init().load_record(OptimizerRecord::from_bytes(bytes).unwrap());
        assert_eq!(run(&mut second, half, 4..10).values(), whole.values());
    }
}
