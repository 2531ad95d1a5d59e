//! The searcher that moves H by the NES gradient.

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Bytes, Device};
use elastic_layers::{Architecture, CostError};
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ArchParams, Estimator, Moves, NesConfig, NesParts, NesSettings, Penalty, normal};
use crate::projection::{Projection, ProjectionError};
use crate::searchers::{Halving, Searcher, Turn, spread};

/// How far an adapted sigma may be from the one in the beginning, as a factor.
const ADAPTED: [f64; 2] = [0.2, 2.0];

/// One step of H.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NesStep {
    /// sigma, in steps, before it is limited for each dimension.
    pub sigma: f64,
    /// The learning rate of H.
    pub learning_rate: f64,
    /// Euclidean norm of the gradient.
    pub gradient_norm: f64,
    /// The squared length of the true gradient over the variance of its estimate, as far as the samples tell.
    pub signal_to_noise: f64,
}

/// Moves H by the NES gradient (equations 6, 7 and 9) of the losses of architectures around it.
///
/// sigma and the learning rate fall linearly along the walk. A form with a last choice ends the walk earlier: the best
/// candidates of its second half are then scored again, beside H, by [`Halving`].
pub struct NesSearcher {
    params: ArchParams,
    optimizer: ModuleOptimizer,
    progress: Progress,
}

/// All of the state but H and its optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Progress {
    settings: NesSettings,
    parts: NesParts,
    rng: ChaCha8Rng,
    /// sigma of each dimension over the common one, now and in the beginning.
    factors: Vec<f64>,
    first_factors: Vec<f64>,
    /// Upper bounds of H.
    upper: Vec<f64>,
    /// Share of the allowance that was spent when the last candidates were asked for.
    done: f64,
    drawn: Vec<Vec<f64>>,
    asked: Vec<Architecture>,
    /// The sum of H over the end of the walk, and its number of terms.
    sum: Vec<f64>,
    summed: usize,
    step: Option<NesStep>,
    halving: Halving,
}

/// The written form.
#[derive(Serialize, Deserialize)]
struct Saved {
    h: Vec<f64>,
    parameter: u64,
    optimizer: Vec<u8>,
    progress: Progress,
}

impl NesSearcher {
    /// A search that has not begun, with H at `start`.
    ///
    /// # Panics
    /// If a setting is out of its range.
    pub fn new(settings: &NesSettings, projection: &Projection<'_>, start: &[f64], rng: ChaCha8Rng) -> Self {
        settings.check("nes").unwrap_or_else(|error| panic!("{error}"));
        let upper: Vec<f64> = projection.space().dims().iter().map(|dim| dim.levels() as f64).collect();
        let factors: Vec<f64> =
            spread(projection, settings.sigma).into_iter().map(|sigma| sigma / settings.sigma).collect();
        let progress = Progress {
            parts: settings.form.parts(),
            settings: settings.clone(),
            rng,
            first_factors: factors.clone(),
            factors,
            upper,
            done: 0.0,
            drawn: Vec::new(),
            asked: Vec::new(),
            sum: vec![0.0; start.len()],
            summed: 0,
            step: None,
            halving: Halving::default(),
        };
        let params = ArchParams::new(start, &Device::default());
        Self { params, optimizer: progress.optimizer(), progress }
    }

    /// The same with single parts of its form changed, for ablations.
    #[must_use]
    pub fn with_parts(self, parts: NesParts) -> Self {
        let progress = Progress { parts, ..self.progress };
        Self { optimizer: progress.optimizer(), progress, ..self }
    }

    /// The mean H of the end of the walk.
    fn centre(&self) -> Vec<f64> {
        let Progress { sum, summed, .. } = &self.progress;
        match summed {
            0 => self.params.values(),
            _ => sum.iter().map(|sum| sum / *summed as f64).collect(),
        }
    }

    /// The candidates of the last choice.
    fn ask_finalists(&mut self, turn: Turn<'_>) -> Vec<Architecture> {
        if !self.progress.halving.begun() {
            let at = |point: &[f64]| turn.projection.architecture(point).ok();
            let Some(mean) = at(&self.centre()) else { return Vec::new() };
            self.progress.halving.begin(mean, turn.most, |noted| at(&noted.params()));
        }
        self.progress.asked = self.progress.halving.ask(turn.most);
        self.progress.asked.clone()
    }

    fn move_h(&mut self, projection: &Projection<'_>, gradient: &[f64], learning_rate: f64) -> Result<(), CostError> {
        let gradients = self.params.gradient(gradient);
        let params = self.optimizer.step(learning_rate, self.params.clone(), gradients);
        let values = match self.progress.parts.projection {
            true => projection.project(&params.values())?,
            false => params.values(),
        };
        self.params = params.with_values(&values);
        let progress = &mut self.progress;
        if progress.left() <= progress.parts.average {
            progress.sum.iter_mut().zip(&values).for_each(|(sum, h)| *sum += h);
            progress.summed += 1;
        }
        Ok(())
    }
}

impl Progress {
    fn estimator(&self) -> Estimator {
        let NesParts { sampling, shaping, moves, .. } = self.parts;
        Estimator { samples: self.settings.samples, sampling, shaping, moves }
    }

    fn optimizer(&self) -> ModuleOptimizer {
        NesConfig::new(self.upper.clone()).with_momentum(self.parts.momentum).init()
    }

    /// Share of the walk that is left.
    fn left(&self) -> f64 {
        (1.0 - self.done / (1.0 - self.parts.choice)).max(0.0)
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
        self.factors.iter().map(|factor| (sigma * factor).max(least)).collect()
    }

    /// The architecture that stands for a point near H.
    fn candidate(&self, projection: &Projection<'_>, point: &[f64]) -> Result<Architecture, CostError> {
        match self.parts.projection {
            true => projection.nearest(point),
            false => Ok(projection.space().at_params(point)),
        }
    }

    /// Adapts each dimension's sigma to the losses of directions, as separable NES does.
    fn adapt_sigma(&mut self, losses: &[f64], at_h: f64) {
        let (rows, columns) = (self.drawn.len(), self.factors.len());
        let drawn = Array2::from_shape_fn((rows, columns), |(row, dim)| self.drawn[row][dim]);
        let dimensions = columns as f64;
        let rate = self.parts.sigma_adaptation * (3.0 + dimensions.ln()) / (5.0 * dimensions.sqrt());
        let gradient = self.estimator().sigma_gradient(&drawn, losses, at_h, &self.sigmas());
        for ((factor, first), gradient) in self.factors.iter_mut().zip(&self.first_factors).zip(gradient) {
            let change = (-0.5 * rate * gradient).clamp(-1.0, 1.0);
            *factor = (*factor * change.exp()).clamp(ADAPTED[0] * first, ADAPTED[1] * first);
        }
    }

    /// The moves of H that losses belong to, `[samples, dimensions]`.
    fn moves(&self, h: &[f64]) -> Array2<f64> {
        let shape = (self.settings.samples, h.len());
        match self.parts.moves {
            Moves::Drawn => Array2::from_shape_fn(shape, |(row, dim)| self.drawn[row][dim]),
            Moves::Realized => {
                let ends: Vec<Vec<f64>> = self.asked.iter().map(Architecture::params).collect();
                Array2::from_shape_fn(shape, |(row, dim)| ends[row][dim] - h[dim])
            }
        }
    }
}

impl Searcher for NesSearcher {
    fn ask(&mut self, turn: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        self.progress.done = turn.done;
        if self.progress.parts.choice > 0.0 && turn.done >= 1.0 - self.progress.parts.choice {
            return Ok(self.ask_finalists(turn));
        }
        let estimator = self.progress.estimator();
        if self.evaluations() > turn.most {
            return Ok(Vec::new());
        }
        if self.progress.parts.projection {
            // The budget may have fallen since H was moved.
            self.params = self.params.clone().with_values(&turn.projection.project(&self.params.values())?);
        }
        let h = self.params.values();
        let sigmas = self.progress.sigmas();
        let directions = estimator.directions(&sigmas, &mut self.progress.rng);
        let mut asked = Vec::with_capacity(self.evaluations());
        for direction in directions.rows() {
            let point: Vec<f64> = h.iter().zip(direction).map(|(h, n)| h + n).collect();
            asked.push(self.progress.candidate(turn.projection, &point)?);
        }
        if estimator.needs_centre() {
            asked.push(self.progress.candidate(turn.projection, &h)?);
        }
        self.progress.drawn = directions.rows().into_iter().map(|row| row.to_vec()).collect();
        self.progress.asked.clone_from(&asked);
        Ok(asked)
    }

    fn tell(&mut self, projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.progress.asked.len(), "one loss per architecture");
        if self.progress.halving.begun() {
            self.progress.step = None;
            self.progress.halving.tell(losses);
            return Ok(());
        }
        let (h, progress) = (self.params.values(), &mut self.progress);
        let (sigma, estimator) = (progress.sigma(), progress.estimator());
        let mut losses = losses.to_vec();
        if !progress.parts.projection {
            let penalty = Penalty { rho: progress.settings.rho };
            for (loss, one) in losses.iter_mut().zip(&progress.asked) {
                *loss += penalty.at(one, projection.limits())?;
            }
        }
        let at_h = losses.get(estimator.samples).copied().unwrap_or(f64::NAN);
        losses.truncate(estimator.samples);
        if progress.parts.choice > 0.0 && progress.left() <= 0.5 {
            progress.halving.note(&progress.asked[..estimator.samples], &losses);
        }
        let gradient = estimator.gradient(&progress.moves(&h), &losses, at_h, sigma);
        if progress.parts.sigma_adaptation > 0.0 {
            progress.adapt_sigma(&losses, at_h);
        }
        let learning_rate = progress.settings.learning_rate * progress.left();
        progress.step = Some(NesStep {
            sigma,
            learning_rate,
            gradient_norm: gradient.values.dot(&gradient.values).sqrt(),
            signal_to_noise: gradient.signal_to_noise,
        });
        self.move_h(projection, &gradient.values.to_vec(), learning_rate)
    }

    fn evaluations(&self) -> usize {
        let estimator = self.progress.estimator();
        estimator.samples + usize::from(estimator.needs_centre())
    }

    fn params(&self) -> Vec<f64> {
        self.params.values()
    }

    /// H + n, n ~ N(0, sigma) (equation 8).
    fn around(&self, rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        let sigmas = self.progress.sigmas();
        Some(self.params.values().iter().zip(sigmas).map(|(h, sigma)| h + sigma * normal(rng)).collect())
    }

    fn step(&self) -> Option<NesStep> {
        self.progress.step
    }

    fn found(&self, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
        match self.progress.halving.best() {
            Some(best) => Ok(best.clone()),
            None => projection.architecture(&self.centre()),
        }
    }
}

impl Serialize for NesSearcher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let optimizer = self.optimizer.to_record().into_bytes().map_err(S::Error::custom)?.to_vec();
        let (h, parameter, progress) = (self.params.values(), self.params.id(), self.progress.clone());
        Saved { h, parameter, optimizer, progress }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NesSearcher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Saved { h, parameter, optimizer, progress } = Saved::deserialize(deserializer)?;
        let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(optimizer)).map_err(D::Error::custom)?;
        let params = ArchParams::with_id(&h, parameter, &Device::default());
        Ok(Self { params, optimizer: progress.optimizer().load_record(record), progress })
    }
}
