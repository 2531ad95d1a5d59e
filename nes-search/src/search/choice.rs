//! Where a search starts, and what it ends with.

use elastic_layers::{Architecture, Backbone};
use rand::RngExt;

use super::surface::Surface;
use super::{Search, SearchError, least_finite};
use crate::baselines;
use crate::data::batches;
use crate::observer::{Observer, Progress};
use crate::projection::LEAST_SHARE;

/// Most uniform rescalings that the shared weights score to find where H starts: many times a surface's coefficients.
const RESCALINGS: usize = 96;

impl<M: Backbone + 'static> Search<'_, M> {
    /// The architecture with the least loss over the evaluation split, by successive halving
    /// ([Jamieson and Talwalkar, 2016](https://arxiv.org/abs/1502.07943)): all are scored on one batch, the better half
    /// on two more, half of those on four more; the last two on all. One alone is not scored. Nothing, if interrupted.
    fn best_of(
        &mut self,
        phase: &str,
        architectures: Vec<Architecture>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Architecture>, SearchError> {
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let mut left: Vec<(f64, Architecture)> = architectures.into_iter().map(|one| (0.0, one)).collect();
        let mut scored = 0;
        while scored < batches.len() && left.len() > 1 {
            let more = if left.len() > 2 { batches.len().min(2 * scored + 1) } else { batches.len() };
            let architectures: Vec<_> = left.iter().map(|(_, architecture)| architecture.clone()).collect();
            for (place, batch) in batches.iter().enumerate().take(more).skip(scored) {
                if observer.interrupted() {
                    return Ok(None);
                }
                let losses = self.score(&architectures, std::slice::from_ref(batch))?;
                left.iter_mut().zip(losses).for_each(|((sum, _), loss)| *sum += batch.len() as f64 * loss);
                let message = format!("{} left", left.len());
                observer.progress(Progress { phase, done: place + 1, total: batches.len(), message });
            }
            left.retain(|(sum, _)| sum.is_finite());
            left.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            left.truncate(left.len().div_ceil(2).max(2));
            scored = more;
        }
        left.into_iter().next().map(|(_, best)| Some(best)).ok_or(SearchError::Diverged)
    }

    /// The best uniform rescaling of channels and resolution, found once; nothing, if interrupted.
    fn find_uniform_joint(&mut self, observer: &mut dyn Observer) -> Result<Option<Architecture>, SearchError> {
        let space = self.task.blueprint.space();
        if let Some(file) = &self.state.position.uniform_joint {
            return Ok(Some(space.check(file)?));
        }
        let rescalings = baselines::uniform_joint(space, &self.projection)?;
        let best = self.best_of("uniform-joint", rescalings, observer)?;
        self.state.position.uniform_joint = best.as_ref().map(Architecture::to_file);
        Ok(best)
    }

    /// The uniform rescaling of channels, resolution and depth at which the surface through losses of some of them is
    /// least: of trials, or of the shared weights, if there are none. Nothing, if interrupted.
    pub(super) fn find_start(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Architecture>, SearchError> {
        // The shared weights are as good at one rescaling as at another, this once.
        if self.find_uniform_joint(observer)?.is_none() {
            return Ok(None);
        }
        let (space, cost) = (self.task.blueprint.space(), self.task.blueprint.cost());
        let rescalings = baselines::uniform_all(space, &self.projection)?;
        let trials = self.settings.trials.candidates;
        let drawn = if trials > 0 { trials } else { RESCALINGS }.min(rescalings.len());
        let all = rescalings.len();
        // Neighbours in the list are alike: from a random place on, at equal distances.
        let first = if drawn < all { self.state.position.views.random_range(0..all) } else { 0 };
        let some: Vec<_> = (0..drawn).map(|place| rescalings[(first + place * all / drawn) % all].clone()).collect();
        let losses = match trials {
            0 => self.scored_apart(&some, observer)?,
            _ => self.trial(&some, 1, "trials of rescalings", observer)?,
        };
        let Some(losses) = losses else { return Ok(None) };
        let losses: Vec<_> = some.into_iter().zip(losses).collect();
        let surface = Surface::fit(space, cost, &losses)?.ok_or(SearchError::Diverged)?;
        let losses = rescalings.iter().map(|rescaling| surface.at(space, cost, rescaling));
        let losses = losses.collect::<Result<Vec<_>, _>>()?;
        Ok(least_finite(&losses).map(|index| rescalings[index].clone()))
    }

    /// The shared weights' losses, each on the next batch of the evaluation split: of images of its own, a surface
    /// averages them out. Nothing, if interrupted.
    fn scored_apart(
        &mut self,
        rescalings: &[Architecture],
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<f64>>, SearchError> {
        let mut losses = Vec::with_capacity(rescalings.len());
        for rescaling in rescalings {
            if observer.interrupted() {
                return Ok(None);
            }
            let batch = self.state.position.evaluation_order.next_batch(self.settings.evaluation_batch).to_vec();
            losses.extend(self.score(std::slice::from_ref(rescaling), &[batch])?);
            let message = losses.last().map_or_else(String::new, |loss| format!("loss {loss:.3}"));
            let (done, total) = (losses.len(), rescalings.len());
            observer.progress(Progress { phase: "rescalings", done, total, message });
        }
        Ok(Some(losses))
    }

    /// The final architecture, which is that of H on the budget or that where H started, and the best uniform rescaling
    /// of channels and resolution; nothing, if interrupted.
    pub(super) fn conclude(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<(Architecture, Architecture)>, SearchError> {
        let blueprint = self.task.blueprint;
        let Some(uniform_joint) = self.find_uniform_joint(observer)? else { return Ok(None) };
        let mut finalists = vec![self.state.searcher.found(&self.projection)?];
        if let Some(start) = &self.state.position.start {
            let start = blueprint.space().check(start)?;
            let share = self.projection.share(&start)?;
            if share >= LEAST_SHARE && !finalists.contains(&start) {
                finalists.push(start);
            }
        }
        let found = match self.settings.trials.candidates {
            0 => self.best_of("last choice", finalists, observer)?,
            _ => self.best_by_trials(finalists, observer)?,
        };
        let Some(found) = found else { return Ok(None) };
        let (share, worst) = (self.projection.share(&found)?, self.task.limits.worst(&found)?);
        assert!(share >= LEAST_SHARE && worst <= 1.0, "a projected architecture takes {share} of the budget, {worst}");
        Ok(Some((found, uniform_joint)))
    }
}

#[cfg(test)]
mod tests {
    use elastic_layers::Architecture;

    use crate::baselines;
    use crate::search::Start;
    use crate::search::test_setting::Setting;

    #[test]
    fn the_best_of_many_costs_less_than_scoring_all_of_them_on_all_images() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|_| ());
        let rescalings = baselines::uniform_joint(setting.blueprint.space(), &search.projection).expect("rescalings");
        assert_eq!(rescalings.len(), 15);
        let mut best = |some: &[Architecture]| {
            let before = search.state.position.images;
            let best = search.best_of("best", some.to_vec(), &mut ()).expect("finite losses").expect("not interrupted");
            (best, search.state.position.images - before)
        };
        // 40 images in batches of 8: 15 rescalings on one, 8 on two more, 4 on the other two.
        assert_eq!(best(&rescalings), (rescalings[14].clone(), (15 + 8 * 2 + 4 * 2) * 8));
        assert_eq!(best(&rescalings[3..5]), (rescalings[4].clone(), 2 * 40));
        assert_eq!(best(&rescalings[7..8]), (rescalings[7].clone(), 0), "there is nothing to choose from");
    }

    #[test]
    fn without_trials_h_starts_where_the_shared_weights_put_the_surface_least() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|settings| settings.start = Start::Uniform);
        search.find_uniform_joint(&mut ()).expect("finite losses");
        let before = search.state.position.images;
        let mut order = search.state.position.evaluation_order.clone();
        let start = search.find_start(&mut ()).expect("finite losses").expect("not interrupted");
        assert_eq!(start.get("resolution"), Some(14));
        // Each of the 15 rescalings on one batch of 8, and each on the next one.
        assert_eq!(search.state.position.images - before, 15 * 8);
        (0..15).for_each(|_| drop(order.next_batch(8).to_vec()));
        assert_eq!(search.state.position.evaluation_order, order);
    }
}
