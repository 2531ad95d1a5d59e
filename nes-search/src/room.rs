//! How much of a budget is left to choose.

use std::fmt;

use elastic_layers::{CostError, DimKind, SearchSpace};

use crate::resource::Limit;

/// What the smallest networks of a space take of a budget.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Room {
    /// Share of the budget that the smallest numbers of channels take, at the backbone's resolution and depth.
    pub full: f64,
    /// Share of the budget that the smallest architecture of the space takes.
    pub whole: f64,
}

impl Room {
    /// The share from which on there is little left to choose.
    const CROWDED: f64 = 0.5;

    /// The shares of a budget.
    ///
    /// # Errors
    /// If what an architecture takes cannot be found.
    pub fn new(space: &SearchSpace, budget: &Limit) -> Result<Self, CostError> {
        let full = space.with_values(|dim| if dim.kind == DimKind::Channels { dim.min } else { dim.base });
        Ok(Self { full: budget.ratio(&full)?, whole: budget.ratio(&space.smallest())? })
    }

    /// Whether the smallest channels alone take more than half of the budget.
    pub fn is_crowded(&self) -> bool {
        self.full > Self::CROWDED
    }
}

/// Both shares, with a warning if little is left.
impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { full, whole } = self;
        write!(
            f,
            "smallest network: {full:.3} of the budget at full resolution and depth, {whole:.3} in the whole space"
        )?;
        if self.is_crowded() {
            write!(
                f,
                "\nwarning: above {} there is little to choose: take a larger budget, or a wider backbone or a smaller \
                 scales.min (in the table backbone of a configuration)",
                Self::CROWDED
            )?;
        }
        Ok(())
    }
}
