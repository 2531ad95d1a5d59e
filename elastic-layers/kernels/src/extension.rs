//! The operations as an extension of Burn's flex backend, with their gradients.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Shape, Slice, TensorData};

use crate::Activation;
use crate::convolution;
use crate::crop;
use crate::geometry::Geometry;
use crate::normalization::{self, Affine, Planes};
use crate::sgd::SgdStep;

/// The operations that the flex backend gains.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Kernels: Backend {
    /// See [`crate::conv2d`].
    fn kernels_conv2d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self>;

    /// See [`crate::conv2d`].
    fn kernels_conv2d_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self>;

    /// See [`crate::crop`].
    fn kernels_crop(x: FloatTensor<Self>, sizes: Shape) -> FloatTensor<Self>;

    /// Output, mean and variance; see [`crate::batch_norm_train`].
    fn kernels_batch_norm_train(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
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

    /// Weight and velocity; see [`crate::Sgd`].
    fn kernels_sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        step: SgdStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// A tensor whose numbers lie one after the other.
#[derive(Clone, Debug)]
struct Dense(FlexTensor);

impl Dense {
    fn new(tensor: FlexTensor) -> Self {
        match tensor.as_slice::<f32>() {
            Some(_) => Self(tensor),
            None => Self(tensor.to_contiguous()),
        }
    }

    fn data(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
    }

    /// The numbers to write to, which nothing else sees.
    fn into_owned(self) -> FlexTensor {
        let size = self.0.shape().num_elements();
        if self.0.is_unique() && self.0.layout().start_offset() == 0 && self.0.storage::<f32>().len() == size {
            self.0
        } else {
            flex(self.data().to_vec(), self.0.shape())
        }
    }
}

fn flex(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape))
}

fn geometry(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Geometry {
    Geometry::new(x.shape().dims(), weight.shape().dims(), options)
        .expect("the caller sends what the kernels do not cover to Burn")
}

fn planes(x: &FlexTensor) -> Planes {
    let shape = x.shape();
    let [batch, channels] = shape.dims();
    Planes { batch, channels, plane: shape.num_elements() / (batch * channels) }
}

fn conv2d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, options: &ConvOptions<2>) -> FlexTensor {
    let geometry = geometry(&x, &weight, options);
    let (x, weight, bias) = (Dense::new(x), Dense::new(weight), bias.map(Dense::new));
    let output = convolution::forward(&geometry, x.data(), weight.data(), bias.as_ref().map(Dense::data));
    let [height, width] = geometry.output;
    flex(output, [geometry.batch, geometry.channels_out, height, width])
}

impl Kernels for Flex {
    fn kernels_conv2d(x: FlexTensor, weight: FlexTensor, options: ConvOptions<2>) -> FlexTensor {
        conv2d(x, weight, None, &options)
    }

    fn kernels_conv2d_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, options: ConvOptions<2>) -> FlexTensor {
        conv2d(x, weight, Some(bias), &options)
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
        let planes = planes(&x);
        let (gamma, beta) = (Dense::new(gamma), Dense::new(beta));
        let affine = Affine { gamma: gamma.data(), beta: beta.data(), epsilon, activation };
        let x = Dense::new(x);
        let shape = x.0.shape();
        let (output, statistics) = if x.0.is_unique() {
            let mut x = x.into_owned();
            let statistics = normalization::normalize_batch_in_place(planes, x.storage_mut(), affine);
            (x, statistics)
        } else {
            let (output, statistics) = normalization::normalize_batch(planes, x.data(), affine);
            (flex(output, shape), statistics)
        };
        let [mean, variance] = statistics.map(|values| flex(values, [planes.channels]));
        (output, mean, variance)
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
        let planes = planes(&x);
        let [gamma, beta, mean, variance] = [gamma, beta, mean, variance].map(Dense::new);
        let affine = Affine { gamma: gamma.data(), beta: beta.data(), epsilon, activation };
        let x = Dense::new(x);
        let shape = x.0.shape();
        if x.0.is_unique() {
            let mut x = x.into_owned();
            normalization::normalize_in_place(planes, x.storage_mut(), affine, mean.data(), variance.data());
            return x;
        }
        flex(normalization::normalize(planes, x.data(), affine, mean.data(), variance.data()), shape)
    }

    fn kernels_sgd_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        velocity: FlexTensor,
        step: SgdStep,
    ) -> (FlexTensor, FlexTensor) {
        let gradient = Dense::new(gradient);
        let [mut weight, mut velocity] = [weight, velocity].map(|tensor| Dense::new(tensor).into_owned());
        step.apply(weight.storage_mut(), gradient.data(), velocity.storage_mut());
        (weight, velocity)
    }
}

#[derive(Debug)]
struct ConvBackward;

/// Input and weight, each if the other's gradient is needed, and the bias' own need of one.
#[derive(Clone, Debug)]
struct ConvState {
    x: Option<NodeId>,
    weight: Option<NodeId>,
    geometry: Geometry,
    weight_shape: [usize; 4],
}

impl ConvState {
    /// Gradients of input and weight.
    fn grads(&self, grad: &Dense, checkpointer: &mut Checkpointer) -> [Option<FlexTensor>; 2] {
        let mut get =
            |node: Option<NodeId>| node.map(|node| Dense::new(checkpointer.retrieve_node_output::<FlexTensor>(node)));
        let (x, weight) = (get(self.x), get(self.weight));
        let geometry = &self.geometry;
        let [x_grad, weight_grad] =
            convolution::backward(geometry, x.as_ref().map(Dense::data), weight.as_ref().map(Dense::data), grad.data());
        let [height, width] = geometry.input;
        let x_shape = [geometry.batch, geometry.channels_in, height, width];
        [x_grad.map(|grad| flex(grad, x_shape)), weight_grad.map(|grad| flex(grad, self.weight_shape))]
    }
}

impl<const N: usize> Backward<Flex, N> for ConvBackward {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = Dense::new(grads.consume::<Flex>(&ops.node));
        let [x_grad, weight_grad] = ops.state.grads(&grad, checkpointer);
        let bias_grad = ops.parents.get(2).is_some_and(Option::is_some).then(|| {
            flex(convolution::bias_backward(&ops.state.geometry, grad.data()), [ops.state.geometry.channels_out])
        });
        for (parent, grad) in ops.parents.into_iter().zip([x_grad, weight_grad, bias_grad]) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Flex>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct CropBackward;

impl Backward<Flex, 1> for CropBackward {
    /// The sizes before and after.
    type State = [Shape; 2];

    fn backward(self, ops: Ops<[Shape; 2], 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = Dense::new(grads.consume::<Flex>(&ops.node));
        let [shape, sizes] = ops.state;
        if let [Some(parent)] = ops.parents {
            let all = crop::in_zeros(grad.data(), &sizes, &shape);
            grads.register::<Flex>(parent.id, flex(all, shape));
        }
    }
}

#[derive(Debug)]
struct BatchNormBackward;

#[derive(Clone, Debug)]
struct BatchNormState {
    x: NodeId,
    gamma: NodeId,
    beta: NodeId,
    mean: FlexTensor,
    variance: FlexTensor,
    epsilon: f64,
    activation: Activation,
}

impl Backward<Flex, 3> for BatchNormBackward {
    type State = BatchNormState;

    fn backward(self, ops: Ops<BatchNormState, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let BatchNormState { x, gamma, beta, mean, variance, epsilon, activation } = ops.state;
        let [x, gamma, beta] =
            [x, gamma, beta].map(|node| Dense::new(checkpointer.retrieve_node_output::<FlexTensor>(node)));
        let affine = Affine { gamma: gamma.data(), beta: beta.data(), epsilon, activation };
        let planes = planes(&x.0);
        let [mean, variance] = [mean, variance].map(Dense::new);
        let mut grad = Dense::new(grads.consume::<Flex>(&ops.node)).into_owned();
        let [gamma_grad, beta_grad] =
            normalization::batch_backward(planes, x.data(), affine, mean.data(), variance.data(), grad.storage_mut());
        let [gamma_grad, beta_grad] = [gamma_grad, beta_grad].map(|grad| flex(grad, [planes.channels]));
        for (parent, grad) in ops.parents.into_iter().zip([grad, gamma_grad, beta_grad]) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, grad);
            }
        }
    }
}

fn record_conv2d<C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    bias: Option<FlexTensor>,
    options: ConvOptions<2>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
    match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = ConvState {
                x: weight_tracked.then(|| prep.checkpoint(&x)),
                weight: x_tracked.then(|| prep.checkpoint(&weight)),
                geometry: geometry(x.primitive(), weight.primitive(), &options),
                weight_shape: weight.shape().dims(),
            };
            prep.finish(state, conv2d(x.into_primitive(), weight.into_primitive(), bias, &options))
        }
        OpsKind::UnTracked(prep) => prep.finish(conv2d(x.into_primitive(), weight.into_primitive(), bias, &options)),
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn kernels_conv2d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        record_conv2d::<C, 2>([x.node(), weight.node()], x, weight, None, options)
    }

    fn kernels_conv2d_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        record_conv2d::<C, 3>(nodes, x, weight, Some(bias.into_primitive()), options)
    }

    fn kernels_crop(x: FloatTensor<Self>, sizes: Shape) -> FloatTensor<Self> {
        let state = [x.shape(), sizes.clone()];
        match CropBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, Flex::kernels_crop(x.into_primitive(), sizes)),
            OpsKind::UnTracked(prep) => prep.finish(Flex::kernels_crop(x.into_primitive(), sizes)),
        }
    }

    fn kernels_batch_norm_train(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let prep = BatchNormBackward.prepare::<C>([x.node(), gamma.node(), beta.node()]);
        let (output, mean, variance) = match prep.compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let [x_node, gamma_node, beta_node] = [&x, &gamma, &beta].map(|tensor| prep.checkpoint(tensor));
                // The input is read again by the gradient: it may not be overwritten.
                let kept = x.primitive().clone();
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (output, mean, variance) = Flex::kernels_batch_norm_train(x, gamma, beta, epsilon, activation);
                drop(kept);
                let state = BatchNormState {
                    x: x_node,
                    gamma: gamma_node,
                    beta: beta_node,
                    mean: mean.clone(),
                    variance: variance.clone(),
                    epsilon,
                    activation,
                };
                (prep.finish(state, output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (output, mean, variance) = Flex::kernels_batch_norm_train(x, gamma, beta, epsilon, activation);
                (prep.finish(output), mean, variance)
            }
        };
        (output, constant::<C>(mean), constant::<C>(variance))
    }
}

fn constant<C: CheckpointStrategy>(tensor: FlexTensor) -> FloatTensor<Autodiff<Flex, C>> {
    <Autodiff<Flex, C> as burn::backend::AutodiffBackend>::from_inner(tensor)
}
