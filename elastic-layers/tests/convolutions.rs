//! A view of a supernet's convolution is the small one: outputs and gradients against Burn's layer with hand-cropped
//! weights and against a naive loop, zeros outside the view, and optimizer steps that stay inside it. Numbers are such
//! that sums are exact: all comparisons are without a tolerance.

mod common;

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use common::conv::{Case, Direction, cases, conv_transpose2d, conv1d, conv2d};
use common::naive::Naive;
use common::subject::{Subject, VIEW};
use common::{Entry, assert_equal, assert_same_bits, cropped, eighths, entries, entry, gradients, ids, replaced};
use elastic_layers::Elastic;
use proptest::prelude::*;

fn check_view<E: Elastic, B: Module, const D: usize>(case: &Case, direction: Direction, subject: &Subject<E, B, D>) {
    let run = subject.check_view(0.0);
    let naive = Naive::new(case, direction, subject);
    assert_equal("output", &run.output, &naive.output);
    assert_equal("input gradient", &run.input_gradient, &naive.input);
    let gradients = gradients(&subject.supernet, &run.gradients);
    assert_eq!(gradients.len(), 1 + usize::from(case.bias));
    for (Entry { path, shape, values }, expected) in gradients.iter().zip([naive.weight, naive.bias]) {
        assert_equal(&format!("{path} gradient"), &cropped(values, shape, subject.used(path)), &expected);
    }
}

/// A step of gradient descent on a view moves the supernet as it moves the small layer, and nothing else of it.
fn check_step<E: Elastic, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    let (supernet, view, small) = (&subject.supernet, subject.view(), &subject.burn[VIEW]);
    assert_eq!(ids(&view), ids(supernet));
    let before = entries(supernet);
    let ours = GradientsParams::from_grads(subject.run(&view, VIEW).gradients, &view);
    let theirs = GradientsParams::from_grads(subject.run_burn(small, VIEW).gradients, small);
    let after = SgdConfig::new().init().step(0.25, supernet.clone(), ours);
    let small = SgdConfig::new().init().step(0.25, small.clone(), theirs);
    for Entry { path, shape, values } in &before {
        let expected = replaced(values, &entry(&small, path), shape, subject.used(path));
        assert_same_bits(path, &entry(&after, path), &expected);
    }
    assert_eq!(entries(supernet), before, "the supernet that was stepped from");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_view_is_the_small_one(case in cases()) {
        let case = case.with_output(Direction::Forward);
        check_view(&case, Direction::Forward, &conv2d(&case, eighths));
    }

    #[test]
    fn a_view_in_one_dimension_is_the_small_one(case in cases()) {
        let case = case.one_dimensional();
        check_view(&case, Direction::Forward, &conv1d(&case, eighths));
    }

    #[test]
    fn a_transposed_view_is_the_small_one(case in cases()) {
        let case = case.with_output(Direction::Transposed);
        check_view(&case, Direction::Transposed, &conv_transpose2d(&case, eighths));
    }

    #[test]
    fn a_step_on_a_view_moves_the_supernet_inside_the_view_only(case in cases()) {
        check_step(&conv2d(&case.clone().with_output(Direction::Forward), eighths));
        check_step(&conv1d(&case.clone().one_dimensional(), eighths));
        check_step(&conv_transpose2d(&case.with_output(Direction::Transposed), eighths));
    }
}
