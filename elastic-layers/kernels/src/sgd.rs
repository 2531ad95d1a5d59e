//! One step of stochastic gradient descent with momentum, in one pass over weight, gradient and velocity.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::channels::{Function, fold};
use crate::simd;

/// Numbers in a task of the thread pool: below it, a task costs more than it saves.
const CHUNK: usize = 1 << 15;

/// Numbers after which places in a sum repeat.
const PERIOD: usize = 1 << 9;

/// What a step does; see [`crate::Sgd`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdStep {
    pub learning_rate: f32,
    /// The largest length of the gradient, if it is clipped.
    pub max_norm: Option<f32>,
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
        let scale = self.max_norm.map_or(1.0, |most| {
            let norm = square_sum(gradient).sqrt() as f32;
            // As Burn's: with the least number of all, no norm is 0.
            (most / (norm + f32::MIN_POSITIVE)).min(1.0)
        });
        let part = |weight, gradient, velocity| simd::run(Part { step: self, scale, weight, gradient, velocity });
        if gradient.len() <= CHUNK {
            return part(weight, gradient, velocity);
        }
        weight
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(velocity.par_chunks_mut(CHUNK))
            .for_each(|((weight, gradient), velocity)| part(weight, gradient, velocity));
    }
}

/// The sum of the squares.
fn square_sum(numbers: &[f32]) -> f64 {
    let part = |numbers: &[f32]| {
        let mut sums = [0.0; PERIOD];
        simd::run(SquareSum { numbers, sums: &mut sums });
        sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
    };
    if numbers.len() <= CHUNK {
        return part(numbers);
    }
    numbers.par_chunks(CHUNK).map(part).collect::<Vec<_>>().into_iter().sum()
}

struct SquareSum<'a, 'b> {
    numbers: &'a [f32],
    sums: &'b mut [f32],
}

impl WithSimd for SquareSum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        fold(simd, [], [self.numbers], [self.sums], Square);
    }
}

#[derive(Clone, Copy)]
struct Square;

impl<S: Simd> Function<S, 0, 1, 1> for Square {
    #[inline(always)]
    fn call(self, simd: S, _none: [S::f32s; 0], [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.mul_f32s(x, x)]
    }
}

struct Part<'a> {
    step: SgdStep,
    /// What the gradient is multiplied by.
    scale: f32,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    velocity: &'a mut [f32],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // What does not change is decided outside the loop.
        match (self.step.weight_decay, self.step.nesterov) {
            (None, false) => self.pass::<S, false, false>(simd),
            (None, true) => self.pass::<S, false, true>(simd),
            (Some(_), false) => self.pass::<S, true, false>(simd),
            (Some(_), true) => self.pass::<S, true, true>(simd),
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn pass<S: Simd, const DECAY: bool, const NESTEROV: bool>(self, simd: S) {
        let Self { step, scale, weight, gradient, velocity } = self;
        let penalty = step.weight_decay.unwrap_or_default();
        let (weights, weight_rest) = S::as_mut_simd_f32s(weight);
        let (gradients, gradient_rest) = S::as_simd_f32s(gradient);
        let (velocities, velocity_rest) = S::as_mut_simd_f32s(velocity);
        let [rate, decay, momentum, share, scales] =
            [step.learning_rate, penalty, step.momentum, step.share, scale].map(|value| simd.splat_f32s(value));
        for ((weight, gradient), velocity) in weights.iter_mut().zip(gradients).zip(velocities) {
            let mut gradient = simd.mul_f32s(*gradient, scales);
            if DECAY {
                gradient = simd.add_f32s(simd.mul_f32s(*weight, decay), gradient);
            }
            *velocity = simd.add_f32s(simd.mul_f32s(gradient, share), simd.mul_f32s(*velocity, momentum));
            let direction =
                if NESTEROV { simd.add_f32s(simd.mul_f32s(*velocity, momentum), gradient) } else { *velocity };
            *weight = simd.sub_f32s(*weight, simd.mul_f32s(direction, rate));
        }
        for ((weight, &gradient), velocity) in weight_rest.iter_mut().zip(gradient_rest).zip(velocity_rest) {
            let gradient = gradient * scale;
            let gradient = if DECAY { *weight * penalty + gradient } else { gradient };
            *velocity = gradient * step.share + *velocity * step.momentum;
            let direction = if NESTEROV { *velocity * step.momentum + gradient } else { *velocity };
            *weight -= direction * step.learning_rate;
        }
    }
}
