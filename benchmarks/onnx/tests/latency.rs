//! Measurements of a small network, end to end, on every runtime that the machine has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exporters::runtime::{self, RuntimeKind};
use onnx_bench::latency::{
    Amount, BenchError, BenchFile, BenchOptions, BenchReport, Phase, bench_file, compare, compare_each,
};
use onnx_bench::machine::Machine;
use onnx_bench::statistics::Summary;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../exporters/tests/fixtures").join(name)
}

fn counted(iterations: usize) -> BenchOptions {
    let (warmup, measure) = (Amount::Iterations(3), Amount::Iterations(iterations));
    BenchOptions { warmup, measure, keep_samples: true, ..BenchOptions::default() }
}

fn assert_consistent(report: &BenchReport, options: &BenchOptions) {
    let ordered = [report.min_ms, report.p50_ms, report.p90_ms, report.p95_ms, report.p99_ms];
    assert!(ordered[0] > 0.0 && ordered.is_sorted(), "{ordered:?}");
    assert!(report.first_ms > 0.0 && report.sd_ms >= 0.0);
    assert_eq!(report.samples_ms.len(), report.iterations);
    let summary = Summary::from_samples(&report.samples_ms).expect("samples");
    assert!((summary.p90 - report.p90_ms).abs() < 1e-9);
    let batch = options.batch.unwrap_or(1);
    let throughput = batch as f64 / (report.mean_ms / 1e3);
    assert!((report.throughput_per_s / throughput - 1.0).abs() < 1e-9);
    assert_eq!(report.noisy, report.noisy_reason.is_some());
    assert_eq!((report.threads, report.batch), (options.threads, batch));
    assert_eq!(report.input_shape, [batch, 3, 8, 8]);
    assert_eq!(report.file_bytes, std::fs::metadata(&report.file).expect("the file").len());
}

#[test]
fn a_file_is_measured_on_every_runtime() {
    for kind in runtime::available() {
        for (threads, batch) in [(1, 1), (2, 5)] {
            let options = BenchOptions { threads, batch: Some(batch), ..counted(40) };
            let report = bench_file(&fixture("conv_relu_gemm.onnx"), kind, &options, None).expect("measures");
            assert_eq!((report.runtime, report.iterations), (kind, 40));
            assert_consistent(&report, &options);
        }
    }
}

#[test]
fn a_measurement_by_time_takes_that_time() {
    let measure = Amount::Time(Duration::from_millis(250));
    let options = BenchOptions { measure, ..counted(0) };
    let start = Instant::now();
    let report = bench_file(&fixture("conv_relu_gemm.onnx"), RuntimeKind::Rten, &options, None).expect("measures");
    assert!(start.elapsed() >= Duration::from_millis(250));
    assert_consistent(&report, &options);
    let measured_ms: f64 = report.samples_ms.iter().sum();
    assert!(measured_ms >= 249.9, "{measured_ms}");
    // The last run is the only one that may exceed the time.
    assert!(measured_ms - report.samples_ms[report.iterations - 1] < 250.0);
}

#[test]
fn entries_are_measured_in_turn_and_reported_in_order() {
    let path = fixture("conv_relu_gemm.onnx");
    let fixed = fixture("fixed_batch.onnx");
    let mut entries = vec![(path.as_path(), RuntimeKind::Rten), (fixed.as_path(), RuntimeKind::Rten)];
    entries.extend(runtime::available().into_iter().skip(1).map(|kind| (path.as_path(), kind)));
    let measure = Amount::Time(Duration::from_millis(250));
    let options = BenchOptions { batch: Some(2), measure, ..counted(0) };
    let (mut blocks, mut shares) = (Vec::new(), Vec::new());
    let mut listener = |progress: &onnx_bench::latency::Progress<'_>| {
        if progress.phase == Phase::Measure {
            blocks.push((progress.path.to_owned(), progress.runtime));
            shares.push(progress.done);
        }
    };
    let reports = compare(&entries, &options, Some(&mut listener)).expect("measures");
    assert_eq!(reports.len(), entries.len());
    for (report, (path, kind)) in reports.iter().zip(&entries) {
        assert_eq!((Path::new(&report.file), report.runtime), (*path, *kind));
        assert_consistent(report, &options);
    }
    let named: Vec<_> = entries.iter().map(|&(path, kind)| (path.to_owned(), kind)).collect();
    let reversed: Vec<_> = named.iter().rev().cloned().collect();
    assert_eq!(blocks[..named.len()], named, "first round");
    assert_eq!(blocks[named.len()..2 * named.len()], reversed, "second round, in the opposite order");
    assert!(shares.is_sorted() && shares.last() == Some(&1.0), "{shares:?}");
}

#[test]
fn names_in_the_file_are_stable() {
    let report = bench_file(&fixture("conv_relu_gemm.onnx"), RuntimeKind::Rten, &counted(5), None).expect("measures");
    let file = BenchFile { machine: Machine::describe(), reports: vec![report], failures: Vec::new() };
    let text = serde_json::to_string(&file).expect("serialises");
    assert_eq!(serde_json::from_str::<BenchFile>(&text).expect("its own format"), file);
    let value: serde_json::Value = serde_json::from_str(&text).expect("json");
    let object = value["reports"][0].as_object().expect("an object");
    for name in [
        "file",
        "file_bytes",
        "runtime",
        "runtime_version",
        "threads",
        "batch",
        "input_shape",
        "first_ms",
        "iterations",
        "min_ms",
        "mean_ms",
        "p50_ms",
        "p90_ms",
        "p95_ms",
        "p99_ms",
        "sd_ms",
        "throughput_per_s",
        "load_before",
        "load_after",
        "other_busy_cores",
        "noisy",
        "noisy_reason",
        "samples_ms",
    ] {
        assert!(object.contains_key(name), "{name}");
    }
    assert_eq!(object["runtime"], "rten");
}

#[test]
fn networks_of_several_inputs_and_of_integers_are_measured() {
    for (name, inputs) in [("two_inputs.onnx", 2), ("integer_input.onnx", 1), ("symbolic_size.onnx", 1)] {
        let mut options = counted(10);
        if name == "symbolic_size.onnx" {
            options.shapes = vec![(None, vec![1, 1, 8, 8])];
        }
        for kind in runtime::available() {
            let report = bench_file(&fixture(name), kind, &options, None).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((report.inputs.len(), report.iterations), (inputs, 10), "{name}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_measured_keeps_no_other_from_it() {
    let (good, bad) = (fixture("conv_relu_gemm.onnx"), fixture("missing.onnx"));
    let entries = [(bad.as_path(), RuntimeKind::Rten), (good.as_path(), RuntimeKind::Rten)];
    let results = compare_each(&entries, &counted(10), &mut runtime::load_any, None).expect("something to measure");
    assert!(results[0].is_err() && results[1].as_ref().is_ok_and(|report| report.iterations == 10), "{results:?}");
}

#[test]
fn impossible_benchmarks_are_errors() {
    let bench = |name: &str, options: &BenchOptions| {
        bench_file(&fixture(name), RuntimeKind::Rten, options, None).expect_err("impossible").to_string()
    };
    let options = counted(5);
    assert!(bench("missing.onnx", &options).starts_with("cannot read"));
    let one = BenchOptions { batch: Some(1), ..counted(5) };
    assert!(bench("fixed_batch.onnx", &one).contains("found a fixed batch of 2"));
    assert!(bench("symbolic_size.onnx", &options).contains("found axis 2 of free size"));
    assert!(bench("conv_relu_gemm.onnx", &BenchOptions { threads: 0, ..options.clone() }).contains("threads"));
    let batch = bench("conv_relu_gemm.onnx", &BenchOptions { batch: Some(0), ..options.clone() });
    assert_eq!(batch, "batch of a benchmark: expected at least 1, found 0");
    assert!(bench("conv_relu_gemm.onnx", &counted(0)).starts_with("iterations of a benchmark"));
    assert!(matches!(compare(&[], &options, None), Err(BenchError::Nothing { what: "files" })));
}
