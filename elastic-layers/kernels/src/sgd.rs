//! One step of stochastic gradient descent with momentum, in one pass over weight, gradient and velocity.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd;

/// Numbers in a task of the thread pool: below it, a task costs more than it saves.
const CHUNK: usize = 1 << 15;

/// What a step does; see [`crate::Sgd`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdStep {
    pub learning_rate: f32,
    /// None: the gradient is taken as it is.
    pub weight_decay: Option<f32>,
    pub momentum: f32,
    /// 1 - dampening.
    pub share: f32,
    pub nesterov: bool,
}

impl SgdStep {
    /// Weight and velocity after the step, in place of those before. `weight` and `velocity` of the result are the
    /// bits that Burn's optimizer has after as many operations: no product is fused with a sum.
    pub(crate) fn apply(self, weight: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
        if weight.len() <= CHUNK {
            return simd::run(Part { step: self, weight, gradient, velocity });
        }
        weight
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(velocity.par_chunks_mut(CHUNK))
            .for_each(|((weight, gradient), velocity)| simd::run(Part { step: self, weight, gradient, velocity }));
    }
}

struct Part<'a> {
    step: SgdStep,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    velocity: &'a mut [f32],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { step, weight, gradient, velocity } = self;
        // What does not change is decided outside the loop.
        match (step.weight_decay, step.nesterov) {
            (None, false) => pass::<S, false, false>(simd, step, weight, gradient, velocity),
            (None, true) => pass::<S, false, true>(simd, step, weight, gradient, velocity),
            (Some(_), false) => pass::<S, true, false>(simd, step, weight, gradient, velocity),
            (Some(_), true) => pass::<S, true, true>(simd, step, weight, gradient, velocity),
        }
    }
}

#[inline(always)]
fn pass<S: Simd, const DECAY: bool, const NESTEROV: bool>(
    simd: S,
    step: SgdStep,
    weight: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
) {
    let penalty = step.weight_decay.unwrap_or_default();
    let (weights, weight_rest) = S::as_mut_simd_f32s(weight);
    let (gradients, gradient_rest) = S::as_simd_f32s(gradient);
    let (velocities, velocity_rest) = S::as_mut_simd_f32s(velocity);
    let [rate, decay, momentum, share] =
        [step.learning_rate, penalty, step.momentum, step.share].map(|value| simd.splat_f32s(value));
    for ((weight, gradient), velocity) in weights.iter_mut().zip(gradients).zip(velocities) {
        let mut gradient = *gradient;
        if DECAY {
            gradient = simd.add_f32s(simd.mul_f32s(*weight, decay), gradient);
        }
        *velocity = simd.add_f32s(simd.mul_f32s(gradient, share), simd.mul_f32s(*velocity, momentum));
        let direction = if NESTEROV { simd.add_f32s(simd.mul_f32s(*velocity, momentum), gradient) } else { *velocity };
        *weight = simd.sub_f32s(*weight, simd.mul_f32s(direction, rate));
    }
    for ((weight, &gradient), velocity) in weight_rest.iter_mut().zip(gradient_rest).zip(velocity_rest) {
        let gradient = if DECAY { *weight * penalty + gradient } else { gradient };
        *velocity = gradient * step.share + *velocity * step.momentum;
        let direction = if NESTEROV { *velocity * step.momentum + gradient } else { *velocity };
        *weight -= direction * step.learning_rate;
    }
}
