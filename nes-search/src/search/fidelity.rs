//! What the shared weights say of architectures, to be compared with what training from scratch makes of them.

use std::collections::HashSet;

use elastic_layers::{Architecture, Backbone, DimKind};

use super::{Search, SearchError};
use crate::data::batches;
use crate::nes::normal;
use crate::rng::{Stream, stream};

/// Draws for each architecture that is asked for, before a space is held to have no more of them.
const DRAWS: usize = 100;
/// Spread of the factors on channel numbers, as a logarithm.
const SPREAD: f64 = 0.35;

/// What the shared weights say of an architecture.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The architecture, at the budget.
    pub architecture: Architecture,
    /// Loss of its view over the evaluation split; not finite, if the weights diverged there.
    pub shared_loss: f64,
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// Draws different architectures at the budget from the region that the search ended in, and scores them with the shared
    /// weights as they are, after [`resume`](Self::resume) of a search that is over: the channels of the found architecture
    /// times independent factors, at its resolution and depth. The seed of the search decides which; more of them begin
    /// with the same.
    ///
    /// # Errors
    /// If the budget leaves less than so many architectures, an image file cannot be read, or every loss is infinite or not a
    /// number.
    pub fn sample(&mut self, count: usize) -> Result<Vec<Scored>, SearchError> {
        let mut rng = stream(self.identity.seed, Stream::Fidelity);
        let centre = self.state.found.clone().unwrap_or_else(|| self.state.start.clone());
        let (mut seen, mut architectures) = (HashSet::new(), Vec::new());
        for _ in 0..DRAWS * count {
            if architectures.len() == count {
                break;
            }
            let mut point = centre.params();
            for (h, (dim, &value)) in point.iter_mut().zip(centre.dims().iter().zip(centre.values())) {
                if dim.kind == DimKind::Channels {
                    let value = value as f64 * (SPREAD * normal(&mut rng)).exp();
                    *h = (value - dim.min as f64) / dim.step as f64 + 0.5;
                }
            }
            let architecture = self.projection.architecture(&point)?;
            if seen.insert(architecture.values().to_vec()) {
                architectures.push(architecture);
            }
        }
        if architectures.len() < count {
            return Err(SearchError::Few { expected: count, found: architectures.len() });
        }
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let losses = self.score(&architectures, &batches)?;
        let scored = architectures.into_iter().zip(losses);
        Ok(scored.map(|(architecture, shared_loss)| Scored { architecture, shared_loss }).collect())
    }
}
