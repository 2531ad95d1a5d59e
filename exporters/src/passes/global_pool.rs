use crate::graph::Graph;

/// Joins means over single axes, and turns a mean over all spatial axes into `GlobalAveragePool`.
pub(crate) fn form_global_pool(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        let Some(mut axes) = mean_axes(graph, index) else { continue };
        let mut source = graph.nodes[index].inputs[0];
        while let Some((input, more)) = source.and_then(|id| earlier_mean(graph, id)) {
            axes.extend(more);
            source = input;
        }
        axes.sort_unstable();
        let Some(input) = source else { continue };
        let rank = graph.dims(input).len() as i64;
        if rank > 2 && axes == (2..rank).collect::<Vec<_>>() {
            let node = &mut graph.nodes[index];
            node.op = "GlobalAveragePool";
            node.inputs = vec![source];
            node.attributes.clear();
        } else {
            let axes = graph.add_ints(axes);
            graph.nodes[index].inputs = vec![source, Some(axes)];
        }
    }
    super::drop_dead_nodes(graph);
}

fn mean_axes(graph: &Graph, index: usize) -> Option<Vec<i64>> {
    let node = &graph.nodes[index];
    if node.op == "ReduceMean" { Some(graph.ints(node.input(1)?)?.to_vec()) } else { None }
}

/// The input and the axes of the mean that computes `id` for one reader only.
fn earlier_mean(graph: &Graph, id: crate::graph::ValueId) -> Option<(Option<crate::graph::ValueId>, Vec<i64>)> {
    let producer = graph.sole_producer(id)?;
    Some((graph.nodes[producer].inputs[0], mean_axes(graph, producer)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Attribute, ValueId};
    use crate::passes::testing::{append, graph, ops, with};

    fn mean(graph: &mut Graph, input: ValueId, axis: i64, shape: &[usize]) -> ValueId {
        let axes = graph.add_ints(vec![axis]);
        let output = append(graph, "ReduceMean", &[input, axes], shape);
        with(graph, "keepdims", Attribute::Int(1));
        output
    }

    #[test]
    fn means_over_height_and_width_are_a_global_pool() {
        let mut graph = graph(&[1, 3, 4, 5]);
        let input = graph.inputs[0];
        let x = mean(&mut graph, input, 3, &[1, 3, 4, 1]);
        mean(&mut graph, x, 2, &[1, 3, 1, 1]);
        form_global_pool(&mut graph);
        assert_eq!(ops(&graph), ["GlobalAveragePool"]);
        assert_eq!(graph.nodes[0].inputs, [Some(input)]);
        assert!(graph.nodes[0].attributes.is_empty());
    }

    #[test]
    fn other_means_are_joined() {
        let mut graph = graph(&[1, 3, 4, 5]);
        let input = graph.inputs[0];
        let x = mean(&mut graph, input, 1, &[1, 1, 4, 5]);
        mean(&mut graph, x, 2, &[1, 1, 1, 5]);
        form_global_pool(&mut graph);
        assert_eq!(ops(&graph), ["ReduceMean"]);
        let axes = graph.nodes[0].input(1).expect("axes");
        assert_eq!(graph.ints(axes), Some(&[1, 2][..]));
    }
}
