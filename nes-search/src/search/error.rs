//! Why a search cannot be done.

use elastic_layers::{ArchitectureError, CostError, SpaceError};

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::projection::ProjectionError;

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
    /// A run directory has no checkpoint.
    #[error("{0}: expected a checkpoint of a search in it (checkpoints/<number>), found none")]
    NoCheckpoint(std::path::PathBuf),
    /// A checkpoint cannot be written or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A split has too few images.
    #[error("{split} split: expected at least {expected} images, one batch of {field}, found {found}")]
    Images {
        /// Which split.
        split: &'static str,
        /// The setting that asks for so many.
        field: &'static str,
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
