//! Inverted residuals with squeeze-and-excite and hard-swish, and a grouped convolution of elastic group width.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::activation::HardSwish;
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, ElasticLinear,
    ElasticLinearConfig, ElasticSqueezeExcite, ElasticSqueezeExciteConfig, Gate, SearchSpace, Size, SpaceError,
};

use crate::case::Case;

const IMAGE: [usize; 3] = [1, 11, 12];

#[derive(Module, Elastic, Debug)]
struct ConvNorm {
    conv: ElasticConv2d,
    norm: ElasticBatchNorm,
}

impl ConvNorm {
    fn new(config: ElasticConv2dConfig, device: &Device) -> Self {
        let norm = ElasticBatchNormConfig::new(config.outputs().clone()).init(device);
        Self { conv: config.with_bias(false).init(device), norm }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// An inverted residual with squeeze-and-excite behind the depthwise convolution.
#[derive(Module, Elastic, Debug)]
struct Block {
    expand: ConvNorm,
    depthwise: ConvNorm,
    squeeze: ElasticSqueezeExcite,
    project: ConvNorm,
    activation: HardSwish,
    has_shortcut: bool,
}

impl Block {
    fn new(
        [inputs, middle, outputs]: [Size; 3],
        squeezed: Size,
        kernel: usize,
        stride: usize,
        device: &Device,
    ) -> Self {
        let has_shortcut = inputs == outputs && stride == 1;
        let depthwise = ElasticConv2dConfig::depthwise(middle.clone(), [kernel; 2]).with_stride([stride; 2]);
        let pad = kernel / 2;
        let squeeze = ElasticSqueezeExciteConfig::new(middle.clone(), squeezed).with_gate(Gate::HardSigmoid);
        Self {
            expand: ConvNorm::new(ElasticConv2dConfig::new([inputs, middle.clone()], [1, 1]), device),
            depthwise: ConvNorm::new(depthwise.with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad)), device),
            squeeze: squeeze.init(device),
            project: ConvNorm::new(ElasticConv2dConfig::new([middle, outputs], [1, 1]), device),
            activation: HardSwish::new(),
            has_shortcut,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.activation.forward(self.expand.forward(x.clone()));
        let y = self.squeeze.forward(self.activation.forward(self.depthwise.forward(y)));
        let y = self.project.forward(y);
        if self.has_shortcut { x + y } else { y }
    }
}

#[derive(Module, Elastic, Debug)]
pub struct MobileNetV3 {
    stem: ConvNorm,
    blocks: Vec<Block>,
    last: ConvNorm,
    /// In two groups.
    grouped: ConvNorm,
    activation: HardSwish,
    hidden: ElasticLinear,
    head: ElasticLinear,
}

impl MobileNetV3 {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let mut dim = |name: &str, base: usize| space.channels(name, base).range(1..=base + 2).add();
        let (stem, wide) = (dim("stem", 3)?, dim("wide", 5)?);
        let widths = [
            (stem.clone(), stem.clone(), 1, 3),
            (stem.clone(), wide.clone(), 2, 5),
            (wide.clone(), wide.clone(), 1, 3),
        ];
        let mut blocks = vec![];
        for (index, (inputs, outputs, stride, kernel)) in widths.into_iter().enumerate() {
            let middle = dim(&format!("block{index}"), 7)?;
            let squeezed = dim(&format!("block{index}.squeezed"), 2)?;
            blocks.push(Block::new([inputs, middle, outputs], squeezed, kernel, stride, device));
        }
        let (width, hidden) = (dim("group", 3)?, dim("hidden", 6)?);
        let groups = Size::from(2);
        let channels = groups.clone() * width.clone();
        let grouped = ElasticConv2dConfig::new([channels.clone(), groups.clone() * hidden.clone()], [3, 3])
            .with_groups(groups.clone())
            .with_padding(PaddingConfig2d::Same);
        let first = ElasticConv2dConfig::new([IMAGE[0].into(), stem], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        Ok(Self {
            stem: ConvNorm::new(first, device),
            blocks,
            last: ConvNorm::new(ElasticConv2dConfig::new([wide, channels], [1, 1]), device),
            grouped: ConvNorm::new(grouped, device),
            activation: HardSwish::new(),
            hidden: ElasticLinearConfig::new(groups * hidden.clone(), hidden.clone()).init(device),
            head: ElasticLinearConfig::new(hidden, 3).init(device),
        })
    }
}

impl Backbone for MobileNetV3 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.activation.forward(self.stem.forward(images));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = self.activation.forward(self.last.forward(x));
        let x = self.activation.forward(self.grouped.forward(x));
        let x = self.hidden.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3));
        self.head.forward(self.activation.forward(x))
    }
}

const CASE: Case<MobileNetV3, 4, 2> =
    Case { input: [1, IMAGE[0], IMAGE[1], IMAGE[2]], build: MobileNetV3::new, forward: Backbone::forward };

#[test]
fn views_are_the_materialised_networks() {
    CASE.views_are_the_materialised_networks();
}

#[test]
fn what_a_view_leaves_out_is_as_if_it_were_zero() {
    CASE.what_a_view_leaves_out_is_as_if_it_were_zero();
}

#[test]
fn a_step_on_a_view_is_the_step_of_its_network() {
    CASE.a_step_on_a_view_is_the_step_of_its_network();
}

#[test]
fn costs_and_shapes_are_those_of_the_materialised_network() {
    CASE.costs_and_shapes_are_those_of_the_materialised_network(IMAGE);
}

#[test]
fn files_compute_what_the_network_does() {
    let onnx = CASE.files_compute_what_the_network_does(&[]);
    let operators: Vec<_> = onnx.operators().iter().map(|(operator, count)| (*operator, *count)).collect();
    assert_eq!(
        operators,
        [
            ("Add", 2),
            ("Conv", 1 + 3 * 5 + 2),
            ("Gemm", 2),
            ("GlobalAveragePool", 4),
            ("HardSigmoid", 3),
            ("HardSwish", 1 + 3 * 2 + 3),
            ("Mul", 3),
            ("Relu", 3),
            ("Reshape", 1)
        ]
    );
}
