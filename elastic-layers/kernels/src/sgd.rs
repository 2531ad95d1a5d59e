//! One step of stochastic gradient descent with momentum, in one pass over weight, gradient and velocity.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::channels::{Function, fold};
use crate::corner::Corner;
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
    /// bits that Burn's optimizer has after as many operations: no product is fused with a sum. Gradient and velocity may
    /// be other than zero in their corners only; returns that of the new velocity.
    pub(crate) fn apply(
        self,
        weight: &mut [f32],
        gradient: &[f32],
        velocity: &mut [f32],
        [gradient_corner, velocity_corner]: [Option<Corner>; 2],
    ) -> Option<Corner> {
        let all = Rows { length: gradient.len(), row: CHUNK, columns: CHUNK };
        let scale = self.max_norm.map_or(1.0, |most| {
            let norm = square_sum(gradient, gradient_corner.map_or(all, Rows::of)).sqrt() as f32;
            // As Burn's: with the least number of all, no norm is 0.
            (most / (norm + f32::MIN_POSITIVE)).min(1.0)
        });
        let corner = match (gradient_corner, velocity_corner) {
            (Some(gradient), Some(velocity)) if self.leaves_zeros() => gradient.union(velocity),
            _ => None,
        };
        let rows = corner.map_or(all, Rows::of);
        let [weight, velocity] = [weight, velocity].map(|numbers| &mut numbers[..rows.length]);
        let part = |weight, gradient, velocity| simd::run(Part { step: self, scale, rows, weight, gradient, velocity });
        if rows.numbers() <= CHUNK {
            part(weight, gradient, velocity);
            return corner;
        }
        let task = rows.task();
        weight
            .par_chunks_mut(task)
            .zip(gradient[..rows.length].par_chunks(task))
            .zip(velocity.par_chunks_mut(task))
            .for_each(|((weight, gradient), velocity)| part(weight, gradient, velocity));
        corner
    }

    /// Whether weight and velocity stay what they are where gradient and velocity are 0.
    fn leaves_zeros(&self) -> bool {
        let is_factor = |factor: f32| factor >= 0.0 && factor.is_finite();
        self.weight_decay.is_none() && [self.learning_rate, self.momentum, self.share].into_iter().all(is_factor)
    }
}

/// The first numbers of rows.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// Numbers of all rows, of one, and those of it that count.
    length: usize,
    row: usize,
    columns: usize,
}

impl Rows {
    /// Those of a corner, and some zeros beside it.
    fn of(corner: Corner) -> Self {
        let ([rows, columns], row) = (corner.used, corner.whole[1]);
        // Ends of rows that are no whole vectors take longer than a few zeros.
        let columns = columns.next_multiple_of(simd::MOST_LANES);
        let is_nearly_all = columns + columns / 8 >= row;
        let [row_length, columns] = if is_nearly_all { [CHUNK; 2] } else { [row, columns] };
        Self { length: rows * row, row: row_length, columns }
    }

    /// Those that count.
    fn numbers(&self) -> usize {
        self.length / self.row * self.columns + (self.length % self.row).min(self.columns)
    }

    /// Numbers of the rows in a task.
    fn task(&self) -> usize {
        (CHUNK / self.columns).max(1) * self.row
    }
}

/// The sum of the squares.
fn square_sum(numbers: &[f32], rows: Rows) -> f64 {
    let part = |numbers: &[f32]| {
        let mut sums = [0.0; PERIOD];
        simd::run(SquareSum { numbers, rows, sums: &mut sums });
        sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
    };
    let numbers = &numbers[..rows.length];
    if rows.numbers() <= CHUNK {
        return part(numbers);
    }
    numbers.par_chunks(rows.task()).map(part).collect::<Vec<_>>().into_iter().sum()
}

struct SquareSum<'a, 'b> {
    numbers: &'a [f32],
    rows: Rows,
    sums: &'b mut [f32],
}

impl WithSimd for SquareSum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for row in self.numbers.chunks(self.rows.row) {
            fold(simd, [], [&row[..self.rows.columns.min(row.len())]], [&mut *self.sums], Square);
        }
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
    rows: Rows,
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
            (None, false) => self.rows::<S, false, false>(simd),
            (None, true) => self.rows::<S, false, true>(simd),
            (Some(_), false) => self.rows::<S, true, false>(simd),
            (Some(_), true) => self.rows::<S, true, true>(simd),
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn rows<S: Simd, const DECAY: bool, const NESTEROV: bool>(self, simd: S) {
        let Rows { row, columns, .. } = self.rows;
        let rows = self.weight.chunks_mut(row).zip(self.gradient.chunks(row)).zip(self.velocity.chunks_mut(row));
        for ((weight, gradient), velocity) in rows {
            let columns = columns.min(weight.len());
            let (weight, gradient, velocity) = (&mut weight[..columns], &gradient[..columns], &mut velocity[..columns]);
            pass::<S, DECAY, NESTEROV>(simd, self.step, self.scale, weight, gradient, velocity);
        }
    }
}

#[inline(always)]
fn pass<S: Simd, const DECAY: bool, const NESTEROV: bool>(
    simd: S,
    step: SgdStep,
    scale: f32,
    weight: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
) {
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
        let direction = if NESTEROV { simd.add_f32s(simd.mul_f32s(*velocity, momentum), gradient) } else { *velocity };
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
