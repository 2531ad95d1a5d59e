//! How long jobs tell where they are, and are asked to stop.

/// A part of a long job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is done.
    pub phase: &'a str,
    /// Steps finished.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// How it goes.
    pub message: String,
}

/// Watches a long job.
pub trait Observer {
    /// Called after every step.
    fn progress(&mut self, progress: Progress<'_>);

    /// Called with what a user should know, though the job goes on.
    fn warning(&mut self, _message: &str) {}

    /// Whether the job is to stop at the next step, with everything kept.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {
    fn progress(&mut self, _progress: Progress<'_>) {}
}
