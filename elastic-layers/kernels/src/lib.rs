//! Convolution and batch normalisation for Burn's flex backend, with their gradients; and its [SGD](Sgd).
//!
//! Each function computes what Burn's own of the same name does, and calls it wherever the kernels of this crate do not
//! apply: on every device but flex (the capture device too), for other numbers than `f32`, for the options that the
//! function names, and when they are [switched off](set_enabled). The kernels choose the processor's vector
//! instructions at run time, use the global thread pool of `rayon`, and return the same bits at any number of threads.

mod applied;
mod buffer;
mod channels;
mod convolution;
mod corner;
mod depthwise;
mod elementwise;
mod extension;
mod geometry;
mod maps;
mod moments;
mod normalization;
mod optimizer;
mod origin;
mod parallel;
mod part;
mod record;
mod sgd;
mod simd;
mod switch;
mod tiles;

use burn::backend::{Dispatch, DispatchTensor, DispatchTensorKind};
// Burn's derive of `RecordState` looks for these at the root of the crate that uses it.
use burn::optim::{RecordState, StateSink, StateSource, join_path};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor, activation, module};

use extension::{Convolution, Kernels, PlainKernels};
use geometry::Geometry;
pub use optimizer::{MomentumState, Sgd, SgdConfig, SgdState};
pub use part::Part;
pub use simd::{Level, force_level, level};
pub use switch::{enabled, set_enabled};

/// The function that follows a batch normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `max(x, 0)`; its gradient at 0 is 0, as that of Burn's `relu`.
    Relu,
    /// `min(max(x, 0), 6)`; its gradient at 0 and at 6 is 1, as that of Burn's `clamp`.
    Relu6,
}

impl Activation {
    /// The smallest and the largest value.
    pub(crate) fn range(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }

    /// Applies the function with Burn's operations.
    ///
    /// # Shapes
    /// - `x` and output: any, the same
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::None => x,
            Self::Relu => activation::relu(x),
            Self::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}

/// 2-D convolution; see [`burn::tensor::module::conv2d`].
///
/// Covered: any kernel size, stride, padding (also one that differs between the sides) and dilation, for one group, and
/// for as many groups as input and output channels (depthwise). Burn computes everything else.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height_in, width_in]`
/// - `weight`: `[channels_out, channels_in / groups, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, height_out, width_out]`
///
/// # Panics
/// If the shapes do not fit, as Burn's.
pub fn conv2d(
    x: Tensor<4>,
    weight: impl Into<Part<4>>,
    bias: Option<Tensor<1>>,
    options: impl Into<ConvOptions<2>>,
) -> Tensor<4> {
    let (weight, options) = (weight.into(), options.into());
    let bias_fits = bias.as_ref().is_none_or(|bias| bias.dims() == [weight.dims()[0]] && covers(bias));
    if !bias_fits || !covers_convolution(&x, &weight, &options) {
        return module::conv2d(x, weight.into_tensor(), bias, options);
    }
    let (x, weight, convolution) = convolution(x, weight, options);
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::kernels_conv2d_bias(x, weight, bias.into_dispatch(), convolution),
        None => Dispatch::kernels_conv2d(x, weight, convolution),
    })
}

/// What a kernel is called with.
fn convolution(
    x: Tensor<4>,
    weight: Part<4>,
    options: ConvOptions<2>,
) -> (DispatchTensor, DispatchTensor, Convolution) {
    let sizes = weight.dims();
    (x.into_dispatch(), weight.into_whole().into_dispatch(), Convolution { weight: sizes, options })
}

/// What [`batch_norm_train`] returns.
#[derive(Clone, Debug)]
pub struct BatchNormOutput<const D: usize> {
    /// The normalised input behind the activation, `[batch, channels, ...]`.
    pub output: Tensor<D>,
    /// The batch's mean, `[channels]`; no gradient flows through it.
    pub mean: Tensor<1>,
    /// The batch's biased variance, without epsilon, `[channels]`; no gradient flows through it.
    pub variance: Tensor<1>,
}

/// Normalises with the statistics of the batch, then applies an activation; see
/// [`burn::tensor::module::batch_norm_train`].
///
/// `y = activation((x - mean) / sqrt(variance + epsilon) * gamma + beta)`. On an autodiff device the gradient takes the
/// statistics' dependence on the input into account.
///
/// # Shapes
/// - `x`: `[batch, channels, ...]`
/// - `gamma`, `beta`: `[channels]`
///
/// # Panics
/// If the shapes do not fit.
pub fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    gamma: impl Into<Part<1>>,
    beta: impl Into<Part<1>>,
    epsilon: f64,
    activation: Activation,
) -> BatchNormOutput<D> {
    let affine = [gamma.into(), beta.into()];
    if !covers_planes(&x, &affine) {
        let [gamma, beta] = affine.map(Part::into_tensor);
        let result = module::batch_norm_train(x, gamma, beta, epsilon);
        let output = activation.forward(result.output);
        return BatchNormOutput { output, mean: result.mean, variance: result.variance };
    }
    let [gamma, beta] = affine.map(|part| part.into_whole().into_dispatch());
    let (output, mean, variance) =
        Dispatch::kernels_batch_norm_train(x.into_dispatch(), gamma, beta, epsilon, activation);
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// Normalises with given statistics, then applies an activation; see [`burn::tensor::module::batch_norm`].
///
/// `y = activation((x - mean) / sqrt(variance + epsilon) * gamma + beta)`. Burn computes it on an autodiff device.
///
/// # Shapes
/// - `x` and output: `[batch, channels, ...]`
/// - `gamma`, `beta`, `mean`, `variance`: `[channels]`
///
/// # Panics
/// If the shapes do not fit.
pub fn batch_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    epsilon: f64,
    activation: Activation,
) -> Tensor<D> {
    let parameters = [gamma, beta, mean, variance].map(Part::from);
    let records = x.is_autodiff() || parameters.iter().any(Part::is_autodiff);
    if records || !covers_planes(&x, &parameters) {
        let [gamma, beta, mean, variance] = parameters.map(Part::into_whole);
        return activation.forward(module::batch_norm(x, gamma, beta, mean, variance, epsilon));
    }
    let [gamma, beta, mean, variance] = parameters.map(|part| part.into_whole().into_dispatch());
    Tensor::from_dispatch(Dispatch::kernels_batch_norm(
        x.into_dispatch(),
        gamma,
        beta,
        mean,
        variance,
        epsilon,
        activation,
    ))
}

/// [`conv2d`] without a bias, then [`batch_norm_train`]: on flex in fewer passes over the numbers.
///
/// # Shapes
/// As those of the two.
///
/// # Panics
/// If the shapes do not fit.
pub fn conv2d_batch_norm_train(
    x: Tensor<4>,
    weight: impl Into<Part<4>>,
    options: impl Into<ConvOptions<2>>,
    gamma: impl Into<Part<1>>,
    beta: impl Into<Part<1>>,
    epsilon: f64,
    activation: Activation,
) -> BatchNormOutput<4> {
    let (weight, options) = (weight.into(), options.into());
    let affine = [gamma.into(), beta.into()];
    if !covers_both(&x, &weight, &options, &affine) {
        let [gamma, beta] = affine;
        return batch_norm_train(conv2d(x, weight, None, options), gamma, beta, epsilon, activation);
    }
    let (x, weight, convolution) = convolution(x, weight, options);
    let [gamma, beta] = affine.map(|part| part.into_whole().into_dispatch());
    let (output, mean, variance) =
        Dispatch::kernels_conv2d_batch_norm_train(x, weight, convolution, gamma, beta, epsilon, activation);
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// [`conv2d`] without a bias, then [`batch_norm`]: on flex in one pass over the numbers. Burn computes it on an autodiff
/// device, but for the convolution.
///
/// # Shapes
/// As those of the two.
///
/// # Panics
/// If the shapes do not fit.
pub fn conv2d_batch_norm(
    x: Tensor<4>,
    weight: impl Into<Part<4>>,
    options: impl Into<ConvOptions<2>>,
    parameters: [Tensor<1>; 4],
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    let (weight, options) = (weight.into(), options.into());
    let parameters = parameters.map(Part::from);
    let records = x.is_autodiff() || weight.is_autodiff() || parameters.iter().any(Part::is_autodiff);
    if records || !covers_both(&x, &weight, &options, &parameters) {
        let [gamma, beta, mean, variance] = parameters.map(Part::into_whole);
        return batch_norm(conv2d(x, weight, None, options), gamma, beta, mean, variance, epsilon, activation);
    }
    let (x, weight, convolution) = convolution(x, weight, options);
    let [gamma, beta, mean, variance] = parameters.map(|part| part.into_whole().into_dispatch());
    Tensor::from_dispatch(Dispatch::kernels_conv2d_batch_norm(
        x,
        weight,
        convolution,
        gamma,
        beta,
        mean,
        variance,
        epsilon,
        activation,
    ))
}

/// A map for two uses, as around a shortcut.
///
/// What the kernels return is channels-last in memory, and Burn adds up the gradients of two uses in the order of the
/// shape, number by number, on one thread, into another layout. Those of this function's outputs are added as they lie.
///
/// # Shapes
/// - `x` and both outputs: `[batch, channels, height, width]`
pub fn fork(x: Tensor<4>) -> [Tensor<4>; 2] {
    if !x.is_autodiff() || !covers(&x) {
        return [x.clone(), x];
    }
    let (first, second) = Dispatch::kernels_fork(x.into_dispatch());
    [first, second].map(Tensor::from_dispatch)
}

/// The sum of two tensors of one shape.
///
/// # Shapes
/// - `a`, `b` and output: any with at least two axes, the same
///
/// # Panics
/// If the shapes do not fit, as Burn's.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !covers_pair(&a, &b) {
        return a + b;
    }
    Tensor::from_dispatch(Dispatch::kernels_add(a.into_dispatch(), b.into_dispatch(), false))
}

/// `max(a + b, 0)`, whose gradient at 0 is 0.
///
/// # Shapes
/// - `a`, `b` and output: any with at least two axes, the same
///
/// # Panics
/// If the shapes do not fit, as Burn's.
pub fn add_relu<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !covers_pair(&a, &b) {
        return activation::relu(a + b);
    }
    Tensor::from_dispatch(Dispatch::kernels_add(a.into_dispatch(), b.into_dispatch(), true))
}

/// The mean over the pixels of every map.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels]`
pub fn global_mean(x: Tensor<4>) -> Tensor<2> {
    if !covers(&x) || x.dims().contains(&0) {
        return x.mean_dims(&[2, 3]).flatten(1, 3);
    }
    Tensor::from_dispatch(Dispatch::kernels_global_mean(x.into_dispatch()))
}

fn covers_pair<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> bool {
    D >= 2 && a.dims() == b.dims() && !a.dims().contains(&0) && covers(a) && covers(b)
}

fn covers_convolution(x: &Tensor<4>, weight: &Part<4>, options: &ConvOptions<2>) -> bool {
    covers(x) && weight.is_covered() && Geometry::new(x.dims(), weight.dims(), options).is_some()
}

fn covers_both(x: &Tensor<4>, weight: &Part<4>, options: &ConvOptions<2>, parameters: &[Part<1>]) -> bool {
    let fits = |parameter: &Part<1>| parameter.dims() == [weight.dims()[0]] && parameter.is_covered();
    covers_convolution(x, weight, options) && parameters.iter().all(fits)
}

/// Whether the kernels take this tensor.
fn covers<const D: usize>(tensor: &Tensor<D>) -> bool {
    fn on_flex(kind: &DispatchTensorKind) -> bool {
        match kind {
            DispatchTensorKind::Flex(_) => true,
            DispatchTensorKind::Autodiff(inner) => on_flex(inner),
            _ => false,
        }
    }
    enabled() && tensor.dtype() == DType::F32 && on_flex(&tensor.clone().into_dispatch().kind)
}

fn covers_planes<const D: usize>(x: &Tensor<D>, parameters: &[Part<1>]) -> bool {
    let dims = x.dims();
    let fits = |parameter: &Part<1>| parameter.dims() == [dims[1]] && parameter.is_covered();
    D >= 2 && !dims.contains(&0) && covers(x) && parameters.iter().all(fits)
}
