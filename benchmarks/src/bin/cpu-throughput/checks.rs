//! Memory, and losses beside PyTorch's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use elastic_layers::kernels;
use serde_json::{Value, json};

use crate::measure::LAYOUTS;
use crate::networks::{SIZE, Subject, Work};
use crate::torch::Torch;
use crate::{Arguments, Report};

/// Steps of training before the memory is read.
const STEPS: usize = 3;

/// A value of this process in MB, by its name in `/proc/self/status`.
fn status_mb(name: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("memory is read from Linux' /proc only")?;
    let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

/// Trains the first network named, and prints a line of JSON.
pub fn memory_of_this_process(arguments: &Arguments) -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.into()).build_global()?;
    let subjects = arguments.subjects()?;
    let subject = subjects.first().context("no network")?;
    let before = status_mb("VmHWM")?;
    let mut step = subject.step(Work::Training, arguments.training_batch.into())?;
    for _ in 0..STEPS {
        step()?;
    }
    println!("{}", json!({ "before_mb": before, "peak_mb": status_mb("VmHWM")? }));
    Ok(())
}

fn memory_of_burn(arguments: &Arguments, subject: &Subject, kernels: &str) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--memory-of-this-process", "--network", subject.network.name()])
        .args(["--width", &subject.width.to_string(), "--threads", &arguments.threads.to_string()])
        .args(["--training-batch", &arguments.training_batch.to_string()])
        .env("ELASTIC_KERNELS", kernels)
        .output()?;
    ensure!(output.status.success(), "a training of its own failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Peak memory of processes that train.
///
/// # Errors
/// If one of them fails.
pub fn memory(arguments: &Arguments, torch: bool) -> Result<()> {
    let header = ["peak MB of training, above the start", "kernels", "flex", "PyTorch", "PyTorch channels_last"];
    let mut report = Report::new(arguments.json, "Memory", &header);
    for subject in arguments.subjects()? {
        let mut values = vec![memory_of_burn(arguments, &subject, "on")?, memory_of_burn(arguments, &subject, "off")?];
        for layout in LAYOUTS.iter().filter(|_| torch) {
            let mut process = Torch::start(&arguments.python, arguments.threads.into())?;
            let mut request = subject.request(Work::Training, arguments.training_batch.into(), layout)?;
            request["do"] = "memory".into();
            values.push(process.ask(&request)?);
        }
        let name = format!("{} x{}", subject.network.name(), subject.width);
        let above = |value: &Value| Some(value["peak_mb"].as_f64()? - value["before_mb"].as_f64()?);
        let cells = values.iter().map(|value| above(value).map_or("-".to_owned(), |mb| format!("{mb:.0}")));
        let cells = std::iter::once(name.clone()).chain(cells).collect();
        let line = json!({
            "part": "memory", "network": subject.network.name(), "width": subject.width,
            "kernels": values[0], "flex": values[1], "torch": values.get(2), "torch_channels_last": values.get(3),
        });
        report.row(&line, cells);
    }
    Ok(())
}

/// The losses of the kernels, of stock Burn and of PyTorch, from the same weights on the same batches.
///
/// # Errors
/// If one of them cannot be run.
pub fn losses(arguments: &Arguments, torch: &mut Option<Torch>) -> Result<()> {
    let steps = usize::from(arguments.steps);
    let shown: Vec<usize> = [1, 2, 10, 25, 50].into_iter().filter(|step| *step < steps).chain([steps]).collect();
    let mut header = vec!["loss at step".to_owned()];
    header.extend(shown.iter().map(usize::to_string));
    header.push("largest difference".to_owned());
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut report = Report::new(arguments.json, "Losses, kernels / flex / PyTorch", &header);
    let batch = 32;
    let images = images(steps * batch * 3 * SIZE * SIZE);
    let folder = std::env::temp_dir().join(format!("cpu-throughput-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let [weights_path, images_path] = ["weights", "images"].map(|name| folder.join(name));
    write(&images_path, &images)?;
    for subject in arguments.subjects()? {
        let mut curves = Vec::new();
        for on in [true, false] {
            kernels::set_enabled(on);
            // The same initial weights: the seed is the device's.
            burn::tensor::Device::flex().seed(1);
            let (weights, losses) = subject.losses(&images, batch, steps)?;
            write(&weights_path, &weights)?;
            curves.push(losses);
        }
        kernels::set_enabled(true);
        if let Some(torch) = torch {
            let mut request = subject.request(Work::Training, batch, LAYOUTS[1])?;
            request["do"] = "losses".into();
            request["weights"] = json!(weights_path);
            request["images"] = json!(images_path);
            request["steps"] = json!(steps);
            curves.push(serde_json::from_value(torch.ask(&request)?["losses"].take())?);
        }
        let name = format!("{} x{}", subject.network.name(), subject.width);
        let line = json!({
            "part": "losses", "network": subject.network.name(), "width": subject.width,
            "kernels": curves[0], "flex": curves[1], "torch": curves.get(2),
        });
        let at =
            |step: usize| curves.iter().map(|curve| format!("{:.5}", curve[step - 1])).collect::<Vec<_>>().join(" / ");
        let mut cells = vec![name];
        cells.extend(shown.iter().copied().map(at));
        let largest = curves[1..].iter().map(|curve| {
            let differences = curve.iter().zip(&curves[0]).map(|(other, ours)| (other - ours).abs() / other.abs());
            format!("{:.1e}", differences.fold(0.0, f32::max))
        });
        cells.push(largest.collect::<Vec<_>>().join(" / "));
        report.row(&line, cells);
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Numbers from -1 to 1 that look random.
fn images(length: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn write(path: &std::path::Path, values: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
