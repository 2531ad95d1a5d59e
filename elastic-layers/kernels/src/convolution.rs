//! 2-D convolution, forward and backward, on planes that lie one after the other.

use rayon::prelude::*;

use crate::depthwise;
use crate::geometry::Geometry;
use crate::matrix::{Dots, Packed, Runs, Sums, even_blocks};
use crate::normalization::sum;
use crate::parallel::chunk_length;
use crate::simd::run;

/// Bytes of images that are kept in cache while a weight gradient is summed.
const CACHED_BYTES: usize = 256 << 10;

/// Parts of a weight gradient that are summed side by side, and the most numbers in all of them.
const PARTS: usize = 16;
const PART_NUMBERS: usize = 8 << 20;

/// The output, `[batch, channels_out, height_out, width_out]`.
pub(crate) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    if geometry.depthwise {
        return depthwise::forward(geometry, x, weight, bias);
    }
    let mut output = vec![0.0; geometry.batch * geometry.channels_out * geometry.output_plane()];
    dense_forward(geometry, x, weight, bias, &mut output);
    output
}

/// Gradients of the input and of the weight, as far as asked for.
pub(crate) fn backward(
    geometry: &Geometry,
    x: Option<&[f32]>,
    weight: Option<&[f32]>,
    grad: &[f32],
) -> [Option<Vec<f32>>; 2] {
    if geometry.depthwise {
        depthwise::backward(geometry, x, weight, grad)
    } else {
        [weight.map(|weight| dense_input(geometry, weight, grad)), x.map(|x| dense_weight(geometry, x, grad))]
    }
}

/// Gradient of the bias: the sum of every output channel's gradient.
pub(crate) fn bias_backward(geometry: &Geometry, grad: &[f32]) -> Vec<f32> {
    let (plane, channels) = (geometry.output_plane(), geometry.channels_out);
    (0..channels)
        .into_par_iter()
        .map(|channel| {
            let planes = grad.chunks_exact(plane).skip(channel).step_by(channels);
            planes.map(|plane| f64::from(sum(plane))).sum::<f64>() as f32
        })
        .collect()
}

/// Cuts a slice into pieces of these lengths; empty pieces where there is none.
fn split_sizes<'a>(data: Option<&'a mut [f32]>, sizes: &[usize]) -> Vec<&'a mut [f32]> {
    let mut rest = data.unwrap_or_default();
    let mut pieces = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let (piece, behind) = rest.split_at_mut(size.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// What a tap adds to the gradient of a phase: the taps that read it, and where each looks back to.
struct PhaseTaps {
    taps: Vec<usize>,
    offsets: Vec<usize>,
}

fn phase_taps(geometry: &Geometry) -> Vec<PhaseTaps> {
    let lead = geometry.lead();
    (0..geometry.phases.len())
        .map(|phase| {
            let all = geometry.taps.iter().enumerate().filter(|(_, tap)| tap.phase == phase);
            let (taps, offsets) = all.map(|(number, tap)| (number, lead - tap.shift)).unzip();
            PhaseTaps { taps, offsets }
        })
        .collect()
}

fn dense_forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>, output: &mut [f32]) {
    let (channels_in, channels_out) = (geometry.channels_in, geometry.channels_out);
    let (plane_in, plane_out, run_length) = (geometry.input_plane(), geometry.output_plane(), geometry.run());
    let depth = channels_in * geometry.taps.len();
    let weights = Packed::new(channels_out, depth, |row, column| weight[row * depth + column]);
    let split_plane = if geometry.pointwise { plane_in } else { geometry.split_plane() };
    let offsets = channel_offsets(channels_in, split_plane, &geometry.offsets());
    // Rows of a run without ends of rows between them are an output plane already.
    let gathers = geometry.phase[1] != geometry.output[1];
    let images = chunk_length(geometry.batch);
    let chunks = output.par_chunks_mut(images * channels_out * plane_out);
    chunks.zip(x.par_chunks(images * channels_in * plane_in)).for_each(|(output, x)| {
        let mut split = vec![0.0; if geometry.pointwise { 0 } else { channels_in * split_plane }];
        let mut runs = vec![0.0; if gathers { channels_out * run_length } else { 0 }];
        let images = output.chunks_exact_mut(channels_out * plane_out);
        for (output, x) in images.zip(x.chunks_exact(channels_in * plane_in)) {
            split_image(geometry, x, &mut split);
            let source = if geometry.pointwise { x } else { &split };
            let (target, stride) = if gathers { (&mut runs[..], run_length) } else { (&mut *output, plane_out) };
            run(Sums { weights: &weights, bias, source, offsets: &offsets, length: run_length, target, stride });
            if gathers {
                for (run, plane) in runs.chunks_exact(run_length).zip(output.chunks_exact_mut(plane_out)) {
                    geometry.gather(run, plane);
                }
            }
        }
    });
}

/// The offsets of every channel's runs: its plane's start and the taps' in it.
fn channel_offsets(channels: usize, plane: usize, taps: &[usize]) -> Vec<usize> {
    (0..channels).flat_map(|channel| taps.iter().map(move |tap| channel * plane + tap)).collect()
}

fn split_image(geometry: &Geometry, image: &[f32], split: &mut [f32]) {
    if !geometry.pointwise {
        let planes = image.chunks_exact(geometry.input_plane());
        for (plane, split) in planes.zip(split.chunks_exact_mut(geometry.split_plane())) {
            geometry.split(plane, split);
        }
    }
}

fn spread_image(geometry: &Geometry, image: &[f32], spread: &mut [f32]) {
    if !geometry.pointwise {
        let planes = image.chunks_exact(geometry.output_plane());
        for (plane, spread) in planes.zip(spread.chunks_exact_mut(geometry.spread_plane())) {
            geometry.spread(plane, spread);
        }
    }
}

fn dense_input(geometry: &Geometry, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let (channels_in, channels_out, taps) = (geometry.channels_in, geometry.channels_out, geometry.taps.len());
    let (plane_in, plane_out, phase_plane) = (geometry.input_plane(), geometry.output_plane(), geometry.phase_plane());
    let spread_plane = if geometry.pointwise { plane_out } else { geometry.spread_plane() };
    let phases: Vec<(Packed, Vec<usize>)> = phase_taps(geometry)
        .into_iter()
        .map(|phase| {
            let depth = channels_out * phase.taps.len();
            let weights = Packed::new(channels_in, depth, |row, column| {
                let (output, tap) = (column / phase.taps.len(), phase.taps[column % phase.taps.len()]);
                weight[(output * channels_in + row) * taps + tap]
            });
            (weights, channel_offsets(channels_out, spread_plane, &phase.offsets))
        })
        .collect();
    let mut x_grad = vec![0.0; geometry.batch * channels_in * plane_in];
    let images = chunk_length(geometry.batch);
    let chunks = x_grad.par_chunks_mut(images * channels_in * plane_in);
    chunks.zip(grad.par_chunks(images * channels_out * plane_out)).for_each(|(x_grad, grad)| {
        let merges = !geometry.pointwise;
        let mut spread = vec![0.0; if merges { channels_out * spread_plane } else { 0 }];
        let mut phase_grad = vec![0.0; if merges { channels_in * phase_plane } else { 0 }];
        let images = x_grad.chunks_exact_mut(channels_in * plane_in);
        for (x_grad, grad) in images.zip(grad.chunks_exact(channels_out * plane_out)) {
            spread_image(geometry, grad, &mut spread);
            let source = if merges { &spread } else { grad };
            for (phase, (weights, offsets)) in phases.iter().enumerate() {
                let target = if merges { &mut phase_grad } else { &mut *x_grad };
                run(Sums { weights, bias: None, source, offsets, length: phase_plane, target, stride: phase_plane });
                if merges {
                    let planes = x_grad.chunks_exact_mut(plane_in);
                    for (plane, phase_grad) in planes.zip(phase_grad.chunks_exact(phase_plane)) {
                        geometry.merge(phase, phase_grad, plane);
                    }
                }
            }
        }
    });
    x_grad
}

/// The gradient of the weight: every part of the batch sums its own, and the parts are added in order.
fn dense_weight(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let channels_out = geometry.channels_out;
    let depth = geometry.channels_in * geometry.taps.len();
    let size = channels_out * depth;
    let parts = (PART_NUMBERS / size).clamp(1, PARTS).min(geometry.batch);
    let bands = PARTS.div_ceil(parts).min(channels_out.div_ceil(4));
    let bands: Vec<(usize, usize)> = even_blocks(channels_out, channels_out.div_ceil(bands)).collect();
    let shared = DenseWeight::new(geometry, x, grad);
    let mut sums = vec![0.0; parts * size];
    let sizes: Vec<usize> = (0..parts).flat_map(|_| bands.iter().map(|(_, channels)| channels * depth)).collect();
    let pieces = split_sizes(Some(&mut sums), &sizes);
    pieces.into_par_iter().enumerate().for_each(|(task, sums)| {
        let (part, (first, channels)) = (task / bands.len(), bands[task % bands.len()]);
        let [start, end] = [part, part + 1].map(|part| part * geometry.batch / parts);
        shared.band(start..end, first..first + channels, sums);
    });
    let mut total = sums;
    let (first, rest) = total.split_at_mut(size);
    for part in rest.chunks_exact(size) {
        for (total, part) in first.iter_mut().zip(part) {
            *total += part;
        }
    }
    total.truncate(size);
    total
}

struct DenseWeight<'a> {
    geometry: &'a Geometry,
    x: &'a [f32],
    grad: &'a [f32],
    split_plane: usize,
    spread_plane: usize,
    offsets: Vec<usize>,
}

impl<'a> DenseWeight<'a> {
    fn new(geometry: &'a Geometry, x: &'a [f32], grad: &'a [f32]) -> Self {
        let (split_plane, spread_plane) = if geometry.pointwise {
            (geometry.input_plane(), geometry.output_plane())
        } else {
            (geometry.split_plane(), geometry.spread_plane())
        };
        let offsets = channel_offsets(geometry.channels_in, split_plane, &geometry.offsets());
        Self { geometry, x, grad, split_plane, spread_plane, offsets }
    }

    /// Adds what some images contribute to the gradients of some output channels.
    fn band(&self, images: std::ops::Range<usize>, channels: std::ops::Range<usize>, sums: &mut [f32]) {
        let geometry = self.geometry;
        let x_image = geometry.channels_in * geometry.input_plane();
        let grad_image = geometry.channels_out * geometry.output_plane();
        let (split_image_size, spread_image_size) =
            (geometry.channels_in * self.split_plane, geometry.channels_out * self.spread_plane);
        let bytes = (split_image_size + channels.len() * self.spread_plane) * size_of::<f32>();
        let together = (CACHED_BYTES / bytes).clamp(1, images.len().max(1));
        let buffer = |image: usize| vec![0.0; if geometry.pointwise { 0 } else { together * image }];
        let (mut split, mut spread) = (buffer(split_image_size), buffer(spread_image_size));
        let lead = if geometry.pointwise { 0 } else { geometry.lead() };
        let rows: Vec<usize> = channels.map(|channel| channel * self.spread_plane + lead).collect();
        for first in images.clone().step_by(together) {
            let count = together.min(images.end - first);
            let x = &self.x[first * x_image..][..count * x_image];
            let grad = &self.grad[first * grad_image..][..count * grad_image];
            if !geometry.pointwise {
                for (x, split) in x.chunks_exact(x_image).zip(split.chunks_exact_mut(split_image_size)) {
                    split_image(geometry, x, split);
                }
                for (grad, spread) in grad.chunks_exact(grad_image).zip(spread.chunks_exact_mut(spread_image_size)) {
                    spread_image(geometry, grad, spread);
                }
            }
            let (right, left) = if geometry.pointwise { (x, grad) } else { (&split[..], &spread[..]) };
            run(Dots {
                left: Runs { data: left, offsets: &rows, image: spread_image_size },
                right: Runs { data: right, offsets: &self.offsets, image: split_image_size },
                images: count,
                length: if geometry.pointwise { geometry.run() } else { geometry.whole_run() },
                target: &mut *sums,
            });
        }
    }
}
