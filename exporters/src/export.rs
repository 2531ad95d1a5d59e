//! The exporter: a model and its forward in, an ONNX file out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::Module;
use elastic_layers::Macs;
use elastic_layers::capture::{CapturedModel, InputShapes, Tensors, capture_model};

use crate::error::ExportError;
use crate::graph::{Graph, Node};
use crate::lower::{captured_operators, lower};
use crate::model::OnnxModel;
use crate::passes::{clean, name_values, to_half};
use crate::proto::Header;
use crate::runtime::panic_message;
use crate::shapes::{self, Shapes};
use crate::structure;

const OPSETS: std::ops::RangeInclusive<i64> = 18..=23;

/// Pairs of batch sizes at which a forward is captured until it is the same at both.
const BATCHES: [[usize; 2]; 3] = [[2, 3], [5, 7], [61, 67]];

/// The numbers that a file stores and computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits. Inputs and outputs stay `f32` and are converted inside the file.
    F16,
}

/// Exports Burn modules to ONNX.
///
/// Inputs of the file are `f32`; outputs are too, or `i64` where the forward returns integers. Its metadata starts with
/// `macs` (multiply-accumulates for one image) and `parameters` (as PyTorch counts the model, before batch norm was
/// folded), unless the caller sets these keys. Two exports of one model are byte-identical.
///
/// # Shapes
///
/// - `input_shapes`: `[batch, ...]`, or a tuple of such for a forward of several inputs, which gets a tuple of tensors;
///   with a symbolic batch, the default, the first entries are not looked at
#[derive(Clone, Debug)]
pub struct OnnxExporter<I> {
    input_shapes: I,
    symbolic_batch: bool,
    external_data: bool,
    names: Option<[Vec<String>; 2]>,
    header: Header,
}

impl<I: InputShapes> OnnxExporter<I> {
    /// An exporter for inputs of given shapes: symbolic batch, opset 18, `f32`. The input is named `images` and the
    /// output `logits`; several are `input_0`, `input_1`, and `output_0`, `output_1`.
    pub fn new(input_shapes: I) -> Self {
        let header = Header {
            opset: *OPSETS.start(),
            precision: Precision::F32,
            graph_name: "model".to_string(),
            doc: String::new(),
            producer: (env!("CARGO_PKG_NAME").to_string(), env!("CARGO_PKG_VERSION").to_string()),
            metadata: Vec::new(),
        };
        Self { input_shapes, symbolic_batch: true, external_data: false, names: None, header }
    }

    /// Whether the file takes any batch size (the default), or only that of the input shapes.
    pub fn with_symbolic_batch(mut self, symbolic: bool) -> Self {
        self.symbolic_batch = symbolic;
        self
    }

    /// The names of all inputs and of all outputs, in their order.
    pub fn with_names<A: Into<String>, B: Into<String>>(
        mut self,
        inputs: impl IntoIterator<Item = A>,
        outputs: impl IntoIterator<Item = B>,
    ) -> Self {
        let (inputs, outputs) = (inputs.into_iter().map(Into::into), outputs.into_iter().map(Into::into));
        self.names = Some([inputs.collect(), outputs.collect()]);
        self
    }

    /// The version of the operator set, 18 to 23.
    pub fn with_opset(mut self, opset: i64) -> Self {
        self.header.opset = opset;
        self
    }

    /// The numbers that the file stores and computes with: `f32` by default.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.header.precision = precision;
        self
    }

    /// Whether large constants are in a second file, `NAME.data` beside `NAME`. Above 2 GiB they are in any case.
    pub fn with_external_data(mut self, external: bool) -> Self {
        self.external_data = external;
        self
    }

    /// Adds a metadata entry; entries keep their order, and a key that is there already gets the new value.
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let (key, value) = (key.into(), value.into());
        match self.header.metadata.iter_mut().find(|(old, _)| *old == key) {
            Some(entry) => entry.1 = value,
            None => self.header.metadata.push((key, value)),
        }
        self
    }

    /// What the file says about itself.
    pub fn with_doc(mut self, doc: impl Into<String>) -> Self {
        self.header.doc = doc.into();
        self
    }

    /// The name of the graph: `model` by default.
    pub fn with_graph_name(mut self, name: impl Into<String>) -> Self {
        self.header.graph_name = name.into();
        self
    }

    /// Who wrote the file, and its version: this crate by default.
    pub fn with_producer(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.header.producer = (name.into(), version.into());
        self
    }

    /// Exports what `forward` computes from the model in inference. The caller's model is not changed, and may be in
    /// training.
    ///
    /// With a symbolic batch the forward is captured at two batch sizes, to find the axes that follow it.
    ///
    /// # Errors
    ///
    /// All operations of the model that have no ONNX form, at once; a forward that panics, cannot be captured, or
    /// depends on the batch size; an opset outside 18 to 23; names that are too few, too many or repeated; with 16 bits
    /// a constant that is too large for them.
    pub fn export<M: Module, O: Tensors>(
        &self,
        model: &M,
        forward: impl Fn(&M, I::Tensors) -> O,
    ) -> Result<OnnxModel, ExportError> {
        let opset = self.header.opset;
        if !OPSETS.contains(&opset) {
            return Err(ExportError::Opset { min: *OPSETS.start(), max: *OPSETS.end(), found: opset });
        }
        let (captured, shapes) = self.capture(model, forward)?;
        let [input_names, output_names] = self.names(&captured)?;
        let mut graph = lower(&captured, &shapes)?;
        clean(&mut graph, opset);
        if self.header.precision == Precision::F16 {
            to_half(&mut graph).map_err(|(name, value)| ExportError::TooLargeForHalf { name, value })?;
        }
        separate_outputs(&mut graph);
        name_values(&mut graph, &input_names, &output_names);
        structure::check(&graph).map_err(ExportError::Structure)?;
        let (macs, parameters) = (captured.macs(), captured.parameters());
        let header = self.header_with(macs, parameters);
        let captured = captured_operators(&captured);
        Ok(OnnxModel { graph, header, external_data: self.external_data, captured, macs, parameters })
    }

    fn capture<M: Module, O: Tensors>(
        &self,
        model: &M,
        forward: impl Fn(&M, I::Tensors) -> O,
    ) -> Result<(CapturedModel, Shapes), ExportError> {
        let at = |shapes: &I| {
            // A forward that mixes devices, or breaks a shape contract, panics in Burn.
            catch_unwind(AssertUnwindSafe(|| capture_model(model, shapes.clone(), &forward)))
                .map_err(|payload| ExportError::Panic { message: panic_message(payload.as_ref()) })?
                .map_err(ExportError::Capture)
        };
        if !self.symbolic_batch {
            let captured = at(&self.input_shapes)?;
            let shapes = shapes::fixed(&captured);
            return Ok((captured, shapes));
        }
        // Burn chooses between forms of one product by its sizes, so two batch sizes may differ in form alone.
        let mut result = Err(ExportError::BatchDependent { detail: String::new() });
        for batches in BATCHES {
            let [captured, other] = batches.map(|batch| at(&self.input_shapes.with_batch(batch)));
            let captured = captured?;
            result = shapes::symbolic(&captured, &other?).map(|shapes| (captured, shapes));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn names(&self, captured: &CapturedModel) -> Result<[Vec<String>; 2], ExportError> {
        let counts = [("inputs", captured.inputs.len()), ("outputs", captured.outputs.len())];
        let Some(names) = &self.names else {
            let numbered = |name: &str, count| (0..count).map(|index| format!("{name}_{index}")).collect();
            let default = |count, alone: &str, name: &str| match count {
                1 => vec![alone.to_string()],
                _ => numbered(name, count),
            };
            return Ok([default(counts[0].1, "images", "input"), default(counts[1].1, "logits", "output")]);
        };
        for ((place, expected), names) in counts.into_iter().zip(names) {
            if names.len() != expected {
                return Err(ExportError::Names { place, expected, found: names.len() });
            }
        }
        Ok(names.clone())
    }

    fn header_with(&self, macs: Macs, parameters: u64) -> Header {
        let counts = [("macs", macs.0), ("parameters", parameters)];
        let given = &self.header.metadata;
        let metadata = counts
            .iter()
            .filter(|(key, _)| given.iter().all(|(other, _)| other != key))
            .map(|(key, count)| (key.to_string(), count.to_string()))
            .chain(given.iter().cloned())
            .collect();
        Header { metadata, ..self.header.clone() }
    }
}

/// Every output of a graph has to be computed by a node, and to be another value than the other outputs.
fn separate_outputs(graph: &mut Graph) {
    for place in 0..graph.outputs.len() {
        let output = graph.outputs[place];
        if graph.producer(output).is_none() || graph.outputs[..place].contains(&output) {
            let copy = graph.add_value_of(graph.value(output).kind, graph.dims(output).to_vec());
            graph.nodes.push(Node::new("Identity", [output], copy));
            graph.outputs[place] = copy;
        }
    }
}
