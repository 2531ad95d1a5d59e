//! The search: Algorithm 1 of the paper, step by step, with checkpoints. The searcher decides what is scored.

mod chance;
mod checkpoint;
mod choice;
mod compare;
#[cfg(test)]
mod damage_tests;
mod error;
mod fidelity;
mod history;
mod scoring;
mod sealed;
mod settings;
mod surface;
#[cfg(test)]
mod test_setting;
mod trial_log;
mod trials;
mod weights;

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use elastic_layers::{Architecture, Backbone, DimKind, ElasticDim, SearchSpace};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::data::{Batch, DataError, EpochSampler, Feed, ImageSet, Normalization, Plan};
use crate::estimator::normal;
use crate::observer::{Observer, Progress};
use crate::projection::{Projection, ProjectionError};
use crate::rng::{Stream, derived_seed, stream};
use crate::searchers::Searcher;
use crate::{Blueprint, Limits};

pub use chance::SharedAccuracy;
pub use checkpoint::CheckpointError;
use checkpoint::{Identity, Position, State};
pub use compare::Compared;
pub use error::SearchError;
pub use fidelity::Scored;
use history::History;
pub use history::{HISTORY, Iteration, read_history};
use scoring::Scorer;
use settings::Step;
pub use settings::{SearchSettings, Start};
use trial_log::TrialLog;
pub use trials::{Trial, Trials};
pub use weights::Views;

/// Spread of the factors on channel numbers in the warm-up, as a logarithm.
const WARMUP_SPREAD: f64 = 0.25;

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
    /// Devices: the first trains, all of them score candidates.
    pub devices: &'a [Device],
}

impl<M> Clone for Task<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Task<'_, M> {}

/// What a search took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchCost {
    /// Images processed, trained on and evaluated.
    pub images: u64,
    /// Seconds.
    pub seconds: f64,
    /// Views scored.
    pub evaluations: u64,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The architecture, between 0.98 and 1.00 of the budget.
    pub architecture: Architecture,
    /// The best uniform rescaling of channels and resolution, by the shared weights' evaluation loss.
    pub uniform_joint: Architecture,
    /// What decided where H started and what was found, in the order of the trials.
    pub trials: Vec<Trial>,
    /// What the shared weights got right where H was before its first move.
    pub accuracy_at_start: Option<SharedAccuracy>,
    /// What they get right at the found architecture in the end.
    pub accuracy_at_end: SharedAccuracy,
    /// What the search took.
    pub cost: SearchCost,
}

/// A search, which can be interrupted and gone on with.
pub struct Search<'a, M> {
    task: Task<'a, M>,
    settings: SearchSettings,
    projection: Projection<'a>,
    identity: Identity,
    state: State<M>,
    trial_log: TrialLog,
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
        let Task { blueprint, train, evaluation, limits, devices, .. } = task;
        for (split, set, expected) in
            [("training", train, settings.sgd.batch_size), ("evaluation", evaluation, settings.evaluation_batch)]
        {
            if set.len() < expected {
                return Err(SearchError::Images { split, expected, found: set.len() });
            }
        }
        let space = blueprint.space();
        let projection = Projection::new(space, limits)?;
        // A space that is too coarse for the budget shows now, and not at the end.
        projection.architecture(&space.base().params())?;
        let device = devices.first().expect("at least one device");
        let state = State {
            supernet: blueprint.supernet(seed, &device.clone().autodiff())?,
            weight_optimizer: settings.sgd.optimizer(),
            searcher: searcher(settings, &projection, &space.base().params(), seed)?,
            position: Position {
                step: 0,
                training_order: EpochSampler::new(train.len(), derived_seed(seed, Stream::TrainingOrder)),
                evaluation_order: EpochSampler::new(evaluation.len(), derived_seed(seed, Stream::EvaluationOrder)),
                augmentation: stream(seed, Stream::Augmentation),
                views: stream(seed, Stream::Views),
                uniform_joint: None,
                start: None,
                asked: 0,
                trials: Vec::new(),
                correction: None,
                accuracy_at_start: None,
                training_loss: f64::from(u16::try_from(train.class_count()).unwrap_or(u16::MAX)).ln(),
                images: 0,
                evaluations: 0,
                seconds: 0.0,
                history: Default::default(),
            },
            saved: None,
        };
        let identity = Identity {
            seed,
            space: space.hash(),
            limits: limits.named(),
            training_images: train.len(),
            evaluation_images: evaluation.len(),
            normalization: task.normalization.clone(),
            settings: settings.without_checkpoints(),
        };
        let (trial_log, clock) = (TrialLog::default(), Instant::now());
        Ok(Self { task, settings: settings.clone(), projection, identity, state, trial_log, clock })
    }

    /// The same search where the newest good checkpoint of a run directory was written. The observer is warned of one
    /// that is not.
    ///
    /// # Errors
    /// If there is no checkpoint, or all are damaged or of another search.
    pub fn resume(self, directory: &Path, observer: &mut dyn Observer) -> Result<Self, SearchError> {
        let state = self.state.load(&self.identity, directory, &self.settings.nes, &self.projection, observer)?;
        Ok(Self { state, ..self })
    }

    /// H, in steps above each dimension's smallest value.
    pub fn params(&self) -> Vec<f64> {
        self.state.searcher.params()
    }

    /// Lets the searcher begin at a point.
    fn begin_at(&mut self, start: &[f64]) -> Result<(), SearchError> {
        self.state.searcher = searcher(&self.settings, &self.projection, start, self.identity.seed)?;
        Ok(())
    }

    /// Goes on to the end; nothing, if interrupted. With a run directory, the history and the checkpoints go there, and
    /// an interrupted search can be [resumed](Self::resume).
    ///
    /// # Errors
    /// If a file cannot be written, an image file cannot be read, or no architecture can be compared with another.
    pub fn run(
        &mut self,
        directory: Option<&Path>,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Found>, SearchError> {
        self.clock = Instant::now();
        let history = directory.map(|directory| History::open(directory, &self.state.position.history));
        let mut history = history.transpose()?;
        if let Some(directory) = directory {
            self.open_trial_log(directory, observer)?;
        }
        let mut schedule = self.settings.sgd.schedule(self.settings.total_weight_steps());
        for _ in 0..self.settings.weight_steps_before(self.state.position.step) {
            schedule.step();
        }
        let feed = &mut self.training_batches();
        let mut saved = Instant::now();
        loop {
            let step = self.state.position.step;
            if self.settings.searcher.is_joint() && step == self.settings.last_sure_step() {
                break;
            }
            let interrupted = observer.interrupted();
            if interrupted || self.settings.checkpoint_before(step, saved.elapsed()) {
                self.save(directory, history.as_ref())?;
                saved = Instant::now();
            }
            if interrupted {
                return Ok(None);
            }
            if step == self.settings.start_step() && self.settings.start == Start::Uniform {
                let Some(start) = self.find_start(observer)? else { return Ok(None) };
                self.begin_at(&start.params())?;
                self.state.position.start = Some(start.to_file());
            }
            let message = match self.settings.step_at(step) {
                Step::Warmup => self.weight_step(Self::warmup_view, schedule.step().base(), feed)?,
                Step::Weights => self.weight_step(Self::view_around_h, schedule.step().base(), feed)?,
                Step::Round => {
                    if self.state.position.accuracy_at_start.is_none() {
                        let architecture = self.projection.nearest(&self.params())?;
                        let accuracy = self.shared_accuracy(&architecture, "before H moves", observer)?;
                        self.state.position.accuracy_at_start = Some(accuracy);
                    }
                    let Some(iteration) = self.round()? else { break };
                    if let Some(history) = &mut history {
                        history.append(&iteration, &mut self.state.position.history)?;
                    }
                    let loss = iteration.loss.map_or("not finite".into(), |loss| format!("{loss:.3}"));
                    format!("loss {loss}, {:.3} of the budget", iteration.ratio)
                }
            };
            self.state.position.step += 1;
            let (done, total) = self.work();
            observer.progress(Progress { phase: "search", done, total, message });
        }
        self.save(directory, history.as_ref())?;
        let Some((architecture, uniform_joint)) = self.conclude(observer)? else { return Ok(None) };
        let accuracy_at_end = self.shared_accuracy(&architecture, "in the end", observer)?;
        self.stop_clock();
        let trials = self.state.position.trials.clone();
        let Position { images, evaluations, seconds, accuracy_at_start, .. } = self.state.position;
        let cost = SearchCost { images, evaluations, seconds };
        Ok(Some(Found { architecture, uniform_joint, trials, accuracy_at_start, accuracy_at_end, cost }))
    }

    /// Writes a checkpoint, if there is a directory for it. The records that it speaks of are on the disk before it.
    fn save(&mut self, directory: Option<&Path>, history: Option<&History>) -> Result<(), CheckpointError> {
        self.stop_clock();
        let (Some(directory), Some(history)) = (directory, history) else { return Ok(()) };
        history.sync()?;
        self.state.save(&self.identity, directory)
    }

    /// Adds the time since the last call to the state's.
    fn stop_clock(&mut self) {
        self.state.position.seconds += self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
    }

    /// Work done and work in all, in forward passes of one image; a training step takes three.
    fn work(&self) -> (usize, usize) {
        let (settings, position) = (&self.settings, &self.state.position);
        let step = 3 * settings.sgd.batch_size * settings.views.count();
        let work = |steps, views| step * steps + settings.evaluation_batch * views;
        let done = work(settings.weight_steps_before(position.step), position.asked);
        (done, work(settings.total_weight_steps(), settings.evaluations()))
    }

    /// The batches of all weight steps to come, drawn from copies of the order and the random state: the feed runs ahead
    /// of the steps, and a checkpoint has to hold what the steps have come to.
    fn training_batches(&self) -> impl Iterator<Item = Result<Batch, DataError>> + use<M> {
        let Position { step, training_order, augmentation, .. } = &self.state.position;
        let (mut order, mut augmentation) = (training_order.clone(), augmentation.clone());
        let steps = self.settings.total_weight_steps() - self.settings.weight_steps_before(*step);
        let sgd = self.settings.sgd.clone();
        let plans = (0..steps).map(move |_| Plan::next(&mut order, sgd.batch_size, &sgd.augment, &mut augmentation));
        Feed::new(self.task.train, plans, self.task.normalization, &self.task.devices[0].clone().autodiff())
    }

    /// A view of any resolution and depth up to the backbone's, with uneven channels, at the budget.
    fn warmup_view(&mut self) -> Result<Architecture, SearchError> {
        let space = self.task.blueprint.space();
        let params = random_params(space, &mut self.state.position.views);
        Ok(space.at_params(&self.projection.project(&params)?))
    }

    /// floor(H + n), n ~ N(0, sigma) (equation 8).
    fn view_around_h(&mut self) -> Result<Architecture, SearchError> {
        match self.state.searcher.around(&mut self.state.position.views) {
            Some(point) => Ok(self.task.blueprint.space().at_params(&point)),
            None => self.warmup_view(),
        }
    }

    /// What the searcher asks for, scored on one batch of the evaluation split; nothing when it is at its end.
    fn round(&mut self) -> Result<Option<Iteration>, SearchError> {
        let blueprint = self.task.blueprint;
        let iteration = self.settings.rounds_before(self.state.position.step);
        let h = self.params();
        let left = self.settings.evaluations().saturating_sub(self.state.position.asked);
        let candidates = self.state.searcher.ask(&self.projection, left)?;
        if candidates.is_empty() {
            return Ok(None);
        }
        self.state.position.asked += candidates.len();
        let indices = self.state.position.evaluation_order.next_batch(self.settings.evaluation_batch).to_vec();
        if iteration.is_multiple_of(self.settings.nes_iterations) {
            self.state.position.correction = self.trial_correction(std::slice::from_ref(&indices))?;
        }
        let mut losses = self.score(&candidates, &[indices])?;
        let loss = finite_mean(&losses);
        if let Some(correction) = &self.state.position.correction {
            for (loss, candidate) in losses.iter_mut().zip(&candidates) {
                *loss += correction.at(blueprint.space(), blueprint.cost(), candidate)?;
            }
        }
        self.state.searcher.tell(&self.projection, &losses)?;
        let architecture = blueprint.space().at_params(&h);
        Ok(Some(Iteration {
            iteration: iteration + 1,
            h,
            architecture: architecture.values().to_vec(),
            macs: blueprint.cost().cost(&architecture)?.macs,
            ratio: self.projection.share(&architecture)?,
            loss,
            losses: losses.into_iter().map(|loss| loss.is_finite().then_some(loss)).collect(),
            step: self.state.searcher.step(),
            images: self.state.position.images,
        }))
    }

    /// The shared weights' losses at architectures, over batches of the evaluation split.
    fn score(&mut self, architectures: &[Architecture], batches: &[Vec<usize>]) -> Result<Vec<f64>, DataError> {
        let Task { evaluation, normalization, devices, .. } = self.task;
        let scorer = Scorer::new(&self.state.supernet, devices);
        let (losses, evaluations) = scorer.losses(architectures, evaluation, batches, normalization)?;
        self.state.position.evaluations += evaluations;
        self.state.position.images += evaluations * batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        Ok(losses)
    }
}

/// H of any resolution and depth up to the backbone's, with uneven channels.
fn random_params(space: &SearchSpace, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut level = |dim: &ElasticDim| match dim.kind {
        DimKind::Channels => {
            let value = dim.base as f64 * (WARMUP_SPREAD * normal(rng)).exp();
            (value - dim.min as f64) / dim.step as f64
        }
        DimKind::Resolution | DimKind::Depth => rng.random_range(0..=dim.level_of(dim.base)) as f64 + 0.5,
    };
    space.dims().iter().map(|dim| level(dim)).collect()
}

/// Where the least finite loss is.
fn least_finite(losses: &[f64]) -> Option<usize> {
    let finite = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
    finite.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
}

/// The mean of the finite ones among losses, if there are any.
fn finite_mean(losses: &[f64]) -> Option<f64> {
    let finite: Vec<f64> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
    (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
}

/// The searcher of the settings, which begins at a point.
fn searcher(
    settings: &SearchSettings,
    projection: &Projection<'_>,
    start: &[f64],
    seed: u64,
) -> Result<Box<dyn Searcher>, ProjectionError> {
    let rng = stream(seed, Stream::Perturbations);
    settings.searcher.init(&settings.nes, projection, start, settings.evaluations(), rng)
}
