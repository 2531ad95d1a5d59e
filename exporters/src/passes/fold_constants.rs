use ndarray::{ArrayD, Axis, IxDyn, Slice, concatenate};

use crate::graph::{Attribute, Constant, Graph, Node, ValueId};

/// Computes nodes whose inputs are all constants: slices of weights above all.
pub(crate) fn fold_constants(graph: &mut Graph) {
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        match evaluate(graph, &node) {
            Some(array) => {
                // A part of one parameter keeps its name.
                let name = node.input(0).map(|id| graph.value(id).name.clone()).unwrap_or_default();
                let value = graph.value_mut(node.output);
                value.constant = Some(Constant::Float(array));
                value.name = name;
            }
            None => graph.nodes.push(node),
        }
    }
}

fn evaluate(graph: &Graph, node: &Node) -> Option<ArrayD<f32>> {
    let operand = |index: usize| node.input(index).and_then(|id| graph.floats(id));
    let shape = || graph.shape(node.output);
    match node.op {
        "Reshape" => operand(0)?.as_standard_layout().into_owned().into_shape_with_order(IxDyn(&shape()?)).ok(),
        "Transpose" => {
            let axes: Vec<usize> = node.ints("perm")?.iter().map(|axis| *axis as usize).collect();
            Some(operand(0)?.view().permuted_axes(IxDyn(&axes)).as_standard_layout().into_owned())
        }
        "Expand" => Some(operand(0)?.broadcast(IxDyn(&shape()?))?.to_owned()),
        "Slice" => slice(graph, node),
        "Concat" => concat(graph, node),
        "Add" => binary(operand(0)?, operand(1)?, &shape()?, |left, right| left + right),
        "Sub" => binary(operand(0)?, operand(1)?, &shape()?, |left, right| left - right),
        "Mul" => binary(operand(0)?, operand(1)?, &shape()?, |left, right| left * right),
        "Div" => binary(operand(0)?, operand(1)?, &shape()?, |left, right| left / right),
        "Neg" => Some(operand(0)?.mapv(|value| -value)),
        "Exp" => Some(operand(0)?.mapv(f32::exp)),
        "Sqrt" => Some(operand(0)?.mapv(f32::sqrt)),
        "Reciprocal" => Some(operand(0)?.mapv(f32::recip)),
        _ => None,
    }
}

fn slice(graph: &Graph, node: &Node) -> Option<ArrayD<f32>> {
    let data = graph.floats(node.input(0)?)?;
    let [starts, ends, axes, steps] = [1, 2, 3, 4].map(|input| graph.ints(node.input(input)?));
    let (starts, ends, axes, steps) = (starts?, ends?, axes?, steps?);
    let mut view = data.view();
    for (index, axis) in axes.iter().enumerate() {
        // A negative step begins at the start in ONNX, and at the end of an ascending range here.
        let (start, end) = match steps[index] {
            1.. => (starts[index], ends[index]),
            _ => (ends[index].saturating_add(1).max(0), starts[index] + 1),
        };
        let range = Slice::new(start as isize, Some(end as isize), steps[index] as isize);
        view.slice_axis_inplace(Axis(*axis as usize), range);
    }
    Some(view.as_standard_layout().into_owned())
}

fn concat(graph: &Graph, node: &Node) -> Option<ArrayD<f32>> {
    let Some(Attribute::Int(axis)) = node.attribute("axis") else { return None };
    let part = |input: &Option<ValueId>| Some(graph.floats((*input)?)?.view());
    let parts: Vec<_> = node.inputs.iter().map(part).collect::<Option<_>>()?;
    concatenate(Axis(*axis as usize), &parts).ok()
}

fn binary(
    left: &ArrayD<f32>,
    right: &ArrayD<f32>,
    shape: &[usize],
    compute: impl Fn(f32, f32) -> f32,
) -> Option<ArrayD<f32>> {
    let (left, right) = (left.broadcast(IxDyn(shape))?, right.broadcast(IxDyn(shape))?);
    let values = left.iter().zip(right.iter()).map(|(left, right)| compute(*left, *right)).collect();
    ArrayD::from_shape_vec(IxDyn(shape), values).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Dim;
    use crate::passes::testing::{append, array, graph, ops, with};

    #[test]
    fn a_slice_of_a_transposed_weight_is_a_smaller_weight() {
        let mut graph = graph(&[1, 2]);
        let weight = graph.add_floats("head.weight", array(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let transposed = graph.add_value(vec![Dim::Fixed(2), Dim::Fixed(3)]);
        graph.nodes.push(Node::new("Transpose", [weight], transposed).with("perm", Attribute::Ints(vec![1, 0])));
        let bounds = [vec![0, 1], vec![2, 3], vec![0, 1], vec![1, 1]].map(|values| graph.add_ints(values));
        let sliced = graph.add_value(vec![Dim::Fixed(2), Dim::Fixed(2)]);
        graph.nodes.push(Node::new("Slice", [transposed].into_iter().chain(bounds), sliced));
        let input = graph.inputs[0];
        append(&mut graph, "MatMul", &[input, sliced], &[1, 2]);
        fold_constants(&mut graph);
        assert_eq!(ops(&graph), ["MatMul"]);
        let weight = graph.nodes[0].input(1).expect("a weight");
        assert_eq!(graph.floats(weight), Some(&array(&[2, 2], &[3.0, 5.0, 4.0, 6.0])));
        assert_eq!(graph.value(weight).name, "head.weight");
    }

    #[test]
    fn slices_of_one_weight_are_joined_again() {
        let mut graph = graph(&[1, 2]);
        let weight = graph.add_floats("head.weight", array(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
        let parts = [[0, 1], [3, 4]].map(|[start, end]| {
            let bounds = [start, end, 1, 1].map(|bound| graph.add_ints(vec![bound]));
            let part = graph.add_value(vec![Dim::Fixed(2), Dim::Fixed(1)]);
            graph.nodes.push(Node::new("Slice", [weight].into_iter().chain(bounds), part));
            part
        });
        let joined = graph.add_value(vec![Dim::Fixed(2), Dim::Fixed(2)]);
        graph.nodes.push(Node::new("Concat", parts, joined).with("axis", Attribute::Int(1)));
        let input = graph.inputs[0];
        append(&mut graph, "MatMul", &[input, joined], &[1, 2]);
        append(&mut graph, "Concat", &[input, joined], &[1, 2]);
        with(&mut graph, "axis", Attribute::Int(0));
        fold_constants(&mut graph);
        assert_eq!(ops(&graph), ["MatMul", "Concat"], "what depends on the input stays");
        assert_eq!(graph.floats(joined), Some(&array(&[2, 2], &[1.0, 4.0, 5.0, 8.0])));
        assert_eq!(graph.value(joined).name, "head.weight");
    }

    #[test]
    fn arithmetic_on_constants_broadcasts() {
        let mut graph = graph(&[1, 2]);
        let row = graph.add_floats("row", array(&[2], &[1.0, 2.0]));
        let column = graph.add_floats("column", array(&[2, 1], &[10.0, 20.0]));
        let sum = graph.add_value(vec![Dim::Fixed(2), Dim::Fixed(2)]);
        graph.nodes.push(Node::new("Add", [row, column], sum));
        fold_constants(&mut graph);
        assert!(graph.nodes.is_empty());
        assert_eq!(graph.floats(sum), Some(&array(&[2, 2], &[11.0, 12.0, 21.0, 22.0])));
    }
}
