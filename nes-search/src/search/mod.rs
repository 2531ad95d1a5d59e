//! The search: phases that follow each other, step by step, with checkpoints.
//!
//! [`Search::advance`] does one step of the present phase, [`Search::run`] all of them. Short trainings from scratch decide
//! where H starts (`trials.rs`); NES walks under a budget that falls, while the shared weights are trained around H
//! (`walk.rs`); short trainings compare what was found with uniform rescalings (`trials.rs`).

mod accuracy;
mod compare;
mod cost;
mod error;
mod factors;
mod fidelity;
mod history;
mod phase;
mod scorer;
mod settings;
mod state;
#[cfg(test)]
mod test_setting;
mod trials;
mod walk;
mod weights;

use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use elastic_layers::{Architecture, Backbone};

use crate::checkpoint::CheckpointError;
use crate::data::{Batch, DataError, EpochSampler, Feed, ImageSet, Normalization, Plan};
use crate::observer::{Observer, Progress};
use crate::projection::Projection;
use crate::rng::{Stream, derived_seed, stream};
use crate::train::TrainSettings;
use crate::workers::Workers;
use crate::{Blueprint, Limits};

pub use accuracy::SharedAccuracy;
pub use compare::Compared;
pub use cost::{STEP, SearchCost};
pub use error::SearchError;
pub use fidelity::Scored;
use history::History;
pub use history::{HISTORY, Iteration, read_history};
use phase::Phase;
pub use phase::Trial;
use scorer::Scorer;
pub use settings::{Length, SearchSettings};
use state::{Identity, State, Streams};
use weights::Weights;

/// What is searched.
pub struct Task<'a, M> {
    /// The backbone.
    pub blueprint: &'a Blueprint<M>,
    /// Images that the shared weights are trained on.
    pub train: &'a ImageSet,
    /// Images that architectures are compared on.
    pub evaluation: &'a ImageSet,
    /// How pixels become numbers.
    pub normalization: &'a Normalization,
    /// The budget R_t, and bounds.
    pub limits: &'a Limits,
    /// How networks are trained from scratch. Short trainings have the same recipe, and the search's cost is measured in
    /// trainings of the backbone.
    pub recipe: &'a TrainSettings,
    /// Devices: the first trains, all of them score candidates. One that is named more often does several things at once.
    pub devices: &'a [Device],
}

impl<M> Clone for Task<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Task<'_, M> {}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The architecture, at the budget.
    pub architecture: Architecture,
    /// The best uniform rescaling of channels and resolution that the search knows.
    pub uniform_joint: Architecture,
    /// Where H started.
    pub start: Architecture,
    /// The short trainings from scratch, in their order.
    pub trials: Vec<Trial>,
    /// What the shared weights get right at what the searcher found; nothing, if there were none.
    pub accuracy: Option<SharedAccuracy>,
    /// What the search took.
    pub cost: SearchCost,
}

/// What a step of a search did.
#[derive(Clone, Debug)]
pub struct Event {
    /// The phase.
    pub phase: &'static str,
    /// In a few words.
    pub message: String,
    /// The record of the step, if it was a round of the searcher.
    pub iteration: Option<Iteration>,
}

impl Event {
    fn new(phase: &'static str, message: String) -> Self {
        Self { phase, message, iteration: None }
    }
}

/// Batch after batch of training images, without end.
type TrainingFeed = Box<dyn Iterator<Item = Result<Batch, DataError>> + Send>;

/// A search, which can be interrupted and gone on with.
pub struct Search<'a, M> {
    task: Task<'a, M>,
    settings: SearchSettings,
    projection: Projection<'a>,
    identity: Identity,
    workers: Workers,
    weights: Weights<M>,
    state: State,
    /// Made when it is first needed.
    feed: Option<TrainingFeed>,
    /// Since when time is not yet in the state's seconds.
    clock: Instant,
}

impl<'a, M: Backbone + 'static> Search<'a, M> {
    /// A search that has not begun. The seed decides all of it.
    ///
    /// # Errors
    /// If the budget is out of the space's reach, the backbone cannot be built, or a split is smaller than a batch.
    ///
    /// # Panics
    /// If a setting is out of its range ([`SearchSettings::check`]), or there is no device.
    pub fn new(task: Task<'a, M>, settings: &SearchSettings, seed: u64) -> Result<Self, SearchError> {
        settings.check().unwrap_or_else(|error| panic!("{error}"));
        let Task { blueprint, train, evaluation, limits, .. } = task;
        for (split, field, set, expected) in [
            ("training", "search.sgd.batch_size", train, settings.sgd.batch_size),
            ("evaluation", "search.evaluation_batch", evaluation, settings.evaluation_batch),
        ] {
            if set.len() < expected {
                return Err(SearchError::Images { split, field, expected, found: set.len() });
            }
        }
        let workers = Workers::new(task.devices);
        let supernet = blueprint.supernet(seed, &workers.first().clone().autodiff())?;
        let state = State {
            phase: Phase::Over,
            steps: 0,
            streams: Streams {
                training_order: EpochSampler::new(train.len(), derived_seed(seed, Stream::TrainingOrder)),
                evaluation_order: EpochSampler::new(evaluation.len(), derived_seed(seed, Stream::EvaluationOrder)),
                augmentation: stream(seed, Stream::Augmentation),
                views: stream(seed, Stream::Views),
            },
            start: blueprint.space().base(),
            uniform_joint: None,
            found: None,
            accuracy: None,
            trials: Vec::new(),
            training_loss: f64::from(u16::try_from(train.class_count()).unwrap_or(u16::MAX)).ln(),
            cost: SearchCost::default(),
            history: Default::default(),
        };
        let mut search = Self {
            task,
            settings: settings.clone(),
            projection: Projection::of_kinds(blueprint.space(), limits, &settings.dimensions)?,
            identity: Identity::new(&task, settings, seed),
            workers,
            weights: Weights::new(supernet, settings.sgd.optimizer()),
            state,
            feed: None,
            clock: Instant::now(),
        };
        search.state.phase = search.first_phase()?;
        Ok(search)
    }

    /// The search where the newest good checkpoint of a run directory was written. The observer is warned of one that is
    /// not.
    ///
    /// # Errors
    /// If there is no checkpoint, or all are damaged or of another search.
    pub fn resume(mut self, directory: &Path, observer: &mut dyn Observer) -> Result<Self, SearchError> {
        let read = state::read(&self.weights, &self.identity, directory, observer)?;
        let (state, weights) = read.ok_or_else(|| SearchError::NoCheckpoint(directory.into()))?;
        (self.state, self.weights, self.feed) = (state, weights, None);
        Ok(self)
    }

    /// The share of the budget that the found architecture takes at least: less than
    /// [`LEAST_SHARE`](crate::LEAST_SHARE), where the space is too coarse for that.
    pub fn least_share(&self) -> f64 {
        self.projection.least()
    }

    /// H, in steps above each dimension's smallest value; where the search has no searcher, where H starts.
    pub fn params(&self) -> Vec<f64> {
        match &self.state.phase {
            Phase::Walk(walk) => crate::searchers::Searcher::params(&walk.searcher),
            _ => self.state.found.as_ref().unwrap_or(&self.state.start).params(),
        }
    }

    /// Whether there is nothing left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state.phase, Phase::Over)
    }

    /// Does one step of the present phase: one weight step, one round of the searcher, or one short training on each
    /// device. Returns `None` if it was interrupted, with the search as it was before the step.
    ///
    /// # Errors
    /// If an image file cannot be read, the shared weights diverge, or no architecture can be compared with another.
    pub fn advance(&mut self, observer: &mut (dyn Observer + Send)) -> Result<Option<Event>, SearchError> {
        let mut phase = std::mem::take(&mut self.state.phase);
        let step = match &mut phase {
            Phase::Trials(sweep) => self.trial_step(sweep, observer),
            Phase::Weights(allowance) => self.random_weight_step(*allowance),
            Phase::Walk(walk) => self.walk_step(walk),
            Phase::Choice(choice) => self.choice_step(choice, observer),
            Phase::Over => Ok(Some(Event::new("over", String::new()))),
        };
        // Also after an error: the search is as it was before the step.
        self.state.phase = phase;
        let Some(event) = step? else { return Ok(None) };
        self.state.steps += 1;
        if self.phase_is_over() {
            self.state.phase = self.next_phase(observer)?;
        }
        Ok(Some(event))
    }

    /// Goes on to the end. Returns `None` if interrupted. With a run directory, the history and the checkpoints go there,
    /// and an interrupted search can be [resumed](Self::resume).
    ///
    /// # Errors
    /// As [`advance`](Self::advance), or if a file cannot be written.
    pub fn run(
        &mut self,
        directory: Option<&Path>,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Found>, SearchError> {
        self.clock = Instant::now();
        let history = directory.map(|directory| History::open(directory, self.state.history));
        let mut history = history.transpose()?;
        let every = Duration::from_secs_f64(self.settings.checkpoint_seconds);
        let mut saved = Instant::now();
        while !self.is_over() {
            let due = saved.elapsed() >= every;
            if due {
                self.save(directory, history.as_ref())?;
                saved = Instant::now();
            }
            let event = if observer.interrupted() { None } else { self.advance(observer)? };
            let Some(Event { phase, message, iteration }) = event else {
                self.save(directory, history.as_ref())?;
                return Ok(None);
            };
            if let (Some(history), Some(iteration)) = (&mut history, &iteration) {
                history.append(iteration, &mut self.state.history)?;
            }
            let (done, total) = self.work();
            observer.progress(Progress { phase, done, total, message });
        }
        self.save(directory, history.as_ref())?;
        Ok(Some(self.found()))
    }

    /// What a search that is over found.
    fn found(&self) -> Found {
        let State { start, uniform_joint, found, accuracy, trials, cost, .. } = &self.state;
        Found {
            architecture: found.clone().expect("the search is over"),
            uniform_joint: uniform_joint.clone().expect("the search is over"),
            start: start.clone(),
            trials: trials.clone(),
            accuracy: *accuracy,
            cost: *cost,
        }
    }

    /// Writes a checkpoint, if there is a directory for it. The records that it speaks of are on the disk before it.
    fn save(&mut self, directory: Option<&Path>, history: Option<&History>) -> Result<(), CheckpointError> {
        self.state.cost.seconds += self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        let (Some(directory), Some(history)) = (directory, history) else { return Ok(()) };
        history.sync()?;
        state::write(&self.state, &self.weights, &self.identity, directory)
    }

    fn supernet(&self) -> &M {
        self.weights.supernet()
    }

    /// MACs of an architecture.
    fn macs(&self, architecture: &Architecture) -> Result<elastic_layers::Macs, SearchError> {
        Ok(self.task.blueprint.cost().cost(architecture)?.macs)
    }

    /// The next batches of training images, and where their order is after them.
    fn next_batches(&mut self, count: usize) -> Result<Vec<Batch>, SearchError> {
        let sgd = &self.settings.sgd;
        if self.feed.is_none() {
            // Copies: the feed runs ahead of the steps, and a checkpoint has to hold what the steps have come to.
            let Streams { training_order, augmentation, .. } = &self.state.streams;
            let (mut order, mut augmentation) = (training_order.clone(), augmentation.clone());
            let sgd = sgd.clone();
            let plan = move || Plan::next(&mut order, sgd.batch_size, &sgd.augment, &mut augmentation);
            let device = self.workers.first().clone().autodiff();
            let feed = Feed::new(self.task.train, std::iter::repeat_with(plan), self.task.normalization, &device);
            self.feed = Some(Box::new(feed));
        }
        let feed = self.feed.as_mut().expect("just made");
        let batches = feed.take(count).collect::<Result<Vec<_>, _>>();
        // A feed ends with an image that cannot be read.
        let batches = batches.inspect_err(|_| self.feed = None)?;
        let Streams { training_order, augmentation, .. } = &mut self.state.streams;
        for _ in 0..count {
            Plan::next(training_order, sgd.batch_size, &sgd.augment, augmentation);
        }
        Ok(batches)
    }

    /// The shared weights' losses at architectures, over batches of the evaluation split.
    fn score(&mut self, architectures: &[Architecture], batches: &[Vec<usize>]) -> Result<Vec<f64>, SearchError> {
        let Task { evaluation: set, normalization, .. } = self.task;
        let scorer = Scorer { workers: &self.workers, set, normalization };
        let (losses, scored) = scorer.losses(self.weights.supernet(), architectures, batches)?;
        let images = batches.iter().map(|batch| batch.len() as u64).sum();
        for place in scored {
            let macs = self.macs(&architectures[place])?;
            self.state.cost.scored(macs, images);
        }
        Ok(losses)
    }
}

/// What came of something that may not be finite.
fn finite(loss: f64) -> Option<f64> {
    loss.is_finite().then_some(loss)
}

/// The mean of the finite ones among losses, if there are any.
fn finite_mean(losses: &[f64]) -> Option<f64> {
    let finite: Vec<f64> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
    (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
}

/// Where the least finite loss is; the first of equal ones.
fn least_finite(losses: &[f64]) -> Option<usize> {
    let finite = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
    finite.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
}
