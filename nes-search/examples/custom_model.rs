//! A network of one's own, made elastic by swapping types: searched, materialised, trained from scratch and exported.
//!
//!     cargo run --release --example custom_model

#![allow(clippy::print_stdout, reason = "an example prints what it found")]

use std::error::Error;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use elastic_layers::*;
use exporters::runtime::available;
use exporters::{OnnxExporter, reference, verify};
use nes_search::data::{Augment, ImageData, Normalization, batch};
use nes_search::search::Length;
use nes_search::*;

/// A residual block. As with layers of Burn's own, but for the types of its fields.
#[derive(Module, Elastic, Debug)]
struct Block {
    conv: ElasticConv2d,
    norm: ElasticBatchNorm,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        x.clone() + relu(self.norm.forward(self.conv.forward(x)))
    }
}

#[derive(Module, Elastic, Debug)]
struct Net {
    resize: ElasticResize,
    stem: ElasticConv2d,
    norm: ElasticBatchNorm,
    blocks: ElasticStack<Block>,
    head: ElasticLinear,
}

impl Net {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let resolution = space.resolution("resolution", 28).range(14..=28).add()?;
        let width = space.channels("width", 24).scale(0.25..=1.5).step(1.0 / 24.0).add()?;
        let depth = space.depth("depth", 3).range(1..=3).add()?;
        let conv = |from: Size, to: Size, stride: usize| {
            let config = ElasticConv2dConfig::new([from, to], [3, 3]).with_stride([stride; 2]);
            config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).with_bias(false).init(device)
        };
        let norm = || ElasticBatchNormConfig::new(width.clone()).init(device);
        let block = |_| Block { conv: conv(width.clone(), width.clone(), 1), norm: norm() };
        Ok(Self {
            resize: ElasticResize::new(resolution),
            stem: conv(1.into(), width.clone(), 2),
            norm: norm(),
            blocks: ElasticStack::new((0..3).map(block).collect()).with_depth(depth, 0, 1),
            head: ElasticLinearConfig::new(width.clone(), 10).init(device),
        })
    }
}

impl Backbone for Net {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.norm.forward(self.stem.forward(self.resize.forward(images))));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Images: a few of the embedded ones to learn from, and a split of them to compare architectures on.
    let data = ImageData::embedded();
    let (_, few) = data.train.split_per_class(150, 1)?;
    let (train_set, evaluation) = few.split_per_class(25, 1)?;
    let normalization = Normalization::of(&train_set)?;

    // The budget: a fifth of the network's multiply-accumulates.
    let blueprint = Blueprint::new([1, 28, 28], Net::new)?;
    let limits = blueprint.limits(Budget::Fraction(0.2), &[])?;

    // Supernet and H are trained in turns; numbers as small as these are for show.
    let augment = Augment { flip: true, shift: 1, random_resized_crop: false };
    let sgd = SgdSettings { augment, ..Config::preset(Preset::Laptop).search.sgd };
    let settings = SearchSettings {
        length: Length::Cost(0.5),
        weight_steps: 10,
        evaluation_batch: 100,
        nes: NesSettings { samples: 6, ..NesSettings::default() },
        sgd: sgd.clone(),
        ..Config::preset(Preset::Laptop).search
    };
    let recipe = TrainSettings { epochs: 3.0, sgd, average_decay: 0.9, recalibration_batches: 8 };
    let devices = [Device::default()];
    let (train_images, normalize) = (&train_set, &normalization);
    let task = Task {
        blueprint: &blueprint,
        train: train_images,
        evaluation: &evaluation,
        normalization: normalize,
        limits: &limits,
        recipe: &recipe,
        devices: &devices,
    };
    let found = Search::new(task, &settings, 1)?.run(None, &mut ())?.expect("nothing interrupts it").architecture;
    println!("found {found}: {}, {limits}", blueprint.cost().cost(&found)?.macs);

    // The winner as a static network, trained from scratch, evaluated once on the test images.
    let network = blueprint.network(&found, 1, &Device::default().autodiff())?;
    let trained =
        train(network, train_images, normalize, &recipe, 1, "train", &mut ())?.expect("nothing interrupts it");
    let test = evaluate(&trained.model, &data.test, normalize, 250, &Device::default())?;
    println!("trained from scratch: {:.1} % of the test images", test.accuracy * 100.0);

    // ONNX, run on every runtime that this machine has.
    let path = std::env::temp_dir().join("custom_model.onnx");
    let exporter = OnnxExporter::new([2, 1, 28, 28]).with_symbolic_batch(true);
    exporter.export(&trained.model, |model: &Net, images| model.forward(images))?.save(&path)?;
    let images = batch(&evaluation, &[0, 1, 2, 3, 4], normalize, None, &Device::default())?.images;
    let expected = trained.model.forward(images.clone());
    let report = verify(&path, &[reference(images, expected)], &available(), 1e-4);
    println!("{}: {}", path.display(), if report.passed() { "verified" } else { "does not agree with Burn" });
    if report.passed() { Ok(()) } else { Err(format!("{report:?}").into()) }
}
