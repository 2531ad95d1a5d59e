//! ONNX files on [ONNX Runtime](https://onnxruntime.ai), a shared library that is looked for when it is first needed.

use std::env;
use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ndarray::ArrayD;
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, TensorElementType, TensorRef};

use super::{Runtime, RuntimeError, RuntimeKind, check_inputs, contained};

/// A session in ONNX Runtime, on its CPU execution provider.
pub(super) struct OnnxRuntime {
    path: PathBuf,
    session: Session,
    version: &'static str,
    input_shapes: Vec<Vec<Option<usize>>>,
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
        let input_shapes = inputs.iter().map(|input| float_shape(path, input)).collect::<Result<_, _>>()?;
        for output in outputs {
            if !matches!(output.dtype().tensor_type(), Some(TensorElementType::Float32 | TensorElementType::Int64)) {
                return Err(element_type(path, "output", output));
            }
        }
        Ok(Self { path: path.to_owned(), version: &library.version, input_shapes, session })
    }
}

/// The shape of a tensor of `f32`; a size that the file leaves free is `None` (ONNX Runtime says -1).
fn float_shape(path: &Path, input: &Outlet) -> Result<Vec<Option<usize>>, RuntimeError> {
    match (input.dtype().tensor_type(), input.dtype().tensor_shape()) {
        (Some(TensorElementType::Float32), Some(shape)) => {
            Ok(shape.iter().map(|&size| usize::try_from(size).ok()).collect())
        }
        _ => Err(element_type(path, "input", input)),
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

    fn input_shapes(&self) -> &[Vec<Option<usize>>] {
        &self.input_shapes
    }

    fn outputs(&self) -> usize {
        self.session.outputs().len()
    }

    fn run_all(&mut self, inputs: &[&ArrayD<f32>]) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        check_inputs(&self.path, &self.input_shapes, inputs)?;
        let path = &self.path;
        let run_error = |reason| RuntimeError::Run { runtime: RuntimeKind::OnnxRuntime, path: path.clone(), reason };
        let failed = |error: ort::Error| run_error(error.to_string());
        let inputs: Vec<_> = inputs.iter().map(|input| input.as_standard_layout()).collect();
        let mut views = Vec::new();
        for input in &inputs {
            let data = input.as_slice().unwrap_or_default();
            views.push(SessionInputValue::from(TensorRef::from_array_view((input.shape(), data)).map_err(failed)?));
        }
        let outputs = self.session.run(&views[..]).map_err(failed)?;
        let mut arrays = Vec::new();
        for index in 0..outputs.len() {
            let output = &outputs[index];
            let (shape, data) = match output.dtype().tensor_type() {
                Some(TensorElementType::Int64) => {
                    let (shape, data) = output.try_extract_tensor::<i64>().map_err(failed)?;
                    (shape, data.iter().map(|value| *value as f32).collect())
                }
                _ => {
                    let (shape, data) = output.try_extract_tensor::<f32>().map_err(failed)?;
                    (shape, data.to_vec())
                }
            };
            let shape: Vec<usize> = shape.iter().map(|&size| size.unsigned_abs() as usize).collect();
            arrays.push(ArrayD::from_shape_vec(shape, data).map_err(|error| run_error(error.to_string()))?);
        }
        Ok(arrays)
    }
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
