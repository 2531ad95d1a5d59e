//! The exporter: a model and its forward in, an ONNX file out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use elastic_layers::Macs;
use elastic_layers::capture::{CapturedModel, capture_model};

use crate::error::ExportError;
use crate::graph::{Graph, Node};
use crate::lower::lower;
use crate::passes::{clean, name_values};
use crate::proto::{Header, encode};
use crate::shapes::{self, Shapes};

const OPSETS: std::ops::RangeInclusive<i64> = 18..=21;

/// Exports Burn modules to ONNX.
///
/// The file has one `f32` input and one `f32` output. Its metadata starts with `macs` (multiply-accumulates for one
/// image) and `parameters` (as PyTorch counts the model, before batch norm was folded), unless the caller sets these
/// keys. Two exports of one model are byte-identical.
///
/// # Shapes
///
/// - `input_shape`: `[batch, ...]`; with a symbolic batch, the default, the first entry is not looked at
#[derive(Clone, Debug)]
pub struct OnnxExporter<const D: usize> {
    input_shape: [usize; D],
    symbolic_batch: bool,
    input_name: String,
    output_name: String,
    header: Header,
}

impl<const D: usize> OnnxExporter<D> {
    /// An exporter for inputs of one shape: symbolic batch, opset 18, input `images`, output `logits`.
    pub fn new(input_shape: [usize; D]) -> Self {
        let header = Header {
            opset: *OPSETS.start(),
            graph_name: "model".to_string(),
            doc: String::new(),
            producer: (env!("CARGO_PKG_NAME").to_string(), env!("CARGO_PKG_VERSION").to_string()),
            metadata: Vec::new(),
        };
        let (input_name, output_name) = ("images".to_string(), "logits".to_string());
        Self { input_shape, symbolic_batch: true, input_name, output_name, header }
    }

    /// Whether the file takes any batch size (the default), or only that of the input shape.
    pub fn with_symbolic_batch(mut self, symbolic: bool) -> Self {
        self.symbolic_batch = symbolic;
        self
    }

    /// The names of the input and the output.
    pub fn with_names(mut self, input: impl Into<String>, output: impl Into<String>) -> Self {
        (self.input_name, self.output_name) = (input.into(), output.into());
        self
    }

    /// The version of the operator set, 18 to 21.
    pub fn with_opset(mut self, opset: i64) -> Self {
        self.header.opset = opset;
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
    /// With a symbolic batch the forward is captured twice, at two batch sizes, to find the axes that follow it.
    ///
    /// # Errors
    ///
    /// All operations of the model that have no ONNX form, at once; a forward that cannot be captured or that depends
    /// on the batch size; an opset outside 18 to 21.
    ///
    /// # Panics
    ///
    /// A panic of `forward` (a broken shape contract in the model) propagates.
    pub fn export<const O: usize, M: Module>(
        &self,
        model: &M,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<O>,
    ) -> Result<OnnxModel, ExportError> {
        if !OPSETS.contains(&self.header.opset) {
            let (min, max) = (*OPSETS.start(), *OPSETS.end());
            return Err(ExportError::Opset { min, max, found: self.header.opset });
        }
        let (captured, shapes) = self.capture(model, forward)?;
        let mut graph = lower(&captured, &shapes)?;
        clean(&mut graph);
        if graph.producer(graph.output).is_none() {
            add_identity(&mut graph);
        }
        name_values(&mut graph, &self.input_name, &self.output_name);
        let (macs, parameters) = (captured.macs(), captured.parameters());
        let header = self.header_with(macs, parameters);
        Ok(OnnxModel { bytes: encode(&graph, &header)?, operators: graph.operators(), macs, parameters })
    }

    fn capture<const O: usize, M: Module>(
        &self,
        model: &M,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<O>,
    ) -> Result<(CapturedModel, Shapes), ExportError> {
        let at = |batch: usize| {
            let mut shape = self.input_shape;
            shape[0] = batch;
            capture_model(model, shape, &forward)
        };
        if !self.symbolic_batch {
            let captured = at(self.input_shape[0])?;
            let shapes = shapes::fixed(&captured);
            return Ok((captured, shapes));
        }
        let captured = at(2)?;
        let shapes = shapes::symbolic(&captured, &at(3)?)?;
        Ok((captured, shapes))
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

/// A graph's output has to be computed by a node.
fn add_identity(graph: &mut Graph) {
    let dims = graph.dims(graph.output).to_vec();
    let output = graph.add_value(dims);
    graph.nodes.push(Node::new("Identity", [graph.output], output));
    graph.output = output;
}

/// An exported model.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    bytes: Vec<u8>,
    operators: BTreeMap<&'static str, usize>,
    macs: Macs,
    parameters: u64,
}

impl OnnxModel {
    /// The bytes of the ONNX file.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many nodes of each ONNX operator the graph has.
    pub fn operators(&self) -> &BTreeMap<&'static str, usize> {
        &self.operators
    }

    /// Multiply-accumulates of convolutions and linear layers for one image.
    pub fn macs(&self) -> Macs {
        self.macs
    }

    /// Trainable parameters of the model, as PyTorch counts them: before batch norm was folded.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Writes the file: to a temporary file beside it first, then renamed, so that a failure leaves what was there.
    ///
    /// # Errors
    ///
    /// [`ExportError::Write`] with what the operating system says.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ExportError> {
        let path = path.as_ref();
        self.write(path).map_err(|source| ExportError::Write { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        // Whoever owns the directory knows by this name what a killed process left.
        builder.prefix(".writing-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What a plain new file gets; the process's mask still applies.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(&self.bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}
