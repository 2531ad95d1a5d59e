//! Where every number of a convolution lies.
//!
//! Maps are channels-last: a pixel is a run of all its channels. A *frame* is a map with the padding around it, as far as
//! it is read. A *stencil* says what the pixels of a target read from a frame: the outputs from the input, or, backward,
//! the inputs from the output's gradient. At a stride, inputs fall into *phases* that read different elements of the
//! kernel; each has a stencil of its own.

use std::collections::BTreeSet;
use std::ops::Range;

use burn::tensor::ops::ConvOptions;

/// The sizes of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    pub depthwise: bool,
    /// Height and width of the input, and of the output.
    pub input: [usize; 2],
    pub output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Rows and columns in front of the input.
    padding: [usize; 2],
}

impl Geometry {
    /// The geometry, or `None` where Burn's own operation has to do it.
    pub fn new(input: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> Option<Self> {
        let [batch, channels_in, height, width] = input;
        let [channels_out, group_channels, kernel_height, kernel_width] = weight;
        let kernel = [kernel_height, kernel_width];
        let depthwise = options.groups == channels_in && channels_out == channels_in && group_channels == 1;
        let dense = options.groups == 1 && group_channels == channels_in;
        if !(depthwise || dense) || input.contains(&0) || weight.contains(&0) {
            return None;
        }
        let mut output = [0; 2];
        for axis in 0..2 {
            let (begin, end) = options.padding[axis];
            let padded = [height, width][axis] + begin + end;
            let reach = options.dilation[axis] * (kernel[axis] - 1) + 1;
            output[axis] = padded.checked_sub(reach)? / options.stride[axis] + 1;
        }
        Some(Self {
            batch,
            channels_in,
            channels_out,
            depthwise,
            input: [height, width],
            output,
            kernel,
            stride: options.stride,
            dilation: options.dilation,
            padding: options.padding_begin(),
        })
    }

    /// Elements of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Phases of the inputs, those that no output reads counted too.
    pub fn phases(&self) -> usize {
        self.stride[0].min(self.input[0]) * self.stride[1].min(self.input[1])
    }

    /// Whether it is dense, and every output pixel reads the input pixel at its own place and no other.
    pub fn is_pointwise(&self) -> bool {
        !self.depthwise
            && self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.padding == [0, 0]
            && self.input == self.output
    }

    /// Pixels of an input map.
    pub fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Pixels of an output map.
    pub fn output_pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The input, as outputs read it.
    pub fn input_frame(&self) -> Frame {
        let reach = |axis: usize| {
            (self.output[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
        };
        Frame { map: self.input, lead: self.padding, size: [reach(0), reach(1)] }
    }

    /// What outputs read from the [`input_frame`](Self::input_frame).
    pub fn forward(&self) -> Stencil {
        let taps = (0..self.taps()).map(|number| {
            let [row, column] = [number / self.kernel[1], number % self.kernel[1]];
            Tap { number, place: [row * self.dilation[0], column * self.dilation[1]] }
        });
        Stencil { target: self.output, first: [0; 2], step: [1; 2], source_step: self.stride, taps: taps.collect() }
    }

    /// The output's gradient, as inputs read it.
    pub fn grad_frame(&self) -> Frame {
        let [rows, columns] = [0, 1].map(|axis| self.backward_axis(axis));
        Frame { map: self.output, lead: [rows.lead, columns.lead], size: [rows.length, columns.length] }
    }

    /// What the inputs of every phase read from the [`grad_frame`](Self::grad_frame); a phase may have no taps.
    pub fn backward(&self) -> Vec<Stencil> {
        let [rows, columns] = [0, 1].map(|axis| self.backward_axis(axis));
        let mut stencils = Vec::new();
        for row in &rows.phases {
            for column in &columns.phases {
                let mut taps: Vec<Tap> = Vec::new();
                for (kernel_row, place_row) in &row.taps {
                    for (kernel_column, place_column) in &column.taps {
                        let number = kernel_row * self.kernel[1] + kernel_column;
                        taps.push(Tap { number, place: [*place_row, *place_column] });
                    }
                }
                taps.sort_by_key(|tap| tap.place);
                stencils.push(Stencil {
                    target: [row.count, column.count],
                    first: [row.first, column.first],
                    step: self.stride,
                    source_step: [1; 2],
                    taps,
                });
            }
        }
        stencils
    }

    fn backward_axis(&self, axis: usize) -> BackwardAxis {
        let [stride, dilation, padding] = [self.stride[axis], self.dilation[axis], self.padding[axis]];
        let (size, kernel) = (self.input[axis], self.kernel[axis]);
        let mut phases: Vec<Phase> = (0..stride)
            .filter_map(|phase| {
                let first = (0..size).find(|place| (place + padding) % stride == phase)?;
                // For every tap, how many outputs it looks back.
                let back = (0..kernel).filter(|tap| tap * dilation % stride == phase);
                let taps = back.map(|tap| (tap, tap * dilation / stride)).collect();
                Some(Phase { first, count: (size - first).div_ceil(stride), taps })
            })
            .collect();
        let number = |phase: &Phase| (phase.first + padding) / stride;
        let furthest = phases
            .iter()
            .flat_map(|phase| phase.taps.iter().map(move |(_, shift)| shift.saturating_sub(number(phase))));
        let lead = furthest.max().unwrap_or(0);
        for phase in &mut phases {
            let start = lead + number(phase);
            for (_, place) in &mut phase.taps {
                *place = start - *place;
            }
        }
        let ends = phases.iter().flat_map(|phase| phase.taps.iter().map(move |(_, place)| place + phase.count));
        let length = ends.max().unwrap_or(1);
        BackwardAxis { lead, length, phases }
    }
}

/// Rows, or columns, of the gradient's frame and of the phases that read it.
struct BackwardAxis {
    lead: usize,
    length: usize,
    phases: Vec<Phase>,
}

/// The inputs `first, first + stride, ...` of an axis.
struct Phase {
    first: usize,
    count: usize,
    /// Elements of the kernel, and where in the frame the first input reads each.
    taps: Vec<(usize, usize)>,
}

/// A map with the padding around it, as far as it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Height and width of the map.
    map: [usize; 2],
    /// Rows and columns in front of it.
    lead: [usize; 2],
    /// Height and width of the frame.
    size: [usize; 2],
}

impl Frame {
    /// Pixels of the frame.
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Whether the frame is in the map.
    pub fn is_map(&self) -> bool {
        self.lead == [0, 0] && self.size[0] <= self.map[0] && self.size[1] <= self.map[1]
    }

    /// Pixels from a row of what is read to the next.
    pub fn columns(&self) -> usize {
        if self.is_map() { self.map[1] } else { self.size[1] }
    }

    /// Numbers of a row, and those of it that are the map's.
    fn columns_of_map(&self, channels: usize) -> (usize, Range<usize>) {
        let (row, start) = (self.size[1] * channels, self.lead[1] * channels);
        (row, start.min(row)..(start + self.map[1] * channels).min(row))
    }

    /// Writes a map into its frame, row by row; the padding is left as it is.
    pub fn fill(&self, channels: usize, map: &[f32], frame: &mut [f32], write: impl Fn(&[f32], &mut [f32])) {
        let (row, columns) = self.columns_of_map(channels);
        let rows = frame.chunks_exact_mut(row).skip(self.lead[0]);
        for (target, source) in rows.zip(map.chunks_exact(self.map[1] * channels)) {
            write(&source[..columns.len()], &mut target[columns.clone()]);
        }
    }

    /// Clears the padding.
    pub fn clear(&self, channels: usize, frame: &mut [f32]) {
        let (row, columns) = self.columns_of_map(channels);
        let rows = self.lead[0]..self.lead[0] + self.map[0];
        for (number, target) in frame.chunks_exact_mut(row).enumerate() {
            if rows.contains(&number) {
                target[..columns.start].fill(0.0);
                target[columns.end..].fill(0.0);
            } else {
                target.fill(0.0);
            }
        }
    }
}

/// An element of the kernel, and where in the frame the first pixel of the target reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    /// Its number among the kernel's elements.
    pub number: usize,
    /// Row and column.
    pub place: [usize; 2],
}

/// What pixels of a target read from a frame.
#[derive(Clone, Debug)]
pub(crate) struct Stencil {
    /// Rows and columns of the pixels.
    pub target: [usize; 2],
    /// Row and column of the first in the target's map.
    pub first: [usize; 2],
    /// Rows and columns of the map between neighbours.
    pub step: [usize; 2],
    /// Rows and columns of the frame between what neighbours read.
    pub source_step: [usize; 2],
    /// In the order of their places.
    pub taps: Vec<Tap>,
}

impl Stencil {
    /// One row of pixels of which each reads itself.
    pub fn pointwise(pixels: usize) -> Self {
        let taps = vec![Tap { number: 0, place: [0; 2] }];
        Self { target: [1, pixels], first: [0; 2], step: [1; 2], source_step: [1; 2], taps }
    }

    /// Row and column of every `neighbours` pixels of a row that are worked on as one. The last of a row repeat some of
    /// those before them, where the row is no multiple.
    fn pixels(&self, neighbours: usize) -> impl Iterator<Item = [usize; 2]> {
        let [rows, row_length] = self.target;
        let last = row_length.saturating_sub(neighbours);
        (0..rows).flat_map(move |row| (0..row_length).step_by(neighbours).map(move |column| [row, column.min(last)]))
    }

    /// Where in a frame with rows of `columns` pixels of `channels` every so many pixels of the target start to read.
    pub fn sources(&self, columns: usize, channels: usize, neighbours: usize) -> Vec<usize> {
        let step = self.source_step;
        let start = |[row, column]: [usize; 2]| (row * step[0] * columns + column * step[1]) * channels;
        self.pixels(neighbours).map(start).collect()
    }

    /// Where every so many pixels are in a map with rows of `columns` pixels of `channels`.
    pub fn places(&self, columns: usize, channels: usize, neighbours: usize) -> Vec<usize> {
        let place = |[row, column]: [usize; 2]| {
            ((self.first[0] + row * self.step[0]) * columns + self.first[1] + column * self.step[1]) * channels
        };
        self.pixels(neighbours).map(place).collect()
    }

    /// Offset of every tap in a frame with rows of `columns` pixels of `channels`.
    pub fn offsets(&self, columns: usize, channels: usize) -> Vec<usize> {
        self.taps.iter().map(|tap| offset(tap.place, columns, channels)).collect()
    }

    /// What so many neighbours in a row read, together: places in the frame, in order.
    pub fn window(&self, neighbours: usize) -> Vec<[usize; 2]> {
        let shifts = (0..neighbours).map(|pixel| pixel * self.source_step[1]);
        let places = shifts.flat_map(|shift| self.taps.iter().map(move |tap| [tap.place[0], tap.place[1] + shift]));
        places.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Of neighbours in a row, the one and the tap of it that reads a place of their [`window`](Self::window).
    pub fn readers(&self, place: [usize; 2], neighbours: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..neighbours).filter_map(move |pixel| {
            let shift = pixel * self.source_step[1];
            let tap = self.taps.iter().find(|tap| [tap.place[0], tap.place[1] + shift] == place)?;
            Some((pixel, tap.number))
        })
    }
}

fn offset([row, column]: [usize; 2], columns: usize, channels: usize) -> usize {
    (row * columns + column) * channels
}

/// Offsets and lengths in a frame with rows of `columns` pixels of `channels`, of places in order: those that lie next to
/// each other are one run.
pub(crate) fn runs(places: &[[usize; 2]], columns: usize, channels: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for offset in places.iter().map(|place| offset(*place, columns, channels)) {
        match runs.last_mut() {
            Some((start, length)) if *start + *length == offset => *length += channels,
            _ => runs.push((offset, channels)),
        }
    }
    runs
}
