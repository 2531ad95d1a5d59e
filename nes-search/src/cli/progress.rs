//! Progress on the terminal, and Ctrl-C.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use nes_search::{Observer, Progress, files};
use serde::{Deserialize, Serialize};

use super::directory::STATUS;

/// Time between two statuses in the run directory.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The content of a `status.json`: where a command is, for those who watch it from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// What is done, in steps of its own.
    pub phase: String,
    pub done: usize,
    pub total: usize,
    /// How it goes.
    pub message: String,
    /// Until the phase is over, going by the time that its steps have taken in this process.
    pub seconds_left: Option<f64>,
    /// When this was written, in seconds since 1970.
    pub unix_seconds: u64,
}

/// Shows the phases of a long job, and stops it at Ctrl-C or SIGTERM.
pub struct Terminal {
    interrupted: Arc<AtomicBool>,
    phase: Option<Phase>,
    /// Where the status is written, if anywhere.
    status: Option<PathBuf>,
    told: Option<Instant>,
}

struct Phase {
    name: String,
    bar: ProgressBar,
    begin: Instant,
    /// Steps that an earlier process did.
    before: usize,
}

impl Terminal {
    /// Takes over Ctrl-C: the first asks the job to stop with everything kept, a second ends the process. The status goes
    /// into a run directory.
    ///
    /// # Errors
    /// If the signal cannot be handled.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self { status: Some(directory.join(STATUS)), ..Self::without_status()? })
    }

    /// As [`new`](Self::new), for a job that has no run directory.
    ///
    /// # Errors
    /// If the signal cannot be handled.
    pub fn without_status() -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            note("stopping; once more to stop without saving");
        })
        .context("cannot handle Ctrl-C")?;
        Ok(Self { interrupted, phase: None, status: None, told: None })
    }

    fn finish(&mut self) {
        if let Some(Phase { name, bar, begin, .. }) = self.phase.take() {
            let message = bar.message();
            bar.finish_and_clear();
            note(&format!("{name}: {:.0} s, {message}", begin.elapsed().as_secs_f64()));
        }
    }
}

impl Phase {
    fn status(&self, done: usize, total: usize, message: String) -> Status {
        let steps = done.saturating_sub(self.before);
        let left = total.saturating_sub(done) as f64;
        Status {
            phase: self.name.clone(),
            done,
            total,
            message,
            seconds_left: (steps > 0).then(|| self.begin.elapsed().as_secs_f64() / steps as f64 * left),
            unix_seconds: unix_seconds(),
        }
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

impl Observer for Terminal {
    fn progress(&mut self, Progress { phase: name, done, total, message }: Progress<'_>) {
        if self.phase.as_ref().is_none_or(|phase| phase.name != name) {
            self.finish();
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3} %  {elapsed}, {eta} left  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_string());
            // What is told first is the end of a first step.
            let before = done.saturating_sub(1);
            self.phase = Some(Phase { name: name.to_string(), bar, begin: Instant::now(), before });
        }
        if let Some(phase) = &self.phase {
            if done == total || self.told.is_none_or(|told| told.elapsed() >= STATUS_EVERY) {
                self.told = Some(Instant::now());
                // A job does not end because nobody can watch it; what has to be kept is written elsewhere.
                let status = serde_json::to_vec(&phase.status(done, total, message.clone())).unwrap_or_default();
                if let Some(path) = &self.status {
                    let _ = files::write_quickly(path, &status);
                }
            }
            phase.bar.set_message(message);
            phase.bar.set_position(done as u64);
        }
        if done == total {
            self.finish();
        }
    }

    fn warning(&mut self, message: &str) {
        note(&format!("warning: {message}"));
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Says once why ONNX Runtime cannot be used, where somebody meant it to be.
pub fn complain_of_runtimes() {
    if let Some(complaint) = exporters::runtime::complaint() {
        note(&format!("warning: {complaint}"));
    }
}

/// A line on stderr.
pub fn note(text: &str) {
    // There is nowhere left to say that stderr cannot be written.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Keeps signals ignored that are ignored now, as `nohup` leaves SIGHUP: no thread that begins later gets them.
///
/// A handler would replace what `nohup` asked for. Has to be called before there is a second thread.
#[cfg(unix)]
pub fn keep_ignored_signals() {
    use nix::sys::signal::{SigSet, Signal};

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        if ignored >> (signal as i32 - 1) & 1 == 1 {
            blocked.add(signal);
        }
    }
    // Without it the command ends at such a signal, with everything kept.
    let _ = blocked.thread_block();
}

/// Only Unix has them.
#[cfg(not(unix))]
pub fn keep_ignored_signals() {}
