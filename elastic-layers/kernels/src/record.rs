//! The gradients of the operations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::{DType, Shape};

use crate::Activation;
use crate::buffer::{Buffer, take};
use crate::convolution::{self, Behind, Upstream};
use crate::corner::Corner;
use crate::elementwise::{self, Change};
use crate::extension::{Convolution, Convolved, Dense, Kernels, Norm, convolve, geometry, normalize};
use crate::geometry::Geometry;
use crate::maps::{Maps, dense};
use crate::normalization::{self, NormalizerGrad};
use crate::origin::{Input, Origin, origin_of};

/// Input of a convolution, or what it is made of.
#[derive(Clone, Debug)]
enum Source {
    Node(NodeId),
    Origin(Origin),
}

/// Input and weight of a convolution, each if the other's gradient is needed.
#[derive(Clone, Debug)]
struct ConvState {
    x: Option<Source>,
    weight: Option<NodeId>,
    geometry: Geometry,
    /// That of the whole weight, and the corner of it that is in use.
    weight_shape: Shape,
    corner: Corner,
}

impl ConvState {
    fn new<C: CheckpointStrategy>(
        x: &FloatTensor<Autodiff<Flex, C>>,
        weight: &FloatTensor<Autodiff<Flex, C>>,
        convolution: &Convolution,
        mut checkpoint: impl FnMut(&FloatTensor<Autodiff<Flex, C>>) -> NodeId,
    ) -> Self {
        Self {
            x: weight.is_tracked().then(|| match origin_of(x.primitive()) {
                Some(origin) => Source::Origin(origin),
                None => Source::Node(checkpoint(x)),
            }),
            weight: x.is_tracked().then(|| checkpoint(weight)),
            geometry: geometry(x.primitive(), convolution),
            weight_shape: weight.shape(),
            corner: corner(&convolution.weight, &weight.shape()),
        }
    }

    /// Gradients of input and weight.
    fn grads(self, upstream: &Upstream<'_>, checkpointer: &mut Checkpointer) -> [Option<FlexTensor>; 2] {
        let mut get = |node: NodeId| checkpointer.retrieve_node_output::<FlexTensor>(node);
        let weight = self.weight.map(|node| Dense::new(get(node)));
        let x = self.x.map(|source| match source {
            Source::Node(node) => Input::Kept(Maps::new(get(node))),
            Source::Origin(Origin { x, normalizer }) => Input::Made { x: Maps::new(x), normalizer },
        });
        let (geometry, weight) = (&self.geometry, weight.as_ref().map(Dense::weight));
        let [x_grad, weight_grad] = convolution::backward(geometry, x.as_ref(), weight, upstream, self.corner);
        let [height, width] = geometry.input;
        let x_shape = Shape::from([geometry.batch, geometry.channels_in, height, width]);
        let weight_grad = weight_grad.map(|grad| whole(grad, self.weight_shape));
        [x_grad.map(|grad| Maps::tensor(grad, x_shape)), weight_grad]
    }
}

fn corner(sizes: &[usize], shape: &Shape) -> Corner {
    Corner::new(sizes, shape).expect("the caller sends other parts to Burn")
}

/// The gradient of a whole parameter.
fn whole(data: Buffer, shape: Shape) -> FlexTensor {
    FlexTensor::new(data.into_bytes(), Layout::contiguous(shape), DType::F32)
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
        let channels = ops.state.geometry.channels_out;
        let [x_grad, weight_grad] = ops.state.grads(&Upstream::Given(grad.data()), checkpointer);
        let bias_grad = ops
            .parents
            .get(2)
            .is_some_and(Option::is_some)
            .then(|| dense(normalization::channel_totals(channels, grad.data()), [channels]));
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
        let corner = corner(&sizes, &shape);
        let mut all = corner.buffer();
        corner.write(grad.data(), &mut all);
        let all = whole(all, shape);
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [Some(all)]);
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
    /// What an action makes of the gradient, and the gradients of the whole gamma and beta.
    fn with<T>(
        self,
        x: &[f32],
        grad: &[f32],
        checkpointer: &mut Checkpointer,
        action: impl FnOnce(NormalizerGrad<'_>, &mut Checkpointer) -> T,
    ) -> (T, [Option<FlexTensor>; 2]) {
        let Norm { gamma, beta, epsilon, activation } = self.norm;
        let [gamma, beta] = [gamma, beta].map(|node| checkpointer.retrieve_node_output::<FlexTensor>(node));
        let [mean, variance] = [self.mean, self.variance].map(Dense::new);
        let norm = Norm { gamma, beta, epsilon, activation };
        let whole = [&norm.gamma, &norm.beta].map(|parameter| parameter.shape());
        let channels = mean.data().len();
        let grad = norm.with(channels, |affine| NormalizerGrad::new(affine, [mean.data(), variance.data()], x, grad));
        let [gamma, beta] = grad.affine.clone();
        let affine = [(gamma, 0), (beta, 1)].map(|(mut values, which)| {
            let shape: &Shape = &whole[which];
            values.resize(shape.num_elements(), 0.0);
            Some(dense(values, shape.clone()))
        });
        (action(grad, checkpointer), affine)
    }
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
        let (x_grad, [gamma, beta]) = state.with(x.data(), grad.data(), checkpointer, |norm, _| {
            let mut x_grad = take(x.data().len());
            norm.write_all(&mut x_grad);
            Some(Maps::tensor(x_grad, x.shape()))
        });
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [x_grad, gamma, beta]);
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
        let ([x, weight], [gamma, beta]) =
            state.with(convolved.data(), grad.data(), checkpointer, |norm, checkpointer| {
                conv.grads(&Upstream::Norm(norm), checkpointer)
            });
        register(grads, ops.parents.map(|parent| parent.map(|parent| parent.id)), [x, weight, gamma, beta]);
    }
}

#[derive(Debug)]
struct ForkBackward;

impl Backward<Flex, 1> for ForkBackward {
    /// Whether the gradient of one of the two outputs is there already.
    type State = Arc<AtomicBool>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let [Some(parent)] = ops.parents else { return };
        let is_second = ops.state.swap(true, Ordering::Relaxed);
        // What the user asks for is not consumed, but kept: Burn adds to it.
        let is_consumed = parent.requirement == ops.node.requirement;
        let grad = if is_second && is_consumed {
            let before = grads.consume::<Flex>(&parent);
            Flex::kernels_add(grad, before, false)
        } else {
            grad
        };
        grads.register::<Flex>(parent.id, grad);
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
            let output = Maps::new(output);
            grad = match Maps::new(grad).into_unique() {
                Ok(mut grad) => {
                    Change::ReluGrad.all(grad.storage_mut(), output.data());
                    grad
                }
                Err(grad) => {
                    let mut through = take(grad.data().len());
                    elementwise::relu_grad(output.data(), grad.data(), &mut through);
                    Maps::tensor(through, grad.shape())
                }
            };
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
    convolution: &Convolution,
) -> FloatTensor<Autodiff<Flex, C>> {
    let output = |x, weight| convolve(x, weight, bias, convolution, Behind::Nothing).0;
    match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = ConvState::new::<C>(&x, &weight, convolution, |tensor| prep.checkpoint(tensor));
            prep.finish(state, output(x.into_primitive(), weight.into_primitive()))
        }
        OpsKind::UnTracked(prep) => prep.finish(output(x.into_primitive(), weight.into_primitive())),
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn kernels_conv2d(x: FloatTensor<Self>, weight: FloatTensor<Self>, convolution: Convolution) -> FloatTensor<Self> {
        record_conv2d::<C, 2>([x.node(), weight.node()], x, weight, None, &convolution)
    }

    fn kernels_conv2d_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        record_conv2d::<C, 3>(nodes, x, weight, Some(bias.into_primitive()), &convolution)
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
        convolution: Convolution,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let prep = ConvNormBackward.prepare::<C>([x.node(), weight.node(), gamma.node(), beta.node()]);
        let norm = Norm { gamma: gamma.primitive().clone(), beta: beta.primitive().clone(), epsilon, activation };
        let (output, mean, variance) = match prep.compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let conv = ConvState::new::<C>(&x, &weight, &convolution, |tensor| prep.checkpoint(tensor));
                let [gamma, beta] = [&gamma, &beta].map(|tensor| prep.checkpoint(tensor));
                let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
                let Convolved { maps, normalizer, mean, variance } = Convolved::new(x, weight, &convolution, norm);
                let norm = Norm { gamma, beta, epsilon, activation };
                let state = NormState { norm, mean: mean.clone(), variance: variance.clone() };
                // This gradient and that of a convolution behind it read the convolution's output, not the normalised one.
                let output = Maps::normalized(Origin { x: maps.clone(), normalizer: Arc::new(normalizer) });
                (prep.finish((conv, maps, state), output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
                let Convolved { maps, normalizer, mean, variance } = Convolved::new(x, weight, &convolution, norm);
                (prep.finish(normalize(Maps::new(maps), &normalizer)), mean, variance)
            }
        };
        (output, constant::<C>(mean), constant::<C>(variance))
    }

    fn kernels_fork(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let state = Arc::new(AtomicBool::new(false));
        let output = || match ForkBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Arc::clone(&state), x.primitive().clone()),
            OpsKind::UnTracked(prep) => prep.finish(x.primitive().clone()),
        };
        (output(), output())
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
