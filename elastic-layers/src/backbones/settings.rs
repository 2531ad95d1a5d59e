//! What every backbone is configured by: its images, and the range of its numbers of channels.

use serde::{Deserialize, Serialize};

use crate::{ElasticResize, SearchSpace, Size, SpaceError};

/// The images of a backbone, and the resolutions that it may scale them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Channels.
    pub channels: usize,
    /// Height and width, in pixels; also the largest resolution.
    pub size: usize,
    /// Smallest resolution, in pixels; that of the largest leaves the space without a resolution.
    pub min_resolution: usize,
}

impl Images {
    /// Colour images of 224 pixels, and resolutions from 96 pixels (Table 4 of the paper).
    pub(super) fn imagenet() -> Self {
        Self { channels: 3, size: 224, min_resolution: 96 }
    }

    /// Small images, and resolutions from half of their size.
    pub(super) fn small(channels: usize, size: usize) -> Self {
        Self { channels, size, min_resolution: size.div_ceil(2) }
    }

    /// Images of other channels and another size. The smallest resolution is the same share of the size.
    #[must_use]
    pub fn resized(self, channels: usize, size: usize) -> Self {
        let min_resolution = (size * self.min_resolution).div_ceil(self.size.max(1));
        Self { channels, size, min_resolution }
    }

    /// Adds the resolution to a space.
    pub(super) fn resize(&self, space: &mut SearchSpace) -> Result<ElasticResize, SpaceError> {
        if self.min_resolution == self.size {
            return Ok(ElasticResize::new(self.size));
        }
        Ok(ElasticResize::new(space.resolution("resolution", self.size).range(self.min_resolution..=self.size).add()?))
    }
}

/// The range of every number of channels, over its base.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scales {
    /// The smallest number.
    pub min: f64,
    /// The largest number.
    pub max: f64,
    /// The distance between neighbouring numbers.
    pub step: f64,
}

impl Scales {
    /// Adds a number of channels to a space.
    pub(super) fn channels(
        &self,
        space: &mut SearchSpace,
        name: impl Into<String>,
        base: usize,
    ) -> Result<Size, SpaceError> {
        space.channels(name, base).scale(self.min..=self.max).step(self.step).add()
    }

    pub(super) fn check(&self) -> Result<(), SpaceError> {
        let Self { min, max, step } = *self;
        if step > 0.0 && min > 0.0 && min <= 1.0 && max >= 1.0 && max.is_finite() {
            return Ok(());
        }
        Err(SpaceError::Backbone {
            what: "scales of the channels",
            expected: "a positive step, and a range around 1".into(),
            found: format!("{min} to {max} in steps of {step}"),
        })
    }
}

/// A number of channels times a positive factor, rounded, at least 1.
pub(super) fn scaled(channels: usize, multiplier: f64) -> usize {
    ((channels as f64 * multiplier).round() as usize).max(1)
}

/// Checks that none of a backbone's numbers is 0.
pub(super) fn at_least_one(what: &'static str, numbers: &[usize]) -> Result<(), SpaceError> {
    if numbers.is_empty() || numbers.contains(&0) {
        let expected = "numbers of at least 1".into();
        return Err(SpaceError::Backbone { what, expected, found: format!("{numbers:?}") });
    }
    Ok(())
}
