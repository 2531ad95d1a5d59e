//! The networks, and what is done with them.

use anyhow::{Context, Result};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor};
use clap::ValueEnum;
use elastic_layers::backbones::{MobileNetV2Config, ResNetConfig};
use elastic_layers::kernels::SgdConfig;
use elastic_layers::{Architecture, Backbone, CostModel, DimKind, SearchSpace, SpaceError};
use serde_json::{Value, json};

/// Side of the images, in pixels.
pub const SIZE: usize = 32;

/// Learning rate of the measured steps and of the loss curves.
pub const LEARNING_RATE: f64 = 0.01;

const CLASSES: usize = 10;

/// A network of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// MobileNetV2 with a stem of stride 1.
    MobilenetV2,
    /// ResNet-20 with projections.
    #[value(name = "resnet-20")]
    Resnet20,
}

impl Network {
    /// Its name in tables and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::MobilenetV2 => "mobilenet-v2",
            Self::Resnet20 => "resnet-20",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Steps of training.
    Training,
    /// Forward passes with running statistics.
    Inference,
}

impl Work {
    /// Its name in tables and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
        }
    }
}

/// A network at a width, ready to be built.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The network.
    pub network: Network,
    /// Channels over those of the base.
    pub width: f64,
    /// MACs of an image.
    pub macs: u64,
    architecture: Architecture,
}

/// Work on a batch; returns the loss of a training step.
pub type Step = Box<dyn FnMut() -> Result<f32>>;

fn mobilenet() -> MobileNetV2Config {
    MobileNetV2Config { stem_stride: 1, ..MobileNetV2Config::imagenet(CLASSES) }.with_images(3, SIZE)
}

fn resnet() -> ResNetConfig {
    ResNetConfig::resnet20(CLASSES)
}

impl Subject {
    /// The network with all channels scaled alike.
    ///
    /// # Errors
    /// If the network cannot be built or captured.
    pub fn new(network: Network, width: f64) -> Result<Self> {
        let device = Device::flex();
        let mut space = SearchSpace::new();
        let images = [3, SIZE, SIZE];
        let costs = match network {
            Network::MobilenetV2 => {
                mobilenet().init(&mut space, &device)?;
                CostModel::new(&space, images, |device| mobilenet().init(&mut SearchSpace::new(), device))
            }
            Network::Resnet20 => {
                resnet().init(&mut space, &device)?;
                CostModel::new(&space, images, |device| resnet().init(&mut SearchSpace::new(), device))
            }
        };
        let architecture = space.with_values(|dim| match dim.kind {
            DimKind::Channels => (dim.base as f64 * width).round() as usize,
            _ => dim.base,
        });
        let macs = costs.cost(&architecture).context("cannot capture the network")?.macs.0;
        Ok(Self { network, width, macs, architecture })
    }

    /// What PyTorch's process needs to build the same.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn request(&self, work: Work, batch: usize, layout: &str) -> Result<Value> {
        let shapes = self.with_model(&Device::flex(), Shapes)?;
        Ok(json!({
            "kind": work.name(), "network": self.network.name(), "shapes": shapes, "batch": batch, "layout": layout,
            "learning_rate": LEARNING_RATE,
        }))
    }

    /// A step on random images.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn step(&self, work: Work, batch: usize) -> Result<Step> {
        match work {
            Work::Training => self.with_model(&Device::flex().autodiff(), Training { batch }),
            Work::Inference => self.with_model(&Device::flex(), Inference { batch }),
        }
    }

    /// The parameters, in the order of [`Self::request`], and the losses of steps from them on the given images.
    ///
    /// # Errors
    /// If the network cannot be built, or a loss not be read.
    pub fn losses(&self, images: &[f32], batch: usize, steps: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        self.with_model(&Device::flex().autodiff(), Losses { images, batch, steps })?
    }

    fn with_model<T>(&self, device: &Device, action: impl Action<Output = T>) -> Result<T> {
        let mut space = SearchSpace::pinned(&self.architecture);
        let build = |error: SpaceError| anyhow::Error::from(error).context("cannot build the network");
        Ok(match self.network {
            Network::MobilenetV2 => action.run(mobilenet().init(&mut space, device).map_err(build)?, device),
            Network::Resnet20 => action.run(resnet().init(&mut space, device).map_err(build)?, device),
        })
    }
}

/// What is done with a network of any type.
trait Action {
    type Output;

    fn run<B: Backbone + 'static>(self, model: B, device: &Device) -> Self::Output;
}

/// The parameters' shapes, and their numbers if they are wanted.
#[derive(Default)]
struct Parameters {
    shapes: Vec<Vec<usize>>,
    values: Option<Vec<f32>>,
}

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes.push(param.lazy_shape().to_vec());
        if let Some(values) = &mut self.values {
            values.extend(param.val().into_data().try_into_vec::<f32>().unwrap_or_default());
        }
    }
}

struct Shapes;

impl Action for Shapes {
    type Output = Vec<Vec<usize>>;

    fn run<B: Backbone + 'static>(self, model: B, _device: &Device) -> Self::Output {
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        parameters.shapes
    }
}

struct Training {
    batch: usize,
}

impl Action for Training {
    type Output = Step;

    fn run<B: Backbone + 'static>(self, model: B, device: &Device) -> Step {
        let images = random_images(self.batch, device);
        let mut trainer = Trainer::new(model, self.batch, device);
        Box::new(move || trainer.step(images.clone()).into_scalar())
    }
}

struct Inference {
    batch: usize,
}

impl Action for Inference {
    type Output = Step;

    fn run<B: Backbone + 'static>(self, model: B, device: &Device) -> Step {
        let images = random_images(self.batch, device);
        Box::new(move || {
            let scores = model.forward(images.clone()).into_data();
            Ok(scores.try_into_vec::<f32>()?.first().copied().unwrap_or_default())
        })
    }
}

struct Losses<'a> {
    images: &'a [f32],
    batch: usize,
    steps: usize,
}

impl Action for Losses<'_> {
    type Output = Result<(Vec<f32>, Vec<f32>)>;

    fn run<B: Backbone + 'static>(self, model: B, device: &Device) -> Self::Output {
        let mut parameters = Parameters { values: Some(Vec::new()), ..Parameters::default() };
        model.visit(&mut parameters);
        let mut trainer = Trainer::new(model, self.batch, device);
        let losses = self
            .images
            .chunks_exact(self.images.len() / self.steps)
            .map(|images| {
                let images = Tensor::<1>::from_floats(images, device).reshape([self.batch, 3, SIZE, SIZE]);
                trainer.step(images).into_scalar()
            })
            .collect::<Result<_>>()?;
        Ok((parameters.values.unwrap_or_default(), losses))
    }
}

/// The loss of a step, whose graph is gone.
struct Loss(Tensor<1>);

impl Loss {
    fn into_scalar(self) -> Result<f32> {
        let values = self.0.into_data().try_into_vec::<f32>()?;
        values.first().copied().context("a loss has one number")
    }
}

/// A network in training: SGD with Nesterov's momentum on cross-entropy.
struct Trainer<B: Module> {
    model: Option<B>,
    optimizer: ModuleOptimizer,
    labels: Tensor<1, Int>,
    device: Device,
}

impl<B: Backbone> Trainer<B> {
    fn new(model: B, batch: usize, device: &Device) -> Self {
        let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
        let labels = Tensor::arange(0..batch as i64, device).remainder_scalar(CLASSES as i64);
        let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
        Self { model: Some(model), optimizer, labels, device: device.clone() }
    }

    fn step(&mut self, images: Tensor<4>) -> Loss {
        let model = self.model.take().expect("put back by the step before");
        let scores = model.forward(images);
        let loss = CrossEntropyLossConfig::new().init(&self.device).forward(scores, self.labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(LEARNING_RATE, model, gradients));
        Loss(loss.inner())
    }
}

fn random_images(batch: usize, device: &Device) -> Tensor<4> {
    Tensor::random([batch, 3, SIZE, SIZE], Distribution::Normal(0.0, 1.0), device)
}
