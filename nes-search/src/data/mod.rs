//! Image data sets held in memory, and mini-batches of them.
//!
//! [`ImageData`] is a data set of two splits, [`ImageSet`] one of them (or any subset: subsets share the pixels),
//! [`batch()`] turns positions in a set into tensors on a device, and [`EpochSampler`] says which positions come next.
//!
//! Batches are gathered here and not by a framework's data loader for two reasons. The sets are bytes that fit in memory,
//! so a batch is one table look-up per pixel and needs no worker threads. And every random decision (the order of the
//! images, each flip and shift) comes from an explicit [`ChaCha8Rng`](rand_chacha::ChaCha8Rng) whose state is serialised
//! with the checkpoint, so a resumed run sees bit for bit the batches that an uninterrupted one would have seen.

mod batch;
mod dataset;
mod error;
pub mod idx;
mod normalization;
mod sampler;

pub use batch::{Augment, Batch, batch};
pub use dataset::{ImageData, ImageSet};
pub use error::DataError;
pub use normalization::Normalization;
pub use sampler::{EpochSampler, batches};
