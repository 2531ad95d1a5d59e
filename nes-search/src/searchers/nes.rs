//! Natural evolution strategies on H.

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Bytes, Device};
use elastic_layers::{Architecture, CostError};
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::finalists::Finalists;
use super::{Saved, SavedError, Searcher, centre, levels, spread};
use crate::budget::Penalty;
use crate::estimator::{Estimator, Moves, Sampling, normal};
use crate::params::ArchParams;
use crate::projection::{Projection, ProjectionError};
use crate::settings::{SettingsError, check};
use crate::{NesConfig, Shaping};

/// How far an adapted sigma may be from the one that it is adapted from, as a factor.
const ADAPTED: [f64; 2] = [0.2, 2.0];
/// Weight of the past in the running mean of signal-to-noise ratios.
const RATIO_MOMENTUM: f64 = 0.9;

/// How the search is kept at the budget. The final architecture is within 0.98 and 1.00 of it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Constraint {
    /// A penalty on the loss of each candidate (equation 2).
    Penalty(Penalty),
    /// Every candidate, and H itself, is moved onto the budget.
    Projection,
}

/// How H is moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NesSettings {
    /// sigma of the first iteration, in steps of the dimensions and at most a fifth of a dimension's values; it falls
    /// linearly to `sigma_floor`.
    pub sigma: f64,
    /// sigma after the last iteration.
    pub sigma_floor: f64,
    /// How fast each dimension's sigma is adapted, in units of what separable NES takes; 0, the paper's, for not at all.
    pub sigma_adaptation: f64,
    /// alpha, the learning rate of H in the first iteration; it falls linearly to 0.
    pub learning_rate: f64,
    /// Whether the learning rate is multiplied by `s / (1 + s)`, s being a running mean of the gradient's signal-to-noise
    /// ratio.
    pub learning_rate_adaptation: bool,
    /// Weight of the past in the running mean of the gradients; 0, the paper's, has none.
    pub momentum: f64,
    /// Share of the iterations, the last ones, whose mean H is found; 0, the paper's, for the last H.
    pub average: f64,
    /// Share of the evaluations that is kept for the end: the best candidates of the last half of the iterations are scored
    /// again, against that mean, and the best by several batches is found. 0, the paper's, for none: where the loss is
    /// rough, some architectures near H are better than H.
    pub choice: f64,
    /// The estimator of the gradient.
    pub estimator: Estimator,
    /// How the search is kept at the budget.
    pub constraint: Constraint,
}

impl Default for NesSettings {
    fn default() -> Self {
        Self {
            sigma: 5.0,
            sigma_floor: 0.5,
            sigma_adaptation: 0.3,
            learning_rate: 6.0,
            learning_rate_adaptation: false,
            momentum: 0.5,
            average: 0.3,
            choice: 0.2,
            estimator: Estimator::antithetic(16),
            constraint: Constraint::Projection,
        }
    }
}

impl NesSettings {
    /// The numbers of the paper's Appendix B, with so much weight of its penalty.
    pub fn paper(penalty: Penalty) -> Self {
        Self {
            sigma: 1.25,
            sigma_floor: 0.0,
            sigma_adaptation: 0.0,
            learning_rate: 5.0,
            learning_rate_adaptation: false,
            momentum: 0.0,
            average: 0.0,
            choice: 0.0,
            estimator: Estimator::paper(100),
            constraint: Constraint::Penalty(penalty),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, below `name`.
    pub(crate) fn check(&self, name: &str) -> Result<(), SettingsError> {
        let field = |field: &str| format!("{name}.{field}");
        check(field("sigma"), self.sigma, 1e-3..=1e3)?;
        check(field("sigma_floor"), self.sigma_floor, 0.0..=self.sigma)?;
        check(field("sigma_adaptation"), self.sigma_adaptation, 0.0..=10.0)?;
        check(field("learning_rate"), self.learning_rate, 0.0..=1e3)?;
        check(field("momentum"), self.momentum, 0.0..=0.999)?;
        check(field("average"), self.average, 0.0..=1.0)?;
        check(field("choice"), self.choice, 0.0..=0.9)?;
        check(field("estimator.samples"), self.estimator.samples, 2..=100_000)?;
        if self.estimator.sampling == Sampling::Antithetic && self.estimator.samples % 2 == 1 {
            let found = self.estimator.samples;
            return Err(SettingsError::new(field("estimator.samples"), "an even number, for antithetic pairs", found));
        }
        if let Constraint::Penalty(penalty) = self.constraint {
            check(field("constraint.penalty.rho"), penalty.rho, 0.0..=1e6)?;
            check(field("constraint.penalty.apart"), penalty.apart, 0..=1_000_000)?;
        }
        Ok(())
    }

    /// The evaluations of one iteration.
    pub fn evaluations(&self) -> usize {
        self.estimator.samples + usize::from(self.estimator.needs_centre())
    }
}

/// One step of H.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NesStep {
    /// sigma, in steps, before it is adapted and limited for each dimension.
    pub sigma: f64,
    /// The learning rate of H.
    pub learning_rate: f64,
    /// Euclidean norm of the gradient.
    pub gradient_norm: f64,
    /// The squared length of the true gradient over the variance of its estimate, as far as the samples tell.
    pub signal_to_noise: f64,
}

/// The state of a [`NesSearcher`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedNes {
    h: Vec<f64>,
    parameter: u64,
    optimizer: Vec<u8>,
    progress: Progress,
}

/// All of the state but H and its optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Progress {
    rng: ChaCha8Rng,
    iteration: usize,
    iterations: usize,
    /// What sigma is multiplied by in each dimension, and where adaptation started from.
    factors: Vec<f64>,
    first_factors: Vec<f64>,
    drawn: Vec<Vec<f64>>,
    asked: Vec<Vec<usize>>,
    /// The sum of H over the iterations that are averaged, and their number.
    sum: Vec<f64>,
    summed: usize,
    ratio: f64,
    step: Option<NesStep>,
    finalists: Finalists,
    /// Evaluations of the last choice.
    choice: usize,
}

/// Moves H by the NES gradient (equations 6, 7 and 9) of the losses of architectures around it.
pub struct NesSearcher {
    settings: NesSettings,
    params: ArchParams,
    optimizer: ModuleOptimizer,
    progress: Progress,
}

impl NesSearcher {
    /// A search that has not begun, with H at `start` and [`Nes`](crate::Nes) for its optimizer, for so many evaluations.
    ///
    /// # Panics
    /// If a setting is out of its range.
    pub fn new(
        settings: &NesSettings,
        projection: &Projection<'_>,
        start: &[f64],
        evaluations: usize,
        rng: ChaCha8Rng,
    ) -> Self {
        settings.check("nes").unwrap_or_else(|error| panic!("{error}"));
        let factors: Vec<f64> =
            spread(projection, settings.sigma).into_iter().map(|sigma| sigma / settings.sigma).collect();
        let kept = (settings.choice * evaluations as f64) as usize;
        let iterations = (evaluations - kept) / settings.evaluations();
        let progress = Progress {
            rng,
            iteration: 0,
            iterations,
            first_factors: factors.clone(),
            factors,
            drawn: Vec::new(),
            asked: Vec::new(),
            sum: vec![0.0; start.len()],
            summed: 0,
            ratio: 0.0,
            step: None,
            finalists: Finalists::default(),
            choice: if kept == 0 { 0 } else { evaluations - iterations * settings.evaluations() },
        };
        let params = ArchParams::new(start, &Device::default());
        Self { settings: settings.clone(), params, optimizer: optimizer(settings, projection), progress }
    }

    /// With any of Burn's optimizers in place of [`Nes`](crate::Nes). Those know no bounds: H is put back within them after
    /// each step.
    pub fn with_optimizer(mut self, optimizer: impl Into<ModuleOptimizer>) -> Self {
        self.optimizer = optimizer.into();
        self
    }

    pub(super) fn restore(
        saved: SavedNes,
        settings: &NesSettings,
        projection: &Projection<'_>,
    ) -> Result<Self, SavedError> {
        let SavedNes { h, parameter, optimizer: bytes, progress } = saved;
        let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes))
            .map_err(|error| SavedError(format!("optimizer: {error}")))?;
        Ok(Self {
            params: ArchParams::with_id(&h, parameter, &Device::default()),
            optimizer: optimizer(settings, projection).load_record(record),
            settings: settings.clone(),
            progress,
        })
    }

    /// Share of the iterations that is left.
    fn left(&self) -> f64 {
        1.0 - self.progress.iteration as f64 / self.progress.iterations.max(1) as f64
    }

    /// sigma now.
    fn sigma(&self) -> f64 {
        let NesSettings { sigma, sigma_floor, .. } = self.settings;
        sigma_floor + (sigma - sigma_floor) * self.left()
    }

    /// sigma of each dimension now: half a step at least, below which rounding hides what a dimension does, unless the
    /// floor is lower.
    fn sigmas(&self) -> Vec<f64> {
        let (sigma, least) = (self.sigma(), self.settings.sigma_floor.min(0.5));
        self.progress.factors.iter().map(|factor| (sigma * factor).max(least)).collect()
    }

    /// The architecture that stands for a point near H.
    fn candidate(&self, projection: &Projection<'_>, point: &[f64]) -> Result<Architecture, CostError> {
        match self.settings.constraint {
            Constraint::Penalty(_) => Ok(projection.space().at_params(point)),
            Constraint::Projection => projection.nearest(point),
        }
    }

    /// The gradient of the penalty alone, which is exact and cheap, by directions of its own.
    fn penalty_gradient(
        &mut self,
        projection: &Projection<'_>,
        penalty: Penalty,
        h: &[f64],
    ) -> Result<Vec<f64>, CostError> {
        let estimator = Estimator {
            samples: penalty.apart.next_multiple_of(2),
            sampling: Sampling::Antithetic,
            shaping: Shaping::Difference,
            moves: Moves::Drawn,
        };
        let directions = estimator.directions(&self.sigmas(), &mut self.progress.rng);
        let at = |point: &[f64]| penalty.at(&projection.space().at_params(point), projection.limits());
        let losses: Vec<f64> = directions.rows().into_iter().map(|n| at(&moved(h, n))).collect::<Result<_, _>>()?;
        Ok(estimator.gradient(&directions, &losses, at(h)?, self.sigma()).values.to_vec())
    }

    fn adapt_sigma(&mut self, drawn: &Array2<f64>, losses: &[f64], centre: f64) {
        let dimensions = self.progress.factors.len() as f64;
        // What its authors take for separable NES.
        let rate = self.settings.sigma_adaptation * (3.0 + dimensions.ln()) / (5.0 * dimensions.sqrt());
        let gradient = self.settings.estimator.sigma_gradient(drawn, losses, centre, &self.sigmas());
        let Progress { factors, first_factors, .. } = &mut self.progress;
        for ((factor, first), gradient) in factors.iter_mut().zip(first_factors).zip(gradient) {
            let change = (-0.5 * rate * gradient).clamp(-1.0, 1.0);
            *factor = (*factor * change.exp()).clamp(ADAPTED[0] * *first, ADAPTED[1] * *first);
        }
    }

    /// The learning rate of this iteration, after the ratio of its gradient.
    fn learning_rate(&mut self, ratio: f64) -> f64 {
        let past = if self.progress.iteration == 0 { 0.0 } else { RATIO_MOMENTUM };
        self.progress.ratio = past * self.progress.ratio + (1.0 - past) * ratio;
        let trust = match self.settings.learning_rate_adaptation {
            true => self.progress.ratio / (1.0 + self.progress.ratio),
            false => 1.0,
        };
        self.settings.learning_rate * self.left() * trust
    }

    /// The mean H of the last iterations.
    fn centre(&self) -> Vec<f64> {
        let Progress { sum, summed, .. } = &self.progress;
        match summed {
            0 => self.params.values(),
            _ => sum.iter().map(|sum| sum / *summed as f64).collect(),
        }
    }

    /// What the last choice is among, in its next round; all of it is within 0.98 and 1.00 of the budget.
    fn ask_finalists(&mut self, projection: &Projection<'_>, most: usize) -> Result<Vec<Architecture>, CostError> {
        if self.progress.choice == 0 {
            return Ok(Vec::new());
        }
        if !self.progress.finalists.begun() {
            let at = |point: &[f64]| projection.architecture(point).ok().map(|found| levels(&found));
            let Some(mean) = at(&self.centre()) else { return Ok(Vec::new()) };
            self.progress.finalists.begin(mean, self.progress.choice, |levels| at(&centre(levels)));
        }
        self.progress.asked = self.progress.finalists.ask(most);
        Ok(self.progress.asked.iter().map(|levels| projection.space().at_levels(levels)).collect())
    }

    fn move_h(&mut self, projection: &Projection<'_>, gradient: &[f64], learning_rate: f64) -> Result<(), CostError> {
        let gradients = self.params.gradient(gradient);
        let params = self.optimizer.step(learning_rate, self.params.clone(), gradients);
        let values = match self.settings.constraint {
            Constraint::Projection => projection.project(&params.values())?,
            Constraint::Penalty(_) => projection.clamped(&params.values()),
        };
        self.params = params.with_values(&values);
        let progress = &mut self.progress;
        progress.iteration += 1;
        if progress.iteration as f64 > (1.0 - self.settings.average) * progress.iterations as f64 {
            progress.sum.iter_mut().zip(&values).for_each(|(sum, h)| *sum += h);
            progress.summed += 1;
        }
        Ok(())
    }
}

impl Searcher for NesSearcher {
    fn ask(&mut self, projection: &Projection<'_>, most: usize) -> Result<Vec<Architecture>, CostError> {
        if self.progress.iteration == self.progress.iterations {
            return self.ask_finalists(projection, most);
        }
        if self.settings.evaluations() > most {
            return Ok(Vec::new());
        }
        let h = self.params.values();
        let directions = self.settings.estimator.directions(&self.sigmas(), &mut self.progress.rng);
        let mut asked = Vec::with_capacity(self.settings.evaluations());
        for direction in directions.rows() {
            asked.push(self.candidate(projection, &moved(&h, direction))?);
        }
        if self.settings.estimator.needs_centre() {
            asked.push(self.candidate(projection, &h)?);
        }
        self.progress.drawn = directions.rows().into_iter().map(|row| row.to_vec()).collect();
        self.progress.asked = asked.iter().map(levels).collect();
        Ok(asked)
    }

    fn tell(&mut self, projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.progress.asked.len(), "one loss per architecture");
        if self.progress.finalists.begun() {
            self.progress.step = None;
            self.progress.finalists.tell(losses);
            return Ok(());
        }
        let (h, sigma, estimator) = (self.params.values(), self.sigma(), self.settings.estimator);
        let mut losses = losses.to_vec();
        if let Constraint::Penalty(penalty) = self.settings.constraint
            && penalty.apart == 0
        {
            for (loss, levels) in losses.iter_mut().zip(&self.progress.asked) {
                *loss += penalty.at(&projection.space().at_levels(levels), projection.limits())?;
            }
        }
        let at_h = if losses.len() > estimator.samples { losses[estimator.samples] } else { f64::NAN };
        losses.truncate(estimator.samples);
        let shape = (estimator.samples, h.len());
        let drawn = Array2::from_shape_fn(shape, |(row, dim)| self.progress.drawn[row][dim]);
        let moves = match estimator.moves {
            Moves::Drawn => drawn.clone(),
            Moves::Realized => {
                let ends: Vec<Vec<f64>> = self.progress.asked.iter().map(|levels| centre(levels)).collect();
                Array2::from_shape_fn(shape, |(row, dim)| ends[row][dim] - h[dim])
            }
        };
        if self.progress.choice > 0 && self.progress.iteration >= self.progress.iterations / 2 {
            self.progress.finalists.note(&self.progress.asked[..estimator.samples], &losses);
        }
        let gradient = estimator.gradient(&moves, &losses, at_h, sigma);
        let mut values = gradient.values.to_vec();
        if let Constraint::Penalty(penalty) = self.settings.constraint
            && penalty.apart > 0
        {
            let of_penalty = self.penalty_gradient(projection, penalty, &h)?;
            values.iter_mut().zip(of_penalty).for_each(|(value, more)| *value += more);
        }
        if self.settings.sigma_adaptation > 0.0 {
            self.adapt_sigma(&drawn, &losses, at_h);
        }
        let learning_rate = self.learning_rate(gradient.signal_to_noise);
        self.progress.step = Some(NesStep {
            sigma,
            learning_rate,
            gradient_norm: values.iter().map(|value| value * value).sum::<f64>().sqrt(),
            signal_to_noise: gradient.signal_to_noise,
        });
        self.move_h(projection, &values, learning_rate)
    }

    fn params(&self) -> Vec<f64> {
        self.params.values()
    }

    /// H + n, n ~ N(0, sigma) (equation 8).
    fn around(&self, rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        Some(self.params.values().iter().zip(self.sigmas()).map(|(h, sigma)| h + sigma * normal(rng)).collect())
    }

    fn step(&self) -> Option<NesStep> {
        self.progress.step
    }

    fn found(&self, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
        match self.progress.finalists.best() {
            Some(best) => Ok(projection.space().at_levels(best)),
            None => projection.architecture(&self.centre()),
        }
    }

    fn saved(&self) -> Result<Saved, SavedError> {
        let bytes = self.optimizer.to_record().into_bytes();
        Ok(Saved::Nes(Box::new(SavedNes {
            h: self.params.values(),
            parameter: self.params.id(),
            optimizer: bytes.map_err(|error| SavedError(format!("optimizer: {error}")))?.to_vec(),
            progress: self.progress.clone(),
        })))
    }
}

/// The project's own optimizer of H.
fn optimizer(settings: &NesSettings, projection: &Projection<'_>) -> ModuleOptimizer {
    let upper = projection.space().dims().iter().map(|dim| dim.levels() as f64).collect();
    NesConfig::new(upper).with_momentum(settings.momentum).init()
}

/// A point and a direction from it.
fn moved(h: &[f64], direction: ndarray::ArrayView1<'_, f64>) -> Vec<f64> {
    h.iter().zip(direction).map(|(h, n)| h + n).collect()
}
