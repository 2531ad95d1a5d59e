//! The gradient of a dense convolution's weight.
//!
//! Gradients of the output and inputs are transposed into *panels*, pixel by pixel a vector of channels. What a pixel adds
//! to the gradient of the weight is the product of one number of the output's gradient with a vector of inputs, whatever
//! the size of the planes is: for every tile of some output channels and some panels and taps, the sums stay in
//! registers over all pixels.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::depthwise::{Grid, Stencil};
use crate::geometry::Geometry;
use crate::matrix::even_blocks;
use crate::simd::{run_narrow, width};
use crate::transpose::to_pixels;

/// Parts of the sum that are worked on side by side; a result does not depend on the threads.
const TASKS: usize = 16;

/// Output channels for which a task of its own is worth transposing the inputs once more.
const BAND: usize = 32;

/// The most numbers in the sums of all tasks.
const NUMBERS: usize = 8 << 20;

/// Pixels after which the sums in registers are added to those in memory: long sums lose digits.
const RUN: usize = 512;

/// Bytes of panels that stay in cache.
const CACHED_BYTES: usize = 512 << 10;

/// Panels and taps in a tile.
const COLUMNS: usize = 3;

/// The gradient, `[channels_out, channels_in, kernel_height, kernel_width]`.
pub(crate) fn gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (channels_out, taps, lanes) = (geometry.channels_out, geometry.taps.len(), width());
    let depth = geometry.channels_in * taps;
    let parts = TASKS / (channels_out / BAND).clamp(1, 4);
    let parts = parts.min(NUMBERS / (channels_out * depth)).clamp(1, geometry.batch);
    let panels = channels_out.div_ceil(lanes);
    let bands = even_blocks(panels, panels.div_ceil(TASKS / parts));
    let shared = Shared::new(geometry, x, grad);
    let mut tasks: Vec<Task<'_>> = bands
        .flat_map(|(first, count)| {
            (0..parts).map(move |part| {
                let [start, end] = [part, part + 1].map(|part| part * geometry.batch / parts);
                (first..first + count, start..end)
            })
        })
        .map(|(panels, images)| Task { shared: &shared, panels, images, sums: Vec::new() })
        .collect();
    tasks.par_iter_mut().for_each(|task| run_narrow(task));
    let mut total = vec![0.0; channels_out * depth];
    let bands = tasks.chunks(parts).flat_map(|parts| parts[0].panels.clone().map(move |panel| (parts, panel)));
    let panels: Vec<(&[Task<'_>], usize, &mut [f32])> =
        bands.zip(total.chunks_mut(lanes * depth)).map(|((parts, panel), total)| (parts, panel, total)).collect();
    panels.into_par_iter().for_each(|(parts, panel, total)| {
        for part in parts {
            let sums = &part.sums[(panel - part.panels.start) * lanes * shared.columns() * lanes..];
            for (total, sums) in total.chunks_exact_mut(depth).zip(sums.chunks_exact(shared.columns() * lanes)) {
                for (channel, total) in total.chunks_exact_mut(taps).enumerate() {
                    let (panel, lane) = (channel / lanes, channel % lanes);
                    for (tap, total) in total.iter_mut().enumerate() {
                        *total += sums[(panel * taps + tap) * lanes + lane];
                    }
                }
            }
        }
    });
    total
}

struct Shared<'a> {
    geometry: &'a Geometry,
    x: &'a [f32],
    grad: &'a [f32],
    input: Grid,
    stencil: Stencil,
    output: Grid,
    /// Images whose panels are worked on together.
    images: usize,
}

impl<'a> Shared<'a> {
    fn new(geometry: &'a Geometry, x: &'a [f32], grad: &'a [f32]) -> Self {
        let plane = geometry.output_plane();
        let (input, stencil) = if geometry.pointwise {
            (Grid::plain(plane), Stencil::plain(plane))
        } else {
            let input = Grid::padded_input(geometry);
            let stencil = Stencil::forward(geometry, &input);
            (input, stencil)
        };
        let bytes = (geometry.channels_in * input.length + geometry.channels_out * plane) * size_of::<f32>();
        let images = (CACHED_BYTES / bytes).min(RUN / plane).max(1);
        Self { geometry, x, grad, input, stencil, output: Grid::plain(plane), images }
    }

    /// Panels of inputs, each as often as there are taps.
    fn columns(&self) -> usize {
        self.geometry.channels_in.div_ceil(width()) * self.geometry.taps.len()
    }
}

/// The sums over some images, of some panels of output channels.
struct Task<'a> {
    shared: &'a Shared<'a>,
    panels: Range<usize>,
    images: Range<usize>,
    /// For every output channel and column, a vector.
    sums: Vec<f32>,
}

impl WithSimd for &mut Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shared { geometry, x, grad, input, stencil, output, images: together } = self.shared;
        let lanes = S::F32_LANES;
        let [channels_in, channels_out] = [geometry.channels_in, geometry.channels_out];
        let columns = self.shared.columns();
        let mut inputs = vec![0.0; channels_in.div_ceil(lanes) * together * input.length * lanes];
        let mut grads = vec![0.0; self.panels.len() * together * output.length * lanes];
        self.sums = vec![0.0; self.panels.len() * lanes * columns * lanes];
        let sums = S::as_mut_simd_f32s(&mut self.sums).0;
        let places: Vec<usize> = (0..channels_in.div_ceil(lanes))
            .flat_map(|panel| stencil.offsets.iter().map(move |offset| panel * together * input.length + offset))
            .collect();
        for first in self.images.clone().step_by(*together) {
            let images = first..self.images.end.min(first + together);
            for (number, image) in images.clone().enumerate() {
                let x = &x[image * channels_in * geometry.input_plane()..][..channels_in * geometry.input_plane()];
                for (panel, planes) in x.chunks(lanes * geometry.input_plane()).enumerate() {
                    let pixels = &mut S::as_mut_simd_f32s(&mut inputs).0[(panel * together + number) * input.length..];
                    to_pixels(simd, planes, &input.places, pixels);
                }
                let grad = &grad[image * channels_out * output.length..][..channels_out * output.length];
                let planes = grad.chunks(lanes * output.length).skip(self.panels.start).take(self.panels.len());
                for (panel, planes) in planes.enumerate() {
                    let pixels = &mut S::as_mut_simd_f32s(&mut grads).0[(panel * together + number) * output.length..];
                    to_pixels(simd, planes, &output.places, pixels);
                }
            }
            let tiles = Tiles {
                inputs: S::as_simd_f32s(&inputs).0,
                input_length: input.length,
                grads: &grads,
                grad_length: output.length,
                images: images.len(),
                stencil,
                places: &places,
            };
            let [rows, row_length] = stencil.target;
            let row_block = (RUN / row_length).clamp(1, rows);
            for first in (0..rows).step_by(row_block) {
                let rows = first..rows.min(first + row_block);
                for panel in 0..self.panels.len() {
                    let sums = &mut sums[panel * lanes * columns..][..lanes * columns];
                    tiles.panel(simd, panel * together, rows.clone(), sums);
                }
            }
        }
    }
}

/// What the tiles of some images are summed from.
struct Tiles<'a, V> {
    inputs: &'a [V],
    /// Pixels in an image of a panel of inputs, and of gradients.
    input_length: usize,
    grads: &'a [f32],
    grad_length: usize,
    images: usize,
    stencil: &'a Stencil,
    /// For every column, where its panel and tap start.
    places: &'a [usize],
}

impl<V: Copy> Tiles<'_, V> {
    /// All tiles of a panel of gradients, whose first image is at `start`.
    #[inline(always)]
    fn panel<S: Simd<f32s = V>>(&self, simd: S, start: usize, rows: Range<usize>, sums: &mut [V]) {
        for (column, width) in even_blocks(self.places.len(), COLUMNS) {
            if S::F32_LANES < 4 {
                for lane in 0..S::F32_LANES {
                    match width {
                        1 => self.tile::<S, 1, 1>(simd, start, lane, column, rows.clone(), sums),
                        2 => self.tile::<S, 1, 2>(simd, start, lane, column, rows.clone(), sums),
                        _ => self.tile::<S, 1, 3>(simd, start, lane, column, rows.clone(), sums),
                    }
                }
                continue;
            }
            for lane in (0..S::F32_LANES).step_by(4) {
                match width {
                    1 => self.tile::<S, 4, 1>(simd, start, lane, column, rows.clone(), sums),
                    2 => self.tile::<S, 4, 2>(simd, start, lane, column, rows.clone(), sums),
                    _ => self.tile::<S, 4, 3>(simd, start, lane, column, rows.clone(), sums),
                }
            }
        }
    }

    /// `H` output channels from `lane` on, and `W` columns.
    #[inline(always)]
    fn tile<S: Simd<f32s = V>, const H: usize, const W: usize>(
        &self,
        simd: S,
        start: usize,
        lane: usize,
        column: usize,
        rows: Range<usize>,
        totals: &mut [V],
    ) {
        let lanes = S::F32_LANES;
        let [row_step, step] = self.stencil.steps;
        let length = self.stencil.target[1];
        let mut sums = [[simd.splat_f32s(0.0); W]; H];
        for image in 0..self.images {
            for row in rows.clone() {
                let place = (start + image) * self.grad_length + row * length;
                let grads = &self.grads[place * lanes..][..length * lanes];
                let place = image * self.input_length + row * row_step;
                let mut inputs: [&[V]; W] = [&[]; W];
                for w in 0..W {
                    inputs[w] = &self.inputs[self.places[column + w] + place..][..(length - 1) * step + 1];
                }
                for (pixel, grads) in grads.chunks_exact(lanes).enumerate() {
                    for w in 0..W {
                        let input = inputs[w][pixel * step];
                        for h in 0..H {
                            sums[h][w] = simd.mul_add_e_f32s(simd.splat_f32s(grads[lane + h]), input, sums[h][w]);
                        }
                    }
                }
            }
        }
        for h in 0..H {
            let totals = &mut totals[(lane + h) * self.places.len() + column..][..W];
            for w in 0..W {
                totals[w] = simd.add_f32s(totals[w], sums[h][w]);
            }
        }
    }
}
