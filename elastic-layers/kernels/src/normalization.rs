//! Batch normalisation with an activation, forward and backward, one channel after the other.

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Activation;
use crate::parallel::{ChannelTask, channel_tasks};
use crate::simd::{load, run, store};

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
        let x = simd.select_f32s(simd.less_than_f32s(x, self.low), self.low, x);
        simd.select_f32s(simd.greater_than_f32s(x, self.high), self.high, x)
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
                        map(simd, [x], target, |simd, [x], _| function.apply(simd, x));
                    }
                    Source::InPlace => map(simd, [], target, |simd, [], x| function.apply(simd, x)),
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
        let plane_of = |image: usize| match self.source {
            Source::Other(x) => &x[self.planes.range(image, channel)],
            Source::InPlace => &self.task.planes[image][number * self.planes.plane..][..self.planes.plane],
        };
        let images = 0..self.planes.batch;
        let [mean] = total(images.clone().map(|image| fold(simd, [plane_of(image)], |_, [x]| [x])));
        let mean = (mean / self.planes.per_channel()) as f32;
        let center = simd.splat_f32s(mean);
        let [squares] = total(images.map(|image| {
            fold(simd, [plane_of(image)], |simd, [x]| {
                let centered = simd.sub_f32s(x, center);
                [simd.mul_f32s(centered, centered)]
            })
        }));
        [mean, (squares / self.planes.per_channel()) as f32]
    }
}

/// The sums of the planes' sums.
#[inline(always)]
fn total<const N: usize>(planes: impl Iterator<Item = [f32; N]>) -> [f64; N] {
    let mut total = [0.0; N];
    for plane in planes {
        for (total, plane) in total.iter_mut().zip(plane) {
            *total += f64::from(plane);
        }
    }
    total
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
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        match self.affine.activation {
            Activation::None => self.channels(simd, |_, _, _, grad| grad),
            Activation::Relu => {
                let zero = simd.splat_f32s(0.0);
                self.channels(simd, |simd, function, x, grad| {
                    let before = function.before_activation(simd, x);
                    simd.select_f32s(simd.less_than_or_equal_f32s(before, zero), zero, grad)
                })
            }
            Activation::Relu6 => {
                let zero = simd.splat_f32s(0.0);
                self.channels(simd, |simd, function, x, grad| {
                    let before = function.before_activation(simd, x);
                    let grad = simd.select_f32s(simd.less_than_f32s(before, function.low), zero, grad);
                    simd.select_f32s(simd.greater_than_f32s(before, function.high), zero, grad)
                })
            }
        }
    }
}

impl Backward<'_, '_> {
    /// `through` takes the gradient of the activation's output to that of its input.
    #[inline(always)]
    fn channels<S: Simd>(
        mut self,
        simd: S,
        through: impl Fn(S, &Channel<S>, S::f32s, S::f32s) -> S::f32s + Copy,
    ) -> Vec<[f32; 2]> {
        let mut grads = Vec::with_capacity(self.task.channels.len());
        let plane = self.planes.plane;
        for (number, channel) in self.task.channels.clone().enumerate() {
            let (mean, variance) = (self.mean[channel], self.variance[channel]);
            let function = Channel::new(simd, self.affine, channel, mean, variance);
            let [sum, products] = total(self.task.planes.iter().enumerate().map(|(image, grad)| {
                let x = &self.x[self.planes.range(image, channel)];
                fold(simd, [x, &grad[number * plane..][..plane]], |simd, [x, grad]| {
                    let grad = through(simd, &function, x, grad);
                    [grad, simd.mul_f32s(grad, simd.sub_f32s(x, function.mean))]
                })
            }));
            let inverse = self.affine.inverse_deviation(variance);
            let per_number = 1.0 / self.planes.per_channel();
            let mean_grad = simd.splat_f32s((sum * per_number) as f32);
            let slope = simd.splat_f32s((products * per_number * inverse * inverse) as f32);
            for (image, grad) in self.task.planes.iter_mut().enumerate() {
                let x = &self.x[self.planes.range(image, channel)];
                map(simd, [x], &mut grad[number * plane..][..plane], |simd, [x], grad| {
                    let grad = through(simd, &function, x, grad);
                    let centered = simd.sub_f32s(x, function.mean);
                    let rest = simd.sub_f32s(simd.sub_f32s(grad, mean_grad), simd.mul_f32s(centered, slope));
                    simd.mul_f32s(rest, function.scale)
                });
            }
            grads.push([(products * inverse) as f32, sum as f32]);
        }
        grads
    }
}

/// Replaces every number of `target` by a function of it and of the numbers of `sources` at its place.
#[inline(always)]
pub(crate) fn map<S: Simd, const N: usize>(
    simd: S,
    sources: [&[f32]; N],
    target: &mut [f32],
    function: impl Fn(S, [S::f32s; N], S::f32s) -> S::f32s,
) {
    let lanes = S::F32_LANES;
    let length = target.len();
    let sources = sources.map(|source| &source[..length]);
    let whole = length / lanes * lanes;
    let vectors = sources.map(|source| &S::as_simd_f32s(source).0[..length / lanes]);
    for (place, target) in S::as_mut_simd_f32s(target).0.iter_mut().enumerate() {
        *target = function(simd, vectors.map(|source| source[place]), *target);
    }
    if whole < length {
        // A masked store costs more than a copy through the stack.
        let mut end = [0.0; 16];
        let value = simd.partial_load_f32s(&target[whole..]);
        let sources = sources.map(|source| simd.partial_load_f32s(&source[whole..]));
        store(simd, &mut end, function(simd, sources, value));
        target[whole..].copy_from_slice(&end[..length - whole]);
    }
}

/// Sums functions of the numbers of several slices.
#[inline(always)]
pub(crate) fn fold<S: Simd, const N: usize, const M: usize>(
    simd: S,
    sources: [&[f32]; N],
    function: impl Fn(S, [S::f32s; N]) -> [S::f32s; M],
) -> [f32; M] {
    let lanes = S::F32_LANES;
    let length = sources[0].len();
    let sources = sources.map(|source| &source[..length]);
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; M]; 4];
    let mut add = |sum: usize, values: [S::f32s; N]| {
        let values = function(simd, values);
        for (sum, value) in sums[sum].iter_mut().zip(values) {
            *sum = simd.add_f32s(*sum, value);
        }
    };
    let mut at = 0;
    while at + 4 * lanes <= length {
        let quads = sources.map(|source| &source[at..at + 4 * lanes]);
        for sum in 0..4 {
            add(sum, quads.map(|quad| load(simd, &quad[sum * lanes..])));
        }
        at += 4 * lanes;
    }
    while at + lanes <= length {
        add(at / lanes % 4, sources.map(|source| load(simd, &source[at..])));
        at += lanes;
    }
    let rest = length - at;
    if rest > 0 {
        // The function of the zeros behind the end may not be zero.
        let mut values = function(simd, sources.map(|source| simd.partial_load_f32s(&source[at..])));
        for (value, sum) in values.iter_mut().zip(&mut sums[0]) {
            let mut end = [0.0; 16];
            store(simd, &mut end, *value);
            *sum = simd.add_f32s(*sum, simd.partial_load_f32s(&end[..rest]));
        }
    }
    let [a, b, c, d] = sums;
    from_fn(|value| {
        let sum = simd.add_f32s(simd.add_f32s(a[value], b[value]), simd.add_f32s(c[value], d[value]));
        simd.reduce_sum_f32s(sum)
    })
}

/// The sum of a slice.
pub(crate) fn sum(data: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);
    impl WithSimd for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let [sum] = fold(simd, [self.0], |_, [x]| [x]);
            sum
        }
    }
    run(Sum(data))
}
