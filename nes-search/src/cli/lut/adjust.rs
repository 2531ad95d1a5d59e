//! What a search under a budget of milliseconds found, brought to that time as this machine takes it now.

use std::time::Duration;

use elastic_layers::Architecture;
use exporters::runtime::{RuntimeKind, require};
use nes_search::latency::{Adjusted, LatencyTable, adjust};
use onnx_bench::machine::Machine;

use super::build::exported;
use super::micro::Bench;
use crate::cli::job::Job;
use crate::cli::progress::note;

/// A time is the median of so many measurements: a machine that others use is slow for seconds now and then.
const REPEATS: usize = 3;

/// Time of each of them.
const TIME: Duration = Duration::from_millis(300);

/// The adjusted architecture; nothing where the budget is of no table, or of one that this machine cannot measure
/// against: that of another machine, or of a runtime that is missing here.
pub fn adjusted(job: &Job, found: &Architecture) -> anyhow::Result<Option<Adjusted>> {
    let Some(table) = &job.table else { return Ok(None) };
    let runtime = match measurable(table) {
        Ok(runtime) => runtime,
        Err(reason) => {
            note(&format!("the found network's time is what the table says, and is not measured: {reason}"));
            return Ok(None);
        }
    };
    let [_, channels, height, width] = job.data.train.shape();
    let bench = Bench::new(runtime, table.threads, table.reference_ms)?;
    let measure = |architecture: &Architecture| {
        let model = exported(&job.blueprint, [channels, height, width], architecture, job.config.seed)?;
        let mut times =
            (0..REPEATS).map(|_| Ok(bench.network(&model, TIME)?.ms)).collect::<anyhow::Result<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        let ms = times[REPEATS / 2];
        note(&format!("measured {ms:.4} ms on {runtime}, of {}", job.config.budget));
        Ok::<_, anyhow::Error>(ms)
    };
    adjust(job.blueprint.space(), &job.limits, found, measure).map(Some)
}

/// The runtime of a table, if its times can be measured again here; otherwise why not.
fn measurable(table: &LatencyTable) -> Result<RuntimeKind, String> {
    if table.reference_ms.is_none() {
        return Err("the table is from elsewhere".into());
    }
    let (built, here) = (table.machine.get("cpu").and_then(|cpu| cpu.as_str()), Machine::describe().cpu);
    if built != Some(here.as_str()) {
        return Err(format!("the table is of {}, this machine is {here}", built.unwrap_or("an unknown machine")));
    }
    let runtime: RuntimeKind = table.runtime.parse().map_err(|error| format!("{error}"))?;
    require(runtime).map_err(|error| error.to_string())?;
    Ok(runtime)
}
