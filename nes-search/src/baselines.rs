//! Uniform rescalings: what a search has to beat.

use elastic_layers::{Architecture, DimKind, SearchSpace};

use crate::projection::{Projection, ProjectionError};

/// The backbone with all its channels scaled by one factor, at full resolution and depth.
///
/// # Errors
/// If that cannot meet the budget.
pub fn uniform_channel(space: &SearchSpace, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
    projection.architecture(&space.base().params())
}

/// The backbone scaled in channels and resolution together: one architecture at the budget for every resolution that
/// can meet it, the largest first.
///
/// # Errors
/// If a cost cannot be found, or no resolution can meet the budget.
pub fn uniform_joint(space: &SearchSpace, projection: &Projection<'_>) -> Result<Vec<Architecture>, ProjectionError> {
    let base = space.base();
    let resolutions = space.dims().iter().find(|dim| dim.kind == DimKind::Resolution);
    let levels = resolutions.map_or(1, |dim| dim.level_of(dim.base) + 1);
    let mut architectures: Vec<Architecture> = Vec::new();
    let mut gap = None;
    for level in (0..levels).rev() {
        let params: Vec<f64> = base
            .params()
            .iter()
            .zip(space.dims())
            .map(|(&h, dim)| if dim.kind == DimKind::Resolution { level as f64 + 0.5 } else { h })
            .collect();
        match projection.architecture(&params) {
            Ok(architecture) if !architectures.contains(&architecture) => architectures.push(architecture),
            Ok(_) => {}
            Err(error @ ProjectionError::Gap { .. }) => gap = Some(error),
            Err(error) => return Err(error),
        }
    }
    match gap {
        Some(error) if architectures.is_empty() => Err(error),
        _ => Ok(architectures),
    }
}
