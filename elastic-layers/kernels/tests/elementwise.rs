//! Parts, sums and means against Burn's own: output and gradient, over layouts, levels and threads.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{Device, Tensor, activation};
use common::{GRADIENT, LAYOUTS, Layout, OUTPUT, assert_close, everywhere, laid_out, process, tensor, values};
use elastic_kernels::Part;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_part_is_burns_slice(axes in proptest::array::uniform4((1..=4usize, 0..=3usize)), layout in proptest::sample::select(&LAYOUTS)) {
        let _guard = process();
        let sizes = axes.map(|axis| axis.0);
        let shape = axes.map(|axis| axis.0 + axis.1);
        let device = Device::flex().autodiff();
        let run = |work: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let [source, x] = laid_out(1, shape, layout, &device, |x| x);
            let output = work(x);
            // Two uses of one tensor: gradients add up.
            let upstream = [2, 3].map(|seed| tensor(seed, sizes, &device));
            let loss = upstream.into_iter().map(|upstream| (output.clone() * upstream).sum()).reduce(|a, b| a + b);
            let gradients = loss.expect("two").backward();
            (values(output), values(source.grad(&gradients).expect("a gradient")))
        };
        let ours = run(&|x| Part::new(x, sizes).into_tensor());
        prop_assert_eq!(ours, run(&|x| x.slice(sizes.map(|size| 0..size))));
    }
}

#[test]
#[should_panic(expected = "Part: expected at most [2, 3], got [1, 4]")]
fn more_than_there_is_is_refused() {
    let _ = Part::new(Tensor::<2>::zeros([2, 3], &Device::flex()), [1, 4]);
}

/// Values and the gradients of both inputs, with weights that differ from number to number.
fn sum_outcome(
    shape: [usize; 4],
    layouts: [Layout; 2],
    sum: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> [Vec<f32>; 3] {
    let device = Device::flex().autodiff();
    let [first, a] = laid_out(1, shape, layouts[0], &device, |x| x);
    let [second, b] = laid_out(2, shape, layouts[1], &device, |x| x);
    let output = sum(a, b);
    let grads = (output.clone() * tensor(3, shape, &device)).sum().backward();
    let [first, second] = [first, second].map(|source| values(source.grad(&grads).unwrap()));
    [values(output), first, second]
}

#[test]
fn both_uses_of_a_map_have_their_gradients() {
    let _process = process();
    let device = Device::flex().autodiff();
    let shape = [3, 5, 4, 7];
    for layout in LAYOUTS {
        let run = |fork: fn(Tensor<4>) -> [Tensor<4>; 2]| {
            let [source, x] = laid_out(1, shape, layout, &device, |x| x);
            // As a layer leaves it in memory.
            let [first, second] = fork(elastic_kernels::add_relu(x.clone(), x));
            let [one, two] = [first, second].map(|x| x * 2.0);
            let grads =
                (one.clone() * tensor(2, shape, &device) + two.clone() * tensor(3, shape, &device)).sum().backward();
            [values(one), values(two), values(source.grad(&grads).unwrap())]
        };
        assert_eq!(run(elastic_kernels::fork), run(|x| [x.clone(), x]), "{layout:?}");
    }
}

/// What Burn keeps of a gradient that the user asks for, or another use leaves, is not added twice, and one use may be none.
#[test]
fn a_fork_of_any_map_has_its_gradient() {
    let _process = process();
    let device = Device::flex().autodiff();
    let shape = [2, 3, 5, 4];
    for (is_leaf, uses) in [true, false].into_iter().flat_map(|is_leaf| (1..8).map(move |uses| (is_leaf, uses))) {
        let run = |fork: fn(Tensor<4>) -> [Tensor<4>; 2]| {
            let source = tensor::<4>(1, shape, &device).require_grad();
            let x = if is_leaf { source.clone() } else { elastic_kernels::add_relu(source.clone(), source.clone()) };
            let [first, second] = fork(x.clone());
            let used = [first, second, x].into_iter().enumerate().filter(|(use_of, _)| uses >> use_of & 1 == 1);
            let weighted = used.map(|(use_of, x)| (x * tensor(2 + use_of as u64, shape, &device)).sum());
            let grads = weighted.reduce(|sum, one| sum + one).unwrap().backward();
            values(source.grad(&grads).unwrap())
        };
        let (found, expected) = (run(elastic_kernels::fork), run(|x| [x.clone(), x]));
        assert_close(&format!("leaf {is_leaf}, uses {uses:b}"), &expected, &found, GRADIENT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_equal_burns(
        shape in [1usize..5, 1usize..20, 1usize..9, 1usize..9],
        first in prop::sample::select(LAYOUTS.to_vec()),
        second in prop::sample::select(LAYOUTS.to_vec()),
    ) {
        let _process = process();
        let layouts = [first, second];
        let plain = sum_outcome(shape, layouts, |a, b| a + b);
        let relu = sum_outcome(shape, layouts, |a, b| activation::relu(a + b));
        for (level, found) in everywhere(|| sum_outcome(shape, layouts, elastic_kernels::add)) {
            prop_assert_eq!(&found, &plain, "{:?}", level);
        }
        for (level, found) in everywhere(|| sum_outcome(shape, layouts, elastic_kernels::add_relu)) {
            prop_assert_eq!(&found, &relu, "{:?}, ReLU", level);
        }
        // Where nothing else holds the first, it is overwritten; where something does, it is not.
        for sum in [elastic_kernels::add, elastic_kernels::add_relu] {
            let [first, second] = [0, 1].map(|which| laid_out(which, shape, layouts[0], &Device::flex(), |x| x)[1].clone());
            // As a layer leaves it in memory.
            let made = || sum(first.clone(), second.clone());
            let expected = values(sum(made().clone(), second.clone()) + 0.0);
            for (level, found) in everywhere(|| {
                let (held, owned) = (made(), made());
                let before = values(held.clone());
                let of_held = values(sum(held.clone(), second.clone()));
                (before == values(held), of_held, values(sum(owned, second.clone())))
            }) {
                prop_assert_eq!(&found, &(true, expected.clone(), expected.clone()), "{:?}", level);
            }
        }
    }

    #[test]
    fn means_equal_burns(
        shape in [1usize..5, 1usize..40, 1usize..9, 1usize..9],
        layout in prop::sample::select(LAYOUTS.to_vec()),
    ) {
        let _process = process();
        let outcome = |mean: fn(Tensor<4>) -> Tensor<2>| {
            let device = Device::flex().autodiff();
            let [source, x] = laid_out(1, shape, layout, &device, |x| x);
            let output = mean(x);
            let grads = (output.clone() * tensor(2, [shape[0], shape[1]], &device)).sum().backward();
            [values(output), values(source.grad(&grads).unwrap())]
        };
        let expected = outcome(|x| x.mean_dims(&[2, 3]).flatten(1, 3));
        for (level, found) in everywhere(|| outcome(elastic_kernels::global_mean)) {
            for (part, (name, tolerance)) in [("mean", OUTPUT), ("gradient", GRADIENT)].into_iter().enumerate() {
                assert_close(&format!("{level:?} {name}"), &expected[part], &found[part], tolerance);
            }
        }
    }
}
