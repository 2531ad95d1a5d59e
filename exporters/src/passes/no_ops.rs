use crate::graph::{Attribute, Graph, Node, ValueId};
use crate::lower::reshape_target;

/// Drops nodes that change nothing, and joins reshapes of reshapes, transpositions of transpositions and slices of slices.
pub(crate) fn drop_no_ops(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        join_reshapes(graph, index);
        join_transpositions(graph, index);
        join_slices(graph, index);
        if let Some(input) = unchanged(graph, index) {
            let output = graph.nodes[index].output;
            graph.redirect(output, input);
        }
    }
    super::drop_dead_nodes(graph);
}

/// The input of a node whose output is the same.
fn unchanged(graph: &Graph, index: usize) -> Option<ValueId> {
    let node = &graph.nodes[index];
    let input = node.input(0)?;
    let same = match node.op {
        "Identity" => true,
        "Reshape" | "Expand" => graph.dims(input) == graph.dims(node.output),
        "Transpose" => node.ints("perm")?.iter().enumerate().all(|(axis, from)| axis as i64 == *from),
        "Pad" => graph.ints(node.input(1)?)?.iter().all(|pad| *pad == 0),
        "Concat" => node.inputs.len() == 1,
        "AveragePool" | "MaxPool" | "GlobalAveragePool" => pools_one_by_one(graph, index),
        "Relu" | "Clip" => is_repeated(graph, index),
        "Mul" | "Div" => is_one(graph, node.input(1)?) && graph.dims(input) == graph.dims(node.output),
        _ => false,
    };
    same.then_some(input)
}

/// A number of the forward. A parameter that happens to be one is the model's, and stays.
fn is_one(graph: &Graph, id: ValueId) -> bool {
    graph.scalar(id) == Some(1.0) && graph.value(id).name.is_empty()
}

fn pools_one_by_one(graph: &Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let same = |id| graph.dims(id) == graph.dims(node.output);
    match node.ints("kernel_shape") {
        Some(kernel) => kernel.iter().all(|size| *size == 1) && node.input(0).is_some_and(same),
        None => node.input(0).is_some_and(same),
    }
}

/// The same activation of the same activation.
fn is_repeated(graph: &Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let Some(producer) = node.input(0).and_then(|id| graph.producer(id)) else { return false };
    let earlier = &graph.nodes[producer];
    let bound = |id: &Option<ValueId>| id.map(|id| graph.scalar(id));
    earlier.op == node.op && earlier.inputs[1..].iter().map(bound).eq(node.inputs[1..].iter().map(bound))
}

fn join_reshapes(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let earlier = &graph.nodes[graph.producer(node.input(0)?)?];
    if node.op != "Reshape" || earlier.op != "Reshape" {
        return None;
    }
    let source = earlier.input(0)?;
    let target = reshape_target(graph.dims(source), graph.dims(node.output))?;
    let target = graph.add_ints(target);
    graph.nodes[index].inputs = vec![Some(source), Some(target)];
    Some(())
}

fn join_transpositions(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let earlier = &graph.nodes[graph.producer(node.input(0)?)?];
    if node.op != "Transpose" || earlier.op != "Transpose" {
        return None;
    }
    let (first, second) = (earlier.ints("perm")?, node.ints("perm")?);
    let joined = second.iter().map(|axis| first.get(*axis as usize).copied()).collect::<Option<Vec<i64>>>()?;
    let source = earlier.inputs[0];
    let node = &mut graph.nodes[index];
    node.inputs = vec![source];
    node.set("perm", Attribute::Ints(joined));
    Some(())
}

fn join_slices(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let earlier = &graph.nodes[graph.producer(node.input(0)?)?];
    if node.op != "Slice" || earlier.op != "Slice" {
        return None;
    }
    let source = earlier.inputs[0];
    let mut joined = slice_bounds(graph, earlier)?;
    for [start, end, axis, step] in slice_bounds(graph, node)? {
        match joined.iter_mut().find(|[_, _, other, _]| *other == axis) {
            Some(cut) if cut[3] == 1 && step > 0 => *cut = [cut[0] + start, (cut[0] + end).min(cut[1]), axis, step],
            Some(_) => return None,
            None => joined.push([start, end, axis, step]),
        }
    }
    let bounds = [0, 1, 2, 3].map(|part| joined.iter().map(|bounds| bounds[part]).collect());
    let bounds = bounds.map(|values| graph.add_ints(values));
    graph.nodes[index].inputs = [source].into_iter().chain(bounds.map(Some)).collect();
    Some(())
}

/// Start, end, axis and step for every axis that a slice cuts.
fn slice_bounds(graph: &Graph, slice: &Node) -> Option<Vec<[i64; 4]>> {
    let [starts, ends, axes, steps] = [1, 2, 3, 4].map(|input| graph.ints(slice.input(input)?));
    let (starts, ends, axes, steps) = (starts?, ends?, axes?, steps?);
    Some((0..axes.len()).map(|index| [starts[index], ends[index], axes[index], steps[index]]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops, with};

    #[test]
    fn what_changes_nothing_goes() {
        let mut graph = graph(&[1, 2, 3]);
        let input = graph.inputs[0];
        let target = graph.add_ints(vec![0, 2, 3]);
        let x = append(&mut graph, "Reshape", &[input, target], &[1, 2, 3]);
        let x = append(&mut graph, "Transpose", &[x], &[1, 3, 2]);
        with(&mut graph, "perm", Attribute::Ints(vec![0, 2, 1]));
        let x = append(&mut graph, "Transpose", &[x], &[1, 2, 3]);
        with(&mut graph, "perm", Attribute::Ints(vec![0, 2, 1]));
        let x = append(&mut graph, "Relu", &[x], &[1, 2, 3]);
        append(&mut graph, "Relu", &[x], &[1, 2, 3]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Relu"]);
        assert_eq!(graph.nodes[0].input(0), Some(input));
        assert_eq!(graph.outputs[0], graph.nodes[0].output);
    }

    #[test]
    fn reshapes_in_a_row_become_one() {
        let mut graph = graph(&[1, 2, 3]);
        let input = graph.inputs[0];
        let flat = graph.add_ints(vec![0, 6]);
        let x = append(&mut graph, "Reshape", &[input, flat], &[1, 6]);
        let square = graph.add_ints(vec![0, 3, 2]);
        append(&mut graph, "Reshape", &[x, square], &[1, 3, 2]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Reshape"]);
        let target = graph.nodes[0].input(1).expect("a target");
        assert_eq!(graph.ints(target), Some(&[0, 3, 2][..]));
    }

    #[test]
    fn slices_in_a_row_become_one() {
        let slice = |graph: &mut Graph, input, bounds: [i64; 4], shape: &[usize]| {
            let bounds = bounds.map(|bound| graph.add_ints(vec![bound]));
            append(graph, "Slice", &[input, bounds[0], bounds[1], bounds[2], bounds[3]], shape)
        };
        let mut graph = graph(&[1, 9, 8]);
        let input = graph.inputs[0];
        // Entries 2 to 7 of an axis, of which 1 to the last, beside another axis.
        let x = slice(&mut graph, input, [2, 8, 1, 1], &[1, 6, 8]);
        let x = slice(&mut graph, x, [0, 8, 2, 2], &[1, 6, 4]);
        slice(&mut graph, x, [1, 6, 1, 1], &[1, 5, 4]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Slice"]);
        let found = slice_bounds(&graph, &graph.nodes[0]);
        assert_eq!(found, Some(vec![[3, 8, 1, 1], [0, 8, 2, 2]]));
        assert_eq!(graph.nodes[0].input(0), Some(input));

        // Every second entry of every second: not looked at.
        let x = graph.outputs[0];
        slice(&mut graph, x, [0, 4, 2, 2], &[1, 5, 2]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Slice", "Slice"]);
    }

    #[test]
    fn a_factor_of_one_goes_and_a_parameter_stays() {
        let mut graph = graph(&[1, 1]);
        let (input, one, two) = (graph.inputs[0], graph.add_scalar(1.0), graph.add_scalar(2.0));
        let gamma = graph.add_floats("norm.gamma", array(&[1], &[1.0]));
        let x = append(&mut graph, "Mul", &[input, one], &[1, 1]);
        let x = append(&mut graph, "Div", &[x, one], &[1, 1]);
        let x = append(&mut graph, "Div", &[x, two], &[1, 1]);
        append(&mut graph, "Mul", &[x, gamma], &[1, 1]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Div", "Mul"]);
        assert_eq!(graph.nodes[0].inputs, [Some(input), Some(two)]);
    }

    #[test]
    fn two_different_clips_stay() {
        let mut graph = graph(&[1, 2]);
        let bounds = [0.0, 6.0, 3.0].map(|bound| graph.add_scalar(bound));
        let input = graph.inputs[0];
        let x = append(&mut graph, "Clip", &[input, bounds[0], bounds[1]], &[1, 2]);
        append(&mut graph, "Clip", &[x, bounds[0], bounds[2]], &[1, 2]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Clip", "Clip"]);
    }
}
