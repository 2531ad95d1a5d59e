//! Convolution against Burn's own, over shapes, layouts, levels and threads.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};
use common::{
    EXACT, GRADIENT, LAYOUTS, Layout, OUTPUT, assert_close, assert_sums, doubles, everywhere, laid_out, process,
    tensor, values,
};
use elastic_kernels::Part;
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

/// The output, and the gradients of the input, the weight and the bias: in `f32` or, as the reference, in `f64`; of the
/// numbers or, for the size of the terms that a result sums, of their absolute values.
fn outcome(case: &Case, dtype: DType, absolute: bool, convolution: Convolution) -> [Vec<f64>; 4] {
    let device = Device::flex().autodiff();
    let prepare = |x: Tensor<4>| if absolute { x.abs() } else { x }.cast(dtype);
    let [source, x] = laid_out(1, case.input, case.layout, &device, prepare);
    let [weight_source, weight] = laid_out(2, case.weight, case.layout, &device, prepare);
    let bias = case.bias.then(|| {
        let bias = tensor::<1>(3, [case.weight[0]], &device);
        if absolute { bias.abs() } else { bias }.cast(dtype).require_grad()
    });
    let output = convolution(x, weight, bias.clone(), case.options.clone());
    let weighted = output.clone() * prepare(tensor(4, output.dims(), &device));
    let grads = weighted.sum().backward();
    [
        doubles(output),
        doubles(source.grad(&grads).unwrap()),
        doubles(weight_source.grad(&grads).unwrap()),
        bias.map(|bias| doubles(bias.grad(&grads).unwrap())).unwrap_or_default(),
    ]
}

/// Burn's own, and the kernels.
const BURNS: Convolution = |x, weight, bias, options| module::conv2d(x, weight, bias, options);
const OURS: Convolution = |x, weight, bias, options| elastic_kernels::conv2d(x, weight, bias, options);

fn check(case: &Case) {
    let _process = process();
    let exact = outcome(case, DType::F64, false, BURNS);
    let burns = outcome(case, DType::F32, false, BURNS);
    let terms = outcome(case, DType::F64, true, BURNS);
    for (level, found) in everywhere(|| outcome(case, DType::F32, false, OURS)) {
        for (part, (name, tolerance)) in
            [("output", OUTPUT), ("input", GRADIENT), ("weight", GRADIENT), ("bias", GRADIENT)].into_iter().enumerate()
        {
            let name = format!("{level:?} {name}");
            assert_sums(&format!("{name} against f64"), &exact[part], &found[part], &terms[part], EXACT);
            assert_sums(&name, &burns[part], &found[part], &terms[part], tolerance);
        }
    }
}

/// Where the terms cancel, Burn's `f32` is no nearer to the exact sum than the kernels are: a weight gradient of 5e-4
/// whose terms are around 0.5, on which the two differ by 2e-4 of its value.
#[test]
fn cancelling_terms_lose_the_same_digits_in_burn() {
    let case = Case {
        input: [4, 1, 7, 4],
        weight: [1, 1, 1, 1],
        options: ConvOptions::new_with_padding([3, 1], [(0, 0), (2, 2)], [1, 1], 1),
        bias: false,
        layout: Layout::Contiguous,
    };
    check(&case);
    let _process = process();
    let [exact, burns, ours] = [(DType::F64, BURNS), (DType::F32, BURNS), (DType::F32, OURS)]
        .map(|(dtype, convolution)| outcome(&case, dtype, false, convolution)[2][0]);
    let [terms] = outcome(&case, DType::F64, true, BURNS)[2][..] else { panic!("one weight") };
    assert!(terms / exact.abs() > 1e3, "the terms do not cancel: {terms} and {exact}");
    for (name, value) in [("Burn's", burns), ("ours", ours)] {
        assert!(
            (value - exact).abs() > 1e-6 * exact.abs(),
            "{name} {value}: as exact as {exact}, so a closer test is possible"
        );
        assert!((value - exact).abs() < 1e-7 * terms, "{name} {value}: further from {exact} than rounding explains");
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
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dense_equals_burn(case in cases(false)) {
        check(&case);
    }

    #[test]
    fn depthwise_equals_burn(case in cases(true)) {
        check(&case);
    }
}

/// Output, and the gradients of the input and the whole weight, of which only the first entries are used.
fn of_part(case: &Case, rest: [usize; 2], is_part: bool) -> [Vec<f32>; 3] {
    let device = Device::flex().autodiff();
    let [source, x] = laid_out(1, case.input, case.layout, &device, |x| x);
    let [outputs, inputs, height, width] = case.weight;
    // Of a depthwise convolution there is one input channel in a group.
    let inputs = if case.options.groups == 1 { inputs + rest[1] } else { 1 };
    let weight = tensor::<4>(2, [outputs + rest[0], inputs, height, width], &device).require_grad();
    let output = match is_part {
        true => elastic_kernels::conv2d(x, Part::new(weight.clone(), case.weight), None, case.options.clone()),
        false => {
            let sliced = weight.clone().slice(case.weight.map(|size| 0..size));
            elastic_kernels::conv2d(x, sliced, None, case.options.clone())
        }
    };
    let grads = (output.clone() * tensor(4, output.dims(), &device)).sum().backward();
    [values(output), values(source.grad(&grads).unwrap()), values(weight.grad(&grads).unwrap())]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_part_of_a_weight_is_the_same_sliced(
        case in any::<bool>().prop_flat_map(cases), rest in [0usize..40, 0usize..40],
    ) {
        let _process = process();
        for (level, [part, sliced]) in everywhere(|| [true, false].map(|is_part| of_part(&case, rest, is_part))) {
            prop_assert!(part == sliced, "{:?}", level);
        }
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
    let double = |seed, shape| tensor::<4>(seed, shape, &device).cast(DType::F64);
    let options = || ConvOptions::new([1; 2], [0; 2], [1; 2], 1);
    let output = elastic_kernels::conv2d(double(1, [1, 2, 4, 4]), double(2, [3, 2, 1, 1]), None, options());
    assert_eq!(output.dtype(), DType::F64);
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
            GRADIENT,
        );

        let x = tensor::<4>(1, [2, 4, 6, 6], &device).require_grad();
        let weight = tensor::<4>(2, shape, &device);
        let grads = elastic_kernels::conv2d(x.clone(), weight.clone(), None, options()).sum().backward();
        assert!(weight.grad(&grads).is_none());
        let expected = module::conv2d(x.clone(), weight, None, options()).sum().backward();
        assert_close("input", &values(x.grad(&expected).expect("a value")), &values(x.grad(&grads).unwrap()), GRADIENT);
    }
}
