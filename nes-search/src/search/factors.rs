//! A few factors that say most about an architecture: resolution, depth, and how channels grow from front to back.

use elastic_layers::{Architecture, CostError, DimKind, ElasticDim};
use nalgebra::{DMatrix, DVector};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::projection::Projection;

/// Range of the tilt: channel numbers are multiplied by `exp(tilt * place)`, with places from -1 for the first to 1 for the
/// last.
const TILT: [f64; 2] = [-0.2, 0.6];
/// Tilts at which the surface is looked at.
const TILTS: usize = 9;
/// Draws for each candidate that is asked for, before a space is held to have no more of them.
const DRAWS: usize = 20;
/// Weights of the squared coefficients, of which the one with the least leave-one-out error is taken.
const RIDGES: [f64; 7] = [1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0];

/// A point of the factors: the level of each dimension that is no channel number, as H has it, and the tilt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Factors {
    structure: Vec<f64>,
    tilt: f64,
}

/// The dimensions that are no channel numbers, and may be lowered.
fn structure(projection: &Projection<'_>) -> Vec<usize> {
    let dims = projection.space().dims().iter().enumerate();
    let lowered = |dim: &ElasticDim| dim.kind != DimKind::Channels && dim.level_of(dim.base) > 0;
    dims.filter(|(_, dim)| lowered(dim) && projection.moves(dim)).map(|(index, _)| index).collect()
}

impl Factors {
    /// The architecture at the budget: the backbone at these levels, its channels tilted, and all scaled by one factor.
    pub fn architecture(&self, projection: &Projection<'_>) -> Result<Architecture, CostError> {
        let space = projection.space();
        let mut point = space.base().params();
        structure(projection).into_iter().zip(&self.structure).for_each(|(index, level)| point[index] = *level);
        let channels: Vec<usize> =
            (0..point.len()).filter(|&index| space.dims()[index].kind == DimKind::Channels).collect();
        for (place, &index) in channels.iter().enumerate() {
            let place = 2.0 * place as f64 / (channels.len().max(2) - 1) as f64 - 1.0;
            let dim = space.dims()[index];
            let value = dim.base as f64 * (self.tilt * place).exp();
            point[index] = (value - dim.min as f64) / dim.step as f64 + 0.5;
        }
        projection.nearest(&point)
    }

    /// The terms of a quadratic function of the factors, each scaled to between -1 and 1.
    fn terms(&self, projection: &Projection<'_>) -> Vec<f64> {
        let levels = structure(projection).into_iter().zip(&self.structure).map(|(index, level)| {
            let dim = projection.space().dims()[index];
            2.0 * level.floor() / dim.level_of(dim.base) as f64 - 1.0
        });
        let tilt = 2.0 * (self.tilt - TILT[0]) / (TILT[1] - TILT[0]) - 1.0;
        let linear: Vec<f64> = levels.chain([tilt]).collect();
        let mut terms = vec![1.0];
        terms.extend(&linear);
        for (place, one) in linear.iter().enumerate() {
            terms.extend(linear[place..].iter().map(|other| one * other));
        }
        terms
    }

    /// All points at which the surface is looked at.
    fn grid(projection: &Projection<'_>) -> Vec<Self> {
        let mut all = vec![Vec::new()];
        for index in structure(projection) {
            let dim = projection.space().dims()[index];
            let with = |levels: &Vec<f64>, level: usize| [levels.clone(), vec![level as f64 + 0.5]].concat();
            let levels = dim.level_of(dim.base) + 1;
            all = all.iter().flat_map(|some| (0..levels).map(move |level| with(some, level))).collect();
        }
        let tilt = |place: usize| TILT[0] + (TILT[1] - TILT[0]) * place as f64 / (TILTS - 1) as f64;
        let tilts = |structure: &Vec<f64>| {
            let structure = structure.clone();
            (0..TILTS).map(move |place| Self { structure: structure.clone(), tilt: tilt(place) })
        };
        all.iter().flat_map(tilts).collect()
    }

    /// So many points, spread evenly, whose architectures differ, with a tilt of 0 unless they are to be tilted: a shifted additive sequence
    /// ([Roberts, 2018](https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/)).
    pub fn spread(
        projection: &Projection<'_>,
        count: usize,
        tilted: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<(Self, Architecture)>, CostError> {
        let own = structure(projection);
        let count_of = |&index: &usize| {
            let dim = projection.space().dims()[index];
            (dim.level_of(dim.base) + 1) as f64
        };
        let levels: Vec<f64> = own.iter().map(count_of).collect();
        let dims = levels.len() + 1;
        // The root of x^(d+1) = x + 1.
        let root = (0..64).fold(1.5_f64, |root, _| (1.0 + root).powf(1.0 / (dims + 1) as f64));
        let shifts: Vec<f64> = (0..dims).map(|_| rng.random_range(0.0..1.0)).collect();
        let mut all: Vec<(Self, Architecture)> = Vec::new();
        for number in 0..DRAWS * count {
            if all.len() == count {
                break;
            }
            let place = |dim: usize| (shifts[dim] + number as f64 * root.powi(-(dim as i32 + 1))).fract();
            let structure = levels.iter().enumerate().map(|(dim, levels)| (place(dim) * levels).floor() + 0.5);
            let factors = Self {
                structure: structure.collect(),
                tilt: if tilted { TILT[0] + (TILT[1] - TILT[0]) * place(dims - 1) } else { 0.0 },
            };
            let architecture = factors.architecture(projection)?;
            // Where a structure cannot meet the budget, another stands for it.
            let factors = factors.at(&own, &architecture);
            if all.iter().all(|(_, known)| *known != architecture) {
                all.push((factors, architecture));
            }
        }
        Ok(all)
    }

    /// The same tilt at the structure of an architecture.
    fn at(&self, structure: &[usize], architecture: &Architecture) -> Self {
        let params = architecture.params();
        Self { structure: structure.iter().map(|&index| params[index]).collect(), tilt: self.tilt }
    }
}

/// A quadratic function of the factors, fitted to noisy losses by ridge regression.
#[derive(Clone, Debug)]
pub(super) struct Surface(DVector<f64>);

impl Surface {
    /// The surface through losses; nothing, if fewer than two are finite.
    pub fn fit(projection: &Projection<'_>, losses: &[(Factors, f64)]) -> Option<Self> {
        let finite: Vec<_> = losses.iter().filter(|(_, loss)| loss.is_finite()).collect();
        if finite.len() < 2 {
            return None;
        }
        let rows: Vec<Vec<f64>> = finite.iter().map(|(factors, _)| factors.terms(projection)).collect();
        let terms = DMatrix::from_fn(rows.len(), rows[0].len(), |row, column| rows[row][column]);
        let mean = finite.iter().map(|(_, loss)| loss).sum::<f64>() / finite.len() as f64;
        let losses = DVector::from_iterator(finite.len(), finite.iter().map(|(_, loss)| loss - mean));
        let fits = RIDGES.iter().filter_map(|&ridge| ridge_fit(&terms, &losses, ridge));
        let (_, mut best) = fits.min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        best[0] += mean;
        Some(Self(best))
    }

    /// The loss that the surface has at a point.
    pub fn at(&self, projection: &Projection<'_>, factors: &Factors) -> f64 {
        self.0.iter().zip(factors.terms(projection)).map(|(coefficient, term)| coefficient * term).sum()
    }

    /// The architecture at the budget where the surface is least.
    pub fn least(&self, projection: &Projection<'_>) -> Result<Option<Architecture>, CostError> {
        self.least_of(projection, Factors::grid(projection))
    }

    /// The uniform rescaling of channels and resolution where the surface is least.
    pub fn least_uniform(&self, projection: &Projection<'_>) -> Result<Option<Architecture>, CostError> {
        let full = |factors: &Factors| {
            structure(projection).into_iter().zip(&factors.structure).all(|(index, level)| {
                let dim = projection.space().dims()[index];
                dim.kind == DimKind::Resolution || *level as usize == dim.level_of(dim.base)
            })
        };
        let grid = Factors::grid(projection).into_iter().filter(full).map(|factors| Factors { tilt: 0.0, ..factors });
        self.least_of(projection, grid.collect())
    }

    /// The best that can meet the budget.
    fn least_of(&self, projection: &Projection<'_>, grid: Vec<Factors>) -> Result<Option<Architecture>, CostError> {
        let own = structure(projection);
        let mut grid: Vec<(f64, Factors)> =
            grid.into_iter().map(|factors| (self.at(projection, &factors), factors)).collect();
        grid.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        for (_, factors) in grid {
            let architecture = factors.architecture(projection)?;
            let share = projection.share(&architecture)?;
            if factors.at(&own, &architecture) == factors && share <= 1.0 && share >= projection.least() {
                return Ok(Some(architecture));
            }
        }
        Ok(None)
    }
}

/// The squared leave-one-out error of a ridge regression, and its coefficients; nothing, if it has no solution.
fn ridge_fit(terms: &DMatrix<f64>, losses: &DVector<f64>, ridge: f64) -> Option<(f64, DVector<f64>)> {
    let mut normal = terms.transpose() * terms;
    // The mean is known, and its coefficient small.
    (0..normal.nrows()).for_each(|term| normal[(term, term)] += if term == 0 { 1e-6 } else { ridge });
    let inverse = normal.try_inverse()?;
    let coefficients = &inverse * terms.transpose() * losses;
    let fitted = terms * &coefficients;
    let error = (0..losses.len()).map(|row| {
        let leverage = (terms.row(row) * &inverse * terms.row(row).transpose())[0];
        ((losses[row] - fitted[row]) / (1.0 - leverage).max(1e-3)).powi(2)
    });
    Some((error.sum(), coefficients))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use elastic_layers::SearchSpace;

    use super::*;
    use crate::rng::{Stream, stream};
    use crate::{Limit, Limits, Resource};

    /// Neighbouring channels multiplied, times the squared resolution.
    #[derive(Debug)]
    struct Area;

    impl Resource for Area {
        fn name(&self) -> &str {
            "area"
        }

        fn unit(&self) -> &str {
            "units"
        }

        fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
            let (side, channels) = architecture.values().split_first().expect("a resolution");
            Ok((side * side) as f64 * channels.windows(2).map(|pair| (pair[0] * pair[1]) as f64).sum::<f64>())
        }
    }

    fn space() -> SearchSpace {
        let mut space = SearchSpace::new();
        space.resolution("side", 32).range(16..=32).add().expect("a dimension");
        for name in ["a", "b", "c", "d"] {
            space.channels(name, 100).range(5..=150).add().expect("a dimension");
        }
        space
    }

    #[test]
    fn candidates_are_at_the_budget_and_spread_over_the_factors() {
        let space = space();
        let limits = Limits::new(Limit::new(Arc::new(Area), 0.1 * Area.of(&space.base()).expect("arithmetic")));
        let projection = Projection::new(&space, &limits).expect("within reach");
        let all = Factors::spread(&projection, 16, true, &mut stream(1, Stream::Trials)).expect("arithmetic");
        assert_eq!(all.len(), 16);
        for (factors, architecture) in &all {
            let share = projection.share(architecture).expect("arithmetic");
            assert!((0.98..=1.0).contains(&share), "{architecture}: {share}");
            assert_eq!(factors.structure[0] as usize + 16, architecture.get("side").expect("a dimension"));
            let ratio = |name| architecture.get(name).expect("a dimension") as f64;
            // From place -1/3 to 1/3.
            let tilt = 1.5 * (ratio("c") / ratio("b")).ln();
            assert!((tilt - factors.tilt).abs() < 0.15, "{architecture}: {tilt}, not {}", factors.tilt);
        }
        let quarter = |low: f64| all.iter().filter(|(one, _)| (low..low + 0.2).contains(&one.tilt)).count();
        assert!((0..4).all(|place| quarter(-0.2 + 0.2 * f64::from(place)) >= 2), "{all:?}");
    }

    #[test]
    fn the_surface_finds_the_least_of_a_noisy_bowl() {
        let space = space();
        let limits = Limits::new(Limit::new(Arc::new(Area), 0.1 * Area.of(&space.base()).expect("arithmetic")));
        let projection = Projection::new(&space, &limits).expect("within reach");
        let bowl = |factors: &Factors| {
            let side = factors.structure[0] + 15.5;
            2.0 + 0.5 * ((side - 24.0) / 8.0).powi(2) + 0.8 * (factors.tilt - 0.3).powi(2)
        };
        let mut rng = stream(1, Stream::Trials);
        let points = Factors::spread(&projection, 16, true, &mut rng).expect("arithmetic");
        let noisy = points.iter().map(|(factors, _)| (factors.clone(), bowl(factors) + rng.random_range(-0.01..0.01)));
        let surface = Surface::fit(&projection, &noisy.collect::<Vec<_>>()).expect("finite losses");
        let least = surface.least(&projection).expect("arithmetic").expect("one at the budget");
        let side = least.get("side").expect("a dimension");
        assert!((22..=26).contains(&side), "{least}");
        let tilt = 1.5 * (least.values()[3] as f64 / least.values()[2] as f64).ln();
        assert!((0.15..0.45).contains(&tilt), "{least}: tilt {tilt}");
        let uniform = surface.least_uniform(&projection).expect("arithmetic").expect("one at the budget");
        assert_eq!(uniform.values()[1], uniform.values()[4], "{uniform}");
        let none = [(points[0].0.clone(), f64::NAN), (points[1].0.clone(), 1.0)];
        assert!(Surface::fit(&projection, &none).is_none(), "one loss is no surface");
    }
}
