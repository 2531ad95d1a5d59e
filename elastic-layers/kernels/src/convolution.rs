//! 2-D convolution of channels-last maps, forward and backward, with the normalisation behind it.

use std::ops::Range;

use rayon::prelude::*;

use crate::applied::{Applied, Framed, Weight, forward_stencil, pixels_together};
use crate::buffer::{Buffer, take, zeros};
use crate::corner::Corner;
use crate::depthwise::{Rows, WeightGrad};
use crate::elementwise;
use crate::geometry::{Geometry, runs};
use crate::moments::Moments;
use crate::normalization::{Normalizer, NormalizerGrad};
use crate::origin::Input;
use crate::parallel::cut;
use crate::simd::{run, width};
use crate::tiles::{Outer, Vectors, even_blocks};

/// Parts of the batch: a sum is the same, however many threads work on them.
const PARTS: usize = 16;

/// The most numbers in the sums of all parts of a weight's gradient.
const SUMS: usize = 1 << 19;

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
            let mut moments = Moments::new(channels);
            for (unit, output) in part.zip(output.chunks_mut(units.output)) {
                let source = framed.of(&x[units.inputs(unit..unit + 1)]);
                applied.apply(bias, source, output.len() / channels, output);
                match behind {
                    Behind::Nothing => {}
                    Behind::Normalize(normalizer) => normalizer.apply(output),
                    Behind::Statistics => moments.add(output),
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
    fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Buffer) -> &'a [f32] {
        match self {
            Self::Given(grad) => &grad[range],
            Self::Norm(grad) => {
                buffer.resize(range.len());
                grad.write(range, buffer);
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

    fn add(&self, channels: usize, source: &[f32], grad: &[f32], padded: &mut Buffer, sums: &mut [f32]) {
        match self {
            Self::Depthwise { rows } => run(WeightGrad { rows, source, grad, sums }),
            Self::Dense { runs, bases, vectors, stride, together, .. } => {
                let grad = whole_vectors(grad, channels, *stride, padded);
                for (bases, grad) in bases.chunks(*together).zip(grad.chunks(together * stride)) {
                    run(Outer { source, bases, runs, grad, stride: *stride, vectors: *vectors, sums });
                }
            }
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
                for part in parts {
                    rows.unpack_sums(part, &mut filters);
                }
                corner.write(&filters, &mut total);
            }
            Self::Dense { vectors, stride, taps: numbers, .. } => {
                let sums = sum_of_parts(parts);
                let rows = numbers.len() * channels_in;
                // From a row to the next, and from a channel.
                let strides = if *vectors == Vectors::Runs { [1, rows] } else { [*stride, 1] };
                let bands = total[..channels_out * row_length].par_chunks_mut(width() * row_length);
                bands.enumerate().for_each(|(band, total)| {
                    for row in 0..rows {
                        let place = row % channels_in * taps + numbers[row / channels_in];
                        let start = row * strides[0] + band * width() * strides[1];
                        for (output, total) in total.chunks_exact_mut(row_length).enumerate() {
                            total[place] = sums[start + output * strides[1]];
                        }
                    }
                });
            }
        }
        total
    }
}

/// All parts added up, in their order.
fn sum_of_parts(parts: &[Buffer]) -> Buffer {
    let mut sums = take(parts.first().map_or(0, |part| part.len()));
    sums.par_chunks_mut(1 << 12).enumerate().for_each(|(chunk, sums)| {
        for (number, part) in parts.iter().enumerate() {
            let part = &part[chunk << 12..][..sums.len()];
            if number == 0 {
                sums.copy_from_slice(part);
            } else {
                elementwise::accumulate(sums, part);
            }
        }
    });
    sums
}

/// Pixels with zeros behind their channels.
fn whole_vectors<'a>(pixels: &'a [f32], channels: usize, stride: usize, padded: &'a mut Buffer) -> &'a [f32] {
    if channels == stride {
        return pixels;
    }
    padded.resize(pixels.len() / channels * stride);
    for (target, pixel) in padded.chunks_exact_mut(stride).zip(pixels.chunks_exact(channels)) {
        let (numbers, rest) = target.split_at_mut(channels);
        numbers.copy_from_slice(pixel);
        rest.fill(0.0);
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
            let (mut buffer, mut padded) = (Buffer::default(), Buffer::default());
            for unit in part {
                let grad = upstream.read(units.outputs(unit..unit + 1), &mut buffer);
                if let Some(x) = x {
                    let source = x.framed(units.inputs(unit..unit + 1), &mut input);
                    sums.add(channels[1], source, grad, &mut padded, &mut totals);
                }
                if let Some(x_grad) = x_grads.next() {
                    let source = output.of(grad);
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
