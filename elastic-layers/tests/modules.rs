//! Elastic layers are modules as Burn's own are: conversion, records, inference, frozen parameters, devices. All of it
//! with Burn's operations, so that outputs are the same bit for bit.

mod common;

use burn::module::Module;
use burn::tensor::Device;
use common::conv::{Direction, cases, conv_transpose2d, conv1d, conv2d};
use common::layers::{batch_norm, group_norm, linear, maps, prelu};
use common::subject::{FULL, Subject, VIEW};
use common::{assert_equal, assert_same_bits, device, eighths, entries, entry, filled, gradients, ids, to_f64};
use elastic_layers::{Elastic, ElasticBatchNorm, ElasticBatchNormConfig, SearchSpace, Statistics, kernels};
use proptest::prelude::*;

/// Burn's layer made of the supernet has the same parameters, of a view a copy of those in use.
fn check_into_burn<E: Elastic, B: Module + From<E>, const D: usize>(subject: &Subject<E, B, D>) {
    kernels::set_enabled(false);
    let supernet = subject.supernet.clone();
    let whole = B::from(supernet.clone());
    assert_eq!(ids(&whole), ids(&supernet), "the same parameters");
    assert_eq!(entries(&whole), entries(&subject.burn[FULL]));
    assert_same_bits("supernet", &subject.infer_burn(&whole.valid(), FULL), &subject.infer(&supernet.valid(), FULL));

    let view = subject.view();
    let part = B::from(view.clone());
    assert_eq!(entries(&part), subject.cropped_entries());
    let expected = subject.run(&view, VIEW);
    let run = subject.run_burn(&part, VIEW);
    assert_equal("view", &run.output, &to_f64(&expected.output));
    assert_eq!(gradients(&part, &run.gradients).len(), gradients(&subject.supernet, &expected.gradients).len());
    if ids(&part) != ids(&whole) {
        assert_eq!(entries(&subject.supernet), entries(&subject.burn[FULL]), "a part is a copy");
    }
}

every_layer!(a_view_as_burns_layer, 24, check_into_burn);

/// The elastic layer made of Burn's is of fixed sizes and has the same parameters.
fn check_from_burn<E: Elastic + From<B>, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    kernels::set_enabled(false);
    let fixed = E::from(subject.burn[FULL].clone());
    assert_eq!(ids(&fixed), ids(&subject.burn[FULL]));
    let expected = subject.run_burn(&subject.burn[FULL], FULL);
    for layer in [fixed.select(&subject.architectures[VIEW]), fixed.materialize_at(&subject.architectures[VIEW]), fixed]
    {
        let run = subject.run(&layer, FULL);
        assert_equal("output", &run.output, &to_f64(&expected.output));
        assert_equal("input gradient", &run.input_gradient, &to_f64(&expected.input_gradient));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_layer_made_of_burns_is_of_fixed_size(case in cases(), maps in maps()) {
        check_from_burn(&conv2d(&case.clone().with_output(Direction::Forward), eighths));
        check_from_burn(&conv1d(&case.clone().one_dimensional(), eighths));
        check_from_burn(&conv_transpose2d(&case.with_output(Direction::Transposed), eighths));
        check_from_burn(&linear(&maps));
        check_from_burn(&batch_norm(&maps));
        check_from_burn(&group_norm(&maps));
        check_from_burn(&prelu(&maps));
    }
}

/// Records of elastic layers and of Burn's at full size are the same, and load into either.
fn check_record<E: Elastic, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    kernels::set_enabled(false);
    let zeros = |_: &str, shape: &[usize]| vec![0.0; shape.iter().product()];
    let fresh = |layer: E| filled(layer.fork(&device()), zeros);
    // Running statistics are shared by clones, and have to stay what they are.
    let expected = entries(&subject.supernet);
    let record = subject.supernet.clone().into_record();
    let views = [VIEW, FULL].map(|which| subject.supernet.materialize_at(&subject.architectures[which]));
    let outputs = [VIEW, FULL].map(|which| subject.infer(&views[which].valid(), which));

    let empty = fresh(subject.supernet.materialize_at(&subject.architectures[FULL]));
    assert!(entries(&empty).iter().all(|entry| entry.values.iter().all(|&value| value == 0.0)));
    let loaded = empty.clone().load_record(record);
    assert_eq!(entries(&loaded), expected);
    assert_same_bits("loaded", &subject.infer(&loaded.valid(), FULL), &outputs[FULL]);
    let from_burn = fresh(subject.supernet.materialize_at(&subject.architectures[FULL]))
        .load_record(subject.burn[FULL].clone().into_record());
    assert_eq!(entries(&from_burn), entries(&subject.burn[FULL]));

    let supernet = filled(subject.supernet.clone(), zeros).load_record(subject.burn[FULL].clone().into_record());
    let view = supernet.materialize_at(&subject.architectures[VIEW]);
    assert_same_bits("a view of the loaded", &subject.infer(&view.valid(), VIEW), &outputs[VIEW]);
    let small = fresh(views[VIEW].clone()).load_record(subject.burn[VIEW].clone().into_record());
    assert_eq!(entries(&small), entries(&subject.burn[VIEW]), "Burn's small layer loads into the materialised");
}

every_layer!(a_record_loads_back, 16, check_record);

/// A view and a supernet on other devices, and of other training states.
fn check_states<E: Elastic, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    kernels::set_enabled(false);
    let (supernet, [architecture, largest]) = (&subject.supernet, &subject.architectures);
    let all = entries(supernet);
    let has = |layer: &E, which| gradients(layer, &subject.run(layer, which).gradients).len();
    let trainable = has(&subject.view(), VIEW);
    assert_eq!(trainable, gradients(&subject.burn[VIEW], &subject.run_burn(&subject.burn[VIEW], VIEW).gradients).len());

    // `valid` before and after `select` is the same, and `train` takes it back.
    let inferred = subject.infer(&subject.view().valid(), VIEW);
    assert_same_bits("valid", &subject.infer(&supernet.valid().select(architecture), VIEW), &inferred);
    assert_eq!(ids(&supernet.valid()), ids(supernet));
    let back = supernet.valid().select(architecture).train();
    assert_eq!(has(&back, VIEW), trainable);
    assert_eq!(has(&supernet.valid().materialize_at(architecture).train(), VIEW), trainable);

    // Frozen is frozen, whatever is made of it. The supernet as built is Burn's, also in evaluating while training.
    let frozen = supernet.clone().freeze();
    let burn = subject.burn[FULL].clone().freeze();
    let (ours, theirs) = (subject.run(&frozen, FULL), subject.run_burn(&burn, FULL));
    assert_equal("frozen", &ours.output, &to_f64(&theirs.output));
    assert_equal("frozen, input gradient", &ours.input_gradient, &to_f64(&theirs.input_gradient));
    assert_eq!(entries(&frozen), all, "a frozen layer changes no statistics");
    let states = [
        frozen.select(architecture),
        frozen.materialize_at(architecture),
        frozen.valid().select(architecture).train(),
        frozen.valid().materialize_at(architecture).train(),
        supernet.clone().no_grad().materialize_at(architecture),
        subject.view().set_require_grad(false),
    ];
    for (index, layer) in states.iter().enumerate() {
        assert_eq!(has(layer, VIEW), 0, "state {index}");
    }
    assert_eq!(has(&frozen.select(largest).unfreeze(), FULL), trainable);

    // A fork is of leaves of its own.
    let fork = subject.view().fork(&device());
    assert_eq!(ids(&fork), ids(supernet));
    assert_eq!(entries(&fork), all);
    let (forked, viewed) = (subject.run(&fork, VIEW), subject.run(&subject.view(), VIEW));
    assert_same_bits("fork", &forked.output, &viewed.output);
    assert_eq!(gradients(&fork, &forked.gradients), gradients(supernet, &viewed.gradients));
    assert!(gradients(supernet, &forked.gradients).is_empty(), "the fork's gradients are not the supernet's");
    let moved = subject.view().valid().to_device(&Device::default());
    assert_same_bits("moved", &subject.infer(&moved, VIEW), &inferred);
    assert!(moved.devices().iter().all(|device| *device == Device::default()));
}

every_layer!(states_are_those_of_burns_layers, 12, check_states);

#[test]
fn the_training_flag_of_a_batch_norm_is_burns() {
    kernels::set_enabled(false);
    let mut space = SearchSpace::new();
    let size = space.channels("features", 4).range(1..=4).add().expect("a dimension");
    let norm = || ElasticBatchNormConfig::new(size.clone()).init(&device());
    let input = || common::tensor(&eighths(1, 4 * 6), [2, 4, 3], &device());
    let mean_after = |norm: &ElasticBatchNorm| {
        let _ = norm.forward(input());
        entry(norm, "running_mean")
    };
    let updated = mean_after(&norm());
    assert_ne!(updated, [0.0; 4]);
    // No gradients, and still in training, as Burn says of `no_grad`.
    assert_eq!(mean_after(&norm().no_grad()), updated);
    assert_eq!(mean_after(&norm().freeze()), [0.0; 4]);
    assert_eq!(mean_after(&norm().freeze().unfreeze()), updated);
    assert_eq!(mean_after(&norm().freeze().materialize_at(&space.largest())), [0.0; 4]);
    assert_eq!(mean_after(&norm().valid().train()), updated);
    // Statistics of the batch are asked for, frozen or not.
    let view = norm().freeze().select(&space.largest());
    let expected = common::values(norm().with_statistics(Statistics::Batch).forward(input()));
    assert_same_bits("a frozen view", &common::values(view.forward(input())), &expected);
    assert_eq!(entry(&view, "running_mean"), [0.0; 4]);
}
