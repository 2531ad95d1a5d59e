//! MobileNetV2 ([Sandler et al., 2018](https://arxiv.org/abs/1801.04381)), elastic in channels, resolution and depth.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_kernels::{Activation, add, fork};
use serde::{Deserialize, Serialize};

use super::parts::{ConvNorm, conv, depthwise, pooled};
use super::settings::{Images, Scales, at_least_one, scaled};
use crate::{
    Backbone, Elastic, ElasticLinear, ElasticLinearConfig, ElasticResize, ElasticStack, SearchSpace, Size, SpaceError,
    Torchvision,
};

/// Blocks of one width, joined by shortcuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Middle channels over input channels.
    pub expansion: usize,
    /// Output channels.
    pub channels: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
}

impl Stage {
    const fn new(expansion: usize, channels: usize, blocks: usize, stride: usize) -> Self {
        Self { expansion, channels, blocks, stride }
    }
}

/// Configuration of a [`MobileNetV2`] and its search space.
///
/// The dimensions are those of Table 4 of the paper: the channels of the stem and of every stage (blocks joined by a
/// shortcut share them), the middle channels of every block that expands, the channels of the last convolution, the
/// input resolution, and the depth in layers (stem, blocks, last convolution), of which repeated blocks can be dropped,
/// the last first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// The images.
    pub images: Images,
    /// Number of classes.
    pub classes: usize,
    /// Channels of the first convolution.
    pub stem_channels: usize,
    /// Stride of the first convolution.
    pub stem_stride: usize,
    /// The stages of blocks.
    pub stages: Vec<Stage>,
    /// Channels of the last convolution.
    pub head_channels: usize,
    /// The range of the numbers of channels.
    pub scales: Scales,
}

impl MobileNetV2Config {
    /// The network of the paper, for colour images of 224 pixels.
    pub fn imagenet(classes: usize) -> Self {
        let stage = Stage::new;
        Self {
            images: Images::imagenet(),
            classes,
            stem_channels: 32,
            stem_stride: 2,
            stages: vec![
                stage(1, 16, 1, 1),
                stage(6, 24, 2, 2),
                stage(6, 32, 3, 2),
                stage(6, 64, 4, 2),
                stage(6, 96, 3, 1),
                stage(6, 160, 3, 2),
                stage(6, 320, 1, 1),
            ],
            head_channels: 1280,
            scales: Scales { min: 0.2, max: 1.5, step: 0.05 },
        }
    }

    /// A network of the same kind for images of about 28 pixels: as is usual for these, the stem keeps their size.
    pub fn small(image_channels: usize, image_size: usize, classes: usize) -> Self {
        let stage = Stage::new;
        Self {
            images: Images::small(image_channels, image_size),
            stem_channels: 8,
            stem_stride: 1,
            stages: vec![stage(1, 8, 1, 1), stage(6, 12, 2, 2), stage(6, 16, 3, 2), stage(6, 24, 2, 1)],
            head_channels: 96,
            ..Self::imagenet(classes)
        }
    }

    /// The network for other images; resolutions from the same share of their size.
    #[must_use]
    pub fn with_images(self, channels: usize, size: usize) -> Self {
        Self { images: self.images.resized(channels, size), ..self }
    }

    /// The network with all numbers of channels, those of stem and last convolution too, times a positive number. They
    /// are rounded to whole numbers, at least 1.
    #[must_use]
    pub fn with_width(self, multiplier: f64) -> Self {
        let scaled = |channels| scaled(channels, multiplier);
        let stages = self.stages.iter().map(|stage| Stage { channels: scaled(stage.channels), ..*stage }).collect();
        let (stem_channels, head_channels) = (scaled(self.stem_channels), scaled(self.head_channels));
        Self { stem_channels, stages, head_channels, ..self }
    }

    fn check(&self) -> Result<(), SpaceError> {
        let Images { channels, size, .. } = self.images;
        at_least_one(
            "MobileNetV2 sizes (image channels, image size, classes, channels and stride of the stem, last channels)",
            &[channels, size, self.classes, self.stem_channels, self.stem_stride, self.head_channels],
        )?;
        let numbers = |stage: &Stage| [stage.expansion, stage.channels, stage.blocks, stage.stride];
        let numbers: Vec<usize> = self.stages.iter().flat_map(numbers).collect();
        at_least_one("MobileNetV2 stages (expansion, channels, blocks, stride)", &numbers)?;
        self.scales.check()
    }

    /// Adds the dimensions to a space and builds the supernet; in a space that is
    /// [pinned](SearchSpace::pinned), the static network of that architecture.
    ///
    /// # Errors
    /// If the configuration makes no network, or the space has dimensions of these names.
    pub fn init(&self, space: &mut SearchSpace, device: &Device) -> Result<MobileNetV2, SpaceError> {
        self.check()?;
        let channels = |space: &mut SearchSpace, name: String, base| self.scales.channels(space, name, base);
        let repeats: usize = self.stages.iter().map(|stage| stage.blocks - 1).sum();
        let layers = self.stages.len() + 2 + repeats;
        let resize = self.images.resize(space)?;
        let depth = space.depth("depth", layers).range(layers - repeats..=layers).add()?;
        let stem = channels(space, "stem".into(), self.stem_channels)?;

        let mut input = (stem.clone(), self.stem_channels);
        // Layers before a stage when everything that can be dropped behind it has been dropped.
        let mut before = layers - repeats - 1;
        let mut stages = Vec::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let output = channels(space, format!("stage{}", number + 1), stage.channels)?;
            let mut blocks = Vec::new();
            for block in 0..stage.blocks {
                let middle = match stage.expansion {
                    1 => None,
                    expansion => {
                        Some(channels(space, format!("stage{}.block{}", number + 1, block + 1), input.1 * expansion)?)
                    }
                };
                let stride = if block == 0 { stage.stride } else { 1 };
                let shortcut = block > 0;
                blocks.push(InvertedResidual::new([input.0, output.clone()], middle, stride, shortcut, device));
                input = (output.clone(), stage.channels);
            }
            stages.push(ElasticStack::new(blocks).with_depth(depth.clone(), before, 1));
            before += stage.blocks - 1;
        }
        let last = channels(space, "head".into(), self.head_channels)?;
        Ok(MobileNetV2 {
            resize,
            stem: ConvNorm::new(&conv([self.images.channels.into(), stem], 3, self.stem_stride), RELU6, device),
            stages,
            head: ConvNorm::new(&conv([input.0, last.clone()], 1, 1), RELU6, device),
            // As torchvision's: N(0, 0.01) and a bias of 0, which Burn's initialiser cannot tell apart.
            classifier: ElasticLinearConfig::new(last, self.classes).init(device),
        })
    }
}

const RELU6: Activation = Activation::Relu6;

/// The block of MobileNetV2: expand, filter each channel, project.
#[derive(Module, Elastic, Debug)]
struct InvertedResidual {
    expand: Option<ConvNorm>,
    filter: ConvNorm,
    project: ConvNorm,
    shortcut: bool,
}

impl InvertedResidual {
    fn new([input, output]: [Size; 2], middle: Option<Size>, stride: usize, shortcut: bool, device: &Device) -> Self {
        let expand =
            middle.as_ref().map(|middle| ConvNorm::new(&conv([input.clone(), middle.clone()], 1, 1), RELU6, device));
        let middle = middle.unwrap_or(input);
        Self {
            expand,
            filter: ConvNorm::new(&depthwise(middle.clone(), stride), RELU6, device),
            project: ConvNorm::new(&conv([middle, output], 1, 1), Activation::None, device),
            shortcut,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let through = |x: Tensor<4>| {
            let x = match &self.expand {
                Some(expand) => expand.forward(x),
                None => x,
            };
            self.project.forward(self.filter.forward(x))
        };
        if !self.shortcut {
            return through(input);
        }
        let [x, shortcut] = fork(input);
        add(shortcut, through(x))
    }
}

/// MobileNetV2; made by [`MobileNetV2Config`].
#[derive(Module, Elastic, Debug)]
pub struct MobileNetV2 {
    resize: ElasticResize,
    stem: ConvNorm,
    stages: Vec<ElasticStack<InvertedResidual>>,
    head: ConvNorm,
    classifier: ElasticLinear,
}

impl Backbone for MobileNetV2 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.stem.forward(self.resize.forward(images));
        let x = self.stages.iter().fold(x, |x, stage| stage.iter().fold(x, |x, block| block.forward(x)));
        let x = self.head.forward(x);
        self.classifier.forward(pooled(x))
    }
}

impl Torchvision for MobileNetV2 {
    fn torchvision_name(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split('.').collect();
        let number = |part: &str| usize::from(part == "norm");
        let blocks =
            |stages: &[ElasticStack<InvertedResidual>]| stages.iter().map(|stage| stage.blocks().len()).sum::<usize>();
        Some(match *parts {
            ["stem", part] => format!("features.0.{}", number(part)),
            ["head", part] => format!("features.{}.{}", blocks(&self.stages) + 1, number(part)),
            ["classifier"] => "classifier.1".into(),
            ["stages", stage, "blocks", block, layer, part] => {
                let (stage, block): (usize, usize) = (stage.parse().ok()?, block.parse().ok()?);
                let expands = usize::from(self.stages.get(stage)?.blocks().get(block)?.expand.is_some());
                let place = match layer {
                    "expand" => format!("0.{}", number(part)),
                    "filter" => format!("{expands}.{}", number(part)),
                    "project" => (expands + 1 + number(part)).to_string(),
                    _ => return None,
                };
                format!("features.{}.conv.{place}", blocks(&self.stages[..stage]) + block + 1)
            }
            _ => return None,
        })
    }
}
