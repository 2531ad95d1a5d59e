//! A network that compares two images by one set of weights: two inputs, two outputs.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, HardSigmoid, HardSigmoidConfig, InstanceNorm, InstanceNormConfig, Linear, LinearConfig,
    PaddingConfig2d,
};
use burn::tensor::{Device, Tensor, activation};
use exporters::{OnnxExporter, random_reference};

use crate::onnx::{Files, TOLERANCE, normal, runtimes};

#[derive(Module, Debug)]
struct Twins {
    stem: Conv2d,
    stem_norm: InstanceNorm,
    body: Conv2d,
    gate: Conv2d,
    hard_sigmoid: HardSigmoid,
    embed: Linear,
    embed_norm: BatchNorm,
    head: Linear,
}

impl Twins {
    fn new(device: &Device) -> Self {
        let conv = |inputs, outputs, stride| {
            Conv2dConfig::new([inputs, outputs], [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        let mut stem_norm = InstanceNormConfig::new(4).init(device);
        stem_norm.gamma = stem_norm.gamma.map(|_| Param::from_tensor(normal([4])));
        stem_norm.beta = stem_norm.beta.map(|_| Param::from_tensor(normal([4])));
        Self {
            stem: conv(1, 4, 2),
            stem_norm,
            body: conv(4, 6, 1),
            gate: conv(4, 6, 1),
            hard_sigmoid: HardSigmoidConfig::new().init(),
            embed: LinearConfig::new(6, 8).with_bias(false).init(device),
            embed_norm: BatchNormConfig::new(8).init(device),
            head: LinearConfig::new(8, 1).init(device),
        }
    }

    fn embedding(&self, images: Tensor<4>) -> Tensor<2> {
        let x = activation::mish(self.stem_norm.forward(self.stem.forward(images)));
        let x =
            activation::softplus(self.body.forward(x.clone()), 1.0) * self.hard_sigmoid.forward(self.gate.forward(x));
        let x = x.max_dim(3).squeeze_dim::<3>(3).mean_dim(2).flatten::<2>(1, 2);
        let x = self.embed_norm.forward(self.embed.forward(x));
        // On the unit sphere.
        let length = x.clone().powf_scalar(2.0).sum_dim(1).sqrt().clamp_min(1e-6);
        x / length
    }

    /// Whether two images show the same, and the cosine between their embeddings.
    fn forward(&self, (one, other): (Tensor<4>, Tensor<4>)) -> (Tensor<2>, Tensor<1>) {
        let (one, other) = (self.embedding(one), self.embedding(other));
        let distance = (one.clone() - other.clone()).abs();
        let same = activation::sigmoid(self.head.forward(distance));
        (same, (one * other).sum_dim(1).squeeze_dim::<1>(1))
    }
}

#[test]
fn files_compute_what_the_network_does() {
    let mut files = Files::new();
    let device = Device::default();
    let (model, shapes) = (Twins::new(&device), ([1, 1, 9, 8], [1, 1, 12, 7]));
    let exporter = OnnxExporter::new(shapes).with_names(["image", "other"], ["same", "cosine"]);
    let onnx = exporter.export(&model, Twins::forward).expect("exports");
    assert_eq!(onnx.names(), [["image", "other"], ["same", "cosine"]]);
    let path = files.save("twins", &onnx);
    for batch in [1, 5] {
        let shapes = ([batch, 1, 9, 8], [batch, 1, 12, 7]);
        let reference = random_reference(shapes, &device, |images| model.forward(images));
        let report = onnx.verify(&path, &[reference], &runtimes(), TOLERANCE);
        assert!(report.passed(), "{report}");
    }
    files.check_with_tools(&[]);
}
