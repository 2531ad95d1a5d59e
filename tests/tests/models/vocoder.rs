//! A network that makes sound of a spectrum: 1-D transposed convolutions, dilated blocks, a gate.

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig, ConvTranspose1d, ConvTranspose1dConfig};
use burn::nn::pool::{AvgPool1d, AvgPool1dConfig};
use burn::nn::{PRelu, PReluConfig, PaddingConfig1d};
use burn::tensor::{Device, Tensor, activation};

use crate::onnx::{Files, operators};

#[derive(Module, Debug)]
struct Dilated {
    conv: Conv1d,
    mix: Conv1d,
}

impl Dilated {
    fn new(channels: usize, dilation: usize, device: &Device) -> Self {
        Self {
            conv: Conv1dConfig::new(channels, 2 * channels, 3)
                .with_dilation(dilation)
                .with_padding(PaddingConfig1d::Explicit(dilation, dilation))
                .init(device),
            mix: Conv1dConfig::new(channels, channels, 1).init(device),
        }
    }

    /// One half of the channels lets the other through.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let halves = self.conv.forward(x.clone()).chunk(2, 1);
        let gated = activation::tanh(halves[0].clone()) * activation::sigmoid(halves[1].clone());
        x + self.mix.forward(gated)
    }
}

#[derive(Module, Debug)]
struct Vocoder {
    stem: Conv1d,
    up: Vec<ConvTranspose1d>,
    slopes: PRelu,
    blocks: Vec<Dilated>,
    smooth: AvgPool1d,
    head: Conv1d,
}

impl Vocoder {
    fn new(device: &Device) -> Self {
        let up = ConvTranspose1dConfig::new([6, 6], 4).with_stride(2).with_padding(1).with_groups(2);
        Self {
            stem: Conv1dConfig::new(5, 6, 3).with_padding(PaddingConfig1d::Explicit(2, 0)).init(device),
            up: vec![up.init(device), up.init(device)],
            slopes: PReluConfig::new().with_num_parameters(6).init(device),
            blocks: vec![Dilated::new(6, 1, device), Dilated::new(6, 3, device)],
            smooth: AvgPool1dConfig::new(3).with_stride(1).with_padding(PaddingConfig1d::Explicit(1, 1)).init(),
            head: Conv1dConfig::new(6, 1, 3).with_padding(PaddingConfig1d::Explicit(1, 1)).init(device),
        }
    }

    /// Samples `[batch, length]` in -1..1 of a spectrum `[batch, bands, length / 4]`.
    fn forward(&self, spectrum: Tensor<3>) -> Tensor<2> {
        let loudness = (spectrum.clone().exp().sum_dim(1) + 1e-3).log();
        let mut x = self.stem.forward(spectrum - loudness);
        for up in &self.up {
            x = up.forward(self.slopes.forward(x));
        }
        x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let samples = activation::tanh(self.head.forward(self.smooth.forward(x))).squeeze_dim::<2>(1);
        // Nothing quieter than can be heard.
        let quiet = samples.clone().abs().lower_scalar(1e-4);
        samples.mask_fill(quiet, 0.0)
    }
}

#[test]
fn files_compute_what_the_network_does() {
    let mut files = Files::new();
    let model = Vocoder::new(&Device::default());
    let onnx = files.check("vocoder", &model, [1, 5, 7], Vocoder::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!(
        (count("Conv"), count("ConvTranspose"), count("PRelu"), count("Where")),
        (6, 2, 2, 1),
        "{:?}",
        operators(&onnx)
    );
    files.check_with_tools(&["Slice"]);
}
