//! ONNX files on [ONNX Runtime](https://onnxruntime.ai), a shared library that is looked for when it is first needed.

use std::env;
use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use half::f16;
use ndarray::ArrayD;
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, PrimitiveTensorElementType, Tensor, TensorElementType};

use super::{Element, Input, Runtime, RuntimeError, RuntimeKind, check_inputs, contained};

/// A session in ONNX Runtime, on its CPU execution provider.
pub(super) struct OnnxRuntime {
    path: PathBuf,
    session: Session,
    version: &'static str,
    inputs: Vec<Input>,
    fed: Vec<DynValue>,
}

impl Debug for OnnxRuntime {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OnnxRuntime")
            .field("path", &self.path)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl OnnxRuntime {
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        let library = library()?;
        let session = open_session(&library.environment, path, threads).map_err(|error| RuntimeError::Load {
            runtime: RuntimeKind::OnnxRuntime,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let (inputs, outputs) = (session.inputs(), session.outputs());
        if inputs.is_empty() || outputs.is_empty() {
            let (inputs, outputs) = (inputs.len(), outputs.len());
            return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
        }
        let inputs = inputs.iter().map(|outlet| input(path, outlet)).collect::<Result<_, _>>()?;
        for output in outputs {
            if output.dtype().tensor_type().and_then(element_of).is_none() {
                return Err(element_type(path, "output", output));
            }
        }
        Ok(Self { path: path.to_owned(), version: &library.version, inputs, fed: Vec::new(), session })
    }
}

/// What an input is declared as; a size that the file leaves free is `None` (ONNX Runtime says -1).
fn input(path: &Path, outlet: &Outlet) -> Result<Input, RuntimeError> {
    let element = outlet.dtype().tensor_type().and_then(element_of);
    match (element, outlet.dtype().tensor_shape()) {
        (Some(element), Some(shape)) => {
            let shape = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
            Ok(Input { name: outlet.name().to_owned(), element, shape })
        }
        _ => Err(element_type(path, "input", outlet)),
    }
}

fn element_of(found: TensorElementType) -> Option<Element> {
    Some(match found {
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::Int8 => Element::I8,
        TensorElementType::Int16 => Element::I16,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Uint16 => Element::U16,
        TensorElementType::Uint32 => Element::U32,
        TensorElementType::Uint64 => Element::U64,
        TensorElementType::Bool => Element::Bool,
        _ => return None,
    })
}

/// A tensor of the numbers of an input.
fn value(element: Element, data: &ArrayD<f32>) -> ort::Result<DynValue> {
    fn tensor<T>(data: &ArrayD<f32>, number: impl Fn(f32) -> T) -> ort::Result<DynValue>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        let values: Vec<T> = data.iter().map(|value| number(*value)).collect();
        Tensor::from_array((data.shape().to_vec(), values)).map(Tensor::into_dyn)
    }
    match element {
        Element::F16 => tensor(data, f16::from_f32),
        Element::F32 => tensor(data, |value| value),
        Element::F64 => tensor(data, f64::from),
        Element::I8 => tensor(data, |value| value.round() as i8),
        Element::I16 => tensor(data, |value| value.round() as i16),
        Element::I32 => tensor(data, |value| value.round() as i32),
        Element::I64 => tensor(data, |value| value.round() as i64),
        Element::U8 => tensor(data, |value| value.round() as u8),
        Element::U16 => tensor(data, |value| value.round() as u16),
        Element::U32 => tensor(data, |value| value.round() as u32),
        Element::U64 => tensor(data, |value| value.round() as u64),
        Element::Bool => tensor(data, |value| value > 0.0),
    }
}

/// The numbers of an output as `f32`, with their shape.
fn numbers(output: &DynValue, element: Element) -> ort::Result<(Vec<usize>, Vec<f32>)> {
    fn extract<T>(output: &DynValue, number: impl Fn(&T) -> f32) -> ort::Result<(Vec<usize>, Vec<f32>)>
    where
        T: PrimitiveTensorElementType,
    {
        let (shape, data) = output.try_extract_tensor::<T>()?;
        Ok((shape.iter().map(|&size| size.unsigned_abs() as usize).collect(), data.iter().map(number).collect()))
    }
    match element {
        Element::F16 => extract(output, |value: &f16| value.to_f32()),
        Element::F32 => extract(output, |value: &f32| *value),
        Element::F64 => extract(output, |value: &f64| *value as f32),
        Element::I8 => extract(output, |value: &i8| f32::from(*value)),
        Element::I16 => extract(output, |value: &i16| f32::from(*value)),
        Element::I32 => extract(output, |value: &i32| *value as f32),
        Element::I64 => extract(output, |value: &i64| *value as f32),
        Element::U8 => extract(output, |value: &u8| f32::from(*value)),
        Element::U16 => extract(output, |value: &u16| f32::from(*value)),
        Element::U32 => extract(output, |value: &u32| *value as f32),
        Element::U64 => extract(output, |value: &u64| *value as f32),
        Element::Bool => extract(output, |value: &bool| f32::from(u8::from(*value))),
    }
}

fn element_type(path: &Path, place: &'static str, outlet: &Outlet) -> RuntimeError {
    RuntimeError::ElementType { path: path.to_owned(), place, found: outlet.dtype().to_string() }
}

fn open_session(environment: &Environment, path: &Path, threads: usize) -> ort::Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Threads that spin while they wait for work take the cores from whatever else runs here; on a loaded machine
        // that made the median five times longer. Sleeping threads cost some microseconds of waking up per operator,
        // which is the steadier figure.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    builder.commit_from_file(path)
}

impl Runtime for OnnxRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::OnnxRuntime
    }

    fn version(&self) -> String {
        self.version.to_owned()
    }

    fn options(&self) -> &'static str {
        "CPU execution provider with arena; all graph optimisations; inter-op threads 1; no spinning"
    }

    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> usize {
        self.session.outputs().len()
    }

    fn feed(&mut self, inputs: &[&ArrayD<f32>]) -> Result<(), RuntimeError> {
        check_inputs(&self.path, &self.inputs, inputs)?;
        let values = self.inputs.iter().zip(inputs).map(|(input, data)| value(input.element, data));
        self.fed = values.collect::<ort::Result<_>>().map_err(|error| run_error(&self.path, error))?;
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let failed = |error: ort::Error| run_error(&self.path, error);
        let views: Vec<SessionInputValue<'_>> = self.fed.iter().map(SessionInputValue::from).collect();
        let outputs = self.session.run(&views[..]).map_err(failed)?;
        let mut arrays = Vec::new();
        for index in 0..outputs.len() {
            let output = &outputs[index];
            let element =
                output.dtype().tensor_type().and_then(element_of).ok_or_else(|| RuntimeError::ElementType {
                    path: self.path.clone(),
                    place: "output",
                    found: output.dtype().to_string(),
                })?;
            let (shape, data) = numbers(output, element).map_err(failed)?;
            arrays.push(ArrayD::from_shape_vec(shape, data).map_err(|error| run_error(&self.path, error))?);
        }
        Ok(arrays)
    }
}

fn run_error(path: &Path, reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: RuntimeKind::OnnxRuntime, path: path.to_owned(), reason: reason.to_string() }
}

/// The library, loaded. `ort` allows one environment per process, so it lives as long as the process.
struct Library {
    environment: Environment,
    version: String,
}

/// [`RuntimeError`] cannot be cloned out of the cell.
enum LibraryFault {
    NotFound(String),
    Unusable(PathBuf, String),
}

pub(super) fn require() -> Result<(), RuntimeError> {
    library().map(|_| ())
}

fn library() -> Result<&'static Library, RuntimeError> {
    static LIBRARY: OnceLock<Result<Library, LibraryFault>> = OnceLock::new();
    LIBRARY.get_or_init(|| find_library().and_then(open_library)).as_ref().map_err(|fault| match fault {
        LibraryFault::NotFound(searched) => RuntimeError::LibraryNotFound { searched: searched.clone() },
        LibraryFault::Unusable(path, reason) => {
            RuntimeError::LibraryUnusable { path: path.clone(), reason: reason.clone() }
        }
    })
}

fn open_library(path: PathBuf) -> Result<Library, LibraryFault> {
    // `ort` panics on a library that exports the entry point and then returns nothing from it.
    let opened = contained(|| {
        let builder = ort::init_from(&path).map_err(|error| error.to_string())?;
        let environment = builder.with_telemetry(false).build().map_err(|error| error.to_string())?;
        // What goes wrong comes back as an error; the library's own lines on stderr would only tear a progress display.
        environment.set_log_level(LogLevel::Fatal);
        Ok(Library { environment, version: version(ort::info(), &path) })
    });
    opened.map_err(|reason| LibraryFault::Unusable(path, reason))
}

/// The version out of the build information (`git-branch=rel-1.24.0`), else out of the file's name
/// (`libonnxruntime.so.1.24.0`).
fn version(build_info: &str, library: &Path) -> String {
    let from_info = build_info.split_once("git-branch=rel-").and_then(|(_, rest)| rest.split([',', ' ']).next());
    let name = library.file_name().map(|name| name.to_string_lossy());
    let from_name = name.as_deref().and_then(|name| name.split_once(".so.")).map(|(_, version)| version);
    from_info.or(from_name).unwrap_or("unknown").to_owned()
}

fn find_library() -> Result<PathBuf, LibraryFault> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        // `ort` takes a relative path to start at the executable; whoever sets a variable means the current folder. A
        // bare name that is no file here stays one, for the dynamic linker to look up.
        return Ok(if path.exists() { std::path::absolute(&path).unwrap_or(path) } else { path });
    }
    let Some(package) = python_package_dir() else {
        return Err(LibraryFault::NotFound(
            "`ORT_DYLIB_PATH` is not set, and `python3` knows no package `onnxruntime`".to_owned(),
        ));
    };
    let capi = package.join("capi");
    let entries = std::fs::read_dir(&capi).into_iter().flatten().flatten();
    let libraries = entries.map(|entry| entry.path()).filter(|path| is_library(path));
    libraries.max().ok_or_else(|| {
        LibraryFault::NotFound(format!("`ORT_DYLIB_PATH` is not set, and `{}` holds no library", capi.display()))
    })
}

fn is_library(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    name.starts_with("libonnxruntime.so")
        || name == "onnxruntime.dll"
        || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
}

/// Asks `python3` where its `onnxruntime` is, without importing it. The current folder is no place to load a library
/// from, so it is taken off the path first.
fn python_package_dir() -> Option<PathBuf> {
    const SCRIPT: &str = "import sys\n\
        sys.path = [p for p in sys.path if p]\n\
        from importlib.util import find_spec\n\
        spec = find_spec('onnxruntime')\n\
        print(spec.submodule_search_locations[0] if spec else '', end='')";
    const PATIENCE: Duration = Duration::from_secs(20);

    let mut child = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > PATIENCE {
            // Nothing more can be done about a python that does not answer; it may be gone already.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok().filter(|output| output.status.success())?;
    let dir = String::from_utf8(output.stdout).ok()?;
    (!dir.is_empty()).then(|| PathBuf::from(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_from_build_information_or_file_name() {
        let path = Path::new("capi/libonnxruntime.so.1.24.1");
        assert_eq!(
            version("ORT Build Info: git-branch=rel-1.24.0, git-commit-id=26250ae, build type=Release", path),
            "1.24.0"
        );
        assert_eq!(version("ORT Build Info: git-branch=main, git-commit-id=26250ae", path), "1.24.1");
        assert_eq!(version("", Path::new("onnxruntime.dll")), "unknown");
    }

    #[test]
    fn only_the_runtime_itself_is_taken_for_the_library() {
        for name in ["libonnxruntime.so", "libonnxruntime.so.1.24.0", "libonnxruntime.1.24.0.dylib", "onnxruntime.dll"]
        {
            assert!(is_library(Path::new(name)), "{name}");
        }
        for name in ["libonnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so", "libonnxruntime.a"] {
            assert!(!is_library(Path::new(name)), "{name}");
        }
    }
}
