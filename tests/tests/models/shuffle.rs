//! A network that splits channels and shuffles them, and averages what it says of an image and of its mirror image.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AvgPool2d, AvgPool2dConfig};
use burn::nn::{BatchNorm, LeakyRelu, LeakyReluConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, activation};

use crate::onnx::{Files, operators, trained_norm};

#[derive(Module, Debug)]
struct Unit {
    first: Conv2d,
    first_norm: BatchNorm,
    depthwise: Conv2d,
    depthwise_norm: BatchNorm,
    last: Conv2d,
    last_norm: BatchNorm,
    activation: LeakyRelu,
}

impl Unit {
    fn new(half: usize, device: &Device) -> Self {
        let conv = |kernel, groups| {
            let pad = kernel / 2;
            Conv2dConfig::new([half, half], [kernel, kernel])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                .with_groups(groups)
                .with_bias(false)
                .init(device)
        };
        Self {
            first: conv(1, 1),
            first_norm: trained_norm(half),
            depthwise: conv(3, half),
            depthwise_norm: trained_norm(half),
            last: conv(1, 1),
            last_norm: trained_norm(half),
            activation: LeakyReluConfig::new().with_negative_slope(0.1).init(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let halves = x.chunk(2, 1);
        let y = self.activation.forward(self.first_norm.forward(self.first.forward(halves[1].clone())));
        let y = self.depthwise_norm.forward(self.depthwise.forward(y));
        let y = activation::elu(self.last_norm.forward(self.last.forward(y)), 1.0);
        let joined = Tensor::cat(vec![halves[0].clone(), y], 1);
        let shuffled = joined.reshape([batch, 2, channels / 2, height, width]).swap_dims(1, 2);
        shuffled.reshape([batch, channels, height, width])
    }
}

#[derive(Module, Debug)]
struct Shuffle {
    stem: Conv2d,
    pool: AvgPool2d,
    units: Vec<Unit>,
    head: Linear,
}

impl Shuffle {
    fn new(device: &Device) -> Self {
        Self {
            stem: Conv2dConfig::new([3, 8], [3, 3]).with_stride([2, 2]).init(device),
            pool: AvgPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_count_include_pad(false)
                .init(),
            units: vec![Unit::new(4, device), Unit::new(4, device)],
            head: LinearConfig::new(2 * 8, 4).init(device),
        }
    }

    fn scores(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(activation::relu(self.stem.forward(images)));
        let x = self.units.iter().fold(x, |x, unit| unit.forward(x));
        // The mean and the largest value of every channel.
        let (mean, largest) = (x.clone().mean_dims(&[2, 3]), x.max_dim(2).max_dim(3));
        self.head.forward(Tensor::cat(vec![mean, largest], 1).flatten(1, 3))
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mirrored = images.clone().flip([3]);
        activation::log_softmax((self.scores(images) + self.scores(mirrored)) / 2.0, 1)
    }
}

#[test]
fn files_compute_what_the_network_does() {
    let mut files = Files::new();
    let model = Shuffle::new(&Device::default());
    let onnx = files.check("shuffle", &model, [1, 3, 17, 18], Shuffle::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("BatchNormalization"), count("Elu"), count("LeakyRelu")), (0, 4, 4), "{:?}", operators(&onnx));
    files.check_with_tools(&["Slice"]);
}
