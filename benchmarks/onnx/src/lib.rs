//! What an ONNX file costs on the hardware at hand.
//!
//! - [`latency`]: runs files on the runtimes of [`exporters::runtime`] and measures them, one alone or several in turn.
//! - [`statistics`]: percentiles, mean and deviation, with their sources.
//! - [`report`]: the figures, and the file that holds them.
//! - `cli` (feature `cli`): the flags, tables and files of the commands `onnx-bench` and `nes-search bench`.
//! - [`machine`]: what the figures were measured on.

#[cfg(feature = "cli")]
pub mod cli;
mod contestant;
pub mod latency;
pub mod machine;
mod noise;
pub mod report;
pub mod statistics;
