//! 2-D convolution, forward and backward, on planes that lie one after the other.

use rayon::prelude::*;

use crate::depthwise;
use crate::geometry::Geometry;
use crate::matrix::{Packed, Sums};
use crate::normalization::sum;
use crate::parallel::chunk_length;
use crate::simd::run;
use crate::weight;

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
        [weight.map(|weight| dense_input(geometry, weight, grad)), x.map(|x| weight::gradient(geometry, x, grad))]
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
