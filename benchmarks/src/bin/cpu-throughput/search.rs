//! What a search does all the time: weight steps and scores of small views, and steps of small networks from scratch.

use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::grad_clipping::GradientClippingConfig;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config, Scales, Stage};
use elastic_layers::kernels::SgdConfig;
use elastic_layers::{Architecture, Backbone, CostModel, DimKind, Elastic, SearchSpace, Statistics};
use nes_search::data::{Augment, ImageData, Normalization, batch};
use onnx_bench::statistics::percentile;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::json;

use crate::{Arguments, Report};

/// MACs of the views.
const MACS: [u64; 4] = [100_000, 250_000, 600_000, 2_500_000];

/// Images in a batch.
const BATCHES: [usize; 2] = [64, 256];

/// Height and width of the images.
const SIZE: usize = 28;

/// Parts of a round, in seconds.
const PARTS: [&str; 7] = ["feed", "forward", "backward", "optimizer", "weight step", "score", "network's step"];

/// The small MobileNetV2 with twice the channels, whose smallest views are a hundredth of it.
fn config() -> MobileNetV2Config {
    let small = MobileNetV2Config::small(1, SIZE, 10);
    let stages = small.stages.iter().map(|stage| Stage { channels: 2 * stage.channels, ..*stage }).collect();
    MobileNetV2Config {
        stem_channels: 2 * small.stem_channels,
        stages,
        head_channels: 2 * small.head_channels,
        scales: Scales { min: 0.1, ..small.scales },
        ..small
    }
}

/// The uniform rescaling of channels and resolution whose MACs are nearest, and these.
fn rescaling(space: &SearchSpace, costs: &CostModel, macs: u64) -> Result<(Architecture, u64)> {
    let mut best: Option<(Architecture, u64)> = None;
    for percent in 10..=150 {
        let scale = f64::from(percent) / 100.0;
        let architecture = space.with_values(|dim| match dim.kind {
            DimKind::Channels => ((dim.base as f64 * scale).round() as usize).clamp(dim.min, dim.max),
            DimKind::Resolution => ((dim.base as f64 * scale.sqrt()).round() as usize).clamp(dim.min, dim.max),
            DimKind::Depth => dim.base,
        });
        let found = costs.cost(&architecture).context("cannot capture the network")?.macs.0;
        if best.as_ref().is_none_or(|(_, best)| found.abs_diff(macs) < best.abs_diff(macs)) {
            best = Some((architecture, found));
        }
    }
    best.context("no rescaling")
}

/// A network in training, as `nes-search` trains.
struct Trained {
    model: Option<MobileNetV2>,
    optimizer: ModuleOptimizer,
}

impl Trained {
    fn new(model: MobileNetV2) -> Self {
        let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
        let config = SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(WeightDecayConfig { penalty: 5e-4 }))
            .with_gradient_clipping(Some(GradientClippingConfig::Norm(1.0)));
        Self { model: Some(model), optimizer: config.init() }
    }

    /// Seconds of forward pass, backward pass and optimizer.
    fn step(&mut self, view: Option<&Architecture>, images: Tensor<4>, labels: Tensor<1, Int>) -> Result<[f64; 3]> {
        let model = self.model.take().context("put back by the step before")?;
        let start = Instant::now();
        let view = view.map(|architecture| model.select(architecture));
        let network = view.as_ref().unwrap_or(&model);
        let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.1)).init(&labels.device());
        let loss = loss.forward(network.forward(images), labels);
        let forward = start.elapsed().as_secs_f64();
        let gradients = GradientsParams::from_grads(loss.backward(), network);
        drop(view);
        let backward = start.elapsed().as_secs_f64();
        self.model = Some(self.optimizer.step(1e-3, model, gradients));
        Ok([forward, backward - forward, start.elapsed().as_secs_f64() - backward])
    }
}

/// One view, and a network of its sizes.
struct Case {
    view: Architecture,
    macs: u64,
    batch: usize,
    supernet: Trained,
    network: Trained,
}

struct Images {
    data: ImageData,
    normalization: Normalization,
}

fn images() -> Result<&'static Images> {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    if let Some(images) = IMAGES.get() {
        return Ok(images);
    }
    let data = ImageData::embedded();
    let normalization = Normalization::of(&data.train)?;
    Ok(IMAGES.get_or_init(|| Images { data, normalization }))
}

impl Case {
    /// Seconds of every part.
    fn round(&mut self) -> Result<[f64; PARTS.len()]> {
        let device = Device::flex().autodiff();
        let Images { data, normalization } = images()?;
        let indices: Vec<usize> = (0..self.batch).collect();
        let augment = Augment { flip: true, shift: 2, random_resized_crop: false };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let start = Instant::now();
        let data = batch(&data.train, &indices, normalization, Some((&augment, &mut rng)), &device)?;
        let feed = start.elapsed().as_secs_f64();
        let [forward, backward, optimizer] =
            self.supernet.step(Some(&self.view), data.images.clone(), data.labels.clone())?;
        let model = self.supernet.model.as_ref().context("put back by the step")?;
        let (images, labels) = (data.images.clone().without_autodiff(), data.labels.clone().without_autodiff());
        let valid = burn::module::Module::valid(model);
        let start = Instant::now();
        let scores = valid.select(&self.view).forward(images);
        let loss = CrossEntropyLossConfig::new().init(&labels.device()).forward(scores, labels);
        loss.into_data().try_into_vec::<f32>()?;
        let score = start.elapsed().as_secs_f64();
        drop(valid);
        let own: f64 = self.network.step(None, data.images, data.labels)?.into_iter().sum();
        Ok([feed, forward, backward, optimizer, forward + backward + optimizer, score, own])
    }
}

/// Times of weight steps and scores, on one thread and on several.
///
/// # Errors
/// If a network cannot be built.
pub fn report(arguments: &Arguments) -> Result<()> {
    let header = [&["ms", "MACs", "batch", "threads"][..], &PARTS].concat();
    let mut report = Report::new(arguments.json, "Search", &header);
    let device = Device::flex().autodiff();
    let mut space = SearchSpace::new();
    let supernet = config().init(&mut space, &device)?;
    let costs = CostModel::new(&space, [1, SIZE, SIZE], |device| config().init(&mut SearchSpace::new(), device));
    let threads = [1, usize::from(arguments.threads)];
    let pools: Vec<ThreadPool> = (threads.iter().take(if threads[1] > 1 { 2 } else { 1 }))
        .map(|threads| ThreadPoolBuilder::new().num_threads(*threads).build())
        .collect::<Result<_, _>>()?;
    for macs in arguments.macs.iter().copied().chain(MACS.into_iter().filter(|_| arguments.macs.is_empty())) {
        for batch in BATCHES {
            let (view, macs) = rescaling(&space, &costs, macs)?;
            let network = config().init(&mut SearchSpace::pinned(&view), &device)?;
            let network = network.with_statistics(Statistics::Batch);
            let (supernet, network) = (Trained::new(supernet.clone()), Trained::new(network));
            let mut case = Case { view, macs, batch, supernet, network };
            let mut runs = vec![Vec::new(); pools.len()];
            for round in 0..=arguments.rounds {
                for (pool, runs) in pools.iter().zip(&mut runs) {
                    let run = pool.install(|| case.round())?;
                    // The first is a warm-up.
                    if round > 0 {
                        runs.push(run);
                    }
                }
            }
            for (pool, runs) in pools.iter().zip(runs) {
                row(&mut report, &case, pool.current_num_threads(), &runs);
            }
        }
    }
    Ok(())
}

fn row(report: &mut Report, case: &Case, threads: usize, runs: &[[f64; PARTS.len()]]) {
    let median = |part: usize| {
        let mut values: Vec<f64> = runs.iter().map(|run| run[part]).collect();
        values.sort_by(f64::total_cmp);
        1e3 * percentile(&values, 0.5)
    };
    let medians: Vec<f64> = (0..PARTS.len()).map(median).collect();
    let parts: serde_json::Map<_, _> =
        PARTS.iter().zip(&medians).map(|(name, median)| ((*name).to_owned(), json!(median))).collect();
    let line = json!({ "part": "search", "macs": case.macs, "batch": case.batch, "threads": threads, "ms": parts });
    let mut cells = vec![String::new(), case.macs.to_string(), case.batch.to_string(), threads.to_string()];
    cells.extend(medians.iter().map(|median| format!("{median:.2}")));
    report.row(&line, cells);
}
