//! The elastic layers.

mod batch_norm;
mod channels;
mod conv1d;
mod conv2d;
mod conv_transpose2d;
mod group_norm;
mod label;
mod layer_norm;
mod linear;
mod prelu;
mod resize;
mod squeeze_excite;
mod stack;

pub use batch_norm::{ElasticBatchNorm, ElasticBatchNormConfig};
pub use conv_transpose2d::{ElasticConvTranspose2d, ElasticConvTranspose2dConfig};
pub use conv1d::{ElasticConv1d, ElasticConv1dConfig};
pub use conv2d::{ElasticConv2d, ElasticConv2dConfig};
pub use group_norm::{ElasticGroupNorm, ElasticGroupNormConfig};
pub use layer_norm::{ElasticLayerNorm, ElasticLayerNormConfig};
pub use linear::{ElasticLinear, ElasticLinearConfig};
pub use prelu::{ElasticPRelu, ElasticPReluConfig};
pub use resize::ElasticResize;
pub use squeeze_excite::{ElasticSqueezeExcite, ElasticSqueezeExciteConfig, Gate};
pub use stack::ElasticStack;
