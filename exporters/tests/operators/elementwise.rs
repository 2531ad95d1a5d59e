//! Arithmetic on elements and activations.

use crate::common::{Files, operators};
use burn::nn::PReluConfig;
use burn::tensor::{Device, Tensor, activation};

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
fn moved_masks_and_places() {
    let mut files = Files::new();
    files.after_conv("masks", |x| {
        let [batch, channels, height, width] = x.dims();
        let mask = x.clone().mean_dim(1).greater_scalar(0.0).expand([batch, channels, height, width]);
        let turned = mask.clone().swap_dims(2, 3).reshape([batch, channels, height, width]).flip([3]);
        x.clone().mask_fill(Tensor::cat(vec![mask, turned], 1).slice_dim(1, 1..1 + channels), 0.5) + x
    });
    files.after_conv("places", |x| {
        let places = x.clone().argmax(1).flatten::<2>(1, 3).unsqueeze_dim::<3>(1).float();
        places + x.flatten::<3>(2, 3)
    });
    files.check_with_tools(&["Slice"]);
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
fn log1p_keeps_its_digits() {
    let mut files = Files::new();
    // Of small numbers only: what `log(1 + x)` computes in two steps is zero.
    let onnx = files.after_conv("of_exp", |x| (x - 30.0).exp().log1p());
    assert!(operators(&onnx).iter().all(|(operator, _)| *operator != "Log"), "{onnx:?}");
    for factor in [1e-12, 1e-6, 1e-3, 1.0, 1e6] {
        files.after_conv(&format!("of_{factor:e}"), |x| (x.abs() * factor).log1p());
    }
    files.check_with_tools(&[]);
}

#[test]
fn remainders_and_whole_parts() {
    let mut files = Files::new();
    for divisor in [0.7, -0.7] {
        files.after_conv(&format!("remainder_{divisor}"), |x| x.clone().remainder_scalar(divisor) + x);
    }
    files.after_conv("remainder", |x| x.clone().remainder(x.clone().mean_dim(3) + 0.1) + x);
    files.after_conv("trunc", |x| (x.clone() * 5.0).trunc() + x);
    files.check_with_tools(&[]);
}
