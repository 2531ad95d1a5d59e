//! Turns every ONNX file of a folder into Burn's source by `burn-onnx`.
//!
//!     cargo run --bin generate -- FILES SOURCES
//!
//! Writes `SOURCES/NAME.rs` and `SOURCES/NAME.bpk` for every `FILES/NAME.onnx`, and `SOURCES/networks.rs`, which has a
//! module for each and the list `NETWORKS` of functions that load and run it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn_onnx::{LoadStrategy, ModelGen};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [files, sources] = &arguments[..] else { bail!("expected a folder of ONNX files and one for sources") };
    let sources = std::path::absolute(sources)?;
    std::fs::create_dir_all(&sources).with_context(|| sources.display().to_string())?;
    let mut networks = names(files)?;
    networks.sort();
    let (mut modules, mut list) = (String::new(), String::new());
    for name in &networks {
        let file = files.join(format!("{name}.onnx"));
        let folder = sources.to_str().context("a path that is no text")?;
        ModelGen::new()
            .input(file.to_str().context("a path that is no text")?)
            .out_dir(folder)
            .load_strategy(LoadStrategy::File)
            .run_from_cli();
        let module = name.replace('-', "_");
        writeln!(
            modules,
            "#[allow(dead_code, missing_docs, clippy::all)]\nmod {module} {{ include!({:?}); }}",
            sources.join(format!("{name}.rs"))
        )?;
        writeln!(
            list,
            "({name:?}, |data, device| {module}::Model::from_file({:?}, device).forward(Tensor::from_data(data, device)).into_data()),",
            sources.join(format!("{name}.bpk"))
        )?;
    }
    let list = format!("const NETWORKS: &[(&str, fn(TensorData, &Device) -> TensorData)] = &[\n{list}];\n");
    std::fs::write(sources.join("networks.rs"), modules + &list)?;
    Ok(())
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "onnx")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
