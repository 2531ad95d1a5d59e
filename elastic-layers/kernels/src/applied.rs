//! Stencils with their weights, applied to maps.

use crate::buffer::{Buffer, take, zeros};
use crate::depthwise::{Filter, Rows};
use crate::geometry::{Frame, Geometry, Stencil, runs};
use crate::normalization::Normalizer;
use crate::simd::{run, width};
use crate::tiles::{Packed, Products, Strided};

/// Pixels that are worked on together: of a pointwise convolution a unit, of others a part of a map. Twice as many with
/// large weights, which are read again for each.
pub(crate) fn pixels_together(geometry: &Geometry) -> usize {
    if geometry.channels_in * geometry.channels_out * geometry.taps() < LARGE { 128 } else { 256 }
}

/// Numbers of large weights.
const LARGE: usize = 1 << 17;

/// A frame with room for a map; the map itself, if that is its own frame.
pub(crate) struct Framed {
    frame: Frame,
    channels: usize,
    buffer: Buffer,
}

impl Framed {
    pub fn new(frame: Frame, channels: usize) -> Self {
        if frame.is_map() {
            return Self { frame, channels, buffer: Buffer::default() };
        }
        let mut buffer = take(frame.pixels() * channels);
        frame.clear(channels, &mut buffer);
        Self { frame, channels, buffer }
    }

    pub fn of<'a>(&'a mut self, map: &'a [f32]) -> &'a [f32] {
        if self.frame.is_map() {
            return map;
        }
        self.frame.fill(self.channels, map, &mut self.buffer, |map, frame| frame.copy_from_slice(map));
        &self.buffer
    }

    /// Of what a normalisation makes of a map.
    pub fn of_normalized(&mut self, map: &[f32], normalizer: &Normalizer) -> &[f32] {
        if self.frame.is_map() {
            self.buffer.resize(map.len());
            normalizer.write(map, &mut self.buffer);
        } else {
            self.frame.fill(self.channels, map, &mut self.buffer, |map, frame| normalizer.write(map, frame));
        }
        &self.buffer
    }
}

/// A dense stencil with its weights.
///
/// Few target channels would leave most of a vector empty, so neighbours in a row are then worked on as one pixel: of as
/// many times the channels, it reads all that they read, with weights of 0 for what one of them does not. (Such a weight
/// takes an infinite number to a neighbour, as NaN.)
pub(crate) struct Dense {
    neighbours: usize,
    weights: Packed,
    bases: Vec<usize>,
    places: Vec<usize>,
    runs: Vec<(usize, usize)>,
    together: usize,
    /// See [`Products::is_covered`].
    is_covered: bool,
}

impl Dense {
    /// From frames of `channels[0]` to maps of `channels[1]`, with rows of `columns`; `strides` are those of the weight's
    /// channels.
    fn new(
        stencil: &Stencil,
        together: usize,
        [source, target]: [usize; 2],
        columns: [usize; 2],
        weight: &[f32],
        strides: [usize; 2],
    ) -> Self {
        let neighbours = neighbours(stencil, target);
        let window = stencil.window(neighbours);
        let weights = if neighbours == 1 {
            let taps = stencil.taps.iter().map(|tap| tap.number).collect();
            Packed::new(&Strided { data: weight, channels: [target, source], strides: [strides[1], strides[0]], taps })
        } else {
            let mut numbers = zeros(window.len() * source * neighbours * target);
            for (place, numbers) in window.iter().zip(numbers.chunks_exact_mut(source * neighbours * target)) {
                for (pixel, tap) in stencil.readers(*place, neighbours) {
                    for (source, numbers) in numbers.chunks_exact_mut(neighbours * target).enumerate() {
                        for (target, number) in numbers[pixel * target..][..target].iter_mut().enumerate() {
                            *number = weight[source * strides[0] + target * strides[1] + tap];
                        }
                    }
                }
            }
            let target = neighbours * target;
            let taps = (0..window.len()).map(|place| place * source * target).collect();
            Packed::new(&Strided { data: &numbers, channels: [target, source], strides: [1, target], taps })
        };
        Self {
            neighbours,
            is_covered: stencil.step == [1, 1] && weights.is_one_panel(),
            weights,
            bases: stencil.sources(columns[0], source, neighbours),
            places: stencil.places(columns[1], target, neighbours),
            runs: runs(&window, columns[0], source),
            together: together / neighbours,
        }
    }

    /// Writes a unit's target; of a pointwise convolution, which may be shorter, the first pixels.
    fn apply(&self, bias: Option<&[f32]>, source: &[f32], pixels: usize, target: &mut [f32]) {
        let pixels = pixels.min(self.bases.len());
        let Self { neighbours, weights, bases, places, runs, together, is_covered } = self;
        let repeated = bias.filter(|_| *neighbours > 1).map(|bias| bias.repeat(*neighbours));
        let bias = repeated.as_deref().or(bias);
        for (bases, places) in bases[..pixels].chunks(*together).zip(places[..pixels].chunks(*together)) {
            run(Products { weights, bias, source, bases, runs, target, places, is_covered: *is_covered });
        }
    }
}

/// How many pixels of a row are worked on as one: as many as fill a vector, if they read less together than each on its
/// own.
fn neighbours(stencil: &Stencil, channels: usize) -> usize {
    let fit = (width() / channels).clamp(1, stencil.target[1].max(1));
    let are_neighbours = stencil.step == [1, 1];
    if are_neighbours && stencil.window(fit).len() < fit * stencil.taps.len() { fit } else { 1 }
}

/// A convolution's weight, as a part of a larger one has it.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    pub data: &'a [f32],
    /// Numbers from an output channel to the next.
    pub row: usize,
}

/// A stencil with its weights.
pub(crate) enum Applied {
    Dense(Dense),
    Depthwise { rows: Rows, weights: Buffer, bias: Option<Buffer> },
}

impl Applied {
    pub fn forward(geometry: &Geometry, weight: Weight<'_>, bias: Option<&[f32]>) -> Self {
        let columns = [geometry.input_frame().columns(), geometry.output[1]];
        if geometry.depthwise {
            let rows = Rows::new(&geometry.forward(), geometry.channels_in, columns[0], columns[1]);
            let (weights, bias) = (rows.pack_weights(weight), bias.map(|bias| rows.pack_channels(bias)));
            return Self::Depthwise { rows, weights, bias };
        }
        let stencil = forward_stencil(geometry);
        let (channels, taps) = ([geometry.channels_in, geometry.channels_out], geometry.taps());
        let strides = [taps, weight.row];
        Self::Dense(Dense::new(&stencil, pixels_together(geometry), channels, columns, weight.data, strides))
    }

    /// From the output's gradient to the input's: one for every phase.
    pub fn backward(geometry: &Geometry, weight: Weight<'_>) -> Vec<Self> {
        let columns = [geometry.grad_frame().columns(), geometry.input[1]];
        let (channels, taps) = ([geometry.channels_out, geometry.channels_in], geometry.taps());
        let stencils = match geometry.is_pointwise() {
            true => vec![Stencil::pointwise(pixels_together(geometry))],
            false => geometry.backward(),
        };
        let applied = stencils.iter().filter(|stencil| !stencil.taps.is_empty()).map(|stencil| {
            if geometry.depthwise {
                let rows = Rows::new(stencil, channels[0], columns[0], columns[1]);
                let weights = rows.pack_weights(weight);
                return Self::Depthwise { rows, weights, bias: None };
            }
            let strides = [weight.row, taps];
            Self::Dense(Dense::new(stencil, pixels_together(geometry), channels, columns, weight.data, strides))
        });
        applied.collect()
    }

    pub fn apply(&self, bias_of_dense: Option<&[f32]>, source: &[f32], pixels: usize, target: &mut [f32]) {
        match self {
            Self::Dense(dense) => dense.apply(bias_of_dense, source, pixels, target),
            Self::Depthwise { rows, weights, bias } => {
                run(Filter { rows, weights, bias: bias.as_deref(), source, target });
            }
        }
    }
}

/// What outputs read; of a pointwise convolution, those of a unit.
pub(crate) fn forward_stencil(geometry: &Geometry) -> Stencil {
    if geometry.is_pointwise() { Stencil::pointwise(pixels_together(geometry)) } else { geometry.forward() }
}
