//! The command on data sets of other kinds than the embedded one.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use tempfile::{TempDir, tempdir};

/// A search and trainings in seconds.
const QUICK: &str = "evaluation_per_class = 4\n[search]\nwarmup_steps = 3\nouter_iterations = 1\nweight_steps = 2\n\
                     evaluation_batch = 8\n[search.sgd]\nbatch_size = 8\n[train.sgd]\nbatch_size = 8\n";

/// What is added for folders of images.
const CROPS: &str = "[search.sgd.augment]\nflip = true\nrandom_resized_crop = true\n\
                     [train.sgd.augment]\nflip = true\nrandom_resized_crop = true\n";

fn run(directory: &Path, out: &str, more: &[&str]) -> Output {
    let fixed = ["run", "--preset", "smoke", "--config", "my.toml", "--data", "data", "--out", out];
    Command::new(env!("CARGO_BIN_EXE_nes-search"))
        .args(fixed)
        .args(more)
        .current_dir(directory)
        .output()
        .expect("it starts")
}

#[track_caller]
fn assert_ran(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two classes of photographs, one red and one blue, of different sizes.
fn photographs() -> TempDir {
    let directory = tempdir().expect("a folder");
    fs::write(directory.path().join("my.toml"), format!("{QUICK}{CROPS}")).expect("written");
    for (split, count) in [("train", 16), ("val", 4)] {
        for (class, name) in ["blue", "red"].into_iter().enumerate() {
            let folder = directory.path().join("data").join(split).join(name);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..count {
                let noise = |x: u32, y: u32| ((x * 31 + y * 17 + number * 13) % 90) as u8;
                let photograph = RgbImage::from_fn(24 + number, 40 - number, |x, y| match class {
                    0 => Rgb([noise(x, y), 40, 160 + noise(y, x)]),
                    _ => Rgb([160 + noise(x, y), 40, noise(y, x)]),
                });
                let extension = ["jpg", "png"][number as usize % 2];
                photograph.save(folder.join(format!("{number}.{extension}"))).expect("written");
            }
        }
    }
    directory
}

#[test]
fn folders_of_photographs() {
    let directory = photographs();
    let size = ["--image-size", "16", "--budget", "0.3"];
    assert_ran(&run(directory.path(), "one", &size));
    assert_ran(&run(directory.path(), "two", &size));
    let read = |out: &str, file: &str| fs::read(directory.path().join(out).join(file)).expect("a file");
    // Not the record: that has random names for parameters.
    for file in ["architecture.json", "history.jsonl", "model.onnx"] {
        assert!(read("one", file) == read("two", file), "{file} of the same seed");
    }
    let summary: serde_json::Value = serde_json::from_slice(&read("one", "summary.json")).expect("JSON");
    assert!(summary["rows"][2]["accuracy"][0].as_f64().is_some(), "{summary}");
    let metadata = String::from_utf8_lossy(&read("one", "model.onnx")).contains("[\"blue\",\"red\"]");
    assert!(metadata, "the names of the classes");
}

#[test]
fn a_damaged_photograph_ends_the_run_with_its_name() {
    let directory = photographs();
    fs::write(directory.path().join("data/train/red/7.png"), b"damaged").expect("written");
    let output = run(directory.path(), "out", &["--image-size", "16", "--budget", "0.3"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("7.png: expected a JPEG or PNG image"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(!directory.path().join("out/architecture.json").exists());
}

#[test]
fn a_set_like_cifar_10() {
    let directory = tempdir().expect("a folder");
    fs::write(directory.path().join("my.toml"), QUICK).expect("written");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let record = |number: usize| {
        let class = number % 10;
        let pixels = (0..3072).map(move |place| (place * (class + 3) + number * 7) as u8);
        std::iter::once(class as u8).chain(pixels).collect::<Vec<u8>>()
    };
    let records = |from: usize| (from..from + 20).flat_map(record).collect::<Vec<u8>>();
    for number in 1..=5 {
        fs::write(data.join(format!("data_batch_{number}.bin")), records(number * 20)).expect("written");
    }
    fs::write(data.join("test_batch.bin"), records(200)).expect("written");
    assert_ran(&run(directory.path(), "out", &[]));
    assert!(directory.path().join("out/summary.json").is_file());

    // Random parts are for photographs, and so is another size.
    let refused = |more: &[&str]| {
        let output = run(directory.path(), "other", more);
        assert_eq!(output.status.code(), Some(1));
        assert!(!directory.path().join("other").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = refused(&["--image-size", "64"]);
    assert!(message.contains("expected an image size of 32x32") && message.contains("found 64"), "{message}");
    fs::write(directory.path().join("my.toml"), format!("{QUICK}{CROPS}")).expect("written");
    let message = refused(&[]);
    assert!(message.contains("augment.random_resized_crop: expected false"), "{message}");
}
