//! 2-D convolution of channels-last maps, forward and backward, with the normalisation behind it.

use std::ops::Range;

use rayon::prelude::*;

use crate::applied::{Applied, Framed, Weight, forward_stencil, pixels_together};
use crate::buffer::{Buffer, take, zeros};
use crate::corner::Corner;
use crate::depthwise::{Rows, WeightGrad};
use crate::elementwise;
use crate::geometry::{Geometry, runs};
use crate::moments::{Moments, Scratch};
use crate::normalization::{Normalizer, NormalizerGrad};
use crate::origin::Input;
use crate::parallel::{LEAST, cut};
use crate::simd::{MOST_LANES, run, width};
use crate::tiles::{Outer, Vectors, even_blocks};

/// Parts of the batch: a sum is the same, however many threads work on them.
const PARTS: usize = 16;

/// The most numbers in the sums of all parts of a weight's gradient.
const SUMS: usize = 1 << 19;

/// Numbers of outputs of which statistics are gathered at once: they are in cache still.
const GATHERED: usize = 1 << 12;

/// What happens to outputs as soon as they are there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behind<'a> {
    Nothing,
    Normalize(&'a Normalizer),
    /// Their statistics are gathered.
    Statistics,
}

/// Units of work that need nothing of each other: maps, or, of a pointwise convolution, some pixels of all.
#[derive(Clone, Copy, Debug)]
struct Units {
    count: usize,
    /// Numbers of a unit, but for the last; and in all.
    input: usize,
    output: usize,
    all_inputs: usize,
    all_outputs: usize,
}

impl Units {
    fn new(geometry: &Geometry) -> Self {
        let [inputs, outputs] =
            [geometry.input_pixels(), geometry.output_pixels()].map(|pixels| geometry.batch * pixels);
        let together = pixels_together(geometry);
        let (count, pixels) = match geometry.is_pointwise() {
            true => (outputs.div_ceil(together), [together; 2]),
            false => (geometry.batch, [geometry.input_pixels(), geometry.output_pixels()]),
        };
        Self {
            count,
            input: pixels[0] * geometry.channels_in,
            output: pixels[1] * geometry.channels_out,
            all_inputs: inputs * geometry.channels_in,
            all_outputs: outputs * geometry.channels_out,
        }
    }

    fn inputs(&self, units: Range<usize>) -> Range<usize> {
        units.start * self.input..(units.end * self.input).min(self.all_inputs)
    }

    fn outputs(&self, units: Range<usize>) -> Range<usize> {
        units.start * self.output..(units.end * self.output).min(self.all_outputs)
    }

    /// At most so many parts of the units.
    fn parts(&self, most: usize) -> Vec<Range<usize>> {
        even_blocks(self.count, self.count.div_ceil(most)).map(|(first, count)| first..first + count).collect()
    }
}

/// The output, and what parts of it gathered for [`Behind::Statistics`].
pub(crate) fn forward(
    geometry: &Geometry,
    x: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    behind: Behind<'_>,
) -> (Buffer, Vec<Moments>) {
    let units = Units::new(geometry);
    let applied = Applied::forward(geometry, weight, bias);
    let channels = geometry.channels_out;
    let mut output = take(units.all_outputs);
    let parts = units.parts(PARTS);
    let outputs = cut(&mut output, parts.iter().map(|part| units.outputs(part.clone()).len()));
    let moments = parts
        .into_par_iter()
        .zip(outputs)
        .map(|(part, output)| {
            let mut framed = Framed::new(geometry.input_frame(), geometry.channels_in);
            let (mut moments, mut scratch) = (Moments::new(channels), Scratch::new(channels));
            let (mut gathered, mut end) = (0, 0);
            for unit in part {
                let start = end;
                end = output.len().min(start + units.output);
                let source = framed.of(&x[units.inputs(unit..unit + 1)]);
                let of_unit = &mut output[start..end];
                applied.apply(bias, source, of_unit.len() / channels, of_unit);
                match behind {
                    Behind::Nothing => {}
                    Behind::Normalize(normalizer) => normalizer.apply(of_unit),
                    Behind::Statistics if end - gathered >= GATHERED || end == output.len() => {
                        moments.add(&output[gathered..end], &mut scratch);
                        gathered = end;
                    }
                    Behind::Statistics => {}
                }
            }
            moments
        })
        .collect();
    (output, moments)
}

/// The gradient of a convolution's output.
pub(crate) enum Upstream<'a> {
    Given(&'a [f32]),
    /// Of the convolution in front of a normalisation.
    Norm(NormalizerGrad<'a>),
}

impl Upstream<'_> {
    /// Numbers of a range, and some behind it, which may be any, so that the last pixel has whole vectors. At the end of
    /// all there may be none of these.
    fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Buffer) -> &'a [f32] {
        match self {
            Self::Given(grad) => &grad[range.start..grad.len().min(range.end + MOST_LANES)],
            Self::Norm(grad) => {
                let length = range.len();
                buffer.resize(length + MOST_LANES);
                grad.write(range, &mut buffer[..length]);
                buffer
            }
        }
    }
}

/// Sums of a weight's gradient over some units.
enum Sums {
    Dense {
        runs: Vec<(usize, usize)>,
        bases: Vec<usize>,
        vectors: Vectors,
        stride: usize,
        taps: Vec<usize>,
        together: usize,
    },
    Depthwise {
        rows: Rows,
    },
}

impl Sums {
    fn new(geometry: &Geometry) -> Self {
        let columns = geometry.input_frame().columns();
        if geometry.depthwise {
            return Self::Depthwise {
                rows: Rows::new(&geometry.forward(), geometry.channels_in, columns, geometry.output[1]),
            };
        }
        let stencil = forward_stencil(geometry);
        let runs = runs(&stencil.window(1), columns, geometry.channels_in);
        let vectors = Vectors::of(geometry.channels_out, &runs);
        Self::Dense {
            runs,
            bases: stencil.sources(columns, geometry.channels_in, 1),
            vectors,
            stride: match vectors {
                Vectors::Channels => geometry.channels_out.next_multiple_of(width()),
                Vectors::Runs => geometry.channels_out,
            },
            taps: stencil.taps.iter().map(|tap| tap.number).collect(),
            together: pixels_together(geometry),
        }
    }

    fn length(&self, geometry: &Geometry) -> usize {
        match self {
            Self::Dense { stride, taps, .. } => taps.len() * geometry.channels_in * stride,
            Self::Depthwise { rows } => rows.sums(),
        }
    }

    /// Adds what a gradient of `pixels` gives; there may be numbers behind these.
    fn add(&self, channels: usize, pixels: usize, source: &[f32], grad: &[f32], sums: &mut [f32]) {
        let (runs, bases, vectors, stride, together) = match self {
            Self::Depthwise { rows } => return run(WeightGrad { rows, source, grad, sums }),
            Self::Dense { runs, bases, vectors, stride, together, .. } => (runs, bases, *vectors, *stride, *together),
        };
        // Of the others the last vector would end behind the gradient.
        let readable = grad.len().checked_sub(stride).map_or(0, |rest| rest / channels + 1).min(pixels);
        for (first, count) in blocks(readable, together) {
            let (bases, grad) = (&bases[first..first + count], &grad[first * channels..]);
            run(Outer { source, bases, runs, grad, step: channels, stride, vectors, sums });
        }
        if readable < pixels {
            let grad = whole_vectors(&grad[readable * channels..pixels * channels], channels, stride);
            let bases = &bases[readable..pixels];
            run(Outer { source, bases, runs, grad: &grad, step: stride, stride, vectors, sums });
        }
    }

    /// The gradient, of the sums of all parts, in a corner of zeros.
    fn finish(&self, geometry: &Geometry, parts: &[Buffer], corner: Corner) -> Buffer {
        let [channels_in, channels_out, taps] = [geometry.channels_in, geometry.channels_out, geometry.taps()];
        let row_length = corner.whole[1];
        let mut total = corner.buffer();
        match self {
            Self::Depthwise { rows } => {
                let mut filters = vec![0.0; channels_in * taps];
                rows.unpack_sums(&sum_of_parts(parts), &mut filters);
                corner.write(&filters, &mut total);
            }
            Self::Dense { vectors, stride, taps: numbers, .. } => {
                let sums = sum_of_parts(parts);
                let rows = numbers.len() * channels_in;
                // From a row to the next, and from a channel.
                let strides = if *vectors == Vectors::Runs { [1, rows] } else { [*stride, 1] };
                let write = |(band, total): (usize, &mut [f32])| {
                    for row in 0..rows {
                        let place = row % channels_in * taps + numbers[row / channels_in];
                        let start = row * strides[0] + band * width() * strides[1];
                        for (output, total) in total.chunks_exact_mut(row_length).enumerate() {
                            total[place] = sums[start + output * strides[1]];
                        }
                    }
                };
                let (total, band) = (&mut total[..channels_out * row_length], width() * row_length);
                match rows * channels_out < LEAST {
                    true => total.chunks_mut(band).enumerate().for_each(write),
                    false => total.par_chunks_mut(band).enumerate().for_each(write),
                }
            }
        }
        total
    }
}

/// All parts added up, in their order.
fn sum_of_parts(parts: &[Buffer]) -> Buffer {
    let mut sums = take(parts.first().map_or(0, |part| part.len()));
    let add = |(chunk, sums): (usize, &mut [f32])| {
        for (number, part) in parts.iter().enumerate() {
            let part = &part[chunk << 12..][..sums.len()];
            if number == 0 {
                sums.copy_from_slice(part);
            } else {
                elementwise::accumulate(sums, part);
            }
        }
    };
    match sums.len() * parts.len() < LEAST {
        true => sums.chunks_mut(1 << 12).enumerate().for_each(add),
        false => sums.par_chunks_mut(1 << 12).enumerate().for_each(add),
    }
    sums
}

/// First element and length of blocks of some length, the last of which may be shorter.
fn blocks(length: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length).step_by(block).map(move |first| (first, block.min(length - first)))
}

/// Pixels with zeros behind their channels.
fn whole_vectors(pixels: &[f32], channels: usize, stride: usize) -> Buffer {
    let mut padded = zeros(pixels.len() / channels * stride);
    for (target, pixel) in padded.chunks_exact_mut(stride).zip(pixels.chunks_exact(channels)) {
        target[..channels].copy_from_slice(pixel);
    }
    padded
}

/// Gradients of the input and of the weight, as far as asked for: that of the weight needs `x`, and the other way round.
/// That of the weight is in a corner of zeros.
pub(crate) fn backward(
    geometry: &Geometry,
    x: Option<&Input>,
    weight: Option<Weight<'_>>,
    upstream: &Upstream<'_>,
    corner: Corner,
) -> [Option<Buffer>; 2] {
    let units = Units::new(geometry);
    let applied = weight.map(|weight| Applied::backward(geometry, weight)).unwrap_or_default();
    let sums = Sums::new(geometry);
    let length = if x.is_some() { sums.length(geometry) } else { 0 };
    let parts = units.parts(if x.is_some() { (SUMS / length).clamp(4, PARTS) } else { PARTS });
    let mut x_grad = weight.map(|_| match applied.len() == geometry.phases() {
        true => take(units.all_inputs),
        // No output reads some of the inputs.
        false => zeros(units.all_inputs),
    });
    let lengths = parts.iter().map(|part| if weight.is_some() { units.inputs(part.clone()).len() } else { 0 });
    let x_grads = cut(x_grad.as_deref_mut().unwrap_or_default(), lengths);
    let channels = [geometry.channels_in, geometry.channels_out];
    let sums_of_parts: Vec<Buffer> = parts
        .into_par_iter()
        .zip(x_grads)
        .map(|(part, x_grad)| {
            let mut totals = zeros(length);
            let mut x_grads = x_grad.chunks_mut(units.input);
            let mut input = Framed::new(geometry.input_frame(), channels[0]);
            let mut output = Framed::new(geometry.grad_frame(), channels[1]);
            let mut buffer = Buffer::default();
            for unit in part {
                let range = units.outputs(unit..unit + 1);
                let length = range.len();
                let grad = upstream.read(range, &mut buffer);
                if let Some(x) = x {
                    let source = x.framed(units.inputs(unit..unit + 1), &mut input);
                    sums.add(channels[1], length / channels[1], source, grad, &mut totals);
                }
                if let Some(x_grad) = x_grads.next() {
                    let source = output.of(&grad[..length]);
                    for applied in &applied {
                        applied.apply(None, source, x_grad.len() / channels[0], x_grad);
                    }
                }
            }
            totals
        })
        .collect();
    [x_grad, x.map(|_| sums.finish(geometry, &sums_of_parts, corner))]
}
