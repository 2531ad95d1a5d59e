//! Mean and variance of every channel.

use pulp::{Simd, WithSimd};

use crate::channels::{Function, Itself, fold, gather, period};
use crate::simd::run;

/// Numbers that are looked at together: they stay in the first cache between the two passes over them.
const CHUNK: usize = 1 << 13;

/// Count, mean and sum of squared differences from it, of each channel. Chunks are summed in two passes each, and put
/// together in `f64`: no digits are lost, however far the mean is from 0.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

/// What [`Moments::add`] works in.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Of the chunk at hand, over a period: sums, and what the squares are relative to.
    sums: Vec<f32>,
    center: Vec<f32>,
    /// Of the chunk at hand: means and squares.
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Scratch {
    pub fn new(channels: usize) -> Self {
        let [sums, center] = [0.0; 2].map(|zero| vec![zero; period(channels)]);
        let [mean, squares] = [0.0; 2].map(|zero| vec![zero; channels]);
        Self { sums, center, mean, squares }
    }
}

impl Moments {
    pub fn new(channels: usize) -> Self {
        let [mean, squares] = [0.0; 2].map(|zero| vec![zero; channels]);
        Self { count: 0.0, mean, squares }
    }

    /// Adds pixels.
    pub fn add(&mut self, pixels: &[f32], scratch: &mut Scratch) {
        let channels = self.mean.len();
        let Scratch { sums, center, mean, squares } = scratch;
        let chunk = (CHUNK / channels).max(sums.len() / channels) * channels;
        for pixels in pixels.chunks(chunk) {
            let count = (pixels.len() / channels) as f64;
            totals(pixels, None, sums, mean);
            for (mean, center) in mean.iter_mut().zip(&mut center[..]) {
                *mean /= count;
                // What the squares are relative to is a number that `f32` has.
                *center = *mean as f32;
            }
            for start in (channels..center.len()).step_by(channels) {
                center.copy_within(..channels, start);
            }
            totals(pixels, Some(center), sums, squares);
            for ((squares, mean), center) in squares.iter_mut().zip(&mean[..]).zip(&center[..]) {
                let rest = mean - f64::from(*center);
                *squares -= count * rest * rest;
            }
            self.merge(count, mean, squares);
        }
    }

    fn merge(&mut self, count: f64, mean: &[f64], squares: &[f64]) {
        let all = self.count + count;
        let share = count / all;
        for (channel, (mean, squares)) in mean.iter().zip(squares).enumerate() {
            let difference = mean - self.mean[channel];
            self.mean[channel] += difference * share;
            self.squares[channel] += squares + difference * difference * self.count * share;
        }
        self.count = all;
    }

    /// Puts parts together, in their order.
    pub fn total(parts: &[Self]) -> Self {
        let mut total = Self::new(parts.first().map_or(0, |part| part.mean.len()));
        for part in parts.iter().filter(|part| part.count > 0.0) {
            total.merge(part.count, &part.mean, &part.squares);
        }
        total
    }

    /// The mean of every channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Mean and biased variance of what parts gathered.
    pub fn finish(parts: &[Self]) -> [Vec<f32>; 2] {
        let total = Self::total(parts);
        let variance = total.squares.iter().map(|squares| (squares / total.count) as f32).collect();
        [total.mean.iter().map(|mean| *mean as f32).collect(), variance]
    }
}

/// Sums of every channel, or sums of the squared differences from a centre.
fn totals(pixels: &[f32], center: Option<&[f32]>, sums: &mut [f32], totals: &mut [f64]) {
    sums.fill(0.0);
    run(Centered { pixels, center, sums });
    totals.fill(0.0);
    gather(sums, totals);
}

/// Sums, or sums of the squared differences from a centre.
struct Centered<'a> {
    pixels: &'a [f32],
    center: Option<&'a [f32]>,
    sums: &'a mut [f32],
}

impl WithSimd for Centered<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.center {
            Some(center) => fold(simd, [center], [self.pixels], [self.sums], Square),
            None => fold(simd, [], [self.pixels], [self.sums], Itself),
        }
    }
}

#[derive(Clone, Copy)]
struct Square;

impl<S: Simd> Function<S, 1, 1, 1> for Square {
    #[inline(always)]
    fn call(self, simd: S, [center]: [S::f32s; 1], [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        let x = simd.sub_f32s(x, center);
        [simd.mul_f32s(x, x)]
    }
}
