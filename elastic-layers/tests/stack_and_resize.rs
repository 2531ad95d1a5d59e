//! Elastic depth and resolution: a stack is its first blocks run by hand, a resize is the half-pixel formula.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use common::{Run, assert_close, assert_same_bits, below, device, entries, fractions, tensor, values};
use elastic_layers::{
    Architecture, Elastic, ElasticLinear, ElasticLinearConfig, ElasticResize, ElasticStack, SearchSpace, Size,
};
use proptest::prelude::*;

const FEATURES: usize = 4;

fn blocks(count: usize) -> Vec<ElasticLinear> {
    (0..count).map(|_| ElasticLinearConfig::new(FEATURES, FEATURES).init(&Device::default())).collect()
}

fn run<'a>(blocks: impl IntoIterator<Item = &'a ElasticLinear>) -> Vec<f32> {
    let input: Tensor<2> = tensor(&fractions(1, 3 * FEATURES), [3, FEATURES], &Device::default());
    values(blocks.into_iter().fold(input, |x, block| block.forward(x)))
}

fn depth(low: usize, high: usize) -> (Size, SearchSpace) {
    let mut space = SearchSpace::new();
    let size = space.depth("depth", high).range(low..=high).add().expect("a dimension");
    (size, space)
}

fn at(space: &SearchSpace, value: usize) -> Architecture {
    space.architecture([value]).expect("a value of the space")
}

#[test]
fn a_stack_is_its_first_blocks_at_every_depth() {
    // Two layers come before this stack's blocks, of which at least one stays: depths 0 to 12 reach both ends.
    let (size, space) = depth(1, 12);
    let blocks = blocks(6);
    let stack = ElasticStack::new(blocks.clone()).with_depth(size, 2, 1);
    assert_same_bits("all blocks", &run(stack.iter()), &run(&blocks));
    let outputs: Vec<_> = (1..=12)
        .map(|depth| {
            let kept = [1, 1, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6][depth - 1];
            let expected = run(&blocks[..kept]);
            let view = stack.select(&at(&space, depth));
            assert_eq!(view.iter().count(), kept, "depth {depth}");
            assert_same_bits(&format!("view at depth {depth}"), &run(view.iter()), &expected);
            assert_eq!(view.num_params(), stack.num_params(), "a view keeps what it does not run");
            let small = stack.materialize_at(&at(&space, depth));
            assert_same_bits(&format!("materialised at depth {depth}"), &run(small.iter()), &expected);
            assert_eq!(small.num_params(), kept * (FEATURES * FEATURES + FEATURES));
            assert_eq!(small.select(&space.smallest()).iter().count(), kept, "fixed");
            expected
        })
        .collect();
    assert_ne!(outputs[3], outputs[4], "blocks change the output");
}

#[test]
fn stacks_that_share_a_depth_drop_the_last_repeated_blocks_first() {
    // Two stacks of 3 blocks, of which the first always stays, behind 1 other layer.
    let (size, space) = depth(3, 7);
    let first = ElasticStack::new(blocks(3)).with_depth(size.clone(), 2, 1);
    let second = ElasticStack::new(blocks(3)).with_depth(size, 4, 1);
    let kept = |depth| {
        let architecture = at(&space, depth);
        [first.select(&architecture).iter().count(), second.select(&architecture).iter().count()]
    };
    assert_eq!((3..=7).map(kept).collect::<Vec<_>>(), [[1, 1], [2, 1], [3, 1], [3, 2], [3, 3]]);
}

#[test]
fn a_stack_of_a_fixed_depth_holds_no_blocks_that_it_does_not_run() {
    let mut space = SearchSpace::pinned(&at(&depth(1, 6).1, 4));
    let size = space.depth("depth", 6).range(1..=6).add().expect("the pinned dimension");
    let stack = ElasticStack::new(blocks(6)).with_depth(size, 1, 1);
    assert_eq!(stack.iter().count(), 3);
    assert_eq!(stack.num_params(), 3 * (FEATURES * FEATURES + FEATURES));
}

#[test]
fn blocks_behind_the_depth_get_no_gradient() {
    let (size, space) = depth(1, 3);
    let blocks = (0..3).map(|_| ElasticLinearConfig::new(FEATURES, FEATURES).init(&device())).collect();
    let stack = ElasticStack::new(blocks).with_depth(size, 0, 1);
    let view = stack.select(&at(&space, 2));
    let upstream = |count| fractions(3, count);
    let run = Run::new(&fractions(2, FEATURES), [1, FEATURES], upstream, |x: Tensor<2>| {
        view.iter().fold(x, |x, block| block.forward(x))
    });
    let has: Vec<_> = stack.iter().map(|block| block.weight.val().grad(&run.gradients).is_some()).collect();
    assert_eq!(has, [true, true, false]);
}

/// Bilinear interpolation with half-pixel centres: pixel `i` lies at `i + 1/2`, and edges are repeated.
fn naive_resize(images: &[f32], [planes, height, width]: [usize; 3], size: usize) -> Vec<f64> {
    let source = |index: usize, length: usize| {
        let at = ((index as f64 + 0.5) * length as f64 / size as f64 - 0.5).clamp(0.0, (length - 1) as f64);
        let low = at.floor() as usize;
        (low, (low + 1).min(length - 1), at - low as f64)
    };
    let mut resized = Vec::new();
    for plane in 0..planes {
        for (row, column) in (0..size).flat_map(|row| (0..size).map(move |column| (row, column))) {
            let ((top, bottom, down), (left, right, along)) = (source(row, height), source(column, width));
            let pixel = |row: usize, column: usize| images[(plane * height + row) * width + column] as f64;
            let upper = pixel(top, left) * (1.0 - along) + pixel(top, right) * along;
            let lower = pixel(bottom, left) * (1.0 - along) + pixel(bottom, right) * along;
            resized.push(upper * (1.0 - down) + lower * down);
        }
    }
    resized
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_resize_is_the_half_pixel_formula(
        batch in 1..=2usize, channels in 1..=3usize, map in [1..=9usize, 1..=9usize], size in 1..=9usize, seed in 0..1u64 << 50
    ) {
        let mut space = SearchSpace::new();
        let resolution = space.resolution("resolution", 9).range(1..=9).add().expect("a dimension");
        let resize = ElasticResize::new(resolution);
        let shape = [batch, channels, map[0], map[1]];
        let pixels = fractions(seed, shape.iter().product());
        let images: Tensor<4> = tensor(&pixels, shape, &Device::default());
        let expected = naive_resize(&pixels, [batch * channels, map[0], map[1]], size);
        let view = resize.select(&at(&space, size));
        let resized = view.forward(images.clone());
        prop_assert_eq!(resized.dims(), [batch, channels, size, size]);
        assert_close("view", &values(resized.clone()), &expected, 1e-5);
        let small = resize.materialize_at(&at(&space, size));
        assert_same_bits("materialised", &values(small.forward(images.clone())), &values(resized));
        let of_nine = naive_resize(&pixels, [batch * channels, map[0], map[1]], 9);
        assert_close("as built", &values(resize.forward(images)), &of_nine, 1e-5);
    }

    #[test]
    fn images_of_the_wanted_size_pass_unchanged(size in 1..=9usize, seed in 0..1u64 << 50) {
        let pixels = fractions(seed, 2 * size * size);
        let images: Tensor<4> = tensor(&pixels, [1, 2, size, size], &Device::default());
        assert_same_bits("identity", &values(ElasticResize::new(size).forward(images)), &pixels);
    }
}

#[test]
fn a_resize_at_the_base_resolution_changes_neither_images_nor_gradients() {
    let mut space = SearchSpace::new();
    let resolution = space.resolution("resolution", 28).range(14..=28).add().expect("a dimension");
    let view = ElasticResize::new(resolution).select(&space.base());
    let shape = [2, 1, 28, 28];
    let (pixels, upstream) = (fractions(1, 2 * 28 * 28), |count| fractions(2, count));
    let run = Run::new(&pixels, shape, upstream, |x: Tensor<4>| view.forward(x));
    assert_same_bits("images", &run.output, &pixels);
    assert_same_bits("gradients", &run.input_gradient, &upstream(pixels.len()));
}

#[test]
fn a_resize_passes_gradients_back() {
    // The transposed matrix of the forward one, whose columns are resized unit images.
    let (from, to) = ([1, 1, 5, 4], 3);
    let count = from.iter().product();
    let upstream = fractions(below(1, 100) as u64, to * to);
    let resize = ElasticResize::new(to);
    let run = Run::new(&fractions(1, count), from, |_| upstream.clone(), |x: Tensor<4>| resize.forward(x));
    let expected: Vec<f64> = (0..count)
        .map(|pixel| {
            let unit: Vec<f32> = (0..count).map(|index| f32::from(u8::from(index == pixel))).collect();
            let column = naive_resize(&unit, [1, from[2], from[3]], to);
            column.iter().zip(&upstream).map(|(weight, &gradient)| weight * gradient as f64).sum()
        })
        .collect();
    assert_close("gradients", &run.input_gradient, &expected, 1e-5);
}

#[test]
fn stack_and_resize_survive_a_record() {
    let (size, space) = depth(1, 3);
    let new = || ElasticStack::new(blocks(3)).with_depth(size.clone(), 0, 1);
    let (original, other) = (new(), new());
    assert_ne!(entries(&original), entries(&other));
    let loaded = other.load_record(original.clone().into_record());
    for value in 1..=3 {
        let architecture = at(&space, value);
        let expected = run(original.select(&architecture).iter());
        assert_same_bits("view", &run(loaded.select(&architecture).iter()), &expected);
    }
}
