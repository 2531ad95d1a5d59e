//! Burn models to ONNX, with proof.
//!
//! [`OnnxExporter`] captures a model's forward, lowers it to ONNX and cleans the graph up: batch norm folded, constants
//! folded, nothing left that a simplifier would remove. [`verify()`] runs the file in ONNX runtimes ([`runtime`]) and
//! compares with what Burn computed.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Tensor};
//! use exporters::runtime::RuntimeKind;
//! use exporters::{OnnxExporter, reference, verify};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::default();
//! let model = LinearConfig::new(4, 2).init(&device);
//! let onnx = OnnxExporter::new([1, 4]).export(&model, |model, x: Tensor<2>| model.forward(x))?;
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.onnx");
//! onnx.save(&path)?;
//!
//! let images = Tensor::<2>::ones([7, 4], &device);
//! let expected = model.forward(images.clone());
//! let report = verify(&path, &[reference(images, expected)], &[RuntimeKind::Rten], 1e-4);
//! assert!(report.passed());
//! # Ok(())
//! # }
//! ```

pub mod runtime;

#[cfg(feature = "burn")]
mod error;
#[cfg(feature = "burn")]
mod export;
#[cfg(feature = "burn")]
mod graph;
#[cfg(feature = "burn")]
mod lower;
#[cfg(feature = "burn")]
mod model;
#[cfg(feature = "burn")]
mod operators;
#[cfg(feature = "burn")]
mod passes;
#[cfg(feature = "burn")]
mod proto;
#[cfg(feature = "burn")]
mod quantize;
#[cfg(feature = "burn")]
mod shapes;
#[cfg(feature = "burn")]
mod structure;
#[cfg(feature = "burn")]
mod verify;

#[cfg(feature = "burn")]
pub use error::{ExportError, UnsupportedOperation};
#[cfg(feature = "burn")]
pub use export::{OnnxExporter, Precision};
#[cfg(feature = "burn")]
pub use model::OnnxModel;
#[cfg(feature = "burn")]
pub use operators::{OPERATORS, Operator, operator_table};
#[cfg(feature = "burn")]
pub use verify::{Check, Reference, Tolerance, VerifyEntry, VerifyReport, random_reference, reference, verify};
