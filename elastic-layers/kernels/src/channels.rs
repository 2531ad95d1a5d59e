//! Functions of pixels that differ from channel to channel, and sums over pixels for each channel.
//!
//! Pixels lie one after the other, so channels repeat. What belongs to channels is spread over a *period*, in which a
//! whole number of pixels is a whole number of vectors: no channel needs a vector of its own, however few there are.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use crate::simd::{MOST_LANES, store};

/// The least numbers in a period: enough sums side by side that none waits for the one before it.
const LEAST: usize = 128;

/// Numbers after which both channels and vectors repeat.
pub(crate) fn period(channels: usize) -> usize {
    let mut common = MOST_LANES;
    while !channels.is_multiple_of(common) {
        common /= 2;
    }
    let repeat = channels * (MOST_LANES / common);
    repeat * LEAST.div_ceil(repeat)
}

/// Numbers of a channel each, repeated over a period.
pub(crate) fn spread(values: &[f32]) -> Vec<f32> {
    values.repeat(period(values.len()) / values.len().max(1))
}

/// Adds the sums of a period to those of its channels.
pub(crate) fn gather(period: &[f32], totals: &mut [f64]) {
    for pixel in period.chunks_exact(totals.len()) {
        for (total, value) in totals.iter_mut().zip(pixel) {
            *total += f64::from(*value);
        }
    }
}

/// A function of vectors, and of those of `P` patterns at their place. Not a closure: one that is not inlined would be
/// compiled without the vector instructions.
pub(crate) trait Function<S: Simd, const P: usize, const N: usize, const M: usize>: Copy {
    fn call(self, simd: S, patterns: [S::f32s; P], x: [S::f32s; N]) -> [S::f32s; M];
}

/// A number itself.
#[derive(Clone, Copy)]
pub(crate) struct Itself;

impl<S: Simd> Function<S, 0, 1, 1> for Itself {
    #[inline(always)]
    fn call(self, _simd: S, _patterns: [S::f32s; 0], x: [S::f32s; 1]) -> [S::f32s; 1] {
        x
    }
}

#[inline(always)]
fn vectors<S: Simd, const N: usize>(slices: [&[f32]; N], count: usize) -> [&[S::f32s]; N] {
    let mut vectors: [&[S::f32s]; N] = [&[]; N];
    for n in 0..N {
        vectors[n] = &S::as_simd_f32s(slices[n]).0[..count];
    }
    vectors
}

#[inline(always)]
fn part<const N: usize>(slices: [&[f32]; N], at: usize, count: usize) -> [&[f32]; N] {
    let mut parts: [&[f32]; N] = [&[]; N];
    for n in 0..N {
        parts[n] = &slices[n][at..at + count];
    }
    parts
}

#[inline(always)]
fn load_end<S: Simd, const N: usize>(simd: S, slices: [&[f32]; N], at: usize, count: usize) -> [S::f32s; N] {
    let mut values = [simd.splat_f32s(0.0); N];
    for n in 0..N {
        values[n] = simd.partial_load_f32s(&slices[n][at..at + count]);
    }
    values
}

#[inline(always)]
fn at<S: Simd, const N: usize>(simd: S, slices: [&[S::f32s]; N], place: usize) -> [S::f32s; N] {
    let mut values = [simd.splat_f32s(0.0); N];
    for n in 0..N {
        values[n] = slices[n][place];
    }
    values
}

/// `target = function(x)`; all slices start with the first channel.
#[inline(always)]
pub(crate) fn map<S: Simd, const P: usize, const N: usize>(
    simd: S,
    patterns: [&[f32]; P],
    x: [&[f32]; N],
    target: &mut [f32],
    function: impl Function<S, P, N, 1>,
) {
    let (lanes, period) = (S::F32_LANES, patterns[0].len());
    for (block, target) in target.chunks_mut(period).enumerate() {
        let x = part(x, block * period, target.len());
        let (targets, end) = S::as_mut_simd_f32s(target);
        let whole = targets.len();
        let (pattern_vectors, x_vectors) = (vectors::<S, P>(patterns, whole), vectors::<S, N>(x, whole));
        for v in 0..whole {
            [targets[v]] = function.call(simd, at::<S, P>(simd, pattern_vectors, v), at::<S, N>(simd, x_vectors, v));
        }
        if !end.is_empty() {
            let (start, count) = (whole * lanes, end.len());
            let [value] = function.call(simd, load_end(simd, patterns, start, count), load_end(simd, x, start, count));
            simd.partial_store_f32s(end, value);
        }
    }
}

/// `target = function(target)`; the slice starts with the first channel.
#[inline(always)]
pub(crate) fn update<S: Simd, const P: usize>(
    simd: S,
    patterns: [&[f32]; P],
    target: &mut [f32],
    function: impl Function<S, P, 1, 1>,
) {
    let (lanes, period) = (S::F32_LANES, patterns[0].len());
    for target in target.chunks_mut(period) {
        let (targets, end) = S::as_mut_simd_f32s(target);
        let whole = targets.len();
        let pattern_vectors = vectors::<S, P>(patterns, whole);
        for v in 0..whole {
            [targets[v]] = function.call(simd, at::<S, P>(simd, pattern_vectors, v), [targets[v]]);
        }
        if !end.is_empty() {
            let x = simd.partial_load_f32s(end);
            let [value] = function.call(simd, load_end(simd, patterns, whole * lanes, end.len()), [x]);
            simd.partial_store_f32s(end, value);
        }
    }
}

/// `sums += function(x)`, for every place of a period; all slices start with the first channel.
#[inline(always)]
pub(crate) fn fold<S: Simd, const P: usize, const N: usize, const M: usize>(
    simd: S,
    patterns: [&[f32]; P],
    x: [&[f32]; N],
    sums: [&mut [f32]; M],
    function: impl Function<S, P, N, M>,
) {
    let lanes = S::F32_LANES;
    let (period, length) = (sums[0].len(), x[0].len());
    let mut sums = sums;
    let mut start = 0;
    while start < length {
        let count = period.min(length - start);
        let whole = count / lanes;
        let (pattern_vectors, x_vectors) =
            (vectors::<S, P>(patterns, whole), vectors::<S, N>(part(x, start, count), whole));
        let sum_vectors: [&mut [S::f32s]; M] = sums.each_mut().map(|sums| &mut S::as_mut_simd_f32s(sums).0[..whole]);
        for v in 0..whole {
            let values = function.call(simd, at::<S, P>(simd, pattern_vectors, v), at::<S, N>(simd, x_vectors, v));
            for m in 0..M {
                sum_vectors[m][v] = simd.add_f32s(sum_vectors[m][v], values[m]);
            }
        }
        let (end, rest) = (whole * lanes, count - whole * lanes);
        if rest > 0 {
            let values = function.call(simd, load_end(simd, patterns, end, rest), load_end(simd, x, start + end, rest));
            for m in 0..M {
                // The function of the zeros behind the end may not be zero.
                let mut numbers = [0.0; MOST_LANES];
                store(simd, &mut numbers, values[m]);
                for (sum, number) in sums[m][end..end + rest].iter_mut().zip(numbers) {
                    *sum += number;
                }
            }
        }
        start += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_whole_pixels_and_whole_vectors() {
        for channels in 1..300 {
            let period = period(channels);
            assert!(period.is_multiple_of(channels) && period.is_multiple_of(MOST_LANES) && period >= LEAST);
        }
    }
}
