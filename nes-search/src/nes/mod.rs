//! Natural evolution strategies (NES) on architectures: H, the gradient of its loss, the optimizer, and the searcher that
//! joins them (section 3.1 and Appendix B of the paper).

mod estimator;
mod optimizer;
mod params;
mod searcher;

use elastic_layers::{Architecture, CostError};
use serde::{Deserialize, Serialize};

use crate::resource::Limits;
use crate::settings::{SettingsError, check};

pub(crate) use estimator::normal;
pub use estimator::{Estimator, Gradient, Moves, Sampling, Shaping};
pub use optimizer::{Nes, NesConfig, NesState};
pub use params::ArchParams;
pub use searcher::{NesSearcher, NesStep};

/// A named form of NES.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Antithetic pairs, standardised losses, momentum, and candidates that are moved onto the budget.
    #[default]
    Projected,
    /// The paper's: independent directions, losses as they are, and a penalty for the distance from the budget (equation
    /// 2).
    Paper,
}

/// The parts of a form of NES. The two [`Form`]s are what the command offers; ablations change single parts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NesParts {
    /// How directions are drawn.
    pub sampling: Sampling,
    /// What stands for a loss.
    pub shaping: Shaping,
    /// Which move of H a loss belongs to.
    pub moves: Moves,
    /// Weight of the past in the running mean of the gradients.
    pub momentum: f64,
    /// How fast each dimension's sigma is adapted to the losses, in units of the rate of separable NES; 0 for not at all.
    pub sigma_adaptation: f64,
    /// Share of the walk, its end, over which H is averaged; 0 for the last H.
    pub average: f64,
    /// Share of the evaluations that is kept for a last choice among the best candidates and H; 0 for H itself.
    pub choice: f64,
    /// Whether candidates and H are moved onto the budget; else a [`Penalty`] is added to losses.
    pub projection: bool,
}

impl Form {
    /// The parts.
    pub fn parts(self) -> NesParts {
        match self {
            Self::Projected => NesParts {
                sampling: Sampling::Antithetic,
                shaping: Shaping::Standardized,
                moves: Moves::Realized,
                momentum: 0.5,
                sigma_adaptation: 0.3,
                average: 0.3,
                choice: 0.2,
                projection: true,
            },
            Self::Paper => NesParts {
                sampling: Sampling::Independent,
                shaping: Shaping::Difference,
                moves: Moves::Drawn,
                momentum: 0.0,
                sigma_adaptation: 0.0,
                average: 0.0,
                choice: 0.0,
                projection: false,
            },
        }
    }
}

/// How NES moves H.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NesSettings {
    /// The form.
    pub form: Form,
    /// M: candidates of one gradient; an even number, if they come in antithetic pairs.
    pub samples: usize,
    /// sigma in the beginning: the deviation of candidates from H, in steps, and at most a fifth of a dimension's values.
    /// It falls linearly to `sigma_floor`.
    pub sigma: f64,
    /// sigma in the end, in steps.
    pub sigma_floor: f64,
    /// alpha, the learning rate of H in the beginning; it falls linearly to 0.
    pub learning_rate: f64,
    /// rho, the weight of the paper's penalty (equation 2); of no meaning in the other form.
    pub rho: f64,
}

impl Default for NesSettings {
    fn default() -> Self {
        Self { form: Form::Projected, samples: 16, sigma: 5.0, sigma_floor: 0.5, learning_rate: 6.0, rho: 1.0 }
    }
}

impl NesSettings {
    /// The numbers of the paper's Appendix B.
    pub fn paper() -> Self {
        Self { form: Form::Paper, samples: 100, sigma: 1.25, sigma_floor: 0.0, learning_rate: 5.0, rho: 1.0 }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, below `name`.
    pub(crate) fn check(&self, name: &str) -> Result<(), SettingsError> {
        let field = |field: &str| format!("{name}.{field}");
        check(field("samples"), self.samples, 2..=100_000)?;
        check(field("sigma"), self.sigma, 1e-3..=1e3)?;
        check(field("sigma_floor"), self.sigma_floor, 0.0..=self.sigma)?;
        check(field("learning_rate"), self.learning_rate, 0.0..=1e3)?;
        check(field("rho"), self.rho, 0.0..=1e6)?;
        if self.form.parts().sampling == Sampling::Antithetic && self.samples % 2 == 1 {
            return Err(SettingsError::new(field("samples"), "an even number, for antithetic pairs", self.samples));
        }
        Ok(())
    }
}

/// The resource term of the loss (equation 2): rho times the square of `R / R_t - 1`, and of every bound that is exceeded
/// the excess.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// rho, the weight of the term.
    pub rho: f64,
}

impl Penalty {
    /// What is added to the loss of an architecture.
    ///
    /// # Errors
    /// If what it takes cannot be found.
    pub fn at(&self, architecture: &Architecture, limits: &Limits) -> Result<f64, CostError> {
        let mut sum = (limits.budget().ratio(architecture)? - 1.0).powi(2);
        for bound in limits.bounds() {
            sum += (bound.ratio(architecture)? - 1.0).max(0.0);
        }
        Ok(self.rho * sum)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use elastic_layers::SearchSpace;

    use super::*;
    use crate::{Limit, Resource};

    /// As many of it as the only dimension has.
    #[derive(Debug)]
    struct Width;

    impl Resource for Width {
        fn name(&self) -> &str {
            "width"
        }

        fn unit(&self) -> &str {
            "channels"
        }

        fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
            Ok(architecture.values()[0] as f64)
        }
    }

    #[test]
    fn penalties_are_what_the_paper_says() {
        let mut space = SearchSpace::new();
        space.channels("width", 100).range(1..=200).add().expect("a dimension");
        let limit = |most| Limit::new(Arc::new(Width), most);
        let penalty = |width, limits: &Limits| {
            Penalty { rho: 2.0 }.at(&space.architecture(vec![width]).expect("one"), limits).expect("arithmetic")
        };
        let budget = Limits::new(limit(100.0));
        assert!((penalty(150, &budget) - 0.5).abs() < 1e-12);
        assert!((penalty(50, &budget) - 0.5).abs() < 1e-12);
        let bound = budget.with_bound(limit(120.0));
        assert!((penalty(150, &bound) - 1.0).abs() < 1e-12, "0.5 for the budget, 0.5 for the bound");
        assert!((penalty(50, &bound) - 0.5).abs() < 1e-12, "below a bound costs nothing");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let odd = NesSettings { samples: 3, ..NesSettings::default() };
        let message = odd.check("nes").expect_err("odd").to_string();
        assert_eq!(message, "nes.samples: expected an even number, for antithetic pairs, found 3");
        assert_eq!(NesSettings { samples: 3, ..NesSettings::paper() }.check("nes"), Ok(()));
    }
}
