//! Where a search starts, and what it ends with.

use elastic_layers::{Architecture, Backbone};

use super::surface::Surface;
use super::{Search, SearchError, least_finite};
use crate::baselines;
use crate::data::batches;
use crate::observer::Observer;
use crate::projection::LEAST_SHARE;

impl<M: Backbone + 'static> Search<'_, M> {
    /// The architecture with the least loss over the evaluation split, by successive halving
    /// ([Jamieson and Talwalkar, 2016](https://arxiv.org/abs/1502.07943)): all are scored on one batch, the better half
    /// on two more, half of those on four more; the last two on all. One alone is not scored.
    fn best_of(&mut self, architectures: Vec<Architecture>) -> Result<Architecture, SearchError> {
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let mut left: Vec<(f64, Architecture)> = architectures.into_iter().map(|one| (0.0, one)).collect();
        let mut scored = 0;
        while scored < batches.len() && left.len() > 1 {
            let more = if left.len() > 2 { batches.len().min(2 * scored + 1) } else { batches.len() };
            let architectures: Vec<_> = left.iter().map(|(_, architecture)| architecture.clone()).collect();
            let losses = self.score(&architectures, &batches[scored..more])?;
            let images: usize = batches[scored..more].iter().map(Vec::len).sum();
            left.iter_mut().zip(losses).for_each(|((sum, _), loss)| *sum += images as f64 * loss);
            left.retain(|(sum, _)| sum.is_finite());
            left.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            left.truncate(left.len().div_ceil(2).max(2));
            scored = more;
        }
        left.into_iter().next().map(|(_, best)| best).ok_or(SearchError::Diverged)
    }

    /// The best uniform rescaling of channels and resolution, found once.
    pub(super) fn find_uniform_joint(&mut self) -> Result<Architecture, SearchError> {
        let space = self.task.blueprint.space();
        if let Some(file) = &self.state.position.uniform_joint {
            return Ok(space.check(file)?);
        }
        let best = self.best_of(baselines::uniform_joint(space, &self.projection)?)?;
        self.state.position.uniform_joint = Some(best.to_file());
        Ok(best)
    }

    /// The uniform rescaling of channels, resolution and depth at which the surface through losses of them is least: of
    /// trials, or of the shared weights, if there are none. Nothing, if interrupted.
    pub(super) fn find_start(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Architecture>, SearchError> {
        // The shared weights are as good at one rescaling as at another, this once.
        self.find_uniform_joint()?;
        let rescalings = baselines::uniform_all(self.task.blueprint.space(), &self.projection)?;
        let some = match self.settings.trials.candidates {
            0 => Some(self.scored_apart(&rescalings)?),
            _ => self.trials_of(&rescalings, observer)?,
        };
        let Some(some) = some else { return Ok(None) };
        let (space, cost) = (self.task.blueprint.space(), self.task.blueprint.cost());
        let surface = Surface::fit(space, cost, &some)?.ok_or(SearchError::Diverged)?;
        let losses = rescalings.iter().map(|rescaling| surface.at(space, cost, rescaling));
        let losses = losses.collect::<Result<Vec<_>, _>>()?;
        Ok(least_finite(&losses).map(|index| rescalings[index].clone()))
    }

    /// The shared weights' losses, each on the next batch of the evaluation split: of images of its own, a surface
    /// averages them out.
    fn scored_apart(&mut self, rescalings: &[Architecture]) -> Result<Vec<(Architecture, f64)>, SearchError> {
        let mut scored = Vec::with_capacity(rescalings.len());
        for rescaling in rescalings {
            let batch = self.state.position.evaluation_order.next_batch(self.settings.evaluation_batch).to_vec();
            let losses = self.score(std::slice::from_ref(rescaling), &[batch])?;
            scored.extend(losses.into_iter().map(|loss| (rescaling.clone(), loss)));
        }
        Ok(scored)
    }

    /// The final architecture, which is that of H on the budget or that where H started, and the best uniform rescaling
    /// of channels and resolution; nothing, if interrupted.
    pub(super) fn conclude(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<(Architecture, Architecture)>, SearchError> {
        let blueprint = self.task.blueprint;
        let uniform_joint = self.find_uniform_joint()?;
        let mut finalists = vec![self.state.searcher.found(&self.projection)?];
        if let Some(start) = &self.state.position.start {
            let start = blueprint.space().check(start)?;
            let share = self.projection.share(&start)?;
            if share >= LEAST_SHARE && !finalists.contains(&start) {
                finalists.push(start);
            }
        }
        let found = match self.settings.trials.candidates {
            0 => Some(self.best_of(finalists)?),
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
    use crate::baselines;
    use crate::search::Start;
    use crate::search::test_setting::Setting;

    #[test]
    fn the_best_of_many_costs_less_than_scoring_all_of_them_on_all_images() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|_| ());
        let rescalings = baselines::uniform_joint(setting.blueprint.space(), &search.projection).expect("rescalings");
        assert_eq!(rescalings.len(), 15);
        let best = search.best_of(rescalings.clone()).expect("finite losses");
        assert_eq!(best.get("resolution"), Some(14));
        // 40 images in batches of 8: 15 rescalings on one, 8 on two more, 4 on the other two.
        assert_eq!(search.state.position.images, (15 + 8 * 2 + 4 * 2) * 8);
        search.state.position.images = 0;
        assert_eq!(search.best_of(rescalings[3..5].to_vec()).expect("finite losses"), rescalings[4]);
        assert_eq!(search.state.position.images, 2 * 40);
        assert_eq!(search.best_of(vec![rescalings[7].clone()]).expect("one"), rescalings[7]);
        assert_eq!(search.state.position.images, 2 * 40, "there was nothing to choose from");
    }

    #[test]
    fn without_trials_h_starts_where_the_shared_weights_put_the_surface_least() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|settings| settings.start = Start::Uniform);
        search.find_uniform_joint().expect("a rescaling");
        let before = search.state.position.images;
        let start = search.find_start(&mut ()).expect("finite losses").expect("not interrupted");
        assert_eq!(start.get("resolution"), Some(14));
        // Each of the 15 rescalings on one batch of 8.
        assert_eq!(search.state.position.images - before, 15 * 8);
    }
}
