//! Operations on windows, channels and shapes.

use crate::common::{Files, TOLERANCE, compare, normal, operators, runtimes, trained_norm};
use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig};
use burn::nn::pool::{
    AdaptiveAvgPool1dConfig, AdaptiveAvgPool2dConfig, AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig,
    MaxPool2dConfig,
};
use burn::nn::{GroupNormConfig, LayerNormConfig, LinearConfig, PaddingConfig1d, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use burn::tensor::{Device, Int, Tensor, s};
use exporters::runtime::RuntimeKind;
use exporters::{OnnxExporter, random_reference, verify};

#[test]
fn resizing_to_other_sizes() {
    let mut files = Files::new();
    for (name, mode, align) in [
        ("bilinear", InterpolateMode::Bilinear, false),
        ("bilinear_corners", InterpolateMode::Bilinear, true),
        ("nearest", InterpolateMode::Nearest, false),
        ("bicubic", InterpolateMode::Bicubic, false),
        ("bicubic_corners", InterpolateMode::Bicubic, true),
        ("lanczos", InterpolateMode::Lanczos3, false),
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
    files.check_with_tools(&[]);
}

/// Norms in a list, so that their parameters have a path, by which tools count them.
#[test]
fn norms_of_samples() {
    let mut files = Files::new();
    let device = Device::default();
    for (groups, channels) in [(1, 1), (1, 4), (2, 6), (5, 5)] {
        for affine in [false, true] {
            let mut norm = GroupNormConfig::new(groups, channels).with_affine(affine).init(&device);
            norm.gamma = norm.gamma.map(|_| Param::from_tensor(normal([channels])));
            norm.beta = norm.beta.map(|_| Param::from_tensor(normal([channels])));
            let (name, norms) = (format!("group_norm_{groups}_{channels}_{affine}"), vec![norm]);
            files.check(&name, &norms, [1, channels, 3, 2], |norms, x| norms[0].forward(x));
            files.check(&format!("{name}_1d"), &norms, [1, channels, 7], |norms, x| norms[0].forward(x));
        }
    }
    for bias in [false, true] {
        let mut norm = LayerNormConfig::new(5).with_bias(bias).init(&device);
        norm.gamma = Param::from_tensor(normal([5]));
        norm.beta = norm.beta.map(|_| Param::from_tensor(normal([5])));
        let norms = vec![norm];
        files.check(&format!("layer_norm_{bias}"), &norms, [1, 3, 5], |norms, x| norms[0].forward(x));
    }
    files.check_with_tools(&[]);
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
}

#[test]
fn adaptive_pooling_over_windows_that_overlap() {
    let mut files = Files::new();
    for size in [[3, 4], [5, 6], [8, 5], [7, 7], [11, 1]] {
        let pool = AdaptiveAvgPool2dConfig::new(size);
        files.after_conv(&format!("map_{}_{}", size[0], size[1]), |x| pool.init().forward(x));
    }
    let conv = Conv1dConfig::new(2, 3, 1).init(&Device::default());
    for size in [2, 4, 7] {
        let pool = AdaptiveAvgPool1dConfig::new(size);
        files.check(&format!("sequence_{size}"), &conv, [1, 2, 9], |conv, x| pool.init().forward(conv.forward(x)));
    }
    files.check_with_tools(&[]);
}

#[test]
fn turning_round() {
    let mut files = Files::new();
    files.after_conv("rows", |x| x.flip([2]));
    files.after_conv("all", |x| x.flip([1, 2, 3]));
    files.after_conv("backwards", |x| x.slice_dim(3, s![1..6; -2]));
    files.after_conv("backwards_to_the_start", |x| x.slice_dim(2, s![0..5; -1]));
    let weight = normal([3, 2, 1, 1]);
    let model = vec![Param::from_tensor(weight)];
    let onnx = files.check("folded", &model, [1, 2, 4, 4], |weights, x| {
        let options = burn::tensor::ops::ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        burn::tensor::module::conv2d(x, weights[0].val().flip([0]), None, options)
    });
    assert_eq!(operators(&onnx), [("Conv", 1)]);
    files.check_with_tools(&["Slice"]);
}

#[test]
fn tensors_of_the_size_of_the_batch() {
    let mut files = Files::new();
    files.after_conv("ones", |x| {
        let [batch, _, height, width] = x.dims();
        Tensor::cat(vec![Tensor::ones([batch, 1, height, width], &x.device()), x], 1)
    });
    files.after_conv("folded", |x| {
        let [batch, channels, height, width] = x.dims();
        let ones = Tensor::<3>::ones([batch * channels, height, 2], &x.device());
        Tensor::cat(vec![x.reshape([batch * channels, height, width]), ones], 2)
    });
    files.check_with_tools(&[]);

    let mut files = Files::new();
    let token = vec![Param::from_tensor(normal([1, 1, 4]))];
    files.check("token", &token, [1, 3, 4], |token, x| {
        let [batch, _, width] = x.dims();
        Tensor::cat(vec![token[0].val().expand([batch, 1, width]), x], 1)
    });
}

#[test]
fn places_of_extremes() {
    let mut files = Files::new();
    files.after_conv("argmax", |x| x.clone().argmax(1).float() + x.argmin(3).float());
    files.after_conv("as_an_output", |x| x.argmax(1));
    files.after_conv("with_values", |x| {
        let (largest, at) = x.clone().max_dim_with_indices(3);
        let (smallest, from) = x.min_dim_with_indices(1);
        (largest * at.float()) + (smallest * from.float())
    });
    files.after_conv("sizes", |x| x.clone().max_abs_dim(2) + x);
    files.check_with_tools(&[]);
}

#[test]
fn reductions_to_one_number_need_a_fixed_batch() {
    let mut files = Files::new();
    let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
    let forward = |model: &Conv2d, x: Tensor<4>| {
        let x = model.forward(x);
        x.clone().mean() + x.clone().sum() / 50.0 + x.clone().max() + x.clone().min() + x.tanh().prod()
    };
    let exporter = OnnxExporter::new([2, 2, 3, 2]);
    let error = exporter.export(&model, forward).expect_err("reduces over the batch").to_string();
    assert!(error.contains("a reduction over the batch"), "{error}");
    let onnx = exporter.with_symbolic_batch(false).export(&model, forward).expect("exports");
    let path = files.save("reduced", &onnx);
    let device = Device::default();
    let reference = random_reference([2, 2, 3, 2], &device, |x| forward(&model, x));
    let report = verify(&path, &[reference], &runtimes(), TOLERANCE);
    assert!(report.passed(), "{report}");
    files.check_with_tools(&[]);
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
