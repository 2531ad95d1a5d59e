//! Where a search starts, and what it ends with.

use elastic_layers::{Architecture, Backbone};

use super::{Search, SearchError, least_finite};
use crate::baselines;
use crate::data::batches;
use crate::observer::Observer;
use crate::projection::LEAST_SHARE;

impl<M: Backbone + 'static> Search<'_, M> {
    /// The architecture with the least loss over the whole evaluation split.
    fn best_of(&mut self, mut architectures: Vec<Architecture>) -> Result<Architecture, SearchError> {
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let losses = self.score(&architectures, &batches)?;
        let best = least_finite(&losses).ok_or(SearchError::Diverged)?;
        Ok(architectures.swap_remove(best))
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

    /// The best uniform rescaling of channels, resolution and depth; nothing, if interrupted.
    pub(super) fn find_start(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Architecture>, SearchError> {
        // The shared weights are as good at one rescaling as at another, this once.
        self.find_uniform_joint()?;
        let rescalings = baselines::uniform_all(self.task.blueprint.space(), &self.projection)?;
        match self.settings.trials.candidates {
            0 => Ok(Some(self.best_of(rescalings)?)),
            _ => self.start_by_trials(&rescalings, observer),
        }
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
