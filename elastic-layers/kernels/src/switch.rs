//! The switch that turns the kernels off.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

fn switch() -> &'static AtomicBool {
    static SWITCH: OnceLock<AtomicBool> = OnceLock::new();
    SWITCH.get_or_init(|| AtomicBool::new(std::env::var_os("ELASTIC_KERNELS").is_none_or(|value| value != "off")))
}

/// Whether the kernels are used in this process; at first, unless the environment variable `ELASTIC_KERNELS` is `off`.
pub fn enabled() -> bool {
    switch().load(Ordering::Relaxed)
}

/// Uses the kernels in this process, or Burn's own operations everywhere; for comparison and for finding faults.
pub fn set_enabled(on: bool) {
    switch().store(on, Ordering::Relaxed);
}
