//! Elastic input resolution.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use crate::{Adaptation, AxesVisitor, Change, Elastic, Size};

/// Scales images to an elastic height and width, by bilinear interpolation with pixel centres aligned to half pixels.
///
/// Images that have the wanted size pass unchanged. The weights behind it serve every resolution (figure 1a of the
/// paper).
#[derive(Module, Debug)]
pub struct ElasticResize {
    #[module(skip)]
    resolution: Size,
    active: usize,
}

impl ElasticResize {
    /// A resize to the given height and width.
    pub fn new(resolution: impl Into<Size>) -> Self {
        let resolution = resolution.into();
        Self { active: resolution.max(), resolution }
    }

    /// Scales the images.
    ///
    /// # Shapes
    /// - `images`: `[batch, channels, height, width]`
    /// - output: `[batch, channels, resolution, resolution]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = images.dims();
        if [height, width] == [self.active; 2] {
            return images;
        }
        let options = InterpolateOptions::new(InterpolateMode::Bilinear)
            .with_align_corners(false)
            .with_output_size([self.active; 2]);
        interpolate(images, options)
    }
}

impl Elastic for ElasticResize {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        match adaptation.change() {
            Change::Select(architecture) => Self { active: self.resolution.at(architecture), ..self.clone() },
            Change::Materialize(architecture) => Self::new(self.resolution.at(architecture)),
            Change::Statistics(_) | Change::Name => self.clone(),
        }
    }

    fn visit_axes(&self, _visitor: &mut AxesVisitor) {}
}
