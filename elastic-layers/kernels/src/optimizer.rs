//! Burn's SGD, whose step is one kernel on flex.

use burn::backend::Dispatch;
use burn::config::Config;
use burn::grad_clipping::{GradientClipping, GradientClippingConfig};
use burn::optim::decay::{WeightDecay, WeightDecayConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, RecordState};
use burn::tensor::{Device, Tensor};

use crate::covers;
use crate::extension::PlainKernels;
use crate::sgd::SgdStep;

/// Configuration of [`Sgd`], as that of [Burn's](burn::optim::SgdConfig).
#[derive(Config, Debug)]
pub struct SgdConfig {
    /// Weight decay, added to the gradient.
    weight_decay: Option<WeightDecayConfig>,
    /// Momentum.
    momentum: Option<MomentumConfig>,
    /// Clipping of a parameter's gradient, before anything else.
    gradient_clipping: Option<GradientClippingConfig>,
}

impl SgdConfig {
    /// The optimizer of one parameter.
    pub fn build(&self) -> Sgd {
        Sgd {
            weight_decay: self.weight_decay.clone(),
            momentum: self.momentum.clone(),
            clipping: self.gradient_clipping.as_ref().map(GradientClippingConfig::init),
        }
    }

    /// The optimizer of a module.
    pub fn init(&self) -> ModuleOptimizer {
        self.build().into()
    }
}

/// Stochastic gradient descent with momentum: [Burn's](burn::optim::Sgd), to the bit, and with its records. Only where a
/// gradient is clipped by its norm is that rounded in another way.
///
/// `g <- g + decay w`, `v <- (1 - dampening) g + momentum v` (`v <- g` in the first step), `w <- w - lr v`; with Nesterov's
/// momentum `w <- w - lr (g + momentum v)`. With momentum, on flex, from a parameter's second step on, one kernel does
/// all of it in one pass, in place where nothing else holds the weight: drop a view before the step.
#[derive(Clone)]
pub struct Sgd {
    weight_decay: Option<WeightDecayConfig>,
    momentum: Option<MomentumConfig>,
    clipping: Option<GradientClipping>,
}

/// State of [`Sgd`].
#[derive(RecordState, Clone)]
pub struct SgdState<const D: usize> {
    /// That of the momentum, if there is one.
    pub momentum: Option<MomentumState<D>>,
}

/// State of the momentum.
#[derive(RecordState, Clone)]
pub struct MomentumState<const D: usize> {
    /// The decaying sum of the gradients.
    pub velocity: Tensor<D>,
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let velocity = state.and_then(|state| state.momentum).map(|state| state.velocity);
        let (tensor, velocity) = match (&self.momentum, velocity) {
            (Some(momentum), Some(velocity)) => self.step_with_velocity(lr, tensor, grad, velocity, momentum),
            (momentum, _) => {
                let grad = self.decayed(&tensor, self.clipped(grad));
                let velocity = momentum.as_ref().map(|_| grad.clone());
                let direction = match momentum {
                    Some(momentum) if momentum.nesterov => grad.clone().mul_scalar(momentum.momentum as f32).add(grad),
                    _ => grad,
                };
                (tensor - direction.mul_scalar(lr), velocity)
            }
        };
        (tensor, Some(SgdState { momentum: velocity.map(|velocity| MomentumState { velocity }) }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        let momentum = state.momentum.map(|state| MomentumState { velocity: state.velocity.to_device(device) });
        SgdState { momentum }
    }
}

impl Sgd {
    fn clipped<const D: usize>(&self, grad: Tensor<D>) -> Tensor<D> {
        match &self.clipping {
            Some(clipping) => clipping.clip_gradient(grad),
            None => grad,
        }
    }

    fn decayed<const D: usize>(&self, tensor: &Tensor<D>, grad: Tensor<D>) -> Tensor<D> {
        match &self.weight_decay {
            Some(decay) => WeightDecay::new(decay).transform(grad, tensor.clone()),
            None => grad,
        }
    }

    /// The parameter and the velocity after a step that is not the first.
    fn step_with_velocity<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        velocity: Tensor<D>,
        momentum: &MomentumConfig,
    ) -> (Tensor<D>, Option<Tensor<D>>) {
        let share = 1.0 - momentum.dampening;
        let is_covered = [&tensor, &grad, &velocity].into_iter().all(|tensor| covers(tensor) && !tensor.is_autodiff());
        let max_norm = match self.clipping {
            Some(GradientClipping::Norm(most)) if is_covered => Some(most),
            _ => None,
        };
        let grad = if max_norm.is_some() { grad } else { self.clipped(grad) };
        if is_covered {
            let step = SgdStep {
                learning_rate: lr as f32,
                max_norm,
                weight_decay: self.weight_decay.as_ref().map(|decay| decay.penalty),
                momentum: momentum.momentum as f32,
                share: share as f32,
                nesterov: momentum.nesterov,
            };
            let [tensor, grad, velocity] = [tensor, grad, velocity].map(Tensor::into_dispatch);
            let (tensor, velocity) = Dispatch::kernels_sgd_step(tensor, grad, velocity, step);
            return (Tensor::from_dispatch(tensor), Some(Tensor::from_dispatch(velocity)));
        }
        let grad = self.decayed(&tensor, grad);
        let factor = momentum.momentum as f32;
        let velocity = grad.clone().mul_scalar(share).add(velocity.mul_scalar(factor));
        let direction = match momentum.nesterov {
            true => velocity.clone().mul_scalar(factor).add(grad),
            false => velocity.clone(),
        };
        (tensor - direction.mul_scalar(lr), Some(velocity))
    }
}
