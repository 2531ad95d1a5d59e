//! Uniform rescalings: what a search has to beat.

use elastic_layers::{Architecture, DimKind, SearchSpace};

use crate::projection::{Projection, ProjectionError};

/// The backbone with all its channels scaled by one factor, at full resolution and depth.
///
/// # Errors
/// If that cannot meet the budget.
pub fn uniform_channel(space: &SearchSpace, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
    projection.at_structure(&space.base().params())
}

/// The backbone scaled in channels and resolution together: one architecture at the budget for every resolution that
/// can meet it, the largest first. Where channels are so coarse that none can, the nearest below the budget for each.
///
/// # Errors
/// If a cost cannot be found.
pub fn uniform_joint(space: &SearchSpace, projection: &Projection<'_>) -> Result<Vec<Architecture>, ProjectionError> {
    let base = space.base();
    let resolutions = space.dims().iter().find(|dim| dim.kind == DimKind::Resolution);
    let levels = resolutions.map_or(1, |dim| dim.level_of(dim.base) + 1);
    let (mut meeting, mut below) = (Vec::new(), Vec::new());
    for level in (0..levels).rev() {
        let params: Vec<f64> = base
            .params()
            .iter()
            .zip(space.dims())
            .map(|(&h, dim)| if dim.kind == DimKind::Resolution { level as f64 + 0.5 } else { h })
            .collect();
        match projection.at_structure(&params) {
            Ok(architecture) => meeting.push(architecture),
            Err(ProjectionError::Gap { .. }) => below.push(space.at_params(&projection.project(&params)?)),
            Err(error) => return Err(error),
        }
    }
    let mut architectures = if meeting.is_empty() { below } else { meeting };
    // Resolutions that the budget cannot have give way to the same one.
    architectures.dedup();
    Ok(architectures)
}
