//! The walk of a searcher under a budget that falls, and the training of the shared weights.

use elastic_layers::{Architecture, Backbone, DimKind, ElasticDim, SearchSpace};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::phase::{Allowance, Phase, Walk};
use super::{Event, Iteration, Length, STEP, Search, SearchError, finite_mean};
use crate::nes::normal;
use crate::projection::Projection;
use crate::rng::{Stream, stream};
use crate::searchers::{Searcher, Turn};

/// Spread of the factors on channel numbers of random views, as a logarithm.
const SPREAD: f64 = 0.25;

impl<M: Backbone + 'static> Search<'_, M> {
    /// The first phase of the walk: for a searcher that does not train the shared weights, these are trained before it.
    pub(super) fn begin_walk(&mut self) -> Result<Phase, SearchError> {
        if self.settings.searcher.is_joint() {
            return self.begin_searcher();
        }
        let Allowance::Macs { from, most } = self.allowance()? else { return self.begin_searcher() };
        let most = (most as f64 * self.settings.weights_share()) as u64;
        Ok(Phase::Weights(Allowance::Macs { from, most }))
    }

    /// What is left to spend. For a searcher that is not joint, outer iterations are MACs at the budget.
    fn allowance(&self) -> Result<Allowance, SearchError> {
        let from = self.state.cost.macs;
        let settings = &self.settings;
        let most = match (self.allowed_macs()?, settings.length) {
            (None, Length::Iterations(iterations)) if settings.searcher.is_joint() => {
                return Ok(Allowance::Iterations(iterations));
            }
            (None, Length::Iterations(iterations)) => {
                let steps = STEP as usize * settings.weight_steps * settings.views * settings.sgd.batch_size;
                let evaluation = settings.nes_iterations * self.searcher_evaluations() * settings.evaluation_batch;
                (iterations * (steps + evaluation)) as u64 * self.budget_macs()?
            }
            (allowed, _) => allowed.unwrap_or(0).saturating_sub(self.reserved_macs()?),
        };
        Ok(Allowance::Macs { from, most: most.saturating_sub(from).max(1) })
    }

    /// Candidates of one NES iteration.
    fn searcher_evaluations(&self) -> usize {
        self.settings.nes.samples
    }

    /// MACs of an architecture at the budget.
    fn budget_macs(&self) -> Result<u64, SearchError> {
        Ok(self.macs(&self.projection.nearest(&self.state.start.params())?)?.0)
    }

    /// The walk of the searcher, not begun.
    pub(super) fn begin_searcher(&mut self) -> Result<Phase, SearchError> {
        let (settings, start) = (&self.settings, &self.state.start);
        let allowance = self.allowance()?;
        let projects = settings.nes.form.parts().projection;
        // The budget falls while weights are trained. Other searchers begin when it is at the target.
        let joint = settings.searcher.is_joint();
        let first = if joint && settings.fall > 0.0 { self.first_budget()? } else { 1.0 };
        let params = match projects || !joint {
            true => self.projection.scaled_by(first).project(&start.params())?,
            false => start.params(),
        };
        let evaluations = self.affordable(allowance)?;
        let rng = stream(self.identity.seed, Stream::Perturbations);
        let searcher = settings.searcher.init(&settings.nes, &self.projection, &params, evaluations, rng)?;
        Ok(Phase::Walk(Box::new(Walk { searcher, allowance, first, outer: 0, steps: 0, rounds: 0 })))
    }

    /// The budget that a walk begins with, over the final one: what the backbone takes at the start's resolution and depth.
    fn first_budget(&self) -> Result<f64, SearchError> {
        let start = &self.state.start;
        let of = |dim: &ElasticDim| {
            if dim.kind == DimKind::Channels { dim.base } else { start.get(&dim.name).unwrap_or(dim.base) }
        };
        let full = self.task.blueprint.space().with_values(of);
        Ok(self.projection.share(&full)?.max(1.0))
    }

    /// Architectures at the budget that can be scored with what is left of an allowance.
    fn affordable(&self, allowance: Allowance) -> Result<usize, SearchError> {
        let Allowance::Macs { from, most } = allowance else { return Ok(usize::MAX) };
        let left = most.saturating_sub(self.state.cost.macs - from);
        Ok((left / (self.budget_macs()? * self.settings.evaluation_batch as u64)) as usize)
    }

    /// Share of an allowance of MACs that is spent.
    pub(super) fn spent(&self, allowance: Allowance) -> f64 {
        match allowance {
            Allowance::Macs { from, most } => ((self.state.cost.macs - from) as f64 / most as f64).min(1.0),
            Allowance::Iterations(_) => 0.0,
        }
    }

    pub(super) fn walk_is_over(&self, walk: &Walk) -> bool {
        match walk.allowance {
            Allowance::Iterations(iterations) => walk.outer == iterations,
            Allowance::Macs { .. } => self.spent(walk.allowance) >= 1.0,
        }
    }

    /// Shares of the walk that are over: of its rounds, and of its weight steps.
    fn walked(&self, walk: &Walk) -> [f64; 2] {
        let share = |place: usize, of: usize, iterations: usize| {
            (walk.outer * of + place) as f64 / (iterations * of).max(1) as f64
        };
        match walk.allowance {
            Allowance::Iterations(iterations) => [
                share(walk.rounds, self.settings.nes_iterations, iterations),
                share(walk.steps, self.settings.weight_steps, iterations),
            ],
            Allowance::Macs { .. } => {
                let done = self.spent(walk.allowance);
                // The weights are finished when the last choice begins.
                [done, (done / (1.0 - self.settings.nes.form.parts().choice)).min(1.0)]
            }
        }
    }

    /// The budget of the moment over the final one.
    fn budget_at(&self, first: f64, done: f64) -> f64 {
        let left = 1.0 - done / self.settings.fall.max(1e-9);
        if left > 0.0 { first.powf(left).max(1.0) } else { 1.0 }
    }

    /// One step of a walk: a weight step, or a round of the searcher.
    pub(super) fn walk_step(&mut self, walk: &mut Walk) -> Result<Option<Event>, SearchError> {
        let [done, trained] = self.walked(walk);
        let budget = self.budget_at(walk.first, done);
        let projection = self.projection.scaled_by(budget);
        if self.settings.searcher.is_joint() && walk.steps < self.settings.weight_steps && trained < 1.0 {
            walk.steps += 1;
            let projects = self.settings.nes.form.parts().projection;
            let draw = |rng: &mut ChaCha8Rng| {
                let point = walk.searcher.around(rng).unwrap_or_else(|| walk.searcher.params());
                let point = if projects { projection.project(&point)? } else { point };
                Ok(projection.space().at_params(&point))
            };
            return self.weight_step("search", draw, trained).map(Some);
        }
        let iteration = self.round(walk, &projection, done, budget)?;
        walk.rounds += 1;
        if walk.rounds == self.settings.nes_iterations {
            (walk.outer, walk.steps, walk.rounds) = (walk.outer + 1, 0, 0);
        }
        let Some(iteration) = iteration else {
            // Nothing is left to ask.
            walk.allowance = Allowance::Macs { from: 0, most: 1 };
            return Ok(Some(Event::new("search", "nothing left to ask".into())));
        };
        let loss = iteration.loss.map_or("not finite".into(), |loss| format!("{loss:.3}"));
        let message = format!("loss {loss}, {:.2} of the budget", iteration.ratio);
        Ok(Some(Event { iteration: Some(iteration), ..Event::new("search", message) }))
    }

    /// One round of the searcher, on one batch of the evaluation split; nothing when it is at its end.
    fn round(
        &mut self,
        walk: &mut Walk,
        projection: &Projection<'_>,
        done: f64,
        budget: f64,
    ) -> Result<Option<Iteration>, SearchError> {
        let h = walk.searcher.params();
        let most = self.affordable(walk.allowance)?;
        let asked = walk.searcher.ask(Turn { projection, done, most })?;
        if asked.is_empty() {
            return Ok(None);
        }
        let batch = self.state.streams.evaluation_order.next_batch(self.settings.evaluation_batch).to_vec();
        let losses = self.score(&asked, &[batch])?;
        walk.searcher.tell(projection, &losses)?;
        let architecture = self.task.blueprint.space().at_params(&h);
        Ok(Some(Iteration {
            iteration: self.state.history.records + 1,
            done,
            budget,
            macs: self.macs(&architecture)?,
            ratio: self.projection.share(&architecture)?,
            architecture,
            h,
            loss: finite_mean(&losses),
            losses: losses.into_iter().map(super::finite).collect(),
            step: walk.searcher.step(),
            processed: self.state.cost.macs,
        }))
    }

    /// A weight step on random views under the falling budget.
    pub(super) fn random_weight_step(&mut self, allowance: Allowance) -> Result<Option<Event>, SearchError> {
        let done = self.spent(allowance);
        let first = if self.settings.fall > 0.0 { self.first_budget()? } else { 1.0 };
        let projection = self.projection.scaled_by(self.budget_at(first, done));
        let space = self.task.blueprint.space();
        let draw = |rng: &mut ChaCha8Rng| Ok(space.at_params(&projection.project(&random_params(space, rng))?));
        self.weight_step("shared weights", draw, done).map(Some)
    }

    /// One step on the weights of views, after a share of all steps.
    fn weight_step(
        &mut self,
        phase: &'static str,
        mut draw: impl FnMut(&mut ChaCha8Rng) -> Result<Architecture, SearchError>,
        done: f64,
    ) -> Result<Event, SearchError> {
        let count = self.settings.views;
        let views: Vec<Architecture> =
            (0..count).map(|_| draw(&mut self.state.streams.views)).collect::<Result<_, _>>()?;
        let batches = self.next_batches(count)?;
        let macs: Vec<_> = views.iter().map(|view| self.macs(view)).collect::<Result<_, _>>()?;
        let views: Vec<_> = views.into_iter().zip(batches).collect();
        let sgd = &self.settings.sgd;
        let loss = self.weights.step(&views, sgd, sgd.learning_rate_at(done), &self.workers);
        if !loss.is_finite() {
            return Err(SearchError::Diverged);
        }
        macs.into_iter().for_each(|macs| self.state.cost.trained(macs, sgd.batch_size as u64));
        self.state.training_loss += 0.05 * (loss - self.state.training_loss);
        Ok(Event::new(phase, format!("training loss {:.3}", self.state.training_loss)))
    }

    /// Work done and work in all, in parts of ten thousand.
    pub(super) fn work(&self) -> (usize, usize) {
        const ALL: usize = 10_000;
        let done = match (&self.state.phase, self.allowed_macs().ok().flatten()) {
            (Phase::Over, _) => 1.0,
            (Phase::Walk(walk), None) => self.walked(walk)[1].min(0.9999),
            (_, Some(allowed)) => (self.state.cost.macs as f64 / allowed as f64).min(0.9999),
            (_, None) => 0.9999,
        };
        ((done * ALL as f64) as usize, ALL)
    }
}

/// H of any resolution and depth up to the backbone's, with uneven channels.
pub(super) fn random_params(space: &SearchSpace, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut level = |dim: &ElasticDim| match dim.kind {
        DimKind::Channels => {
            let value = dim.base as f64 * (SPREAD * normal(rng)).exp();
            (value - dim.min as f64) / dim.step as f64
        }
        DimKind::Resolution | DimKind::Depth => rng.random_range(0..=dim.level_of(dim.base)) as f64 + 0.5,
    };
    space.dims().iter().map(|dim| level(dim)).collect()
}
