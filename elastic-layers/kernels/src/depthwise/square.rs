//! Depthwise convolutions of 3x3 at stride 1: vectors are worked on row by row, from the top down, so that every number of
//! the source is loaded once for the three rows of the target that read it.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use super::{Filter, Group, RUN, TAPS, WeightGrad, load_start};

/// Rows and columns of the kernel whose vectors are worked on from the top down.
const SIDE: usize = 3;

/// Whether the offsets of taps are those of three neighbours in each of three rows in a row.
pub(super) fn is_square(offsets: &[usize], source_row: usize) -> bool {
    let [first, second, ..] = offsets else { return false };
    let column = second - first;
    offsets.len() == TAPS && (0..TAPS).all(|tap| offsets[tap] == first + tap / SIDE * source_row + tap % SIDE * column)
}

/// Three rows of three vectors each.
#[inline(always)]
fn square<S: Simd>(simd: S, packed: &[f32]) -> [[S::f32s; SIDE]; SIDE] {
    let mut square = [[simd.splat_f32s(0.0); SIDE]; SIDE];
    for (row, packed) in square.iter_mut().zip(S::as_simd_f32s(packed).0.as_chunks::<SIDE>().0) {
        *row = *packed;
    }
    square
}

/// The sum, and a row of taps.
#[inline(always)]
fn add_taps<S: Simd>(simd: S, weights: [S::f32s; SIDE], x: [S::f32s; SIDE], sum: S::f32s) -> S::f32s {
    let mut sum = sum;
    for n in 0..SIDE {
        sum = simd.mul_add_e_f32s(weights[n], x[n], sum);
    }
    sum
}

/// A whole vector, or its first numbers with zeros behind them.
#[inline(always)]
fn load_count<S: Simd, const WHOLE: bool>(simd: S, numbers: &[f32], count: usize) -> S::f32s {
    if WHOLE { S::as_simd_f32s(&numbers[..S::F32_LANES]).0[0] } else { simd.partial_load_f32s(&numbers[..count]) }
}

impl Filter<'_> {
    /// All of the target.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(&mut self, simd: S) {
        // What ends of rows write beyond these is written again.
        for (number, group) in self.rows.groups.iter().enumerate() {
            for place in group.whole..group.whole + group.partial {
                self.column::<S, false>(simd, number, place);
            }
        }
        for (number, group) in self.rows.groups.iter().enumerate() {
            for place in 0..group.whole {
                self.column::<S, true>(simd, number, place);
            }
        }
    }

    /// A vector of every row, from the top down.
    #[inline(always)]
    fn column<S: Simd, const WHOLE: bool>(&mut self, simd: S, number: usize, place: usize) {
        let lanes = S::F32_LANES;
        let rows = self.rows;
        let Group { offset, count, .. } = rows.groups[number];
        let weights = square(simd, &self.weights[number * TAPS * lanes..][..TAPS * lanes]);
        let start = match self.bias {
            Some(bias) => S::as_simd_f32s(&bias[number * lanes..][..lanes]).0[0],
            None => simd.splat_f32s(0.0),
        };
        let [step, source_row, target_row] = [rows.offsets[1] - rows.offsets[0], rows.source_row, rows.target_row];
        let mut at = rows.offsets[0] + offset + place * rows.source_step;
        let mut to = rows.first + offset + place * rows.target_step;
        // Of the row of the target that has been given two rows of taps, and of the one that has been given one.
        let (mut second, mut first) = (start, start);
        for row in 0..rows.count + SIDE - 1 {
            let mut x = [start; SIDE];
            for n in 0..SIDE {
                x[n] = load_start::<S, WHOLE>(simd, &self.source[at + n * step..], count);
            }
            if row >= 2 {
                let sum = add_taps(simd, weights[2], x, second);
                let target = &mut self.target[to..];
                if WHOLE || rows.is_covered && target.len() >= lanes {
                    S::as_mut_simd_f32s(&mut target[..lanes]).0[0] = sum;
                } else {
                    simd.partial_store_f32s(&mut target[..count], sum);
                }
                to += target_row;
            }
            second = add_taps(simd, weights[1], x, first);
            first = add_taps(simd, weights[0], x, start);
            at += source_row;
        }
    }
}

impl WeightGrad<'_> {
    /// All vectors of a group, each of every row from the top down.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(&mut self, simd: S, number: usize) {
        let lanes = S::F32_LANES;
        let Group { whole, partial, .. } = self.rows.groups[number];
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; SIDE]; SIDE];
        let mut summed = 0;
        for place in 0..whole + partial {
            if place < whole {
                self.column::<S, true>(simd, number, place, &mut sums);
            } else {
                self.column::<S, false>(simd, number, place, &mut sums);
            }
            summed += self.rows.count;
            if summed >= RUN || place + 1 == whole + partial {
                let totals = &mut self.sums[number * TAPS * lanes..][..TAPS * lanes];
                for (total, sum) in S::as_mut_simd_f32s(totals).0.iter_mut().zip(sums.as_flattened()) {
                    *total = simd.add_f32s(*total, *sum);
                }
                sums = [[zero; SIDE]; SIDE];
                summed = 0;
            }
        }
    }

    #[inline(always)]
    fn column<S: Simd, const WHOLE: bool>(
        &self,
        simd: S,
        number: usize,
        place: usize,
        sums: &mut [[S::f32s; SIDE]; SIDE],
    ) {
        let rows = self.rows;
        let Group { offset, count, .. } = rows.groups[number];
        let [step, source_row, grad_row] = [rows.offsets[1] - rows.offsets[0], rows.source_row, rows.target_row];
        let mut at = rows.offsets[0] + offset + place * rows.source_step;
        let mut from = rows.first + offset + place * rows.target_step;
        let mut sum = *sums;
        // Of the last rows, the gradient.
        let mut grads = [simd.splat_f32s(0.0); SIDE];
        for row in 0..rows.count + SIDE - 1 {
            grads = [grads[0], grads[0], grads[1]];
            if row < rows.count {
                grads[0] = load_count::<S, WHOLE>(simd, &self.grad[from..], count);
            }
            let mut x = [grads[0]; SIDE];
            for n in 0..SIDE {
                x[n] = load_count::<S, WHOLE>(simd, &self.source[at + n * step..], count);
            }
            for tap in 0..SIDE {
                // Infinity times nothing would be something.
                if row >= tap && row < rows.count + tap {
                    for n in 0..SIDE {
                        sum[tap][n] = simd.mul_add_e_f32s(grads[tap], x[n], sum[tap][n]);
                    }
                }
            }
            at += source_row;
            from += grad_row;
        }
        *sums = sum;
    }
}
