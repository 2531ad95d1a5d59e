//! Latency tables: blocks against exported files, predictions against a known law, files against damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use elastic_layers::blocks::{Block, BlockActivation, BlockKind};
use elastic_layers::{Architecture, Backbone, CostError, DimKind, SearchSpace};
use exporters::OnnxExporter;
use nes_search::latency::{Calibration, Family, LatencyModel, LatencyTable, MeasuredNetwork, TableEntry, adjust};
use nes_search::{
    AnyBackbone, BackboneName, Blueprint, LEAST_SHARE, Limit, Limits, Projection, ProjectionError, Resource,
};
use onnx_bench::machine::Machine;
use proptest::prelude::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn blueprint(backbone: BackboneName, size: usize) -> (Blueprint<AnyBackbone>, [usize; 3]) {
    let image = [backbone.image_channels(), size, size];
    let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, 10, space, device);
    (Blueprint::new(image, build).expect("a backbone"), image)
}

fn random(space: &SearchSpace, rng: &mut ChaCha8Rng) -> Architecture {
    let levels: Vec<usize> = space.dims().iter().map(|dim| rng.random_range(0..dim.levels())).collect();
    space.at_levels(&levels)
}

fn macs(block: &Block) -> u64 {
    let Block { inputs, outputs, groups, output, kernel, .. } = *block;
    match block.kind {
        BlockKind::Convolution | BlockKind::Linear => {
            (output.0[0] * output.0[1] * outputs * inputs / groups * kernel.0[0] * kernel.0[1]) as u64
        }
        _ => 0,
    }
}

/// The operators of the file are those of the blocks, and the MACs are those of the cost model, which are counted
/// another way.
#[test]
fn blocks_are_what_the_exported_file_contains() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let backbones = [
        (BackboneName::MobilenetV2Small, 28),
        (BackboneName::MobilenetV1Small, 28),
        (BackboneName::MobilenetV2, 64),
        (BackboneName::Resnet20, 32),
        (BackboneName::Resnet50, 64),
    ];
    for (backbone, size) in backbones {
        let (blueprint, [channels, height, width]) = blueprint(backbone, size);
        for architecture in [random(blueprint.space(), &mut rng), blueprint.space().base()] {
            let blocks = blueprint.blocks().blocks(&architecture).expect("blocks");
            for block in &blocks {
                block.check().unwrap_or_else(|reason| panic!("{backbone}: {block}: {reason}"));
            }
            let expected = blueprint.cost().cost(&architecture).expect("a cost").macs.0;
            assert_eq!(blocks.iter().map(macs).sum::<u64>(), expected, "{backbone}: MACs of {architecture}");

            let network = blueprint.network(&architecture, 0, &Device::default()).expect("a network");
            let exporter = OnnxExporter::new([1, channels, height, width]);
            let model = exporter.export(&network, |model: &AnyBackbone, x| model.forward(x)).expect("exports");
            let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
            for block in &blocks {
                let operator = match block.kind {
                    BlockKind::Convolution => "Conv",
                    BlockKind::Linear => "Gemm",
                    BlockKind::GlobalPool => "GlobalAveragePool",
                    BlockKind::AveragePool => "AveragePool",
                    BlockKind::MaxPool => "MaxPool",
                    BlockKind::Resize => "Resize",
                    BlockKind::Add => "Add",
                };
                *operators.entry(operator).or_default() += 1;
                match block.activation {
                    BlockActivation::None => {}
                    BlockActivation::Relu => *operators.entry("Relu").or_default() += 1,
                    BlockActivation::Relu6 => *operators.entry("Clip").or_default() += 1,
                }
            }
            let mut found = model.operators().clone();
            // Between the mean and the linear layer; it moves nothing.
            found.retain(|operator, _| !["Flatten", "Reshape"].contains(operator));
            assert_eq!(found, operators, "{backbone} at {architecture}");
        }
    }
}

/// A law of time that has jumps where channels stop to be multiples of 4.
fn law_ms(block: &Block) -> f64 {
    let elements = (block.inputs * block.size.0[0] * block.size.0[1] + block.outputs * block.output.0[0]) as f64;
    let aligned = block.inputs.is_multiple_of(4) && block.outputs.is_multiple_of(4);
    let slow = if block.is_depthwise() && !aligned { 4.0 } else { 1.0 };
    slow * (macs(block) as f64 * 2e-8 + elements * 1e-7 + 0.003)
}

fn sample(count: usize) -> (Blueprint<AnyBackbone>, LatencyTable) {
    let (blueprint, _) = blueprint(BackboneName::MobilenetV2Small, 28);
    let mut table = LatencyTable::new("rten", "1", 1, serde_json::json!({"cpu": "none"}));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    while table.entries.len() < count {
        for block in blueprint.blocks().blocks(&random(blueprint.space(), &mut rng)).expect("blocks") {
            if table.entries.iter().all(|entry| entry.block != block) {
                table.entries.push(TableEntry { block, ms: law_ms(&block) });
            }
        }
    }
    (blueprint, table)
}

#[test]
fn networks_of_unseen_blocks_are_predicted() {
    let (blueprint, mut table) = sample(250);
    table.processes = LatencyModel::fit(&table.entries);
    table.calibration = Calibration { intercept_ms: 0.5, scale: 2.0, networks: Vec::new() };
    let model = LatencyModel::new(&table);
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let (mut unseen, mut errors) = (0, Vec::new());
    for _ in 0..20 {
        let architecture = random(blueprint.space(), &mut rng);
        let blocks = blueprint.blocks().blocks(&architecture).expect("blocks");
        unseen += blocks.iter().filter(|block| table.entries.iter().all(|entry| entry.block != **block)).count();
        let truth = 0.5 + 2.0 * blocks.iter().map(law_ms).sum::<f64>();
        errors.push((model.ms(blueprint.blocks(), &architecture).expect("a time") / truth - 1.0).abs());
    }
    assert!(unseen > 100, "{unseen} blocks that were not measured");
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(mean < 0.04, "mean error {mean}: {errors:?}");
}

#[test]
fn what_is_measured_is_certain_and_exact() {
    let (_, table) = sample(150);
    let model = LatencyModel::new(&table);
    let entry = table.entries[20];
    assert_eq!(model.block_ms(&entry.block).expect("measured"), entry.ms);
    let far = Block { inputs: entry.block.inputs * 64, outputs: entry.block.outputs * 64, ..entry.block };
    let [near, far] = [&entry.block, &far].map(|block| model.log_deviation(block).expect("a family"));
    assert!(near < far, "{near} at what was measured, {far} far away");
}

#[test]
fn families_without_measurements_are_an_error() {
    let (blueprint, mut table) = sample(150);
    table.entries.retain(|entry| Family::of(&entry.block) != Family::Depthwise);
    let error = LatencyModel::new(&table).ms(blueprint.blocks(), &blueprint.space().base()).expect_err("no depthwise");
    assert!(error.to_string().contains("Depthwise"), "{error}");
}

#[test]
fn a_calibration_is_the_line_through_its_networks() {
    let sums = [1.0, 2.0, 5.0, 3.0];
    let network = |sum: &f64| MeasuredNetwork { architecture: vec![], ms: 0.25 + 1.5 * sum };
    let Calibration { intercept_ms, scale, .. } = Calibration::fit(sums.iter().map(network).collect(), &sums);
    assert!((intercept_ms - 0.25).abs() < 1e-9 && (scale - 1.5).abs() < 1e-9, "{intercept_ms} {scale}");
    // No network takes less than nothing.
    let below = |sum: &f64| MeasuredNetwork { architecture: vec![], ms: 1.5 * sum - 0.5 };
    assert_eq!(Calibration::fit(sums.iter().map(below).collect(), &sums).intercept_ms, 0.0);
}

#[test]
fn tables_survive_their_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, mut table) = sample(120);
    table.processes = LatencyModel::fit(&table.entries);
    let path = folder.path().join("table.json");
    table.write(&path).expect("writes");
    assert_eq!(LatencyTable::read(&path).expect("its own format"), table);
    let csv = folder.path().join("table.csv");
    fs::write(&csv, table.to_csv()).expect("writes");
    let mut again = LatencyTable::new("rten", "1", 1, serde_json::Value::Null);
    again.read_csv(&csv).expect("its own format");
    assert_eq!(again.entries, table.entries);
}

#[test]
fn tables_that_cannot_be_are_refused_with_the_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("table.json");
    let (_, good) = sample(60);
    let refused = |change: &dyn Fn(&mut LatencyTable), parts: &[&str]| {
        let mut table = good.clone();
        change(&mut table);
        table.write(&path).expect("writes");
        let error = LatencyTable::read(&path).expect_err("a table that cannot be").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "expected {parts:?} in: {error}");
    };
    refused(&|table| table.entries[7].block = table.entries[3].block, &["table.json", "entry 7", "once"]);
    refused(&|table| table.entries[5].ms = -1.0, &["entry 5", "ms above 0", "-1"]);
    refused(&|table| table.entries[5].block.groups = 0, &["entry 5"]);
    refused(&|table| table.threads = 0, &["at least 1 thread"]);
    refused(&|table| table.version = 99, &["version", "99"]);
    refused(&|table| table.reference_ms = Some(0.0), &["reference_ms"]);
    refused(&|table| table.calibration.scale = 0.0, &["calibration", "scale"]);
    refused(&|table| table.calibration.intercept_ms = -0.5, &["calibration", "-0.5"]);
}

/// A change to a good file: some bytes replaced, cut out, doubled, or the end cut off.
fn mutated(good: &[u8], kind: u8, at: usize, length: usize, byte: u8) -> Vec<u8> {
    let at = at % good.len();
    let end = (at + length).min(good.len());
    match kind % 5 {
        0 => [&good[..at], &[byte], &good[(at + 1).min(good.len())..]].concat(),
        1 => [&good[..at], &good[end..]].concat(),
        2 => [&good[..end], &good[at..]].concat(),
        3 => good[..at].to_vec(),
        _ => [&good[..at], b"9999999999999", &good[at..]].concat(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_are_errors_or_tables(
        kind in any::<u8>(), at in any::<usize>(), length in 1usize..400, byte in any::<u8>(),
    ) {
        thread_local! {
            static GOOD: (Blueprint<AnyBackbone>, LatencyTable) = {
                let (blueprint, mut table) = sample(60);
                table.processes = LatencyModel::fit(&table.entries);
                (blueprint, table)
            };
        }
        GOOD.with(|(blueprint, good)| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("damaged");
            let text = serde_json::to_string_pretty(good).expect("JSON");
            fs::write(&path, mutated(text.as_bytes(), kind, at, length, byte)).expect("writes");
            match LatencyTable::read(&path) {
                Ok(table) => {
                    // What is taken gives a time above 0, or an error.
                    let ms = LatencyModel::new(&table).ms(blueprint.blocks(), &blueprint.space().base());
                    assert!(ms.as_ref().map_or(true, |ms| *ms > 0.0), "{ms:?}");
                }
                Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
            }
            fs::write(&path, mutated(good.to_csv().as_bytes(), kind, at, length, byte)).expect("writes");
            let mut table = LatencyTable::new("rten", "1", 1, serde_json::Value::Null);
            match table.read_csv(&path) {
                Ok(()) => assert!(!table.entries.is_empty()),
                Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
            }
            let file = serde_json::to_vec(&blueprint.space().base()).expect("JSON");
            if let Ok(file) = serde_json::from_slice::<Architecture>(&mutated(&file, kind, at, length, byte)) {
                let _ = blueprint.space().check(&file);
            }
        });
    }
}

fn lut(arguments: &[&str], folder: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
    command.arg("lut").args(arguments).current_dir(folder).output().expect("the command runs")
}

/// A machine that has become slower or faster since its table was measured, on which every network is off by some percent
/// from what its blocks say, and every measurement by noise.
struct OtherMachine<'a> {
    blueprint: &'a Blueprint<AnyBackbone>,
    slower: f64,
    noise: ChaCha8Rng,
}

impl OtherMachine<'_> {
    /// The time of an architecture without noise.
    fn truth(&self, architecture: &Architecture) -> f64 {
        let blocks = self.blueprint.blocks().blocks(architecture).expect("blocks");
        let seed = architecture.values().iter().fold(7, |seed: u64, &value| seed.wrapping_mul(131) + value as u64);
        let off = ChaCha8Rng::seed_from_u64(seed).random_range(-0.06..0.06);
        self.slower * (1.0 + off) * (0.2 + blocks.iter().map(law_ms).sum::<f64>())
    }

    fn measure(&mut self, architecture: &Architecture) -> Result<f64, CostError> {
        Ok(self.truth(architecture) * (1.0 + self.noise.random_range(-0.01..0.01)))
    }
}

/// A budget half way between the smallest and the largest architecture, by a table.
fn half_way() -> (Blueprint<AnyBackbone>, Limits, f64) {
    let (blueprint, mut table) = sample(250);
    table.processes = LatencyModel::fit(&table.entries);
    table.calibration.intercept_ms = 0.2;
    let (space, latency) = (blueprint.space(), blueprint.latency(&table));
    let [least, most] =
        [space.smallest(), space.largest()].map(|architecture| latency.of(&architecture).expect("a time"));
    let budget = (least + most) / 2.0;
    (blueprint, Limits::new(Limit::new(latency, budget)), budget)
}

#[test]
fn architectures_come_to_a_budget_of_measured_time() {
    let (blueprint, limits, budget) = half_way();
    let space = blueprint.space();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut measured, mut furthest) = (0, 0f64);
    for case in 0..20 {
        let slower = [0.85, 0.95, 1.0, 1.15, 1.25][case % 5];
        let mut machine = OtherMachine { blueprint: &blueprint, slower, noise: ChaCha8Rng::seed_from_u64(case as u64) };
        // As a search ends: at the budget, by the table.
        let projection = Projection::new(space, &limits).expect("a budget within the space");
        let start = projection.architecture(&random(space, &mut rng).params()).expect("an architecture");
        let adjusted = adjust(space, &limits, &start, |architecture| machine.measure(architecture)).expect("adjusts");
        let deviation = machine.truth(&adjusted.architecture) / budget - 1.0;
        assert!(deviation.abs() < 0.05, "case {case}, {slower} times slower: {deviation}, {adjusted:?}");
        assert!((adjusted.ms / budget - 1.0 - deviation).abs() < 0.02, "case {case}: {deviation}, {adjusted:?}");
        furthest = furthest.max(deviation.abs());
        measured += adjusted.measurements.len();
    }
    assert!(furthest > 0.0 && measured < 20 * 7, "{measured} measurements of 20 networks");
}

/// Virtual machines are nearly twice as slow for some seconds, as their neighbours work: the search goes on measuring until
/// one architecture has the time that it is to have.
#[test]
fn architectures_come_to_a_budget_on_a_machine_that_changes_its_speed() {
    let (blueprint, limits, budget) = half_way();
    let space = blueprint.space();
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let projection = Projection::new(space, &limits).expect("a budget within the space");
    for case in 0..50 {
        let mut machine = OtherMachine { blueprint: &blueprint, slower: 0.85, noise: ChaCha8Rng::seed_from_u64(case) };
        let start = projection.architecture(&random(space, &mut rng).params()).expect("an architecture");
        let measure = |architecture: &Architecture| {
            if machine.noise.random_bool(0.3) {
                machine.slower = 2.1 - machine.slower;
            }
            machine.measure(architecture)
        };
        let adjusted = adjust(space, &limits, &start, measure).expect("adjusts");
        let deviation = adjusted.ms / budget - 1.0;
        assert!(deviation.abs() < 0.05, "case {case}: {deviation}, {adjusted:?}");
    }
}

#[test]
fn a_budget_that_no_measured_network_can_have_is_told() {
    let (blueprint, mut table) = sample(150);
    table.processes = LatencyModel::fit(&table.entries);
    let latency = blueprint.latency(&table);
    let start = blueprint.space().base();
    let limits = Limits::new(Limit::new(latency.clone(), latency.of(&start).expect("a time")));
    for (slower, too_small) in [(1000.0, true), (0.001, false)] {
        let measure = |architecture: &Architecture| Ok::<_, CostError>(slower * latency.of(architecture)?);
        let adjusted = adjust(blueprint.space(), &limits, &start, measure).expect("a time");
        match adjusted.obstacle {
            Some(ProjectionError::TooSmall { .. }) => assert!(too_small),
            Some(ProjectionError::TooLarge { .. }) => assert!(!too_small),
            other => panic!("{other:?}"),
        }
        assert_eq!((&adjusted.architecture, adjusted.measurements.len()), (&start, 1));
    }
    let nothing = |_: &Architecture| Ok::<_, CostError>(f64::NAN);
    let error = adjust(blueprint.space(), &limits, &start, nothing).expect_err("no time").to_string();
    assert!(error.contains("NaN"), "{error}");
}

/// Times that jump where channels stop to be multiples of 4 are not monotone in channels; a projection onto a budget
/// of them nevertheless ends at it.
#[test]
fn projections_end_at_budgets_of_times_that_are_not_monotone() {
    let (blueprint, mut table) = sample(250);
    table.processes = LatencyModel::fit(&table.entries);
    let space = blueprint.space();
    let latency = blueprint.latency(&table);
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (mut falling, mut cases) = (0, 0);
    for _ in 0..60 {
        let [one, other] = [random(space, &mut rng), random(space, &mut rng)];
        let of = |architecture: &Architecture| latency.of(architecture).expect("a time");
        let base = of(&one);
        for index in 0..space.dims().len() {
            let mut params = one.params();
            params[index] += 1.0;
            let grown = space.at_params(&params);
            falling += usize::from(space.dims()[index].kind == DimKind::Channels && of(&grown) < 0.999 * base);
        }
        if !(1.1 * of(&space.smallest())..of(&space.largest())).contains(&base) {
            continue;
        }
        cases += 1;
        let limits = Limits::new(Limit::new(latency.clone(), base));
        let projection = Projection::new(space, &limits).expect("a budget within the space");
        let share = of(&projection.architecture(&other.params()).expect("an architecture")) / base;
        assert!((LEAST_SHARE..=1.0).contains(&share), "{share} of the budget");
    }
    assert!(cases >= 20 && falling > 40, "{cases} budgets, {falling} times that fall where channels grow");
}

/// Few blocks and short measurements: that the parts fit together, not how good a table is.
#[test]
fn a_table_is_built_gone_on_with_shown_checked_and_imported() {
    let folder = tempfile::tempdir().expect("a folder");
    let build = |blocks: &str| {
        let arguments =
            ["build", "--blocks", blocks, "--calibration", "4", "--seconds", "0.002", "--network-seconds", "0.01"];
        let output = lut(&arguments, folder.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        LatencyTable::read(&folder.path().join("latency.json")).expect("a table")
    };
    let first = build("70");
    assert_eq!((first.entries.len(), first.calibration.networks.len()), (70, 4));
    let more = build("80");
    assert_eq!(more.entries[..70], first.entries[..]);
    assert_eq!((more.entries.len(), &more.calibration.networks), (80, &first.calibration.networks));

    let other = lut(&["build", "--backbone", "resnet-20", "--size", "32"], folder.path());
    assert_eq!(other.status.code(), Some(1));
    let message = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(message.contains("latency.json: expected a table of") && message.contains("resnet-20"), "{message}");

    let check = ["check", "latency.json", "--count", "4", "--network-seconds", "0.01", "--json"];
    let report: serde_json::Value = serde_json::from_slice(&lut(&check, folder.path()).stdout).expect("JSON");
    assert_eq!(report["networks"].as_array().expect("networks").len(), 4);
    assert!(report["mean_absolute_error_percent"].as_f64().expect("a number") >= 0.0);

    let csv = lut(&["show", "latency.json", "--csv"], folder.path()).stdout;
    fs::write(folder.path().join("blocks.csv"), &csv).expect("writes");
    let import = ["import", "blocks.csv", "--runtime", "rten", "--machine", "elsewhere", "--out", "imported.json"];
    assert!(lut(&import, folder.path()).status.success());
    let imported = LatencyTable::read(&folder.path().join("imported.json")).expect("a table");
    assert_eq!(imported.entries, more.entries);

    fs::write(folder.path().join("blocks.csv"), &csv[..csv.len() - 40]).expect("writes");
    let import = ["import", "blocks.csv", "--runtime", "rten", "--machine", "elsewhere", "--out", "cut.json"];
    let output = lut(&import, folder.path());
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("reads").map(|entry| entry.expect("reads").file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// A search under a table of this machine ends with measurements of what it found. What they come to is not asked: the
/// table's times are made up.
#[test]
fn a_search_under_a_table_of_this_machine_ends_with_measurements() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (blueprint, mut table) = sample(150);
    table.processes = LatencyModel::fit(&table.entries);
    table.machine = serde_json::to_value(Machine::describe()).expect("JSON");
    table.reference_ms = Some(0.1);
    table.write(&folder.join("latency.json")).expect("writes");
    let (space, latency) = (blueprint.space(), blueprint.latency(&table));
    let budget = 0.5 * (latency.of(&space.smallest()).expect("a time") + latency.of(&space.base()).expect("a time"));
    fs::write(folder.join("short.toml"), "[search]\ntrials = 0\n").expect("writes");
    let budget = format!("{budget:.4}ms");
    let output = Command::new(env!("CARGO_BIN_EXE_nes-search"))
        .args(["search", "--preset", "smoke", "--config", "short.toml", "--out", "found", "--budget", &budget])
        .args(["--latency-table", "latency.json"])
        .current_dir(folder)
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("measured p50") && text.contains("% of the budget"), "{text}");
    let search: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("found/search.json")).expect("a file")).expect("JSON");
    let measured = &search["measured"];
    let file = fs::read(folder.join("found/architecture.json")).expect("an architecture");
    let found: Architecture = serde_json::from_slice(&file).expect("JSON");
    space.check(&found).expect("of the space");
    let of_found: Vec<f64> = measured["measurements"]
        .as_array()
        .expect("measurements")
        .iter()
        .filter(|network| network["architecture"] == serde_json::json!(found.values()))
        .map(|network| network["ms"].as_f64().expect("a time"))
        .collect();
    let mean = of_found.iter().sum::<f64>() / of_found.len() as f64;
    assert!((measured["p50_ms"].as_f64().expect("a time") / mean - 1.0).abs() < 1e-9, "{measured}");
}

/// A search by a table ends with what the table says is within the budget, and nearly that.
#[test]
fn a_search_keeps_to_a_budget_of_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (blueprint, mut table) = sample(150);
    table.processes = LatencyModel::fit(&table.entries);
    table.write(&folder.path().join("table.json")).expect("writes");
    let latency = blueprint.latency(&table);
    let space = blueprint.space();
    let budget = 0.5 * (latency.of(&space.smallest()).expect("a time") + latency.of(&space.base()).expect("a time"));
    fs::write(folder.path().join("short.toml"), "[search]\ntrials = 0\n").expect("writes");
    let search = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
        command.args([
            "search",
            "--preset",
            "smoke",
            "--config",
            "short.toml",
            "--out",
            "found",
            "--budget",
            &format!("{budget}ms"),
        ]);
        command.args(arguments).current_dir(folder.path()).output().expect("the command runs")
    };
    let without = search(&[]);
    let message = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(without.status.code() == Some(1) && message.contains("expected a latency table"), "{message}");
    let with = search(&["--latency-table", "table.json"]);
    assert!(with.status.success(), "{}", String::from_utf8_lossy(&with.stderr));
    let file = fs::read(folder.path().join("found/architecture.json")).expect("an architecture");
    let found: Architecture = serde_json::from_slice(&file).expect("JSON");
    space.check(&found).expect("of the space");
    let share = latency.of(&found).expect("a time") / budget;
    assert!((LEAST_SHARE..=1.0).contains(&share), "{share} of the budget");
    // The table is of another machine, so nothing is measured here.
    let message = String::from_utf8_lossy(&with.stderr).into_owned();
    assert!(message.contains("is not measured: the table is from elsewhere"), "{message}");

    let watch = |flag: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
        command.args(["watch", "found", flag]).current_dir(folder.path()).output().expect("the command runs").stdout
    };
    let view: serde_json::Value = serde_json::from_slice(&watch("--json")).expect("JSON");
    assert_eq!((view["budget_ms"].as_f64(), view.get("budget_macs")), (Some(budget), None));
    let taken = view["history"].as_array().and_then(|history| history.last()).expect("a round")["ratio"].as_f64();
    let text = String::from_utf8_lossy(&watch("--once")).into_owned();
    let line = format!("R {:.3} of {budget} ms", taken.expect("a share") * budget);
    assert!(text.contains(&line), "expected {line:?} in: {text}");
}
