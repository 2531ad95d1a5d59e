//! Uniform rescalings: what a search has to beat.

use elastic_layers::{Architecture, DimKind};

use crate::projection::{Projection, ProjectionError};

/// The backbone with all its channels scaled by one factor, at full resolution and depth. Where these alone take more than
/// the budget, they give way too.
///
/// # Errors
/// If that cannot meet the budget.
pub fn uniform_channel(projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
    projection.architecture(&projection.space().base().params())
}

/// The backbone scaled in channels and resolution together: one architecture at the budget for every resolution that
/// can meet it, the largest first. Where channels are so coarse that none can, the nearest below the budget for each.
///
/// # Errors
/// If a cost cannot be found.
pub fn uniform_joint(projection: &Projection<'_>) -> Result<Vec<Architecture>, ProjectionError> {
    rescaled(projection, &[DimKind::Resolution])
}

/// As [`uniform_joint`], with depth scaled too.
///
/// # Errors
/// If a cost cannot be found.
pub fn uniform_all(projection: &Projection<'_>) -> Result<Vec<Architecture>, ProjectionError> {
    rescaled(projection, &[DimKind::Resolution, DimKind::Depth])
}

/// The backbone at every combination of the values up to the base of the dimensions of some kinds, channels scaled.
fn rescaled(projection: &Projection<'_>, kinds: &[DimKind]) -> Result<Vec<Architecture>, ProjectionError> {
    let space = projection.space();
    let mut points = vec![space.base().params()];
    for (index, dim) in space.dims().iter().enumerate() {
        if !kinds.contains(&dim.kind) || !projection.moves(dim) {
            continue;
        }
        let levels = (0..=dim.level_of(dim.base)).rev();
        points = levels
            .flat_map(|level| {
                points.iter().map(move |point| {
                    let mut moved = point.clone();
                    moved[index] = level as f64 + 0.5;
                    moved
                })
            })
            .collect();
    }
    let (mut meeting, mut below) = (Vec::new(), Vec::new());
    for point in points {
        match projection.at_structure(&point)? {
            Some(architecture) => meeting.push(architecture),
            None => below.push(space.at_params(&projection.project(&point)?)),
        }
    }
    let mut architectures = if meeting.is_empty() { below } else { meeting };
    // Resolutions that the budget cannot have give way to the same one.
    architectures.dedup();
    Ok(architectures)
}
