//! What elasticity costs: a training step on a view of a supernet over one on the static network of the same
//! architecture, interleaved; the time of `select`; and that of a cost (R), after the first at a resolution and depth.
//!
//! The optimizer is SGD with momentum; with `--decay` it is as `nes-search` trains, with weight decay and clipping, and
//! changes all weights of the supernet in every step.
//!
//! `cargo run --release -p elastic-layers --example elastic_overhead -- [--json] [--seconds N] [--only TEXT] [--decay]`
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor};
use elastic_layers::backbones::{MobileNetV2Config, ResNetConfig};
use elastic_layers::kernels::SgdConfig;
use elastic_layers::{Architecture, Backbone, CostModel, DimKind, SearchSpace, SpaceError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const PIXELS: usize = 32;
const WIDTHS: [f64; 3] = [0.25, 0.5, 1.0];
const LEAST_ROUNDS: usize = 5;

/// A network in training: a view of it, if there is an architecture to select.
struct Trained<M> {
    model: Option<M>,
    view: Option<Architecture>,
    optimizer: ModuleOptimizer,
}

impl<M: Backbone> Trained<M> {
    fn new(model: M, view: Option<Architecture>, decays: bool) -> Self {
        let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
        let mut config = SgdConfig::new().with_momentum(Some(momentum));
        if decays {
            config = config.with_weight_decay(Some(WeightDecayConfig { penalty: 5e-4 }));
            config = config.with_gradient_clipping(Some(GradientClippingConfig::Norm(1.0)));
        }
        Self { model: Some(model), view, optimizer: config.init() }
    }

    /// Seconds of the gradient, and of the optimizer's step.
    fn step(&mut self, images: &Tensor<4>, labels: &Tensor<1, Int>) -> [f64; 2] {
        let start = Instant::now();
        let model = self.model.take().expect("a model");
        let view = self.view.as_ref().map(|architecture| model.select(architecture));
        let network = view.as_ref().unwrap_or(&model);
        let loss = CrossEntropyLossConfig::new().init(&labels.device());
        let loss = loss.forward(network.forward(images.clone()), labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), network);
        // Weights that nothing else holds are stepped in place.
        drop(view);
        let gradient = start.elapsed().as_secs_f64();
        self.model = Some(self.optimizer.step(1e-3, model, gradients));
        [gradient, start.elapsed().as_secs_f64() - gradient]
    }
}

/// What is measured.
#[derive(Clone, Copy)]
struct Settings {
    /// Of each width.
    seconds: f64,
    decays: bool,
    json: bool,
}

/// What one backbone is built by.
struct Case<F> {
    name: &'static str,
    build: F,
}

impl<M, F> Case<F>
where
    M: Backbone + 'static,
    F: Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError> + Clone + Send + Sync + 'static,
{
    fn run(&self, Settings { seconds, decays, json }: Settings) {
        let device = Device::flex().autodiff();
        let mut space = SearchSpace::new();
        let supernet = (self.build)(&mut space, &device).expect("a supernet").named();
        for width in WIDTHS {
            let architecture = space.with_values(|dim| match dim.kind {
                DimKind::Channels => (dim.base as f64 * width).round() as usize,
                _ => dim.base,
            });
            let network = (self.build)(&mut SearchSpace::pinned(&architecture), &device).expect("a network");
            let images = Tensor::random([BATCH, 3, PIXELS, PIXELS], Distribution::Normal(0.0, 1.0), &device);
            let labels = Tensor::arange(0..BATCH as i64, &device).remainder_scalar(10);
            let mut view = Trained::new(supernet.clone(), Some(architecture), decays);
            let mut fixed = Trained::new(network.with_statistics(elastic_layers::Statistics::Batch), None, decays);
            let (mut views, mut fixeds) = (vec![], vec![]);
            let start = Instant::now();
            // As long for a small network as for a large one, so that as much of the machine's noise is left.
            for round in 0.. {
                if round > LEAST_ROUNDS && start.elapsed().as_secs_f64() >= seconds {
                    break;
                }
                let (of_view, of_fixed);
                // Neither is always the first.
                if round % 2 == 0 {
                    (of_view, of_fixed) = (view.step(&images, &labels), fixed.step(&images, &labels));
                } else {
                    of_fixed = fixed.step(&images, &labels);
                    of_view = view.step(&images, &labels);
                }
                // The first is a warm-up.
                if round > 0 {
                    views.push(of_view);
                    fixeds.push(of_fixed);
                }
            }
            let gradient = quartiles(views.iter().zip(&fixeds).map(|(view, fixed)| view[0] / fixed[0]));
            let step = quartiles(
                views.iter().zip(&fixeds).map(|(view, fixed)| view.iter().sum::<f64>() / fixed.iter().sum::<f64>()),
            );
            let milliseconds =
                [&views, &fixeds].map(|runs| [0, 1].map(|part| 1e3 * quartiles(runs.iter().map(|run| run[part]))[1]));
            if json {
                let line = serde_json::json!({
                    "case": self.name, "width": width, "decay": decays, "rounds": views.len(), "gradient_ratio": gradient, "step_ratio": step,
                    "view_ms": milliseconds[0], "static_ms": milliseconds[1],
                });
                println!("{line}");
            } else {
                println!(
                    "{} x {width}: gradient {:.3} [{:.3}, {:.3}], with optimizer {:.3} [{:.3}, {:.3}]; \
                     view {:.1} + {:.2} ms, static {:.1} + {:.2} ms",
                    self.name,
                    gradient[1],
                    gradient[0],
                    gradient[2],
                    step[1],
                    step[0],
                    step[2],
                    milliseconds[0][0],
                    milliseconds[0][1],
                    milliseconds[1][0],
                    milliseconds[1][1],
                );
            }
        }
        self.select(&space, &supernet, json);
    }

    /// Microseconds of `select` and of a cost.
    fn select(&self, space: &SearchSpace, supernet: &M, json: bool) {
        let build = self.build.clone();
        let costs = CostModel::new(space, [3, PIXELS, PIXELS], move |device| build(&mut SearchSpace::new(), device));
        let architectures: Vec<_> = (0..64)
            .map(|number: usize| {
                space.with_values(|dim| match dim.kind {
                    DimKind::Channels => dim.at_level(number * 7 + dim.base),
                    _ => dim.base,
                })
            })
            .collect();
        let (mut selects, mut drops, mut costed) = (vec![], vec![], vec![]);
        for _ in 0..200 {
            let (mut select, mut dropped) = (0.0, 0.0);
            for architecture in &architectures {
                let start = Instant::now();
                let view = black_box(supernet.select(architecture));
                let selected = start.elapsed().as_secs_f64();
                drop(view);
                select += selected;
                dropped += start.elapsed().as_secs_f64() - selected;
            }
            let start = Instant::now();
            for architecture in &architectures {
                black_box(costs.cost(architecture).expect("captures"));
            }
            let microseconds = |seconds: f64| 1e6 * seconds / architectures.len() as f64;
            selects.push(microseconds(select));
            drops.push(microseconds(dropped));
            costed.push(microseconds(start.elapsed().as_secs_f64()));
        }
        let [select, dropped, cost] = [selects, drops, costed].map(|times| quartiles(times.into_iter()));
        if json {
            println!(
                "{}",
                serde_json::json!({ "case": self.name, "select_us": select, "drop_us": dropped, "cost_us": cost })
            );
        } else {
            println!(
                "{}: select {:.1} us, dropping the view {:.1} us, R {:.1} us",
                self.name, select[1], dropped[1], cost[1]
            );
        }
    }
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() * quarter / 4).min(values.len() - 1)])
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let seconds = value("--seconds").map_or(20.0, |seconds| seconds.parse().expect("--seconds: a number"));
    let only = value("--only").unwrap_or_default();
    let [json, decays] = ["--json", "--decay"].map(|name| arguments.iter().any(|argument| argument == name));
    let settings = Settings { seconds, decays, json };
    // As is usual for images of this size, the stem keeps it.
    let mobilenet = MobileNetV2Config { stem_stride: 1, ..MobileNetV2Config::imagenet(10).with_images(3, PIXELS) };
    let mobilenet = Case {
        name: "MobileNetV2",
        build: move |space: &mut SearchSpace, device: &Device| mobilenet.init(space, device),
    };
    let resnet = ResNetConfig::resnet20(10);
    let resnet =
        Case { name: "ResNet-20", build: move |space: &mut SearchSpace, device: &Device| resnet.init(space, device) };
    if mobilenet.name.contains(&only) {
        mobilenet.run(settings);
    }
    if resnet.name.contains(&only) {
        resnet.run(settings);
    }
}
