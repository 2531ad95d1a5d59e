//! Batch normalisation with an activation, forward and backward, on pixels.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Activation;
use crate::channels::{Function, fold, gather, map, period, spread, update};
use crate::moments::{Moments, Scratch};
use crate::parallel::{aligned_chunk, each, parts};
use crate::simd::{run, select};

/// Scale and shift of every channel, and what follows them.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub epsilon: f64,
    pub activation: Activation,
}

/// `clamp((x - mean) * scale + shift)`, with patterns of the channels.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: Activation,
    channels: usize,
}

impl Normalizer {
    /// With statistics of every channel.
    pub fn new(affine: Affine<'_>, mean: &[f32], variance: &[f32]) -> Self {
        let scale: Vec<f32> = affine
            .gamma
            .iter()
            .zip(variance)
            .map(|(gamma, variance)| (f64::from(*gamma) / (f64::from(*variance) + affine.epsilon).sqrt()) as f32)
            .collect();
        Self {
            mean: spread(mean),
            scale: spread(&scale),
            shift: spread(affine.beta),
            activation: affine.activation,
            channels: mean.len(),
        }
    }

    /// Normalises pixels in place, on this thread.
    pub fn apply(&self, pixels: &mut [f32]) {
        run(Apply { normalizer: self, x: None, target: pixels });
    }

    /// Normalises pixels, on this thread.
    pub fn write(&self, x: &[f32], target: &mut [f32]) {
        run(Apply { normalizer: self, x: Some(x), target });
    }

    /// Normalises all pixels.
    pub fn map(&self, x: &[f32], target: &mut [f32]) {
        let chunk = aligned_chunk(target.len(), self.mean.len());
        if target.len() <= chunk {
            return self.write(x, target);
        }
        let chunks = target.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
        chunks.for_each(|(target, x)| self.write(x, target));
    }

    /// As [`Self::map`], in place.
    pub fn update(&self, pixels: &mut [f32]) {
        let chunk = aligned_chunk(pixels.len(), self.mean.len());
        if pixels.len() <= chunk {
            return self.apply(pixels);
        }
        pixels.par_chunks_mut(chunk).for_each(|pixels| self.apply(pixels));
    }

    fn function<S: Simd>(&self, simd: S) -> Through<S> {
        let (low, high) = self.activation.range();
        Through { low: simd.splat_f32s(low), high: simd.splat_f32s(high), activation: self.activation }
    }

    fn patterns(&self) -> [&[f32]; 3] {
        [&self.mean, &self.scale, &self.shift]
    }
}

/// Mean and biased variance of every channel.
pub(crate) fn statistics(channels: usize, x: &[f32]) -> [Vec<f32>; 2] {
    Moments::finish(&moments(channels, x))
}

fn moments(channels: usize, x: &[f32]) -> Vec<Moments> {
    let gather_part = |part: std::ops::Range<usize>| {
        let mut moments = Moments::new(channels);
        moments.add(&x[part], &mut Scratch::new(channels));
        moments
    };
    each(parts(x.len(), channels), gather_part)
}

/// The sum over all pixels, of every channel.
pub(crate) fn channel_totals(channels: usize, x: &[f32]) -> Vec<f32> {
    let pixels = (x.len() / channels) as f64;
    Moments::total(&moments(channels, x)).mean().iter().map(|mean| (mean * pixels) as f32).collect()
}

struct Apply<'a, 'b> {
    normalizer: &'a Normalizer,
    /// None: in place.
    x: Option<&'a [f32]>,
    target: &'b mut [f32],
}

impl WithSimd for Apply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let function = Forward(self.normalizer.function(simd));
        match self.x {
            Some(x) => map(simd, self.normalizer.patterns(), [x], self.target, function),
            None => update(simd, self.normalizer.patterns(), self.target, function),
        }
    }
}

#[derive(Clone, Copy)]
struct Forward<S: Simd>(Through<S>);

impl<S: Simd> Function<S, 3, 1, 1> for Forward<S> {
    /// Comparisons, not minimum and maximum: a NaN stays one at every level.
    #[inline(always)]
    fn call(self, simd: S, [mean, scale, shift]: [S::f32s; 3], [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        let Through { low, high, .. } = self.0;
        let x = simd.mul_add_e_f32s(simd.sub_f32s(x, mean), scale, shift);
        let x = select(simd, simd.less_than_f32s(x, low), low, x);
        [select(simd, simd.greater_than_f32s(x, high), high, x)]
    }
}

/// The gradient of the activation's input.
#[derive(Clone, Copy)]
struct Through<S: Simd> {
    low: S::f32s,
    high: S::f32s,
    activation: Activation,
}

impl<S: Simd> Through<S> {
    #[inline(always)]
    fn grad(self, simd: S, before: S::f32s, grad: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        match self.activation {
            Activation::None => grad,
            Activation::Relu => select(simd, simd.less_than_or_equal_f32s(before, zero), zero, grad),
            Activation::Relu6 => {
                let (below, above) = (simd.less_than_f32s(before, self.low), simd.greater_than_f32s(before, self.high));
                select(simd, simd.or_m32s(below, above), zero, grad)
            }
        }
    }
}

/// The gradient of the activation's input, and its product with the centred input; of `x` and the output's gradient.
#[derive(Clone, Copy)]
struct Sums<S: Simd>(Through<S>);

impl<S: Simd> Function<S, 3, 2, 2> for Sums<S> {
    #[inline(always)]
    fn call(self, simd: S, [mean, scale, shift]: [S::f32s; 3], [x, grad]: [S::f32s; 2]) -> [S::f32s; 2] {
        let centered = simd.sub_f32s(x, mean);
        let grad = self.0.grad(simd, simd.mul_add_e_f32s(centered, scale, shift), grad);
        [grad, simd.mul_f32s(grad, centered)]
    }
}

/// The gradient of the input, of `x` and the output's gradient.
#[derive(Clone, Copy)]
struct InputGrad<S: Simd>(Through<S>);

impl<S: Simd> Function<S, 5, 2, 1> for InputGrad<S> {
    #[inline(always)]
    fn call(self, simd: S, patterns: [S::f32s; 5], [x, grad]: [S::f32s; 2]) -> [S::f32s; 1] {
        let [mean, scale, shift, mean_grad, slope] = patterns;
        let centered = simd.sub_f32s(x, mean);
        let grad = self.0.grad(simd, simd.mul_add_e_f32s(centered, scale, shift), grad);
        let rest = simd.sub_f32s(simd.sub_f32s(grad, mean_grad), simd.mul_f32s(centered, slope));
        [simd.mul_f32s(rest, scale)]
    }
}

/// The gradient of a normalisation with the batch's statistics.
pub(crate) struct NormalizerGrad<'a> {
    normalizer: Normalizer,
    /// Patterns: the mean of the gradient of the activation's input, and its slope over the input.
    mean_grad: Vec<f32>,
    slope: Vec<f32>,
    x: &'a [f32],
    grad: &'a [f32],
    /// Gradients of gamma and beta.
    pub affine: [Vec<f32>; 2],
}

impl<'a> NormalizerGrad<'a> {
    /// Of the input and the output's gradient: sums over all pixels.
    pub fn new(affine: Affine<'_>, [mean, variance]: [&[f32]; 2], x: &'a [f32], grad: &'a [f32]) -> Self {
        let normalizer = Normalizer::new(affine, mean, variance);
        let channels = normalizer.channels;
        let sums = |part: std::ops::Range<usize>| channel_sums(&normalizer, &x[part.clone()], &grad[part]);
        let parts: Vec<[Vec<f64>; 2]> = each(parts(x.len(), channels), sums);
        let count = (x.len() / channels) as f64;
        let total = |which: usize, channel: usize| parts.iter().map(|part| part[which][channel]).sum::<f64>();
        let [mut gamma_grad, mut beta_grad, mut mean_grad, mut slope] = [const { Vec::new() }; 4];
        for (channel, variance) in variance.iter().enumerate() {
            let inverse = 1.0 / (f64::from(*variance) + affine.epsilon).sqrt();
            let [grad, product] = [total(0, channel), total(1, channel)];
            beta_grad.push(grad as f32);
            gamma_grad.push((product * inverse) as f32);
            mean_grad.push((grad / count) as f32);
            slope.push((product * inverse * inverse / count) as f32);
        }
        let (mean_grad, slope) = (spread(&mean_grad), spread(&slope));
        Self { normalizer, mean_grad, slope, x, grad, affine: [gamma_grad, beta_grad] }
    }

    /// The input's gradient of some numbers, the first of which is of the first channel; on this thread.
    pub fn write(&self, range: std::ops::Range<usize>, target: &mut [f32]) {
        run(WriteGrad { grad: self, x: &self.x[range.clone()], output: &self.grad[range], target });
    }

    /// The input's gradient of all pixels.
    pub fn write_all(&self, target: &mut [f32]) {
        let chunk = aligned_chunk(target.len(), self.mean_grad.len());
        target.par_chunks_mut(chunk).enumerate().for_each(|(number, target)| {
            let start = number * chunk;
            self.write(start..start + target.len(), target);
        });
    }
}

struct WriteGrad<'a, 'b> {
    grad: &'a NormalizerGrad<'a>,
    x: &'a [f32],
    output: &'a [f32],
    target: &'b mut [f32],
}

impl WithSimd for WriteGrad<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let NormalizerGrad { normalizer, mean_grad, slope, .. } = self.grad;
        let [mean, scale, shift] = normalizer.patterns();
        let function = InputGrad(normalizer.function(simd));
        map(simd, [mean, scale, shift, mean_grad, slope], [self.x, self.output], self.target, function);
    }
}

/// Numbers that are summed in `f32`, as a multiple of the period.
const TERMS: usize = 128;

/// Sums of [`Sums`], for every channel.
fn channel_sums(normalizer: &Normalizer, x: &[f32], grad: &[f32]) -> [Vec<f64>; 2] {
    let length = period(normalizer.channels);
    let mut totals = [0.0; 2].map(|zero| vec![zero; normalizer.channels]);
    let mut sums = [0.0; 2].map(|zero| vec![zero; length]);
    for (x, grad) in x.chunks(length * TERMS).zip(grad.chunks(length * TERMS)) {
        for sums in &mut sums {
            sums.fill(0.0);
        }
        run(SumGrads { normalizer, x, grad, sums: &mut sums });
        for (sums, totals) in sums.iter().zip(&mut totals) {
            gather(sums, totals);
        }
    }
    totals
}

struct SumGrads<'a, 'b> {
    normalizer: &'a Normalizer,
    x: &'a [f32],
    grad: &'a [f32],
    sums: &'b mut [Vec<f32>; 2],
}

impl WithSimd for SumGrads<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [first, second] = self.sums;
        let function = Sums(self.normalizer.function(simd));
        fold(simd, self.normalizer.patterns(), [self.x, self.grad], [first, second], function);
    }
}
