//! What can go wrong with a runtime, or with a file on it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::RuntimeKind;

/// Why a file could not be loaded or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The text names no runtime.
    #[error("unknown runtime: expected `rten`, `onnx-runtime`, `tract` or `burn-flex`, found `{found}`")]
    UnknownRuntime {
        /// The text.
        found: String,
    },
    /// A runtime cannot compute with no thread.
    #[error("number of threads of a runtime: expected at least 1, found 0")]
    NoThreads,
    /// The runtime computes with one thread only.
    #[error("number of threads of {runtime}: expected 1, found {found}")]
    OneThread {
        /// The runtime.
        runtime: RuntimeKind,
        /// The number that was asked for.
        found: usize,
    },
    /// The runtime is not part of this program.
    #[error("{runtime} is not compiled in: expected a build with the feature `tract`")]
    NotCompiledIn {
        /// The runtime.
        runtime: RuntimeKind,
    },
    /// Burn has no network for a file.
    #[error(
        "burn-flex runs the network that a file was exported from: expected its trained weights, found an ONNX file alone"
    )]
    NoNetwork,
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The runtime does not accept the file: it is not ONNX, it is damaged, or it needs an operator that the runtime
    /// lacks.
    #[error("{runtime} cannot load `{}`: expected an ONNX file that it supports: {reason}", path.display())]
    Load {
        /// The runtime.
        runtime: RuntimeKind,
        /// The file.
        path: PathBuf,
        /// The runtime's own message.
        reason: String,
    },
    /// The network does not have as many inputs and outputs as are asked for: one of each, or at least one.
    #[error("`{}`: expected a network with 1 input and 1 output, found {inputs} and {outputs}", path.display())]
    Interface {
        /// The file.
        path: PathBuf,
        /// Number of inputs, weights not counted.
        inputs: usize,
        /// Number of outputs.
        outputs: usize,
    },
    /// The input or the output is not a tensor of numbers.
    #[error("{place} of `{}`: expected a tensor of numbers, found {found}", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// `input` or `output`.
        place: &'static str,
        /// What it is.
        found: String,
    },
    /// Data for other than all inputs.
    #[error("`{}`: expected data for {expected} inputs, found it for {found}", path.display())]
    InputCount {
        /// The file.
        path: PathBuf,
        /// Number of inputs.
        expected: usize,
        /// Number of arrays.
        found: usize,
    },
    /// The shape of the data is not the shape of the network's input.
    #[error("input of `{}`: expected shape {expected}, found {found:?}", path.display())]
    InputShape {
        /// The file.
        path: PathBuf,
        /// The declared shape; `?` stands for a size that is free, but not 0.
        expected: String,
        /// The shape of the data.
        found: Vec<usize>,
    },
    /// The runtime failed while it computed.
    #[error("{runtime} cannot run `{}`: {reason}", path.display())]
    Run {
        /// The runtime.
        runtime: RuntimeKind,
        /// The file.
        path: PathBuf,
        /// The runtime's own message.
        reason: String,
    },
    /// No ONNX Runtime library on this machine.
    #[error(
        "ONNX Runtime's shared library not found: expected its path in `ORT_DYLIB_PATH`, or pip's package \
         `onnxruntime` installed for the `python3` on PATH; {searched}"
    )]
    LibraryNotFound {
        /// Where it was looked for, and what was found there.
        searched: String,
    },
    /// There is a file, but it cannot serve as ONNX Runtime.
    #[error("cannot use `{}` as ONNX Runtime's shared library: {reason}", path.display())]
    LibraryUnusable {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
