//! Bringing an architecture to a budget of time that is measured, not predicted.

use elastic_layers::{Architecture, CostError, SearchSpace};

use super::MeasuredNetwork;
use crate::projection::{Projection, ProjectionError};
use crate::resource::Limits;

/// How near to the budget a measured time has to come, as a share of it.
const NEAR: f64 = 0.03;

/// Measurements of one architecture, whose mean has to be near.
const CONFIRMED: usize = 2;

/// Measurements at most.
const MEASUREMENTS: usize = 36;

/// What [`adjust`] found.
#[derive(Debug)]
pub struct Adjusted {
    /// The architecture whose measured time is the nearest to the budget.
    pub architecture: Architecture,
    /// Its time, in ms: the mean of its measurements.
    pub ms: f64,
    /// That over the time that the table says.
    pub scale: f64,
    /// All measurements, in their order.
    pub measurements: Vec<MeasuredNetwork>,
    /// Why nothing nearer was looked for.
    pub obstacle: Option<ProjectionError>,
}

/// An architecture with its measured times.
struct Tried {
    architecture: Architecture,
    predicted_ms: f64,
    times: Vec<f64>,
}

impl Tried {
    fn ms(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len() as f64
    }

    fn scale(&self) -> f64 {
        self.ms() / self.predicted_ms
    }

    /// The distance from the budget, as a share of it.
    fn deviation(&self, budget_ms: f64) -> f64 {
        self.ms() / budget_ms - 1.0
    }
}

/// An architecture that takes its budget of time as it is measured now, not as a table says.
///
/// A table has the times of the moment at which it was built: the machine may be faster or slower by now, and every
/// prediction is off by something. So the architecture is measured, what the measured time is of the predicted one makes
/// a budget in the table's times, and `start` is projected onto that; again, until the mean of two measurements of one
/// architecture is within 3 % of the budget. Channels move by one factor: what the search found of their proportions
/// stays, and a table that knows of jumps in time is asked on which side of them to be.
///
/// `limits` have a budget of time by a table; `measure` gives a time in the same unit.
///
/// # Errors
/// What `measure` returns, or if that is no time above 0; and if a time by the table cannot be found.
pub fn adjust<E: From<CostError>>(
    space: &SearchSpace,
    limits: &Limits,
    start: &Architecture,
    mut measure: impl FnMut(&Architecture) -> Result<f64, E>,
) -> Result<Adjusted, E> {
    let budget = limits.budget();
    let new = |architecture: Architecture| {
        let predicted_ms = budget.resource().of(&architecture)?;
        Ok::<_, CostError>(Tried { architecture, predicted_ms, times: Vec::new() })
    };
    let mut tried = vec![new(start.clone())?];
    let mut measurements = Vec::new();
    let mut obstacle = None;
    while let Some(last) = tried.last_mut().filter(|_| measurements.len() < MEASUREMENTS) {
        let ms = measure(&last.architecture)?;
        if !(ms.is_finite() && ms > 0.0) {
            return Err(CostError::Other(format!("expected a measured time above 0, found {ms}")).into());
        }
        measurements.push(MeasuredNetwork { architecture: last.architecture.values().to_vec(), ms });
        last.times.push(ms);
        if last.deviation(budget.most()).abs() <= NEAR {
            if last.times.len() >= CONFIRMED {
                break;
            }
            continue;
        }
        match projected(space, limits, start, scale_of(&tried, budget.most())) {
            Ok(next) if tried.last().is_some_and(|last| last.architecture == next) => {}
            Ok(next) => tried.push(new(next)?),
            Err(error) => {
                obstacle = Some(error);
                break;
            }
        }
    }
    let measured = tried.into_iter().filter(|tried| !tried.times.is_empty());
    let distance = |tried: &Tried| tried.deviation(budget.most()).abs();
    let nearest = measured.min_by(|one, other| distance(one).total_cmp(&distance(other)));
    // The start has been measured.
    let Some(nearest) = nearest else { return Err(CostError::Other("nothing was measured".into()).into()) };
    let (ms, scale) = (nearest.ms(), nearest.scale());
    Ok(Adjusted { architecture: nearest.architecture, ms, scale, measurements, obstacle })
}

/// What the last architecture says of measured over predicted times; where the one before was off to the other side,
/// between what the two say.
fn scale_of(tried: &[Tried], budget_ms: f64) -> f64 {
    match tried {
        [.., before, last] if before.deviation(budget_ms) * last.deviation(budget_ms) < 0.0 => {
            (before.scale() * last.scale()).sqrt()
        }
        [.., last] => last.scale(),
        [] => 1.0,
    }
}

fn projected(
    space: &SearchSpace,
    limits: &Limits,
    start: &Architecture,
    scale: f64,
) -> Result<Architecture, ProjectionError> {
    let limits = limits.at_scale(scale);
    Projection::new(space, &limits)?.architecture(&start.params())
}
