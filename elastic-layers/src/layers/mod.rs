//! The elastic layers.

mod batch_norm;
mod conv2d;
mod linear;
mod resize;
mod stack;

pub use batch_norm::{ElasticBatchNorm, ElasticBatchNormConfig};
pub use conv2d::{ElasticConv2d, ElasticConv2dConfig, Groups};
pub use linear::{ElasticLinear, ElasticLinearConfig};
pub use resize::ElasticResize;
pub use stack::ElasticStack;
