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

/// The pixels of a batch, changed as an augmentation draws.
fn augmented(
    set: &ImageSet,
    indices: &[usize],
    normalization: &Normalization,
    augment: Option<(&Augment, &mut ChaCha8Rng)>,
) -> Vec<f32> {
    let changes = match augment {
        Some((augment, rng)) => indices.iter().map(|_| augment.draw(rng)).collect(),
        None => vec![Change::NONE; indices.len()],
    };
    gather(set, indices, &changes, normalization).expect("in memory")
}

#[test]
fn a_batch_holds_the_images_and_labels_at_the_positions() {
    let (set, normalization) = (set([5, 3, 4, 6]), normalization(3));
    let part = set.subset(&[4, 1, 0]).expect("in range");
    let batch = batch(&part, &[2, 0, 2], &normalization, &Device::default()).expect("in memory");

    assert_eq!(batch.images.dims(), [3, 3, 4, 6]);
    let unchanged = Change::NONE;
    let expected: Vec<f32> =
        [0, 4, 0].iter().flat_map(|&index| naive_image(&set, index, &normalization, unchanged)).collect();
    assert_eq!(batch.images.into_data().try_to_vec::<f32>().expect("f32"), expected);
    assert_eq!(batch.labels.into_data().convert::<i64>().try_to_vec::<i64>().expect("i64"), [4, 0, 4]);
}

#[test]
fn augmentation_draws_for_each_image_and_switched_off_changes_nothing() {
    let (set, normalization) = (set([5, 1, 8, 8]), normalization(1));
    let indices = [3, 1, 4, 1];
    let plain = augmented(&set, &indices, &normalization, None);
    let off = Augment::default();
    let mut untouched = rng();
    assert_eq!(augmented(&set, &indices, &normalization, Some((&off, &mut untouched))), plain);
    assert_eq!(untouched, rng());

    let augment = Augment { flip: true, shift: 2, ..Augment::default() };
    let changed = augmented(&set, &indices, &normalization, Some((&augment, &mut rng())));
    let mut draws = rng();
    let expected: Vec<f32> =
        indices.iter().flat_map(|&index| naive_image(&set, index, &normalization, augment.draw(&mut draws))).collect();
    assert_eq!(changed, expected);
    assert_ne!(changed, plain);
}

#[test]
fn draws_are_uniform() {
    let augment = Augment { flip: true, shift: 2, ..Augment::default() };
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
fn a_random_state_that_was_saved_gives_the_same_batch() {
    let (set, normalization) = (set([5, 1, 8, 8]), normalization(1));
    let augment = Augment { flip: true, shift: 2, ..Augment::default() };
    let mut rng = rng();
    augmented(&set, &[0, 1], &normalization, Some((&augment, &mut rng)));
    let text = serde_json::to_string(&rng).expect("serialisable");
    let mut resumed: ChaCha8Rng = serde_json::from_str(&text).expect("valid");
    assert_eq!(
        augmented(&set, &[2, 3], &normalization, Some((&augment, &mut rng))),
        augmented(&set, &[2, 3], &normalization, Some((&augment, &mut resumed))),
    );
}

#[test]
#[should_panic(expected = "batch: expected a normalization of 1 channels, got one of 3")]
fn a_normalization_of_other_channels_is_refused() {
    let _ = batch(&set([2, 1, 4, 4]), &[0], &normalization(3), &Device::default());
}

#[test]
#[should_panic(expected = "batch: expected at least 1 index, got 0")]
fn an_empty_batch_is_refused() {
    let _ = batch(&set([2, 1, 4, 4]), &[], &normalization(1), &Device::default());
}

proptest! {
    #[test]
    fn changes_agree_with_the_naive_definition(
        channels in 1usize..4, height in 1usize..7, width in 1usize..7,
        flip: bool, top in -9isize..10, left in -9isize..10,
    ) {
        let (set, normalization) = (set([2, channels, height, width]), normalization(channels));
        let change = Change { crop: Crop::Middle, flip, top, left };
        let mut image = Vec::new();
        for (plane, table) in set.pixels(1).expect("in memory").chunks_exact(height * width).zip(&normalization.tables()) {
            push_changed(&mut image, plane, [height, width], table, change);
        }
        prop_assert_eq!(image, naive_image(&set, 1, &normalization, change));
    }
}

#[test]
fn random_parts_of_images_in_memory_are_refused() {
    let augment = Augment { random_resized_crop: true, ..Augment::default() };
    assert!(matches!(augment.check(&set([1, 1, 2, 2])), Err(DataError::Crop)));
    assert!(Augment::default().check(&set([1, 1, 2, 2])).is_ok());
}
