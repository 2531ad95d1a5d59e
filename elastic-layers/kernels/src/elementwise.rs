//! Sums of two tensors and means of maps.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::buffer::{Buffer, take};
use crate::channels::{Function, Itself, fold, gather, map, period};
use crate::parallel::aligned_chunk;
use crate::simd::{run, select};

/// Numbers that a task is a multiple of.
const ALIGNED: usize = 1 << 10;

/// `target = a + b`; with `relu`, nothing below 0.
pub(crate) fn add(a: &[f32], b: &[f32], relu: bool, target: &mut [f32]) {
    let chunk = aligned_chunk(target.len(), ALIGNED);
    if target.len() <= chunk {
        return run(Add { a, b, relu, target });
    }
    let chunks = target.par_chunks_mut(chunk).zip(a.par_chunks(chunk)).zip(b.par_chunks(chunk));
    chunks.for_each(|((target, a), b)| run(Add { a, b, relu, target }));
}

/// What is made of a target and other numbers.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// As [`add`].
    Sum,
    SumRelu,
    /// As [`relu_grad`], of a gradient and what the ReLU gave.
    ReluGrad,
}

impl Change {
    /// Changes all of the target.
    pub fn all(self, target: &mut [f32], x: &[f32]) {
        let chunk = aligned_chunk(target.len(), ALIGNED);
        if target.len() <= chunk {
            return run(Update { change: self, x, target });
        }
        let chunks = target.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
        chunks.for_each(|(target, x)| run(Update { change: self, x, target }));
    }
}

/// `target += x`, on this thread.
pub(crate) fn accumulate(target: &mut [f32], x: &[f32]) {
    run(Update { change: Change::Sum, x, target });
}

/// The gradient behind a ReLU, of what it gave: 0 where that is 0.
pub(crate) fn relu_grad(output: &[f32], grad: &[f32], target: &mut [f32]) {
    let chunk = aligned_chunk(target.len(), ALIGNED);
    if target.len() <= chunk {
        return run(ReluGrad { output, grad, target });
    }
    let chunks = target.par_chunks_mut(chunk).zip(output.par_chunks(chunk)).zip(grad.par_chunks(chunk));
    chunks.for_each(|((target, output), grad)| run(ReluGrad { output, grad, target }));
}

/// The mean over every map's pixels, of each channel.
pub(crate) fn means(maps: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let means = maps.par_chunks(channels * pixels).map(|map| {
        let mut sums = vec![0.0; period(channels)];
        run(Sum { x: map, sums: &mut sums });
        let mut totals = vec![0.0; channels];
        gather(&sums, &mut totals);
        totals.into_iter().map(|total| (total / pixels as f64) as f32).collect::<Vec<_>>()
    });
    means.flatten_iter().collect()
}

struct Add<'a, 'b> {
    a: &'a [f32],
    b: &'a [f32],
    relu: bool,
    target: &'b mut [f32],
}

impl WithSimd for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let none = &[0.0; ALIGNED];
        match self.relu {
            true => map(simd, [none], [self.a, self.b], self.target, SumRelu),
            false => map(simd, [none], [self.a, self.b], self.target, PlainSum),
        }
    }
}

#[derive(Clone, Copy)]
struct PlainSum;

impl<S: Simd> Function<S, 1, 2, 1> for PlainSum {
    #[inline(always)]
    fn call(self, simd: S, _none: [S::f32s; 1], [a, b]: [S::f32s; 2]) -> [S::f32s; 1] {
        [simd.add_f32s(a, b)]
    }
}

#[derive(Clone, Copy)]
struct SumRelu;

impl<S: Simd> Function<S, 1, 2, 1> for SumRelu {
    #[inline(always)]
    fn call(self, simd: S, [zero]: [S::f32s; 1], [a, b]: [S::f32s; 2]) -> [S::f32s; 1] {
        let sum = simd.add_f32s(a, b);
        [select(simd, simd.less_than_f32s(sum, zero), zero, sum)]
    }
}

struct Update<'a, 'b> {
    change: Change,
    x: &'a [f32],
    target: &'b mut [f32],
}

impl WithSimd for Update<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.change {
            Change::Sum => self.all(simd, PlainSum),
            Change::SumRelu => self.all(simd, SumRelu),
            Change::ReluGrad => self.all(simd, Masked),
        }
    }
}

impl Update<'_, '_> {
    #[inline(always)]
    fn all<S: Simd>(self, simd: S, function: impl Function<S, 1, 2, 1>) {
        let none = [simd.splat_f32s(0.0)];
        let (targets, end) = S::as_mut_simd_f32s(self.target);
        let (values, value_end) = S::as_simd_f32s(self.x);
        for (target, value) in targets.iter_mut().zip(values) {
            [*target] = function.call(simd, none, [*target, *value]);
        }
        if !end.is_empty() {
            let both = [simd.partial_load_f32s(end), simd.partial_load_f32s(value_end)];
            let [value] = function.call(simd, none, both);
            simd.partial_store_f32s(end, value);
        }
    }
}

struct ReluGrad<'a, 'b> {
    output: &'a [f32],
    grad: &'a [f32],
    target: &'b mut [f32],
}

impl WithSimd for ReluGrad<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        map(simd, [&[0.0; ALIGNED]], [self.grad, self.output], self.target, Masked);
    }
}

#[derive(Clone, Copy)]
struct Masked;

impl<S: Simd> Function<S, 1, 2, 1> for Masked {
    #[inline(always)]
    fn call(self, simd: S, [zero]: [S::f32s; 1], [grad, output]: [S::f32s; 2]) -> [S::f32s; 1] {
        [select(simd, simd.less_than_or_equal_f32s(output, zero), zero, grad)]
    }
}

struct Sum<'a, 'b> {
    x: &'a [f32],
    sums: &'b mut [f32],
}

impl WithSimd for Sum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        fold(simd, [], [self.x], [self.sums], Itself);
    }
}

/// The gradient of [`means`]: every pixel's share of its map's.
pub(crate) fn mean_grad(grad: &[f32], channels: usize, pixels: usize) -> Buffer {
    let mut all = take(grad.len() * pixels);
    all.par_chunks_mut(channels * pixels).zip(grad.par_chunks(channels)).for_each(|(map, grad)| {
        let share: Vec<f32> = grad.iter().map(|grad| grad / pixels as f32).collect();
        for pixel in map.chunks_exact_mut(channels) {
            pixel.copy_from_slice(&share);
        }
    });
    all
}
