//! Search spaces: pinning, hashes, and the messages of everything that is refused.

use elastic_layers::{Architecture, SearchSpace, Size, SpaceError};

fn space() -> SearchSpace {
    let mut space = SearchSpace::new();
    space.channels("stem", 8).range(4..=12).step_by(2).add().expect("a valid dimension");
    space.resolution("resolution", 28).range(14..=28).add().expect("a valid dimension");
    space
}

fn architecture() -> Architecture {
    space().architecture([6, 20]).expect("values of the space")
}

#[test]
fn an_architecture_survives_its_file() {
    assert_eq!(space().check(&architecture().to_file()), Ok(architecture()));
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
fn files_that_do_not_belong_are_refused_with_a_message() {
    let refused = |file| space().check(&file).unwrap_err().to_string();
    let mut file = architecture().to_file();
    file.version = 2;
    assert_eq!(refused(file), "version: expected 1, found 2");
    let mut file = architecture().to_file();
    file.dimensions[0].value = 7;
    assert_eq!(refused(file), "dimension \"stem\": expected a value from 4 to 12 in steps of 2, found 7");
    let mut file = architecture().to_file();
    file.dimensions.pop();
    assert_eq!(refused(file), "the search space has 2 dimensions, found 1 values");
}

#[test]
fn dimensions_that_make_no_sense_are_refused_with_a_message() {
    let mut space = space();
    let taken = space.channels("stem", 8).add().unwrap_err().to_string();
    assert_eq!(taken, "dimension \"stem\": the search space has one of that name already");
    let range = space.channels("x", 8).range(9..=12).add().unwrap_err().to_string();
    assert_eq!(range, "dimension \"x\": the base 8 should be in the range 9 to 12");
}
