//! MobileNetV1 ([Howard et al., 2017](https://arxiv.org/abs/1704.04861)), elastic in channels and resolution.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_kernels::Activation;
use serde::{Deserialize, Serialize};

use super::parts::{ConvNorm, conv, depthwise, pooled};
use super::settings::{Images, Scales, at_least_one, scaled};
use crate::{Backbone, Elastic, ElasticLinear, ElasticLinearConfig, ElasticResize, SearchSpace, Size, SpaceError};

/// Configuration of a [`MobileNetV1`] and its search space.
///
/// The dimensions are those of Table 4 of the paper: the input resolution, and the output channels of every block. The
/// channels of the stem are fixed. No two blocks are joined by a shortcut, so that none can be dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV1Config {
    /// The images.
    pub images: Images,
    /// Number of classes.
    pub classes: usize,
    /// Channels of the first convolution.
    pub stem_channels: usize,
    /// Stride of the first convolution.
    pub stem_stride: usize,
    /// The blocks: a depthwise and a pointwise convolution each.
    pub blocks: Vec<SeparableBlock>,
    /// The range of the numbers of channels.
    pub scales: Scales,
}

/// A block of a [`MobileNetV1`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeparableBlock {
    /// Output channels, those of the pointwise convolution.
    pub channels: usize,
    /// Stride of the depthwise convolution.
    pub stride: usize,
}

impl MobileNetV1Config {
    /// The network as published, for colour images of 224 pixels.
    pub fn imagenet(classes: usize) -> Self {
        let rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
        let rows = rows.into_iter().chain([(512, 1); 5]).chain([(1024, 2), (1024, 1)]);
        Self {
            images: Images::imagenet(),
            classes,
            stem_channels: 32,
            stem_stride: 2,
            blocks: rows.map(|(channels, stride)| SeparableBlock { channels, stride }).collect(),
            scales: Scales { min: 0.1, max: 1.6, step: 0.03 },
        }
    }

    /// The network at a quarter of its width for images of about 28 pixels: as is usual for these, the stem keeps their
    /// size.
    pub fn small(image_channels: usize, image_size: usize, classes: usize) -> Self {
        Self {
            images: Images::small(image_channels, image_size),
            stem_stride: 1,
            ..Self::imagenet(classes).with_width(0.25)
        }
    }

    /// The network for other images; resolutions from the same share of their size.
    #[must_use]
    pub fn with_images(self, channels: usize, size: usize) -> Self {
        Self { images: self.images.resized(channels, size), ..self }
    }

    /// The network with all numbers of channels, the stem's too, times a positive number, as published for 0.75, 0.5
    /// and 0.25. They are rounded to whole numbers, at least 1.
    #[must_use]
    pub fn with_width(self, multiplier: f64) -> Self {
        let blocks = self.blocks.iter();
        let blocks = blocks.map(|block| SeparableBlock { channels: scaled(block.channels, multiplier), ..*block });
        Self { stem_channels: scaled(self.stem_channels, multiplier), blocks: blocks.collect(), ..self }
    }

    /// Adds the dimensions to a space and builds the supernet; in a space that is
    /// [pinned](SearchSpace::pinned), the static network of that architecture.
    ///
    /// # Errors
    /// If the configuration makes no network, or the space has dimensions of these names.
    pub fn init(&self, space: &mut SearchSpace, device: &Device) -> Result<MobileNetV1, SpaceError> {
        let Images { channels: image_channels, size, .. } = self.images;
        at_least_one(
            "MobileNetV1 sizes (image channels, image size, classes, channels and stride of the stem)",
            &[image_channels, size, self.classes, self.stem_channels, self.stem_stride],
        )?;
        let numbers: Vec<usize> = self.blocks.iter().flat_map(|block| [block.channels, block.stride]).collect();
        at_least_one("MobileNetV1 blocks (channels, stride)", &numbers)?;
        self.scales.check()?;

        let resize = self.images.resize(space)?;
        let mut input: Size = self.stem_channels.into();
        let stem = conv([image_channels.into(), input.clone()], 3, self.stem_stride);
        let mut blocks = Vec::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let output = self.scales.channels(space, format!("block{}", number + 1), block.channels)?;
            blocks.push(Separable {
                filter: ConvNorm::new(&depthwise(input.clone(), block.stride), Activation::Relu, device),
                mix: ConvNorm::new(&conv([input, output.clone()], 1, 1), Activation::Relu, device),
            });
            input = output;
        }
        Ok(MobileNetV1 {
            resize,
            stem: ConvNorm::new(&stem, Activation::Relu, device),
            blocks,
            classifier: ElasticLinearConfig::new(input, self.classes).init(device),
        })
    }
}

/// The block of MobileNetV1: filter each channel, mix them.
#[derive(Module, Elastic, Debug)]
struct Separable {
    filter: ConvNorm,
    mix: ConvNorm,
}

/// MobileNetV1; made by [`MobileNetV1Config`].
#[derive(Module, Elastic, Debug)]
pub struct MobileNetV1 {
    resize: ElasticResize,
    stem: ConvNorm,
    blocks: Vec<Separable>,
    classifier: ElasticLinear,
}

impl Backbone for MobileNetV1 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.stem.forward(self.resize.forward(images));
        let x = self.blocks.iter().fold(x, |x, block| block.mix.forward(block.filter.forward(x)));
        self.classifier.forward(pooled(x))
    }
}
