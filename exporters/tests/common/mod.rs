//! What several test files share: exporting a model, and comparing the file with Burn.
//!
//! Where ONNX Runtime's library is missing, its half is skipped, and where Python lacks `onnx` and `onnxslim`, what
//! needs them; `REQUIRE_ONNX_RUNTIME=1` and `REQUIRE_ONNX_TOOLS=1` make that a failure. With `EXPORT_TEST_DIR` set, the files are kept there,
//! for `tests/python/check_onnx.py`.

// Every test binary uses a part of these.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use exporters::runtime::{self, RuntimeKind};
use exporters::{OnnxExporter, OnnxModel, reference, verify};

pub const TOLERANCE: f32 = 1e-4;

pub fn runtimes() -> Vec<RuntimeKind> {
    if is_required("REQUIRE_ONNX_RUNTIME") {
        runtime::require(RuntimeKind::OnnxRuntime).expect("REQUIRE_ONNX_RUNTIME is set");
    }
    runtime::available()
}

pub fn normal<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::default())
}

/// Where a file goes, and what keeps that folder.
pub fn place(name: &str) -> (PathBuf, Option<tempfile::TempDir>) {
    match std::env::var_os("EXPORT_TEST_DIR") {
        Some(folder) => (PathBuf::from(folder).join(format!("{name}.onnx")), None),
        None => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            (folder.path().join(format!("{name}.onnx")), Some(folder))
        }
    }
}

/// Exports, runs at batch 1 and 7, and compares with Burn.
pub fn check<const D: usize, const O: usize, M: Module>(
    name: &str,
    model: &M,
    input: [usize; D],
    forward: impl Fn(&M, Tensor<D>) -> Tensor<O>,
) -> OnnxModel {
    let onnx = OnnxExporter::new(input).export(model, &forward).expect("exports");
    let (path, _folder) = place(name);
    onnx.save(&path).expect("writes");
    assert_agrees(&path, model, input, TOLERANCE, &forward);
    onnx
}

/// Holds that a file and the model, at batch 1 and 7, differ by no more than a share of the largest output, in every
/// runtime.
pub fn assert_agrees<const D: usize, const O: usize, M: Module>(
    path: &Path,
    model: &M,
    input: [usize; D],
    tolerance: f32,
    forward: impl Fn(&M, Tensor<D>) -> Tensor<O>,
) {
    let references = [1, 7].map(|batch| {
        let mut shape = input;
        shape[0] = batch;
        let images = normal(shape);
        reference(images.clone(), forward(model, images))
    });
    let report = verify(path, &references, &runtimes(), tolerance);
    assert!(report.passed(), "{}: {report:#?}", path.display());
    assert_eq!(report.entries.len(), 2 * runtimes().len());
}

/// What `tests/python/check_onnx.py` says of files, one line of JSON each, but for operators that are allowed; nothing, if
/// Python lacks what it needs.
pub fn check_with_tools(files: &[PathBuf], allowed: &[&str]) -> Option<Vec<String>> {
    let python = |arguments: &[&OsStr]| Command::new("python3").args(arguments).output();
    let tools = python(&["-c".as_ref(), "import onnx, onnxslim".as_ref()]);
    if !tools.is_ok_and(|output| output.status.success()) {
        assert!(!is_required("REQUIRE_ONNX_TOOLS"), "no onnx and onnxslim");
        return None;
    }
    // Other packages of the workspace use this file too: all of them are folders of its root.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporters/tests/python/check_onnx.py");
    let mut arguments: Vec<&OsStr> = vec![script.as_os_str()];
    for operator in allowed {
        arguments.extend([OsStr::new("--allow"), OsStr::new(operator)]);
    }
    arguments.extend(files.iter().map(|path| path.as_os_str()));
    let output = python(&arguments).expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    Some(text.lines().map(str::to_string).collect())
}

fn is_required(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}
