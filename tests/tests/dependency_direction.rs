//! Dependencies point one way, and what belongs in one place is there only.
//!
//! `burn <- elastic-layers <- exporters <- onnx-bench <- nes-search` (its binary) `<- benchmarks`; the library of
//! `nes-search` needs `elastic-layers` only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// What each crate of the workspace may depend on in the workspace.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("elastic-layers-derive", &[]),
    ("elastic-kernels", &[]),
    ("elastic-layers", &["elastic-layers-derive", "elastic-kernels"]),
    ("exporters", &["elastic-layers"]),
    ("onnx-bench", &["exporters"]),
    ("nes-search", &["elastic-layers", "exporters", "onnx-bench"]),
    ("benchmarks", &["elastic-layers", "exporters", "onnx-bench", "nes-search"]),
    ("integration-tests", &["elastic-layers", "exporters", "onnx-bench", "nes-search"]),
];

/// What the library of `nes-search` does without.
const OF_THE_COMMAND: [&str; 2] = ["exporters", "onnx-bench"];

/// What `cargo metadata` says, as far as it is looked at here. Crates that read it for us switch on features of serde's
/// crates, with which a test of the workspace would build the framework anew.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    features: BTreeMap<String, Vec<String>>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None for a dependency of the crate itself.
    kind: Option<String>,
    path: Option<PathBuf>,
    optional: bool,
    uses_default_features: bool,
    features: Vec<String>,
}

impl Dependency {
    fn is_for_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    #[serde(rename = "required-features", default)]
    required_features: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> Metadata {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the workspace's manifests")
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    metadata.packages.iter().find(|package| package.name == name).unwrap_or_else(|| panic!("no package {name}"))
}

/// Dependencies on other crates of the workspace.
fn internal(package: &Package) -> impl Iterator<Item = &Dependency> {
    package.dependencies.iter().filter(|dependency| dependency.path.is_some())
}

/// All Rust files below a folder, with their paths from it, in order.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current).unwrap_or_else(|error| panic!("{}: {error}", current.display())) {
            let path = entry.expect("a folder's entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).expect("below the folder").to_string_lossy().replace('\\', "/");
                files.push((name, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    files.sort();
    files
}

/// Whether code, comments left out, has a path into a crate, or imports it.
fn names_crate(source: &str, name: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).any(|code| {
        code.match_indices(name).any(|(start, _)| {
            let (before, after) = (&code[..start], &code[start + name.len()..]);
            let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
            let imported = ["use ", "use ::", "extern crate "].iter().any(|keyword| before.ends_with(keyword));
            whole && (after.starts_with("::") || imported)
        })
    })
}

fn manifest(package: &Package) -> toml::Table {
    let text = fs::read_to_string(&package.manifest_path).expect("a manifest");
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", package.manifest_path.display()))
}

fn is_inherited(value: Option<&toml::Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
}

#[test]
fn crates_depend_one_way() {
    let metadata = metadata();
    let found: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, known, "the crates of the workspace, and those that this test knows");
    for (name, allowed) in ALLOWED {
        for dependency in internal(package(&metadata, name)) {
            let target = dependency.name.as_str();
            assert!(allowed.contains(&target), "{name} depends on {target}: expected nothing but {allowed:?}");
        }
    }
}

#[test]
fn nothing_but_tests_needs_the_integration_tests_dependencies() {
    let metadata = metadata();
    let tests = package(&metadata, "integration-tests");
    let shipped: Vec<&str> = tests
        .dependencies
        .iter()
        .filter(|dependency| !dependency.is_for_tests())
        .map(|dependency| dependency.name.as_str())
        .collect();
    assert!(shipped.is_empty(), "dependencies of integration-tests that are not for tests: {shipped:?}");
}

#[test]
fn onnx_bench_does_without_the_training_framework() {
    let metadata = metadata();
    let bench = package(&metadata, "onnx-bench");
    for dependency in bench.dependencies.iter().filter(|other| !other.is_for_tests()) {
        assert!(dependency.name != "burn", "onnx-bench depends on burn");
        let lowers = dependency.uses_default_features || dependency.features.iter().any(|feature| feature == "burn");
        assert!(dependency.name != "exporters" || !lowers, "onnx-bench uses the feature `burn` of exporters");
    }
}

#[test]
fn only_the_command_depends_on_exporters_and_onnx_bench() {
    let metadata = metadata();
    let search = package(&metadata, "nes-search");
    for name in OF_THE_COMMAND {
        let dependency = search
            .dependencies
            .iter()
            .find(|other| other.name == name && other.kind.is_none())
            .unwrap_or_else(|| panic!("nes-search has no dependency {name}"));
        assert!(dependency.optional, "{name} is not optional in nes-search");
        let enabling: Vec<&str> = search
            .features
            .iter()
            .filter(|(_, enabled)| enabled.iter().any(|entry| entry.trim_start_matches("dep:") == name))
            .map(|(feature, _)| feature.as_str())
            .collect();
        assert_eq!(enabling, ["cli"], "the features of nes-search that enable {name}");
    }
    let binary = search
        .targets
        .iter()
        .find(|target| target.kind.iter().any(|kind| kind == "bin"))
        .expect("nes-search has a binary");
    assert_eq!(binary.required_features, ["cli"], "what the binary of nes-search requires");
}

#[test]
fn the_library_of_nes_search_names_neither_exporters_nor_onnx_bench() {
    let files = sources(&root().join("nes-search/src"));
    // The binary's own files; all others are the library's.
    let library = files.iter().filter(|(name, _)| name != "main.rs" && !name.starts_with("cli/"));
    let mut seen = 0;
    for (name, source) in library {
        seen += 1;
        for other in OF_THE_COMMAND {
            assert!(!names_crate(source, &other.replace('-', "_")), "nes-search/src/{name} names {other}");
        }
        let declares_cli = source.lines().any(|line| line.trim_end().ends_with("mod cli;"));
        assert!(!declares_cli, "nes-search/src/{name} makes the command part of the library");
    }
    assert!(seen > 10, "only {seen} files of the library were found");
}

#[test]
fn one_file_touches_protobuf_types() {
    let naming: Vec<String> = sources(&root().join("exporters/src"))
        .into_iter()
        .filter(|(_, source)| names_crate(source, "onnx_protobuf") || names_crate(source, "protobuf"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(naming, ["proto.rs"], "the files of exporters/src that name protobuf types");
    for package in &metadata().packages {
        let depends = package.dependencies.iter().any(|other| other.name.contains("protobuf"));
        assert!(!depends || package.name == "exporters", "{} depends on protobuf", package.name);
    }
}

#[test]
fn versions_and_lints_are_the_workspaces() {
    for package in &metadata().packages {
        let (name, manifest) = (&package.name, manifest(package));
        assert!(is_inherited(manifest.get("lints")), "{name} does not inherit the workspace's lints");
        for key in ["version", "edition", "rust-version", "license"] {
            let value = manifest.get("package").and_then(|package| package.get(key));
            assert!(is_inherited(value), "{name} does not inherit the workspace's {key}");
        }
        let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let tables: Vec<&toml::Table> = targets.filter_map(|(_, table)| table.as_table()).chain([&manifest]).collect();
        let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
        for section in tables.iter().flat_map(|table| sections.map(|section| table.get(section))) {
            let entries = section.and_then(toml::Value::as_table).into_iter().flatten();
            for (dependency, value) in entries {
                assert!(is_inherited(Some(value)), "{name}: {dependency} is not from the workspace's table");
            }
        }
    }
}

#[test]
fn a_crate_is_named_by_paths_and_imports_only() {
    for code in
        ["use exporters::OnnxExporter;", "    exporters::verify(", "use exporters as e;", "pub use ::exporters;"]
    {
        assert!(names_crate(code, "exporters"), "{code}");
    }
    for code in [
        "// exporters::verify",
        "let exporters = 1;",
        "my_exporters::x",
        "use exporters_of::x;",
        "/// [`exporters::x`]",
    ] {
        assert!(!names_crate(code, "exporters"), "{code}");
    }
}
