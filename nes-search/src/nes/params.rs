//! H: the continuous architecture hyperparameters.

use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

/// The continuous vector that NES optimises, one entry for each dimension of the search space, in steps above the
/// dimension's smallest value (H in the paper).
///
/// It is a [`Module`], so that any Burn optimizer can step it.
#[derive(Module, Debug)]
pub struct ArchParams {
    /// `[dimensions]`.
    h: Param<Tensor<1>>,
}

impl ArchParams {
    /// Hyperparameters with the given values.
    pub fn new(values: &[f64], device: &Device) -> Self {
        Self { h: Param::from_tensor(Tensor::from_data(Self::data(values), &device.clone().autodiff())) }
    }

    /// As [`new`](Self::new), with the [`id`](Self::id) of a parameter that an optimizer knows.
    pub(crate) fn with_id(values: &[f64], id: u64, device: &Device) -> Self {
        let tensor = Tensor::from_data(Self::data(values), &device.clone().autodiff());
        Self { h: Param::initialized(ParamId::from(id), tensor.require_grad()) }
    }

    /// What optimizers know the parameter by.
    pub(crate) fn id(&self) -> u64 {
        self.h.id.val()
    }

    /// The values.
    pub fn values(&self) -> Vec<f64> {
        self.h.val().into_data().iter::<f64>().collect()
    }

    /// The same parameter with other values.
    pub fn with_values(self, values: &[f64]) -> Self {
        let h = self.h.map(|old| Tensor::from_data(Self::data(values), &old.device()).require_grad());
        Self { h }
    }

    /// A gradient of these hyperparameters, in the form that optimizers take.
    pub fn gradient(&self, gradient: &[f64]) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        let device = self.h.val().device().without_autodiff();
        gradients.register(self.h.id, Tensor::<1>::from_data(Self::data(gradient), &device));
        gradients
    }

    fn data(values: &[f64]) -> TensorData {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let count = values.len();
        TensorData::new(values, [count])
    }
}
