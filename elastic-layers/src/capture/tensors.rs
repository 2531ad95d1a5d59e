//! What a forward takes and returns: one tensor, or several.

use burn::backend::capture::{CaptureBackend, TensorId};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

use super::CaptureError;

/// The shapes of a forward's inputs: one shape, or a tuple of two to four.
///
/// # Shapes
///
/// - each: `[batch, ...]`
pub trait InputShapes: Clone {
    /// The tensors of these shapes: `Tensor<D>`, or a tuple of them.
    type Tensors: Tensors;

    /// The shape of every input.
    fn shapes(&self) -> Vec<Vec<usize>>;

    /// The same shapes with another batch size.
    #[must_use]
    fn with_batch(&self, batch: usize) -> Self;

    /// Inputs of these shapes, all zero.
    fn zeros(&self, device: &Device) -> Self::Tensors;

    /// Inputs of these shapes, normally distributed with mean 0 and deviation 1.
    fn normal(&self, device: &Device) -> Self::Tensors;
}

/// What a forward takes or returns: `Tensor<D>`, a list of such, or a tuple of two to four of these. Numbers may be
/// integers (`Tensor<D, Int>`) where they are returned.
pub trait Tensors {
    /// The shape of every tensor.
    fn shapes(&self) -> Vec<Vec<usize>>;

    /// The identity of every tensor on a capture device.
    ///
    /// # Errors
    ///
    /// [`CaptureError::ForeignOutput`] for a tensor on another device.
    fn ids(&self) -> Result<Vec<TensorId>, CaptureError>;

    /// The values of every tensor.
    fn into_data(self) -> Vec<TensorData>;
}

impl<const D: usize> InputShapes for [usize; D] {
    type Tensors = Tensor<D>;

    fn shapes(&self) -> Vec<Vec<usize>> {
        vec![self.to_vec()]
    }

    fn with_batch(&self, batch: usize) -> Self {
        let mut shape = *self;
        if let Some(first) = shape.first_mut() {
            *first = batch;
        }
        shape
    }

    fn zeros(&self, device: &Device) -> Tensor<D> {
        // Data registered with the device is accepted as a runtime input; a tensor that an operation creates would be
        // recorded as a constant of the graph.
        Tensor::from_data(TensorData::zeros::<f32, _>(*self), device)
    }

    fn normal(&self, device: &Device) -> Tensor<D> {
        Tensor::random(*self, Distribution::Normal(0.0, 1.0), device)
    }
}

macro_rules! tensors {
    ($($kind:ty),*) => {$(
        impl<const D: usize> Tensors for $kind {
            fn shapes(&self) -> Vec<Vec<usize>> {
                vec![self.dims().to_vec()]
            }

            fn ids(&self) -> Result<Vec<TensorId>, CaptureError> {
                let primitive = self.clone().try_into_primitive::<CaptureBackend>();
                let foreign = |error| CaptureError::ForeignOutput { detail: format!("{error:?}") };
                Ok(vec![primitive.map_err(foreign)?.id()])
            }

            fn into_data(self) -> Vec<TensorData> {
                vec![self.into_data()]
            }
        }
    )*};
}

tensors!(Tensor<D>, Tensor<D, Int>);

impl<T: Tensors> Tensors for Vec<T> {
    fn shapes(&self) -> Vec<Vec<usize>> {
        self.iter().flat_map(Tensors::shapes).collect()
    }

    fn ids(&self) -> Result<Vec<TensorId>, CaptureError> {
        let ids: Result<Vec<_>, _> = self.iter().map(Tensors::ids).collect();
        Ok(ids?.concat())
    }

    fn into_data(self) -> Vec<TensorData> {
        self.into_iter().flat_map(Tensors::into_data).collect()
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*)),*) => {$(
        impl<$($name: InputShapes),*> InputShapes for ($($name,)*) {
            type Tensors = ($($name::Tensors,)*);

            fn shapes(&self) -> Vec<Vec<usize>> {
                [$(self.$index.shapes()),*].concat()
            }

            fn with_batch(&self, batch: usize) -> Self {
                ($(self.$index.with_batch(batch),)*)
            }

            fn zeros(&self, device: &Device) -> Self::Tensors {
                ($(self.$index.zeros(device),)*)
            }

            fn normal(&self, device: &Device) -> Self::Tensors {
                ($(self.$index.normal(device),)*)
            }
        }

        impl<$($name: Tensors),*> Tensors for ($($name,)*) {
            fn shapes(&self) -> Vec<Vec<usize>> {
                [$(self.$index.shapes()),*].concat()
            }

            fn ids(&self) -> Result<Vec<TensorId>, CaptureError> {
                Ok([$(self.$index.ids()?),*].concat())
            }

            fn into_data(self) -> Vec<TensorData> {
                [$(self.$index.into_data()),*].concat()
            }
        }
    )*};
}

tuples!((A 0, B 1), (A 0, B 1, C 2), (A 0, B 1, C 2, D 3));
