use std::collections::BTreeSet;

use crate::graph::{Graph, ValueId};

/// Drops nodes that no output depends on. Constants that no node reads are not written, so nothing has to be
/// done for them.
pub(crate) fn drop_dead_nodes(graph: &mut Graph) {
    let mut needed: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if needed.contains(&node.output) {
            needed.extend(node.inputs.iter().flatten());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops};

    #[test]
    fn nodes_and_constants_that_nobody_needs_go() {
        let mut graph = graph(&[1, 4]);
        let input = graph.inputs[0];
        let unused = graph.add_floats("unused", array(&[1], &[1.0]));
        append(&mut graph, "Mul", &[input, unused], &[1, 4]);
        append(&mut graph, "Relu", &[input], &[1, 4]);
        drop_dead_nodes(&mut graph);
        assert_eq!(ops(&graph), ["Relu"]);
        assert!(graph.used_constants().is_empty());
    }
}
