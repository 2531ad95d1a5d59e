//! A network that marks regions: maps of several sizes, up again by interpolation, and joined with what was there.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::interpolate::{Interpolate2d, Interpolate2dConfig, InterpolateMode};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, GroupNorm, GroupNormConfig, PaddingConfig2d};
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor, activation};

use crate::onnx::{Files, normal, operators};

#[derive(Module, Debug)]
struct Double {
    first: Conv2d,
    first_norm: GroupNorm,
    second: Conv2d,
    second_norm: GroupNorm,
}

impl Double {
    fn new([inputs, outputs]: [usize; 2], device: &Device) -> Self {
        let same = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let conv = |inputs| Conv2dConfig::new([inputs, outputs], [3, 3]).with_padding(same.clone()).init(device);
        let norm = || {
            let mut norm = GroupNormConfig::new(2, outputs).init(device);
            norm.gamma = norm.gamma.map(|_| Param::from_tensor(normal([outputs])));
            norm.beta = norm.beta.map(|_| Param::from_tensor(normal([outputs])));
            norm
        };
        Self { first: conv(inputs), first_norm: norm(), second: conv(outputs), second_norm: norm() }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = activation::silu(self.first_norm.forward(self.first.forward(x)));
        activation::silu(self.second_norm.forward(self.second.forward(x)))
    }
}

#[derive(Module, Debug)]
struct UNet {
    down: Vec<Double>,
    pool: MaxPool2d,
    bottom: Double,
    dropout: Dropout,
    up: Vec<Double>,
    grow: Interpolate2d,
    head: Conv2d,
}

impl UNet {
    fn new(device: &Device) -> Self {
        Self {
            down: vec![Double::new([3, 4], device), Double::new([4, 6], device)],
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            bottom: Double::new([6, 8], device),
            dropout: DropoutConfig::new(0.3).init(),
            up: vec![Double::new([8 + 6, 6], device), Double::new([6 + 4, 4], device)],
            grow: Interpolate2dConfig::new()
                .with_scale_factor(Some([2.0, 2.0]))
                .with_mode(InterpolateMode::Linear)
                .init(),
            head: Conv2dConfig::new([4, 2], [1, 1]).init(device),
        }
    }

    /// A chance for each of the classes at every pixel.
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        // Odd sizes are mirrored at the edge until they can be halved twice.
        let [_, _, height, width] = images.dims();
        let mut x = images
            .pad((0, width.next_multiple_of(4) - width, 0, height.next_multiple_of(4) - height), PadMode::Reflect);
        let mut before = vec![];
        for down in &self.down {
            x = down.forward(x);
            before.push(x.clone());
            x = self.pool.forward(x);
        }
        x = self.dropout.forward(self.bottom.forward(x));
        for (up, before) in self.up.iter().zip(before.into_iter().rev()) {
            x = up.forward(Tensor::cat(vec![self.grow.forward(x), before], 1));
        }
        let x = self.head.forward(x).slice_dim(2, 0..height).slice_dim(3, 0..width);
        activation::softmax(x, 1)
    }
}

#[test]
fn files_compute_what_the_network_does() {
    let mut files = Files::new();
    let model = UNet::new(&Device::default());
    let onnx = files.check("unet", &model, [1, 3, 11, 14], UNet::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!(
        (count("Conv"), count("MaxPool"), count("Resize"), count("Concat")),
        (11, 2, 2, 2),
        "{:?}",
        operators(&onnx)
    );
    assert_eq!((count("Pad"), count("Slice"), count("Softmax")), (1, 1, 1), "{:?}", operators(&onnx));
    files.check_with_tools(&["Slice"]);
}
