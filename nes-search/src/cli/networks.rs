//! Networks of a run directory, without the images that they were trained on.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use burn::module::{Module, ModuleVisitor, Param};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Distribution, Tensor};
use elastic_layers::{Architecture, Backbone, SearchSpace};
use exporters::runtime::available;
use exporters::{OnnxExporter, OnnxModel, Tolerance, VerifyReport, reference};
use nes_search::{AnyBackbone, Blueprint, Config};

use super::data_file::DataFile;
use super::directory::{ARCHITECTURE, MODEL, WEIGHTS, config_of, read_architecture};

/// How far a runtime's logits may be from Burn's. A logit that moves by the absolute part moves a probability by a
/// hundred-thousandth of itself, so it matters for no prediction, also where a dead network has logits of nearly 0.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-5 };

/// The metadata entry of a file that names the weights that it was made of, by their hash.
const WEIGHTS_KEY: &str = "weights";

/// What the networks of a run directory have in common.
pub struct Networks {
    pub config: Config,
    pub record: DataFile,
    pub blueprint: Blueprint<AnyBackbone>,
}

/// The blueprint of a configuration for images and classes.
pub fn blueprint(config: &Config, record: &DataFile) -> anyhow::Result<Blueprint<AnyBackbone>> {
    let (backbone, classes, image) = (config.backbone.clone(), record.classes.len(), record.image);
    let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
    Blueprint::new(image, build).with_context(|| format!("backbone {}", config.backbone))
}

impl Networks {
    /// Those of a run directory, or of the one that a network's directory is in.
    pub fn of(directory: &Path) -> anyhow::Result<Self> {
        let (config, record) = (config_of(directory)?, DataFile::of(directory)?);
        let blueprint = blueprint(&config, &record)?;
        Ok(Self { config, record, blueprint })
    }

    /// The network in a directory: its architecture with its weights.
    pub fn network(&self, directory: &Path) -> anyhow::Result<(Architecture, AnyBackbone)> {
        let architecture = read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))?;
        let path = directory.join(WEIGHTS);
        let network = self.blueprint.network(&architecture, self.config.seed, &Device::default())?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let network = ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes))
            .and_then(|record| network.try_load_record(record))
            .map_err(|error| anyhow!("{}: expected weights of {architecture}: {error}", path.display()))?;
        Ok((architecture, network))
    }

    /// A network as ONNX, with the hash of the weights that it was trained to.
    fn onnx(
        &self,
        architecture: &Architecture,
        network: &AnyBackbone,
        weights: Option<String>,
    ) -> anyhow::Result<OnnxModel> {
        let [channels, height, width] = self.record.image;
        let forward = |model: &AnyBackbone, images| model.forward(images);
        let mut exporter = OnnxExporter::new([2, channels, height, width])
            .with_names(["images"], ["logits"])
            .with_metadata("architecture", serde_json::to_string(architecture)?)
            .with_metadata("classes", serde_json::to_string(&self.record.classes)?)
            .with_metadata("normalization", serde_json::to_string(&self.record.normalization)?)
            .with_doc("Images are bytes / 255, less the mean, over the standard deviation of their channel.");
        if let Some(hash) = weights {
            exporter = exporter.with_metadata(WEIGHTS_KEY, hash);
        }
        Ok(exporter.export(network, forward)?)
    }

    /// Writes a network as ONNX, and runs the file in every runtime on some images. A file that does not agree with Burn
    /// does not take its place.
    fn export(
        &self,
        network: (&Architecture, &AnyBackbone),
        weights: Option<String>,
        images: &[Tensor<4>],
        path: &Path,
    ) -> anyhow::Result<(OnnxModel, VerifyReport)> {
        let (architecture, network) = network;
        let model = self.onnx(architecture, network, weights)?;
        let references: Vec<_> =
            images.iter().map(|images| reference(images.clone(), network.forward(images.clone()))).collect();
        let report = model.save_checked(path, |beside| {
            let report = model.verify(beside, &references, &available(), TOLERANCE);
            ensure!(report.passed(), "{}: does not agree with Burn, and is not written:\n{report}", path.display());
            Ok(report)
        })?;
        Ok((model, report))
    }

    /// Exports the trained network of a directory, beside its weights if no other file is named.
    pub fn export_directory(
        &self,
        directory: &Path,
        images: &[Tensor<4>],
        out: Option<&Path>,
    ) -> anyhow::Result<(OnnxModel, VerifyReport)> {
        let (architecture, network) = self.network(directory)?;
        let weights = Some(hash_of(&network));
        let beside = directory.join(MODEL);
        self.export((&architecture, &network), weights, images, out.unwrap_or(&beside))
    }

    /// Exports an architecture with initial weights.
    pub fn export_untrained(
        &self,
        architecture: &Architecture,
        images: &[Tensor<4>],
        path: &Path,
    ) -> anyhow::Result<()> {
        let network = self.blueprint.network(architecture, self.config.seed, &Device::default())?;
        self.export((architecture, &network), None, images, path).map(drop)
    }

    /// Noise of the images' shape in batches of 1 and 7, the same every time.
    pub fn noise(&self) -> Vec<Tensor<4>> {
        let [channels, height, width] = self.record.image;
        let device = Device::default();
        device.seed(self.config.seed);
        [1, 1, 1, 7, 7]
            .map(|size| Tensor::random([size, channels, height, width], Distribution::Normal(0.0, 1.0), &device))
            .into()
    }
}

/// A hash of the values of all parameters and running statistics, in the order of the modules. The file of weights has
/// other bytes each time.
fn hash_of(network: &AnyBackbone) -> String {
    struct Values(blake3::Hasher);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            for value in param.val().into_data().iter::<f32>() {
                self.0.update(&value.to_le_bytes());
            }
        }
    }
    let mut values = Values(blake3::Hasher::new());
    network.visit(&mut values);
    values.0.finalize().to_string()
}

/// Whether an ONNX file was made of the weights in a directory.
pub fn is_of_weights(file: &Path, directory: &Path) -> bool {
    let Ok(bytes) = std::fs::read(file) else { return false };
    // Keys and values stand in a file as they are.
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    has(WEIGHTS_KEY)
        && Networks::of(directory)
            .and_then(|networks| networks.network(directory))
            .is_ok_and(|(_, network)| has(&hash_of(&network)))
}
