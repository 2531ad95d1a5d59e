//! The two inner loops of every convolution: weighted sums of runs, and dot products of runs.
//!
//! Plain loops over indices: a closure that is handed to a function of the library may not be inlined, and is then
//! compiled without the vector instructions.
#![allow(clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};

use crate::simd::select;

/// Rows of a weight matrix that are multiplied together.
const ROWS: usize = 6;

/// A weight matrix in the order that [`Sums`] reads it: blocks of up to [`ROWS`] rows, column by column.
#[derive(Debug)]
pub(crate) struct Packed {
    data: Vec<f32>,
    rows: usize,
    depth: usize,
}

impl Packed {
    /// Packs `rows` by `depth` numbers.
    pub fn new(rows: usize, depth: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut data = Vec::with_capacity(rows * depth);
        for (first, height) in even_blocks(rows, ROWS) {
            for column in 0..depth {
                data.extend((first..first + height).map(|row| at(row, column)));
            }
        }
        Self { data, rows, depth }
    }
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

/// `target[row][i] = bias[row] + sum over k of weights[row][k] * source[offsets[k] + i]`, for `i < length`.
pub(crate) struct Sums<'a> {
    pub weights: &'a Packed,
    pub bias: Option<&'a [f32]>,
    pub source: &'a [f32],
    pub offsets: &'a [usize],
    pub length: usize,
    pub target: &'a mut [f32],
    /// Distance between rows of the target.
    pub stride: usize,
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        debug_assert_eq!(self.offsets.len(), self.weights.depth);
        let lanes = S::F32_LANES;
        if self.weights.rows == 1 {
            let mut at = 0;
            while at + 8 * lanes <= self.length {
                self.block::<S, 1, 8>(simd, 0, at);
                at += 8 * lanes;
            }
            if at + 4 * lanes <= self.length {
                self.block::<S, 1, 4>(simd, 0, at);
                at += 4 * lanes;
            }
            if at + 2 * lanes <= self.length {
                self.block::<S, 1, 2>(simd, 0, at);
                at += 2 * lanes;
            }
            return self.ending(simd, at);
        }
        let mut at = 0;
        while at + 2 * lanes <= self.length {
            for (first, height) in even_blocks(self.weights.rows, ROWS) {
                match height {
                    1 => self.block::<S, 1, 2>(simd, first, at),
                    2 => self.block::<S, 2, 2>(simd, first, at),
                    3 => self.block::<S, 3, 2>(simd, first, at),
                    4 => self.block::<S, 4, 2>(simd, first, at),
                    5 => self.block::<S, 5, 2>(simd, first, at),
                    _ => self.block::<S, 6, 2>(simd, first, at),
                }
            }
            at += 2 * lanes;
        }
        self.ending(simd, at);
    }
}

impl Sums<'_> {
    /// What is left behind `at`, less than two vectors: where there is room, by repeating some of what is done.
    #[inline(always)]
    fn ending<S: Simd>(&mut self, simd: S, mut at: usize) {
        let lanes = S::F32_LANES;
        while at < self.length {
            let whole = self.length >= lanes;
            if whole {
                at = at.min(self.length - lanes);
            }
            for (first, height) in even_blocks(self.weights.rows, ROWS) {
                match (height, whole) {
                    (1, true) => self.block::<S, 1, 1>(simd, first, at),
                    (2, true) => self.block::<S, 2, 1>(simd, first, at),
                    (3, true) => self.block::<S, 3, 1>(simd, first, at),
                    (4, true) => self.block::<S, 4, 1>(simd, first, at),
                    (5, true) => self.block::<S, 5, 1>(simd, first, at),
                    (_, true) => self.block::<S, 6, 1>(simd, first, at),
                    (1, false) => self.part::<S, 1>(simd, first),
                    (2, false) => self.part::<S, 2>(simd, first),
                    (3, false) => self.part::<S, 3>(simd, first),
                    (4, false) => self.part::<S, 4>(simd, first),
                    (5, false) => self.part::<S, 5>(simd, first),
                    (_, false) => self.part::<S, 6>(simd, first),
                }
            }
            at += lanes;
        }
    }

    #[inline(always)]
    fn start<S: Simd, const H: usize>(&self, simd: S, first: usize) -> [S::f32s; H] {
        let mut start = [simd.splat_f32s(0.0); H];
        if let Some(bias) = self.bias {
            for row in 0..H {
                start[row] = simd.splat_f32s(bias[first + row]);
            }
        }
        start
    }

    #[inline(always)]
    fn weights<const H: usize>(&self, first: usize) -> &[[f32; H]] {
        let depth = self.weights.depth;
        self.weights.data[first * depth..(first + H) * depth].as_chunks::<H>().0
    }

    /// `H` rows and `V` vectors.
    #[inline(always)]
    fn block<S: Simd, const H: usize, const V: usize>(&mut self, simd: S, first: usize, at: usize) {
        let lanes = S::F32_LANES;
        let source = &self.source[at..];
        let start = self.start::<S, H>(simd, first);
        let mut sums = [[simd.splat_f32s(0.0); V]; H];
        for row in 0..H {
            sums[row] = [start[row]; V];
        }
        for (weights, &offset) in self.weights::<H>(first).iter().zip(self.offsets) {
            let run = S::as_simd_f32s(&source[offset..offset + V * lanes]).0;
            let mut values = [simd.splat_f32s(0.0); V];
            values.copy_from_slice(&run[..V]);
            for row in 0..H {
                let weight = simd.splat_f32s(weights[row]);
                for vector in 0..V {
                    sums[row][vector] = simd.mul_add_e_f32s(weight, values[vector], sums[row][vector]);
                }
            }
        }
        for row in 0..H {
            let target = &mut self.target[(first + row) * self.stride + at..][..V * lanes];
            S::as_mut_simd_f32s(target).0[..V].copy_from_slice(&sums[row]);
        }
    }

    /// `H` rows of less than one vector.
    #[inline(always)]
    fn part<S: Simd, const H: usize>(&mut self, simd: S, first: usize) {
        let mut sums: [S::f32s; H] = self.start::<S, H>(simd, first);
        for (weights, &offset) in self.weights::<H>(first).iter().zip(self.offsets) {
            let run = simd.partial_load_f32s(&self.source[offset..offset + self.length]);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(simd.splat_f32s(*weight), run, *sum);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            simd.partial_store_f32s(&mut self.target[(first + row) * self.stride..][..self.length], sum);
        }
    }
}

/// The rows of one factor of [`Dots`]: one run per offset and image.
#[derive(Clone, Copy)]
pub(crate) struct Runs<'a> {
    pub data: &'a [f32],
    pub offsets: &'a [usize],
    /// Distance between images.
    pub image: usize,
}

/// `target[row][column] += sum over images and i < length of left[row][i] * right[column][i]`.
pub(crate) struct Dots<'a> {
    pub left: Runs<'a>,
    pub right: Runs<'a>,
    pub images: usize,
    pub length: usize,
    /// Rows of as many numbers as `right` has runs.
    pub target: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let [rows, columns] = [self.left.offsets.len(), self.right.offsets.len()];
        if rows == 1 {
            for (column, width) in even_blocks(columns, 9) {
                match width {
                    1 => self.tile::<S, 1, 1>(simd, 0, column),
                    2 => self.tile::<S, 1, 2>(simd, 0, column),
                    3 => self.tile::<S, 1, 3>(simd, 0, column),
                    4 => self.tile::<S, 1, 4>(simd, 0, column),
                    5 => self.tile::<S, 1, 5>(simd, 0, column),
                    6 => self.tile::<S, 1, 6>(simd, 0, column),
                    7 => self.tile::<S, 1, 7>(simd, 0, column),
                    8 => self.tile::<S, 1, 8>(simd, 0, column),
                    _ => self.tile::<S, 1, 9>(simd, 0, column),
                }
            }
            return;
        }
        for (row, height) in even_blocks(rows, 4) {
            for (column, width) in even_blocks(columns, 3) {
                match (height, width) {
                    (1, 1) => self.tile::<S, 1, 1>(simd, row, column),
                    (1, 2) => self.tile::<S, 1, 2>(simd, row, column),
                    (1, _) => self.tile::<S, 1, 3>(simd, row, column),
                    (2, 1) => self.tile::<S, 2, 1>(simd, row, column),
                    (2, 2) => self.tile::<S, 2, 2>(simd, row, column),
                    (2, _) => self.tile::<S, 2, 3>(simd, row, column),
                    (3, 1) => self.tile::<S, 3, 1>(simd, row, column),
                    (3, 2) => self.tile::<S, 3, 2>(simd, row, column),
                    (3, _) => self.tile::<S, 3, 3>(simd, row, column),
                    (_, 1) => self.tile::<S, 4, 1>(simd, row, column),
                    (_, 2) => self.tile::<S, 4, 2>(simd, row, column),
                    (_, _) => self.tile::<S, 4, 3>(simd, row, column),
                }
            }
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn tile<S: Simd, const H: usize, const W: usize>(&mut self, simd: S, row: usize, column: usize) {
        let mut sums = [[simd.splat_f32s(0.0); W]; H];
        let vectors = self.length / S::F32_LANES;
        for image in 0..self.images {
            let left: [&[f32]; H] = runs(self.left, row, image, self.length);
            let right: [&[f32]; W] = runs(self.right, column, image, self.length);
            let mut lefts: [&[S::f32s]; H] = [&[]; H];
            for row in 0..H {
                lefts[row] = &S::as_simd_f32s(left[row]).0[..vectors];
            }
            let mut rights: [&[S::f32s]; W] = [&[]; W];
            for column in 0..W {
                rights[column] = &S::as_simd_f32s(right[column]).0[..vectors];
            }
            for vector in 0..vectors {
                let mut left = [simd.splat_f32s(0.0); H];
                for row in 0..H {
                    left[row] = lefts[row][vector];
                }
                for column in 0..W {
                    let right = rights[column][vector];
                    for row in 0..H {
                        sums[row][column] = simd.mul_add_e_f32s(left[row], right, sums[row][column]);
                    }
                }
            }
            if vectors * S::F32_LANES < self.length {
                for row in 0..H {
                    let left = ending(simd, left[row], self.length - vectors * S::F32_LANES);
                    for column in 0..W {
                        let right = last(simd, right[column]);
                        sums[row][column] = simd.mul_add_e_f32s(left, right, sums[row][column]);
                    }
                }
            }
        }
        let columns = self.right.offsets.len();
        for r in 0..H {
            for c in 0..W {
                self.target[(row + r) * columns + column + c] += simd.reduce_sum_f32s(sums[r][c]);
            }
        }
    }
}

/// The last vector of a run; a run shorter than a vector, with zeros behind it.
#[inline(always)]
fn last<S: Simd>(simd: S, run: &[f32]) -> S::f32s {
    match run.len().checked_sub(S::F32_LANES) {
        Some(at) => S::as_simd_f32s(&run[at..]).0[0],
        None => simd.partial_load_f32s(run),
    }
}

/// As [`last`], with zeros for all but the last `count` numbers of the run.
#[inline(always)]
fn ending<S: Simd>(simd: S, run: &[f32], count: usize) -> S::f32s {
    const PLACES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    let value = last(simd, run);
    if run.len() < S::F32_LANES {
        return value;
    }
    let places = S::as_simd_f32s(&PLACES).0[0];
    let first = simd.splat_f32s((S::F32_LANES - count) as f32);
    select(simd, simd.less_than_f32s(places, first), simd.splat_f32s(0.0), value)
}

#[inline(always)]
fn runs<'a, const N: usize>(runs: Runs<'a>, first: usize, image: usize, length: usize) -> [&'a [f32]; N] {
    let mut slices: [&[f32]; N] = [&[]; N];
    for run in 0..N {
        slices[run] = &runs.data[image * runs.image + runs.offsets[first + run]..][..length];
    }
    slices
}
