//! Search spaces: pinning, hashes, and the messages of everything that is refused.

use elastic_layers::backbones::MobileNetV2Config;
use elastic_layers::{Architecture, SearchSpace, Size, SpaceError};
use proptest::prelude::*;

fn space() -> SearchSpace {
    let mut space = SearchSpace::new();
    space.channels("stem", 8).range(4..=12).step_by(2).add().expect("a valid dimension");
    space.resolution("resolution", 28).range(14..=28).add().expect("a valid dimension");
    space
}

fn architecture() -> Architecture {
    space().architecture([6, 20]).expect("values of the space")
}

/// The written form of an architecture, changed and read again.
fn reread(change: impl FnOnce(&mut serde_json::Value)) -> Result<Architecture, String> {
    let mut value = serde_json::to_value(architecture()).expect("it can be written");
    change(&mut value);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn an_architecture_survives_its_file() {
    assert_eq!(reread(|_| ()), Ok(architecture()));
    assert_eq!(space().check(&architecture()), Ok(()));
    assert_eq!(architecture().to_string(), "stem=6 resolution=20");
}

#[test]
fn a_pinned_space_hands_out_fixed_sizes_and_refuses_other_dimensions() {
    let mut pinned = SearchSpace::pinned(&architecture());
    assert_eq!(pinned.channels("stem", 8).range(4..=12).step_by(2).add(), Ok(Size::Fixed(6)));
    let error = pinned.resolution("resolution", 28).range(13..=28).add().unwrap_err();
    assert_eq!(error, SpaceError::Pinned { name: "resolution".into(), index: 1 });
}

#[test]
fn files_that_make_no_sense_are_refused_with_a_message() {
    let refused = |change: fn(&mut serde_json::Value)| reread(change).expect_err("it makes no sense");
    assert_eq!(refused(|file| file["version"] = 2.into()), "version: expected 1, found 2");
    let value = "dimension \"stem\": expected a value from 4 to 12 in steps of 2, found 7";
    assert_eq!(refused(|file| file["dimensions"][0]["value"] = 7.into()), value);
    for (field, number) in [("step", 0), ("min", 0), ("max", 11), ("base", 7), ("base", 20)] {
        let mut file = serde_json::to_value(architecture()).expect("it can be written");
        file["dimensions"][0][field] = number.into();
        let error = serde_json::from_value::<Architecture>(file).expect_err(field).to_string();
        assert!(error.starts_with("dimension \"stem\": expected a step"), "{field} {number}: {error}");
    }
    assert!(refused(|file| file["extra"] = 0.into()).starts_with("unknown field `extra`"));
}

#[test]
fn an_architecture_of_another_space_is_refused_by_the_first_dimension_that_differs() {
    let refused = |change: fn(&mut serde_json::Value)| {
        let found = reread(change).expect("an architecture");
        space().check(&found).expect_err("of another space").to_string()
    };
    let other = "the architecture is of another search space: dimension";
    let stem = "\"stem\" (channels 8, from 4 to 12 in steps of 2)";
    let bounds = refused(|file| file["dimensions"][0]["max"] = 14.into());
    assert_eq!(bounds, format!("{other} 0 expected {stem}, found {}", stem.replace("12", "14")));
    let kind = refused(|file| file["dimensions"][1]["kind"] = "depth".into());
    assert!(kind.starts_with(&format!("{other} 1 expected \"resolution\" (resolution 28")), "{kind}");
    let fewer = refused(|file| drop(file["dimensions"].as_array_mut().expect("a list").pop()));
    assert!(fewer.ends_with("found none"), "{fewer}");
}

#[test]
fn dimensions_that_make_no_sense_are_refused_with_a_message() {
    let mut space = space();
    let taken = space.channels("stem", 8).add().unwrap_err().to_string();
    assert_eq!(taken, "dimension \"stem\": the search space has one of that name already");
    let range = space.channels("x", 8).range(9..=12).add().unwrap_err().to_string();
    assert_eq!(range, "dimension \"x\": the base 8 should be in the range 9 to 12");
    let zero = "dimension \"x\": the step, the smallest value and the divisor must be at least 1";
    assert_eq!(space.channels("x", 8).step_by(0).add().expect_err("no step").to_string(), zero);
    assert_eq!(space.channels("x", 8).range(0..=8).add().expect_err("nothing").to_string(), zero);
    let below = space.channels("x", 8).range(2..=7).add().expect_err("a base above").to_string();
    assert_eq!(below, "dimension \"x\": the base 8 should be in the range 2 to 7");
    assert_eq!(space, self::space(), "what was refused left nothing behind");
}

#[test]
fn values_that_do_not_belong_are_refused_with_a_message() {
    let refused = |values: &[usize]| space().architecture(values).expect_err("no architecture").to_string();
    assert_eq!(refused(&[6]), "the search space has 2 dimensions, found 1 values");
    assert_eq!(refused(&[6, 20, 1]), "the search space has 2 dimensions, found 3 values");
    let stem = "dimension \"stem\": expected a value from 4 to 12 in steps of 2, found ";
    assert_eq!(refused(&[5, 20]), format!("{stem}5"));
    assert_eq!(refused(&[14, 20]), format!("{stem}14"));
    assert_eq!(refused(&[2, 20]), format!("{stem}2"));
}

#[test]
fn a_pinned_space_refuses_what_differs_in_name_kind_bounds_or_order() {
    let pinned = SearchSpace::pinned(&architecture());
    let refused = |add: &dyn Fn(&mut SearchSpace) -> Result<Size, SpaceError>| {
        let error = add(&mut pinned.clone()).expect_err("another dimension");
        assert!(matches!(error, SpaceError::Pinned { index: 0, .. }), "{error}");
        error.to_string()
    };
    let message = refused(&|space| space.channels("trunk", 8).range(4..=12).step_by(2).add());
    assert_eq!(message, "dimension \"trunk\": the architecture has no such dimension at place 0");
    refused(&|space| space.depth("stem", 8).range(4..=12).step_by(2).add());
    refused(&|space| space.channels("stem", 8).range(4..=12).add());
    refused(&|space| space.channels("stem", 10).range(4..=12).step_by(2).add());
    refused(&|space| space.resolution("resolution", 28).range(14..=28).add());
}

/// The hash is in users' files: a change of it makes every architecture that was kept unreadable.
#[test]
fn the_hash_never_changes() {
    assert_eq!(space().hash(), "a6aefeed7e40f0b6");
}

#[test]
fn the_hash_is_of_names_kinds_bounds_and_order() {
    type Edit = fn(&mut SearchSpace) -> Result<Size, SpaceError>;
    let hash = |edits: &[Edit]| {
        let mut space = SearchSpace::new();
        for add in edits {
            add(&mut space).expect("a dimension");
        }
        space.hash()
    };
    let stem: Edit = |space| space.channels("stem", 8).range(4..=12).step_by(2).add();
    let rest: Edit = |space| space.resolution("resolution", 28).range(14..=28).add();
    assert_eq!(hash(&[stem, rest]), space().hash());
    let others: [&[Edit]; 10] = [
        &[],
        &[stem],
        &[rest, stem],
        &[|space| space.channels("Stem", 8).range(4..=12).step_by(2).add(), rest],
        &[|space| space.depth("stem", 8).range(4..=12).step_by(2).add(), rest],
        &[|space| space.channels("stem", 10).range(4..=12).step_by(2).add(), rest],
        &[|space| space.channels("stem", 8).range(6..=12).step_by(2).add(), rest],
        &[|space| space.channels("stem", 8).range(4..=14).step_by(2).add(), rest],
        &[|space| space.channels("stem", 8).range(4..=12).step_by(4).add(), rest],
        &[|space| space.channels("stem8", 8).range(4..=12).step_by(2).add(), rest],
    ];
    let mut hashes: Vec<_> = others.into_iter().map(hash).chain([space().hash()]).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 11, "all different: {hashes:?}");
}

#[test]
fn a_space_is_shown_as_a_table() {
    // 5 channels times 15 resolutions: 75.
    let expected = "\
dimension   kind         base   min   max  step
stem        channels        8     4    12     2
resolution  resolution     28    14    28     1
10^1.9 architectures in 2 dimensions";
    assert_eq!(space().to_string(), expected);
    let empty = SearchSpace::new();
    assert_eq!(empty.to_string().lines().last(), Some("10^0.0 architectures in 0 dimensions"));
    assert_eq!(empty.base().values(), [0; 0]);
}

#[test]
fn the_number_of_architectures_is_the_product_of_levels() {
    assert!((space().log10_architectures() - 75f64.log10()).abs() < 1e-12);
    let mut space = SearchSpace::new();
    let config = MobileNetV2Config::small(1, 28, 10);
    config.init(&mut space, &burn::tensor::Device::default()).expect("a supernet");
    let levels = space.dims().iter().map(|dim| ((dim.max - dim.min) / dim.step + 1) as f64);
    let product: f64 = levels.product();
    assert!((space.log10_architectures() - product.log10()).abs() < 1e-9);
    // One of each: resolution 14 to 28, depth 6 to 10, and a head of 96 in steps of 5, which is 4.8
    // rounded: 21 to 141, within 0.2 and 1.5 of it.
    let count = |name: &str| space.get(name).expect("a dimension").levels();
    assert_eq!((count("resolution"), count("depth"), count("head")), (15, 5, 25));
}

#[test]
fn ranges_as_fractions_of_the_base_are_rounded_to_a_grid_through_it() {
    // Table 4 of the paper: 0.2 to 1.5 in steps of 0.05.
    let table = |base| {
        let mut space = SearchSpace::new();
        space.channels("x", base).scale(0.2..=1.5).step(0.05).add().expect("a dimension");
        let dim = &space.dims()[0];
        assert!(dim.contains(base));
        (dim.min, dim.max, dim.step)
    };
    assert_eq!(table(320), (64, 480, 16));
    // 6.4 to 48 in steps of 1.6: the grid of 2 through 32 from 6.
    assert_eq!(table(32), (6, 48, 2));
    // 25.6 to 192 in steps of 6.4: the grid of 6 through 128, inside 26 to 192.
    assert_eq!(table(128), (26, 188, 6));
    // 0.2 to 1.5 in steps of 0.05: at least one channel, and a step of one.
    assert_eq!(table(1), (1, 2, 1));
}

proptest! {
    #[test]
    fn hyperparameters_and_levels_give_values_of_the_space(h in [-5.0..30.0f64, -5.0..30.0f64], levels in [0..30usize, 0..30usize]) {
        let space = space();
        let architecture = space.at_params(&h);
        prop_assert_eq!(space.architecture(architecture.values()), Ok(architecture.clone()));
        let expected = [4 + 2 * (h[0].floor().clamp(0.0, 4.0) as usize), 14 + h[1].floor().clamp(0.0, 14.0) as usize];
        prop_assert_eq!(architecture.values(), expected);
        prop_assert_eq!(space.at_params(&architecture.params()), architecture, "the centre of the cell");
        let architecture = space.at_levels(&levels);
        prop_assert_eq!(architecture.values(), [4 + 2 * levels[0].min(4), 14 + levels[1].min(14)]);
        prop_assert_eq!(space.check(&architecture), Ok(()));
    }
}

#[test]
fn multiples_of_a_number_round_the_step_and_need_a_base_that_is_one() {
    let dim = |base, range: std::ops::RangeInclusive<usize>, step, divisor| {
        let mut space = SearchSpace::new();
        space.channels("x", base).range(range).step_by(step).multiple_of(divisor).add().expect("a dimension");
        let dim = &space.dims()[0];
        (dim.min, dim.max, dim.step)
    };
    assert_eq!(dim(32, 10..=50, 1, 8), (16, 48, 8));
    assert_eq!(dim(32, 8..=64, 11, 8), (8, 64, 8), "the nearest multiple of 8 is 8");
    assert_eq!(dim(32, 8..=64, 12, 8), (16, 64, 16), "the larger of two that are as near");
    assert_eq!(dim(32, 8..=64, 20, 8), (8, 56, 24));
    assert_eq!(dim(7, 1..=9, 3, 1), (1, 7, 3), "any number is a multiple of 1");
    // With fractions: 0.2 to 1.5 in steps of 0.05, which are 16 of 320 and 1.2 of 24.
    let mut space = SearchSpace::new();
    space.channels("a", 320).scale(0.2..=1.5).step(0.05).multiple_of(8).add().expect("a dimension");
    space.channels("b", 24).scale(0.2..=1.5).step(0.05).multiple_of(8).add().expect("a dimension");
    let bounds: Vec<_> = space.dims().iter().map(|dim| (dim.min, dim.max, dim.step)).collect();
    assert_eq!(bounds, [(64, 480, 16), (8, 32, 8)]);

    let odd = space.channels("x", 20).multiple_of(8).add().expect_err("no multiple").to_string();
    assert_eq!(odd, "dimension \"x\": the base 20 should be a multiple of 8");
    let zero = "dimension \"x\": the step, the smallest value and the divisor must be at least 1";
    assert_eq!(space.channels("x", 8).multiple_of(0).add().expect_err("nothing").to_string(), zero);
}

proptest! {
    #[test]
    fn every_value_is_a_multiple(divisor in 1..9usize, times in 1..9usize, below in 0..40usize, above in 0..40usize, step in 1..30usize) {
        let base = divisor * times;
        let range = base.saturating_sub(below).max(1)..=base + above;
        let mut space = SearchSpace::new();
        space.channels("x", base).range(range.clone()).step_by(step).multiple_of(divisor).add().expect("a dimension");
        let dim = &space.dims()[0];
        prop_assert!(range.contains(&dim.min) && range.contains(&dim.max) && dim.contains(base));
        for level in 0..dim.levels() {
            prop_assert_eq!(dim.at_level(level) % divisor, 0);
        }
        // No further from the step than half a divisor, unless it is smaller than that.
        prop_assert!(dim.step.abs_diff(step) * 2 <= divisor || dim.step == divisor);
    }
}
