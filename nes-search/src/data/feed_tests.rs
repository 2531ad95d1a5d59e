use image::{Rgb, RgbImage};
use rand::SeedableRng;
use tempfile::TempDir;

use super::*;

/// A set of files of different sizes.
fn on_disk(count: usize) -> (TempDir, ImageSet) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = (0..count).map(|number| {
        let path = folder.path().join(format!("{number}.png"));
        let (width, height) = (20 + number as u32, 30 - number as u32);
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 9) as u8, (y * 7) as u8, number as u8 * 11]))
            .save(&path)
            .expect("written");
        (path, number % 2)
    });
    let set = ImageSet::of_files(files.collect(), 16, vec!["even".into(), "odd".into()]).expect("a set");
    (folder, set)
}

fn augment() -> Augment {
    Augment { flip: true, shift: 1, random_resized_crop: true }
}

fn streams(set: &ImageSet) -> (EpochSampler, ChaCha8Rng) {
    (EpochSampler::new(set.len(), 5), ChaCha8Rng::seed_from_u64(6))
}

fn next(feed: &mut Feed, set: &ImageSet, streams: &mut (EpochSampler, ChaCha8Rng)) -> (Vec<f32>, Vec<i64>) {
    let normalization = Normalization::new(vec![0.5; 3], vec![0.25; 3]).expect("valid");
    let device = Device::default();
    let batch =
        feed.next(set, (&mut streams.0, &mut streams.1), 3, &normalization, &augment(), &device).expect("images");
    (
        batch.images.into_data().try_to_vec().expect("floats"),
        batch.labels.into_data().convert::<i64>().try_to_vec().expect("integers"),
    )
}

#[test]
fn a_feed_is_what_its_streams_say_however_it_is_interrupted() {
    let (_folder, set) = on_disk(8);
    // A feed for each batch guesses nothing.
    let mut drawn = streams(&set);
    let expected: Vec<_> = (0..12).map(|_| next(&mut Feed::default(), &set, &mut drawn)).collect();
    assert_ne!(expected[0], expected[1]);

    let (mut feed, mut whole) = (Feed::default(), streams(&set));
    let (mut at, mut saved) = (Vec::new(), Vec::new());
    for expected in &expected {
        saved.push(serde_json::to_string(&whole).expect("serialisable"));
        at.push(whole.clone());
        assert_eq!(next(&mut feed, &set, &mut whole), *expected);
        assert_eq!(feed.waiting.len(), AHEAD);
    }
    assert_eq!(whole, drawn, "the streams are those of what was handed out");
    // From any state that was saved, and with a feed that guesses otherwise.
    for (place, text) in saved.iter().enumerate().step_by(5) {
        let mut resumed = serde_json::from_str(text).expect("valid");
        for expected in &expected[place..] {
            assert_eq!(next(&mut feed, &set, &mut resumed), *expected);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (_folder, set) = on_disk(5);
    let run = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let (mut feed, mut streams) = (Feed::default(), streams(&set));
            (0..5).map(|_| next(&mut feed, &set, &mut streams)).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn a_damaged_file_is_an_error_of_the_batch_that_holds_it() {
    let (folder, set) = on_disk(6);
    std::fs::write(folder.path().join("4.png"), b"damaged").expect("written");
    let normalization = Normalization::new(vec![0.5; 3], vec![0.25; 3]).expect("valid");
    let (mut feed, mut streams) = (Feed::default(), streams(&set));
    for _ in 0..4 {
        let mut copy = streams.0.clone();
        let is_in = copy.next_batch(3).contains(&4);
        let pair = (&mut streams.0, &mut streams.1);
        let result = feed.next(&set, pair, 3, &normalization, &augment(), &Device::default());
        assert_eq!(result.is_err(), is_in);
        if let Err(error) = result {
            assert!(error.to_string().contains("4.png: expected a JPEG or PNG image"), "{error}");
        }
    }
}
