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

use burn::module::{Module, Param, RunningState};
use burn::nn::conv::Conv2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Distribution, Tensor};
use elastic_layers::capture::{InputShapes, Tensors};
use exporters::runtime::{self, RuntimeKind};
use exporters::{OnnxExporter, OnnxModel, VerifyReport, random_reference, verify};

/// The largest difference between a file in a runtime and Burn, as a part of the largest output.
pub const TOLERANCE: f32 = 1e-4;

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

/// What `python/check_onnx.py` says of files, one line of JSON each, but for the operators that are named; nothing, if the
/// tools are missing.
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

pub fn normal<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::default())
}

/// A file against Burn, at batch 1 and 7, to the [`TOLERANCE`].
pub fn compare<I: InputShapes, O: Tensors, M: Module>(
    path: &Path,
    model: &M,
    inputs: I,
    forward: impl Fn(&M, I::Tensors) -> O,
) -> VerifyReport
where
    I::Tensors: Clone,
{
    compare_within(TOLERANCE, path, model, inputs, forward)
}

/// A file against Burn, at batch 1 and 7, to a tolerance.
pub fn compare_within<I: InputShapes, O: Tensors, M: Module>(
    tolerance: f32,
    path: &Path,
    model: &M,
    inputs: I,
    forward: impl Fn(&M, I::Tensors) -> O,
) -> VerifyReport
where
    I::Tensors: Clone,
{
    let device = Device::default();
    let references =
        [1, 7].map(|batch| random_reference(inputs.with_batch(batch), &device, |images| forward(model, images)));
    verify(path, &references, &runtimes(), tolerance)
}

/// The files that a test exports.
pub struct Files {
    folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), paths: vec![] }
    }

    pub fn save(&mut self, name: &str, onnx: &OnnxModel) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.onnx"));
        onnx.save(&path).expect("writes");
        self.paths.push(path.clone());
        path
    }

    /// Exports, runs, and compares with Burn.
    pub fn check<I: InputShapes, O: Tensors, M: Module>(
        &mut self,
        name: &str,
        model: &M,
        inputs: I,
        forward: impl Fn(&M, I::Tensors) -> O,
    ) -> OnnxModel
    where
        I::Tensors: Clone,
    {
        let onnx = OnnxExporter::new(inputs.clone()).export(model, &forward).expect("exports");
        let report = compare(&self.save(name, &onnx), model, inputs, &forward);
        assert!(report.passed(), "{name}: {report:#?}");
        assert_eq!(report.entries.len(), 2 * runtimes().len());
        onnx
    }

    /// A convolution, so that there is always something with parameters, and `then`.
    pub fn after_conv<O: Tensors>(&mut self, name: &str, then: impl Fn(Tensor<4>) -> O) -> OnnxModel {
        let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
        self.check(name, &model, [1, 2, 8, 6], |model, x| then(model.forward(x)))
    }

    /// What other people's tools say to all of them, but for the operators that are named.
    pub fn check_with_tools(self, allowed: &[&str]) {
        check_with_tools(&self.paths, allowed);
    }
}

/// How many nodes of each operator a file has.
pub fn operators(onnx: &OnnxModel) -> Vec<(&'static str, usize)> {
    onnx.operators().into_iter().collect()
}

/// A batch norm as it is after training.
pub fn trained_norm(channels: usize) -> BatchNorm {
    let device = Device::default();
    let spread = |low, high| Tensor::<1>::random([channels], Distribution::Uniform(low, high), &device);
    let mut norm = BatchNormConfig::new(channels).init(&device);
    norm.gamma = Param::from_tensor(spread(-1.5, 1.5));
    norm.beta = Param::from_tensor(spread(-0.5, 0.5));
    norm.running_mean = RunningState::new(spread(-0.5, 0.5));
    norm.running_var = RunningState::new(spread(0.2, 2.0));
    norm
}
