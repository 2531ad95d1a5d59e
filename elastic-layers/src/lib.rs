//! Elastic layers for the [Burn](burn) framework: one set of weights, many sub-networks.
//!
//! A model is made elastic by swapping layer types ([`ElasticConv2d`] for `Conv2d`, and so on) whose sizes are
//! dimensions of a [`SearchSpace`]. The model at its maximum sizes is the *supernet*; [`Elastic::select`] gives a
//! *view* of it at one [`Architecture`], which shares its parameters, and [`Elastic::materialize_at`] a static model
//! with the parameters cropped.
//!
//! ```
//! use burn::module::Module;
//! use burn::tensor::{Device, Tensor};
//! use elastic_layers::*;
//!
//! #[derive(Module, Elastic, Debug)]
//! struct Net {
//!     conv: ElasticConv2d,
//!     norm: ElasticBatchNorm,
//!     head: ElasticLinear,
//! }
//!
//! impl Net {
//!     fn forward(&self, images: Tensor<4>) -> Tensor<2> {
//!         let x = self.norm.forward(self.conv.forward(images));
//!         self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
//!     }
//! }
//!
//! # fn main() -> Result<(), SpaceError> {
//! let device = Device::default();
//! let mut space = SearchSpace::new();
//! let width = space.channels("conv", 32).scale(0.25..=1.0).step(0.25).add()?;
//! let net = Net {
//!     conv: ElasticConv2dConfig::new([3.into(), width.clone()], [3, 3]).init(&device),
//!     norm: ElasticBatchNormConfig::new(width.clone()).init(&device),
//!     head: ElasticLinearConfig::new(width, 10).init(&device),
//! };
//!
//! let narrow = space.smallest();
//! let view = net.select(&narrow);
//! assert_eq!(view.forward(Tensor::zeros([2, 3, 8, 8], &device)).dims(), [2, 10]);
//! assert_eq!(net.materialize_at(&narrow).num_params(), 8 * 3 * 9 + 8 + 2 * 8 + 2 * 8 + 8 * 10 + 10);
//! # Ok(())
//! # }
//! ```

extern crate self as elastic_layers;

#[cfg(doctest)]
#[doc = include_str!("../../docs/making-a-model-elastic.md")]
struct Guide;

mod architecture;
pub mod backbones;
pub mod blocks;
pub mod capture;
mod check;
mod cost;
mod crop;
mod dim;
mod elastic;
mod intern;
mod layers;
mod macs;
mod recalibrate;
mod size;
mod space;
mod weights;

pub use architecture::{Architecture, ArchitectureError};
pub use check::{ModelError, check_model};
pub use cost::{Cost, CostError, CostModel};
pub use dim::{DimKind, ElasticDim};
pub use elastic::{Adaptation, AxesVisitor, Change, Elastic, Statistics};
pub use elastic_kernels as kernels;
pub use elastic_kernels::Activation;
pub use elastic_layers_derive::Elastic;
pub use layers::{
    ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv1d, ElasticConv1dConfig, ElasticConv2d, ElasticConv2dConfig,
    ElasticConvTranspose2d, ElasticConvTranspose2dConfig, ElasticGroupNorm, ElasticGroupNormConfig, ElasticLayerNorm,
    ElasticLayerNormConfig, ElasticLinear, ElasticLinearConfig, ElasticPRelu, ElasticPReluConfig, ElasticResize,
    ElasticSqueezeExcite, ElasticSqueezeExciteConfig, ElasticStack, Gate,
};
pub use macs::Macs;
pub use recalibrate::recalibrate;
pub use size::{Axis, Size};
pub use space::{DimBuilder, SearchSpace, SpaceError};
pub use weights::{PytorchWeights, Torchvision, WeightsError};

/// An elastic network from images to class scores: what the search, the trainer and the exporter run.
///
/// # Shapes
/// - `images`: `[batch, channels, height, width]`
/// - output: `[batch, classes]`
pub trait Backbone: Elastic {
    /// The class scores (logits) of a batch of images.
    fn forward(&self, images: burn::tensor::Tensor<4>) -> burn::tensor::Tensor<2>;
}
