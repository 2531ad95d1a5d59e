//! The memory that a file takes, measured in a process that does nothing else.

use std::path::Path;
use std::process::{Command, Stdio};

use exporters::runtime::RuntimeKind;

use crate::latency::BenchOptions;

/// Largest resident memory of this process so far, in bytes (Linux).
pub(super) fn own_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The peak of a process of this program that loads a file and runs it a few times; nothing where it cannot be read,
/// and for Burn's networks, which come with all that trained them.
pub(super) fn peak_of(prefix: &[&str], path: &Path, kind: RuntimeKind, options: &BenchOptions) -> Option<u64> {
    own_peak().filter(|_| kind != RuntimeKind::BurnFlex)?;
    let batch = options.batch.map(|batch| format!("--batch={batch}"));
    let shape = |(name, sizes): &(Option<String>, Vec<usize>)| {
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        let name = name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
        format!("--shape={name}{}", sizes.join("x"))
    };
    let output = Command::new(std::env::current_exe().ok()?)
        .args(prefix)
        .args(["--only-memory", "--runtime", kind.name(), "--threads", &options.threads.to_string()])
        .args(batch)
        .args(options.shapes.iter().map(shape))
        .arg("--")
        .arg(path)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
