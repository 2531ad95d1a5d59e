//! An ONNX-like graph: values in an arena, nodes in execution order. No protobuf here.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::ArrayD;

/// A value of a [`Graph`]: an input, a constant, or the output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueId(usize);

/// The size of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    Fixed(usize),
    /// The batch size times this factor.
    Batch(usize),
}

impl Dim {
    pub(crate) fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(size) => Some(size),
            Self::Batch(_) => None,
        }
    }
}

/// What the elements of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Numbers that the model computes with, in the precision of the file.
    Float,
    /// `f32` whatever the precision of the file is.
    Float32,
    /// `i64`.
    Int,
    Truth,
    /// Stored integers of a quantised model.
    U8,
    I8,
    I32,
}

/// What a constant holds. Integers are always vectors: shapes, axes, indices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Float(ArrayD<f32>),
    Ints(Vec<i64>),
    U8(ArrayD<u8>),
    I8(ArrayD<i8>),
    I32(Vec<i32>),
}

impl Constant {
    pub(crate) fn shape(&self) -> Vec<usize> {
        match self {
            Self::Float(array) => array.shape().to_vec(),
            Self::Ints(values) => vec![values.len()],
            Self::U8(array) => array.shape().to_vec(),
            Self::I8(array) => array.shape().to_vec(),
            Self::I32(values) => vec![values.len()],
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Empty until [`name_values`](crate::passes::name_values) has run, except for constants that are parameters.
    pub(crate) name: String,
    pub(crate) dims: Vec<Dim>,
    pub(crate) kind: Kind,
    pub(crate) constant: Option<Constant>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Text(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The ONNX operator.
    pub(crate) op: &'static str,
    /// `None` is an optional input left out.
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) output: ValueId,
    pub(crate) attributes: Vec<(&'static str, Attribute)>,
    /// The path of the module whose parameters it uses; none for a node without parameters.
    pub(crate) module: Option<String>,
    /// Empty until named.
    pub(crate) name: String,
    /// For readers of the file.
    pub(crate) doc: String,
}

impl Node {
    pub(crate) fn new(op: &'static str, inputs: impl IntoIterator<Item = ValueId>, output: ValueId) -> Self {
        let inputs = inputs.into_iter().map(Some).collect();
        Self { op, inputs, output, attributes: Vec::new(), module: None, name: String::new(), doc: String::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, attribute: Attribute) -> Self {
        self.attributes.push((name, attribute));
        self
    }

    pub(crate) fn within(mut self, module: Option<String>) -> Self {
        self.module = module;
        self
    }

    pub(crate) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, attribute)| attribute)
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, attribute: Attribute) {
        match self.attributes.iter_mut().find(|(key, _)| *key == name) {
            Some((_, old)) => *old = attribute,
            None => self.attributes.push((name, attribute)),
        }
    }
}

/// Nodes over an arena of values.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
}

impl Graph {
    /// A graph without nodes that returns its inputs.
    pub(crate) fn new(input_dims: Vec<Vec<Dim>>) -> Self {
        let mut graph = Self { values: Vec::new(), nodes: Vec::new(), inputs: Vec::new(), outputs: Vec::new() };
        graph.inputs = input_dims.into_iter().map(|dims| graph.add_value(dims)).collect();
        graph.outputs.clone_from(&graph.inputs);
        graph
    }

    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0]
    }

    pub(crate) fn add_value(&mut self, dims: Vec<Dim>) -> ValueId {
        self.add_value_of(Kind::Float, dims)
    }

    pub(crate) fn add_value_of(&mut self, kind: Kind, dims: Vec<Dim>) -> ValueId {
        self.push(Value { name: String::new(), dims, kind, constant: None })
    }

    pub(crate) fn add_floats(&mut self, name: impl Into<String>, array: ArrayD<f32>) -> ValueId {
        self.add_constant(name.into(), Kind::Float, Constant::Float(array))
    }

    pub(crate) fn add_scalar(&mut self, value: f32) -> ValueId {
        self.add_floats("", ndarray::arr0(value).into_dyn())
    }

    pub(crate) fn add_ints(&mut self, values: Vec<i64>) -> ValueId {
        self.add_constant(String::new(), Kind::Int, Constant::Ints(values))
    }

    pub(crate) fn add_constant(&mut self, name: String, kind: Kind, constant: Constant) -> ValueId {
        let dims = constant.shape().into_iter().map(Dim::Fixed).collect();
        self.push(Value { name, dims, kind, constant: Some(constant) })
    }

    fn push(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() - 1)
    }

    pub(crate) fn dims(&self, id: ValueId) -> &[Dim] {
        &self.value(id).dims
    }

    /// The shape of a value that does not depend on the batch size.
    pub(crate) fn shape(&self, id: ValueId) -> Option<Vec<usize>> {
        self.dims(id).iter().map(|dim| dim.fixed()).collect()
    }

    pub(crate) fn floats(&self, id: ValueId) -> Option<&ArrayD<f32>> {
        match &self.value(id).constant {
            Some(Constant::Float(array)) => Some(array),
            _ => None,
        }
    }

    pub(crate) fn ints(&self, id: ValueId) -> Option<&[i64]> {
        match &self.value(id).constant {
            Some(Constant::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// The constant scalar that a value is.
    pub(crate) fn scalar(&self, id: ValueId) -> Option<f32> {
        let array = self.floats(id)?;
        if array.len() == 1 { array.first().copied() } else { None }
    }

    /// The operand and the scalar of a node of two operands, one of which is a constant scalar.
    pub(crate) fn with_scalar(&self, node: &Node) -> Option<(ValueId, f32)> {
        let [Some(one), Some(other)] = node.inputs[..] else { return None };
        match (self.scalar(one), self.scalar(other)) {
            (None, Some(scalar)) => Some((one, scalar)),
            (Some(scalar), None) => Some((other, scalar)),
            _ => None,
        }
    }

    /// The node that computes a value.
    pub(crate) fn producer(&self, id: ValueId) -> Option<usize> {
        self.nodes.iter().position(|node| node.output == id)
    }

    /// The node that computes a value, where no one else needs that value.
    pub(crate) fn sole_producer(&self, id: ValueId) -> Option<usize> {
        let uses = self.nodes.iter().flat_map(|node| &node.inputs).filter(|input| **input == Some(id)).count();
        if uses == 1 && !self.outputs.contains(&id) { self.producer(id) } else { None }
    }

    /// Makes every reader of `old` read `new`.
    pub(crate) fn redirect(&mut self, old: ValueId, new: ValueId) {
        for input in self.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            if *input == Some(old) {
                *input = Some(new);
            }
        }
        for output in self.outputs.iter_mut().filter(|output| **output == old) {
            *output = new;
        }
    }

    /// The constants that nodes read, in the order of their first reader.
    pub(crate) fn used_constants(&self) -> Vec<ValueId> {
        let mut seen = BTreeSet::new();
        self.nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten())
            .filter(|id| self.value(**id).constant.is_some() && seen.insert(**id))
            .copied()
            .collect()
    }

    /// How many nodes of each operator there are.
    pub(crate) fn operators(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(node.op).or_default() += 1;
        }
        counts
    }
}
