//! A model's forward as a typed operation list, and what it costs.
//!
//! [`capture`] runs a forward on Burn's capture device, which records operations instead of
//! executing them, and returns a [`CapturedModel`]: the operations that the output depends on,
//! every shape, the constant values, and the module path of every parameter. The cost of a model
//! ([`CapturedModel::macs`], [`CapturedModel::parameters`]) and its ONNX file are both read from
//! that one list.

mod cost;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use burn::backend::capture::{CaptureBackend, CompletedCaptureScope, TensorId};
use burn::backend::ir::{BaseOperationIr, OperationIr, TensorIr};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

pub(crate) use cost::BYTES;
pub use cost::{LayerCost, LayerKind};
pub use tensors::{InputShapes, Tensors};

/// A model's forward at one shape of its inputs.
#[derive(Clone, Debug)]
pub struct CapturedModel {
    /// The operations that the outputs depend on, in execution order. Initialisations of
    /// parameters and constants are not among them: see `values`.
    pub operations: Vec<OperationIr>,
    /// Concrete values of parameters and constants. A parameter that was initialised at random on
    /// the capture device has none.
    pub values: BTreeMap<TensorId, TensorData>,
    /// The module path of every parameter and running statistic of the model, such as
    /// `blocks.0.conv.weight`.
    pub parameters: BTreeMap<TensorId, String>,
    /// The tensors fed to the forward.
    pub inputs: Vec<Boundary>,
    /// The tensors that the forward returned.
    pub outputs: Vec<Boundary>,
    producers: BTreeMap<TensorId, usize>,
}

/// A tensor at the edge of a captured graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The tensor's identity in the operation list.
    pub id: TensorId,
    /// Its shape, batch dimension included.
    pub shape: Vec<usize>,
}

/// A parameter as an operation sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterUse<'a> {
    /// The module path of the parameter.
    pub name: &'a str,
    /// How many of its elements are in use: fewer than it has when it was sliced.
    pub elements: u64,
}

/// Why a forward could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The input shape has no elements.
    #[error("cannot capture a forward on an empty input: every dimension of {shape:?} must be at least 1")]
    EmptyInput {
        /// The shape that was asked for.
        shape: Vec<usize>,
    },
    /// The forward returned a tensor that was not computed on the capture device.
    #[error(
        "the forward's output is not on the capture device: the forward moves its input to another device ({detail})"
    )]
    ForeignOutput {
        /// What Burn said.
        detail: String,
    },
    /// Burn rejected the recorded graph.
    #[error("Burn could not record the forward: {0}")]
    Rejected(String),
}

/// Capture devices that no scope is using. Burn numbers them in 16 bits and never reuses a number,
/// so a device per call would run out.
static IDLE: Mutex<Vec<Device>> = Mutex::new(Vec::new());

/// A capture device on loan from [`IDLE`]; given back on drop, also when a forward panics.
struct Loan(Option<Device>);

impl Loan {
    fn take() -> Self {
        let idle = IDLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        Self(Some(idle.unwrap_or_else(Device::capture)))
    }

    fn device(&self) -> Device {
        self.0.clone().unwrap_or_else(Device::capture)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(device) = self.0.take() {
            IDLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(device);
        }
    }
}

/// Captures `forward` of the model that `build` makes, for inputs of `input_shapes`.
///
/// `build` gets the capture device. Initialising a model there copies no weights, which is the
/// cheapest way to its shapes and cost; moving an existing one there keeps its values, for which
/// [`capture_model`] is the safe form. Neither runs any arithmetic.
///
/// # Shapes
///
/// - `input_shapes`: `[batch, ...]`, for images `[batch, channels, height, width]`; for a forward of several inputs a
///   tuple of shapes, of which `forward` gets a tuple of tensors
///
/// # Errors
///
/// When a dimension of `input_shapes` is 0, when an output is not on the capture device, and when
/// Burn rejects the graph.
///
/// # Panics
///
/// A panic of `build` or `forward` (a broken shape contract in the model) propagates.
pub fn capture<I: InputShapes, O: Tensors, M: Module>(
    input_shapes: I,
    build: impl FnOnce(&Device) -> M,
    forward: impl FnOnce(&M, I::Tensors) -> O,
) -> Result<CapturedModel, CaptureError> {
    if let Some(shape) = input_shapes.shapes().into_iter().find(|shape| shape.contains(&0)) {
        return Err(CaptureError::EmptyInput { shape });
    }
    let loan = Loan::take();
    let device = loan.device();
    let mut recorded = None;
    let graph = device
        .capture_scope(|scope| -> CompletedCaptureScope {
            let model = build(&device);
            let names = ParameterNames::of(&model);
            let inputs = input_shapes.zeros(&device);
            let input_ids = inputs.ids();
            let outputs = forward(&model, inputs);
            let shapes = outputs.shapes();
            let boundaries = input_ids.and_then(|inputs| Ok((inputs, outputs.ids()?)));
            let completed = match &boundaries {
                // Burn wants each output once; a forward may return one twice.
                Ok((inputs, outputs)) => scope.complete(inputs.clone(), BTreeSet::from_iter(outputs.clone())),
                Err(_) => scope.complete([], []),
            };
            recorded = Some(boundaries.map(|(inputs, outputs)| (names, inputs, outputs, shapes)));
            completed
        })
        .map_err(|error| CaptureError::Rejected(error.to_string()))?;
    let (parameters, inputs, outputs, output_shapes) =
        recorded.unwrap_or_else(|| Err(CaptureError::Rejected("nothing was recorded".into())))?;
    let boundaries = |ids: Vec<TensorId>, shapes: Vec<Vec<usize>>| -> Vec<Boundary> {
        ids.into_iter().zip(shapes).map(|(id, shape)| Boundary { id, shape }).collect()
    };
    let (inputs, outputs) = (boundaries(inputs, input_shapes.shapes()), boundaries(outputs, output_shapes));
    Ok(CapturedModel::pruned(graph.graph.operations, graph.values, parameters, inputs, outputs))
}

/// Captures `forward` of an existing model, with the values of its parameters.
///
/// The caller's model is not changed, may live on any device, and may be in training: what is
/// captured is its inference form.
///
/// # Shapes
///
/// See [`capture`].
///
/// # Errors
///
/// See [`capture`].
pub fn capture_model<I: InputShapes, O: Tensors, M: Module>(
    model: &M,
    input_shapes: I,
    forward: impl FnOnce(&M, I::Tensors) -> O,
) -> Result<CapturedModel, CaptureError> {
    // `to_device` moves running statistics in place, behind an `Arc` that clones share; `valid`
    // makes statistics of its own, and leaves autodiff, which a capture device cannot record.
    let snapshot = model.valid();
    capture(input_shapes, |device| snapshot.to_device(device), forward)
}

impl CapturedModel {
    /// Keeps what the outputs depend on. Parameters are leaves, however they were initialised.
    fn pruned(
        operations: Vec<OperationIr>,
        mut values: BTreeMap<TensorId, TensorData>,
        parameters: BTreeMap<TensorId, String>,
        inputs: Vec<Boundary>,
        outputs: Vec<Boundary>,
    ) -> Self {
        for input in &inputs {
            values.remove(&input.id);
        }
        let mut needed: BTreeSet<TensorId> = outputs.iter().map(|output| output.id).collect();
        let mut kept = Vec::new();
        for operation in operations.into_iter().rev() {
            let leaf = matches!(operation, OperationIr::Init(_))
                || operation.outputs().any(|tensor| parameters.contains_key(&tensor.id));
            if !leaf && operation.outputs().any(|tensor| needed.contains(&tensor.id)) {
                needed.extend(operation.inputs().map(|tensor| tensor.id));
                kept.push(operation);
            }
        }
        kept.reverse();
        values.retain(|id, _| needed.contains(id));
        let producers = kept
            .iter()
            .enumerate()
            .flat_map(|(index, operation)| operation.outputs().map(move |tensor| (tensor.id, index)))
            .collect();
        Self { operations: kept, values, parameters, inputs, outputs, producers }
    }

    /// The batch size that was captured.
    pub fn batch(&self) -> usize {
        self.inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(1)
    }

    /// The operation that computes `tensor`; none for inputs, parameters and constants.
    pub fn producer(&self, tensor: TensorId) -> Option<&OperationIr> {
        self.producers.get(&tensor).map(|index| &self.operations[*index])
    }

    /// The parameter that `tensor` is, or is a slice, reshape, permutation or cast of, or several of these joined.
    pub fn parameter_of(&self, tensor: &TensorIr) -> Option<ParameterUse<'_>> {
        let mut elements = tensor.shape.num_elements() as u64;
        let mut id = tensor.id;
        loop {
            if let Some(name) = self.parameters.get(&id) {
                return Some(ParameterUse { name, elements });
            }
            let operation = self.producer(id)?;
            if let OperationIr::BaseFloat(BaseOperationIr::Cat(op)) = operation {
                let joined = self.parameter_of_parts(&op.tensors)?;
                return Some(ParameterUse { elements: elements.min(joined.elements), ..joined });
            }
            let source = rearranged(operation)?;
            elements = elements.min(source.shape.num_elements() as u64);
            id = source.id;
        }
    }

    /// The one parameter that all parts of a concatenation are of.
    fn parameter_of_parts(&self, parts: &[TensorIr]) -> Option<ParameterUse<'_>> {
        let mut parts = parts.iter().map(|part| self.parameter_of(part));
        let mut joined = parts.next()??;
        for part in parts {
            let part = part.filter(|part| part.name == joined.name)?;
            joined.elements += part.elements;
        }
        Some(joined)
    }
}

/// The input of an operation that only picks or rearranges elements.
fn rearranged(operation: &OperationIr) -> Option<&TensorIr> {
    use BaseOperationIr as Op;
    let (OperationIr::BaseFloat(operation) | OperationIr::BaseInt(operation) | OperationIr::BaseBool(operation)) =
        operation
    else {
        return None;
    };
    match operation {
        Op::Reshape(op) | Op::Expand(op) => Some(&op.input),
        Op::SwapDims(op) => Some(&op.input),
        Op::Permute(op) => Some(&op.input),
        Op::Flip(op) => Some(&op.input),
        Op::Slice(op) => Some(&op.tensor),
        Op::Select(op) => Some(&op.tensor),
        Op::Cast(op) => Some(&op.input),
        _ => None,
    }
}

/// Collects the module path of every parameter on the capture device.
#[derive(Default)]
struct ParameterNames {
    path: Vec<String>,
    names: BTreeMap<TensorId, String>,
}

impl ParameterNames {
    fn of<M: Module>(model: &M) -> BTreeMap<TensorId, String> {
        let mut names = Self::default();
        model.visit(&mut names);
        names.names
    }

    /// A tensor that two modules share keeps the path it was met at first.
    fn insert(&mut self, id: Option<TensorId>) {
        if let Some(id) = id {
            self.names.entry(id).or_insert_with(|| self.path.join("."));
        }
    }
}

impl ModuleVisitor for ParameterNames {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let primitive = param.val().try_into_primitive::<CaptureBackend>();
        self.insert(primitive.ok().map(|tensor| tensor.id()));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let primitive = param.val().try_into_primitive::<CaptureBackend>();
        self.insert(primitive.ok().map(|tensor| tensor.id()));
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let primitive = param.val().try_into_primitive::<CaptureBackend>();
        self.insert(primitive.ok().map(|tensor| tensor.id()));
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
