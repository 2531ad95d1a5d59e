//! The inner loop of a dense convolution and of the gradient of its input: weighted sums of runs.
//!
//! Plain loops over indices: a closure that is handed to a function of the library may not be inlined, and is then
//! compiled without the vector instructions.
#![allow(clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};

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
