//! Tensors whose memory is channels-last, whatever their logical shape.

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{DType, Shape, TensorData};
use burn_std::Bytes;
use rayon::prelude::*;

use crate::buffer::{Buffer, take};
use crate::origin::Origin;

/// Channels and pixels that are transposed together.
const TILE: usize = 16;

/// A tensor `[batch, channels, ...]` with a pixel's channels next to each other in memory, and pixels one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Maps(FlexTensor);

impl Maps {
    /// The tensor itself, if its memory is so already; otherwise a copy.
    pub fn new(tensor: FlexTensor) -> Self {
        if is_channels_last(tensor.layout()) {
            return Self(tensor);
        }
        let shape = tensor.shape();
        let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
        let planes = tensor.as_slice::<f32>().unwrap_or_default();
        let [batch, channels] = [shape[0], shape[1]];
        let pixels = shape.num_elements() / (batch * channels);
        let mut data = take(planes.len());
        let maps = data.par_chunks_mut(channels * pixels).zip(planes.par_chunks(channels * pixels));
        maps.for_each(|(map, planes)| transpose(planes, pixels, channels, map));
        Self(Self::tensor(data, shape))
    }

    /// A tensor of channels-last numbers.
    pub fn tensor(data: Buffer, shape: Shape) -> FlexTensor {
        debug_assert_eq!(data.len(), shape.num_elements());
        Self::of_bytes(data.into_bytes(), shape)
    }

    /// What a normalisation makes of a tensor, which it remembers as its origin.
    pub fn normalized(origin: Origin) -> FlexTensor {
        let x = Self::new(origin.x.clone());
        let mut data = take(x.data().len());
        origin.normalizer.map(x.data(), &mut data);
        Self::of_bytes(data.into_bytes_from(origin), x.shape())
    }

    fn of_bytes(data: Bytes, shape: Shape) -> FlexTensor {
        let strides = channels_last(&shape);
        FlexTensor::new(data, Layout::new(shape, strides, 0), DType::F32)
    }

    /// The logical shape.
    pub fn shape(&self) -> Shape {
        self.0.shape()
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.0.shape()[1]
    }

    /// All numbers, pixel by pixel.
    pub fn data(&self) -> &[f32] {
        let start = self.0.layout().start_offset();
        &self.0.storage()[start..start + self.0.shape().num_elements()]
    }

    /// The numbers to overwrite, if nothing else sees them.
    pub fn into_unique(self) -> Result<FlexTensor, Self> {
        let size = self.0.shape().num_elements();
        let is_all = self.0.layout().start_offset() == 0 && self.0.storage::<f32>().len() == size;
        if is_all && self.0.is_unique() { Ok(self.0) } else { Err(self) }
    }
}

/// A tensor of numbers in the order of its logical shape.
pub(crate) fn dense(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape))
}

/// The strides of a channels-last tensor.
fn channels_last(shape: &Shape) -> Vec<isize> {
    let mut strides = vec![1; shape.num_dims()];
    let mut next = shape[1].cast_signed();
    for axis in (2..shape.num_dims()).rev().chain([0]) {
        strides[axis] = next;
        next *= shape[axis].cast_signed();
    }
    strides
}

fn is_channels_last(layout: &Layout) -> bool {
    let shape = layout.shape();
    let strides = layout.strides().iter().zip(channels_last(shape));
    strides.zip(shape.iter()).all(|((stride, expected), size)| *stride == expected || *size == 1)
}

/// `target[column][row] = source[row][column]`, with rows of `columns` numbers.
fn transpose(source: &[f32], columns: usize, rows: usize, target: &mut [f32]) {
    for first_column in (0..columns).step_by(TILE) {
        let end_column = columns.min(first_column + TILE);
        for first_row in (0..rows).step_by(TILE) {
            let end_row = rows.min(first_row + TILE);
            for column in first_column..end_column {
                let target = &mut target[column * rows + first_row..column * rows + end_row];
                for (row, number) in (first_row..end_row).zip(target) {
                    *number = source[row * columns + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_every_number_at_its_pixel() {
        let shape = [2, 19, 3, 7];
        let planes: Vec<f32> = (0..shape.iter().product::<usize>()).map(|number| number as f32).collect();
        let tensor = dense(planes.clone(), shape);
        let maps = Maps::new(tensor);
        for (place, value) in maps.data().iter().enumerate() {
            let (channel, pixel) = (place % 19, place / 19 % 21);
            assert_eq!(*value, planes[(place / (19 * 21) * 19 + channel) * 21 + pixel]);
        }
        assert_eq!(maps.0.to_contiguous().as_slice::<f32>(), Some(&planes[..]));
    }
}
