//! How fast images in folders are decoded, and whether a training waits for them.
//!
//!     cargo run --release --example folder_throughput -- [--json] [DIR [SIZE]]
//!
//! DIR is a data set in folders; without it, 512 JPEG images of 500 x 375 pixels are made in a temporary directory. SIZE is
//! what images are scaled to, 96 by default. Every figure is in images per second: of decoding alone, for evaluation and as
//! random resized crops; of a training of the small MobileNetV2, from the files and from memory.

#![allow(clippy::print_stdout, reason = "an example prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use elastic_layers::backbones::MobileNetV2Config;
use image::{Rgb, RgbImage};
use nes_search::data::{Augment, EpochSampler, Feed, ImageData, ImageSet, Normalization, Plan};
use nes_search::rng::{Stream, stream};
use nes_search::{Blueprint, Config, Preset, TrainSettings, train};

const BATCH: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, arguments): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument == "--json");
    let made = tempfile::tempdir()?;
    let directory = match arguments.first() {
        Some(directory) => Path::new(directory),
        None => {
            make_images(made.path())?;
            made.path()
        }
    };
    let size = arguments.get(1).map_or(Ok(96), |size| size.parse())?;
    let data = ImageData::open(directory, Some(size))?;
    let files = &data.train;
    let normalization = Normalization::of(files)?;

    let plain = Augment { flip: false, shift: 0, random_resized_crop: false };
    let cropped = Augment { random_resized_crop: true, ..plain.clone() };
    let evaluation = decoding(files, &plain, &normalization)?;
    let crops = decoding(files, &cropped, &normalization)?;
    let memory = in_memory(files)?;
    let from_files = training(files, &plain, &normalization)?;
    let from_memory = training(&memory, &plain, &normalization)?;

    let threads = rayon::current_num_threads();
    if flags.is_empty() {
        println!("{} images to {size} x {size} pixels on {threads} threads, images per second:", files.len());
        println!("decoding alone: {evaluation:.0}; as random resized crops: {crops:.0}");
        println!("training from the files: {from_files:.0}; from memory: {from_memory:.0}");
    } else {
        let images = files.len();
        println!(
            "{}",
            serde_json::json!({
                "images": images, "size": size, "threads": threads, "evaluation": evaluation, "crops": crops,
                "training_from_files": from_files, "training_from_memory": from_memory,
            })
        );
    }
    Ok(())
}

fn make_images(directory: &Path) -> Result<(), Box<dyn Error>> {
    for (split, count) in [("train", 256), ("val", 2)] {
        for class in 0..2 {
            let folder = directory.join(split).join(class.to_string());
            std::fs::create_dir_all(&folder)?;
            for number in 0..count {
                let picture = RgbImage::from_fn(500, 375, |x, y| {
                    let wave = |place: u32, speed: f32| {
                        (110.0 + 90.0 * (place as f32 / speed + number as f32).sin()) as u8 + (x * y % 23) as u8
                    };
                    Rgb([wave(x, 17.0), wave(y, 29.0), wave(x + y, 41.0 + class as f32)])
                });
                picture.save(folder.join(format!("{number}.jpg")))?;
            }
        }
    }
    Ok(())
}

fn decoding(set: &ImageSet, augment: &Augment, normalization: &Normalization) -> Result<f64, Box<dyn Error>> {
    let batches = set.len() / BATCH;
    let (mut order, mut rng) = (EpochSampler::new(set.len(), 1), stream(1, Stream::Augmentation));
    let plans = (0..batches).map(|_| Plan::next(&mut order, BATCH, augment, &mut rng));
    let start = Instant::now();
    for batch in Feed::new(set, plans, normalization, &Device::default()) {
        batch?;
    }
    Ok((batches * BATCH) as f64 / start.elapsed().as_secs_f64())
}

fn in_memory(set: &ImageSet) -> Result<ImageSet, Box<dyn Error>> {
    let mut pixels = Vec::new();
    for position in 0..set.len() {
        pixels.extend_from_slice(&set.pixels(position)?);
    }
    let labels = (0..set.len()).map(|position| set.label(position)).collect();
    Ok(ImageSet::new(pixels, set.shape(), labels, set.class_names().to_vec())?)
}

fn training(set: &ImageSet, augment: &Augment, normalization: &Normalization) -> Result<f64, Box<dyn Error>> {
    let [_, channels, size, _] = set.shape();
    let config = MobileNetV2Config::small(channels, size, set.class_count());
    let blueprint = Blueprint::new([channels, size, size], move |space, device| config.init(space, device))?;
    let network = blueprint.network(&blueprint.space().base(), 1, &Device::default().autodiff())?;
    let recipe = Config::preset(Preset::Laptop).train;
    let sgd = nes_search::SgdSettings { batch_size: BATCH, augment: augment.clone(), ..recipe.sgd };
    let settings = TrainSettings { epochs: 1.0, sgd, recalibration_batches: 1, ..recipe };
    let start = Instant::now();
    let trained = train(network, set, normalization, &settings, 1, "train", &mut ())?.ok_or("interrupted")?;
    Ok(trained.images as f64 / start.elapsed().as_secs_f64())
}
