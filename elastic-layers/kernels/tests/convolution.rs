//! Convolution against Burn's own, over shapes, layouts, levels and threads.

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, module};
use common::{LAYOUTS, Layout, assert_close, everywhere, laid_out, process, tensor, values};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    input: [usize; 4],
    weight: [usize; 4],
    options: ConvOptions<2>,
    bias: bool,
    layout: Layout,
}

type Convolution = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, ConvOptions<2>) -> Tensor<4>;

/// The output, and the gradients of the input, the weight and the bias.
fn outcome(case: &Case, convolution: Convolution) -> [Vec<f32>; 4] {
    let device = Device::flex().autodiff();
    let [source, x] = laid_out(1, case.input, case.layout, &device);
    let [weight_source, weight] = laid_out(2, case.weight, case.layout, &device);
    let bias = case.bias.then(|| tensor::<1>(3, [case.weight[0]], &device).require_grad());
    let output = convolution(x, weight, bias.clone(), case.options.clone());
    let weighted = output.clone() * tensor(4, output.dims(), &device);
    let grads = weighted.sum().backward();
    [
        values(output),
        values(source.grad(&grads).expect("a value")),
        values(weight_source.grad(&grads).expect("a value")),
        bias.map(|bias| values(bias.grad(&grads).expect("a value"))).unwrap_or_default(),
    ]
}

fn check(case: &Case) {
    let _process = process();
    let expected = outcome(case, module::conv2d);
    for (level, found) in everywhere(|| outcome(case, elastic_kernels::conv2d)) {
        for (part, (name, tolerance)) in
            [("output", 1e-5), ("input", 1e-4), ("weight", 1e-4), ("bias", 1e-4)].into_iter().enumerate()
        {
            assert_close(&format!("{level:?} {name}"), &expected[part], &found[part], tolerance);
        }
    }
}

prop_compose! {
    fn cases(depthwise: bool)(
        batch in 1usize..6,
        channels in prop_oneof![Just([1, 1]), [1usize..20, 1usize..20]],
        size in [1usize..20, 1usize..20],
        kernel in [prop::sample::select(vec![1usize, 3, 5]), prop::sample::select(vec![1usize, 3, 5])],
        square in any::<bool>(),
        stride in [1usize..4, 1usize..4],
        padding in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        symmetric in any::<bool>(),
        dilation in [1usize..3, 1usize..3],
        bias in any::<bool>(),
        layout in prop::sample::select(LAYOUTS.to_vec()),
    ) -> Case {
        let kernel = if square { [kernel[0]; 2] } else { kernel };
        let [top, left, bottom, right] = padding;
        let pairs = if symmetric { [(top, top), (left, left)] } else { [(top, bottom), (left, right)] };
        // Large enough that the kernel fits.
        let reach = |axis: usize| dilation[axis] * (kernel[axis] - 1) + 1;
        let size = [0, 1].map(|axis| size[axis].max(reach(axis).saturating_sub(pairs[axis].0 + pairs[axis].1)).max(1));
        let channels = if depthwise { [channels[0]; 2] } else { channels };
        Case {
            input: [batch, channels[0], size[0], size[1]],
            weight: [channels[1], if depthwise { 1 } else { channels[0] }, kernel[0], kernel[1]],
            options: ConvOptions::new_with_padding(stride, pairs, dilation, if depthwise { channels[0] } else { 1 }),
            bias,
            layout,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dense_equals_burn(case in cases(false)) {
        check(&case);
    }

    #[test]
    fn depthwise_equals_burn(case in cases(true)) {
        check(&case);
    }
}

fn case(input: [usize; 4], weight: [usize; 4], stride: usize, padding: usize, groups: usize) -> Case {
    let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
    Case { input, weight, options, bias: false, layout: Layout::Contiguous }
}

/// Sizes of the networks that this is for, which go through whole blocks.
#[test]
fn layers_of_mobilenet_equal_burn() {
    for case in [
        case([16, 1, 28, 28], [16, 1, 3, 3], 2, 1, 1),
        case([16, 3, 32, 32], [32, 3, 3, 3], 1, 1, 1),
        case([16, 48, 14, 14], [48, 1, 3, 3], 1, 1, 48),
        case([16, 96, 14, 14], [96, 1, 3, 3], 2, 1, 96),
        case([16, 144, 7, 7], [144, 1, 3, 3], 1, 1, 144),
        case([16, 16, 14, 14], [96, 16, 1, 1], 1, 0, 1),
        case([16, 144, 7, 7], [24, 144, 1, 1], 1, 0, 1),
        case([2, 16, 32, 32], [16, 16, 3, 3], 1, 1, 1),
        case([2, 64, 8, 8], [64, 64, 3, 3], 1, 1, 1),
        case([2, 600, 4, 4], [500, 600, 1, 1], 1, 0, 1),
    ] {
        check(&case);
    }
}

/// Groups that are neither one nor depthwise, and numbers that are not `f32`, go to Burn.
#[test]
fn uncovered_cases_are_burns() {
    check(&case([2, 4, 5, 5], [6, 2, 3, 3], 1, 1, 2));
    check(&case([2, 4, 5, 5], [8, 1, 3, 3], 1, 1, 4));
    let device = Device::flex();
    let double = |seed, shape| tensor::<4>(seed, shape, &device).cast(burn::tensor::DType::F64);
    let options = || ConvOptions::new([1; 2], [0; 2], [1; 2], 1);
    let output = elastic_kernels::conv2d(double(1, [1, 2, 4, 4]), double(2, [3, 2, 1, 1]), None, options());
    assert_eq!(output.dtype(), burn::tensor::DType::F64);
}

/// Only what needs a gradient gets one.
#[test]
fn untracked_inputs_get_no_gradient() {
    let _process = process();
    let device = Device::flex().autodiff();
    for groups in [1, 4] {
        let options = || ConvOptions::new([1; 2], [1; 2], [1; 2], groups);
        let shape = [4, 4 / groups, 3, 3];
        let x = tensor::<4>(1, [2, 4, 6, 6], &device);
        let weight = tensor::<4>(2, shape, &device).require_grad();
        let grads = elastic_kernels::conv2d(x.clone(), weight.clone(), None, options()).sum().backward();
        assert!(x.grad(&grads).is_none());
        let expected = module::conv2d(x, weight.clone(), None, options()).sum().backward();
        assert_close(
            "weight",
            &values(weight.grad(&expected).expect("a value")),
            &values(weight.grad(&grads).unwrap()),
            1e-4,
        );

        let x = tensor::<4>(1, [2, 4, 6, 6], &device).require_grad();
        let weight = tensor::<4>(2, shape, &device);
        let grads = elastic_kernels::conv2d(x.clone(), weight.clone(), None, options()).sum().backward();
        assert!(weight.grad(&grads).is_none());
        let expected = module::conv2d(x.clone(), weight, None, options()).sum().backward();
        assert_close("input", &values(x.grad(&expected).expect("a value")), &values(x.grad(&grads).unwrap()), 1e-4);
    }
}
