//! The command `export`.

use std::path::PathBuf;

use clap::Args;

use super::directory::{MODEL, config_of};
use super::job::Job;

/// Writes a trained network as ONNX, and verifies the file in every runtime.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search export runs/mine                  the found network
  nes-search export runs/mine/uniform-joint --out joint.onnx
  nes-search export runs/mine --int8           in 8 bits too, as model.int8.onnx")]
pub struct Export {
    /// A directory of `run` or `train`, or of one network of a run.
    directory: PathBuf,
    /// The file to write; by default model.onnx in the directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes the network in 8 bits too, beside the other file, with ranges taken from training images, and compares the
    /// two on the evaluation split.
    #[arg(long)]
    int8: bool,
}

impl Export {
    pub fn run(self) -> anyhow::Result<()> {
        let job = Job::load(config_of(&self.directory)?)?;
        let (model, report) = job.export_directory(&self.directory, self.out.as_deref())?;
        let written = self.out.unwrap_or_else(|| self.directory.join(MODEL));
        super::print(&format!("{report}{}: verified\n", written.display()))?;
        if self.int8 {
            let int8 = written.with_extension("int8.onnx");
            let lines = job.export_int8(&model, &written, &int8)?;
            super::print(&format!("{lines}{}: compared\n", int8.display()))?;
        }
        Ok(())
    }
}
