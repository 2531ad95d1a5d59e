//! Where every number of a convolution lies.
//!
//! A padded input plane is cut into as many *phases* as the stride has positions: phase `(a, b)` holds the rows
//! `a, a + stride, ...` and the columns `b, b + stride, ...`, all phases with rows of one length. In that form a kernel
//! element (a *tap*) reads, for all outputs of a plane, one contiguous run of one phase, at any stride and dilation: the
//! convolution is a sum of shifted runs. A run also holds the ends of rows that are no outputs; they are dropped when
//! the rows are copied out, and are zero in the gradient of the output.

use burn::tensor::ops::ConvOptions;

use crate::simd::copy_row;

/// Numbers in the longest vector.
const SLACK: usize = 16;

/// One element of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    /// The position in [`Geometry::phases`].
    pub phase: usize,
    /// Where its run starts in the phase.
    pub shift: usize,
    /// Rows and columns from the first number that an output reads to the one that this tap reads.
    pub place: [usize; 2],
}

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
    pub stride: [usize; 2],
    /// Rows and columns in front of the input.
    pub padding: [usize; 2],
    /// The phases that a tap reads: first row and column.
    pub phases: Vec<[usize; 2]>,
    /// Height and width of a phase.
    pub phase: [usize; 2],
    /// The taps, in the order of the kernel's elements.
    pub taps: Vec<Tap>,
    /// Whether input and output planes are read and written as they are: one tap, stride 1, no padding.
    pub pointwise: bool,
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
        let [stride, dilation] = [options.stride, options.dilation];
        let longest = |axis: usize| dilation[axis] * (kernel[axis] - 1) / stride[axis];
        let phase = [output[0] + longest(0), output[1] + longest(1)];
        let mut phases = Vec::new();
        let mut taps = Vec::new();
        for row in 0..kernel_height {
            for column in 0..kernel_width {
                let place = [row * dilation[0], column * dilation[1]];
                let [row, column] = place;
                let start = [row % stride[0], column % stride[1]];
                let position = phases.iter().position(|known| *known == start).unwrap_or_else(|| {
                    phases.push(start);
                    phases.len() - 1
                });
                taps.push(Tap { phase: position, shift: row / stride[0] * phase[1] + column / stride[1], place });
            }
        }
        let padding = options.padding_begin();
        Some(Self {
            batch,
            channels_in,
            channels_out,
            depthwise,
            input: [height, width],
            output,
            stride,
            padding,
            pointwise: kernel == [1, 1] && stride == [1, 1] && output == [height, width] && padding == [0, 0],
            phases,
            phase,
            taps,
        })
    }

    /// Rows and columns from the first number that an output reads to the last, both counted.
    pub fn reach(&self) -> [usize; 2] {
        self.taps.last().map_or([1, 1], |tap| tap.place.map(|place| place + 1))
    }

    /// Whether neighbouring outputs read neighbouring inputs.
    pub fn is_unit_stride(&self) -> bool {
        self.stride == [1, 1]
    }

    /// Numbers in an input plane.
    pub fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Numbers in an output plane.
    pub fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Numbers in a phase.
    pub fn phase_plane(&self) -> usize {
        self.phase[0] * self.phase[1]
    }

    /// Numbers in all phases of a plane, and zeros behind them so that a run can be read in whole vectors.
    pub fn split_plane(&self) -> usize {
        self.phases.len() * self.phase_plane() + SLACK
    }

    /// Length of a run: from the first output of a plane to its last, in rows as long as a phase's.
    pub fn run(&self) -> usize {
        (self.output[0] - 1) * self.phase[1] + self.output[1]
    }

    /// Where each tap's run starts in a split plane.
    pub fn offsets(&self) -> Vec<usize> {
        self.taps.iter().map(|tap| tap.phase * self.phase_plane() + tap.shift).collect()
    }

    /// Zeros in front of a spread output gradient, so that a tap can look back.
    pub fn lead(&self) -> usize {
        self.taps.iter().map(|tap| tap.shift).max().unwrap_or(0)
    }

    /// Numbers in a spread output gradient, zeros behind them included.
    pub fn spread_plane(&self) -> usize {
        self.lead() + self.phase_plane() + SLACK
    }

    /// Copies an input plane into its phases; the padding in `split` is left as it is.
    #[inline(always)]
    pub fn split(&self, plane: &[f32], split: &mut [f32]) {
        let width = self.phase[1];
        for (number, start) in self.phases.iter().enumerate() {
            let target = &mut split[number * self.phase_plane()..][..self.phase_plane()];
            let (columns, first) = self.covered(1, start[1]);
            let (rows, first_row) = self.covered(0, start[0]);
            if columns.is_empty() {
                continue;
            }
            for (row, y) in rows.zip((first_row..).step_by(self.stride[0])) {
                let target = &mut target[row * width..][columns.clone()];
                let source = &plane[y * self.input[1] + first..(y + 1) * self.input[1]];
                if self.stride[1] == 1 {
                    copy_row(target, &source[..target.len()]);
                } else {
                    for (to, from) in target.iter_mut().zip(source.iter().step_by(self.stride[1])) {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// Copies phases into an input plane; what no phase holds becomes zero. The reverse of [`Self::split`].
    #[inline(always)]
    pub fn merge(&self, phase: usize, source: &[f32], plane: &mut [f32]) {
        let width = self.phase[1];
        let start = self.phases[phase];
        let (columns, first) = self.covered(1, start[1]);
        let (rows, first_row) = self.covered(0, start[0]);
        if columns.is_empty() {
            return;
        }
        for (row, y) in rows.zip((first_row..).step_by(self.stride[0])) {
            let source = &source[row * width..][columns.clone()];
            let target = &mut plane[y * self.input[1] + first..(y + 1) * self.input[1]];
            if self.stride[1] == 1 {
                copy_row(target, source);
            } else {
                for (to, from) in target.iter_mut().step_by(self.stride[1]).zip(source) {
                    *to = *from;
                }
            }
        }
    }

    /// The rows or columns of a phase that lie in the input, and the input's row or column at the first.
    #[inline(always)]
    fn covered(&self, axis: usize, start: usize) -> (std::ops::Range<usize>, usize) {
        let [stride, padding] = [self.stride[axis], self.padding[axis]];
        let first = padding.saturating_sub(start).div_ceil(stride);
        let end = (self.input[axis] + padding).saturating_sub(start).div_ceil(stride).min(self.phase[axis]);
        let first = first.min(end);
        (first..end, (first * stride + start).saturating_sub(padding))
    }

    /// Copies an output plane into a spread one, behind its lead; the gaps in `spread` are left as they are.
    #[inline(always)]
    pub fn spread(&self, plane: &[f32], spread: &mut [f32]) {
        let [_, columns] = self.output;
        let rows = spread[self.lead()..].chunks_mut(self.phase[1]);
        for (target, source) in rows.zip(plane.chunks_exact(columns)) {
            copy_row(target, source);
        }
    }

    /// Copies a run into an output plane.
    #[inline(always)]
    pub fn gather(&self, run: &[f32], plane: &mut [f32]) {
        let [_, columns] = self.output;
        for (target, source) in plane.chunks_exact_mut(columns).zip(run.chunks(self.phase[1])) {
            copy_row(target, &source[..columns]);
        }
    }
}
