//! The machine's limits, measured, and how near to them the kernels come.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use serde_json::json;

use crate::measure::{Case, LAYOUTS, measure};
use crate::{Arguments, Report, operations};

/// Fused multiply-adds of vectors in one call, for every sum: some milliseconds, beside which waking a thread is nothing.
const STEPS: usize = 1 << 21;

/// Sums that do not wait for each other: two multiply-adds begin in a cycle, and each takes four or five.
const SUMS: usize = 12;

/// Numbers that no cache of a core holds.
const NUMBERS: usize = 1 << 26;

/// What the machine does at most.
struct Limits {
    macs_per_second: f64,
    bytes_per_second: f64,
}

struct Peak;

impl WithSimd for Peak {
    /// MACs done.
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let factor = simd.splat_f32s(black_box(0.999));
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        for _ in 0..STEPS {
            // By indices, so that each is a register.
            #[allow(clippy::needless_range_loop)]
            for number in 0..SUMS {
                sums[number] = simd.mul_add_e_f32s(sums[number], factor, factor);
            }
        }
        black_box(sums);
        (STEPS * SUMS * S::F32_LANES) as f64
    }
}

/// The shortest of some runs, in seconds, and what the last of them gave.
fn shortest<T>(mut work: impl FnMut() -> T) -> (f64, T) {
    let mut run = || {
        let start = Instant::now();
        let result = work();
        (start.elapsed().as_secs_f64(), result)
    };
    (0..8).fold(run(), |best, _| {
        let (seconds, result) = run();
        (seconds.min(best.0), result)
    })
}

impl Limits {
    fn measure() -> Self {
        let arch = Arch::new();
        let (seconds, macs) = shortest(|| rayon::broadcast(|_| arch.dispatch(Peak)).iter().sum::<f64>());
        let (source, mut target) = (vec![1.0f32; NUMBERS], vec![0.0f32; NUMBERS]);
        let chunk = NUMBERS / rayon::current_num_threads() / 8;
        let copy = || {
            let chunks = target.par_chunks_mut(chunk).zip(source.par_chunks(chunk));
            chunks.for_each(|(target, source)| target.copy_from_slice(source));
        };
        let bytes = (2 * NUMBERS * size_of::<f32>()) as f64;
        Self { macs_per_second: macs / seconds, bytes_per_second: bytes / shortest(copy).0 }
    }

    /// Seconds that an operation takes at least.
    fn least(&self, macs: f64, bytes: f64) -> f64 {
        (macs / self.macs_per_second).max(bytes / self.bytes_per_second)
    }
}

/// Prints the limits, and the share of them that every operation reaches.
///
/// # Errors
/// If an operation fails.
pub fn report(arguments: &Arguments) -> Result<()> {
    let limits = Limits::measure();
    let [macs, bytes] = [limits.macs_per_second, limits.bytes_per_second].map(|rate| rate / 1e9);
    if arguments.json {
        println!("{}", json!({ "part": "limits", "gmacs_per_second": macs, "gigabytes_per_second": bytes }));
    } else {
        println!("\nmeasured limits: {macs:.0} GMAC/s, {bytes:.1} GB/s (a copy: read and written)");
    }
    let header = ["forward, batch 64", "ms", "GMAC/s", "GB/s", "limit", "share of the limit"];
    let mut report = Report::new(arguments.json, "Roofline", &header);
    for operation in operations::all().iter().filter(|operation| !operation.is_backward()) {
        let name = operation.name();
        if !name.contains(&arguments.operation) {
            continue;
        }
        let requests = LAYOUTS.map(|layout| operation.request(layout));
        let mut case = Case { step: operation.step(), requests };
        let seconds = measure(&mut case, None, false, arguments.rounds.into())?.kernels;
        let (macs, bytes) = (operation.macs() as f64, operation.bytes() as f64);
        let limit =
            if macs / limits.macs_per_second > bytes / limits.bytes_per_second { "arithmetic" } else { "memory" };
        let share = limits.least(macs, bytes) / seconds;
        let line = json!({
            "part": "roofline", "operation": name, "seconds": seconds, "macs": macs, "bytes": bytes, "limit": limit,
            "share": share,
        });
        let cells = vec![
            name,
            format!("{:.2}", seconds * 1e3),
            format!("{:.1}", macs / seconds / 1e9),
            format!("{:.1}", bytes / seconds / 1e9),
            limit.to_owned(),
            format!("{share:.2}"),
        ];
        report.row(&line, cells);
    }
    Ok(())
}
