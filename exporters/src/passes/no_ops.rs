use crate::graph::{Attribute, Graph, ValueId};
use crate::lower::reshape_target;

/// Drops nodes that change nothing, and joins reshapes of reshapes and transpositions of transpositions.
pub(crate) fn drop_no_ops(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        join_reshapes(graph, index);
        join_transpositions(graph, index);
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
        _ => false,
    };
    same.then_some(input)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, graph, ops, with};

    #[test]
    fn what_changes_nothing_goes() {
        let mut graph = graph(&[1, 2, 3]);
        let input = graph.input;
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
        assert_eq!(graph.output, graph.nodes[0].output);
    }

    #[test]
    fn reshapes_in_a_row_become_one() {
        let mut graph = graph(&[1, 2, 3]);
        let input = graph.input;
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
    fn two_different_clips_stay() {
        let mut graph = graph(&[1, 2]);
        let bounds = [0.0, 6.0, 3.0].map(|bound| graph.add_scalar(bound));
        let input = graph.input;
        let x = append(&mut graph, "Clip", &[input, bounds[0], bounds[1]], &[1, 2]);
        append(&mut graph, "Clip", &[x, bounds[0], bounds[2]], &[1, 2]);
        drop_no_ops(&mut graph);
        assert_eq!(ops(&graph), ["Clip", "Clip"]);
    }
}
