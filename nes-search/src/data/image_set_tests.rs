use proptest::prelude::*;

use super::*;
use crate::data::ImageData;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

/// One-pixel images with these labels; the pixel is the image's number.
fn labelled(labels: &[usize], class_count: usize) -> ImageSet {
    let pixels = (0..labels.len()).map(|image| image as u8).collect();
    ImageSet::new(pixels, [labels.len(), 1, 1, 1], labels.to_vec(), names(class_count)).expect("a good set")
}

/// Which images of [`labelled`] these are.
fn image_numbers(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).map(|position| set.pixels(position).expect("in memory")[0]).collect()
}

#[test]
fn a_set_must_fit_its_shape() {
    let new = |pixels, shape, labels: &[usize]| ImageSet::new(vec![0; pixels], shape, labels.to_vec(), names(2));
    assert!(new(12, [2, 3, 1, 2], &[0, 1]).is_ok());
    assert!(matches!(new(0, [0, 3, 1, 2], &[]), Err(DataError::Empty { .. })));
    assert!(matches!(new(11, [2, 3, 1, 2], &[0, 1]), Err(DataError::ShapeMismatch { what: "pixels", .. })));
    assert!(matches!(new(12, [2, 3, 1, 2], &[0]), Err(DataError::ShapeMismatch { what: "labels", .. })));
    assert!(matches!(new(12, [2, 3, 1, 2], &[0, 2]), Err(DataError::LabelOutOfRange { image: 1, found: 2, .. })));
}

#[test]
fn subsets_of_subsets_share_pixels() {
    let set = labelled(&[0, 1, 0, 1, 0], 2);
    let part = set.subset(&[4, 1, 3]).and_then(|part| part.subset(&[2, 0])).expect("in range");
    assert_eq!(image_numbers(&part), [3, 4]);
    assert_eq!((part.label(0), part.label(1)), (1, 0));
    assert!(Arc::ptr_eq(&set.store, &part.store));
    assert!(matches!(set.subset(&[]), Err(DataError::Empty { .. })));
    assert!(matches!(set.subset(&[0, 7]), Err(DataError::PositionOutOfRange { len: 5, found: 7 })));
}

#[test]
fn a_class_with_too_few_images_is_named() {
    let set = labelled(&[0, 0, 0, 1, 1], 2);
    assert!(matches!(set.split_per_class(0, 1), Err(DataError::NothingHeldOut)));
    assert_eq!(
        set.split_per_class(2, 1).expect_err("class 1 would have none left").to_string(),
        "class 1 (class 1): holding out 2 images (evaluation_per_class) and keeping at least one needs 3 images, found 2"
    );
}

#[test]
fn the_seed_decides_a_split() {
    let train = ImageData::embedded().train;
    let held_out = |seed| train.split_per_class(50, seed).expect("enough").1;
    assert_eq!(held_out(1).images, held_out(1).images);
    assert_ne!(held_out(1).images, held_out(2).images);
}

#[test]
fn of_a_set_sorted_by_class_a_batch_of_images_held_out_has_all_classes() {
    let labels: Vec<usize> = (0..90).map(|position| position / 30).collect();
    let set = labelled(&labels, 3);
    for seed in 1..=5 {
        let (_, held_out) = set.split_per_class(10, seed).expect("enough");
        let first: Vec<usize> = (0..10).collect();
        let sizes = held_out.subset(&first).expect("positions").class_sizes();
        assert!(sizes.iter().all(|size| *size > 0), "seed {seed}: {sizes:?}");
    }
}

proptest! {
    #[test]
    fn a_split_is_balanced_and_loses_nothing(
        mut labels in prop::collection::vec(0usize..3, 0..60), per_class in 1usize..6, seed: u64,
    ) {
        labels.extend((0..3).cycle().take(3 * (per_class + 1)));
        let set = labelled(&labels, 3);
        let (rest, held_out) = set.split_per_class(per_class, seed).expect("enough");
        prop_assert_eq!(held_out.class_sizes(), [per_class; 3]);

        let (rest, held_out) = (image_numbers(&rest), image_numbers(&held_out));
        prop_assert!(rest.is_sorted());
        let mut all = [rest, held_out].concat();
        all.sort_unstable();
        prop_assert_eq!(all, image_numbers(&set));
    }
}
