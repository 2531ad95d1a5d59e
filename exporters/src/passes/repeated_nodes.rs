use crate::graph::{Graph, Node, ValueId};

/// Computes once what several nodes compute: the same operator on the same inputs with the same attributes.
pub(crate) fn merge_repeated_nodes(graph: &mut Graph) {
    let mut index = 0;
    while index < graph.nodes.len() {
        let first = graph.nodes[..index].iter().find(|earlier| same(graph, earlier, &graph.nodes[index]));
        match first.map(|node| node.output) {
            Some(output) => {
                let node = graph.nodes.remove(index);
                graph.redirect(node.output, output);
            }
            None => index += 1,
        }
    }
}

fn same(graph: &Graph, one: &Node, other: &Node) -> bool {
    one.op == other.op
        && one.attributes == other.attributes
        && one.inputs.len() == other.inputs.len()
        && one.inputs.iter().zip(&other.inputs).all(|(one, other)| same_input(graph, *one, *other))
}

/// The same value, or equal constants of the forward (weights are compared by identity: equal ones are no accident
/// worth a search).
fn same_input(graph: &Graph, one: Option<ValueId>, other: Option<ValueId>) -> bool {
    let constant = |id: Option<ValueId>| {
        let value = graph.value(id?);
        value.constant.as_ref().filter(|_| value.name.is_empty())
    };
    one == other || (constant(one).is_some() && constant(one) == constant(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attribute;
    use crate::passes::testing::{append, graph, ops, with};

    #[test]
    fn equal_nodes_are_one_and_different_ones_stay() {
        let mut graph = graph(&[1, 2]);
        let input = graph.inputs[0];
        let half = |graph: &mut Graph| {
            let half = graph.add_scalar(0.5);
            append(graph, "Mul", &[input, half], &[1, 2])
        };
        let (one, other) = (half(&mut graph), half(&mut graph));
        let sum = append(&mut graph, "Add", &[one, other], &[1, 2]);
        for alpha in [0.1, 0.2] {
            append(&mut graph, "LeakyRelu", &[sum], &[1, 2]);
            with(&mut graph, "alpha", Attribute::Float(alpha));
        }
        merge_repeated_nodes(&mut graph);
        assert_eq!(ops(&graph), ["Mul", "Add", "LeakyRelu", "LeakyRelu"]);
        assert_eq!(graph.nodes[1].inputs, [Some(one), Some(one)]);
    }
}
