//! Why a model could not be exported.

use std::fmt;
use std::path::PathBuf;

use elastic_layers::capture::CaptureError;

/// Why a model could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The forward could not be captured.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The forward panicked: a broken shape contract in the model, or tensors of several devices.
    #[error("the forward panicked while it was captured: {message}")]
    Panic {
        /// What the panic said.
        message: String,
    },
    /// Names for other than all inputs or outputs.
    #[error("names of {place}: expected {expected}, found {found}")]
    Names {
        /// `inputs` or `outputs`.
        place: &'static str,
        /// How many the forward has.
        expected: usize,
        /// How many names were given.
        found: usize,
    },
    /// A constant has a value that is finite, and infinite in 16 bits.
    #[error("constant `{name}`: expected values of at most 65504 for 16 bits, found {value}")]
    TooLargeForHalf {
        /// The parameter; empty for a number of the forward.
        name: String,
        /// The value.
        value: f32,
    },
    /// A model could not be quantised.
    #[error("cannot quantise the model: {0}")]
    Quantize(String),
    /// The graph is not what a file may hold: names that are repeated, or a fault of the exporter.
    #[error("the graph is not valid: {0}")]
    Structure(String),
    /// The forward does other things for another batch size, so one file cannot serve all of them.
    #[error(
        "the forward depends on the batch size in a way that a file with a symbolic batch cannot express: {detail}; \
         export with a fixed batch instead"
    )]
    BatchDependent {
        /// Where it differs.
        detail: String,
    },
    /// Operations that have no ONNX form here, all of them.
    #[error("{} of the model's operations cannot be exported:{}", .0.len(), list(.0))]
    Unsupported(Vec<UnsupportedOperation>),
    /// A parameter has no values: the model was initialised on a capture device.
    #[error("parameter `{0}` has no values to export")]
    NoValues(String),
    /// The opset is outside what the lowering writes.
    #[error("ONNX opset: expected {min} to {max}, found {found}")]
    Opset {
        /// The lowest opset.
        min: i64,
        /// The highest opset.
        max: i64,
        /// What was asked for.
        found: i64,
    },
    /// The file would be larger than a protobuf message can be.
    #[error("expected at most 2 GiB of constants within a file, found {bytes} bytes")]
    TooLarge {
        /// Bytes of constants.
        bytes: usize,
    },
    /// The encoder failed.
    #[error("cannot encode the ONNX file: {0}")]
    Encode(String),
    /// The file could not be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// One operation of a model that cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOperation {
    /// Burn's name of the operation, such as `Float(CumSum)`.
    pub operation: String,
    /// The path of the module that uses it, or of the last module with parameters before it.
    pub module: String,
    /// What exactly has no ONNX form; empty where the operation as a whole has none.
    pub reason: String,
}

impl fmt::Display for UnsupportedOperation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at `{}`", self.operation, self.module)?;
        if self.reason.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.reason) }
    }
}

fn list(operations: &[UnsupportedOperation]) -> String {
    operations.iter().map(|operation| format!("\n- {operation}")).collect()
}
