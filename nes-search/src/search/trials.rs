//! Short trainings from scratch: before the walk they decide where H starts, after it they compare what was found with
//! uniform rescalings.

use std::sync::{Mutex, PoisonError};

use elastic_layers::{Architecture, Backbone, DimKind};

use super::factors::{Factors, Surface};
use super::phase::{Choice, Phase, Sweep, Trial, Walk};
use super::{Event, Length, STEP, Search, SearchError, finite, least_finite};
use crate::baselines;
use crate::data::batches;
use crate::evaluate;
use crate::observer::Observer;
use crate::projection::Projection;
use crate::rng::{Stream, derived_seed, stream};
use crate::searchers::{Searcher, SearcherName};
use crate::train::{TrainSettings, Trained};
use crate::trainings::{Trainer, Training};

/// Fewest trainings that a surface is fitted to, and most that are worth their cost.
const TRIALS: [usize; 2] = [6, 24];
/// Architectures that are compared in the end.
const FINALISTS: u64 = 4;

impl<M: Backbone + 'static> Search<'_, M> {
    /// The recipe of the short trainings.
    fn short_recipe(&self) -> TrainSettings {
        let recipe = self.task.recipe;
        TrainSettings { epochs: recipe.epochs * self.settings.trial_length, ..recipe.clone() }
    }

    /// MACs of a short training of an architecture at the budget, with its evaluation.
    fn trial_macs(&self) -> Result<u64, SearchError> {
        let macs = self.macs(&baselines::uniform_channel(&self.projection)?)?;
        let images = STEP * self.short_recipe().images(self.task.train.len()) + self.task.evaluation.len() as u64;
        Ok(macs.0 * images)
    }

    /// All MACs that the search may process, if these are what limits it.
    pub(super) fn allowed_macs(&self) -> Result<Option<u64>, SearchError> {
        Ok(match self.settings.length {
            Length::Cost(cost) => Some((cost * self.task.training_macs()? as f64) as u64),
            Length::Iterations(_) => None,
        })
    }

    /// MACs that are kept for the comparison in the end.
    pub(super) fn reserved_macs(&self) -> Result<u64, SearchError> {
        let macs = self.macs(&baselines::uniform_channel(&self.projection)?)?.0;
        // The walk's last step may go over its end; the shared weights' accuracy is looked at after it.
        let step = STEP * (self.settings.views * self.settings.sgd.batch_size) as u64;
        let end = macs * (step + self.task.evaluation.len() as u64);
        if self.settings.trials > 0.0 {
            return Ok(end + FINALISTS * self.trial_macs()?);
        }
        let uniform = baselines::uniform_joint(&self.projection)?.len() as u64;
        Ok(end + uniform * macs * self.task.evaluation.len() as u64)
    }

    /// The phase that a search begins with: short trainings, if their share of its cost pays for enough of them.
    pub(super) fn first_phase(&mut self) -> Result<Phase, SearchError> {
        let searcher = self.settings.searcher;
        if searcher.is_given() {
            let found =
                searcher.init(&self.settings.nes, &self.projection, &[], 0, stream(0, Stream::Perturbations))?;
            let found = found.found(&self.projection)?;
            (self.state.uniform_joint, self.state.found) = (Some(found.clone()), Some(found));
            return Ok(Phase::Over);
        }
        let uniform = searcher == SearcherName::UniformJoint;
        // A pair is all that uniform scaling has to choose: its search has nothing else to pay for.
        let share = if uniform && self.settings.trials > 0.0 { 1.0 } else { self.settings.trials };
        let allowed = self.allowed_macs()?.map_or(0.0, |macs| share * macs as f64);
        let count = ((allowed / self.trial_macs()? as f64) as usize).min(TRIALS[1]);
        if count >= TRIALS[0] {
            let mut rng = stream(self.identity.seed, Stream::Trials);
            let candidates = Factors::spread(&self.pairs(uniform)?, count, !uniform, &mut rng)?;
            if candidates.len() >= TRIALS[0] {
                return Ok(Phase::Trials(Sweep { candidates, losses: Vec::new() }));
            }
        }
        self.begin_walk()
    }

    /// The projection of the sweep: of uniform scaling, resolution and channels alone move.
    fn pairs(&self, uniform: bool) -> Result<Projection<'_>, SearchError> {
        let kinds = [DimKind::Channels, DimKind::Resolution];
        Ok(match uniform {
            true => Projection::of_kinds(self.task.blueprint.space(), self.task.limits, &kinds)?,
            false => self.projection.clone(),
        })
    }

    /// Whether the present phase has nothing left to do.
    pub(super) fn phase_is_over(&self) -> bool {
        match &self.state.phase {
            Phase::Trials(Sweep { candidates, losses }) => candidates.len() == losses.len(),
            Phase::Weights(allowance) => self.spent(*allowance) >= 1.0,
            Phase::Walk(walk) => self.walk_is_over(walk),
            Phase::Choice(choice) => choice.finalists.len() == choice.losses.len(),
            Phase::Over => false,
        }
    }

    /// What follows a phase that is over.
    pub(super) fn next_phase(&mut self, observer: &mut (dyn Observer + Send)) -> Result<Phase, SearchError> {
        match std::mem::take(&mut self.state.phase) {
            Phase::Trials(sweep) => {
                self.choose_start(&sweep)?;
                if self.settings.searcher == SearcherName::UniformJoint {
                    self.state.found.clone_from(&self.state.uniform_joint);
                    return Ok(Phase::Over);
                }
                self.begin_walk()
            }
            Phase::Weights(_) => self.begin_searcher(),
            Phase::Walk(walk) => self.begin_choice(&walk, observer),
            Phase::Choice(choice) => self.conclude(&choice),
            Phase::Over => Ok(Phase::Over),
        }
    }

    /// H starts where the surface through the losses is least.
    fn choose_start(&mut self, Sweep { candidates, losses }: &Sweep) -> Result<(), SearchError> {
        let factors = candidates.iter().map(|(factors, _)| factors.clone());
        let losses: Vec<_> = factors.zip(losses.iter().map(|loss| loss.unwrap_or(f64::NAN))).collect();
        let projection = self.pairs(self.settings.searcher == SearcherName::UniformJoint)?;
        let surface = Surface::fit(&projection, &losses).ok_or(SearchError::Diverged)?;
        let uniform = || baselines::uniform_channel(&projection);
        let start = surface.least(&projection)?.map_or_else(uniform, Ok)?;
        let joint = surface.least_uniform(&projection)?.map_or_else(uniform, Ok)?;
        (self.state.start, self.state.uniform_joint) = (start, Some(joint));
        Ok(())
    }

    /// Trains the next candidates, one on each device.
    pub(super) fn trial_step(
        &mut self,
        sweep: &mut Sweep,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Event>, SearchError> {
        let next = sweep.candidates.iter().skip(sweep.losses.len()).take(self.workers.count());
        let next: Vec<Architecture> = next.map(|(_, architecture)| architecture.clone()).collect();
        let Some(losses) = self.trial("trials", &next, observer)? else { return Ok(None) };
        sweep.losses.extend(&losses);
        let message = format!("{} of {} trained", sweep.losses.len(), sweep.candidates.len());
        Ok(Some(Event::new("trials", message)))
    }

    /// Losses on the evaluation split after short trainings from scratch under one seed, which differs from phase to phase:
    /// what was best by chance before has to be so again. Returns `None` if interrupted.
    fn trial(
        &mut self,
        phase: &str,
        architectures: &[Architecture],
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Vec<Option<f64>>>, SearchError> {
        let (task, recipe) = (self.task, self.short_recipe());
        let seed = derived_seed(self.identity.seed, Stream::Trials).wrapping_add(u64::from(phase == "choice"));
        let training = |(architecture, number): (&Architecture, usize)| Training {
            name: format!("candidate {number}"),
            architecture: architecture.clone(),
            seed,
        };
        let trainings: Vec<Training> = architectures.iter().zip(1..).map(training).collect();
        let trainer = Trainer {
            blueprint: task.blueprint,
            set: task.train,
            normalization: task.normalization,
            settings: &recipe,
            devices: task.devices,
        };
        let losses = Mutex::new(vec![None; trainings.len()]);
        let done = |index: usize, trained: Trained<M>| {
            let batch = self.settings.evaluation_batch;
            // Where it was trained, which need not be the first device.
            let device = trained.model.devices().first().cloned().unwrap_or_default();
            let result = evaluate(&trained.model, task.evaluation, task.normalization, batch, &device)?;
            // The loss of the training's last pass is of more images, and as good a sign.
            losses.lock().unwrap_or_else(PoisonError::into_inner)[index] = finite(0.5 * (result.loss + trained.loss));
            Ok::<_, SearchError>(())
        };
        if trainer.train_all(phase, &trainings, observer, done)?.is_none() {
            return Ok(None);
        }
        let losses = losses.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (architecture, &loss) in architectures.iter().zip(&losses) {
            let macs = self.macs(architecture)?;
            self.state.cost.trained(macs, recipe.images(task.train.len()));
            self.state.cost.scored(macs, task.evaluation.len() as u64);
            self.state.trials.push(Trial { architecture: architecture.clone(), loss });
        }
        Ok(Some(losses))
    }

    /// What the searcher found, and what it is compared with.
    fn begin_choice(&mut self, walk: &Walk, observer: &mut (dyn Observer + Send)) -> Result<Phase, SearchError> {
        let found = walk.searcher.found(&self.projection)?;
        self.state.accuracy = Some(self.shared_accuracy(&found, observer)?);
        if self.state.uniform_joint.is_none() {
            let rescalings = baselines::uniform_joint(&self.projection)?;
            let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
            let losses = if rescalings.len() > 1 { self.score(&rescalings, &batches)? } else { vec![0.0] };
            let best = least_finite(&losses).ok_or(SearchError::Diverged)?;
            self.state.uniform_joint = Some(rescalings[best].clone());
        }
        let mut finalists = Vec::new();
        if self.settings.trials > 0.0 {
            let losses: Vec<f64> = self.state.trials.iter().map(|trial| trial.loss.unwrap_or(f64::NAN)).collect();
            let best = least_finite(&losses).map(|index| &self.state.trials[index].architecture);
            // Of equal losses the first wins.
            for one in self.state.uniform_joint.iter().chain([&self.state.start]).chain(best).chain([&found]) {
                if within(&self.projection, one)? && !finalists.contains(one) {
                    finalists.push(one.clone());
                }
            }
        }
        let choice = Choice { found, finalists, losses: Vec::new() };
        match choice.finalists.len() {
            0 | 1 => self.conclude(&choice),
            _ => Ok(Phase::Choice(choice)),
        }
    }

    /// Trains the next finalists, one on each device.
    pub(super) fn choice_step(
        &mut self,
        choice: &mut Choice,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Event>, SearchError> {
        let next = choice.finalists.iter().skip(choice.losses.len()).take(self.workers.count());
        let next: Vec<Architecture> = next.cloned().collect();
        let Some(losses) = self.trial("choice", &next, observer)? else { return Ok(None) };
        choice.losses.extend(&losses);
        let message = format!("{} of {} trained", choice.losses.len(), choice.finalists.len());
        Ok(Some(Event::new("choice", message)))
    }

    /// The finalist with the least loss is found.
    fn conclude(&mut self, choice: &Choice) -> Result<Phase, SearchError> {
        let losses: Vec<f64> = choice.losses.iter().map(|loss| loss.unwrap_or(f64::NAN)).collect();
        let found = match least_finite(&losses) {
            Some(best) => choice.finalists[best].clone(),
            None => choice.found.clone(),
        };
        self.state.found = Some(found);
        Ok(Phase::Over)
    }
}

/// Whether an architecture takes what a search may end with.
fn within(projection: &Projection<'_>, architecture: &Architecture) -> Result<bool, SearchError> {
    Ok(projection.share(architecture)? >= projection.least() && projection.limits().worst(architecture)? <= 1.0)
}
