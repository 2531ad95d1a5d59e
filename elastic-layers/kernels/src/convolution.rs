//! 2-D convolution, forward and backward, on planes that lie one after the other.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::geometry::Geometry;
use crate::matrix::{Dots, Packed, Runs, Sums, even_blocks};
use crate::normalization::sum;
use crate::parallel::{channel_tasks, chunk_length};
use crate::simd::run;

/// Bytes of images that are kept in cache while a weight gradient is summed.
const CACHED_BYTES: usize = 256 << 10;

/// Parts of a weight gradient that are summed side by side, and the most numbers in all of them.
const PARTS: usize = 16;
const PART_NUMBERS: usize = 8 << 20;

/// The output, `[batch, channels_out, height_out, width_out]`.
pub(crate) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut output = vec![0.0; geometry.batch * geometry.channels_out * geometry.output_plane()];
    if geometry.depthwise {
        depthwise_forward(geometry, x, weight, bias, &mut output);
    } else {
        dense_forward(geometry, x, weight, bias, &mut output);
    }
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
        depthwise_backward(geometry, x, weight, grad)
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

fn depthwise_forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>, output: &mut [f32]) {
    let (plane_in, plane_out) = (geometry.input_plane(), geometry.output_plane());
    let planes = chunk_length(geometry.batch * geometry.channels_in);
    let taps = geometry.taps.len();
    let filters: Vec<Packed> =
        weight.chunks_exact(taps).map(|filter| Packed::new(1, taps, |_, tap| filter[tap])).collect();
    let offsets = geometry.offsets();
    output.par_chunks_mut(planes * plane_out).zip(x.par_chunks(planes * plane_in)).enumerate().for_each(
        |(chunk, (output, x))| {
            run(DepthwiseForward {
                geometry,
                first: chunk * planes,
                filters: &filters,
                bias,
                offsets: &offsets,
                x,
                output,
            });
        },
    );
}

struct DepthwiseForward<'a> {
    geometry: &'a Geometry,
    /// The number of the first plane.
    first: usize,
    filters: &'a [Packed],
    bias: Option<&'a [f32]>,
    offsets: &'a [usize],
    x: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for DepthwiseForward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let geometry = self.geometry;
        let mut split = vec![0.0; geometry.split_plane()];
        let length = geometry.run();
        let mut target = vec![0.0; length];
        let planes = self.x.chunks_exact(geometry.input_plane());
        for (number, (x, output)) in planes.zip(self.output.chunks_exact_mut(geometry.output_plane())).enumerate() {
            let channel = (self.first + number) % geometry.channels_in;
            geometry.split(x, &mut split);
            Sums {
                weights: &self.filters[channel],
                bias: self.bias.map(|bias| &bias[channel..=channel]),
                source: &split,
                offsets: self.offsets,
                length,
                target: &mut target,
                stride: length,
            }
            .with_simd(simd);
            geometry.gather(&target, output);
        }
    }
}

fn depthwise_backward(
    geometry: &Geometry,
    x: Option<&[f32]>,
    weight: Option<&[f32]>,
    grad: &[f32],
) -> [Option<Vec<f32>>; 2] {
    let (channels, taps) = (geometry.channels_in, geometry.taps.len());
    let mut x_grad = weight.map(|_| vec![0.0; geometry.batch * channels * geometry.input_plane()]);
    let mut weight_grad = x.map(|_| vec![0.0; channels * taps]);
    let backward = DepthwiseBackward::new(geometry, x, weight, grad);
    let tasks = channel_tasks(x_grad.as_deref_mut(), channels, geometry.input_plane());
    let sizes: Vec<usize> = tasks.iter().map(|task| task.channels.len() * taps).collect();
    let weight_grads = split_sizes(weight_grad.as_deref_mut(), &sizes);
    tasks.into_par_iter().zip(weight_grads).for_each(|(task, weight_grad)| {
        run(DepthwiseTask { shared: &backward, channels: task.channels, x_grad: task.planes, weight_grad });
    });
    [x_grad, weight_grad]
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

struct DepthwiseBackward<'a> {
    geometry: &'a Geometry,
    x: Option<&'a [f32]>,
    grad: &'a [f32],
    phases: Vec<PhaseTaps>,
    /// For every channel, then every phase.
    filters: Vec<Packed>,
    offsets: Vec<usize>,
    /// Images that are spread out together.
    images: usize,
}

impl<'a> DepthwiseBackward<'a> {
    fn new(geometry: &'a Geometry, x: Option<&'a [f32]>, weight: Option<&[f32]>, grad: &'a [f32]) -> Self {
        let phases = phase_taps(geometry);
        let filters = weight.unwrap_or_default().chunks_exact(geometry.taps.len());
        let filters = filters
            .flat_map(|filter| {
                phases.iter().map(|phase| Packed::new(1, phase.taps.len(), |_, tap| filter[phase.taps[tap]]))
            })
            .collect();
        let bytes = (geometry.split_plane() + geometry.spread_plane()) * size_of::<f32>();
        let images = (CACHED_BYTES / 16 / bytes).clamp(1, 8);
        Self { geometry, x, grad, phases, filters, offsets: geometry.offsets(), images }
    }
}

struct DepthwiseTask<'a, 'b> {
    shared: &'a DepthwiseBackward<'a>,
    channels: std::ops::Range<usize>,
    /// For every image, the planes of the channels; empty if not asked for.
    x_grad: Vec<&'b mut [f32]>,
    /// For every channel, its taps; empty if not asked for.
    weight_grad: &'b mut [f32],
}

impl WithSimd for DepthwiseTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let DepthwiseBackward { geometry, x, grad, phases, filters, offsets, images } = self.shared;
        let (channels, taps, lead) = (geometry.channels_in, geometry.taps.len(), geometry.lead());
        let (plane_in, plane_out) = (geometry.input_plane(), geometry.output_plane());
        let (split_plane, spread_plane) = (geometry.split_plane(), geometry.spread_plane());
        let covered = geometry.is_covered();
        let mut split = vec![0.0; images * split_plane];
        let mut spread = vec![0.0; images * spread_plane];
        let mut phase_grad = vec![0.0; geometry.phase_plane()];
        for (number, channel) in self.channels.clone().enumerate() {
            for first in (0..geometry.batch).step_by(*images) {
                let images = first..(first + images).min(geometry.batch);
                for (image, spread) in images.clone().zip(spread.chunks_exact_mut(spread_plane)) {
                    geometry.spread(&grad[(image * channels + channel) * plane_out..][..plane_out], spread);
                }
                if let Some(x) = x {
                    for (image, split) in images.clone().zip(split.chunks_exact_mut(split_plane)) {
                        geometry.split(&x[(image * channels + channel) * plane_in..][..plane_in], split);
                    }
                    Dots {
                        left: Runs { data: &spread, offsets: &[lead], image: spread_plane },
                        right: Runs { data: &split, offsets, image: split_plane },
                        images: images.len(),
                        length: geometry.whole_run(),
                        target: &mut self.weight_grad[number * taps..][..taps],
                    }
                    .with_simd(simd);
                }
                if filters.is_empty() {
                    continue;
                }
                for (image, spread) in images.zip(spread.chunks_exact(spread_plane)) {
                    let target = &mut self.x_grad[image][number * plane_in..][..plane_in];
                    if !covered {
                        target.fill(0.0);
                    }
                    for (phase, from) in phases.iter().enumerate() {
                        Sums {
                            weights: &filters[channel * phases.len() + phase],
                            bias: None,
                            source: spread,
                            offsets: &from.offsets,
                            length: geometry.phase_plane(),
                            target: &mut phase_grad,
                            stride: geometry.phase_plane(),
                        }
                        .with_simd(simd);
                        geometry.merge(phase, &phase_grad, target);
                    }
                }
            }
        }
    }
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
