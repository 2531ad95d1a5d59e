//! Images per second of a small MobileNetV2, at its base and at about a tenth of the MACs, with the kernels and without.
//!
//! `cargo run --release -p elastic-layers --example throughput -- [--json] [--rounds N] [--only TEXT]`
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::kernels::{self, SgdConfig};
use elastic_layers::{Architecture, Backbone, CostModel, DimKind, Elastic, SearchSpace};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const EVALUATED: usize = 250;

/// A piece of work on some images; returns the time of its parts.
struct Case {
    name: String,
    images: usize,
    work: Box<dyn FnMut() -> Vec<(&'static str, Duration)>>,
}

fn config() -> MobileNetV2Config {
    MobileNetV2Config::small(1, 28, 10)
}

fn images(batch: usize, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let images = Tensor::random([batch, 1, 28, 28], Distribution::Normal(0.0, 1.0), device);
    (images, Tensor::arange(0..batch as i64, device).remainder_scalar(10))
}

/// The base with all channels scaled alike: the largest of at most this share of the MACs.
fn uniform(space: &SearchSpace, costs: &CostModel, share: f64) -> Architecture {
    let macs = |architecture: &Architecture| costs.cost(architecture).expect("captures").macs.0 as f64;
    let budget = share * macs(&space.base());
    let scaled = |percent: usize| {
        space.with_values(|dim| match dim.kind {
            DimKind::Channels => (dim.base * percent).div_ceil(100),
            _ => dim.base,
        })
    };
    let fits = (1..=100).rev().map(scaled).find(|architecture| macs(architecture) <= budget);
    fits.unwrap_or_else(|| space.smallest())
}

fn model(architecture: &Architecture, device: &Device) -> MobileNetV2 {
    config().init(&mut SearchSpace::pinned(architecture), device).expect("a network")
}

fn training(name: &str, architecture: &Architecture) -> Case {
    let device = Device::flex().autodiff();
    let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
    let mut optimizer: ModuleOptimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let mut network = Some(model(architecture, &device));
    let (images, labels) = images(BATCH, &device);
    let work = move || {
        let mut times = Vec::new();
        let mut last = Instant::now();
        let mut lap = |part| {
            times.push((part, last.elapsed()));
            last = Instant::now();
        };
        let current = network.take().expect("a network");
        let scores = current.forward(images.clone());
        let loss = CrossEntropyLossConfig::new().init(&device).forward(scores, labels.clone());
        lap("forward");
        let gradients = GradientsParams::from_grads(loss.backward(), &current);
        lap("backward");
        network = Some(optimizer.step(0.01, current, gradients));
        lap("optimizer");
        times
    };
    Case { name: format!("training {name}"), images: BATCH, work: Box::new(work) }
}

fn evaluation(name: &str, network: MobileNetV2) -> Case {
    let (images, _) = images(EVALUATED, &Device::flex());
    let work = move || {
        let start = Instant::now();
        let _ = network.forward(images.clone()).into_data();
        vec![("forward", start.elapsed())]
    };
    Case { name: format!("evaluation {name}"), images: EVALUATED, work: Box::new(work) }
}

fn cases() -> Vec<Case> {
    let device = Device::flex();
    let mut space = SearchSpace::new();
    let supernet = config().init(&mut space, &device).expect("a network");
    let costs = CostModel::new(&space, [1, 28, 28], |device| config().init(&mut SearchSpace::new(), device));
    [("base", space.base()), ("tenth", uniform(&space, &costs, 0.1))]
        .into_iter()
        .flat_map(|(name, architecture)| {
            let macs = costs.cost(&architecture).expect("captures").macs;
            let name = format!("{name} ({macs})");
            [
                training(&name, &architecture),
                evaluation(&format!("{name}, view, batch statistics"), supernet.select(&architecture)),
                evaluation(&format!("{name}, running statistics"), model(&architecture, &device)),
            ]
        })
        .collect()
}

/// The median time of every part, with the kernels and without, interleaved.
fn measure(case: &mut Case, rounds: usize) -> [Vec<(&'static str, f64)>; 2] {
    let mut runs: [Vec<Vec<(&'static str, Duration)>>; 2] = Default::default();
    for round in 0..=rounds {
        for (runs, on) in runs.iter_mut().zip([true, false]) {
            kernels::set_enabled(on);
            let times = (case.work)();
            // The first is a warm-up.
            if round > 0 {
                runs.push(times);
            }
        }
    }
    runs.map(|runs| {
        let median = |part: usize| {
            let mut times: Vec<f64> = runs.iter().map(|run| run[part].1.as_secs_f64()).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        runs[0].iter().enumerate().map(|(part, (name, _))| (*name, median(part))).collect()
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let rounds = value("--rounds").map_or(15, |rounds| rounds.parse().expect("--rounds: a number"));
    let only = value("--only").unwrap_or_default();
    let json = arguments.iter().any(|argument| argument == "--json");
    for mut case in cases().into_iter().filter(|case| case.name.contains(&only)) {
        let parts = measure(&mut case, rounds);
        let rates = parts.each_ref().map(|parts| case.images as f64 / parts.iter().map(|(_, time)| time).sum::<f64>());
        let [on, off] = rates;
        if json {
            let milliseconds = parts.map(|parts| {
                parts
                    .into_iter()
                    .map(|(part, time)| (part.to_owned(), (time * 1e3).into()))
                    .collect::<serde_json::Map<_, _>>()
            });
            let line = serde_json::json!({
                "case": case.name, "images_per_second": rates, "speedup": on / off, "milliseconds": milliseconds,
            });
            println!("{line}");
            continue;
        }
        println!("{}: {on:.0} images/s, {off:.0} without, {:.2}x", case.name, on / off);
        for ((part, on), (_, off)) in parts[0].iter().zip(&parts[1]) {
            println!("    {part:10} {:8.2} ms, {:8.2} without", on * 1e3, off * 1e3);
        }
    }
}
