//! The inner loops of dense convolutions: weighted sums of runs of channels, and sums of products of pixels.
//!
//! Plain loops over indices: a closure that is handed to a function of the library may not be inlined, and is then
//! compiled without the vector instructions.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::buffer::{Buffer, take};
use crate::parallel::cut;
use crate::simd::width;

/// Vectors of target channels that are summed together.
const VECTORS: usize = 3;

/// Bytes of a panel's weights that stay in the first cache beside pixels.
const PANEL_BYTES: usize = 40 << 10;

/// Channels that are summed together with [`VECTORS`]: of 32 registers, and of 16.
const WIDE: usize = 8;
const NARROW: usize = 4;

/// Source channels whose weights are packed together.
const PACKED_TOGETHER: usize = 16;

/// Of fewer weights, it is not worth while to pack them by several threads.
const LEAST_SHARED: usize = 1 << 14;

/// Vectors of a panel at most.
fn panel_vectors(depth: usize) -> usize {
    if depth * width() * VECTORS * size_of::<f32>() > PANEL_BYTES && width() >= 16 { VECTORS - 1 } else { VECTORS }
}

/// Cuts a length into blocks of at most `largest`, as even as possible: first element and length of each.
#[inline(always)]
pub(crate) fn even_blocks(length: usize, largest: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(largest);
    (0..count).map(move |block| {
        let [first, end] = [block, block + 1].map(|block| block * length / count);
        (first, end - first)
    })
}

/// A weight matrix in the order that [`Products`] reads it: panels of some vectors of target channels, and in each the
/// numbers that are multiplied by one number of a source. Zeros where there is no channel.
#[derive(Debug)]
pub(crate) struct Packed {
    data: Buffer,
    depth: usize,
    channels: usize,
}

/// A weight as it lies in memory: the number of a target channel, a source channel and a tap is at the sum of their
/// places.
pub(crate) struct Strided<'a> {
    pub data: &'a [f32],
    /// Target and source channels.
    pub channels: [usize; 2],
    /// Numbers from a target channel to the next, and from a source channel to the next.
    pub strides: [usize; 2],
    /// Places of the taps.
    pub taps: Vec<usize>,
}

impl Packed {
    /// Whether all channels of a pixel are written together.
    pub fn is_one_panel(&self) -> bool {
        self.channels.div_ceil(width()) <= panel_vectors(self.depth)
    }

    /// Packs a weight.
    pub fn new(weight: &Strided<'_>) -> Self {
        let ([channels, sources], lanes) = (weight.channels, width());
        let (vectors, depth) = (channels.div_ceil(lanes), weight.taps.len() * sources);
        let mut data = take(vectors * lanes * depth);
        let panels: Vec<_> = even_blocks(vectors, panel_vectors(depth)).collect();
        let numbers = cut(&mut data, panels.iter().map(|(_, count)| count * lanes * depth));
        let pack = |((first, count), panel): ((usize, usize), &mut [f32])| {
            let (first, count) = (first * lanes, count * lanes);
            for (tap, panel) in weight.taps.iter().zip(panel.chunks_exact_mut((sources * count).max(1))) {
                weight.pack(*tap, first..(first + count).min(channels), count, panel);
            }
        };
        if channels * depth < LEAST_SHARED {
            panels.into_iter().zip(numbers).for_each(pack);
        } else {
            panels.into_par_iter().zip(numbers).for_each(pack);
        }
        Self { data, depth, channels }
    }
}

impl Strided<'_> {
    /// One tap of some target channels, `count` with the zeros behind them.
    fn pack(&self, tap: usize, targets: Range<usize>, count: usize, panel: &mut [f32]) {
        let ([target_stride, source_stride], used) = (self.strides, targets.len());
        let data = &self.data[tap + targets.start * target_stride..];
        if target_stride == 1 {
            for (source, numbers) in panel.chunks_exact_mut(count).enumerate() {
                numbers[..used].copy_from_slice(&data[source * source_stride..][..used]);
                numbers[used..].fill(0.0);
            }
            return;
        }
        if used < count {
            panel.chunks_exact_mut(count).for_each(|numbers| numbers[used..].fill(0.0));
        }
        // A block reads few lines of the cache, and writes few.
        for (block, panel) in panel.chunks_mut(PACKED_TOGETHER * count).enumerate() {
            let data = &data[block * PACKED_TOGETHER * source_stride..];
            let sources = panel.len() / count;
            for lane in 0..used {
                let row = &data[lane * target_stride..][..(sources - 1) * source_stride + 1];
                for source in 0..sources {
                    panel[source * count + lane] = row[source * source_stride];
                }
            }
        }
    }
}

/// `target[places[i] + c] = bias[c] + sum over k of weights[c][k] * (the k-th number that pixel i reads)`, where a pixel
/// reads the runs behind `bases[i]`.
pub(crate) struct Products<'a> {
    pub weights: &'a Packed,
    pub bias: Option<&'a [f32]>,
    pub source: &'a [f32],
    pub bases: &'a [usize],
    /// Offset and length of every run.
    pub runs: &'a [(usize, usize)],
    pub target: &'a mut [f32],
    pub places: &'a [usize],
    /// Whether a vector may be written that has more than the channels, because whatever lies behind a pixel is written
    /// after it.
    pub is_covered: bool,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        debug_assert_eq!(lanes, width());
        for (first, count) in even_blocks(self.weights.channels.div_ceil(lanes), panel_vectors(self.weights.depth)) {
            match count {
                1 => self.panel::<S, 1>(simd, first),
                2 => self.panel::<S, 2>(simd, first),
                _ => self.panel::<S, VECTORS>(simd, first),
            }
        }
    }
}

impl Products<'_> {
    /// All pixels of a panel. The last block repeats some pixels of the one before it, where there is one.
    #[inline(always)]
    fn panel<S: Simd, const V: usize>(&mut self, simd: S, first: usize) {
        let pixels = self.bases.len();
        let height = match (S::F32_LANES >= 16, V) {
            // With more, there are more places of pixels than registers for them.
            (true, 1 | 2) => 12,
            (true, _) => 8,
            (false, 1) => 8,
            (false, 2) => 6,
            (false, _) => 4,
        };
        let mut pixel = 0;
        if pixels < height {
            while pixel < pixels {
                self.tile::<S, 1, V>(simd, first, pixel);
                pixel += 1;
            }
            return;
        }
        while pixel < pixels {
            let start = pixel.min(pixels - height);
            match height {
                4 => self.tile::<S, 4, V>(simd, first, start),
                6 => self.tile::<S, 6, V>(simd, first, start),
                8 => self.tile::<S, 8, V>(simd, first, start),
                _ => self.tile::<S, 12, V>(simd, first, start),
            }
            pixel += height;
        }
    }

    /// `M` pixels and `V` vectors.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, first: usize, pixel: usize) {
        let lanes = S::F32_LANES;
        let (depth, channels) = (self.weights.depth, self.weights.channels);
        let start = first * lanes;
        let count = channels.min(start + V * lanes) - start;
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        if let Some(bias) = self.bias {
            for v in 0..V {
                let bias = &bias[start..start + count];
                let value = simd.partial_load_f32s(&bias[count.min(v * lanes)..count.min((v + 1) * lanes)]);
                for m in 0..M {
                    sums[m][v] = value;
                }
            }
        }
        let mut weights = &self.weights.data[start * depth..][..V * lanes * depth];
        let bases = &self.bases[pixel..pixel + M];
        for &(offset, length) in self.runs {
            let mut rows: [&[f32]; M] = [&[]; M];
            for m in 0..M {
                rows[m] = &self.source[bases[m] + offset..][..length];
            }
            let (run, rest) = weights.split_at(length * V * lanes);
            weights = rest;
            let run = &S::as_simd_f32s(run).0.as_chunks::<V>().0[..length];
            for (k, weight) in run.iter().enumerate() {
                for m in 0..M {
                    let value = simd.splat_f32s(rows[m][k]);
                    for v in 0..V {
                        sums[m][v] = simd.mul_add_e_f32s(value, weight[v], sums[m][v]);
                    }
                }
            }
        }
        for m in 0..M {
            let target = &mut self.target[self.places[pixel + m] + start..];
            if count == V * lanes || self.is_covered && target.len() >= V * lanes {
                S::as_mut_simd_f32s(&mut target[..V * lanes]).0.copy_from_slice(&sums[m]);
            } else {
                for (v, part) in target[..count].chunks_mut(lanes).enumerate() {
                    simd.partial_store_f32s(part, sums[m][v]);
                }
            }
        }
    }
}

/// `sums[k][c] += sum over pixels of (the k-th number that the pixel reads) * grad[pixel][c]`; or `sums[c][k]`, with vectors
/// along the runs: of few channels there are fewer numbers to load for as many products.
pub(crate) struct Outer<'a> {
    pub source: &'a [f32],
    pub bases: &'a [usize],
    /// Offset and length of every run.
    pub runs: &'a [(usize, usize)],
    /// Whole vectors of every pixel; where there is no channel, any numbers may be.
    pub grad: &'a [f32],
    /// Numbers from a pixel to the next in `grad`, and of the vectors that are read of it.
    pub step: usize,
    pub stride: usize,
    pub vectors: Vectors,
    pub sums: &'a mut [f32],
}

/// Where the vectors of an [`Outer`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// In the pixels of `grad`.
    Channels,
    /// In the runs, which are whole vectors.
    Runs,
}

impl Vectors {
    /// Along the runs if these are two whole vectors or more, and the channels are not.
    pub fn of(channels: usize, runs: &[(usize, usize)]) -> Self {
        let lanes = width();
        let are_long = runs.iter().all(|(_, length)| length.is_multiple_of(lanes) && *length >= 2 * lanes);
        let are_few = channels <= lanes || !channels.is_multiple_of(lanes);
        if are_long && are_few { Self::Runs } else { Self::Channels }
    }
}

/// First numbers of two operands, and the place of the sums of their products.
#[derive(Clone, Copy)]
struct Place {
    numbers: usize,
    vectors: usize,
    row: usize,
    column: usize,
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (height, lanes) = (if S::F32_LANES >= 16 { WIDE } else { NARROW }, S::F32_LANES);
        let (runs, stride) = (self.runs, self.stride);
        let mut before = 0;
        for &(offset, length) in runs {
            if self.vectors == Vectors::Channels {
                for (start, count) in even_blocks(length, height) {
                    for (first, vectors) in even_blocks(stride / lanes, VECTORS) {
                        let column = first * lanes;
                        let place = Place { numbers: offset + start, vectors: column, row: before + start, column };
                        self.rows::<S, false>(simd, count, vectors, place);
                    }
                }
            } else {
                for (first, vectors) in even_blocks(length / lanes, VECTORS) {
                    let first = first * lanes;
                    for (row, count) in even_blocks(stride, height) {
                        let place = Place { numbers: row, vectors: offset + first, row, column: before + first };
                        self.rows::<S, true>(simd, count, vectors, place);
                    }
                }
            }
            before += length;
        }
    }
}

impl Outer<'_> {
    #[inline(always)]
    fn rows<S: Simd, const ALONG: bool>(&mut self, simd: S, count: usize, vectors: usize, place: Place) {
        match count {
            1 => self.row::<S, ALONG, 1>(simd, vectors, place),
            2 => self.row::<S, ALONG, 2>(simd, vectors, place),
            3 => self.row::<S, ALONG, 3>(simd, vectors, place),
            4 => self.row::<S, ALONG, 4>(simd, vectors, place),
            5 if S::F32_LANES >= 16 => self.row::<S, ALONG, 5>(simd, vectors, place),
            6 if S::F32_LANES >= 16 => self.row::<S, ALONG, 6>(simd, vectors, place),
            7 if S::F32_LANES >= 16 => self.row::<S, ALONG, 7>(simd, vectors, place),
            _ if S::F32_LANES >= 16 => self.row::<S, ALONG, WIDE>(simd, vectors, place),
            _ => unreachable!("blocks are no higher"),
        }
    }

    #[inline(always)]
    fn row<S: Simd, const ALONG: bool, const H: usize>(&mut self, simd: S, vectors: usize, place: Place) {
        match vectors {
            1 => self.tile::<S, ALONG, H, 1>(simd, place),
            2 => self.tile::<S, ALONG, H, 2>(simd, place),
            _ => self.tile::<S, ALONG, H, VECTORS>(simd, place),
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const ALONG: bool, const H: usize, const V: usize>(&mut self, simd: S, place: Place) {
        let lanes = S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; H];
        for (pixel, &base) in self.bases.iter().enumerate() {
            let (source, grad) = (&self.source[base..], &self.grad[pixel * self.step..]);
            let (numbers, vectors) = if ALONG { (grad, source) } else { (source, grad) };
            let numbers = &numbers[place.numbers..place.numbers + H];
            let vectors = S::as_simd_f32s(&vectors[place.vectors..place.vectors + V * lanes]).0;
            for h in 0..H {
                let value = simd.splat_f32s(numbers[h]);
                for v in 0..V {
                    sums[h][v] = simd.mul_add_e_f32s(value, vectors[v], sums[h][v]);
                }
            }
        }
        let row = if ALONG { self.sums.len() / self.stride } else { self.stride };
        for h in 0..H {
            let totals = &mut self.sums[(place.row + h) * row + place.column..][..V * lanes];
            let totals = S::as_mut_simd_f32s(totals).0;
            for v in 0..V {
                totals[v] = simd.add_f32s(totals[v], sums[h][v]);
            }
        }
    }
}
