//! Capturing a forward: shapes, names, counts, and no effect on the captured model.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, LinearLayout, PaddingConfig2d};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData, activation};
use elastic_layers::Macs;
use elastic_layers::capture::{CaptureError, LayerKind, capture, capture_model};

#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: BatchNorm,
}

#[derive(Module, Debug)]
struct Net {
    stem: Conv2d,
    blocks: Vec<Block>,
    up: ConvTranspose2d,
    pool: AdaptiveAvgPool2d,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let same = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let block = |groups: usize| Block {
            conv: Conv2dConfig::new([6, 6], [3, 3])
                .with_padding(same.clone())
                .with_groups(groups)
                .with_bias(false)
                .init(device),
            norm: BatchNormConfig::new(6).init(device),
        };
        Self {
            stem: Conv2dConfig::new([3, 6], [3, 3]).with_stride([2, 2]).with_padding(same.clone()).init(device),
            blocks: vec![block(1), block(6)],
            up: ConvTranspose2dConfig::new([6, 4], [2, 2]).with_stride([2, 2]).init(device),
            pool: AdaptiveAvgPool2dConfig::new([1, 1]).init(),
            head: LinearConfig::new(4, 5).init(device),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = self.stem.forward(images);
        for block in &self.blocks {
            x = activation::relu(block.norm.forward(block.conv.forward(x.clone()))) + x;
        }
        let x = self.pool.forward(self.up.forward(x));
        self.head.forward(x.flatten(1, 3))
    }
}

/// Multiply-accumulates of [`Net`] at 3 x 8 x 8, layer by layer.
const STEM: u64 = 6 * 4 * 4 * 3 * 9;
const DENSE: u64 = 6 * 4 * 4 * 6 * 9;
const DEPTHWISE: u64 = 6 * 4 * 4 * 9;
const UP: u64 = 6 * 4 * 4 * 4 * 4;
const HEAD: u64 = 4 * 5;

#[test]
fn layers_carry_names_shapes_and_exact_costs() {
    let captured = capture([1, 3, 8, 8], Net::new, Net::forward).expect("captures");
    let layers = captured.layers();
    let rows: Vec<_> = layers.iter().map(|layer| (layer.name.as_str(), layer.macs.0, layer.parameters)).collect();
    assert_eq!(
        rows,
        [
            ("stem", STEM, 6 * 3 * 9 + 6),
            ("blocks.0.conv", DENSE, 6 * 6 * 9),
            ("blocks.1.conv", DEPTHWISE, 6 * 9),
            ("up", UP, 6 * 4 * 4 + 4),
            ("head", HEAD, 4 * 5 + 5),
        ]
    );
    let depthwise = &layers[2];
    assert_eq!(depthwise.kind, LayerKind::Convolution);
    assert_eq!((&depthwise.input[..], &depthwise.output[..]), (&[1, 6, 4, 4][..], &[1, 6, 4, 4][..]));
    assert_eq!((&depthwise.kernel[..], depthwise.groups), (&[3, 3][..], 6));
    assert_eq!(layers[0].stride, [2, 2]);
    assert_eq!(layers[3].kind, LayerKind::TransposedConvolution);
    assert_eq!(layers[4].kind, LayerKind::Linear);
    assert_eq!(captured.outputs[0].shape, [1, 5]);
    assert_eq!(captured.macs(), Macs(STEM + DENSE + DEPTHWISE + UP + HEAD));
}

#[test]
fn parameters_are_counted_as_pytorch_counts_them() {
    let device = Device::default();
    let captured = capture([1, 3, 8, 8], Net::new, Net::forward).expect("captures");
    let running_statistics = 2 * (6 + 6);
    let all = Net::new(&device).num_params() as u64;
    assert_eq!(captured.parameters(), all - running_statistics);
}

#[test]
fn the_batch_size_does_not_change_the_cost() {
    let one = capture([1, 3, 8, 8], Net::new, Net::forward).expect("captures");
    let seven = capture([7, 3, 8, 8], Net::new, Net::forward).expect("captures");
    assert_eq!(seven.macs(), one.macs());
    assert_eq!(seven.parameters(), one.parameters());
    assert_eq!(seven.outputs[0].shape, [7, 5]);
}

#[test]
fn running_statistics_have_names_and_values() {
    let model = Net::new(&Device::default());
    let captured = capture_model(&model, [1, 3, 8, 8], Net::forward).expect("captures");
    let value = |name: &str| {
        let (id, _) = captured.parameters.iter().find(|(_, path)| *path == name).expect("a named parameter");
        captured.values.get(id).expect("a value").clone()
    };
    value("blocks.1.norm.running_var").assert_eq(&TensorData::from([1.0f32; 6]), true);
    value("blocks.1.norm.running_mean").assert_eq(&TensorData::from([0.0f32; 6]), true);
    value("head.weight").assert_eq(&model.head.weight.val().to_data(), true);
}

#[derive(Module, Debug)]
struct Sliced {
    conv: Conv2d,
    norm: BatchNorm,
    head: Param<Tensor<2>>,
    unused: Linear,
}

impl Sliced {
    fn new(device: &Device) -> Self {
        Self {
            conv: Conv2dConfig::new([4, 8], [3, 3]).init(device),
            norm: BatchNormConfig::new(8).init(device),
            head: Param::from_tensor(Tensor::zeros([10, 8], device)),
            unused: LinearConfig::new(3, 3).with_layout(LinearLayout::Col).init(device),
        }
    }

    /// Three input channels and five output channels of the convolution.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        use burn::tensor::module;
        use burn::tensor::ops::ConvOptions;
        let weight = self.conv.weight.val().slice([0..5, 0..3]);
        let bias = self.conv.bias.as_ref().map(|bias| bias.val().slice(0..5));
        let x = module::conv2d(images, weight, bias, ConvOptions::new([1, 1], [0, 0], [1, 1], 1));
        let narrow = |tensor: Tensor<1>| tensor.slice(0..5);
        let x = module::batch_norm(
            x,
            narrow(self.norm.gamma.val()),
            narrow(self.norm.beta.val()),
            narrow(self.norm.running_mean.value()),
            narrow(self.norm.running_var.value()),
            self.norm.epsilon,
        );
        let x = x.mean_dims(&[2, 3]).flatten::<2>(1, 3);
        x.matmul(self.head.val().slice([0..10, 0..5]).transpose())
    }
}

#[test]
fn a_sliced_parameter_counts_its_slice() {
    let captured = capture([2, 3, 5, 5], Sliced::new, Sliced::forward).expect("captures");
    let layers = captured.layers();
    assert_eq!((layers[0].name.as_str(), layers[0].macs.0), ("conv", 5 * 3 * 3 * 3 * 9));
    assert_eq!((layers[1].name.as_str(), layers[1].macs.0), ("head", 5 * 10));
    assert_eq!(captured.parameters(), (5 * 3 * 9 + 5) + 2 * 5 + 10 * 5);
}

#[test]
fn parts_of_a_parameter_that_are_joined_count_together() {
    let build = |device: &Device| LinearConfig::new(9, 5).with_bias(false).init(device);
    let joined = |layer: &Linear, x: Tensor<2>| {
        let weight = layer.weight.val();
        x.matmul(Tensor::cat(vec![weight.clone().slice([0..2, 0..4]), weight.slice([4..5, 0..4])], 0))
    };
    let captured = capture([1, 3], build, joined).expect("captures");
    assert_eq!(captured.layers()[0].name, "weight");
    assert_eq!((captured.macs(), captured.parameters()), (Macs(3 * 4), 3 * 4));

    // What other values are among is no parameter.
    let mixed = |layer: &Linear, x: Tensor<2>| {
        let part = layer.weight.val().slice([0..2, 0..4]);
        x.clone().matmul(Tensor::cat(vec![part, x.reshape([1, 3]).repeat_dim(1, 2).slice([0..1, 0..4])], 0))
    };
    let captured = capture([1, 3], build, mixed).expect("captures");
    assert_eq!(captured.macs(), Macs(0));
}

fn trained_on(device: &Device) -> (Net, Tensor<4>) {
    let model = Net::new(device);
    let images = Tensor::<4>::random([4, 3, 8, 8], burn::tensor::Distribution::Normal(1.0, 2.0), device);
    let _ = model.forward(images.clone());
    (model, images)
}

#[test]
fn capturing_leaves_a_model_in_training_as_it_was() {
    let device = Device::default().autodiff();
    let (model, images) = trained_on(&device);
    let statistics = |model: &Net| model.blocks[0].norm.running_mean.value_sync().to_data();
    let before = statistics(&model);
    assert_ne!(before.as_slice::<f32>().expect("floats"), [0.0; 6], "the statistics have moved");

    let captured = capture_model(&model, [1, 3, 8, 8], Net::forward).expect("captures an autodiff model");
    assert!(!captured.operations.is_empty());
    let captured_again = capture_model(&model, [1, 3, 8, 8], Net::forward).expect("captures twice");
    assert_eq!(captured_again.macs(), captured.macs());

    statistics(&model).assert_eq(&before, true);
    let inference = model.valid().forward(images.clone().without_autodiff());
    assert_eq!(inference.dims(), [4, 5]);
    let loss = model.forward(images).powf_scalar(2.0).mean();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    assert!(!gradients.is_empty());
    let stepped = SgdConfig::new().init().step(0.1, model, gradients);
    assert!(stepped.stem.weight.is_require_grad());
}

#[test]
fn captures_from_many_threads_reuse_devices() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let captured = capture([1, 3, 8, 8], Net::new, Net::forward).expect("captures");
                    assert_eq!(captured.macs(), Macs(STEM + DENSE + DEPTHWISE + UP + HEAD));
                }
            });
        }
    });
}

#[test]
fn a_capture_within_a_capture_works() {
    let outer = capture(
        [1, 3, 8, 8],
        |device| {
            capture([1, 3, 8, 8], Net::new, Net::forward).expect("the inner one captures");
            Net::new(device)
        },
        Net::forward,
    );
    assert_eq!(outer.expect("captures").outputs[0].shape, [1, 5]);
}

#[test]
fn a_panic_in_the_forward_gives_the_device_back() {
    let panic = std::panic::catch_unwind(|| capture([1, 4, 8, 8], Net::new, Net::forward).map(|_| ()));
    assert!(panic.is_err(), "four channels into a convolution of three");
    assert!(capture([1, 3, 8, 8], Net::new, Net::forward).is_ok());
}

#[test]
fn an_empty_input_and_a_foreign_output_are_errors() {
    let empty = capture([0, 3, 8, 8], Net::new, Net::forward);
    assert!(matches!(empty, Err(CaptureError::EmptyInput { .. })));
    let foreign = capture([1, 3, 8, 8], Net::new, |_, _| Tensor::<2>::zeros([1, 5], &Device::default()));
    assert!(matches!(foreign, Err(CaptureError::ForeignOutput { .. })));
}
