//! Clean-ups of a lowered graph, each a function of its own.

mod dead_nodes;
mod elu;
mod fold_batch_norm;
mod fold_constants;
mod fold_padding;
mod gelu;
mod gemm;
mod global_pool;
mod half;
mod hard_swish;
mod names;
mod no_ops;
mod repeated_nodes;

pub(crate) use dead_nodes::drop_dead_nodes;
pub(crate) use elu::form_elu;
pub(crate) use fold_batch_norm::fold_batch_norm;
pub(crate) use fold_constants::fold_constants;
pub(crate) use fold_padding::fold_padding;
pub(crate) use gelu::form_gelu;
pub(crate) use gemm::form_gemm;
pub(crate) use global_pool::form_global_pool;
pub(crate) use half::to_half;
pub(crate) use hard_swish::form_hard_swish;
pub(crate) use names::name_values;
pub(crate) use no_ops::drop_no_ops;
pub(crate) use repeated_nodes::merge_repeated_nodes;

use crate::graph::Graph;

/// Runs every clean-up, in an order in which each finds what the ones before it left.
pub(crate) fn clean(graph: &mut Graph, opset: i64) {
    fold_constants(graph);
    drop_no_ops(graph);
    drop_dead_nodes(graph);
    merge_repeated_nodes(graph);
    form_gemm(graph);
    fold_batch_norm(graph);
    fold_padding(graph);
    form_global_pool(graph);
    form_hard_swish(graph);
    form_elu(graph);
    form_gelu(graph, opset);
    drop_no_ops(graph);
    drop_dead_nodes(graph);
}

#[cfg(test)]
pub(crate) mod testing {
    //! Graphs for the tests of single passes.

    use ndarray::{ArrayD, IxDyn};

    use crate::graph::{Attribute, Dim, Graph, Node, ValueId};

    pub(crate) fn graph(shape: &[usize]) -> Graph {
        let mut dims: Vec<Dim> = shape.iter().map(|size| Dim::Fixed(*size)).collect();
        dims[0] = Dim::Batch(1);
        Graph::new(vec![dims])
    }

    pub(crate) fn array(shape: &[usize], values: &[f32]) -> ArrayD<f32> {
        ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).expect("a consistent shape")
    }

    /// Appends a node whose output, of the given shape, becomes the only output of the graph.
    pub(crate) fn append(graph: &mut Graph, op: &'static str, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let mut dims: Vec<Dim> = shape.iter().map(|size| Dim::Fixed(*size)).collect();
        dims[0] = Dim::Batch(1);
        let output = graph.add_value(dims);
        graph.nodes.push(Node::new(op, inputs.iter().copied(), output));
        graph.outputs = vec![output];
        output
    }

    pub(crate) fn with(graph: &mut Graph, name: &'static str, attribute: Attribute) {
        graph.nodes.last_mut().expect("a node").set(name, attribute);
    }

    pub(crate) fn ops(graph: &Graph) -> Vec<&'static str> {
        graph.nodes.iter().map(|node| node.op).collect()
    }
}
