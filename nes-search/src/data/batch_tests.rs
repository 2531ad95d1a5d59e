use proptest::prelude::*;
use rand::SeedableRng;

use super::*;

/// A set whose bytes differ from pixel to pixel and image to image, with as many classes as images.
fn set(shape: [usize; 4]) -> ImageSet {
    let pixels = (0..shape.iter().product()).map(|i: usize| (i * i * 7 + i * 31) as u8).collect();
    let names = (0..shape[0]).map(|class| class.to_string()).collect();
    ImageSet::new(pixels, shape, (0..shape[0]).rev().collect(), names).expect("a good set")
}

fn normalization(channels: usize) -> Normalization {
    let mean = (0..channels).map(|channel| 0.3 + 0.1 * channel as f32).collect();
    let std = (0..channels).map(|channel| 0.2 + 0.05 * channel as f32).collect();
    Normalization::new(mean, std).expect("valid")
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(3)
}

/// The pixels of a batch.
fn gather(
    set: &ImageSet,
    indices: &[usize],
    normalization: &Normalization,
    augment: Option<(&Augment, &mut ChaCha8Rng)>,
) -> Vec<f32> {
    let batch = batch(set, indices, normalization, augment, &Device::default()).expect("in memory");
    batch.images.into_data().try_to_vec().expect("f32")
}

/// One pixel by its definition: shifted, then flipped, then read or black, then normalised.
fn naive(
    set: &ImageSet,
    index: usize,
    [channel, y, x]: [usize; 3],
    normalization: &Normalization,
    change: Change,
) -> f32 {
    let [_, _, height, width] = set.shape();
    let (row, column) = (y as isize + change.top, x as isize + change.left);
    let inside = (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
    let byte = if inside {
        let column = if change.flip { width as isize - 1 - column } else { column };
        set.pixels(index).expect("in memory")[(channel * height + row as usize) * width + column as usize]
    } else {
        0
    };
    (f32::from(byte) / 255.0 - normalization.mean[channel]) / normalization.std[channel]
}

fn naive_image(set: &ImageSet, index: usize, normalization: &Normalization, change: Change) -> Vec<f32> {
    let [_, channels, height, width] = set.shape();
    let mut image = Vec::new();
    for channel in 0..channels {
        for y in 0..height {
            for x in 0..width {
                image.push(naive(set, index, [channel, y, x], normalization, change));
            }
        }
    }
    image
}

#[test]
fn a_batch_holds_the_images_and_labels_at_the_positions() {
    let (set, normalization) = (set([5, 3, 4, 6]), normalization(3));
    let part = set.subset(&[4, 1, 0]).expect("in range");
    let batch = batch(&part, &[2, 0, 2], &normalization, None, &Device::default()).expect("in memory");

    assert_eq!(batch.images.dims(), [3, 3, 4, 6]);
    let unchanged = Change::default();
    let expected: Vec<f32> =
        [0, 4, 0].iter().flat_map(|&index| naive_image(&set, index, &normalization, unchanged)).collect();
    assert_eq!(batch.images.into_data().try_to_vec::<f32>().expect("f32"), expected);
    assert_eq!(batch.labels.into_data().convert::<i64>().try_to_vec::<i64>().expect("i64"), [4, 0, 4]);
}

#[test]
fn augmentation_draws_for_each_image_and_switched_off_changes_nothing() {
    let (set, normalization) = (set([5, 1, 8, 8]), normalization(1));
    let indices = [3, 1, 4, 1];
    let plain = gather(&set, &indices, &normalization, None);
    let off = Augment { flip: false, shift: 0, random_resized_crop: false };
    let mut untouched = rng();
    assert_eq!(gather(&set, &indices, &normalization, Some((&off, &mut untouched))), plain);
    assert_eq!(untouched, rng());

    let augment = Augment { flip: true, shift: 2, random_resized_crop: false };
    let changed = gather(&set, &indices, &normalization, Some((&augment, &mut rng())));
    let mut draws = rng();
    let expected: Vec<f32> =
        indices.iter().flat_map(|&index| naive_image(&set, index, &normalization, augment.draw(&mut draws))).collect();
    assert_eq!(changed, expected);
    assert_ne!(changed, plain);
}

#[test]
fn draws_are_uniform() {
    let augment = Augment { flip: true, shift: 2, random_resized_crop: false };
    let (mut rng, mut flips, mut places) = (rng(), 0, [[0; 5]; 5]);
    const DRAWS: i32 = 25_000;
    for _ in 0..DRAWS {
        let change = augment.draw(&mut rng);
        flips += i32::from(change.flip);
        places[(change.top + 2) as usize][(change.left + 2) as usize] += 1;
    }
    // Five standard deviations of a binomial count: 5 * sqrt(n p (1 - p)).
    assert!((flips - DRAWS / 2).abs() < 400, "{flips}");
    assert!(places.iter().flatten().all(|&count: &i32| (count - DRAWS / 25).abs() < 155), "{places:?}");
}

#[test]
fn random_resized_crops_are_drawn_last_and_flipped() {
    let (set, normalization) = (set([4, 2, 9, 7]), normalization(2));
    let augment = Augment { flip: true, shift: 0, random_resized_crop: true };
    let found = gather(&set, &[2, 0, 1, 3], &normalization, Some((&augment, &mut rng())));
    let mut draws = rng();
    let mut expected = Vec::new();
    for index in [2, 0, 1, 3] {
        let flip = draws.random::<bool>();
        let seed = draws.next_u64();
        let cropped = set.view(index, Some(seed)).expect("in memory").into_owned();
        assert_ne!(cropped, *set.pixels(index).expect("in memory"));
        let cropped = ImageSet::new(cropped, [1, 2, 9, 7], vec![0], vec!["only".into()]).expect("a good set");
        expected.extend(naive_image(&cropped, 0, &normalization, Change { flip, ..Change::default() }));
    }
    assert_eq!(found, expected);
}

#[test]
fn a_random_state_that_was_saved_gives_the_same_batch() {
    let (set, normalization) = (set([5, 1, 8, 8]), normalization(1));
    let augment = Augment { flip: true, shift: 2, random_resized_crop: false };
    let mut rng = rng();
    gather(&set, &[0, 1], &normalization, Some((&augment, &mut rng)));
    let text = serde_json::to_string(&rng).expect("serialisable");
    let mut resumed: ChaCha8Rng = serde_json::from_str(&text).expect("valid");
    assert_eq!(
        gather(&set, &[2, 3], &normalization, Some((&augment, &mut rng))),
        gather(&set, &[2, 3], &normalization, Some((&augment, &mut resumed))),
    );
}

#[test]
#[should_panic(expected = "batch: expected a normalization of 1 channels, got one of 3")]
fn a_normalization_of_other_channels_is_refused() {
    batch(&set([2, 1, 4, 4]), &[0], &normalization(3), None, &Device::default()).expect("in memory");
}

#[test]
#[should_panic(expected = "batch: expected at least 1 index, got 0")]
fn an_empty_batch_is_refused() {
    batch(&set([2, 1, 4, 4]), &[], &normalization(1), None, &Device::default()).expect("in memory");
}

proptest! {
    #[test]
    fn changes_agree_with_the_naive_definition(
        channels in 1usize..4, height in 1usize..7, width in 1usize..7,
        flip: bool, top in -9isize..10, left in -9isize..10,
    ) {
        let (set, normalization) = (set([2, channels, height, width]), normalization(channels));
        let change = Change { flip, top, left, crop: None };
        let mut image = Vec::new();
        for (plane, table) in set.pixels(1).expect("in memory").chunks_exact(height * width).zip(&normalization.tables()) {
            push_changed(&mut image, plane, [height, width], table, change);
        }
        prop_assert_eq!(image, naive_image(&set, 1, &normalization, change));
    }
}
