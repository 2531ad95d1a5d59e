//! Image data sets, in memory or on disk, and mini-batches of them.
//!
//! [`ImageData`] is a data set of two splits, [`ImageSet`] one of them (or any subset: subsets share the pixels),
//! [`batch()`] turns positions in a set into tensors on a device, [`EpochSampler`] says which positions come next, and
//! [`Feed`] makes batch after batch, ahead of their use where image files have to be decoded.
//!
//! Batches are gathered here and not by a framework's data loader for two reasons. Of sets in memory a batch is one table
//! look-up per pixel and needs no worker threads. And every random decision (the order of the images, each flip, shift and
//! crop) comes from an explicit [`ChaCha8Rng`](rand_chacha::ChaCha8Rng) whose state is serialised with the checkpoint, so a
//! resumed run sees bit for bit the batches that an uninterrupted one would have seen. Decisions are made in order, in a
//! [`Plan`]; threads only carry them out, so their number changes nothing.

mod batch;
mod cifar;
mod decode;
mod error;
mod feed;
mod folder;
pub mod idx;
mod idx_set;
mod image_data;
mod image_set;
mod inspection;
mod normalization;
mod sampler;

pub use batch::{Augment, Batch, Plan, batch};
pub use error::DataError;
pub use feed::Feed;
pub use image_data::{IMAGE_SIZE, ImageData};
pub use image_set::ImageSet;
pub use inspection::Inspection;
pub use normalization::Normalization;
pub use sampler::{EpochSampler, batches};
