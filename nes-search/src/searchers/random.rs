//! Random search under the budget.

use elastic_layers::{Architecture, CostError};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Searcher, Turn, anywhere, by_loss};
use crate::projection::Projection;

/// Architectures that are scored on the same images.
const ROUND: usize = 50;

/// Draws architectures anywhere in the space, moved onto the budget. The best is kept: the one whose loss is farthest
/// below the median of those that were scored on the same images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomSearcher {
    start: Vec<f64>,
    rng: ChaCha8Rng,
    asked: Vec<Architecture>,
    best: Option<(f64, Architecture)>,
}

impl RandomSearcher {
    /// A search that has not begun; `start` is what it has found until then.
    pub fn new(start: &[f64], rng: ChaCha8Rng) -> Self {
        Self { start: start.to_vec(), rng, asked: Vec::new(), best: None }
    }
}

impl Searcher for RandomSearcher {
    fn ask(&mut self, Turn { projection, most, .. }: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        let draw = |_| {
            let point = anywhere(projection, &mut self.rng);
            projection.nearest(&point)
        };
        let asked: Vec<_> = (0..ROUND.min(most)).map(draw).collect::<Result<_, _>>()?;
        self.asked.clone_from(&asked);
        Ok(asked)
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.asked.len(), "one loss per architecture");
        let order = by_loss(losses);
        let (Some(&best), Some(&median)) = (order.first(), order.get(order.len() / 2)) else { return Ok(()) };
        if losses[best].is_finite() {
            // Where half of them failed there is no median: any of another round is better known.
            let lead = if losses[median].is_finite() { losses[best] - losses[median] } else { 0.0 };
            if self.best.as_ref().is_none_or(|(most, _)| lead < *most) {
                self.best = Some((lead, self.asked[best].clone()));
            }
        }
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        self.best.as_ref().map_or_else(|| self.start.clone(), |(_, best)| best.params())
    }
}
