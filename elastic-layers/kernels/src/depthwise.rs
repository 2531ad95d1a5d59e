//! The inner loops of depthwise convolutions.
//!
//! At stride 1 a row of pixels is one run of numbers, of which neighbours need not be of one channel: every vector holds
//! as many as fit, however few channels there are. At a stride every pixel has vectors of its own.
#![allow(clippy::needless_range_loop)]

mod square;

use pulp::{Simd, WithSimd};

use crate::applied::Weight;
use crate::buffer::{Buffer, take};
use crate::geometry::Stencil;
use crate::simd::width;
use crate::tiles::even_blocks;
use square::is_square;

/// Elements of the kernel that are worked on together, each in a register.
const TAPS: usize = 9;

/// Vectors after which the sums of a weight's gradient are added to those in memory: long sums lose digits.
const RUN: usize = 512;

/// A vector of a row, and those at some distance from it that have the same channels.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Where the first starts in the row.
    offset: usize,
    /// Whole vectors, then some of which only the first numbers count.
    whole: usize,
    partial: usize,
    /// The numbers that count in these.
    count: usize,
    /// Numbers that are in the group before, too.
    repeated: usize,
}

/// How the rows of a depthwise convolution are cut into vectors.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    channels: usize,
    groups: Vec<Group>,
    count: usize,
    /// Numbers between the rows of source and target, and between neighbours of a group.
    source_row: usize,
    target_row: usize,
    source_step: usize,
    target_step: usize,
    /// Where the target starts in its map.
    first: usize,
    /// Of every tap, in the source.
    offsets: Vec<usize>,
    /// The taps' numbers among the kernel's elements.
    taps: Vec<usize>,
    /// Whether the taps are three neighbours in each of three rows in a row: vectors are then worked on row by row, from
    /// the top down, and every number of the source is loaded once for three rows of the target.
    is_square: bool,
    /// Whether a vector may be written that has more than the numbers that count, because whatever lies behind these is
    /// written later.
    is_covered: bool,
}

impl Rows {
    /// Of a stencil, from frames to maps with rows of some pixels.
    pub fn new(stencil: &Stencil, channels: usize, frame_columns: usize, map_columns: usize) -> Self {
        let lanes = width();
        let [count, columns] = stencil.target;
        let is_flat = stencil.step[1] == 1 && stencil.source_step[1] == 1;
        let row = columns * channels;
        let (groups, steps) = if is_flat {
            let period = channels * lanes / common_divisor(channels, lanes);
            (flat_groups(row, period, lanes), [period; 2])
        } else {
            let steps = [stencil.source_step[1] * channels, stencil.step[1] * channels];
            (pixel_groups(columns, channels, lanes), steps)
        };
        let source_row = stencil.source_step[0] * frame_columns * channels;
        let target_row = stencil.step[0] * map_columns * channels;
        let offsets = stencil.offsets(frame_columns, channels);
        let is_square = is_flat && is_square(&offsets, source_row);
        let is_dense = target_row == row && steps[1] == if is_flat { steps[1] } else { channels };
        Self {
            channels,
            is_covered: is_dense && if is_flat { is_square } else { groups.len() == 1 && offsets.len() <= TAPS },
            is_square,
            groups,
            count,
            source_row,
            target_row,
            source_step: steps[0],
            target_step: steps[1],
            first: (stencil.first[0] * map_columns + stencil.first[1]) * channels,
            offsets,
            taps: stencil.taps.iter().map(|tap| tap.number).collect(),
        }
    }

    /// The channel of every lane of a group.
    fn channels(&self, group: &Group) -> impl Iterator<Item = usize> {
        (group.offset..group.offset + width()).map(|place| place % self.channels)
    }

    /// For every group a vector of what belongs to the channels.
    pub fn pack_channels(&self, values: &[f32]) -> Buffer {
        self.groups.iter().flat_map(|group| self.channels(group).map(|channel| values[channel])).collect()
    }

    /// For every group and tap a vector of weights.
    pub fn pack_weights(&self, weight: Weight<'_>) -> Buffer {
        let lanes = width();
        let mut packed = take(self.sums());
        for (group, packed) in self.groups.iter().zip(packed.chunks_exact_mut((self.taps.len() * lanes).max(1))) {
            for (lane, channel) in self.channels(group).enumerate() {
                let weights = &weight.data[channel * weight.row..];
                for (tap, packed) in self.taps.iter().zip(packed.chunks_exact_mut(lanes)) {
                    packed[lane] = weights[*tap];
                }
            }
        }
        packed
    }

    /// Numbers in the sums of [`WeightGrad`].
    pub fn sums(&self) -> usize {
        self.groups.len() * self.taps.len() * width()
    }

    /// Adds the sums of [`WeightGrad`] to the gradient of a weight `[channels, 1, height, width]`.
    pub fn unpack_sums(&self, sums: &[f32], weight_grad: &mut [f32]) {
        let (lanes, all) = (width(), weight_grad.len() / self.channels);
        for (group, sums) in self.groups.iter().zip(sums.chunks_exact(self.taps.len() * lanes)) {
            for (lane, channel) in self.channels(group).enumerate().skip(group.repeated) {
                let weights = &mut weight_grad[channel * all..(channel + 1) * all];
                for (tap, sums) in self.taps.iter().zip(sums.chunks_exact(lanes)) {
                    weights[*tap] += sums[lane];
                }
            }
        }
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn flat_groups(length: usize, period: usize, lanes: usize) -> Vec<Group> {
    (0..period.min(length))
        .step_by(lanes)
        .map(|offset| {
            let whole = (length - offset + period - lanes) / period;
            let count = length.saturating_sub(offset + whole * period);
            Group { offset, whole, partial: usize::from(count > 0), count, repeated: 0 }
        })
        .collect()
}

fn pixel_groups(columns: usize, channels: usize, lanes: usize) -> Vec<Group> {
    if channels < lanes {
        return vec![Group { offset: 0, whole: 0, partial: columns, count: channels, repeated: 0 }];
    }
    (0..channels)
        .step_by(lanes)
        .map(|start| {
            // The last vector repeats some channels of the one before it.
            let offset = start.min(channels - lanes);
            Group { offset, whole: columns, partial: 0, count: 0, repeated: start - offset }
        })
        .collect()
}

/// `target = bias + sum over taps of weights * source`.
pub(crate) struct Filter<'a> {
    pub rows: &'a Rows,
    /// By [`Rows::pack_weights`].
    pub weights: &'a [f32],
    /// By [`Rows::pack_channels`].
    pub bias: Option<&'a [f32]>,
    pub source: &'a [f32],
    pub target: &'a mut [f32],
}

impl WithSimd for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if self.rows.is_square {
            self.columns(simd);
            return;
        }
        for group in 0..self.rows.groups.len() {
            for (first, count) in even_blocks(self.rows.taps.len(), TAPS) {
                match count {
                    1 => self.group::<S, 1>(simd, group, first),
                    2 => self.group::<S, 2>(simd, group, first),
                    3 => self.group::<S, 3>(simd, group, first),
                    4 => self.group::<S, 4>(simd, group, first),
                    5 => self.group::<S, 5>(simd, group, first),
                    6 => self.group::<S, 6>(simd, group, first),
                    7 => self.group::<S, 7>(simd, group, first),
                    8 => self.group::<S, 8>(simd, group, first),
                    _ => self.group::<S, TAPS>(simd, group, first),
                }
            }
        }
    }
}

/// The vector at the start of a slice, or its first numbers. Of a longer slice, others are behind these.
#[inline(always)]
fn load_start<S: Simd, const WHOLE: bool>(simd: S, numbers: &[f32], count: usize) -> S::f32s {
    if WHOLE || numbers.len() >= S::F32_LANES {
        S::as_simd_f32s(&numbers[..S::F32_LANES]).0[0]
    } else {
        simd.partial_load_f32s(&numbers[..count])
    }
}

impl Filter<'_> {
    /// Adds `N` taps to a group, or starts with them.
    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, simd: S, number: usize, first_tap: usize) {
        let lanes = S::F32_LANES;
        let rows = self.rows;
        let Group { offset, whole, partial, count, .. } = rows.groups[number];
        let packed = &self.weights[(number * rows.taps.len() + first_tap) * lanes..][..N * lanes];
        let mut weights = [simd.splat_f32s(0.0); N];
        weights.copy_from_slice(S::as_simd_f32s(packed).0);
        let start = match self.bias {
            Some(bias) => S::as_simd_f32s(&bias[number * lanes..][..lanes]).0[0],
            None => simd.splat_f32s(0.0),
        };
        let taps = &rows.offsets[first_tap..first_tap + N];
        let (source_step, target_step) = (rows.source_step, rows.target_step);
        let length = if whole > 0 { (whole - 1) * source_step + lanes } else { 0 };
        for row in 0..rows.count {
            let mut lines: [&[f32]; N] = [&[]; N];
            for n in 0..N {
                lines[n] = &self.source[row * rows.source_row + taps[n] + offset..][..length];
            }
            let target = &mut self.target[rows.first + row * rows.target_row + offset..];
            for place in 0..whole {
                let at = place * source_step;
                let target = &mut target[place * target_step..][..lanes];
                let target = &mut S::as_mut_simd_f32s(target).0[0];
                let mut sum = if first_tap == 0 { start } else { *target };
                for n in 0..N {
                    let value = S::as_simd_f32s(&lines[n][at..at + lanes]).0[0];
                    sum = simd.mul_add_e_f32s(weights[n], value, sum);
                }
                *target = sum;
            }
            for place in whole..whole + partial {
                let at = row * rows.source_row + offset + place * source_step;
                let target = &mut target[place * target_step..];
                let mut sum = if first_tap == 0 { start } else { simd.partial_load_f32s(&target[..count]) };
                for n in 0..N {
                    let value = load_start::<S, false>(simd, &self.source[at + taps[n]..], count);
                    sum = simd.mul_add_e_f32s(weights[n], value, sum);
                }
                if rows.is_covered && target.len() >= lanes {
                    S::as_mut_simd_f32s(&mut target[..lanes]).0[0] = sum;
                } else {
                    simd.partial_store_f32s(&mut target[..count], sum);
                }
            }
        }
    }
}

/// `sums += sum over pixels of grad * source`, for every group and tap.
pub(crate) struct WeightGrad<'a> {
    pub rows: &'a Rows,
    pub source: &'a [f32],
    /// The output's gradient, where [`Filter`] has its target.
    pub grad: &'a [f32],
    pub sums: &'a mut [f32],
}

impl WithSimd for WeightGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if self.rows.is_square {
            for group in 0..self.rows.groups.len() {
                self.columns(simd, group);
            }
            return;
        }
        for group in 0..self.rows.groups.len() {
            for (first, count) in even_blocks(self.rows.taps.len(), TAPS) {
                match count {
                    1 => self.group::<S, 1>(simd, group, first),
                    2 => self.group::<S, 2>(simd, group, first),
                    3 => self.group::<S, 3>(simd, group, first),
                    4 => self.group::<S, 4>(simd, group, first),
                    5 => self.group::<S, 5>(simd, group, first),
                    6 => self.group::<S, 6>(simd, group, first),
                    7 => self.group::<S, 7>(simd, group, first),
                    8 => self.group::<S, 8>(simd, group, first),
                    _ => self.group::<S, TAPS>(simd, group, first),
                }
            }
        }
    }
}

impl WeightGrad<'_> {
    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, simd: S, number: usize, first_tap: usize) {
        let lanes = S::F32_LANES;
        let rows = self.rows;
        let Group { offset, whole, partial, count, .. } = rows.groups[number];
        let totals = &mut self.sums[(number * rows.taps.len() + first_tap) * lanes..][..N * lanes];
        let totals = S::as_mut_simd_f32s(totals).0;
        let taps = &rows.offsets[first_tap..first_tap + N];
        let (source_step, grad_step) = (rows.source_step, rows.target_step);
        let length = if whole > 0 { (whole - 1) * source_step + lanes } else { 0 };
        let mut sums = [simd.splat_f32s(0.0); N];
        let mut summed = 0;
        for row in 0..rows.count {
            let mut lines: [&[f32]; N] = [&[]; N];
            for n in 0..N {
                lines[n] = &self.source[row * rows.source_row + taps[n] + offset..][..length];
            }
            let grads = &self.grad[rows.first + row * rows.target_row + offset..];
            for place in 0..whole {
                let at = place * source_step;
                let grad = S::as_simd_f32s(&grads[place * grad_step..][..lanes]).0[0];
                for n in 0..N {
                    let value = S::as_simd_f32s(&lines[n][at..at + lanes]).0[0];
                    sums[n] = simd.mul_add_e_f32s(grad, value, sums[n]);
                }
            }
            for place in whole..whole + partial {
                let at = row * rows.source_row + offset + place * source_step;
                let grad = simd.partial_load_f32s(&grads[place * grad_step..][..count]);
                for n in 0..N {
                    let value = simd.partial_load_f32s(&self.source[at + taps[n]..][..count]);
                    sums[n] = simd.mul_add_e_f32s(grad, value, sums[n]);
                }
            }
            summed += whole + partial;
            if summed >= RUN || row + 1 == rows.count {
                for n in 0..N {
                    totals[n] = simd.add_f32s(totals[n], sums[n]);
                    sums[n] = simd.splat_f32s(0.0);
                }
                summed = 0;
            }
        }
    }
}
