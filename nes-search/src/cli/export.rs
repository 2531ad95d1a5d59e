//! The command `export`.

use std::path::PathBuf;

use clap::Args;

use super::directory::MODEL;
use super::job::Job;
use super::networks::Networks;
use super::progress::note;

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
        let networks = Networks::of(&self.directory)?;
        // The images are needed for numbers in 8 bits alone.
        let job = match Job::of_directory(&self.directory) {
            Ok(job) => Some(job),
            Err(error) if self.int8 => return Err(error),
            Err(error) => {
                note(&format!("verified on noise, and not on images: {}", super::words(&error)));
                None
            }
        };
        let images = job.as_ref().map_or_else(|| Ok(networks.noise()), Job::samples)?;
        let (model, report) = networks.export_directory(&self.directory, &images, self.out.as_deref())?;
        let written = self.out.unwrap_or_else(|| self.directory.join(MODEL));
        super::print(&format!("{report}{}: verified\n", written.display()))?;
        if let Some(job) = job.filter(|_| self.int8) {
            let int8 = written.with_extension("int8.onnx");
            let lines = job.export_int8(&model, &written, &int8)?;
            super::print(&format!("{lines}{}: compared\n", int8.display()))?;
        }
        Ok(())
    }
}
