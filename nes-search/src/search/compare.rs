//! Searchers on the same shared weights, which stay as they are.

use elastic_layers::{Architecture, Backbone};

use super::{Search, SearchError, least_finite};
use crate::baselines;
use crate::data::{EpochSampler, batches};
use crate::observer::{Observer, Progress};
use crate::rng::{Stream, derived_seed, stream};
use crate::searchers::{Searcher, SearcherName, Turn};

/// What a searcher found on shared weights that stayed as they were.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The architecture, between 0.98 and 1.00 of the budget.
    pub architecture: Architecture,
    /// The share of the budget that it takes.
    pub share: f64,
    /// The shared weights' loss at it over the whole evaluation split.
    pub loss: f64,
    /// Views that were asked for, those that decide the start included.
    pub evaluations: usize,
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// Lets a searcher spend evaluations on the shared weights as they are, as after [`resume`](Self::resume) of a search
    /// that is over. It starts at the best uniform rescaling of channels, resolution and depth by one batch, whose
    /// evaluations it spends too. The seed decides the batches, one for each round, and the searcher's random stream. Nothing, if
    /// interrupted.
    ///
    /// # Errors
    /// If an image file cannot be read, or every loss is infinite or not a number.
    pub fn compare(
        &mut self,
        searcher: SearcherName,
        evaluations: usize,
        seed: u64,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Compared>, SearchError> {
        let order_seed = derived_seed(seed, Stream::EvaluationOrder);
        let mut order = EpochSampler::new(self.task.evaluation.len(), order_seed);
        let size = self.settings.evaluation_batch;
        let mut batch = move || order.next_batch(size).to_vec();
        let rescalings = baselines::uniform_all(&self.projection)?;
        let losses = self.score(&rescalings, &[batch()])?;
        let start = &rescalings[least_finite(&losses).ok_or(SearchError::Diverged)?];
        let mut spent = rescalings.len();
        let (projection, rng) = (self.projection.clone(), stream(seed, Stream::Perturbations));
        let all = evaluations.saturating_sub(spent);
        let mut searcher = searcher.init(&self.settings.nes, &projection, &start.params(), all, rng)?;
        while spent < evaluations {
            if observer.interrupted() {
                return Ok(None);
            }
            let most = evaluations - spent;
            let done = 1.0 - most as f64 / all as f64;
            let asked = searcher.ask(Turn { projection: &projection, done, most })?;
            if asked.is_empty() {
                break;
            }
            spent += asked.len();
            let losses = self.score(&asked, &[batch()])?;
            searcher.tell(&projection, &losses)?;
            let message = format!("seed {seed}");
            observer.progress(Progress { phase: "compare", done: spent, total: evaluations, message });
        }
        let architecture = searcher.found(&projection)?;
        let all: Vec<_> = batches(self.task.evaluation, size).collect();
        let loss = self.score(std::slice::from_ref(&architecture), &all)?[0];
        let share = projection.share(&architecture)?;
        Ok(Some(Compared { architecture, share, loss, evaluations: spent }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::test_setting::Setting;

    #[test]
    fn searchers_get_the_same_weights_and_batches_and_no_evaluation_more() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|_| ());
        let mut compare =
            |searcher, seed| search.compare(searcher, 200, seed, &mut ()).expect("no error").expect("not interrupted");
        for searcher in SearcherName::ALL {
            let one = compare(searcher, 1);
            assert!((0.98..=1.0).contains(&one.share), "{searcher}: {}", one.share);
            assert!(one.evaluations <= 200, "{searcher}: {}", one.evaluations);
            // Cross-entropy over ten equal scores and one that is larger, of images of the ten.
            let resolution = one.architecture.get("resolution").expect("a dimension");
            let expected = (10.0 + (0.2 * (resolution as f64 - 14.0)).exp()).ln();
            assert!((one.loss - expected).abs() < 1e-4, "{searcher}: {}, expected {expected}", one.loss);
            let again = compare(searcher, 1);
            assert_eq!((again.architecture, again.loss), (one.architecture, one.loss), "{searcher}");
            match searcher {
                SearcherName::UniformChannel => assert_eq!(resolution, 28),
                SearcherName::Nes | SearcherName::Random | SearcherName::Evolution | SearcherName::UniformJoint => {
                    assert_eq!(resolution, 14, "{searcher}: fewest pixels have the least loss");
                }
                _ => {}
            }
        }
    }
}
