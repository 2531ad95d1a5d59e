//! Times every operation against Burn's own: medians of interleaved runs, and ratios.
//!
//! `cargo run --release -p elastic-kernels --example kernels -- [--json] [--runs N] [--only TEXT]`
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor};
use elastic_kernels::{Activation, batch_norm, batch_norm_train, conv2d, level, set_enabled};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;

struct Case {
    name: String,
    work: Box<dyn Fn()>,
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Forward on a plain device, and forward and backward on an autodiff device.
fn both(
    name: String,
    inputs: Vec<[usize; 4]>,
    work: impl Fn(Vec<Tensor<4>>) -> Tensor<4> + Clone + 'static,
) -> Vec<Case> {
    let plain = Device::flex();
    let recording = Device::flex().autodiff();
    let tensors: Vec<Tensor<4>> = inputs.iter().map(|shape| random(*shape, &plain)).collect();
    let leaves: Vec<Tensor<4>> = inputs.iter().map(|shape| random(*shape, &recording).require_grad()).collect();
    let weights = random(work(tensors.clone()).dims(), &recording);
    let forward = work.clone();
    vec![
        Case {
            name: format!("{name} forward"),
            work: Box::new(move || {
                black_box(forward(tensors.clone()));
            }),
        },
        Case {
            name: format!("{name} forward+backward"),
            work: Box::new(move || {
                let output = work(leaves.clone());
                // The gradient of a product is the other factor: one pass more, for both.
                black_box((output * weights.clone()).sum().backward());
            }),
        },
    ]
}

fn convolution(input: [usize; 3], outputs: usize, kernel: usize, stride: usize, depthwise: bool) -> Vec<Case> {
    let [channels, height, width] = input;
    let groups = if depthwise { channels } else { 1 };
    let kind = if depthwise { "depthwise" } else { "conv" };
    let name = format!("{kind} {kernel}x{kernel}/{stride} {channels}->{outputs} at {height}x{width}");
    let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1; 2], groups);
    let inputs = vec![[BATCH, channels, height, width], [outputs, channels / groups, kernel, kernel]];
    both(name, inputs, move |inputs| conv2d(inputs[0].clone(), inputs[1].clone(), None, options.clone()))
}

fn normalization(channels: usize, size: usize, activation: Activation) -> Vec<Case> {
    let name = format!("batch norm {activation:?} {channels} at {size}x{size}");
    let mut cases = both(name.clone(), vec![[BATCH, channels, size, size]], move |inputs| {
        let device = inputs[0].device();
        let (gamma, beta) = (Tensor::ones([channels], &device), Tensor::zeros([channels], &device));
        batch_norm_train(inputs[0].clone(), gamma, beta, 1e-5, activation).output
    });
    let device = Device::flex();
    let x = random([BATCH, channels, size, size], &device);
    let parameters = [0.5; 4].map(|value| Tensor::<1>::full([channels], value, &device));
    cases.push(Case {
        name: format!("{name} given"),
        work: Box::new(move || {
            let [gamma, beta, mean, variance] = parameters.clone();
            black_box(batch_norm(x.clone(), gamma, beta, mean, variance, 1e-5, activation));
        }),
    });
    cases
}

fn cases() -> Vec<Case> {
    let relu6 = Activation::Relu6;
    [
        // MobileNetV2, small, 28 pixels.
        convolution([1, 28, 28], 16, 3, 2, false),
        convolution([16, 14, 14], 16, 3, 1, true),
        convolution([16, 14, 14], 8, 1, 1, false),
        convolution([8, 14, 14], 48, 1, 1, false),
        convolution([48, 14, 14], 48, 3, 1, true),
        convolution([48, 14, 14], 16, 1, 1, false),
        convolution([16, 14, 14], 96, 1, 1, false),
        convolution([96, 14, 14], 96, 3, 1, true),
        convolution([96, 14, 14], 96, 3, 2, true),
        convolution([96, 7, 7], 24, 1, 1, false),
        convolution([24, 7, 7], 144, 1, 1, false),
        convolution([144, 7, 7], 144, 3, 1, true),
        convolution([32, 7, 7], 128, 1, 1, false),
        normalization(16, 14, relu6),
        normalization(96, 14, relu6),
        normalization(144, 7, relu6),
        normalization(24, 7, Activation::None),
        // MobileNetV2 at 32 pixels, and ResNet-20.
        convolution([3, 32, 32], 32, 3, 1, false),
        convolution([32, 32, 32], 32, 3, 1, true),
        convolution([96, 32, 32], 96, 3, 2, true),
        convolution([24, 16, 16], 144, 1, 1, false),
        convolution([192, 8, 8], 192, 3, 1, true),
        convolution([384, 4, 4], 64, 1, 1, false),
        convolution([960, 4, 4], 960, 3, 1, true),
        convolution([320, 4, 4], 1280, 1, 1, false),
        normalization(96, 32, relu6),
        normalization(384, 4, relu6),
        convolution([16, 32, 32], 16, 3, 1, false),
        convolution([64, 8, 8], 64, 3, 1, false),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Median seconds with the kernels and without.
fn measure(case: &Case, runs: usize) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        for (times, on) in times.iter_mut().zip([true, false]) {
            set_enabled(on);
            let start = Instant::now();
            (case.work)();
            // The first is a warm-up.
            if run > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let runs = value("--runs").map_or(15, |runs| runs.parse().expect("--runs: a number"));
    let only = value("--only").unwrap_or_default();
    let json = arguments.iter().any(|argument| argument == "--json");
    if !json {
        println!(
            "batch {BATCH}, {} threads, {:?}; milliseconds, median of {runs}",
            rayon::current_num_threads(),
            level()
        );
        println!("{:58} {:>9} {:>9} {:>7}", "operation", "ours", "Burn's", "ratio");
    }
    for case in cases().iter().filter(|case| case.name.contains(&only)) {
        let [ours, burns] = measure(case, runs).map(|seconds| seconds * 1e3);
        if json {
            let line = serde_json::json!({ "operation": case.name, "ours_ms": ours, "burn_ms": burns, "speedup": burns / ours });
            println!("{line}");
        } else {
            println!("{:58} {ours:9.3} {burns:9.3} {:6.2}x", case.name, burns / ours);
        }
    }
}
