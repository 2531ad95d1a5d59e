//! What the shared weights say of architectures, to be compared with what training from scratch makes of them.

use std::collections::HashSet;

use elastic_layers::{Architecture, Backbone};

use super::{Search, SearchError, random_params};
use crate::data::batches;
use crate::rng::{Stream, stream};

/// Draws for each architecture that is asked for, before a space is held to have no more of them.
const DRAWS: usize = 100;

/// What the shared weights say of an architecture.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The architecture, between 0.98 and 1.00 of the budget.
    pub architecture: Architecture,
    /// Loss of its view over the evaluation split; not finite, if the weights diverged there.
    pub shared_loss: f64,
    /// The same with the correction by trials; none, if the search made none.
    pub corrected_loss: Option<f64>,
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// Draws different architectures at the budget, of any resolution and depth up to the backbone's and with uneven
    /// channels, and scores them with the shared weights as they are: after [`resume`](Self::resume) of a search that
    /// is over, with those that it ended with. The seed of the search decides which; more of them begin with the same.
    ///
    /// # Errors
    /// If the budget leaves less than so many architectures, an image file cannot be read, or every loss is infinite or not a number.
    pub fn sample(&mut self, count: usize) -> Result<Vec<Scored>, SearchError> {
        let (space, cost) = (self.task.blueprint.space(), self.task.blueprint.cost());
        let mut rng = stream(self.identity.seed, Stream::Fidelity);
        let (mut seen, mut architectures) = (HashSet::new(), Vec::new());
        for _ in 0..DRAWS * count {
            if architectures.len() == count {
                break;
            }
            let architecture = self.projection.architecture(&random_params(space, &mut rng))?;
            if seen.insert(architecture.values().to_vec()) {
                architectures.push(architecture);
            }
        }
        if architectures.len() < count {
            return Err(SearchError::Few { expected: count, found: architectures.len() });
        }
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let losses = self.score(&architectures, &batches)?;
        let correction = self.trial_correction(&batches)?;
        let scored = architectures.into_iter().zip(losses).map(|(architecture, shared_loss)| {
            let corrected_loss = match &correction {
                Some(correction) => Some(shared_loss + correction.at(space, cost, &architecture)?),
                None => None,
            };
            Ok(Scored { architecture, shared_loss, corrected_loss })
        });
        scored.collect()
    }
}
