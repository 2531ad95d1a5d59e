//! The machine that a figure was measured on, and how busy it is.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// A machine, as far as it says anything about the speed of a network. What cannot be read is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU, as it names itself.
    pub cpu: String,
    /// Instruction set, e.g. `x86_64`.
    pub architecture: String,
    /// Extensions that kernels choose by, e.g. `avx2`, `avx512f`.
    pub cpu_features: Vec<String>,
    /// Cores.
    pub physical_cores: Option<usize>,
    /// Hardware threads.
    pub logical_cores: usize,
    /// Hardware threads that this process may use, by its affinity and its control group.
    pub available_cores: usize,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Operating system and its version.
    pub os: String,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// Frequency governor of the first core, e.g. `performance` (Linux).
    pub governor: Option<String>,
    /// Present frequency of the first core, in MHz.
    pub frequency_mhz: Option<u64>,
    /// Highest frequency that the governor may choose, in MHz (Linux).
    pub max_frequency_mhz: Option<u64>,
    /// Number of runnable threads, averaged over the last minute, when the description was made.
    pub load_average_1min: Option<f64>,
}

impl Machine {
    /// Describes this machine, now.
    pub fn describe() -> Self {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_frequency())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kinds).ok();
        let cpus = system.as_ref().map(System::cpus).unwrap_or_default();
        let available_cores = available_parallelism().map_or(1, usize::from);
        let cpu = cpus.first().map(|cpu| cpu.brand().trim().to_owned()).filter(|brand| !brand.is_empty());
        let frequency = cpus.first().map(|cpu| cpu.frequency()).filter(|&mhz| mhz > 0);
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu_features: cpu_features(),
            physical_cores: System::physical_core_count().ok().filter(|&cores| cores > 0),
            logical_cores: if cpus.is_empty() { available_cores } else { cpus.len() },
            available_cores,
            memory_bytes: system.as_ref().map_or(0, System::total_memory),
            os: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            kernel: System::kernel_version().ok(),
            governor: cpufreq("scaling_governor"),
            frequency_mhz: frequency,
            max_frequency_mhz: cpufreq("scaling_max_freq")
                .and_then(|khz| khz.parse::<u64>().ok())
                .map(|khz| khz / 1000),
            load_average_1min: load_average_1min(),
        }
    }
}

/// Number of runnable threads of the whole machine, averaged over the last minute; `None` where the system keeps no
/// such figure.
pub fn load_average_1min() -> Option<f64> {
    System::load_average().ok().map(|load| load.one)
}

fn cpufreq(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cpufreq/{name}")).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Lists the features that are detected among those named.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! detected {
    ($detect:ident: $($feature:tt),+) => {
        [$(($feature, std::arch::$detect!($feature))),+]
            .into_iter()
            .filter_map(|(name, present)| present.then(|| name.to_owned()))
            .collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    detected!(is_x86_feature_detected:
        "sse4.2", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni",
        "avx512bf16", "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<String> {
    detected!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// CPU time used so far, by everything on the machine and by this process; in core-seconds, since some moment in the
/// past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuTime {
    /// Cores that the first figure covers.
    pub(crate) cores: usize,
    /// Busy time of all those cores, time that a hypervisor took from them included.
    pub(crate) machine: f64,
    /// Part of it that this process used, in all its threads.
    pub(crate) process: f64,
}

impl CpuTime {
    /// Length of a clock tick, the unit of `/proc`: `USER_HZ` is 100 on every architecture that Rust runs on.
    pub(crate) const TICK_S: f64 = 0.01;

    /// Reads both figures; `None` where there is no `/proc`.
    pub(crate) fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&machine, &process)
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        let cpu_lines = machine.lines().filter(|line| line.starts_with("cpu"));
        let cores = cpu_lines.filter(|line| !line.starts_with("cpu ")).count();
        // user, nice, system, idle, iowait, irq, softirq, steal; the guest times after them are already part of user
        // and nice.
        let total = machine.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = total.split_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
        let busy: u64 = ticks.iter().sum::<u64>() - ticks.get(3)? - ticks.get(4)?;
        // The second field is the command in parentheses, and may hold spaces and parentheses of its own; utime and
        // stime are the 14th and the 15th.
        let (_, after_command) = process.rsplit_once(')')?;
        let mut fields = after_command.split_whitespace().skip(11);
        let own = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        let seconds = |ticks: u64| ticks as f64 * Self::TICK_S;
        Some(Self { cores, machine: seconds(busy), process: seconds(own) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::describe();
        assert!(machine.logical_cores >= 1 && machine.available_cores >= 1);
        assert!(machine.memory_bytes > 1 << 20, "{} bytes", machine.memory_bytes);
        let text = serde_json::to_string(&machine).expect("serialises");
        assert_eq!(serde_json::from_str::<Machine>(&text).expect("its own format"), machine);
    }

    #[test]
    fn cpu_time_is_read_from_proc() {
        let machine =
            "cpu  100 10 20 1000 50 1 2 7 3 0\ncpu0 60 5 10 500 25 1 1 4 3 0\ncpu1 40 5 10 500 25 0 1 3 0 0\nintr 5\n";
        let process = "42 (odd) name)) R 1 1 1 0 -1 4194304 96 0 0 0 30 12 99 99 20 0 1 0";
        let time = CpuTime::parse(machine, process).expect("well formed");
        assert_eq!(time.cores, 2);
        assert!((time.machine - 1.40).abs() < 1e-9, "{}", time.machine);
        assert!((time.process - 0.42).abs() < 1e-9, "{}", time.process);
        assert_eq!(CpuTime::parse("", process), None);
        assert_eq!(CpuTime::parse("cpu  1 2\n", process), None);
        assert_eq!(CpuTime::parse(machine, "42 (cut"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_work_counts_as_own() {
        let before = CpuTime::now().expect("Linux has /proc");
        let start = std::time::Instant::now();
        let mut sum = 0u64;
        while CpuTime::now().expect("Linux has /proc").process - before.process < 0.1 {
            assert!(start.elapsed().as_secs() < 60, "a minute without 0.1 s of CPU time");
            sum = std::hint::black_box((0..10_000u64).fold(sum, u64::wrapping_add));
        }
        let after = CpuTime::now().expect("Linux has /proc");
        assert!(after.machine - before.machine >= 0.05);
    }
}
