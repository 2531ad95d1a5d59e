//! ONNX runtimes behind one trait: load a file, ask for its input shape, run it.
//!
//! [`RuntimeKind::Rten`] is compiled in. [`RuntimeKind::OnnxRuntime`] is a shared library that is looked for when it is
//! first asked for: at `ORT_DYLIB_PATH`, else inside the `onnxruntime` package of the `python3` on `PATH`.
//! [`RuntimeKind::Tract`] is compiled in with the feature `tract`. [`RuntimeKind::BurnFlex`] names what Burn itself
//! computes, where that is compared with the others; it reads no files.
//!
//! Data for inputs is given as `f32`, and becomes the numbers of the input ([`Element`]); outputs come out as `f32`,
//! whatever numbers they are of. Most networks have one of each, for which [`Runtime::run`] is the short form.
//!
//! ```no_run
//! use exporters::runtime::{self, Runtime, RuntimeKind};
//! use ndarray::ArrayD;
//!
//! let threads = 1;
//! let mut network = runtime::load(RuntimeKind::Rten, "model.onnx".as_ref(), threads)?;
//! let shape: Vec<usize> = network.input_shape().iter().map(|size| size.unwrap_or(1)).collect();
//! let logits = network.run(&ArrayD::zeros(shape))?;
//! assert_eq!(logits.shape()[0], 1);
//! # Ok::<(), runtime::RuntimeError>(())
//! ```

mod error;
mod onnx_runtime;
mod rten;
#[cfg(feature = "tract")]
mod tract;
mod wire;

use std::any::Any;
use std::fmt::{self, Debug, Display, Formatter};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;

use ndarray::ArrayD;
use serde::{Deserialize, Serialize};

pub use error::RuntimeError;

/// What executes a network. Its text form is `rten`, `onnx-runtime`, `tract` or `burn-flex`, in files and on the command
/// line alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// [`rten`](https://docs.rs/rten): in Rust, compiled in, always there.
    Rten,
    /// [ONNX Runtime](https://onnxruntime.ai): a shared library found at run time; its CPU execution provider.
    OnnxRuntime,
    /// [tract](https://docs.rs/tract-onnx): in Rust, compiled in with the feature `tract`; computes with one thread.
    Tract,
    /// Burn's flex backend, on the network that a file was exported from.
    BurnFlex,
}

impl RuntimeKind {
    /// Every runtime, in the order in which reports list them.
    pub const ALL: [Self; 4] = [Self::Rten, Self::OnnxRuntime, Self::Tract, Self::BurnFlex];

    /// The text form, e.g. `onnx-runtime`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::OnnxRuntime => "onnx-runtime",
            Self::Tract => "tract",
            Self::BurnFlex => "burn-flex",
        }
    }
}

impl Display for RuntimeKind {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for RuntimeKind {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| RuntimeError::UnknownRuntime { found: text.to_owned() })
    }
}

/// The numbers that an input is of. Data is given as `f32` and rounded to them; of `bool`, what is above 0 is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is named after its numbers")]
pub enum Element {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Element {
    /// Whether it has fractions.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// An input of a network, as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub element: Element,
    /// The sizes of its axes; `None` for an axis of free size, such as a symbolic batch.
    pub shape: Vec<Option<usize>>,
}

/// A network that is loaded and ready to run.
pub trait Runtime: Send + Debug {
    /// Which runtime this is.
    fn kind(&self) -> RuntimeKind;

    /// The runtime's version, e.g. `1.24.0`.
    fn version(&self) -> String;

    /// What the runtime was told besides the number of threads, for reports.
    fn options(&self) -> &'static str;

    /// All inputs, in their order.
    fn inputs(&self) -> &[Input];

    /// How many outputs the network has.
    fn outputs(&self) -> usize;

    /// Takes data for all inputs, and makes the inputs' own numbers of it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InputCount`] for other than all inputs, [`RuntimeError::InputShape`] where a shape is not that
    /// of [`Self::inputs`] (a free axis takes any size but 0), and [`RuntimeError::Run`] for whatever the runtime says.
    fn feed(&mut self, inputs: &[&ArrayD<f32>]) -> Result<(), RuntimeError>;

    /// Computes every output for the data that was [fed](Self::feed) last.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ElementType`] where an output turns out to be no tensor of numbers, and [`RuntimeError::Run`] for
    /// whatever the runtime says, or where nothing was fed.
    fn compute(&mut self) -> Result<Vec<ArrayD<f32>>, RuntimeError>;

    /// Computes every output for all inputs.
    ///
    /// # Errors
    ///
    /// Those of [`Self::feed`] and [`Self::compute`].
    fn run_all(&mut self, inputs: &[&ArrayD<f32>]) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        self.feed(inputs)?;
        self.compute()
    }

    /// The shape of the first input.
    fn input_shape(&self) -> Vec<Option<usize>> {
        self.inputs().first().map(|input| input.shape.clone()).unwrap_or_default()
    }

    /// Computes the first output of a network with one input.
    ///
    /// # Errors
    ///
    /// See [`Self::run_all`].
    fn run(&mut self, input: &ArrayD<f32>) -> Result<ArrayD<f32>, RuntimeError> {
        // A network that was loaded has an output.
        Ok(self.run_all(&[input])?.swap_remove(0))
    }
}

/// Loads an ONNX file with one input and one output; otherwise as [`load_any`].
///
/// # Errors
///
/// Those of [`load_any`], and [`RuntimeError::Interface`] for other numbers of inputs and outputs.
pub fn load(kind: RuntimeKind, path: &Path, threads: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    let network = load_any(kind, path, threads)?;
    let (inputs, outputs) = (network.inputs().len(), network.outputs());
    if (inputs, outputs) != (1, 1) {
        return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
    }
    Ok(network)
}

/// Loads the ONNX file at `path` into a runtime that computes with `threads` threads, its own graph optimisations on.
///
/// # Errors
///
/// A [`RuntimeError`] for a file that is missing, damaged, unsupported, has no input or no output, or an input that is
/// no tensor of numbers; for 0 threads; and where ONNX Runtime's library is missing or unusable.
pub fn load_any(kind: RuntimeKind, path: &Path, threads: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    if threads == 0 {
        return Err(RuntimeError::NoThreads);
    }
    // Opened here so that both runtimes report a missing or unreadable file, or a folder, in the same words.
    let unreadable = |source| RuntimeError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    match kind {
        RuntimeKind::Rten => Ok(Box::new(rten::Rten::load(path, threads)?)),
        RuntimeKind::OnnxRuntime => Ok(Box::new(onnx_runtime::OnnxRuntime::load(path, threads)?)),
        #[cfg(feature = "tract")]
        RuntimeKind::Tract => Ok(Box::new(tract::Tract::load(path, threads)?)),
        #[cfg(not(feature = "tract"))]
        RuntimeKind::Tract => Err(RuntimeError::NotCompiledIn { runtime: kind }),
        RuntimeKind::BurnFlex => Err(RuntimeError::NoNetwork),
    }
}

/// The runtimes that load files on this machine: rten always, ONNX Runtime where its library is found and usable, tract
/// where it is compiled in.
///
/// The first call looks for the library, which takes a fraction of a second; the answer is kept for the life of the
/// process.
pub fn available() -> Vec<RuntimeKind> {
    RuntimeKind::ALL.into_iter().filter(|&kind| require(kind).is_ok()).collect()
}

/// Says why a runtime is not available.
///
/// # Errors
///
/// [`RuntimeError::LibraryNotFound`] or [`RuntimeError::LibraryUnusable`] where ONNX Runtime cannot be used;
/// [`RuntimeError::NotCompiledIn`] for tract without the feature of that name; [`RuntimeError::NoNetwork`] for Burn.
pub fn require(kind: RuntimeKind) -> Result<(), RuntimeError> {
    match kind {
        RuntimeKind::Rten => Ok(()),
        RuntimeKind::Tract if cfg!(feature = "tract") => Ok(()),
        RuntimeKind::Tract => Err(RuntimeError::NotCompiledIn { runtime: kind }),
        RuntimeKind::BurnFlex => Err(RuntimeError::NoNetwork),
        RuntimeKind::OnnxRuntime => onnx_runtime::require(),
    }
}

/// Why ONNX Runtime cannot be used, though somebody has a library that is meant for it. Returns `None` where it can be used,
/// or where there is none.
pub fn complaint() -> Option<RuntimeError> {
    require(RuntimeKind::OnnxRuntime).err().filter(|error| matches!(error, RuntimeError::LibraryUnusable { .. }))
}

/// Checks data against the shapes that a network declares.
///
/// # Errors
///
/// [`RuntimeError::InputCount`] for other than all inputs, [`RuntimeError::InputShape`] where a shape differs; a free axis
/// (`None`) takes any size but 0.
pub fn check_inputs(path: &Path, expected: &[Input], found: &[&ArrayD<f32>]) -> Result<(), RuntimeError> {
    if expected.len() != found.len() {
        return Err(RuntimeError::InputCount { path: path.to_owned(), expected: expected.len(), found: found.len() });
    }
    expected.iter().zip(found).try_for_each(|(expected, found)| check_input_shape(path, &expected.shape, found.shape()))
}

fn check_input_shape(path: &Path, expected: &[Option<usize>], found: &[usize]) -> Result<(), RuntimeError> {
    let fits = |(expected, &found): (&Option<usize>, &usize)| match expected {
        Some(size) => *size == found,
        None => found > 0,
    };
    if expected.len() == found.len() && expected.iter().zip(found).all(fits) {
        return Ok(());
    }
    let sizes: Vec<String> =
        expected.iter().map(|size| size.map_or_else(|| "?".to_owned(), |size| size.to_string())).collect();
    Err(RuntimeError::InputShape {
        path: path.to_owned(),
        expected: format!("[{}]", sizes.join(", ")),
        found: found.to_vec(),
    })
}

/// Runs code of a runtime on data that nobody vouches for: a panic in it becomes the reason of an error.
fn contained<T>(code: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code))
        .unwrap_or_else(|payload| Err(format!("it panicked: {}", panic_message(payload.as_ref()))))
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_the_same_everywhere() {
        for kind in RuntimeKind::ALL {
            assert_eq!(serde_json::to_string(&kind).expect("a string"), format!("\"{kind}\""));
            assert_eq!(kind.name().parse::<RuntimeKind>().expect("its own name"), kind);
        }
        let error = "tensorrt".parse::<RuntimeKind>().expect_err("not a runtime");
        assert!(error.to_string().ends_with("`tract` or `burn-flex`, found `tensorrt`"), "{error}");
    }

    #[test]
    fn free_axes_take_any_size_but_zero() {
        let declared = [None, Some(3)];
        let check = |found: &[usize]| check_input_shape(Path::new("m.onnx"), &declared, found);
        assert!(check(&[1, 3]).is_ok());
        assert!(check(&[7, 3]).is_ok());
        for wrong in [&[0, 3][..], &[1, 4], &[3], &[1, 3, 1]] {
            let error = check(wrong).expect_err("wrong shape");
            assert_eq!(error.to_string(), format!("input of `m.onnx`: expected shape [?, 3], found {wrong:?}"));
        }
    }

    #[test]
    fn a_panic_becomes_a_reason() {
        let result: Result<(), String> = contained(|| std::panic::panic_any("boom"));
        assert_eq!(result, Err("it panicked: boom".to_owned()));
    }
}
