//! Image data sets, and mini-batches of them.
//!
//! [`ImageData`] is a data set of two splits, [`ImageSet`] one of them (or any subset: subsets share the pixels),
//! [`batch()`] turns positions in a set into tensors on a device, [`EpochSampler`] says which positions come next, and
//! [`Feed`] joins these two for training.
//!
//! Batches are gathered here and not by a framework's data loader since every random decision (the order of the images,
//! each flip, shift and crop) comes from an explicit [`ChaCha8Rng`](rand_chacha::ChaCha8Rng) whose state is serialised with
//! the checkpoint, so that a resumed run sees bit for bit the batches that an uninterrupted one would have seen. Small sets
//! are bytes in memory, and a batch one table look-up per pixel. Images in files are decoded by threads that run ahead of
//! the training. Burn's own folders of images are not used: they stop the process at a damaged file.

mod batch;
pub mod cifar;
mod dataset;
mod error;
mod feed;
pub mod folder;
pub mod idx;
mod normalization;
mod photo;
mod sampler;

pub use batch::{Augment, Batch, batch};
pub use dataset::{ImageData, ImageSet};
pub use error::DataError;
pub use feed::Feed;
pub use normalization::Normalization;
pub use sampler::{EpochSampler, batches};
