//! What tests of exported files share: the runtimes and the Python tools at hand.
//!
//! Where ONNX Runtime's library is missing, its half of a test is skipped, and where Python lacks `onnx` and `onnxslim`,
//! the check that needs them; `REQUIRE_ONNX_RUNTIME=1` and `REQUIRE_ONNX_TOOLS=1` make that a failure.

// Every test binary uses a part of these.
#![allow(dead_code)]

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use exporters::runtime::{self, RuntimeKind};

fn is_required(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}

/// The runtimes at hand.
pub fn runtimes() -> Vec<RuntimeKind> {
    if is_required("REQUIRE_ONNX_RUNTIME") {
        runtime::require(RuntimeKind::OnnxRuntime).expect("REQUIRE_ONNX_RUNTIME is set");
    }
    runtime::available()
}

/// What `python/check_onnx.py` asks of files, but for the operators that are named.
pub fn check_with_tools(files: &[PathBuf], allowed: &[&str]) {
    let python = |arguments: &[&OsStr]| Command::new("python3").args(arguments).output();
    let tools = python(&["-c".as_ref(), "import onnx, onnxslim".as_ref()]);
    if !tools.is_ok_and(|output| output.status.success()) {
        assert!(!is_required("REQUIRE_ONNX_TOOLS"), "no onnx and onnxslim");
        return;
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
}
