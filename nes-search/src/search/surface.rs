//! A response surface: how the loss depends on resolution and depth.

use elastic_layers::{Architecture, CostError, CostModel, DimKind, SearchSpace};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

/// A function of the dimensions that are not channels, fitted to noisy losses by least squares
/// ([Box and Wilson, 1951](https://doi.org/10.1111/j.2517-6161.1951.tb00067.x)): quadratic, but for one term.
///
/// Losses on different images, and trainings under several seeds, differ by more than neighbouring resolutions do. What a
/// surface says of one comes from all of them together. Neighbours are not quite alike, though: where the strides do not
/// divide a resolution, maps are rounded up, and part of the budget goes into padding. The last term stands for that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Surface {
    coefficients: Vec<f64>,
}

impl Surface {
    /// The surface through losses of architectures; nothing, if none is finite. Where there are fewer losses than
    /// coefficients, the flattest that goes through them.
    ///
    /// # Errors
    /// If a cost cannot be found.
    pub(super) fn fit(
        space: &SearchSpace,
        cost: &CostModel,
        losses: &[(Architecture, f64)],
    ) -> Result<Option<Self>, CostError> {
        let finite: Vec<_> = losses.iter().filter(|(_, loss)| loss.is_finite()).collect();
        let rows = finite.iter().map(|(architecture, _)| terms(space, cost, architecture));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let Some(width) = rows.first().map(Vec::len) else { return Ok(None) };
        let matrix = DMatrix::from_fn(rows.len(), width, |row, column| rows[row][column]);
        let right = DVector::from_iterator(rows.len(), finite.iter().map(|(_, loss)| *loss));
        let solution = matrix.svd(true, true).solve(&right, 1e-9).ok();
        Ok(solution.map(|solution| Self { coefficients: solution.iter().copied().collect() }))
    }

    /// The loss that the surface has at an architecture.
    ///
    /// # Errors
    /// If a cost cannot be found.
    pub(super) fn at(
        &self,
        space: &SearchSpace,
        cost: &CostModel,
        architecture: &Architecture,
    ) -> Result<f64, CostError> {
        let terms = terms(space, cost, architecture)?;
        Ok(self.coefficients.iter().zip(terms).map(|(coefficient, term)| coefficient * term).sum())
    }
}

/// 1, the dimensions from -1 to 1, their products by twos, and the cost of a pixel.
fn terms(space: &SearchSpace, cost: &CostModel, architecture: &Architecture) -> Result<Vec<f64>, CostError> {
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
    terms.push(pixel_cost(space, cost, architecture)?);
    Ok(terms)
}

/// Logarithm of the MACs for one pixel with the channels of the backbone, relative to the backbone: how much of them is
/// padding depends on resolution and depth alone.
fn pixel_cost(space: &SearchSpace, cost: &CostModel, architecture: &Architecture) -> Result<f64, CostError> {
    let values = space.dims().iter().zip(architecture.values());
    let levels: Vec<usize> = values
        .map(|(dim, &value)| dim.level_of(if dim.kind == DimKind::Channels { dim.base } else { value }))
        .collect();
    let logarithm = |architecture: &Architecture| {
        let macs = cost.cost(architecture)?.macs.as_f64();
        let resolutions = space.dims().iter().zip(architecture.values());
        let sides = resolutions.filter(|(dim, _)| dim.kind == DimKind::Resolution).map(|(_, &side)| side as f64);
        Ok::<_, CostError>((macs / sides.map(|side| side * side).product::<f64>()).ln())
    };
    Ok(logarithm(&space.at_levels(&levels))? - logarithm(&space.base())?)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::PaddingConfig2d;
    use burn::tensor::{Device, Tensor};
    use elastic_layers::{Backbone, Elastic, ElasticConv2d, ElasticConv2dConfig, ElasticResize, SpaceError};

    use super::*;

    /// Halves the resolution twice; its depth changes nothing.
    #[derive(Module, Elastic, Debug)]
    struct Halves {
        resize: ElasticResize,
        convs: Vec<ElasticConv2d>,
    }

    impl Halves {
        fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
            let width = space.channels("width", 8).range(2..=8).add()?;
            let resolution = space.resolution("resolution", 28).range(14..=28).add()?;
            space.depth("depth", 10).range(6..=10).add()?;
            let convs = [1.into(), width.clone()].map(|from| {
                let config = ElasticConv2dConfig::new([from, width.clone()], [3, 3]).with_stride([2, 2]);
                config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
            });
            Ok(Self { resize: ElasticResize::new(resolution), convs: convs.into() })
        }
    }

    impl Backbone for Halves {
        fn forward(&self, images: Tensor<4>) -> Tensor<2> {
            let x = self.convs.iter().fold(self.resize.forward(images), |x, conv| conv.forward(x));
            x.mean_dims(&[2, 3]).flatten(1, 3)
        }
    }

    fn space_and_cost() -> (SearchSpace, CostModel) {
        let mut space = SearchSpace::new();
        Halves::new(&mut space, &Device::default()).expect("dimensions");
        let cost = CostModel::new(&space, [1, 28, 28], |device| Halves::new(&mut SearchSpace::new(), device));
        (space, cost)
    }

    fn architectures(space: &SearchSpace) -> Vec<Architecture> {
        let points =
            (0..15).flat_map(|resolution| (0..5).map(move |depth| [(resolution * depth) % 7, resolution, depth]));
        points.map(|point| space.at_params(&point.map(|level| f64::from(level) + 0.5))).collect()
    }

    /// A surface that there is.
    fn fit(space: &SearchSpace, cost: &CostModel, losses: &[(Architecture, f64)]) -> Surface {
        Surface::fit(space, cost, losses).expect("costs").expect("a finite loss")
    }

    /// The MACs of `Halves` with 8 channels for one pixel, counted by hand.
    fn macs_per_pixel(resolution: usize) -> f64 {
        let [half, quarter] = [resolution.div_ceil(2), resolution.div_ceil(4)];
        (half * half * 8 * 9 + quarter * quarter * 8 * 8 * 9) as f64 / (resolution * resolution) as f64
    }

    #[test]
    fn a_function_of_its_kind_is_found_again_whatever_the_channels() {
        let (space, cost) = space_and_cost();
        let truth = |architecture: &Architecture| {
            let [resolution, depth] = [architecture.values()[1], architecture.values()[2]];
            let padding = 0.1 * macs_per_pixel(resolution).ln();
            let [resolution, depth] = [resolution as f64, depth as f64];
            let quadratic = 0.002 * (resolution - 19.0).powi(2) + 0.01 * (depth - 7.0).powi(2);
            0.4 + quadratic + 0.001 * resolution * depth + padding
        };
        let all = architectures(&space);
        let few: Vec<_> =
            all.iter().step_by(7).map(|architecture| (architecture.clone(), truth(architecture))).collect();
        let surface = fit(&space, &cost, &few);
        for architecture in &all {
            let (found, expected) = (surface.at(&space, &cost, architecture).expect("a cost"), truth(architecture));
            assert!((found - expected).abs() < 1e-9, "{architecture}: {found}, not {expected}");
        }
    }

    #[test]
    fn one_loss_makes_a_flat_surface_through_it_and_what_is_not_finite_none() {
        let (space, cost) = space_and_cost();
        let architecture = space.smallest();
        let one = [(architecture.clone(), 0.7), (space.base(), f64::NAN), (space.base(), f64::INFINITY)];
        let surface = fit(&space, &cost, &one);
        assert!((surface.at(&space, &cost, &architecture).expect("a cost") - 0.7).abs() < 1e-9);
        assert_eq!(Surface::fit(&space, &cost, &one[1..]).expect("costs"), None);
    }

    #[test]
    fn noise_on_every_loss_moves_the_least_one_little() {
        let (space, cost) = space_and_cost();
        let truth = |architecture: &Architecture| {
            let resolution = architecture.values()[1];
            0.3 + 0.0005 * (resolution as f64 - 18.0).powi(2) + 0.1 * macs_per_pixel(resolution).ln()
        };
        let all = architectures(&space);
        let noisy: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(index, architecture)| {
                // Of mean 0, and as large as 5 pixels off the best resolution.
                let noise = if index % 2 == 0 { 0.012 } else { -0.012 };
                (architecture.clone(), truth(architecture) + noise)
            })
            .collect();
        let surface = fit(&space, &cost, &noisy);
        let at = |architecture: &Architecture| surface.at(&space, &cost, architecture).expect("a cost");
        let best = all.iter().min_by(|one, other| at(one).total_cmp(&at(other)));
        // Of the two beside 18, which 4 does not divide.
        assert!([16, 20].contains(&best.expect("some").values()[1]), "{best:?}");
    }
}
