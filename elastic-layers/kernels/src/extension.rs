//! The operations as an extension of Burn's flex backend; their gradients are in `record`.
//!
//! An extension takes every tensor as an argument of its own.
#![allow(clippy::too_many_arguments)]

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Shape, Slice};

use crate::Activation;
use crate::applied::Weight;
use crate::buffer::take;
use crate::convolution::{self, Behind};
use crate::elementwise::{self, Change};
use crate::geometry::Geometry;
use crate::maps::{Maps, dense};
use crate::moments::Moments;
use crate::normalization::{self, Affine, Normalizer};
use crate::sgd::SgdStep;

/// What a convolution does with its tensors.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    /// The first entries of the weight that are in use; of a scale and shift behind it, as many as of output channels.
    pub weight: [usize; 4],
    pub options: ConvOptions<2>,
}

/// Scale, shift, epsilon and activation of a normalisation.
#[derive(Clone, Debug)]
pub(crate) struct Norm<T> {
    pub gamma: T,
    pub beta: T,
    pub epsilon: f64,
    pub activation: Activation,
}

/// The operations that the flex backend gains.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Kernels: Backend {
    /// See [`crate::conv2d`].
    fn kernels_conv2d(x: FloatTensor<Self>, weight: FloatTensor<Self>, convolution: Convolution) -> FloatTensor<Self>;

    /// See [`crate::conv2d`].
    fn kernels_conv2d_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self>;

    /// See [`crate::Part::into_tensor`].
    fn kernels_crop(x: FloatTensor<Self>, sizes: Shape) -> FloatTensor<Self>;

    /// Output, mean and variance; see [`crate::batch_norm_train`].
    fn kernels_batch_norm_train(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Output, mean and variance; see [`crate::conv2d_batch_norm_train`].
    fn kernels_conv2d_batch_norm_train(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        convolution: Convolution,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`crate::fork`].
    fn kernels_fork(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// See [`crate::add`] and [`crate::add_relu`].
    fn kernels_add(a: FloatTensor<Self>, b: FloatTensor<Self>, relu: bool) -> FloatTensor<Self>;

    /// See [`crate::global_mean`].
    fn kernels_global_mean(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The operations that have no gradient of their own: on a device that records, Burn's are used.
#[backend_extension(Flex)]
pub(crate) trait PlainKernels: Backend {
    /// See [`crate::batch_norm`].
    fn kernels_batch_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`crate::conv2d_batch_norm`].
    fn kernels_conv2d_batch_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        convolution: Convolution,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// Weight and velocity; see [`crate::Sgd`].
    fn kernels_sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        step: SgdStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// A tensor whose numbers lie one after the other, in the order of its shape.
#[derive(Clone, Debug)]
pub(crate) struct Dense(pub FlexTensor);

impl Dense {
    pub fn new(tensor: FlexTensor) -> Self {
        match tensor.as_slice::<f32>() {
            Some(_) => Self(tensor),
            None => Self(tensor.to_contiguous()),
        }
    }

    pub fn data(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
    }

    /// As the weight of a convolution, the first axis being that of the output channels.
    pub fn weight(&self) -> Weight<'_> {
        Weight { data: self.data(), row: self.0.shape()[1..].iter().product() }
    }

    /// The numbers to write to, which nothing else sees.
    fn into_owned(self) -> FlexTensor {
        let size = self.0.shape().num_elements();
        if self.0.is_unique() && self.0.layout().start_offset() == 0 && self.0.storage::<f32>().len() == size {
            self.0
        } else {
            dense(self.data().to_vec(), self.0.shape())
        }
    }
}

pub(crate) fn geometry(x: &FlexTensor, convolution: &Convolution) -> Geometry {
    Geometry::new(x.shape().dims(), convolution.weight, &convolution.options)
        .expect("the caller sends what the kernels do not cover to Burn")
}

fn output_shape(geometry: &Geometry) -> Shape {
    let [height, width] = geometry.output;
    Shape::from([geometry.batch, geometry.channels_out, height, width])
}

/// The output of a convolution, and what was gathered of it.
pub(crate) fn convolve(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    convolution: &Convolution,
    behind: Behind<'_>,
) -> (FlexTensor, Vec<Moments>) {
    let geometry = geometry(&x, convolution);
    let (x, weight, bias) = (Maps::new(x), Dense::new(weight), bias.map(Dense::new));
    let bias = bias.as_ref().map(Dense::data);
    let (output, moments) = convolution::forward(&geometry, x.data(), weight.weight(), bias, behind);
    (Maps::tensor(output, output_shape(&geometry)), moments)
}

impl Norm<FlexTensor> {
    /// Of the first channels.
    pub fn with<T>(self, channels: usize, action: impl FnOnce(Affine<'_>) -> T) -> T {
        let [gamma, beta] = [self.gamma, self.beta].map(Dense::new);
        let [gamma, beta] = [&gamma, &beta].map(|parameter| &parameter.data()[..channels]);
        action(Affine { gamma, beta, epsilon: self.epsilon, activation: self.activation })
    }

    /// With statistics of every channel.
    pub fn normalizer(self, mean: &[f32], variance: &[f32]) -> Normalizer {
        self.with(mean.len(), |affine| Normalizer::new(affine, mean, variance))
    }
}

/// Normalises in place where nothing else holds the input.
pub(crate) fn normalize(x: Maps, normalizer: &Normalizer) -> FlexTensor {
    match x.into_unique() {
        Ok(mut x) => {
            normalizer.update(x.storage_mut());
            x
        }
        Err(x) => {
            let mut output = take(x.data().len());
            normalizer.map(x.data(), &mut output);
            Maps::tensor(output, x.shape())
        }
    }
}

fn per_channel(values: [Vec<f32>; 2]) -> [FlexTensor; 2] {
    values.map(|values| {
        let channels = values.len();
        dense(values, [channels])
    })
}

impl Kernels for Flex {
    fn kernels_conv2d(x: FlexTensor, weight: FlexTensor, convolution: Convolution) -> FlexTensor {
        convolve(x, weight, None, &convolution, Behind::Nothing).0
    }

    fn kernels_conv2d_bias(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        convolution: Convolution,
    ) -> FlexTensor {
        convolve(x, weight, Some(bias), &convolution, Behind::Nothing).0
    }

    fn kernels_crop(x: FlexTensor, sizes: Shape) -> FlexTensor {
        let slices: Vec<Slice> = sizes.iter().map(|&size| Slice::from(0..size)).collect();
        // Copies nothing.
        Flex::float_slice(x, &slices)
    }

    fn kernels_batch_norm_train(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let x = Maps::new(x);
        let [mean, variance] = normalization::statistics(x.channels(), x.data());
        let normalizer = Norm { gamma, beta, epsilon, activation }.normalizer(&mean, &variance);
        let output = normalize(x, &normalizer);
        let [mean, variance] = per_channel([mean, variance]);
        (output, mean, variance)
    }

    fn kernels_conv2d_batch_norm_train(
        x: FlexTensor,
        weight: FlexTensor,
        convolution: Convolution,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let norm = Norm { gamma, beta, epsilon, activation };
        let Convolved { maps, normalizer, mean, variance } = Convolved::new(x, weight, &convolution, norm);
        (normalize(Maps::new(maps), &normalizer), mean, variance)
    }

    fn kernels_fork(x: FlexTensor) -> (FlexTensor, FlexTensor) {
        (x.clone(), x)
    }

    fn kernels_add(a: FlexTensor, b: FlexTensor, relu: bool) -> FlexTensor {
        let b = Maps::new(b);
        // In place where nothing else holds the first.
        match Maps::new(a).into_unique() {
            Ok(mut a) => {
                let change = if relu { Change::SumRelu } else { Change::Sum };
                change.all(a.storage_mut(), b.data());
                a
            }
            Err(a) => {
                let mut sum = take(a.data().len());
                elementwise::add(a.data(), b.data(), relu, &mut sum);
                Maps::tensor(sum, a.shape())
            }
        }
    }

    fn kernels_global_mean(x: FlexTensor) -> FlexTensor {
        let x = Maps::new(x);
        let [batch, channels, height, width] = x.shape().dims();
        dense(elementwise::means(x.data(), channels, height * width), [batch, channels])
    }
}

/// A convolution's output, and how its own statistics normalise it.
pub(crate) struct Convolved {
    pub maps: FlexTensor,
    pub normalizer: Normalizer,
    pub mean: FlexTensor,
    pub variance: FlexTensor,
}

impl Convolved {
    pub fn new(x: FlexTensor, weight: FlexTensor, convolution: &Convolution, norm: Norm<FlexTensor>) -> Self {
        let (maps, moments) = convolve(x, weight, None, convolution, Behind::Statistics);
        let [mean, variance] = Moments::finish(&moments);
        let normalizer = norm.normalizer(&mean, &variance);
        let [mean, variance] = per_channel([mean, variance]);
        Self { maps, normalizer, mean, variance }
    }
}

impl PlainKernels for Flex {
    fn kernels_batch_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        activation: Activation,
    ) -> FlexTensor {
        let [mean, variance] = [mean, variance].map(Dense::new);
        let normalizer = Norm { gamma, beta, epsilon, activation }.normalizer(mean.data(), variance.data());
        normalize(Maps::new(x), &normalizer)
    }

    fn kernels_conv2d_batch_norm(
        x: FlexTensor,
        weight: FlexTensor,
        convolution: Convolution,
        gamma: FlexTensor,
        beta: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        activation: Activation,
    ) -> FlexTensor {
        let [mean, variance] = [mean, variance].map(Dense::new);
        let normalizer = Norm { gamma, beta, epsilon, activation }.normalizer(mean.data(), variance.data());
        convolve(x, weight, None, &convolution, Behind::Normalize(&normalizer)).0
    }

    fn kernels_sgd_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        velocity: FlexTensor,
        step: SgdStep,
    ) -> (FlexTensor, FlexTensor) {
        let [gradient, velocity] = [gradient, velocity].map(Dense::new);
        let [mut weight, mut velocity] = [Dense::new(weight), velocity].map(Dense::into_owned);
        step.apply(weight.storage_mut(), gradient.data(), velocity.storage_mut());
        (weight, velocity)
    }
}
