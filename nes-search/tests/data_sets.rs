//! Data sets on disk, through the command and the search: CIFAR files, and folders of images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use elastic_layers::Macs;
use elastic_layers::backbones::MobileNetV2Config;
use image::{ImageFormat, Rgb, RgbImage};
use nes_search::data::{Augment, ImageData, Normalization};
use nes_search::search::Length;
use nes_search::{
    Blueprint, Budget, Config, NesSettings, Observer, Preset, Progress, Search, SearchSettings, SgdSettings, Task,
};
use serde_json::Value;
use tempfile::tempdir;

const CLASSES: [&str; 3] = ["blue", "green", "red"];

fn command(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nes-search")).args(arguments).current_dir(directory).output().expect("it starts")
}

fn succeeds(arguments: &[&str], directory: &Path) {
    let output = command(arguments, directory);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The message of a command that fails.
fn fails(arguments: &[&str], directory: &Path) -> String {
    let output = command(arguments, directory);
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    message
}

/// A picture in which the colour of a class is strongest.
fn picture(class: usize, number: usize, [width, height]: [u32; 2]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let noise = (x as usize * 31 + y as usize * 17 + number * 53) % 64;
        let mut colour = [noise as u8; 3];
        colour[2 - class] += 128;
        Rgb(colour)
    })
}

/// Folders of images of several sizes, half of them JPEG.
fn write_folders(directory: &Path, train: usize, test: usize) {
    for (split, count) in [("train", train), ("val", test)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = directory.join(split).join(name);
            fs::create_dir_all(&folder).expect("made");
            for number in 0..count {
                let picture = picture(class, number, [30 + number as u32 % 9, 40 - number as u32 % 7]);
                let (ending, format) = [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg)][number % 2];
                picture.save_with_format(folder.join(format!("{number:03}.{ending}")), format).expect("written");
            }
        }
    }
}

fn write_cifar(directory: &Path, per_file: usize) {
    fs::write(directory.join("batches.meta.txt"), CLASSES.join("\n") + "\n\n").expect("written");
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let mut bytes = Vec::new();
        for number in 0..per_file {
            let class = number % 3;
            let picture = picture(class, number, [32, 32]);
            bytes.push(class as u8);
            bytes.extend((0..3).flat_map(|channel| picture.pixels().map(move |pixel| pixel.0[channel])));
        }
        fs::write(directory.join(format!("{name}.bin")), bytes).expect("written");
    }
}

fn json(path: PathBuf) -> Value {
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The table of a run of three classes; `size` is what images have.
fn check_summary(out: &Path, size: usize) {
    let rows = json(out.join("summary.json"))["rows"].clone();
    let config = MobileNetV2Config::small(3, size, CLASSES.len());
    let blueprint =
        Blueprint::new([3, size, size], move |space, device| config.init(space, device)).expect("a network");
    let backbone = blueprint.cost().cost(&blueprint.space().base()).expect("a cost");
    assert_eq!(rows[3]["macs"].as_u64(), Some(backbone.macs.0));
    for row in 0..3 {
        assert_eq!(rows[row]["accuracy"].as_array().map(Vec::len), Some(1), "{rows}");
    }
    let model = fs::read(out.join("model.onnx")).expect("a file");
    let names = serde_json::to_string(&CLASSES).expect("JSON");
    assert!(model.windows(names.len()).any(|window| window == names.as_bytes()), "no class names in the file");
}

#[test]
fn run_on_cifar() {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("cifar")).unwrap();
    write_cifar(&directory.path().join("cifar"), 36);
    succeeds(&["run", "--preset", "smoke", "--data", "cifar", "--out", "out"], directory.path());
    check_summary(&directory.path().join("out"), 32);
    let message = fails(&["run", "--data", "cifar", "--image-size", "64"], directory.path());
    assert!(message.contains("image_size: expected 32x32") && message.contains("found 64"), "{message}");
    let message = fails(&["run", "--image-size", "64"], directory.path());
    assert!(message.contains("image_size: expected 28x28") && message.contains("found 64"), "{message}");
}

#[test]
fn run_on_folders_does_not_begin_with_a_damaged_image() {
    let directory = tempdir().unwrap();
    let path = directory.path();
    write_folders(&path.join("images"), 50, 4);
    fs::write(path.join("my.toml"), "[train.sgd.augment]\nrandom_resized_crop = true\nflip = true\nshift = 0\n")
        .unwrap();
    let run =
        ["run", "--preset", "smoke", "--config", "my.toml", "--data", "images", "--image-size", "32", "--out", "out"];

    // A training image that is damaged shows before anything is begun,
    let training_image = path.join("images/train/green/007.jpg");
    let whole = fs::read(&training_image).unwrap();
    fs::write(&training_image, &whole[..whole.len() / 2]).unwrap();
    let message = fails(&run, path);
    let expected = format!("green/007.jpg: byte {}: expected the marker that ends", whole.len() / 2);
    assert!(message.contains(&expected), "{message}");
    assert!(!path.join("out").exists());
    fs::write(&training_image, whole).unwrap();

    // and so does a test image.
    let test_image = path.join("images/val/red/001.jpg");
    let whole = fs::read(&test_image).unwrap();
    fs::write(&test_image, "damage").unwrap();
    let message = fails(&run, path);
    assert!(
        message.contains("red/001.jpg: byte 0: expected the first bytes of a JPEG, PNG, WebP or BMP image"),
        "{message}"
    );
    let out = path.join("out");
    assert!(!out.exists());
    fs::write(&test_image, whole).unwrap();
    succeeds(&run, path);
    check_summary(&out, 32);
    succeeds(&["fidelity", "out", "--architectures", "2", "--epochs", "1"], path);
    assert_eq!(json(out.join("fidelity.json"))["pairs"].as_array().map(Vec::len), Some(2));
}

/// Asks to stop before a step.
struct StopBefore {
    step: usize,
    seen: usize,
}

impl Observer for StopBefore {
    fn progress(&mut self, _progress: Progress<'_>) {
        self.seen += 1;
    }

    fn interrupted(&self) -> bool {
        self.seen >= self.step
    }
}

#[test]
fn a_search_on_folders_that_was_interrupted_ends_as_if_it_had_not_been() {
    let images = tempdir().unwrap();
    write_folders(images.path(), 12, 1);
    let data = ImageData::open(images.path(), Some(28)).expect("good");
    let (train, evaluation) = data.train.split_per_class(4, 1).expect("enough images");
    let normalization = Normalization::of(&train).expect("good");
    let config = MobileNetV2Config::small(3, 28, 3);
    let blueprint = Blueprint::new([3, 28, 28], move |space, device| config.init(space, device)).expect("a network");
    let smoke = Config::preset(Preset::Smoke).search;
    let settings = SearchSettings {
        length: Length::Iterations(3),
        trials: 0.0,
        weight_steps: 3,
        nes: NesSettings { samples: 2, ..smoke.nes.clone() },
        evaluation_batch: 8,
        sgd: SgdSettings {
            // Three batches in an epoch: nine steps see three of them.
            batch_size: 8,
            augment: Augment { flip: true, shift: 0, random_resized_crop: true },
            ..smoke.sgd
        },
        ..smoke
    };
    let (devices, recipe) = ([Device::default()], Config::preset(Preset::Smoke).train);
    let limits = &blueprint.limits(Budget::Macs(Macs(250_000)), &[]).expect("a cost");
    let search = || {
        let (blueprint, train, evaluation, normalization) = (&blueprint, &train, &evaluation, &normalization);
        let recipe = &recipe;
        let task = Task { blueprint, train, evaluation, normalization, limits, recipe, devices: &devices };
        Search::new(task, &settings, 8).expect("a search")
    };
    let history = |directory: &Path| fs::read_to_string(directory.join("history.jsonl")).expect("a history");
    let whole = tempdir().unwrap();
    let expected = search().run(Some(whole.path()), &mut ()).unwrap().expect("not interrupted");
    let position = |directory: &Path| {
        let checkpoints = fs::read_dir(directory.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
        let newest = checkpoints.max().expect("a checkpoint");
        let mut state = json(newest.join("state.json"))["state"]["state"].clone();
        state["cost"]["seconds"] = Value::Null;
        state
    };
    for step in [1, 2, 4, 7, 9] {
        let part = tempdir().unwrap();
        let stop = &mut StopBefore { step, seen: 0 };
        assert!(search().run(Some(part.path()), stop).unwrap().is_none());
        let resumed = search().resume(part.path(), &mut ()).expect("a checkpoint").run(Some(part.path()), &mut ());
        let found = resumed.unwrap().expect("not interrupted");
        assert_eq!(found.architecture, expected.architecture, "interrupted before step {step}");
        assert_eq!(history(part.path()), history(whole.path()), "interrupted before step {step}");
        // The losses in it are those of the weights, to the last bit.
        assert_eq!(position(part.path()), position(whole.path()), "interrupted before step {step}");
    }
}
