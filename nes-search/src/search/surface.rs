//! A response surface: how the loss depends on resolution and depth.

use elastic_layers::{Architecture, DimKind, SearchSpace};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

/// A quadratic function of the dimensions that are not channels, fitted to noisy losses by least squares
/// ([Box and Wilson, 1951](https://doi.org/10.1111/j.2517-6161.1951.tb00067.x)).
///
/// Trainings under several seeds differ by more than neighbouring resolutions do. What a surface says of one comes from
/// all trainings together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Surface {
    coefficients: Vec<f64>,
}

impl Surface {
    /// The surface through losses of architectures; nothing, if none is finite. Where there are fewer losses than
    /// coefficients, the flattest that goes through them.
    pub(super) fn fit(space: &SearchSpace, losses: &[(Architecture, f64)]) -> Option<Self> {
        let finite: Vec<_> = losses.iter().filter(|(_, loss)| loss.is_finite()).collect();
        let rows: Vec<Vec<f64>> = finite.iter().map(|(architecture, _)| terms(space, architecture)).collect();
        let width = rows.first()?.len();
        let matrix = DMatrix::from_fn(rows.len(), width, |row, column| rows[row][column]);
        let right = DVector::from_iterator(rows.len(), finite.iter().map(|(_, loss)| *loss));
        let solution = matrix.svd(true, true).solve(&right, 1e-9).ok()?;
        Some(Self { coefficients: solution.iter().copied().collect() })
    }

    /// The loss that the surface has at an architecture.
    pub(super) fn at(&self, space: &SearchSpace, architecture: &Architecture) -> f64 {
        self.coefficients.iter().zip(terms(space, architecture)).map(|(coefficient, term)| coefficient * term).sum()
    }
}

/// 1, the dimensions from -1 to 1, and their products by twos.
fn terms(space: &SearchSpace, architecture: &Architecture) -> Vec<f64> {
    let dims = space.dims().iter().zip(architecture.values());
    let mut terms = vec![1.0];
    terms.extend(dims.filter(|(dim, _)| dim.kind != DimKind::Channels).map(|(dim, &value)| {
        let steps = dim.levels().saturating_sub(1).max(1);
        2.0 * dim.level_of(value) as f64 / steps as f64 - 1.0
    }));
    let linear = terms.len();
    for one in 1..linear {
        for other in one..linear {
            terms.push(terms[one] * terms[other]);
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> SearchSpace {
        let mut space = SearchSpace::new();
        space.channels("width", 8).range(2..=8).add().expect("a dimension");
        space.resolution("resolution", 28).range(14..=28).add().expect("a dimension");
        space.depth("depth", 10).range(6..=10).add().expect("a dimension");
        space
    }

    fn architectures(space: &SearchSpace) -> Vec<Architecture> {
        let points =
            (0..15).flat_map(|resolution| (0..5).map(move |depth| [(resolution * depth) % 7, resolution, depth]));
        points.map(|point| space.at_params(&point.map(|level| f64::from(level) + 0.5))).collect()
    }

    #[test]
    fn a_quadratic_function_is_found_again_whatever_the_channels() {
        let space = space();
        let truth = |architecture: &Architecture| {
            let [resolution, depth] = [architecture.values()[1] as f64, architecture.values()[2] as f64];
            0.4 + 0.002 * (resolution - 19.0).powi(2) + 0.01 * (depth - 7.0).powi(2) + 0.001 * resolution * depth
        };
        let all = architectures(&space);
        let few: Vec<_> =
            all.iter().step_by(7).map(|architecture| (architecture.clone(), truth(architecture))).collect();
        let surface = Surface::fit(&space, &few).expect("finite losses");
        for architecture in &all {
            let (found, expected) = (surface.at(&space, architecture), truth(architecture));
            assert!((found - expected).abs() < 1e-9, "{architecture}: {found}, not {expected}");
        }
    }

    #[test]
    fn one_loss_makes_a_flat_surface_through_it_and_what_is_not_finite_none() {
        let space = space();
        let architecture = space.smallest();
        let one = [(architecture.clone(), 0.7), (space.base(), f64::NAN), (space.base(), f64::INFINITY)];
        let surface = Surface::fit(&space, &one).expect("a finite loss");
        assert!((surface.at(&space, &architecture) - 0.7).abs() < 1e-9);
        assert_eq!(Surface::fit(&space, &one[1..]), None);
    }

    #[test]
    fn noise_on_every_loss_moves_the_least_one_little() {
        let space = space();
        let truth = |architecture: &Architecture| 0.3 + 0.001 * (architecture.values()[1] as f64 - 18.0).powi(2);
        let all = architectures(&space);
        let noisy: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(index, architecture)| {
                // Of mean 0, and as large as 4 pixels off the best resolution.
                let noise = if index % 2 == 0 { 0.016 } else { -0.016 };
                (architecture.clone(), truth(architecture) + noise)
            })
            .collect();
        let surface = Surface::fit(&space, &noisy).expect("finite losses");
        let best = all.iter().min_by(|one, other| surface.at(&space, one).total_cmp(&surface.at(&space, other)));
        let resolution = best.expect("some").values()[1];
        assert!(resolution.abs_diff(18) <= 1, "{resolution}");
    }
}
