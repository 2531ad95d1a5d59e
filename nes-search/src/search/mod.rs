//! The search: Algorithm 1 of the paper, step by step, with checkpoints.

mod chance;
mod checkpoint;
#[cfg(test)]
mod damage_tests;
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
use elastic_layers::{
    Architecture, ArchitectureError, Backbone, CostError, DimKind, ElasticDim, SearchSpace, SpaceError,
};
use ndarray::{Array1, Array2};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::data::{Batch, DataError, EpochSampler, Feed, ImageSet, Normalization, Plan, batches};
use crate::estimator::normal;
use crate::observer::{Observer, Progress};
use crate::projection::{LEAST_SHARE, Projection, ProjectionError};
use crate::rng::{Stream, derived_seed, stream};
use crate::{ArchParams, Blueprint, Limits, NesConfig, baselines};

pub use chance::SharedAccuracy;
pub use checkpoint::CheckpointError;
use checkpoint::{Identity, Position, State};
pub use fidelity::Scored;
use history::History;
pub use history::{HISTORY, Iteration, read_history};
use scoring::Scorer;
use settings::Step;
pub use settings::{Constraint, SearchSettings, Start};
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

/// Why a search cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The backbone cannot be built.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// No architecture meets the budget.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// A cost cannot be found.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A checkpoint is of another space.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// An image cannot be had.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint cannot be written or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A split has too few images.
    #[error("{split} split: expected at least {expected} images, found {found}")]
    Images {
        /// Which split.
        split: &'static str,
        /// Images that one batch takes.
        expected: usize,
        /// Images that there are.
        found: usize,
    },
    /// A budget leaves too few architectures.
    #[error("architectures at the budget: expected at least {expected} different ones, found {found}")]
    Few {
        /// How many were asked for.
        expected: usize,
        /// How many were drawn.
        found: usize,
    },
    /// Every architecture's loss is infinite or not a number.
    #[error(
        "the shared weights diverged: expected a finite evaluation loss, found none; lower search.sgd.learning_rate"
    )]
    Diverged,
}

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
        let upper = space.dims().iter().map(|dim| dim.levels() as f64).collect();
        let device = devices.first().expect("at least one device");
        let state = State {
            supernet: blueprint.supernet(seed, &device.clone().autodiff())?,
            weight_optimizer: settings.sgd.optimizer(),
            params: ArchParams::new(&space.base().params(), &Device::default()),
            nes_optimizer: NesConfig::new(upper).with_momentum(settings.momentum).init(),
            position: Position {
                step: 0,
                training_order: EpochSampler::new(train.len(), derived_seed(seed, Stream::TrainingOrder)),
                evaluation_order: EpochSampler::new(evaluation.len(), derived_seed(seed, Stream::EvaluationOrder)),
                augmentation: stream(seed, Stream::Augmentation),
                views: stream(seed, Stream::Views),
                perturbations: stream(seed, Stream::Perturbations),
                uniform_joint: None,
                start: None,
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
        Ok(Self { state: self.state.load(&self.identity, directory, observer)?, ..self })
    }

    /// H, in steps above each dimension's smallest value.
    pub fn params(&self) -> Vec<f64> {
        self.state.params.values()
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
        while self.state.position.step < self.settings.total_steps() {
            let step = self.state.position.step;
            let interrupted = observer.interrupted();
            if interrupted || self.settings.checkpoint_before(step, saved.elapsed()) {
                self.save(directory, history.as_ref())?;
                saved = Instant::now();
            }
            if interrupted {
                return Ok(None);
            }
            if step == self.settings.warmup_steps && self.settings.start == Start::Uniform {
                let Some(start) = self.find_start(observer)? else { return Ok(None) };
                self.state.params = self.state.params.clone().with_values(&start.params());
                self.state.position.start = Some(start.to_file());
            }
            let message = match self.settings.step_at(step) {
                Step::Warmup => self.weight_step(Self::warmup_view, schedule.step().base(), feed)?,
                Step::Weights => self.weight_step(Self::view_around_h, schedule.step().base(), feed)?,
                Step::Nes => {
                    if self.state.position.accuracy_at_start.is_none() {
                        let architecture = self.candidate(&self.params())?;
                        let accuracy = self.shared_accuracy(&architecture, "before H moves", observer)?;
                        self.state.position.accuracy_at_start = Some(accuracy);
                    }
                    let iteration = self.nes_iteration()?;
                    if let Some(history) = &mut history {
                        history.append(&iteration, &mut self.state.position.history)?;
                    }
                    let loss = iteration.loss.map_or("not finite".into(), |loss| format!("{loss:.3}"));
                    format!("loss at H {loss}, {:.3} of the budget", iteration.ratio)
                }
            };
            self.state.position.step += 1;
            let (done, total) =
                (self.work_before(self.state.position.step), self.work_before(self.settings.total_steps()));
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

    /// Work in the steps before a position, in forward passes of one image; a training step takes three.
    fn work_before(&self, position: usize) -> usize {
        let settings = &self.settings;
        3 * settings.sgd.batch_size * settings.views.count() * settings.weight_steps_before(position)
            + (settings.estimator.samples + 1) * settings.evaluation_batch * settings.nes_iterations_before(position)
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
        let State { params, position, .. } = &mut self.state;
        let (sigma, _) = self.settings.decayed(self.settings.nes_iterations_before(position.step));
        let around: Vec<f64> = params.values().iter().map(|h| h + sigma * normal(&mut position.views)).collect();
        Ok(self.task.blueprint.space().at_params(&around))
    }

    /// One step on H (equations 6, 7 and 9).
    fn nes_iteration(&mut self) -> Result<Iteration, SearchError> {
        let blueprint = self.task.blueprint;
        let iteration = self.settings.nes_iterations_before(self.state.position.step);
        let (sigma, learning_rate) = self.settings.decayed(iteration);
        let estimator = self.settings.estimator;
        let h = self.params();
        let centre = self.candidate(&h)?;
        let directions = estimator.directions(h.len(), sigma, &mut self.state.position.perturbations);
        let mut candidates = Vec::with_capacity(estimator.samples + 1);
        for direction in directions.rows() {
            let point: Vec<f64> = h.iter().zip(direction).map(|(h, n)| h + n).collect();
            candidates.push(self.candidate(&point)?);
        }
        let directions = match self.settings.constraint {
            Constraint::Penalty(_) => directions,
            Constraint::Projection => moves(&candidates, &h),
        };
        candidates.push(centre.clone());
        let indices = self.state.position.evaluation_order.next_batch(self.settings.evaluation_batch).to_vec();
        if iteration.is_multiple_of(self.settings.nes_iterations) {
            self.state.position.correction = self.trial_correction(std::slice::from_ref(&indices))?;
        }
        let mut losses = self.score(&candidates, &[indices])?;
        let loss = losses[estimator.samples];
        if let Some(correction) = &self.state.position.correction {
            for (loss, candidate) in losses.iter_mut().zip(&candidates) {
                *loss += correction.at(blueprint.space(), blueprint.cost(), candidate)?;
            }
        }
        if let Constraint::Penalty(penalty) = self.settings.constraint {
            for (loss, candidate) in losses.iter_mut().zip(&candidates) {
                *loss += penalty.at(candidate, self.task.limits)?;
            }
        }
        let at_centre = losses.pop().unwrap_or(f64::NAN);
        let gradient: Array1<f64> = estimator.gradient(&directions, &losses, at_centre, sigma);
        let gradients = self.state.params.gradient(&gradient.to_vec());
        let mut params = self.state.nes_optimizer.step(learning_rate, self.state.params.clone(), gradients);
        if self.settings.constraint == Constraint::Projection {
            let projected = self.projection.project(&params.values())?;
            params = params.with_values(&projected);
        }
        self.state.params = params;
        let macs = blueprint.cost().cost(&centre)?.macs;
        let finite = |loss: f64| loss.is_finite().then_some(loss);
        Ok(Iteration {
            iteration: iteration + 1,
            h,
            architecture: centre.values().to_vec(),
            macs,
            ratio: self.projection.share(&centre)?,
            loss: finite(loss),
            losses: losses.into_iter().map(finite).collect(),
            sigma,
            learning_rate,
            gradient_norm: gradient.dot(&gradient).sqrt(),
            images: self.state.position.images,
        })
    }

    /// The architecture that stands for a point near H.
    fn candidate(&self, point: &[f64]) -> Result<Architecture, SearchError> {
        let space = self.task.blueprint.space();
        match self.settings.constraint {
            Constraint::Penalty(_) => Ok(space.at_params(point)),
            Constraint::Projection => match self.projection.at_structure(point) {
                // In a coarse corner of the space, the nearest below the budget has to do.
                Err(ProjectionError::Gap { .. }) => Ok(space.at_params(&self.projection.project(point)?)),
                other => Ok(other?),
            },
        }
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

    /// The architecture with the least loss over the whole evaluation split.
    fn best_of(&mut self, mut architectures: Vec<Architecture>) -> Result<Architecture, SearchError> {
        let batches: Vec<_> = batches(self.task.evaluation, self.settings.evaluation_batch).collect();
        let losses = self.score(&architectures, &batches)?;
        let best = least_finite(&losses).ok_or(SearchError::Diverged)?;
        Ok(architectures.swap_remove(best))
    }

    /// The best uniform rescaling of channels and resolution, found once.
    fn find_uniform_joint(&mut self) -> Result<Architecture, SearchError> {
        let space = self.task.blueprint.space();
        if let Some(file) = &self.state.position.uniform_joint {
            return Ok(space.check(file)?);
        }
        let best = self.best_of(baselines::uniform_joint(space, &self.projection)?)?;
        self.state.position.uniform_joint = Some(best.to_file());
        Ok(best)
    }

    /// The best uniform rescaling of channels, resolution and depth; nothing, if interrupted.
    fn find_start(&mut self, observer: &mut (dyn Observer + Send)) -> Result<Option<Architecture>, SearchError> {
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
    fn conclude(
        &mut self,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<(Architecture, Architecture)>, SearchError> {
        let blueprint = self.task.blueprint;
        let uniform_joint = self.find_uniform_joint()?;
        let mut finalists = vec![self.projection.architecture(&self.params())?];
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

/// H of any resolution and depth up to the backbone's, with uneven channels.
fn random_params(space: &SearchSpace, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let level = |dim: &ElasticDim| match dim.kind {
        DimKind::Channels => {
            let value = dim.base as f64 * (WARMUP_SPREAD * normal(rng)).exp();
            (value - dim.min as f64) / dim.step as f64
        }
        DimKind::Resolution | DimKind::Depth => rng.random_range(0..=dim.level_of(dim.base)) as f64 + 0.5,
    };
    space.dims().iter().map(level).collect()
}

/// Where the least finite loss is.
fn least_finite(losses: &[f64]) -> Option<usize> {
    let finite = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
    finite.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
}

/// The steps from H to architectures, each at the centre of its cell: `[architectures, dimensions]`.
fn moves(architectures: &[Architecture], h: &[f64]) -> Array2<f64> {
    let params: Vec<Vec<f64>> = architectures.iter().map(Architecture::params).collect();
    Array2::from_shape_fn((params.len(), h.len()), |(row, dim)| params[row][dim] - h[dim])
}
