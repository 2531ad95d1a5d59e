//! The gradients of the operations.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::Shape;
use burn::tensor::ops::ConvOptions;

use crate::Activation;
use crate::buffer::take;
use crate::convolution::{self, Behind, Upstream};
use crate::crop;
use crate::elementwise;
use crate::extension::{Dense, Kernels, Norm, convolve, convolve_and_normalize, geometry};
use crate::geometry::Geometry;
use crate::maps::{Maps, dense};
use crate::normalization::{self, NormalizerGrad};

/// Input and weight of a convolution, each if the other's gradient is needed.
#[derive(Clone, Debug)]
struct ConvState {
    x: Option<NodeId>,
    weight: Option<NodeId>,
    geometry: Geometry,
    weight_shape: [usize; 4],
}

impl ConvState {
    fn new<C: CheckpointStrategy>(
        x: &FloatTensor<Autodiff<Flex, C>>,
        weight: &FloatTensor<Autodiff<Flex, C>>,
        options: &ConvOptions<2>,
        mut checkpoint: impl FnMut(&FloatTensor<Autodiff<Flex, C>>) -> NodeId,
    ) -> Self {
        Self {
            x: weight.is_tracked().then(|| checkpoint(x)),
            weight: x.is_tracked().then(|| checkpoint(weight)),
            geometry: geometry(x.primitive(), weight.primitive(), options),
            weight_shape: weight.shape().dims(),
        }
    }

    /// Gradients of input and weight.
    fn grads(&self, upstream: &Upstream<'_>, checkpointer: &mut Checkpointer) -> [Option<FlexTensor>; 2] {
        let mut get = |node: Option<NodeId>| node.map(|node| checkpointer.retrieve_node_output::<FlexTensor>(node));
        let (x, weight) = (get(self.x).map(Maps::new), get(self.weight).map(Dense::new));
        let geometry = &self.geometry;
        let (x, weight) = (x.as_ref().map(Maps::data), weight.as_ref().map(Dense::data));
        let (x_grad, weight_grad) = convolution::backward(geometry, x, weight, upstream);
        let [height, width] = geometry.input;
        let x_shape = Shape::from([geometry.batch, geometry.channels_in, height, width]);
        [x_grad.map(|grad| Maps::tensor(grad, x_shape)), weight_grad.map(|grad| dense(grad, self.weight_shape))]
    }
}

/// Registers the gradients of the parents that need one.
fn register<const N: usize>(
    grads: &mut Gradients,
    parents: [Option<NodeId>; N],
    values: impl IntoIterator<Item = Option<FlexTensor>>,
) {
    for (parent, grad) in parents.into_iter().zip(values) {
        if let (Some(parent), Some(grad)) = (parent, grad) {
            grads.register::<Flex>(parent, grad);
        }
    }
}

#[derive(Debug)]
struct ConvBackward;

impl<const N: usize> Backward<Flex, N> for ConvBackward {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = Maps::new(grads.consume::<Flex>(&ops.node));
        let [x_grad, weight_grad] = ops.state.grads(&Upstream::Given(grad.data()), checkpointer);
        let bias_grad = ops.parents.get(2).is_some_and(Option::is_some).then(|| {
            let channels = ops.state.geometry.channels_out;
            dense(normalization::channel_totals(channels, grad.data()), [channels])
        });
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [x_grad, weight_grad, bias_grad]);
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
        let all = crop::in_zeros(grad.data(), &sizes, &shape);
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [Some(dense(all, shape))]);
    }
}

/// What the gradient of a normalisation needs beside its input.
#[derive(Clone, Debug)]
struct NormState {
    norm: Norm<NodeId>,
    mean: FlexTensor,
    variance: FlexTensor,
}

impl NormState {
    fn with<T>(
        self,
        x: &[f32],
        grad: &[f32],
        checkpointer: &mut Checkpointer,
        action: impl FnOnce(NormalizerGrad<'_>, &mut Checkpointer) -> T,
    ) -> T {
        let Norm { gamma, beta, epsilon, activation } = self.norm;
        let [gamma, beta] = [gamma, beta].map(|node| checkpointer.retrieve_node_output::<FlexTensor>(node));
        let [mean, variance] = [self.mean, self.variance].map(Dense::new);
        let norm = Norm { gamma, beta, epsilon, activation };
        let grad = norm.with(|affine| NormalizerGrad::new(affine, [mean.data(), variance.data()], x, grad));
        action(grad, checkpointer)
    }
}

fn affine_grads(grad: &NormalizerGrad<'_>) -> [Option<FlexTensor>; 2] {
    grad.affine.clone().map(|values| {
        let channels = values.len();
        Some(dense(values, [channels]))
    })
}

#[derive(Debug)]
struct BatchNormBackward;

impl Backward<Flex, 3> for BatchNormBackward {
    /// The input, too.
    type State = (NodeId, NormState);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, state) = ops.state;
        let x = Maps::new(checkpointer.retrieve_node_output::<FlexTensor>(x));
        let grad = Maps::new(grads.consume::<Flex>(&ops.node));
        let values = state.with(x.data(), grad.data(), checkpointer, |norm, _| {
            let mut x_grad = take(x.data().len());
            norm.write_all(&mut x_grad);
            let [gamma, beta] = affine_grads(&norm);
            [Some(Maps::tensor(x_grad, x.shape())), gamma, beta]
        });
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), values);
    }
}

#[derive(Debug)]
struct ConvNormBackward;

impl Backward<Flex, 4> for ConvNormBackward {
    /// The convolution's output, too.
    type State = (ConvState, FlexTensor, NormState);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (conv, convolved, state) = ops.state;
        let convolved = Maps::new(convolved);
        let grad = Maps::new(grads.consume::<Flex>(&ops.node));
        let values = state.with(convolved.data(), grad.data(), checkpointer, |norm, checkpointer| {
            let [gamma, beta] = affine_grads(&norm);
            let [x, weight] = conv.grads(&Upstream::Norm(norm), checkpointer);
            [x, weight, gamma, beta]
        });
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), values);
    }
}

#[derive(Debug)]
struct AddBackward;

impl Backward<Flex, 2> for AddBackward {
    /// The output, if a ReLU follows the sum.
    type State = Option<FlexTensor>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let mut grad = grads.consume::<Flex>(&ops.node);
        if let Some(output) = ops.state {
            let (output, maps) = (Maps::new(output), Maps::new(grad));
            let mut through = take(maps.data().len());
            elementwise::relu_grad(output.data(), maps.data(), &mut through);
            grad = Maps::tensor(through, maps.shape());
        }
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [Some(grad.clone()), Some(grad)]);
    }
}

#[derive(Debug)]
struct MeanBackward;

impl Backward<Flex, 1> for MeanBackward {
    /// The input's shape.
    type State = Shape;

    fn backward(self, ops: Ops<Shape, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = Dense::new(grads.consume::<Flex>(&ops.node));
        let [_, channels, height, width] = ops.state.dims();
        let all = elementwise::mean_grad(grad.data(), channels, height * width);
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [Some(Maps::tensor(all, ops.state))]);
    }
}

fn record_conv2d<C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    bias: Option<FlexTensor>,
    options: &ConvOptions<2>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let output = |x, weight| convolve(x, weight, bias, options, Behind::Nothing).0;
    match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = ConvState::new::<C>(&x, &weight, options, |tensor| prep.checkpoint(tensor));
            prep.finish(state, output(x.into_primitive(), weight.into_primitive()))
        }
        OpsKind::UnTracked(prep) => prep.finish(output(x.into_primitive(), weight.into_primitive())),
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn kernels_conv2d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        record_conv2d::<C, 2>([x.node(), weight.node()], x, weight, None, &options)
    }

    fn kernels_conv2d_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        record_conv2d::<C, 3>(nodes, x, weight, Some(bias.into_primitive()), &options)
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
                let norm = Norm { gamma: gamma_node, beta: beta_node, epsilon, activation };
                let state = NormState { norm, mean: mean.clone(), variance: variance.clone() };
                (prep.finish((x_node, state), output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (output, mean, variance) = Flex::kernels_batch_norm_train(x, gamma, beta, epsilon, activation);
                (prep.finish(output), mean, variance)
            }
        };
        (output, constant::<C>(mean), constant::<C>(variance))
    }

    fn kernels_conv2d_batch_norm_train(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let prep = ConvNormBackward.prepare::<C>([x.node(), weight.node(), gamma.node(), beta.node()]);
        let norm = Norm { gamma: gamma.primitive().clone(), beta: beta.primitive().clone(), epsilon, activation };
        let (output, mean, variance) = match prep.compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let conv = ConvState::new::<C>(&x, &weight, &options, |tensor| prep.checkpoint(tensor));
                let [gamma, beta] = [&gamma, &beta].map(|tensor| prep.checkpoint(tensor));
                let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
                let (kept, output, mean, variance) = convolve_and_normalize(x, weight, &options, norm, true);
                let norm = Norm { gamma, beta, epsilon, activation };
                let state = NormState { norm, mean: mean.clone(), variance: variance.clone() };
                let kept = kept.unwrap_or_else(|| output.clone());
                (prep.finish((conv, kept, state), output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
                let (_, output, mean, variance) = convolve_and_normalize(x, weight, &options, norm, false);
                (prep.finish(output), mean, variance)
            }
        };
        (output, constant::<C>(mean), constant::<C>(variance))
    }

    fn kernels_add(a: FloatTensor<Self>, b: FloatTensor<Self>, relu: bool) -> FloatTensor<Self> {
        let prep = AddBackward.prepare::<C>([a.node(), b.node()]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = Flex::kernels_add(a.into_primitive(), b.into_primitive(), relu);
                prep.finish(relu.then(|| output.clone()), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::kernels_add(a.into_primitive(), b.into_primitive(), relu)),
        }
    }

    fn kernels_global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.shape();
        match MeanBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(shape, Flex::kernels_global_mean(x.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(Flex::kernels_global_mean(x.into_primitive())),
        }
    }
}

fn constant<C: CheckpointStrategy>(tensor: FlexTensor) -> FloatTensor<Autodiff<Flex, C>> {
    <Autodiff<Flex, C> as AutodiffBackend>::from_inner(tensor)
}
