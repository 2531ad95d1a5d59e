//! Static quantisation to 8 bits: pairs of `QuantizeLinear` and `DequantizeLinear` around what integers can compute.
//!
//! With `q` the stored integer, a number is `(q - zero point) * scale`. Activations have 8 unsigned bits and one scale
//! per tensor, from the range that they were seen in, 0 included; weights have 8 signed bits, no zero point, and a scale
//! per output channel; a bias has 32 bits and the scale of what it is added to.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis, IxDyn};

use crate::error::ExportError;
use crate::graph::{Attribute, Constant, Graph, Kind, Node, ValueId};
use crate::model::OnnxModel;
use crate::runtime::{self, RuntimeKind};
use crate::{export::Precision, structure};

/// The smallest and the largest value that an activation was seen with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// Of nothing yet: 0 is always in it, so that padding is exact.
    const EMPTY: Self = Self { low: 0.0, high: 0.0 };

    fn include(&mut self, values: &ArrayD<f32>) {
        for value in values.iter().filter(|value| value.is_finite()) {
            self.low = self.low.min(*value);
            self.high = self.high.max(*value);
        }
    }

    fn scale(self) -> f32 {
        let scale = (self.high - self.low) / 255.0;
        if scale > 0.0 { scale } else { 1.0 }
    }

    fn zero_point(self) -> u8 {
        (-self.low / self.scale()).round() as u8
    }
}

impl OnnxModel {
    /// The same model with convolutions, linear layers, additions and pools in 8 bits.
    ///
    /// `samples` are what the ranges of activations are taken from: some hundred images as the model will see them, in
    /// batches; one array for each input. The model is run on them in `rten`, or in ONNX Runtime where rten lacks
    /// something.
    ///
    /// # Errors
    ///
    /// [`ExportError::Quantize`] without samples, for a model of 16 bits, and where no runtime can run it on the
    /// samples.
    pub fn quantize(&self, samples: &[Vec<ArrayD<f32>>]) -> Result<Self, ExportError> {
        if self.header.precision != Precision::F32 {
            return Err(ExportError::Quantize("expected a model of 32 bits, found one of 16".to_string()));
        }
        if samples.is_empty() {
            return Err(ExportError::Quantize("expected samples to take ranges from, found none".to_string()));
        }
        let ranges = self.ranges(samples)?;
        let graph = Quantizer::run(&self.graph, &ranges);
        structure::check(&graph).map_err(ExportError::Structure)?;
        let mut model = Self { graph, ..self.clone() };
        model.header.metadata.push(("quantization".to_string(), "static, u8 activations, i8 weights".to_string()));
        Ok(model)
    }

    fn ranges(&self, samples: &[Vec<ArrayD<f32>>]) -> Result<BTreeMap<ValueId, Range>, ExportError> {
        let wanted = quantized_values(&self.graph);
        let (inputs, inner): (Vec<ValueId>, Vec<ValueId>) =
            wanted.iter().partition(|id| self.graph.inputs.contains(id));
        let mut ranges: BTreeMap<ValueId, Range> = wanted.iter().map(|id| (*id, Range::EMPTY)).collect();
        for id in inputs {
            let place = self.graph.inputs.iter().position(|input| *input == id).unwrap_or_default();
            for array in samples.iter().filter_map(|sample| sample.get(place)) {
                ranges.entry(id).or_insert(Range::EMPTY).include(array);
            }
        }
        if inner.is_empty() {
            return Ok(ranges);
        }
        let mut observed = self.clone();
        observed.graph.outputs.clone_from(&inner);
        let failed = |error: String| ExportError::Quantize(error);
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let path = folder.path().join("observed.onnx");
        observed.save(&path)?;
        let mut network = runtime::load_any(RuntimeKind::Rten, &path, 1)
            .or_else(|error| runtime::load_any(RuntimeKind::OnnxRuntime, &path, 1).map_err(|_| error))
            .map_err(|error| failed(error.to_string()))?;
        for sample in samples {
            let arrays: Vec<&ArrayD<f32>> = sample.iter().collect();
            let seen = network.run_all(&arrays).map_err(|error| failed(error.to_string()))?;
            for (id, array) in inner.iter().zip(&seen) {
                ranges.entry(*id).or_insert(Range::EMPTY).include(array);
            }
        }
        Ok(ranges)
    }
}

/// Whether a node is computed in integers when its inputs and its output are quantised.
fn is_quantized(graph: &Graph, node: &Node) -> bool {
    let constant = |index| node.input(index).is_some_and(|id| graph.floats(id).is_some());
    match node.op {
        "Conv" | "Gemm" => constant(1) && !constant(0),
        "Add" => !constant(0) && !constant(1),
        "GlobalAveragePool" | "AveragePool" | "MaxPool" | "Concat" => true,
        _ => false,
    }
}

/// The activations that get a scale: inputs of nodes that are quantised, and their outputs, or what their only reader
/// clips these to.
fn quantized_values(graph: &Graph) -> Vec<ValueId> {
    let mut values = Vec::new();
    for node in graph.nodes.iter().filter(|node| is_quantized(graph, node)) {
        let activations = node.inputs.iter().flatten().filter(|id| {
            let value = graph.value(**id);
            value.constant.is_none() && value.kind == Kind::Float
        });
        values.extend(activations.copied());
        let output = clipped(graph, node.output).unwrap_or(node.output);
        if !graph.outputs.contains(&output) {
            values.push(output);
        }
    }
    values.sort_unstable();
    values.dedup();
    // What is clipped right away has no integer form of its own.
    values.retain(|id| clipped(graph, *id).is_none());
    values
}

/// The output of the activation that alone reads a value, if it is one that integers clip to.
fn clipped(graph: &Graph, id: ValueId) -> Option<ValueId> {
    graph.sole_producer(id)?;
    let reader = graph.nodes.iter().find(|node| node.inputs.contains(&Some(id)))?;
    matches!(reader.op, "Relu" | "Clip").then_some(reader.output)
}

struct Quantizer<'a> {
    ranges: &'a BTreeMap<ValueId, Range>,
    graph: Graph,
    /// What to read instead of an activation.
    stand_ins: BTreeMap<ValueId, ValueId>,
}

impl<'a> Quantizer<'a> {
    fn run(source: &Graph, ranges: &'a BTreeMap<ValueId, Range>) -> Graph {
        let mut graph = source.clone();
        let nodes = std::mem::take(&mut graph.nodes);
        let quantized: Vec<bool> = nodes.iter().map(|node| is_quantized(source, node)).collect();
        let mut quantizer = Self { ranges, graph, stand_ins: BTreeMap::new() };
        for input in source.inputs.clone() {
            quantizer.activation(input);
        }
        for (mut node, quantized) in nodes.into_iter().zip(quantized) {
            let activation = node.input(0).and_then(|id| ranges.get(&id)).copied();
            for input in node.inputs.iter_mut().flatten() {
                *input = quantizer.stand_ins.get(input).copied().unwrap_or(*input);
            }
            if let ("Conv" | "Gemm", true, Some(range)) = (node.op, quantized, activation) {
                quantizer.parameters(&mut node, range);
            }
            let output = node.output;
            quantizer.graph.nodes.push(node);
            quantizer.activation(output);
        }
        quantizer.graph
    }

    /// Stores an activation in 8 bits, and reads it back.
    fn activation(&mut self, id: ValueId) {
        let Some(range) = self.ranges.get(&id) else { return };
        let (name, dims) = (self.graph.value(id).name.clone(), self.graph.dims(id).to_vec());
        let scale = self.graph.add_floats(format!("{name}_scale"), ndarray::arr0(range.scale()).into_dyn());
        let zero = Constant::U8(ndarray::arr0(range.zero_point()).into_dyn());
        let zero = self.graph.add_constant(format!("{name}_zero_point"), Kind::U8, zero);
        let stored =
            self.node("QuantizeLinear", [id, scale, zero], format!("{name}_quantized"), Kind::U8, dims.clone());
        let read = self.node("DequantizeLinear", [stored, scale, zero], format!("{name}_restored"), Kind::Float, dims);
        self.stand_ins.insert(id, read);
    }

    fn node(
        &mut self,
        op: &'static str,
        inputs: impl IntoIterator<Item = ValueId>,
        name: String,
        kind: Kind,
        dims: Vec<crate::graph::Dim>,
    ) -> ValueId {
        let output = self.graph.add_value_of(kind, dims);
        self.graph.value_mut(output).name.clone_from(&name);
        let mut node = Node::new(op, inputs, output);
        node.name = name;
        self.graph.nodes.push(node);
        output
    }

    /// Stores the weight and the bias of a convolution or linear layer as integers.
    fn parameters(&mut self, node: &mut Node, activation: Range) -> Option<()> {
        let axis = if node.op == "Conv" { 0 } else { 1 };
        let (weight, bias) = (node.input(1)?, node.input(2));
        let array = self.graph.floats(weight)?.clone();
        let largest = |channel: ndarray::ArrayViewD<'_, f32>| channel.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = |most: f32| if most > 0.0 { most / 127.0 } else { 1.0 };
        let scales: Vec<f32> = array.axis_iter(Axis(axis)).map(|channel| scale(largest(channel))).collect();
        let mut stored = ArrayD::<i8>::zeros(array.raw_dim());
        for ((mut to, from), scale) in stored.axis_iter_mut(Axis(axis)).zip(array.axis_iter(Axis(axis))).zip(&scales) {
            to.zip_mut_with(&from, |to, from| *to = (from / scale).round() as i8);
        }
        node.inputs[1] = Some(self.constant(weight, Kind::I8, Constant::I8(stored), scales.clone(), axis));
        if let Some(bias) = bias {
            let scales: Vec<f32> = scales.iter().map(|scale| scale * activation.scale()).collect();
            let stored = self.graph.floats(bias)?.iter().zip(&scales).map(|(x, scale)| (x / scale).round() as i32);
            let stored = Constant::I32(stored.collect());
            node.inputs[2] = Some(self.constant(bias, Kind::I32, stored, scales, 0));
        }
        Some(())
    }

    /// A stored parameter, and the node that reads it back.
    fn constant(&mut self, old: ValueId, kind: Kind, stored: Constant, scales: Vec<f32>, axis: usize) -> ValueId {
        let (name, dims) = (self.graph.value(old).name.clone(), self.graph.dims(old).to_vec());
        let channels = scales.len();
        let stored = self.graph.add_constant(format!("{name}_quantized"), kind, stored);
        let scales = ArrayD::from_shape_fn(IxDyn(&[channels]), |index| scales[index[0]]);
        let scale = self.graph.add_floats(format!("{name}_scale"), scales);
        let mut inputs = vec![stored, scale];
        if kind == Kind::I8 {
            let zeros = Constant::I8(ArrayD::zeros(IxDyn(&[channels])));
            inputs.push(self.graph.add_constant(format!("{name}_zero_point"), kind, zeros));
        }
        let read = self.node("DequantizeLinear", inputs, format!("{name}_restored"), Kind::Float, dims);
        if let Some(node) = self.graph.nodes.last_mut() {
            node.set("axis", Attribute::Int(axis as i64));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops};

    #[test]
    fn a_range_holds_zero_and_its_ends() {
        let mut range = Range::EMPTY;
        range.include(&array(&[3], &[1.0, 4.1, f32::INFINITY]));
        assert_eq!((range.low, range.high, range.zero_point()), (0.0, 4.1, 0));
        range.include(&array(&[1], &[-1.0]));
        // 5.1 in 255 steps.
        assert!((range.scale() - 0.02).abs() < 1e-7);
        assert_eq!(range.zero_point(), 50);
        assert_eq!((Range::EMPTY.scale(), Range::EMPTY.zero_point()), (1.0, 0));
    }

    #[test]
    fn a_convolution_is_stored_in_integers() {
        let mut graph = graph(&[1, 1, 2, 2]);
        let input = graph.inputs[0];
        graph.value_mut(input).name = "in".to_string();
        let weight = graph.add_floats("weight", array(&[2, 1, 1, 1], &[-1.27, 0.5]));
        let bias = graph.add_floats("bias", array(&[2], &[0.1, -1.0]));
        let conv = append(&mut graph, "Conv", &[input, weight, bias], &[1, 2, 2, 2]);
        let relu = append(&mut graph, "Relu", &[conv], &[1, 2, 2, 2]);
        append(&mut graph, "Sigmoid", &[relu], &[1, 2, 2, 2]);
        assert_eq!(quantized_values(&graph), [input, relu]);

        let ranges = [(input, Range { low: -1.0, high: 1.55 }), (relu, Range { low: 0.0, high: 2.55 })];
        let ranges = BTreeMap::from(ranges);
        let quantized = Quantizer::run(&graph, &ranges);
        assert_eq!(
            ops(&quantized),
            [
                "QuantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
                "Conv",
                "Relu",
                "QuantizeLinear",
                "DequantizeLinear",
                "Sigmoid"
            ]
        );
        let stored = |node: usize| {
            let id = quantized.nodes[node].input(0).expect("an input");
            quantized.value(id).constant.clone()
        };
        let weight = ArrayD::from_shape_vec(IxDyn(&[2, 1, 1, 1]), vec![-127i8, 127]).expect("consistent");
        assert_eq!(stored(2), Some(Constant::I8(weight)));
        // Scales of the input, 0.01, times those of the weight, 0.01 and 0.5 / 127.
        assert_eq!(stored(3), Some(Constant::I32(vec![1000, -25400])));
    }
}
