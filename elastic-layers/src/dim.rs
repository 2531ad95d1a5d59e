//! Elastic dimensions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an elastic dimension changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DimKind {
    /// A number of channels.
    Channels,
    /// The height and width of the network's input, in pixels.
    Resolution,
    /// A number of layers or blocks.
    Depth,
}

impl fmt::Display for DimKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channels => "channels",
            Self::Resolution => "resolution",
            Self::Depth => "depth",
        })
    }
}

/// One architecture hyperparameter: an ordered integer.
///
/// Its values are `min`, `min + step`, … up to `max`; `base` is one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticDim {
    /// Unique name in its space.
    pub name: String,
    /// What it changes.
    pub kind: DimKind,
    /// Value in the backbone as its authors made it.
    pub base: usize,
    /// Smallest value.
    pub min: usize,
    /// Largest value.
    pub max: usize,
    /// Distance between neighbouring values.
    pub step: usize,
}

impl ElasticDim {
    /// The number of values.
    pub fn levels(&self) -> usize {
        (self.max - self.min) / self.step + 1
    }

    /// The value at a level, `0` being the smallest; levels beyond the last give the largest.
    pub fn at_level(&self, level: usize) -> usize {
        self.min + level.min(self.levels() - 1) * self.step
    }

    /// The level of a value, or of the largest value below it; `0` below the smallest.
    pub fn level_of(&self, value: usize) -> usize {
        value.clamp(self.min, self.max).saturating_sub(self.min) / self.step
    }

    /// Whether a value is one of the dimension's.
    pub fn contains(&self, value: usize) -> bool {
        (self.min..=self.max).contains(&value) && (value - self.min).is_multiple_of(self.step)
    }

    /// The value that a continuous hyperparameter `h`, in steps above the smallest value, stands for: `h` rounded
    /// down and clamped (section 3.1.2 of the paper).
    pub fn at_param(&self, h: f64) -> usize {
        // A cast from float saturates, and takes NaN to 0.
        self.at_level(h.floor() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dim(min: usize, step: usize, levels: usize) -> ElasticDim {
        let max = min + step * (levels - 1);
        ElasticDim { name: "d".into(), kind: DimKind::Channels, base: max, min, max, step }
    }

    proptest! {
        #[test]
        fn levels_and_values_are_inverse(min in 1usize..50, step in 1usize..9, levels in 1usize..40, level in 0usize..60) {
            let dim = dim(min, step, levels);
            prop_assert_eq!(dim.levels(), levels);
            let value = dim.at_level(level);
            prop_assert!(dim.contains(value));
            prop_assert_eq!(dim.level_of(value), level.min(levels - 1));
        }

        #[test]
        fn a_param_is_rounded_down_and_clamped(min in 1usize..50, step in 1usize..9, levels in 1usize..40, h in -50.0f64..90.0) {
            let dim = dim(min, step, levels);
            let expected = min as f64 + step as f64 * h.floor().clamp(0.0, (levels - 1) as f64);
            prop_assert_eq!(dim.at_param(h) as f64, expected);
        }
    }

    #[test]
    fn a_param_that_is_not_a_number_is_the_smallest_value() {
        assert_eq!(dim(3, 2, 5).at_param(f64::NAN), 3);
    }
}
