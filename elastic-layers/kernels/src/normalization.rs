//! Batch normalisation with an activation, forward and backward, one channel after the other.
#![allow(clippy::needless_range_loop)]

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Activation;
use crate::parallel::{ChannelTask, channel_tasks};
use crate::simd::{run, select, store};

/// The sizes of an input: `[batch, channels, plane]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    pub batch: usize,
    pub channels: usize,
    pub plane: usize,
}

impl Planes {
    pub fn len(self) -> usize {
        self.batch * self.channels * self.plane
    }

    /// Where a channel's plane of an image lies.
    fn range(self, image: usize, channel: usize) -> Range<usize> {
        let start = (image * self.channels + channel) * self.plane;
        start..start + self.plane
    }

    fn per_channel(self) -> f64 {
        (self.batch * self.plane) as f64
    }
}

/// What is read beside what is written.
#[derive(Clone, Copy)]
enum Source<'a> {
    Other(&'a [f32]),
    /// The values are replaced where they are.
    InPlace,
}

/// Scale and shift of every channel, and what follows them.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub epsilon: f64,
    pub activation: Activation,
}

impl Affine<'_> {
    fn inverse_deviation(&self, variance: f32) -> f64 {
        1.0 / (f64::from(variance) + self.epsilon).sqrt()
    }
}

/// The function that is applied to every number of a channel: `clamp((x - mean) * scale + shift)`.
#[derive(Clone, Copy)]
struct Channel<S: Simd> {
    mean: S::f32s,
    scale: S::f32s,
    shift: S::f32s,
    low: S::f32s,
    high: S::f32s,
}

impl<S: Simd> Channel<S> {
    #[inline(always)]
    fn new(simd: S, affine: &Affine<'_>, channel: usize, mean: f32, variance: f32) -> Self {
        let scale = f64::from(affine.gamma[channel]) * affine.inverse_deviation(variance);
        let (low, high) = affine.activation.range();
        Self {
            mean: simd.splat_f32s(mean),
            scale: simd.splat_f32s(scale as f32),
            shift: simd.splat_f32s(affine.beta[channel]),
            low: simd.splat_f32s(low),
            high: simd.splat_f32s(high),
        }
    }

    #[inline(always)]
    fn before_activation(&self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.sub_f32s(x, self.mean), self.scale, self.shift)
    }

    /// Comparisons, not minimum and maximum: a NaN stays one at every level.
    #[inline(always)]
    fn apply(&self, simd: S, x: S::f32s) -> S::f32s {
        let x = self.before_activation(simd, x);
        let x = select(simd, simd.less_than_f32s(x, self.low), self.low, x);
        select(simd, simd.greater_than_f32s(x, self.high), self.high, x)
    }
}

/// Normalises with given statistics.
pub(crate) fn normalize(planes: Planes, x: &[f32], affine: Affine<'_>, mean: &[f32], variance: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; planes.len()];
    let statistics = Statistics::Given { mean, variance };
    forward(planes, Source::Other(x), &mut output, affine, statistics);
    output
}

/// As [`normalize`], in place.
pub(crate) fn normalize_in_place(planes: Planes, x: &mut [f32], affine: Affine<'_>, mean: &[f32], variance: &[f32]) {
    forward(planes, Source::InPlace, x, affine, Statistics::Given { mean, variance });
}

/// Normalises with the batch's own statistics; returns output, mean and biased variance.
pub(crate) fn normalize_batch(planes: Planes, x: &[f32], affine: Affine<'_>) -> (Vec<f32>, [Vec<f32>; 2]) {
    let mut output = vec![0.0; planes.len()];
    let statistics = forward(planes, Source::Other(x), &mut output, affine, Statistics::Batch);
    (output, statistics)
}

/// As [`normalize_batch`], in place.
pub(crate) fn normalize_batch_in_place(planes: Planes, x: &mut [f32], affine: Affine<'_>) -> [Vec<f32>; 2] {
    forward(planes, Source::InPlace, x, affine, Statistics::Batch)
}

#[derive(Clone, Copy)]
enum Statistics<'a> {
    Given { mean: &'a [f32], variance: &'a [f32] },
    Batch,
}

fn forward(
    planes: Planes,
    source: Source<'_>,
    output: &mut [f32],
    affine: Affine<'_>,
    statistics: Statistics<'_>,
) -> [Vec<f32>; 2] {
    let tasks = channel_tasks(Some(output), planes.channels, planes.plane);
    let used: Vec<Vec<[f32; 2]>> =
        tasks.into_par_iter().map(|task| run(Forward { planes, source, task, affine: &affine, statistics })).collect();
    unzip_channels(&used)
}

/// The values of every channel, which tasks returned together, one list for each.
fn unzip_channels<const N: usize>(tasks: &[Vec<[f32; N]>]) -> [Vec<f32>; N] {
    from_fn(|value| tasks.iter().flatten().map(|values| values[value]).collect())
}

struct Forward<'a, 'b> {
    planes: Planes,
    source: Source<'a>,
    task: ChannelTask<'b>,
    affine: &'a Affine<'a>,
    statistics: Statistics<'a>,
}

impl WithSimd for Forward<'_, '_> {
    /// Mean and variance of every channel.
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Self::Output {
        let mut used = Vec::with_capacity(self.task.channels.len());
        for (number, channel) in self.task.channels.clone().enumerate() {
            let [mean, variance] = match self.statistics {
                Statistics::Given { mean, variance } => [mean[channel], variance[channel]],
                Statistics::Batch => self.batch_statistics(simd, number, channel),
            };
            let function = Channel::new(simd, self.affine, channel, mean, variance);
            let plane = self.planes.plane;
            for (image, target) in self.task.planes.iter_mut().enumerate() {
                let target = &mut target[number * plane..][..plane];
                match self.source {
                    Source::Other(x) => {
                        let x = &x[self.planes.range(image, channel)];
                        write(simd, x, target, function);
                    }
                    Source::InPlace => update(simd, target, function),
                }
            }
            used.push([mean, variance]);
        }
        used
    }
}

impl Forward<'_, '_> {
    /// Mean, then the mean of squared differences from it.
    #[inline(always)]
    fn batch_statistics<S: Simd>(&self, simd: S, number: usize, channel: usize) -> [f32; 2] {
        let (count, zero) = (self.planes.per_channel(), simd.splat_f32s(0.0));
        let mut total = 0.0;
        for image in 0..self.planes.batch {
            let [sum] = fold(simd, [self.plane(number, channel, image)], Centered([zero]));
            total += f64::from(sum);
        }
        let mean = (total / count) as f32;
        let mut total = 0.0;
        for image in 0..self.planes.batch {
            let [sum] = fold(simd, [self.plane(number, channel, image)], Squares([simd.splat_f32s(mean)]));
            total += f64::from(sum);
        }
        [mean, (total / count) as f32]
    }

    #[inline(always)]
    fn plane(&self, number: usize, channel: usize, image: usize) -> &[f32] {
        match self.source {
            Source::Other(x) => &x[self.planes.range(image, channel)],
            Source::InPlace => &self.task.planes[image][number * self.planes.plane..][..self.planes.plane],
        }
    }
}

/// A function of vectors. Not a closure: one that is not inlined would be compiled without the vector instructions.
pub(crate) trait Function<S: Simd, const N: usize, const M: usize>: Copy {
    fn call(self, simd: S, x: [S::f32s; N]) -> [S::f32s; M];
}

/// The numbers without a mean.
#[derive(Clone, Copy)]
struct Centered<S: Simd>([S::f32s; 1]);

impl<S: Simd> Function<S, 1, 1> for Centered<S> {
    #[inline(always)]
    fn call(self, simd: S, x: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.sub_f32s(x[0], self.0[0])]
    }
}

/// Their squares.
#[derive(Clone, Copy)]
struct Squares<S: Simd>([S::f32s; 1]);

impl<S: Simd> Function<S, 1, 1> for Squares<S> {
    #[inline(always)]
    fn call(self, simd: S, x: [S::f32s; 1]) -> [S::f32s; 1] {
        let centered = simd.sub_f32s(x[0], self.0[0]);
        [simd.mul_f32s(centered, centered)]
    }
}

/// A channel's function.
impl<S: Simd> Function<S, 1, 1> for Channel<S> {
    #[inline(always)]
    fn call(self, simd: S, x: [S::f32s; 1]) -> [S::f32s; 1] {
        [self.apply(simd, x[0])]
    }
}

/// The gradient of the activation's input, and its product with the centred input; of `x` and the output's gradient.
#[derive(Clone, Copy)]
struct Through<S: Simd> {
    function: Channel<S>,
    activation: Activation,
}

impl<S: Simd> Through<S> {
    #[inline(always)]
    fn grad(self, simd: S, x: S::f32s, grad: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        let Self { function, activation } = self;
        match activation {
            Activation::None => grad,
            Activation::Relu => {
                let before = function.before_activation(simd, x);
                select(simd, simd.less_than_or_equal_f32s(before, zero), zero, grad)
            }
            Activation::Relu6 => {
                let before = function.before_activation(simd, x);
                let grad = select(simd, simd.less_than_f32s(before, function.low), zero, grad);
                select(simd, simd.greater_than_f32s(before, function.high), zero, grad)
            }
        }
    }
}

impl<S: Simd> Function<S, 2, 2> for Through<S> {
    #[inline(always)]
    fn call(self, simd: S, [x, grad]: [S::f32s; 2]) -> [S::f32s; 2] {
        let grad = self.grad(simd, x, grad);
        [grad, simd.mul_f32s(grad, simd.sub_f32s(x, self.function.mean))]
    }
}

/// The gradient of the input, of `x` and the output's gradient.
#[derive(Clone, Copy)]
struct InputGrad<S: Simd> {
    through: Through<S>,
    mean_grad: S::f32s,
    slope: S::f32s,
}

impl<S: Simd> Function<S, 2, 1> for InputGrad<S> {
    #[inline(always)]
    fn call(self, simd: S, [x, grad]: [S::f32s; 2]) -> [S::f32s; 1] {
        let grad = self.through.grad(simd, x, grad);
        let centered = simd.sub_f32s(x, self.through.function.mean);
        let rest = simd.sub_f32s(simd.sub_f32s(grad, self.mean_grad), simd.mul_f32s(centered, self.slope));
        [simd.mul_f32s(rest, self.through.function.scale)]
    }
}

/// Gradients of gamma and beta.
pub(crate) type AffineGrads = [Vec<f32>; 2];

/// Gradients of [`normalize_batch`]: the input's replaces the output's.
pub(crate) fn batch_backward(
    planes: Planes,
    x: &[f32],
    affine: Affine<'_>,
    mean: &[f32],
    variance: &[f32],
    grad: &mut [f32],
) -> AffineGrads {
    let tasks = channel_tasks(Some(grad), planes.channels, planes.plane);
    let grads: Vec<Vec<[f32; 2]>> =
        tasks.into_par_iter().map(|task| run(Backward { planes, x, task, affine: &affine, mean, variance })).collect();
    unzip_channels(&grads)
}

struct Backward<'a, 'b> {
    planes: Planes,
    x: &'a [f32],
    /// The gradient of the output, which becomes the input's.
    task: ChannelTask<'b>,
    affine: &'a Affine<'a>,
    mean: &'a [f32],
    variance: &'a [f32],
}

impl WithSimd for Backward<'_, '_> {
    /// Gradients of gamma and beta of every channel.
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Self::Output {
        let mut grads = Vec::with_capacity(self.task.channels.len());
        let plane = self.planes.plane;
        for (number, channel) in self.task.channels.clone().enumerate() {
            let (mean, variance) = (self.mean[channel], self.variance[channel]);
            let function = Channel::new(simd, self.affine, channel, mean, variance);
            let through = Through { function, activation: self.affine.activation };
            let [mut total, mut products] = [0.0; 2];
            for (image, grad) in self.task.planes.iter().enumerate() {
                let x = &self.x[self.planes.range(image, channel)];
                let sums = fold(simd, [x, &grad[number * plane..][..plane]], through);
                total += f64::from(sums[0]);
                products += f64::from(sums[1]);
            }
            let inverse = self.affine.inverse_deviation(variance);
            let per_number = 1.0 / self.planes.per_channel();
            let input = InputGrad {
                through,
                mean_grad: simd.splat_f32s((total * per_number) as f32),
                slope: simd.splat_f32s((products * per_number * inverse * inverse) as f32),
            };
            for (image, grad) in self.task.planes.iter_mut().enumerate() {
                let x = &self.x[self.planes.range(image, channel)];
                update_with(simd, x, &mut grad[number * plane..][..plane], input);
            }
            grads.push([(products * inverse) as f32, total as f32]);
        }
        grads
    }
}

/// Room for the longest vector.
const LANES: usize = 16;

/// The last numbers of a slice, less than a vector, through the stack: a masked store costs more.
#[inline(always)]
fn write_end<S: Simd>(simd: S, target: &mut [f32], value: S::f32s) {
    let mut end = [0.0; LANES];
    store(simd, &mut end, value);
    for (target, value) in target.iter_mut().zip(end) {
        *target = value;
    }
}

/// `target = function(x)`.
#[inline(always)]
fn write<S: Simd>(simd: S, x: &[f32], target: &mut [f32], function: impl Function<S, 1, 1>) {
    let x = &x[..target.len()];
    let (xs, x_end) = S::as_simd_f32s(x);
    let (targets, target_end) = S::as_mut_simd_f32s(target);
    for (target, x) in targets.iter_mut().zip(xs) {
        let [value] = function.call(simd, [*x]);
        *target = value;
    }
    if !target_end.is_empty() {
        let [value] = function.call(simd, [simd.partial_load_f32s(x_end)]);
        write_end(simd, target_end, value);
    }
}

/// `target = function(target)`.
#[inline(always)]
fn update<S: Simd>(simd: S, target: &mut [f32], function: impl Function<S, 1, 1>) {
    let (targets, end) = S::as_mut_simd_f32s(target);
    for target in targets {
        let [value] = function.call(simd, [*target]);
        *target = value;
    }
    if !end.is_empty() {
        let [value] = function.call(simd, [simd.partial_load_f32s(end)]);
        write_end(simd, end, value);
    }
}

/// `target = function(x, target)`.
#[inline(always)]
fn update_with<S: Simd>(simd: S, x: &[f32], target: &mut [f32], function: impl Function<S, 2, 1>) {
    let x = &x[..target.len()];
    let (xs, x_end) = S::as_simd_f32s(x);
    let (targets, end) = S::as_mut_simd_f32s(target);
    for (target, x) in targets.iter_mut().zip(xs) {
        let [value] = function.call(simd, [*x, *target]);
        *target = value;
    }
    if !end.is_empty() {
        let [value] = function.call(simd, [simd.partial_load_f32s(x_end), simd.partial_load_f32s(end)]);
        write_end(simd, end, value);
    }
}

/// Sums a function of the numbers of several slices.
#[inline(always)]
fn fold<S: Simd, const N: usize, const M: usize>(
    simd: S,
    sources: [&[f32]; N],
    function: impl Function<S, N, M>,
) -> [f32; M] {
    let lanes = S::F32_LANES;
    let length = sources[0].len();
    let zero = simd.splat_f32s(0.0);
    // Independent sums, so that an addition need not wait for the one before it.
    let mut sums = [[zero; M]; 4];
    let mut at = 0;
    while at + 4 * lanes <= length {
        let mut quads = [[zero; N]; 4];
        for source in 0..N {
            let quad = S::as_simd_f32s(&sources[source][at..at + 4 * lanes]).0;
            for part in 0..4 {
                quads[part][source] = quad[part];
            }
        }
        for part in 0..4 {
            let values = function.call(simd, quads[part]);
            for value in 0..M {
                sums[part][value] = simd.add_f32s(sums[part][value], values[value]);
            }
        }
        at += 4 * lanes;
    }
    while at < length {
        let count = lanes.min(length - at);
        let mut single = [zero; N];
        for source in 0..N {
            single[source] = simd.partial_load_f32s(&sources[source][at..at + count]);
        }
        let values = function.call(simd, single);
        for value in 0..M {
            let mut part = values[value];
            if count < lanes {
                // The function of the zeros behind the end may not be zero.
                let mut end = [0.0; LANES];
                store(simd, &mut end, part);
                part = simd.partial_load_f32s(&end[..count]);
            }
            sums[0][value] = simd.add_f32s(sums[0][value], part);
        }
        at += count;
    }
    let mut total = [0.0; M];
    for value in 0..M {
        let [a, b, c, d] = [sums[0][value], sums[1][value], sums[2][value], sums[3][value]];
        total[value] = simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)));
    }
    total
}

/// The sum of a slice.
pub(crate) fn sum(data: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);
    impl WithSimd for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let [sum] = fold(simd, [self.0], Centered([simd.splat_f32s(0.0)]));
            sum
        }
    }
    run(Sum(data))
}
