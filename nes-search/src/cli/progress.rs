//! Progress on the terminal, and Ctrl-C.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use nes_search::{Observer, Progress};

/// Shows the phases of a long job, and stops it at Ctrl-C or SIGTERM.
pub struct Terminal {
    interrupted: Arc<AtomicBool>,
    phase: Option<Phase>,
}

struct Phase {
    name: String,
    bar: ProgressBar,
    begin: Instant,
}

impl Terminal {
    /// Takes over Ctrl-C: the first asks the job to stop with everything kept, a second ends the process.
    ///
    /// # Errors
    /// If the signal cannot be handled.
    pub fn new() -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            note("stopping; once more to stop without saving");
        })
        .context("cannot handle Ctrl-C")?;
        Ok(Self { interrupted, phase: None })
    }

    fn finish(&mut self) {
        if let Some(Phase { name, bar, begin }) = self.phase.take() {
            let message = bar.message();
            bar.finish_and_clear();
            note(&format!("{name}: {:.0} s, {message}", begin.elapsed().as_secs_f64()));
        }
    }
}

impl Observer for Terminal {
    fn progress(&mut self, Progress { phase: name, done, total, message }: Progress<'_>) {
        if self.phase.as_ref().is_none_or(|phase| phase.name != name) {
            self.finish();
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3} %  {elapsed}, {eta} left  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_string());
            self.phase = Some(Phase { name: name.to_string(), bar, begin: Instant::now() });
        }
        if let Some(phase) = &self.phase {
            phase.bar.set_message(message);
            phase.bar.set_position(done as u64);
        }
        if done == total {
            self.finish();
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// A line on stderr.
pub fn note(text: &str) {
    // There is nowhere left to say that stderr cannot be written.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
