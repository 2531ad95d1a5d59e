//! Depthwise convolution, as many channels at once as a vector has numbers.
//!
//! The planes of a group of channels are transposed into *pixels*, vectors with a number of each channel, in a grid with
//! room for the padding. There every tap of every output is one product of vectors, whatever stride, dilation and the
//! size of the planes are; the results are transposed back.
#![allow(clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::geometry::Geometry;
use crate::matrix::even_blocks;
use crate::parallel::chunk_length;
use crate::simd::{run_narrow, width};
use crate::transpose::{from_pixels, to_pixels};

/// Taps whose weight gradients are summed together, each in a register.
const TAPS: usize = 9;

/// Parts of the batch whose weight gradients are summed side by side; a result does not depend on the threads.
const PARTS: usize = 8;

/// Pixels after which the sums of a weight gradient are added to those in memory: long sums lose digits.
const RUN: usize = 256;

/// The output, `[batch, channels, height_out, width_out]`.
pub(crate) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (channels, plane) = (geometry.channels_in, geometry.output_plane());
    let mut output = vec![0.0; geometry.batch * channels * plane];
    let filter = packed(weight, geometry.taps.len());
    let input = Grid::padded_input(geometry);
    let stencil = Stencil::forward(geometry, &input);
    let lanes = width();
    // One for every image and group of channels.
    let images = output.chunks_exact_mut(channels * plane).zip(x.chunks_exact(channels * geometry.input_plane()));
    let mut groups: Vec<Group<'_>> = images
        .flat_map(|(output, x)| {
            let planes = output.chunks_mut(lanes * plane).zip(x.chunks(lanes * geometry.input_plane()));
            planes.enumerate().map(|(group, (output, x))| Group { first: group * lanes, x, output })
        })
        .collect();
    let length = chunk_length(groups.len());
    groups.par_chunks_mut(length).for_each(|groups| {
        run_narrow(Forward { filter: &filter, bias, input: &input, stencil: &stencil, groups });
    });
    output
}

/// Gradients of the input and of the weight, as far as asked for.
pub(crate) fn backward(
    geometry: &Geometry,
    x: Option<&[f32]>,
    weight: Option<&[f32]>,
    grad: &[f32],
) -> [Option<Vec<f32>>; 2] {
    let (channels, taps) = (geometry.channels_in, geometry.taps.len());
    let mut x_grad = weight.map(|_| vec![0.0; geometry.batch * channels * geometry.input_plane()]);
    let input = Grid::padded_input(geometry);
    let forward = Stencil::forward(geometry, &input);
    let reversed = geometry.is_unit_stride().then(|| {
        let grid = Grid::padded_output(geometry);
        (Stencil::reversed(geometry, &grid), grid)
    });
    let filter = packed(weight.unwrap_or_default(), taps);
    let shared = Shared { geometry, x, filter, grad, input, forward, reversed };
    let lanes = width();
    let parts = geometry.batch.min(PARTS);
    let mut tasks: Vec<Backward<'_>> = (0..parts * channels.div_ceil(lanes))
        .map(|task| {
            let (part, first) = (task % parts, task / parts * lanes);
            let [start, end] = [part, part + 1].map(|part| part * geometry.batch / parts);
            Backward { shared: &shared, images: start..end, first, x_grad: Vec::new(), sums: Vec::new() }
        })
        .collect();
    let images = x_grad.as_deref_mut().unwrap_or_default().chunks_exact_mut(channels * geometry.input_plane());
    for (image, x_grad) in images.enumerate() {
        let part = (0..parts).rfind(|part| part * geometry.batch / parts <= image).unwrap_or_default();
        for (group, planes) in x_grad.chunks_mut(lanes * geometry.input_plane()).enumerate() {
            tasks[group * parts + part].x_grad.push(planes);
        }
    }
    tasks.par_iter_mut().for_each(|task| run_narrow(task));
    let weight_grad = x.map(|_| {
        let mut total = vec![0.0; channels * taps];
        for task in &tasks {
            for (tap, sums) in task.sums.chunks_exact(lanes).enumerate() {
                for (channel, sum) in (task.first..channels).zip(sums) {
                    total[channel * taps + tap] += sum;
                }
            }
        }
        total
    });
    drop(tasks);
    [x_grad, weight_grad]
}

/// Where the pixels of a plane lie in a larger grid.
#[derive(Debug)]
pub(crate) struct Grid {
    /// Rows of as many pixels.
    columns: usize,
    /// Pixels in the grid, with one more for what no tap reads.
    pub length: usize,
    /// For every pixel of the plane, in its order.
    pub places: Vec<usize>,
}

impl Grid {
    /// A plane from which `lead` rows and columns are missing in front, in a grid of some size.
    fn new(plane: [usize; 2], lead: [isize; 2], [rows, columns]: [usize; 2]) -> Self {
        let outside = rows * columns;
        let place = |row: usize, column: usize| {
            let row = row.checked_add_signed(lead[0]).filter(|row| *row < rows);
            let column = column.checked_add_signed(lead[1]).filter(|column| *column < columns);
            row.zip(column).map_or(outside, |(row, column)| row * columns + column)
        };
        let places = (0..plane[0]).flat_map(|row| (0..plane[1]).map(move |column| place(row, column))).collect();
        Self { columns, length: outside + 1, places }
    }

    /// The plane itself.
    pub fn plain(length: usize) -> Self {
        Self { columns: length, length, places: (0..length).collect() }
    }

    /// The input with its padding, as far as taps read it.
    pub fn padded_input(geometry: &Geometry) -> Self {
        let reach = geometry.reach();
        let size = [0, 1].map(|axis| (geometry.output[axis] - 1) * geometry.stride[axis] + reach[axis]);
        Self::new(geometry.input, geometry.padding.map(usize::cast_signed), size)
    }

    /// The output's gradient, as far as the inputs read it, at stride 1.
    fn padded_output(geometry: &Geometry) -> Self {
        let reach = geometry.reach();
        let lead = [0, 1].map(|axis| (reach[axis] - 1).cast_signed() - geometry.padding[axis].cast_signed());
        Self::new(geometry.output, lead, [0, 1].map(|axis| geometry.input[axis] + reach[axis] - 1))
    }
}

/// What every pixel of a target reads from a grid.
#[derive(Debug)]
pub(crate) struct Stencil {
    /// Rows and columns of the target.
    pub target: [usize; 2],
    /// Distances in the grid between what neighbouring rows and columns of the target read.
    pub steps: [usize; 2],
    /// For every tap.
    pub offsets: Vec<usize>,
}

impl Stencil {
    /// Every pixel reads itself.
    pub fn plain(length: usize) -> Self {
        Self { target: [1, length], steps: [length, 1], offsets: vec![0] }
    }

    pub fn forward(geometry: &Geometry, input: &Grid) -> Self {
        Self {
            target: geometry.output,
            steps: [geometry.stride[0] * input.columns, geometry.stride[1]],
            offsets: geometry.taps.iter().map(|tap| tap.place[0] * input.columns + tap.place[1]).collect(),
        }
    }

    /// What the gradient of every input reads from that of the output, at stride 1.
    fn reversed(geometry: &Geometry, output: &Grid) -> Self {
        let [rows, columns] = geometry.reach();
        let offset = |[row, column]: [usize; 2]| (rows - 1 - row) * output.columns + columns - 1 - column;
        Self {
            target: geometry.input,
            steps: [output.columns, 1],
            offsets: geometry.taps.iter().map(|tap| offset(tap.place)).collect(),
        }
    }

    fn pixels(&self) -> usize {
        self.target[0] * self.target[1]
    }

    /// `target[pixel] = start + sum over taps of weights[tap] * source[what the pixel reads]`.
    #[inline(always)]
    fn sums<S: Simd>(&self, simd: S, weights: &[S::f32s], start: S::f32s, source: &[S::f32s], target: &mut [S::f32s]) {
        let [rows, columns] = self.target;
        for row in 0..rows {
            let source = &source[row * self.steps[0]..];
            let target = &mut target[row * columns..][..columns];
            let mut column = 0;
            while column + 8 <= columns {
                self.block::<S, 8>(simd, weights, start, source, target, column);
                column += 8;
            }
            if column + 4 <= columns {
                self.block::<S, 4>(simd, weights, start, source, target, column);
                column += 4;
            }
            if column + 2 <= columns {
                self.block::<S, 2>(simd, weights, start, source, target, column);
                column += 2;
            }
            if column < columns {
                self.block::<S, 1>(simd, weights, start, source, target, column);
            }
        }
    }

    /// `N` pixels of a row.
    #[inline(always)]
    fn block<S: Simd, const N: usize>(
        &self,
        simd: S,
        weights: &[S::f32s],
        start: S::f32s,
        source: &[S::f32s],
        target: &mut [S::f32s],
        column: usize,
    ) {
        let step = self.steps[1];
        let mut sums = [start; N];
        for (weight, offset) in weights.iter().zip(&self.offsets) {
            let source = &source[offset + column * step..][..(N - 1) * step + 1];
            for pixel in 0..N {
                sums[pixel] = simd.mul_add_e_f32s(*weight, source[pixel * step], sums[pixel]);
            }
        }
        target[column..column + N].copy_from_slice(&sums);
    }

    /// The reverse of [`Self::sums`]: adds to what every pixel reads its own value, times the weights.
    #[inline(always)]
    fn scatter<S: Simd>(&self, simd: S, weights: &[S::f32s], target: &[S::f32s], source: &mut [S::f32s]) {
        let [rows, columns] = self.target;
        for row in 0..rows {
            for column in 0..columns {
                let value = target[row * columns + column];
                let source = &mut source[row * self.steps[0] + column * self.steps[1]..];
                for (weight, &offset) in weights.iter().zip(&self.offsets) {
                    source[offset] = simd.mul_add_e_f32s(*weight, value, source[offset]);
                }
            }
        }
    }

    /// `sums[tap] += sum over pixels of target[pixel] * source[what the pixel reads]`.
    #[inline(always)]
    fn dots<S: Simd>(&self, simd: S, target: &[S::f32s], source: &[S::f32s], sums: &mut [S::f32s]) {
        for (first, count) in even_blocks(self.offsets.len(), TAPS) {
            match count {
                1 => self.dots_of::<S, 1>(simd, first, target, source, sums),
                2 => self.dots_of::<S, 2>(simd, first, target, source, sums),
                3 => self.dots_of::<S, 3>(simd, first, target, source, sums),
                4 => self.dots_of::<S, 4>(simd, first, target, source, sums),
                5 => self.dots_of::<S, 5>(simd, first, target, source, sums),
                6 => self.dots_of::<S, 6>(simd, first, target, source, sums),
                7 => self.dots_of::<S, 7>(simd, first, target, source, sums),
                8 => self.dots_of::<S, 8>(simd, first, target, source, sums),
                _ => self.dots_of::<S, TAPS>(simd, first, target, source, sums),
            }
        }
    }

    #[inline(always)]
    fn dots_of<S: Simd, const N: usize>(
        &self,
        simd: S,
        first: usize,
        target: &[S::f32s],
        source: &[S::f32s],
        totals: &mut [S::f32s],
    ) {
        let [rows, columns] = self.target;
        let mut offsets = [0; N];
        offsets.copy_from_slice(&self.offsets[first..first + N]);
        let furthest = offsets.iter().fold(0, |furthest: usize, offset| furthest.max(*offset));
        let totals = &mut totals[first..first + N];
        let mut sums = [simd.splat_f32s(0.0); N];
        let mut summed = 0;
        for row in 0..rows {
            for (column, value) in target[row * columns..][..columns].iter().enumerate() {
                let source = &source[row * self.steps[0] + column * self.steps[1]..][..=furthest];
                for tap in 0..N {
                    sums[tap] = simd.mul_add_e_f32s(*value, source[offsets[tap]], sums[tap]);
                }
            }
            summed += columns;
            if summed >= RUN || row + 1 == rows {
                for (total, sum) in totals.iter_mut().zip(&mut sums) {
                    *total = simd.add_f32s(*total, *sum);
                    *sum = simd.splat_f32s(0.0);
                }
                summed = 0;
            }
        }
    }
}

/// The weights of all groups of channels: for every tap a vector, with zeros where there is no channel.
fn packed(weight: &[f32], taps: usize) -> Vec<f32> {
    let lanes = width();
    let mut packed = Vec::with_capacity(weight.len().next_multiple_of(taps * lanes));
    for group in weight.chunks(taps * lanes) {
        for tap in 0..taps {
            packed.extend((0..lanes).map(|lane| group.get(lane * taps + tap).copied().unwrap_or_default()));
        }
    }
    packed
}

/// The planes of some channels of an image, as many as a vector has numbers, or the last of them.
struct Group<'a> {
    /// The first channel.
    first: usize,
    x: &'a [f32],
    output: &'a mut [f32],
}

struct Forward<'a, 'b> {
    filter: &'a [f32],
    bias: Option<&'a [f32]>,
    input: &'a Grid,
    stencil: &'a Stencil,
    groups: &'b mut [Group<'a>],
}

impl WithSimd for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { filter, bias, input, stencil, groups } = self;
        let lanes = S::F32_LANES;
        let mut source = vec![0.0; input.length * lanes];
        let mut target = vec![0.0; stencil.pixels() * lanes];
        let plain = Grid::plain(stencil.pixels());
        let taps = stencil.offsets.len();
        let (source, target) = (S::as_mut_simd_f32s(&mut source).0, S::as_mut_simd_f32s(&mut target).0);
        for group in groups {
            let weights = S::as_simd_f32s(&filter[group.first * taps..][..taps * lanes]).0;
            let start = match bias {
                Some(bias) => simd.partial_load_f32s(&bias[group.first..bias.len().min(group.first + lanes)]),
                None => simd.splat_f32s(0.0),
            };
            to_pixels(simd, group.x, &input.places, source);
            stencil.sums(simd, weights, start, source, target);
            from_pixels(simd, target, &plain.places, group.output);
        }
    }
}

/// What the tasks of a gradient share.
struct Shared<'a> {
    geometry: &'a Geometry,
    x: Option<&'a [f32]>,
    /// Empty if the gradient of the input is not asked for.
    filter: Vec<f32>,
    grad: &'a [f32],
    input: Grid,
    forward: Stencil,
    /// At stride 1, where a gradient of the input can be summed pixel by pixel.
    reversed: Option<(Stencil, Grid)>,
}

/// The gradients of a group of channels, of some images.
struct Backward<'a> {
    shared: &'a Shared<'a>,
    images: std::ops::Range<usize>,
    /// The first channel.
    first: usize,
    /// For every image, the planes of the channels; empty if not asked for.
    x_grad: Vec<&'a mut [f32]>,
    /// For every tap, a vector with a number for each channel; empty if not asked for.
    sums: Vec<f32>,
}

impl WithSimd for &mut Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shared { geometry, x, filter, grad, input, forward, reversed } = self.shared;
        let (lanes, taps) = (S::F32_LANES, geometry.taps.len());
        let channels = self.first..geometry.channels_in.min(self.first + lanes);
        // The planes of the group in an image.
        let planes = |image: usize, plane: usize| {
            let [start, end] =
                [channels.start, channels.end].map(|channel| (image * geometry.channels_in + channel) * plane);
            start..end
        };
        let buffer = |pixels: usize| vec![0.0; pixels * lanes];
        let plain = Grid::plain(geometry.output_plane());
        let mut grads = buffer(plain.length);
        let mut inputs = buffer(if x.is_some() { input.length } else { 0 });
        if x.is_some() {
            self.sums = vec![0.0; taps * lanes];
        }
        // The output's gradient with room around it and the input's; or the input's, with its padding.
        let (grid, target) = match reversed {
            Some((_, grid)) => (grid, geometry.input_plane()),
            None => (input, 0),
        };
        let (mut spread, mut target) = (buffer(grid.length), buffer(target));
        let whole = Grid::plain(geometry.input_plane());
        let weights = filter.get(self.first * taps..(self.first + lanes) * taps).unwrap_or_default();
        let (grads, weights) = (S::as_mut_simd_f32s(&mut grads).0, S::as_simd_f32s(weights).0);
        let (inputs, sums) = (S::as_mut_simd_f32s(&mut inputs).0, S::as_mut_simd_f32s(&mut self.sums).0);
        let (spread, target) = (S::as_mut_simd_f32s(&mut spread).0, S::as_mut_simd_f32s(&mut target).0);
        for (number, image) in self.images.clone().enumerate() {
            to_pixels(simd, &grad[planes(image, geometry.output_plane())], &plain.places, grads);
            if let Some(x) = x {
                to_pixels(simd, &x[planes(image, geometry.input_plane())], &input.places, inputs);
                forward.dots(simd, grads, inputs, sums);
            }
            let Some(x_grad) = self.x_grad.get_mut(number) else { continue };
            match reversed {
                Some((stencil, grid)) => {
                    for (value, &place) in grads.iter().zip(&grid.places) {
                        spread[place] = *value;
                    }
                    stencil.sums(simd, weights, simd.splat_f32s(0.0), spread, target);
                    from_pixels(simd, target, &whole.places, x_grad);
                }
                None => {
                    spread.fill(simd.splat_f32s(0.0));
                    forward.scatter(simd, weights, grads, spread);
                    from_pixels(simd, spread, &input.places, x_grad);
                }
            }
        }
    }
}
