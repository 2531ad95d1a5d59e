//! Whether a measurement can be trusted: was the machine busy with something else, are the samples spread too widely?

use std::time::Duration;

use crate::machine::{CpuTime, load_average_1min};
use crate::statistics::Summary;

/// A run is spread too widely when its 90th percentile is above this multiple of its median.
pub(crate) const WIDEST_P90_TO_P50: f64 = 1.25;

/// What the rest of the machine did during a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherLoad {
    /// One-minute load average at the beginning and at the end.
    pub(crate) load_average: [Option<f64>; 2],
    /// Cores that other processes kept busy, on average; `None` where CPU times cannot be read.
    pub(crate) busy_cores: Option<f64>,
    /// How far clock ticks allow `busy_cores` to be off, in cores.
    resolution: f64,
    /// Cores of the machine.
    cores: usize,
}

/// Watches the machine from its creation on.
pub(crate) struct Watch {
    load_average: Option<f64>,
    cpu_time: Option<CpuTime>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { load_average: load_average_1min(), cpu_time: CpuTime::now() }
    }

    /// The load since [`Self::start`], `elapsed` ago.
    pub(crate) fn stop(&self, elapsed: Duration) -> OtherLoad {
        let load_average = [self.load_average, load_average_1min()];
        let seconds = elapsed.as_secs_f64();
        match (self.cpu_time, CpuTime::now()) {
            (Some(before), Some(after)) if seconds > 0.0 => {
                let others = (after.machine - before.machine) - (after.process - before.process);
                // Each core's counter and the process's own may be off by one tick.
                let resolution = (after.cores + 1) as f64 * CpuTime::TICK_S / seconds;
                OtherLoad {
                    load_average,
                    busy_cores: Some((others / seconds).max(0.0)),
                    resolution,
                    cores: after.cores,
                }
            }
            _ => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                OtherLoad { load_average, busy_cores: None, resolution: 0.0, cores }
            }
        }
    }
}

/// Why a measurement with `threads` threads is noisy, if it is.
///
/// Other processes may use half of the cores that the measurement leaves idle, and a tenth of a core more. Half,
/// because cores share caches, memory bandwidth and clock, and two hardware threads may share one core; the tenth is
/// what an idle system does. Their use is measured during the run; where it cannot be, the load average at the
/// beginning stands in for it. Besides, a p90 above 1.25 times the p50 marks a run whatever the cause.
pub(crate) fn noise(load: &OtherLoad, threads: usize, samples: &Summary) -> Option<String> {
    let limit = load.cores.saturating_sub(threads) as f64 / 2.0 + 0.1;
    let mut reasons = Vec::new();
    match (load.busy_cores, load.load_average[0]) {
        (Some(busy), _) if busy - load.resolution > limit => {
            reasons.push(format!("other processes kept {busy:.2} cores busy, more than {limit:.2}"));
        }
        (None, Some(average)) if average > limit => {
            reasons.push(format!("load average {average:.2} at the beginning, more than {limit:.2}"));
        }
        _ => {}
    }
    let ratio = samples.p90 / samples.p50;
    if ratio > WIDEST_P90_TO_P50 {
        reasons.push(format!("p90 is {ratio:.2} times p50, more than {WIDEST_P90_TO_P50}"));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(busy_cores: Option<f64>) -> OtherLoad {
        OtherLoad { load_average: [Some(1.5), Some(1.5)], busy_cores, resolution: 0.02, cores: 4 }
    }

    fn steady() -> Summary {
        Summary::from_samples(&[1.0; 20]).expect("finite")
    }

    #[test]
    fn others_may_use_half_of_the_idle_cores() {
        // 2 threads on 4 cores: 1 core and a tenth.
        assert_eq!(noise(&load(Some(0.0)), 2, &steady()), None);
        assert_eq!(noise(&load(Some(1.11)), 2, &steady()), None, "within the resolution of the clock");
        let reason = noise(&load(Some(1.2)), 2, &steady()).expect("too busy");
        assert_eq!(reason, "other processes kept 1.20 cores busy, more than 1.10");
        // All cores in use: only the tenth; more threads than cores leave none idle.
        assert!(noise(&load(Some(0.2)), 4, &steady()).is_some());
        assert!(noise(&load(Some(0.2)), 9, &steady()).is_some());
        assert_eq!(noise(&load(Some(0.1)), 4, &steady()), None);
    }

    #[test]
    fn load_average_counts_only_where_nothing_better_is_known() {
        assert_eq!(noise(&load(None), 1, &steady()), None);
        assert!(noise(&load(None), 2, &steady()).expect("1.5 above 1.1").contains("load average 1.50"));
        assert_eq!(noise(&load(Some(0.0)), 2, &steady()), None);
    }

    #[test]
    fn wide_spread_is_noise() {
        let mut samples = [1.0; 20];
        samples[..4].fill(2.0);
        let wide = Summary::from_samples(&samples).expect("finite");
        let reason = noise(&load(Some(0.0)), 1, &wide).expect("one sample in five takes twice as long");
        assert_eq!(reason, "p90 is 2.00 times p50, more than 1.25");
        samples[1..].fill(1.0);
        let one_outlier = Summary::from_samples(&samples).expect("finite");
        assert_eq!(noise(&load(Some(0.0)), 1, &one_outlier), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_threads_are_not_others() {
        let before = CpuTime::now().expect("Linux has /proc");
        let (watch, start) = (Watch::start(), std::time::Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..before.cores {
                scope.spawn(|| {
                    while start.elapsed() < Duration::from_millis(500) {
                        std::hint::black_box((0..1000u64).sum::<u64>());
                    }
                });
            }
        });
        let (load, elapsed) = (watch.stop(start.elapsed()), start.elapsed());
        let own = CpuTime::now().expect("Linux has /proc").process - before.process;
        // What this process used, nobody else can have used; were it counted as others', the sum would be near twice the cores.
        let sum = load.busy_cores.expect("Linux has /proc") + own / elapsed.as_secs_f64();
        assert!(own > 0.1, "{own} s of CPU time");
        assert!(sum <= load.cores as f64 + 2.0 * load.resolution, "{sum} of {} cores", load.cores);
    }
}
