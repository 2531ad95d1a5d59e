//! The command `onnx-bench`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use exporters::runtime::available;
use onnx_bench::report::BenchFile;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../exporters/tests/fixtures").join(name)
}

fn bench(arguments: &[&str]) -> Output {
    let model = fixture("conv_relu_gemm.onnx");
    let command = Command::new(env!("CARGO_BIN_EXE_onnx-bench")).arg(model).args(arguments).output();
    command.expect("the command runs")
}

fn json(arguments: &[&str]) -> BenchFile {
    let output = bench(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[test]
fn a_file_is_measured_on_every_runtime() {
    let file = json(&["--iterations", "12", "--warmup", "0", "--samples"]);
    let found: Vec<_> = file.reports.iter().map(|report| report.runtime).collect();
    assert_eq!(found, available());
    for report in &file.reports {
        assert_eq!((report.iterations, report.samples_ms.len()), (12, 12));
        assert!(!report.runtime_options.is_empty() && !report.runtime_version.is_empty());
        assert_eq!(report.p50_ratio, None);
        // A process that has loaded a runtime holds more than a megabyte, and less than the machine has.
        let peak = report.peak_memory_bytes.map(|bytes| bytes as f64);
        assert_eq!(peak.is_some(), cfg!(target_os = "linux"));
        assert!(peak.is_none_or(|peak| (1e6..file.machine.memory_bytes as f64).contains(&peak)), "{peak:?}");
    }
}

#[test]
fn a_comparison_prints_ratios_to_the_first_row() {
    let model = fixture("conv_relu_gemm.onnx");
    let again = model.to_str().expect("a name in UTF-8");
    let file = json(&[again, "--compare", "--runtime", "rten", "--seconds", "0.05"]);
    let [first, second] = &file.reports[..] else { panic!("expected two rows") };
    assert_eq!(first.p50_ratio, Some(1.0));
    assert!((second.p50_ratio.expect("a ratio") - second.p50_ms / first.p50_ms).abs() < 1e-12);
}

#[test]
fn a_table_and_csv_have_the_same_rows() {
    let arguments = ["--runtime", "rten", "--seconds", "0.05"];
    let table = String::from_utf8(bench(&arguments).stdout).expect("text");
    for part in ["first ms", "p95 ms", "peak MB", "conv_relu_gemm.onnx", "governor", "rten 0."] {
        assert!(table.contains(part), "{part:?} is not in: {table}");
    }
    let csv = String::from_utf8(bench(&[&arguments[..], &["--csv"]].concat()).stdout).expect("text");
    // A quoted reason may have commas of its own.
    let unquoted = |line: &str| -> String {
        let parts = line.split('"').enumerate();
        parts.map(|(index, part)| if index % 2 == 1 { part.replace(',', ";") } else { part.into() }).collect()
    };
    let lines: Vec<Vec<String>> =
        csv.lines().map(|line| unquoted(line).split(',').map(str::to_owned).collect()).collect();
    let [header, row] = &lines[..] else { panic!("expected a header and a row: {csv}") };
    assert_eq!(header.len(), row.len(), "{csv}");
    let p50 = header.iter().position(|name| name == "p50_ms").expect("a column");
    assert!(row[p50].parse::<f64>().expect("a number") > 0.0);
}

#[test]
fn wrong_usage_and_wrong_files_have_their_exit_codes() {
    for arguments in [&["--seconds", "0"][..], &["--seconds", "1", "--iterations", "5"], &["--csv", "--json"]] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [["--runtime", "burn-flex"], ["--threads", "1"]] {
        let missing = if arguments[0] == "--threads" { "missing.onnx" } else { "--json" };
        let output = bench(&[&arguments[..], &[missing]].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.starts_with("onnx-bench: ") && message.lines().count() == 1, "{message}");
        // The other file is measured all the same.
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            printed.contains(if missing == "--json" { "\"failures\"" } else { "failed: missing.onnx" }),
            "{printed}"
        );
    }
}

#[test]
fn a_file_that_a_runtime_cannot_load_is_a_row_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.onnx");
    std::fs::write(&bad, "no network").expect("a file");
    let bad = bad.to_str().expect("a name in UTF-8");
    let output = bench(&[bad, "--runtime", "rten", "--iterations", "2", "--csv"]);
    assert_eq!(output.status.code(), Some(1));
    let csv = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<&str> = csv.lines().collect();
    assert!(rows.len() == 3 && rows[0].ends_with(",error") && rows[1].contains("conv_relu_gemm.onnx"), "{csv}");
    assert!(rows[2].starts_with(bad) && rows[2].contains("cannot load"), "{csv}");
}

#[test]
fn free_axes_are_given_by_a_flag() {
    let free = fixture("symbolic_size.onnx");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-bench"));
        command.arg(&free).args(["--runtime", "rten", "--iterations", "2", "--json"]).args(arguments);
        command.output().expect("the command runs")
    };
    assert!(String::from_utf8_lossy(&run(&[]).stderr).contains("with --shape "));
    let output = run(&["--shape", "1x1x8x8"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file: BenchFile = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(file.reports[0].input_shape, [1, 1, 8, 8]);
    for wrong in ["images=", "1x0", "x"] {
        assert_eq!(run(&["--shape", wrong]).status.code(), Some(2), "{wrong}");
    }
}
