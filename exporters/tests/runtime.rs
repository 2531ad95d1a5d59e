//! Both runtimes against values computed with numpy (`fixtures/make_fixture.py`), and against files that are no
//! networks.
//!
//! Where ONNX Runtime's library is missing, its half is skipped; `REQUIRE_ONNX_RUNTIME=1` makes that a failure.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use exporters::runtime::{self, RuntimeError, RuntimeKind};
use ndarray::{ArrayD, Axis};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    input_shape: Vec<usize>,
    input: Vec<f32>,
    output_shape: Vec<usize>,
    output: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(fixture("conv_relu_gemm.json")).expect("a committed file");
    serde_json::from_str(&text).expect("the script's own format")
}

fn runtimes() -> Vec<RuntimeKind> {
    let available = runtime::available();
    if env::var_os("REQUIRE_ONNX_RUNTIME").is_some_and(|value| value == "1") {
        runtime::require(RuntimeKind::OnnxRuntime).expect("REQUIRE_ONNX_RUNTIME is set");
        assert!(available.contains(&RuntimeKind::OnnxRuntime), "{available:?}");
    }
    assert_eq!(available.first(), Some(&RuntimeKind::Rten));
    available
}

fn assert_close(found: &ArrayD<f32>, case: &Case, what: &str) {
    assert_eq!(found.shape(), case.output_shape, "{what}");
    let largest = case.output.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(&case.output).enumerate() {
        let difference = (found - expected).abs();
        // 64 products and 27 products in f32 against double precision.
        assert!(difference <= 1e-5 * largest, "{what}, element {index}: expected {expected}, found {found}");
    }
}

#[test]
fn outputs_are_numpys() {
    for kind in runtimes() {
        for threads in [1, 2] {
            let mut network = runtime::load(kind, &fixture("conv_relu_gemm.onnx"), threads).expect("a good file");
            assert_eq!(network.kind(), kind);
            assert!(network.version().contains('.'), "{kind}: {}", network.version());
            assert_eq!(network.input_shape(), [None, Some(3), Some(8), Some(8)]);
            for case in cases() {
                let input = ArrayD::from_shape_vec(case.input_shape.clone(), case.input.clone()).expect("consistent");
                let output = network.run(&input).expect("runs");
                assert_close(&output, &case, &format!("{kind}, {threads} threads, batch {}", case.input_shape[0]));
            }
        }
    }
}

#[test]
fn memory_layout_of_the_input_does_not_matter() {
    for kind in runtimes() {
        let mut network = runtime::load(kind, &fixture("conv_relu_gemm.onnx"), 1).expect("a good file");
        let case = cases().pop().expect("two cases");
        let input = ArrayD::from_shape_vec(case.input_shape.clone(), case.input.clone()).expect("consistent");
        let channels_last = input.view().permuted_axes(vec![0, 2, 3, 1]).as_standard_layout().into_owned();
        let strided = channels_last.permuted_axes(vec![0, 3, 1, 2]);
        assert!(!strided.is_standard_layout());
        assert_close(&network.run(&strided).expect("runs"), &case, &format!("{kind}, channels last"));
    }
}

#[test]
fn wrong_input_shape_is_an_error_and_harms_nothing() {
    for kind in runtimes() {
        let path = fixture("conv_relu_gemm.onnx");
        let mut network = runtime::load(kind, &path, 1).expect("a good file");
        for shape in [vec![1, 3, 8, 9], vec![1, 1, 8, 8], vec![3, 8, 8], vec![0, 3, 8, 8], vec![]] {
            let error = network.run(&ArrayD::zeros(shape.clone())).expect_err("wrong shape");
            let expected = format!("input of `{}`: expected shape [?, 3, 8, 8], found {shape:?}", path.display());
            assert_eq!(error.to_string(), expected);
        }
        let case = cases().remove(0);
        let input = ArrayD::from_shape_vec(case.input_shape.clone(), case.input.clone()).expect("consistent");
        assert_close(&network.run(&input).expect("runs"), &case, kind.name());
    }
}

#[test]
fn a_fixed_batch_is_declared_and_enforced() {
    for kind in runtimes() {
        let mut network = runtime::load(kind, &fixture("fixed_batch.onnx"), 1).expect("a good file");
        assert_eq!(network.input_shape()[0], Some(2));
        let images = ArrayD::zeros(vec![3, 3, 8, 8]);
        assert!(matches!(network.run(&images), Err(RuntimeError::InputShape { .. })));
        let two = images.slice_axis(Axis(0), (0..2).into()).into_owned();
        assert_eq!(network.run(&two).expect("runs").shape(), [2, 5]);
    }
}

#[test]
fn networks_of_another_kind_are_refused() {
    for kind in runtimes() {
        let two = runtime::load(kind, &fixture("two_inputs.onnx"), 1).expect_err("two inputs");
        assert!(matches!(two, RuntimeError::Interface { inputs: 2, outputs: 1, .. }), "{two}");
        let threads = runtime::load(kind, &fixture("conv_relu_gemm.onnx"), 0).expect_err("no thread");
        assert!(matches!(threads, RuntimeError::NoThreads), "{threads}");
    }
}

#[test]
fn inputs_of_other_numbers_are_fed_as_f32() {
    for kind in runtimes() {
        let mut network = runtime::load_any(kind, &fixture("integer_input.onnx"), 1).expect("integers");
        let input = network.inputs()[0].clone();
        assert!(!input.element.is_float() && !input.name.is_empty(), "{input:?}");
        let shape: Vec<usize> = input.shape.iter().map(|size| size.unwrap_or(2)).collect();
        let outputs = network.run_all(&[&ArrayD::ones(shape)]).expect("runs");
        assert!(outputs[0].iter().all(|value| value.is_finite()), "{outputs:?}");
    }
}

#[test]
fn a_file_may_have_any_name() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["model.bin", "model", "model.ONNX"] {
        let path = folder.path().join(name);
        fs::copy(fixture("conv_relu_gemm.onnx"), &path).expect("a copy");
        for kind in runtimes() {
            let network = runtime::load(kind, &path, 1).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(network.input_shape().len(), 4);
        }
    }
}

#[test]
fn missing_files_and_folders_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.onnx");
    for kind in runtimes() {
        let error = runtime::load(kind, &missing, 1).expect_err("no such file");
        assert!(matches!(&error, RuntimeError::Read { path, .. } if *path == missing), "{error}");
        let error = runtime::load(kind, folder.path(), 1).expect_err("a folder");
        assert!(matches!(error, RuntimeError::Read { .. }), "{error}");
    }
}

#[test]
fn garbage_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("garbage.onnx");
    let noise: Vec<u8> = (0u32..4096).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let contents: [&[u8]; 6] = [b"", b"\0", b"not a network", &[0xff; 64], &noise, b"\x08\x09\x3a\xff\xff\xff\xff\x0f"];
    for kind in runtimes() {
        for bytes in contents {
            fs::write(&path, bytes).expect("writes");
            let error = runtime::load(kind, &path, 1).expect_err("no network");
            assert!(error.to_string().contains("garbage.onnx"), "{error}");
        }
    }
}

/// Cut anywhere, a file is an error.
#[test]
fn truncated_files_are_errors() {
    let good = fs::read(fixture("conv_relu_gemm.onnx")).expect("a committed file");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.onnx");
    for kind in runtimes() {
        for length in (0..good.len()).step_by(61) {
            fs::write(&path, &good[..length]).expect("writes");
            let error = runtime::load(kind, &path, 1).expect_err("half a network");
            assert!(error.to_string().contains("damaged.onnx"), "{error}");
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// A file with one kind of damage.
    fn damaged(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        let (place, length) = (self.below(good.len()), 1 + self.below(24));
        let end = (place + length).min(good.len());
        match self.below(7) {
            0 => bytes.truncate(place),
            1 => (0..length).for_each(|_| bytes[self.below(good.len())] ^= 1 << self.below(8)),
            2 => bytes[place..end].fill(0xff),
            3 => bytes[place..end].fill(0),
            4 => drop(bytes.drain(place..end)),
            5 => {
                let copy = good[place..end].to_vec();
                let to = self.below(good.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let to = self.below(good.len() - (end - place));
                let part: Vec<u8> = bytes.drain(place..end).collect();
                bytes.splice(to..to, part);
            }
        }
        bytes
    }
}

/// Whatever is damaged, loading and running is a result or an error in words. In a process of its own, which neither
/// crashes nor takes for ever.
#[test]
fn damaged_files_neither_crash_nor_hang() {
    const TEST: &str = "damaged_files_neither_crash_nor_hang";
    const PATIENCE: Duration = Duration::from_secs(300);
    if let Some(kind) = env::var_os(CHILD) {
        return run_damaged(kind.to_str().and_then(|kind| kind.parse().ok()).expect("a runtime"));
    }
    for kind in runtimes() {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["--exact", TEST, "--nocapture"]).env(CHILD, kind.name());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            if start.elapsed() > PATIENCE {
                child.kill().expect("a child");
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = child.wait_with_output().expect("a child");
        let printed = String::from_utf8_lossy(&output.stdout);
        let last = printed.lines().rfind(|line| line.starts_with("damage "));
        assert!(status.is_some_and(|status| status.success()), "{kind}: {status:?} at {last:?}");
    }
}

fn run_damaged(kind: RuntimeKind) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.onnx");
    let (mut random, mut ran) = (Random(1), 0);
    for name in ["conv_relu_gemm.onnx", "two_inputs.onnx", "symbolic_size.onnx", "fixed_batch.onnx"] {
        let good = fs::read(fixture(name)).expect("a committed file");
        for index in 0..400 {
            writeln!(std::io::stdout(), "damage {index} of {name}").expect("the test that reads it");
            fs::write(&path, random.damaged(&good)).expect("writes");
            let Ok(mut network) = runtime::load_any(kind, &path, 1) else { continue };
            let shapes: Vec<Vec<usize>> = network
                .inputs()
                .iter()
                .map(|input| input.shape.iter().map(|size| size.unwrap_or(2)).collect())
                .collect();
            if shapes.iter().all(|shape| shape.iter().product::<usize>() < 100_000) {
                let inputs: Vec<ArrayD<f32>> = shapes.into_iter().map(ArrayD::zeros).collect();
                ran += usize::from(network.run_all(&inputs.iter().collect::<Vec<_>>()).is_ok());
            }
        }
    }
    // Much of a file is weights and names.
    assert!(ran > 100, "{ran} ran");
}

/// Set in the processes that `search_in_a_process` starts.
const CHILD: &str = "SEARCH_FOR_ONNX_RUNTIME_HERE";

/// The library is looked for once per process, so each search needs a process of its own: the calling test, run again
/// in an environment of its own, where it takes the branch that searches.
fn search_in_a_process(test: &str, prepare: impl FnOnce(&mut Command)) {
    let mut command = Command::new(env::current_exe().expect("this test"));
    command.args(["--exact", test]).env_remove("ORT_DYLIB_PATH").env_remove("REQUIRE_ONNX_RUNTIME").env(CHILD, "1");
    prepare(&mut command);
    let output = command.output().expect("starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{command:?}: {printed}");
}

#[test]
fn an_unusable_library_is_an_error() {
    if env::var_os(CHILD).is_some() {
        let library = PathBuf::from(env::var_os("ORT_DYLIB_PATH").expect("set by the test that started this one"));
        assert_eq!(runtime::available(), [RuntimeKind::Rten]);
        let complaint = runtime::complaint().expect("somebody meant a library").to_string();
        assert!(complaint.contains(&*library.to_string_lossy()), "{complaint}");
        for _ in 0..2 {
            let error =
                runtime::load(RuntimeKind::OnnxRuntime, &fixture("conv_relu_gemm.onnx"), 1).expect_err("no library");
            assert!(matches!(&error, RuntimeError::LibraryUnusable { path, .. } if *path == library), "{error}");
        }
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("libonnxruntime.so");
    fs::write(&text, "not a library").expect("writes");
    let unusable = [folder.path().join("missing.so"), text, PathBuf::from("no-such-library.so"), "libc.so.6".into()];
    for library in unusable {
        search_in_a_process("an_unusable_library_is_an_error", |command| {
            command.env("ORT_DYLIB_PATH", &library);
        });
    }
}

/// Without the variable and without a `python3` on `PATH`.
#[cfg(unix)]
#[test]
fn a_missing_library_is_an_error() {
    if env::var_os(CHILD).is_some() {
        assert_eq!(runtime::available(), [RuntimeKind::Rten]);
        let message = match runtime::require(RuntimeKind::OnnxRuntime).expect_err("no library") {
            error @ RuntimeError::LibraryNotFound { .. } => error.to_string(),
            error => panic!("{error}"),
        };
        assert!(message.contains("`ORT_DYLIB_PATH`") && message.contains("pip's package"), "{message}");
        assert!(runtime::complaint().is_none(), "nobody meant one");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    search_in_a_process("a_missing_library_is_an_error", |command| {
        command.env("PATH", folder.path());
    });
}
