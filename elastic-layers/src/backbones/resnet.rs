//! ResNet ([He et al., 2016](https://arxiv.org/abs/1512.03385)), elastic in channels and resolution.

use burn::module::Module;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::{Device, Tensor};
use elastic_kernels::{Activation, add_relu, fork};
use serde::{Deserialize, Serialize};

use super::parts::{ConvNorm, conv, padding, pooled};
use super::settings::{Images, Scales, at_least_one, scaled};
use crate::{
    Backbone, Elastic, ElasticLinear, ElasticLinearConfig, ElasticResize, SearchSpace, Size, SpaceError, Torchvision,
};

/// Configuration of a [`ResNet`] and its search space.
///
/// The dimensions are those of Table 4 of the paper: the output channels of every stage, whose blocks are joined by
/// shortcuts, and the middle channels of every block. The projection of a shortcut has the channels of its stage, and
/// the stem has those of the first stage where a shortcut joins them; otherwise they are fixed. There is a resolution
/// if [`Images::min_resolution`] is below the images' size.
///
/// A shortcut between other sizes or numbers of channels is a projection (option B of the publication), as in
/// torchvision: it fits any numbers of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// The images.
    pub images: Images,
    /// Number of classes.
    pub classes: usize,
    /// The first layers.
    pub stem: ResNetStem,
    /// Channels of the first convolution.
    pub stem_channels: usize,
    /// What a block is.
    pub block: ResNetBlock,
    /// The stages of blocks.
    pub stages: Vec<ResNetStage>,
    /// The range of the numbers of channels.
    pub scales: Scales,
}

/// The first layers of a [`ResNet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResNetStem {
    /// A convolution of 7x7 and a max pool of 3x3, both with a stride of 2.
    Large,
    /// A convolution of 3x3, which keeps the size of the images.
    Small,
}

/// What a block of a [`ResNet`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResNetBlock {
    /// Two convolutions of 3x3, of which the first has the stride.
    Basic,
    /// Convolutions of 1x1, 3x3 and 1x1, of which the 3x3 has the stride.
    Bottleneck,
}

/// Blocks of one width of a [`ResNet`], joined by shortcuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetStage {
    /// Output channels.
    pub channels: usize,
    /// Channels between the convolutions of a block.
    pub middle: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
}

impl ResNetConfig {
    /// ResNet-50 as in torchvision, for colour images of 224 pixels. As in Table 4 of the paper, its space has no
    /// resolution.
    pub fn resnet50(classes: usize) -> Self {
        let stage = |middle, blocks, stride| ResNetStage { channels: 4 * middle, middle, blocks, stride };
        Self {
            images: Images { min_resolution: 224, ..Images::imagenet() },
            classes,
            stem: ResNetStem::Large,
            stem_channels: 64,
            block: ResNetBlock::Bottleneck,
            stages: vec![stage(64, 3, 1), stage(128, 4, 2), stage(256, 6, 2), stage(512, 3, 2)],
            scales: Scales { min: 0.1, max: 1.6, step: 0.03 },
        }
    }

    /// ResNet-20 for colour images of 32 pixels (section 4.2 of the publication), but with projections. Resolutions are
    /// from half of the size.
    ///
    /// Of its 272,474 parameters for 10 classes, 2,752 are those of the two projections: without them there are the
    /// 0.27 M of the publication.
    pub fn resnet20(classes: usize) -> Self {
        Self::cifar(3, classes)
    }

    /// ResNet-56, of the same kind as [`resnet20`](Self::resnet20).
    ///
    /// Of its 855,770 parameters for 10 classes, 2,752 are those of the two projections: without them there are the
    /// 0.85 M of the publication.
    pub fn resnet56(classes: usize) -> Self {
        Self::cifar(9, classes)
    }

    fn cifar(blocks: usize, classes: usize) -> Self {
        let stage = |channels, stride| ResNetStage { channels, middle: channels, blocks, stride };
        Self {
            images: Images::small(3, 32),
            stem: ResNetStem::Small,
            stem_channels: 16,
            block: ResNetBlock::Basic,
            stages: vec![stage(16, 1), stage(32, 2), stage(64, 2)],
            ..Self::resnet50(classes)
        }
    }

    /// The network for other images; resolutions from the same share of their size.
    #[must_use]
    pub fn with_images(self, channels: usize, size: usize) -> Self {
        Self { images: self.images.resized(channels, size), ..self }
    }

    /// The network with all numbers of channels, the stem's too, times a positive number. They are rounded to whole numbers,
    /// at least 1.
    #[must_use]
    pub fn with_width(self, multiplier: f64) -> Self {
        let scaled = |channels| scaled(channels, multiplier);
        let wider = |stage: &ResNetStage| ResNetStage {
            channels: scaled(stage.channels),
            middle: scaled(stage.middle),
            ..*stage
        };
        let stages = self.stages.iter().map(wider).collect();
        Self { stem_channels: scaled(self.stem_channels), stages, ..self }
    }

    /// Adds the dimensions to a space and builds the supernet; in a space that is
    /// [pinned](SearchSpace::pinned), the static network of that architecture.
    ///
    /// # Errors
    /// If the configuration makes no network, or the space has dimensions of these names.
    pub fn init(&self, space: &mut SearchSpace, device: &Device) -> Result<ResNet, SpaceError> {
        self.check()?;
        let resize = self.images.resize(space)?;
        let mut stem: Size = self.stem_channels.into();
        let mut input = stem.clone();
        let mut stages = Vec::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let output = self.scales.channels(space, format!("stage{}", number + 1), stage.channels)?;
            let projects = number > 0 || stage.stride > 1 || stage.channels != self.stem_channels;
            if !projects {
                stem = output.clone();
                input = output.clone();
            }
            let mut blocks = Vec::new();
            for block in 0..stage.blocks {
                let name = format!("stage{}.block{}", number + 1, block + 1);
                let middle = self.scales.channels(space, name, stage.middle)?;
                let stride = if block == 0 { stage.stride } else { 1 };
                let ends = [input, output.clone()];
                blocks.push(Residual::new(self.block, ends, middle, stride, projects && block == 0, device));
                input = output.clone();
            }
            stages.push(blocks);
        }
        let (kernel, stride, pool) = match self.stem {
            ResNetStem::Large => {
                (7, 2, Some(MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding(3))))
            }
            ResNetStem::Small => (3, 1, None),
        };
        let stem = conv([self.images.channels.into(), stem], kernel, stride);
        Ok(ResNet {
            resize,
            stem: ConvNorm::new(&stem, Activation::Relu, device),
            pool: pool.map(|pool| pool.init()),
            stages,
            classifier: ElasticLinearConfig::new(input, self.classes).init(device),
        })
    }

    fn check(&self) -> Result<(), SpaceError> {
        at_least_one(
            "ResNet sizes (image channels, image size, classes, channels of the stem)",
            &[self.images.channels, self.images.size, self.classes, self.stem_channels],
        )?;
        let numbers = |stage: &ResNetStage| [stage.channels, stage.middle, stage.blocks, stage.stride];
        let numbers: Vec<usize> = self.stages.iter().flat_map(numbers).collect();
        at_least_one("ResNet stages (channels, middle channels, blocks, stride)", &numbers)?;
        self.scales.check()
    }
}

/// The block of ResNet: convolutions, to which its input is added. Named as in torchvision.
#[derive(Module, Elastic, Debug)]
struct Residual {
    conv1: ConvNorm,
    conv2: ConvNorm,
    conv3: Option<ConvNorm>,
    downsample: Option<ConvNorm>,
}

impl Residual {
    fn new(
        block: ResNetBlock,
        [input, output]: [Size; 2],
        middle: Size,
        stride: usize,
        projects: bool,
        device: &Device,
    ) -> Self {
        let layer = |ends, kernel, stride, activation| ConvNorm::new(&conv(ends, kernel, stride), activation, device);
        let downsample = projects.then(|| layer([input.clone(), output.clone()], 1, stride, Activation::None));
        let (first, inner, last) = ([input, middle.clone()], [middle.clone(), middle.clone()], [middle, output]);
        match block {
            ResNetBlock::Basic => Self {
                conv1: layer(first, 3, stride, Activation::Relu),
                conv2: layer(last, 3, 1, Activation::None),
                conv3: None,
                downsample,
            },
            ResNetBlock::Bottleneck => Self {
                conv1: layer(first, 1, 1, Activation::Relu),
                conv2: layer(inner, 3, stride, Activation::Relu),
                conv3: Some(layer(last, 1, 1, Activation::None)),
                downsample,
            },
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let through = |layer: &Option<ConvNorm>, x| match layer {
            Some(layer) => layer.forward(x),
            None => x,
        };
        let [x, shortcut] = fork(input);
        let x = through(&self.conv3, self.conv2.forward(self.conv1.forward(x)));
        add_relu(x, through(&self.downsample, shortcut))
    }
}

/// ResNet; made by [`ResNetConfig`].
#[derive(Module, Elastic, Debug)]
pub struct ResNet {
    resize: ElasticResize,
    stem: ConvNorm,
    pool: Option<MaxPool2d>,
    stages: Vec<Vec<Residual>>,
    classifier: ElasticLinear,
}

impl Backbone for ResNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.stem.forward(self.resize.forward(images));
        let x = match &self.pool {
            Some(pool) => pool.forward(x),
            None => x,
        };
        let x = self.stages.iter().flatten().fold(x, |x, block| block.forward(x));
        self.classifier.forward(pooled(x))
    }
}

impl Torchvision for ResNet {
    fn torchvision_name(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split('.').collect();
        Some(match *parts {
            ["stem", "conv"] => "conv1".into(),
            ["stem", "norm"] => "bn1".into(),
            ["stages", stage, block, layer, part] => {
                let layer = match (layer.strip_prefix("conv"), part) {
                    (Some(number), "conv") => format!("conv{number}"),
                    (Some(number), "norm") => format!("bn{number}"),
                    (None, "conv") => format!("{layer}.0"),
                    (None, "norm") => format!("{layer}.1"),
                    _ => return None,
                };
                format!("layer{}.{block}.{layer}", stage.parse::<usize>().ok()? + 1)
            }
            ["classifier"] => "fc".into(),
            _ => return None,
        })
    }
}
