use image::{Rgb, RgbImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::{Augment, EpochSampler, ImageData, batch};
use super::*;

const IMAGES: usize = 11;

/// Images of different sizes and colours, in two classes.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (split, count) in [("train", IMAGES), ("val", 2)] {
        for image in 0..count {
            let folder = directory.path().join(split).join(["even", "odd"][image % 2]);
            std::fs::create_dir_all(&folder).expect("made");
            let [width, height] = [12 + image as u32 * 3, 30 - image as u32];
            let picture =
                RgbImage::from_fn(width, height, |x, y| Rgb([x, y, image as u32 * 20].map(|value| value as u8)));
            picture.save(folder.join(format!("{image:02}.png"))).expect("written");
        }
    }
    directory
}

fn bits(batch: Batch) -> (Vec<u32>, Vec<i64>) {
    let images = batch.images.into_data().iter::<f32>().map(f32::to_bits).collect();
    (images, batch.labels.into_data().iter::<i64>().collect())
}

fn normalization() -> Normalization {
    Normalization::new(vec![0.5, 0.4, 0.3], vec![0.2, 0.3, 0.4]).expect("valid")
}

const AUGMENT: Augment = Augment { flip: true, shift: 0, random_resized_crop: true };

fn state() -> (EpochSampler, ChaCha8Rng) {
    (EpochSampler::new(IMAGES, 4), ChaCha8Rng::seed_from_u64(5))
}

fn feed(set: &ImageSet, batches: usize) -> Feed<impl Iterator<Item = Plan>> {
    let (mut order, mut rng) = state();
    let plans = (0..batches).map(move |_| Plan::next(&mut order, 4, &AUGMENT, &mut rng));
    Feed::new(set, plans, &normalization(), &Device::default())
}

#[test]
fn any_number_of_threads_gives_the_batches_that_are_made_one_by_one() {
    let directory = directory();
    let set = ImageData::open(directory.path(), Some(10)).expect("good").train;
    let (mut order, mut rng) = state();
    let expected: Vec<_> = (0..9)
        .map(|_| {
            let indices = order.next_batch(4).to_vec();
            batch(&set, &indices, &normalization(), Some((&AUGMENT, &mut rng)), &Device::default()).expect("good")
        })
        .map(bits)
        .collect();
    assert_ne!(expected[0], expected[1]);
    for workers in [1, 2, 5] {
        let found: Vec<_> = feed(&set, 9).with_workers(workers).map(|batch| bits(batch.expect("good"))).collect();
        assert_eq!(found, expected, "{workers} threads");
    }
}

#[test]
fn a_feed_goes_on_from_the_state_of_batches_that_were_used() {
    let directory = directory();
    let set = ImageData::open(directory.path(), Some(10)).expect("good").train;
    let all: Vec<_> = feed(&set, 6).map(|batch| bits(batch.expect("good"))).collect();
    // What a checkpoint holds after two batches, whatever has been decoded ahead.
    let (mut order, mut rng) = state();
    let mut used = feed(&set, 6);
    for _ in 0..2 {
        used.next().expect("six batches").expect("good");
        Plan::next(&mut order, 4, &AUGMENT, &mut rng);
    }
    let plans = (0..4).map(move |_| Plan::next(&mut order, 4, &AUGMENT, &mut rng));
    let resumed = Feed::new(&set, plans, &normalization(), &Device::default());
    let resumed: Vec<_> = resumed.map(|batch| bits(batch.expect("good"))).collect();
    assert_eq!(resumed, all[2..]);
}

#[test]
fn threads_decode_two_batches_ahead_and_no_more() {
    let directory = directory();
    let set = ImageData::open(directory.path(), Some(10)).expect("good").train;
    let drawn = std::cell::Cell::new(0);
    let plans = (0..20).map(|_| {
        drawn.set(drawn.get() + 1);
        Plan::new(&[0, 1], None)
    });
    let mut feed = Feed::new(&set, plans, &normalization(), &Device::default());
    assert_eq!(drawn.get(), 0);
    for used in 1..=20 {
        assert!(feed.next().expect("20 batches").is_ok());
        assert_eq!(drawn.get(), (used + AHEAD).min(20));
    }
    assert!(feed.next().is_none());
}

#[test]
fn the_first_damaged_image_of_a_batch_is_told_and_ends_it() {
    let directory = directory();
    let set = ImageData::open(directory.path(), Some(10)).expect("good").train;
    for name in ["train/even/04.png", "train/odd/05.png"] {
        std::fs::write(directory.path().join(name), "damage").expect("written");
    }
    let position = |number: usize| (number % 2) * IMAGES.div_ceil(2) + number / 2;
    for _ in 0..20 {
        let plans =
            [vec![0, 1], vec![1, position(5), 3, position(4)], vec![0]].map(|indices| Plan::new(&indices, None));
        let mut feed = Feed::new(&set, plans.into_iter(), &normalization(), &Device::default()).with_workers(4);
        assert!(feed.next().expect("a batch").is_ok());
        let error = feed.next().expect("a batch").expect_err("damaged").to_string();
        assert!(error.contains("05.png: byte 0: expected the first bytes"), "{error}");
        assert!(feed.next().is_none());
    }
}

#[test]
fn a_feed_that_is_dropped_early_ends_its_threads() {
    let directory = directory();
    let set = ImageData::open(directory.path(), Some(10)).expect("good").train;
    let mut feed = feed(&set, 100).with_workers(3);
    feed.next();
    drop(feed);
    let normalization = Normalization::of(&set).expect("good");
    assert!(normalization.mean.iter().chain(&normalization.std).all(|value| *value > 0.0 && *value < 1.0));
}
