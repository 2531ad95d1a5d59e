//! The command `bench`: the flags and the output are those of `onnx-bench`; networks of run directories come to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use elastic_layers::Backbone;
use exporters::runtime::{self, Element, Input, Runtime, RuntimeError, RuntimeKind, check_inputs};
use ndarray::{ArrayD, IxDyn};
use nes_search::AnyBackbone;
use onnx_bench::cli::{BenchArguments, Host, Output};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::directory::{ARCHITECTURE, WEIGHTS};
use super::networks::{Networks, is_of_weights};
use super::progress::complain_of_runtimes;

/// Measures ONNX files, by any exporter, on every runtime that this machine has, and networks of run directories on
/// Burn's flex backend as well.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search bench model.onnx
  nes-search bench a.onnx b.onnx --compare --runtime onnx-runtime --threads 2 --json
  nes-search bench runs/mine/model.onnx        with Burn's flex backend on the weights beside the file")]
pub struct Bench {
    #[command(flatten)]
    bench: BenchArguments,
}

impl Bench {
    pub fn run(&self) -> anyhow::Result<()> {
        complain_of_runtimes();
        let Output { text, incomplete } = self.bench.run(&mut RunDirectories)?;
        super::print(&text)?;
        incomplete.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Files that may stand in run directories.
struct RunDirectories;

/// The directory of a file.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Host for RunDirectories {
    fn prefix(&self) -> &[&str] {
        &["bench"]
    }

    fn has_network(&self, path: &Path) -> bool {
        let directory = directory_of(path);
        [WEIGHTS, ARCHITECTURE].iter().all(|name| directory.join(name).is_file()) && is_of_weights(path, directory)
    }

    fn load(&mut self, kind: RuntimeKind, path: &Path, threads: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
        match kind {
            RuntimeKind::BurnFlex if self.has_network(path) => {
                Ok(Box::new(Flex::load(path, threads).map_err(|error| RuntimeError::Load {
                    runtime: kind,
                    path: path.to_owned(),
                    reason: super::words(&error),
                })?))
            }
            _ => runtime::load_any(kind, path, threads),
        }
    }
}

/// A trained network on Burn's flex backend, with threads of its own.
struct Flex {
    path: PathBuf,
    network: AnyBackbone,
    /// One: it has one input.
    inputs: Vec<Input>,
    fed: Option<ArrayD<f32>>,
    pool: Arc<ThreadPool>,
}

impl std::fmt::Debug for Flex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Flex").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Flex {
    fn load(path: &Path, threads: usize) -> anyhow::Result<Self> {
        let directory = directory_of(path);
        let networks = Networks::of(directory)?;
        let (_, network) = networks.network(directory)?;
        let [channels, height, width] = networks.record.image;
        let shape = vec![None, Some(channels), Some(height), Some(width)];
        let inputs = vec![Input { name: "images".into(), element: Element::F32, shape }];
        let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build()?);
        Ok(Self { path: path.to_owned(), network, inputs, fed: None, pool })
    }
}

impl Runtime for Flex {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::BurnFlex
    }

    fn version(&self) -> String {
        BURN_VERSION.to_owned()
    }

    fn options(&self) -> &'static str {
        "the project's kernels, unless ELASTIC_KERNELS=off; a thread pool of its own"
    }

    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> usize {
        1
    }

    fn feed(&mut self, inputs: &[&ArrayD<f32>]) -> Result<(), RuntimeError> {
        check_inputs(&self.path, &self.inputs, inputs)?;
        // There is one, as has been checked.
        self.fed = Some(inputs[0].clone());
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let error = |reason| RuntimeError::Run { runtime: RuntimeKind::BurnFlex, path: self.path.clone(), reason };
        let input = self.fed.as_ref().ok_or_else(|| error("no data".into()))?;
        let data = TensorData::new(input.iter().copied().collect::<Vec<f32>>(), input.shape());
        let output =
            self.pool.install(|| self.network.forward(Tensor::<4>::from_data(data, &Device::default())).into_data());
        let shape = output.shape().to_vec();
        let values = output.try_into_vec::<f32>().map_err(|failure| error(format!("{failure:?}")))?;
        let output = ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|failure| error(failure.to_string()));
        Ok(vec![output?])
    }
}

/// Burn does not tell its version; a test compares this with `Cargo.lock`.
const BURN_VERSION: &str = "0.22.1";

#[cfg(test)]
mod tests {
    use super::BURN_VERSION;

    #[test]
    fn version_is_the_locked_one() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"burn\"\nversion = \"{BURN_VERSION}\"\n");
        assert!(lock.contains(&entry), "expected {entry}");
    }
}
