//! PyTorch in a process of its own, which answers requests one after the other.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A running `benchmarks/python/cpu_throughput.py`.
pub struct Torch {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Version of PyTorch.
    pub version: String,
}

impl Torch {
    /// Starts the script.
    ///
    /// # Errors
    /// If the interpreter, the script or PyTorch is not there.
    pub fn start(python: &Path, threads: usize) -> Result<Self> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/cpu_throughput.py");
        let mut child = Command::new(python)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{}: no pipes", python.display());
        };
        let mut torch = Self { child, requests, answers: BufReader::new(answers), version: String::new() };
        let hello = torch
            .ask(&json!({ "do": "hello", "threads": threads }))
            .with_context(|| format!("{} with torch and numpy", python.display()))?;
        torch.version = hello["version"].as_str().unwrap_or_default().to_owned();
        Ok(torch)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// If the process ended, or answered with an error.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}").context("PyTorch's process ended")?;
        self.requests.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("PyTorch's process ended");
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("PyTorch's process said {line:?}"))?;
        match answer["error"].as_str() {
            Some(error) => bail!("PyTorch: {error}"),
            None => Ok(answer),
        }
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        // It waits for requests and has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
