//! Single operations against Burn, in every runtime and with other people's tools at hand.

mod common;

use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig};
use burn::nn::pool::{
    AdaptiveAvgPool1dConfig, AdaptiveAvgPool2dConfig, AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig,
    MaxPool2dConfig,
};
use burn::nn::{GroupNormConfig, LayerNormConfig, LinearConfig, PReluConfig, PaddingConfig1d, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use burn::tensor::{Device, Int, Tensor, activation};
use common::{Files, compare, operators, trained_norm};
use exporters::runtime::RuntimeKind;
use exporters::{ExportError, OnnxExporter};

#[test]
fn resizing_to_other_sizes() {
    let mut files = Files::new();
    for (name, mode, align) in [
        ("bilinear", InterpolateMode::Bilinear, false),
        ("bilinear_corners", InterpolateMode::Bilinear, true),
        ("nearest", InterpolateMode::Nearest, false),
    ] {
        for size in [[8, 6], [5, 7], [13, 3], [1, 1], [16, 12]] {
            let options = InterpolateOptions::new(mode.clone()).with_align_corners(align).with_output_size(size);
            let file = format!("{name}_{}x{}", size[0], size[1]);
            files.after_conv(&file, |x| interpolate(x, options.clone()).mean_dim(1));
        }
    }
    files.check_with_tools(&[]);
}

#[test]
fn nearest_resizing_that_no_scale_expresses_is_exact() {
    let mut files = Files::new();
    let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([82, 94]);
    let onnx =
        files.check("nearest_gather", &model, [1, 2, 2, 2], |model, x| interpolate(model.forward(x), options.clone()));
    assert_eq!(onnx.operators().get("Gather"), Some(&2));
    files.check_with_tools(&[]);
}

#[test]
fn pooling() {
    let mut files = Files::new();
    let max = MaxPool2dConfig::new([3, 2]).with_strides([2, 1]).with_padding(PaddingConfig2d::Explicit(1, 0, 1, 0));
    files.after_conv("max_pool", |x| max.init().forward(x));
    for (name, include) in [("avg_pool_with_pad", true), ("avg_pool", false)] {
        let average = AvgPool2dConfig::new([3, 3])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_count_include_pad(include);
        files.after_conv(name, |x| average.init().forward(x));
    }
    for (name, size) in [("adaptive_1", [1, 1]), ("adaptive_4_3", [4, 3]), ("adaptive_same", [8, 6])] {
        files.after_conv(name, |x| AdaptiveAvgPool2dConfig::new(size).init().forward(x));
    }
    files.check_with_tools(&[]);
}

#[test]
fn arithmetic_and_activations() {
    let mut files = Files::new();
    files.after_conv("scalars", |x| ((x * 2.0 - 1.0) / 3.0 + 0.5).powf_scalar(2.0));
    files.after_conv("tensors", |x| {
        (x.clone() - x.clone().mean_dim(3)) / (x.clone().exp() + 1.0) * x.abs().sqrt().neg().tanh()
    });
    files.after_conv("clamps", |x| x.clone().clamp_min(-0.5) + x.clone().clamp_max(0.25) + x.clamp_min(0.0));
    files.after_conv("smooth", |x| {
        activation::silu(x.clone()) + activation::sigmoid(x.clone()) + activation::log_sigmoid(x)
    });
    files.after_conv("leaky", |x| activation::leaky_relu(x.clone(), 0.1) + activation::hard_sigmoid(x, 0.2, 0.5));
    files.after_conv("softmax", |x| activation::softmax(x, 1));
    files.after_conv("reduced", |x| x.clone().sum_dim(1) + x.clone().max_dim(1) + x.clone().min_dim(2) + x.mean_dim(2));
    files.check_with_tools(&[]);
}

#[test]
fn rearrangements() {
    let mut files = Files::new();
    files.after_conv("permuted", |x| x.permute([0, 2, 3, 1]).flatten::<2>(1, 3));
    files.after_conv("back_and_forth", |x| x.swap_dims(1, 2).swap_dims(1, 2));
    files.after_conv("sliced", |x| x.slice_dim(2, 1..7).slice_dim(1, 0..2));
    files.after_conv("concatenated", |x| Tensor::cat(vec![x.clone(), x.clone() * 2.0, x], 1));
    files.after_conv("expanded", |x| {
        let [batch, channels, height, _] = x.dims();
        x.mean_dim(3).expand([batch, channels, height, 4])
    });
    files.after_conv("folded_batch", |x| {
        let [batch, channels, height, width] = x.dims();
        x.reshape([batch * channels, height * width]).reshape([batch, channels * height * width])
    });
    for (name, mode) in [
        ("pad_zero", PadMode::Constant(0.0)),
        ("pad_one", PadMode::Constant(1.5)),
        ("pad_reflect", PadMode::Reflect),
        ("pad_edge", PadMode::Edge),
    ] {
        files.after_conv(name, |x| x.pad((1, 2, 0, 3), mode));
    }
    files.check_with_tools(&["Slice"]);
}

#[test]
fn padding_before_a_convolution_becomes_its_own() {
    let mut files = Files::new();
    let model = Conv2dConfig::new([2, 3], [3, 3]).init(&Device::default());
    let onnx = files.check("pad_conv", &model, [1, 2, 8, 6], |model, x| model.forward(x.pad((1, 2, 0, 3), 0.0)));
    assert_eq!(operators(&onnx), [("Conv", 1)]);
    files.check_with_tools(&[]);
}

#[test]
fn convolutions_of_every_kind() {
    let mut files = Files::new();
    let device = Device::default();
    let conv = Conv1dConfig::new(4, 6, 3)
        .with_stride(2)
        .with_dilation(2)
        .with_groups(2)
        .with_padding(PaddingConfig1d::Explicit(3, 1))
        .init(&device);
    let onnx = files.check("conv1d", &conv, [1, 4, 11], |conv, x| conv.forward(x));
    assert_eq!(operators(&onnx), [("Conv", 1)]);
    let conv = ConvTranspose1dConfig::new([4, 6], 3)
        .with_stride(2)
        .with_padding(1)
        .with_padding_out(1)
        .with_groups(2)
        .init(&device);
    let onnx = files.check("conv_transpose1d", &conv, [1, 4, 5], |conv, x| conv.forward(x));
    assert_eq!(operators(&onnx), [("ConvTranspose", 1)]);
    let conv = ConvTranspose2dConfig::new([4, 6], [3, 2])
        .with_stride([2, 3])
        .with_padding([1, 0])
        .with_padding_out([1, 0])
        .with_dilation([1, 2])
        .with_groups(2)
        .with_bias(false)
        .init(&device);
    files.check("conv_transpose2d", &conv, [1, 4, 5, 1], |conv, x| conv.forward(x));
    let depthwise = ConvTranspose2dConfig::new([1, 1], [3, 3]).init(&device);
    files.check("conv_transpose2d_pixel", &depthwise, [1, 1, 1, 1], |conv, x| conv.forward(x));
    files.check_with_tools(&[]);
}

#[test]
fn norms_fold_into_transposed_convolutions() {
    let mut files = Files::new();
    for groups in [1, 2] {
        let conv = ConvTranspose2dConfig::new([4, 6], [3, 3]).with_stride([2, 2]).with_groups(groups);
        let model = (conv.init(&Device::default()), trained_norm(6));
        let onnx = files
            .check(&format!("groups_{groups}"), &model, [1, 4, 3, 5], |(conv, norm), x| norm.forward(conv.forward(x)));
        assert_eq!(operators(&onnx), [("ConvTranspose", 1)]);
    }
    // A tuple's modules have no names that tools could count by.
}

#[test]
fn norms_of_samples() {
    let mut files = Files::new();
    let device = Device::default();
    for (groups, channels) in [(1, 1), (1, 4), (2, 6), (5, 5)] {
        for affine in [false, true] {
            let norm = GroupNormConfig::new(groups, channels).with_affine(affine).init(&device);
            let name = format!("group_norm_{groups}_{channels}_{affine}");
            files.check(&name, &norm, [1, channels, 3, 2], |norm, x| activation::relu(norm.forward(x)));
            files.check(&format!("{name}_1d"), &norm, [1, channels, 7], |norm, x| activation::relu(norm.forward(x)));
        }
    }
    for bias in [false, true] {
        let norm = LayerNormConfig::new(5).with_bias(bias).init(&device);
        files.check(&format!("layer_norm_{bias}"), &norm, [1, 3, 5], |norm, x| norm.forward(x));
    }
}

#[test]
fn pooling_of_sequences() {
    let mut files = Files::new();
    let conv = Conv1dConfig::new(2, 3, 1).init(&Device::default());
    let max = MaxPool1dConfig::new(3).with_stride(2).with_padding(PaddingConfig1d::Explicit(1, 1));
    files.check("max", &conv, [1, 2, 9], |conv, x| max.init().forward(conv.forward(x)));
    let rounded = MaxPool1dConfig::new(2).with_stride(2).with_ceil_mode(true);
    files.check("max_ceil", &conv, [1, 2, 9], |conv, x| rounded.init().forward(conv.forward(x)));
    for include in [true, false] {
        let average = AvgPool1dConfig::new(3).with_stride(2).with_padding(PaddingConfig1d::Explicit(1, 1));
        let average = average.with_count_include_pad(include);
        files.check(&format!("average_{include}"), &conv, [1, 2, 9], |conv, x| average.init().forward(conv.forward(x)));
    }
    for size in [1, 3] {
        let pool = AdaptiveAvgPool1dConfig::new(size);
        files.check(&format!("adaptive_{size}"), &conv, [1, 2, 9], |conv, x| pool.init().forward(conv.forward(x)));
    }

    // rten has no maximum over a window with gaps, and says so.
    let dilated = MaxPool1dConfig::new(3).with_dilation(2).with_padding(PaddingConfig1d::Explicit(1, 1)).init();
    let forward = |conv: &Conv1d, x: Tensor<3>| dilated.forward(conv.forward(x));
    let onnx = OnnxExporter::new([1, 2, 9]).export(&conv, forward).expect("exports");
    let report = compare(&files.save("max_dilated", &onnx), &conv, [1, 2, 9], forward);
    assert!(report.entries.iter().all(|entry| entry.passed || entry.runtime == RuntimeKind::Rten), "{report:#?}");
    files.check_with_tools(&[]);

    let pool = AdaptiveAvgPool1dConfig::new(2);
    let error = OnnxExporter::new([1, 2, 9]).export(&conv, |conv, x: Tensor<3>| pool.init().forward(conv.forward(x)));
    let error = error.expect_err("windows that overlap").to_string();
    assert!(error.ends_with("an adaptive average pool from [9] to [2]: windows overlap"), "{error}");
}

#[test]
fn slopes_of_negative_inputs() {
    let mut files = Files::new();
    for slopes in [1, 3] {
        let prelu = PReluConfig::new().with_num_parameters(slopes).init(&Device::default());
        files.check(&format!("map_{slopes}"), &prelu, [1, 3, 4, 2], |prelu, x| prelu.forward(x));
        files.check(&format!("sequence_{slopes}"), &prelu, [1, 3, 5], |prelu, x| prelu.forward(x));
        files.check(&format!("row_{slopes}"), &prelu, [1, 3], |prelu, x| prelu.forward(x));
    }
}

/// Wide inputs, at which an exponential overflows.
#[test]
fn activations_far_from_zero() {
    let mut files = Files::new();
    for factor in [1.0, 200.0] {
        let mut check = |name: &str, activation: fn(Tensor<4>) -> Tensor<4>| {
            // With the input added, no two outputs of a row are equal, and the largest is the same one everywhere.
            files.after_conv(&format!("{name}_{factor}"), |x| activation(x.clone() * factor) + x)
        };
        let count = |operators: &[(&str, usize)], operator: &str| operators.iter().any(|(name, _)| *name == operator);
        let elu = operators(&check("elu", |x| activation::elu(x, 0.5)));
        assert!(count(&elu, "Elu") && !count(&elu, "Where"), "{elu:?}");
        let elu = operators(&check("elu_1", |x| activation::elu(x, 1.0)));
        assert!(count(&elu, "Elu") && !count(&elu, "Where"), "{elu:?}");
        let swish = operators(&check("hard_swish", activation::hard_swish));
        assert!(count(&swish, "HardSwish") && !count(&swish, "HardSigmoid"), "{swish:?}");
        check("celu", |x| activation::celu(x, 0.5));
        check("selu", activation::selu);
        check("gelu", activation::gelu);
        check("gelu_approximate", activation::gelu_approximate);
        check("silu", activation::silu);
        check("mish", activation::mish);
        check("softplus", |x| activation::softplus(x, 1.0));
        check("softplus_2", |x| activation::softplus(x, 2.0));
        check("tanh", activation::tanh);
        check("sigmoid", activation::sigmoid);
        check("log_sigmoid", activation::log_sigmoid);
        check("hard_sigmoid", |x| activation::hard_sigmoid(x, 0.2, 0.5));
        check("leaky_relu", |x| activation::leaky_relu(x, 0.1));
        check("softmax", |x| activation::softmax(x, 3));
        check("log_softmax", |x| activation::log_softmax(x, 1));
        check("softmin", |x| activation::softmin(x, 2));
        check("softsign", activation::softsign);
        check("hard_shrink", |x| activation::hard_shrink(x, 0.5));
        check("soft_shrink", |x| activation::soft_shrink(x, 0.5));
        check("thresholded_relu", |x| activation::thresholded_relu(x, 0.3));
        check("glu", |x| activation::glu(Tensor::cat(vec![x.clone(), x], 1), 1));
    }
    files.check_with_tools(&["Slice"]);
}

#[test]
fn comparisons_and_choices() {
    let mut files = Files::new();
    files.after_conv("scalars", |x| {
        let inside = x.clone().greater_scalar(-0.5).bool_and(x.clone().lower_scalar(0.5));
        let outside = x.clone().greater_equal_scalar(1.0).bool_or(x.clone().lower_equal_scalar(-1.0));
        x.clone().mask_fill(inside, 0.25).mask_where(outside.bool_not(), x.clone() * 3.0)
            + x.greater_scalar(0.1).float()
    });
    files.after_conv("tensors", |x| {
        let y = x.clone().mean_dim(3).expand(x.dims().map(|size| size as i64));
        let any = x.clone().greater(y.clone()).bool_xor(x.clone().lower(y.clone()));
        let same = x.clone().greater_equal(y.clone()).bool_and(x.clone().lower_equal(y.clone()));
        x.clone().mask_where(any, y.clone() * 2.0) + x.clone().equal(y).float() + x.mask_fill(same, 7.0)
    });
    files.check_with_tools(&[]);
}

#[test]
fn functions_of_one_number() {
    let mut files = Files::new();
    files.after_conv("trigonometry", |x| x.clone().sin() + x.clone().cos() + x.clone().tanh() + (x / 9.0).tan());
    files.after_conv("hyperbolic", |x| (x.clone() / 4.0).sinh() - (x.clone() / 4.0).cosh() + x.asinh());
    files.after_conv("inverse", |x| {
        let unit = x.clone().tanh() * 0.9;
        unit.clone().asin() + unit.clone().acos() + unit.atanh() + x.clone().atan() + (x.abs() + 1.0).acosh()
    });
    files.after_conv("rounding", |x| x.clone().round() + x.clone().floor() * 2.0 + x.clone().ceil() * 4.0 + x.sign());
    files.after_conv("powers", |x| {
        let positive = x.clone().abs() + 0.1;
        positive.clone().log() + positive.clone().recip() + positive.powf_scalar(1.5) + x.powi_scalar(3)
    });
    files.check_with_tools(&[]);
}

#[test]
fn log1p_keeps_its_digits_or_is_refused() {
    let mut files = Files::new();
    // Of small numbers only: what `log(1 + exp(x))` computes in two steps is zero.
    files.after_conv("small", |x| (x - 30.0).exp().log1p());
    let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
    let error = OnnxExporter::new([1, 2, 4, 4]).export(&model, |model, x| model.forward(x).abs().log1p());
    let Err(ExportError::Unsupported(operations)) = error else { panic!("expected an unsupported operation") };
    assert_eq!(operations[0].to_string(), "Float(Log1p) at `the input`: log1p of what is no exp");
}

#[test]
fn repetitions_and_selections() {
    let mut files = Files::new();
    files.after_conv("repeat", |x| x.repeat_dim(1, 3).repeat_dim(3, 2));
    files.after_conv("repeat_one", |x| x.mean_dim(1).repeat_dim(1, 4));
    files.after_conv("select", |x| {
        let indices = Tensor::<1, Int>::from_ints([2, 0, 2, 1], &x.device());
        x.select(1, indices)
    });
    files.after_conv("shuffle", |x| {
        let [batch, channels, height, width] = x.dims();
        x.reshape([batch, channels, 2, height / 2, width]).swap_dims(1, 2).reshape([
            batch,
            channels * 2,
            height / 2,
            width,
        ])
    });
    files.after_conv("stack", |x| Tensor::stack::<5>(vec![x.clone(), x * 2.0], 2));
    files.after_conv("products", |x| x.clone().prod_dim(3) + x.prod_dim(1));
    files.check_with_tools(&[]);
}

#[test]
fn linear_layers_on_sequences() {
    let mut files = Files::new();
    for bias in [false, true] {
        let linear = LinearConfig::new(3, 5).with_bias(bias).init(&Device::default());
        files.check(&format!("linear_{bias}"), &linear, [1, 4, 3], |linear, x| linear.forward(x));
        files.check(&format!("linear_{bias}_map"), &linear, [1, 2, 4, 3], |linear, x| linear.forward(x));
    }
}
