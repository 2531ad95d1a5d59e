//! Captured operations to ONNX nodes: one function per operation family, chosen by one match.

mod activation;
mod convolution;
mod elementwise;
mod linear;
mod normalization;
mod pool;
mod reduce;
mod resize;
mod shape;

use std::collections::BTreeMap;

use burn::backend::capture::TensorId;
use burn::backend::ir::{OperationIr, ScalarIr, TensorIr};
use burn::tensor::{DType, TensorData};
use elastic_layers::capture::CapturedModel;
use ndarray::{ArrayD, IxDyn};

use crate::error::{ExportError, UnsupportedOperation};
use crate::graph::{Constant, Dim, Graph, Node, ValueId};
use crate::shapes::Shapes;

pub(crate) use shape::reshape_target;

/// Lowers every operation of a captured model.
///
/// # Errors
///
/// All operations without an ONNX form, at once; a parameter without values.
pub(crate) fn lower(captured: &CapturedModel, shapes: &Shapes) -> Result<Graph, ExportError> {
    let input = shapes.get(&captured.input.id).cloned().unwrap_or_default();
    let graph = Graph::new(input);
    let values = BTreeMap::from([(captured.input.id, graph.input)]);
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
    let output = lowering.values.get(&captured.output.id).copied();
    lowering.graph.output = match output {
        Some(output) => output,
        None => lowering.constant(captured.output.id, "").map_err(|_| ExportError::NoValues("output".to_string()))?,
    };
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
            OperationIr::BaseFloat(op) => shape::lower(self, op, module),
            OperationIr::NumericFloat(_, op) => elementwise::lower_numeric(self, op, module),
            OperationIr::Float(_, op) => elementwise::lower_float(self, op, module),
            OperationIr::Activation(op) => activation::lower(self, op, module),
            OperationIr::Module(op) => self.module_operation(op, module),
            OperationIr::Bool(op) => elementwise::lower_bool(self, op),
            OperationIr::BaseInt(_)
            | OperationIr::BaseBool(_)
            | OperationIr::NumericInt(..)
            | OperationIr::Int(_)
            | OperationIr::Custom(_)
            | OperationIr::Distributed(_) => unsupported(),
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
            Op::Linear(op) => linear::linear(self, op, module),
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

    fn constant(&mut self, id: TensorId, name: &str) -> Lowered<ValueId> {
        let Some(data) = self.captured.values.get(&id) else {
            return Err(Failure::NoValues(name.to_string()));
        };
        let value = match constant_of(data) {
            Some(Constant::Float(array)) => self.graph.add_floats(name, array),
            Some(Constant::Ints(values)) => self.graph.add_ints(values),
            None => return unsupported_because(format!("a constant of {:?}", data.dtype())),
        };
        self.values.insert(id, value);
        Ok(value)
    }

    /// The value of an operation's output.
    pub(crate) fn output(&mut self, tensor: &TensorIr) -> ValueId {
        if let Some(value) = self.values.get(&tensor.id) {
            return *value;
        }
        let value = self.graph.add_value(self.dims(tensor));
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

/// A scalar operand as the `f32` that the runtimes compute with.
pub(crate) fn float(scalar: ScalarIr) -> f32 {
    scalar.elem::<f32>()
}

pub(crate) fn ints(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|size| *size as i64).collect()
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
