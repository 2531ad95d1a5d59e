//! Captured operations to ONNX nodes: one function per operation family, chosen by one match.

mod activation;
mod convolution;
mod elementwise;
mod linear;
mod normalization;
mod pool;
mod reduce;
mod resample;
mod resize;
mod shape;

use std::collections::BTreeMap;

use burn::backend::capture::TensorId;
use burn::backend::ir::{OperationIr, ScalarIr, TensorIr};
use burn::tensor::{DType, TensorData};
use elastic_layers::capture::CapturedModel;
use ndarray::{ArrayD, IxDyn};

use crate::error::{ExportError, UnsupportedOperation};
use crate::graph::{Constant, Dim, Graph, Kind, Node, ValueId};
use crate::shapes::Shapes;

pub(crate) use shape::reshape_target;

/// Lowers every operation of a captured model.
///
/// # Errors
///
/// All operations without an ONNX form, at once; a parameter without values.
pub(crate) fn lower(captured: &CapturedModel, shapes: &Shapes) -> Result<Graph, ExportError> {
    let inputs = captured.inputs.iter().map(|input| shapes.get(&input.id).cloned().unwrap_or_default());
    let graph = Graph::new(inputs.collect());
    let values = captured.inputs.iter().map(|input| input.id).zip(graph.inputs.iter().copied()).collect();
    let mut lowering = Lowering { captured, shapes, graph, values, origins: BTreeMap::new() };
    let mut unsupported = Vec::new();
    for (place, operation) in captured.operations.iter().enumerate() {
        let module = lowering.module(operation);
        let origin = module.clone().or_else(|| lowering.inherited_origin(operation));
        if let Err(failure) = lowering.operation(operation, module) {
            match failure {
                Failure::Unsupported(reason) => unsupported.push(UnsupportedOperation {
                    operation: name_of(operation),
                    module: origin.clone().unwrap_or_else(|| "the input".to_string()),
                    reason,
                }),
                Failure::NoValues(name) => return Err(ExportError::NoValues(name)),
            }
        }
        for output in operation.outputs() {
            // An output of an operation that failed stands for itself, so that those after it are still looked at.
            lowering.output(output);
            if let Some(origin) = &origin {
                lowering.origins.insert(output.id, (place, origin.clone()));
            }
        }
    }
    if !unsupported.is_empty() {
        return Err(ExportError::Unsupported(unsupported));
    }
    lowering.graph.outputs =
        captured.outputs.iter().map(|output| lowering.result(output.id)).collect::<Result<_, _>>()?;
    Ok(lowering.graph)
}

/// Why one operation was not lowered.
pub(crate) enum Failure {
    /// What exactly has no ONNX form; empty for the operation as a whole.
    Unsupported(String),
    NoValues(String),
}

/// The operation as a whole has no ONNX form here.
pub(crate) fn unsupported<T>() -> Lowered<T> {
    Err(Failure::Unsupported(String::new()))
}

/// A part of the operation has no ONNX form here.
pub(crate) fn unsupported_because<T>(reason: impl Into<String>) -> Lowered<T> {
    Err(Failure::Unsupported(reason.into()))
}

pub(crate) type Lowered<T = ()> = Result<T, Failure>;

/// The graph under construction.
pub(crate) struct Lowering<'a> {
    captured: &'a CapturedModel,
    shapes: &'a Shapes,
    pub(crate) graph: Graph,
    values: BTreeMap<TensorId, ValueId>,
    /// The last module with parameters on the way to a tensor, and the place of the operation that computes it.
    origins: BTreeMap<TensorId, (usize, String)>,
}

impl Lowering<'_> {
    fn operation(&mut self, operation: &OperationIr, module: Option<String>) -> Lowered {
        match operation {
            OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => {
                shape::lower(self, op, module)
            }
            OperationIr::NumericFloat(_, op) => elementwise::lower_numeric(self, op, module),
            OperationIr::Float(_, op) => elementwise::lower_float(self, op, module),
            OperationIr::Activation(op) => activation::lower(self, op, module),
            OperationIr::Module(op) => self.module_operation(op, module),
            OperationIr::Bool(op) => elementwise::lower_bool(self, op),
            OperationIr::Int(op) => elementwise::lower_int(self, op),
            OperationIr::NumericInt(..) | OperationIr::Custom(_) | OperationIr::Distributed(_) => unsupported(),
            OperationIr::Init(_) | OperationIr::Drop(_) => Ok(()),
        }
    }

    fn module_operation(&mut self, op: &burn::backend::ir::ModuleOperationIr, module: Option<String>) -> Lowered {
        use burn::backend::ir::ModuleOperationIr as Op;
        match op {
            Op::Conv1d(op) => convolution::conv1d(self, op, module),
            Op::Conv2d(op) => convolution::conv2d(self, op, module),
            Op::ConvTranspose1d(op) => convolution::conv_transpose1d(self, op, module),
            Op::ConvTranspose2d(op) => convolution::conv_transpose2d(self, op, module),
            Op::BatchNorm(op) => normalization::batch_norm(self, op, module),
            Op::LayerNorm(op) => normalization::layer_norm(self, op, module),
            Op::AvgPool1d(op) => pool::avg_pool1d(self, op),
            Op::AvgPool2d(op) => pool::avg_pool2d(self, op),
            Op::AdaptiveAvgPool1d(op) => pool::adaptive_avg_pool(self, &op.x, &op.out),
            Op::AdaptiveAvgPool2d(op) => pool::adaptive_avg_pool(self, &op.x, &op.out),
            Op::MaxPool1d(op) => pool::max_pool1d(self, op),
            Op::MaxPool2d(op) => pool::max_pool2d(self, op),
            Op::Interpolate(op) => resize::interpolate(self, op),
            _ => unsupported(),
        }
    }

    /// The value of an operation's input: the input of the model, an earlier output, or a constant.
    pub(crate) fn input(&mut self, tensor: &TensorIr) -> Lowered<ValueId> {
        match self.values.get(&tensor.id) {
            Some(value) => Ok(*value),
            None => {
                let name = self.captured.parameters.get(&tensor.id).cloned().unwrap_or_default();
                self.constant(tensor.id, &name)
            }
        }
    }

    /// The value of an output of the model: of a node, an input, or a constant.
    fn result(&mut self, id: TensorId) -> Result<ValueId, ExportError> {
        match self.values.get(&id) {
            Some(value) => Ok(*value),
            None => self.constant(id, "").map_err(|_| ExportError::NoValues("output".to_string())),
        }
    }

    fn constant(&mut self, id: TensorId, name: &str) -> Lowered<ValueId> {
        let Some(data) = self.captured.values.get(&id) else {
            return Err(Failure::NoValues(name.to_string()));
        };
        let value = match constant_of(data) {
            Some(Constant::Float(array)) => self.graph.add_floats(name, array),
            Some(Constant::Ints(values)) => self.graph.add_ints(values),
            _ => return unsupported_because(format!("a constant of {:?}", data.dtype())),
        };
        self.values.insert(id, value);
        Ok(value)
    }

    /// The value of an operation's output.
    pub(crate) fn output(&mut self, tensor: &TensorIr) -> ValueId {
        if let Some(value) = self.values.get(&tensor.id) {
            return *value;
        }
        let value = self.graph.add_value_of(kind_of(tensor.dtype), self.dims(tensor));
        self.values.insert(tensor.id, value);
        value
    }

    /// Makes an operation's output the same value as another one.
    pub(crate) fn alias(&mut self, tensor: &TensorIr, value: ValueId) {
        self.values.insert(tensor.id, value);
    }

    pub(crate) fn dims(&self, tensor: &TensorIr) -> Vec<Dim> {
        let captured = || tensor.shape.iter().map(|size| Dim::Fixed(*size)).collect();
        self.shapes.get(&tensor.id).cloned().unwrap_or_else(captured)
    }

    /// Adds a node of one operator that computes `out` from tensors.
    pub(crate) fn node(
        &mut self,
        op: &'static str,
        inputs: &[&TensorIr],
        out: &TensorIr,
        module: Option<String>,
    ) -> Lowered<&mut Node> {
        let inputs: Vec<ValueId> = inputs.iter().map(|tensor| self.input(tensor)).collect::<Lowered<_>>()?;
        let output = self.output(out);
        Ok(self.push(Node::new(op, inputs, output).within(module)))
    }

    /// Adds a node of one operator whose result is an intermediate number, broadcast from its inputs.
    pub(crate) fn step(&mut self, op: &'static str, inputs: impl IntoIterator<Item = ValueId>) -> ValueId {
        self.intermediate(Kind::Float, op, inputs)
    }

    /// Adds a node of one operator whose result is an intermediate truth value, broadcast from its inputs.
    pub(crate) fn truth(&mut self, op: &'static str, inputs: impl IntoIterator<Item = ValueId>) -> ValueId {
        self.intermediate(Kind::Truth, op, inputs)
    }

    fn intermediate(&mut self, kind: Kind, op: &'static str, inputs: impl IntoIterator<Item = ValueId>) -> ValueId {
        let inputs: Vec<ValueId> = inputs.into_iter().collect();
        let dims = inputs.iter().fold(Vec::new(), |dims, input| broadcast(&dims, self.graph.dims(*input)));
        let output = self.graph.add_value_of(kind, dims);
        self.push(Node::new(op, inputs, output));
        output
    }

    /// A scalar operand of the element type of the tensor beside it.
    pub(crate) fn scalar_like(&mut self, tensor: &TensorIr, scalar: ScalarIr) -> ValueId {
        match kind_of(tensor.dtype) {
            Kind::Int => self.graph.add_ints(vec![scalar.elem::<i64>()]),
            _ => self.graph.add_scalar(float(scalar)),
        }
    }

    pub(crate) fn push(&mut self, node: Node) -> &mut Node {
        let index = self.graph.nodes.len();
        self.graph.nodes.push(node);
        &mut self.graph.nodes[index]
    }

    /// The module whose parameters an operation uses.
    fn module(&self, operation: &OperationIr) -> Option<String> {
        let parameter = operation.inputs().find_map(|tensor| self.captured.parameter_of(tensor))?;
        match parameter.name.rsplit_once('.') {
            Some((module, _)) => Some(module.to_string()),
            // The model is itself a layer of Burn's: it has no path.
            None if matches!(parameter.name, "weight" | "bias" | "gamma" | "beta" | "alpha") => None,
            None => Some(parameter.name.to_string()),
        }
    }

    fn inherited_origin(&self, operation: &OperationIr) -> Option<String> {
        let origins = operation.inputs().filter_map(|tensor| self.origins.get(&tensor.id));
        origins.max_by_key(|(place, _)| *place).map(|(_, origin)| origin.clone())
    }
}

/// The axes of two values joined element by element.
fn broadcast(one: &[Dim], other: &[Dim]) -> Vec<Dim> {
    let (long, short) = if one.len() >= other.len() { (one, other) } else { (other, one) };
    let lead = long.len() - short.len();
    let joined = |axis: usize, dim: &Dim| match axis.checked_sub(lead).map(|axis| short[axis]) {
        Some(other) if *dim == Dim::Fixed(1) => other,
        _ => *dim,
    };
    long.iter().enumerate().map(|(axis, dim)| joined(axis, dim)).collect()
}

/// A scalar operand as the `f32` that the runtimes compute with.
pub(crate) fn float(scalar: ScalarIr) -> f32 {
    scalar.elem::<f32>()
}

pub(crate) fn ints(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|size| *size as i64).collect()
}

fn kind_of(dtype: DType) -> Kind {
    match dtype {
        dtype if dtype.is_float() => Kind::Float,
        dtype if dtype.is_bool() => Kind::Truth,
        _ => Kind::Int,
    }
}

fn constant_of(data: &TensorData) -> Option<Constant> {
    match data.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Flex32 => {
            let values = data.iter::<f32>().collect();
            ArrayD::from_shape_vec(IxDyn(data.shape().as_slice()), values).ok().map(Constant::Float)
        }
        DType::I64 | DType::I32 if data.rank() == 1 => Some(Constant::Ints(data.iter::<i64>().collect())),
        _ => None,
    }
}

/// How many operations of each kind a forward was captured as.
pub(crate) fn captured_operators(captured: &CapturedModel) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for operation in &captured.operations {
        *counts.entry(name_of(operation)).or_default() += 1;
    }
    counts
}

/// `NumericFloat(CumSum)` of an operation's debug form, without its operands.
fn name_of(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    let head = |text: &str| text.split(['(', ' ', '{']).next().unwrap_or_default().to_string();
    let family = head(&text);
    let rest = text[family.len()..].trim_start_matches(['(', ' ', '{']);
    let inner = match rest.split_once(", ") {
        // The element type comes before the operation in some families.
        Some((dtype, rest))
            if matches!(
                operation,
                OperationIr::NumericFloat(..) | OperationIr::NumericInt(..) | OperationIr::Float(..)
            ) && !dtype.contains('(') =>
        {
            head(rest)
        }
        _ => head(rest),
    };
    match operation {
        OperationIr::Custom(op) => format!("Custom({})", op.id),
        _ => format!("{family}({inner})"),
    }
}
