use crate::graph::{Attribute, Graph};

/// Turns `x * hard_sigmoid(x)`, with the slope 1/6 and the offset 1/2, into `HardSwish`.
pub(crate) fn form_hard_swish(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        if let Some(input) = hard_swish_input(graph, index) {
            let node = &mut graph.nodes[index];
            node.op = "HardSwish";
            node.inputs = vec![Some(input)];
        }
    }
    super::drop_dead_nodes(graph);
}

fn hard_swish_input(graph: &Graph, index: usize) -> Option<crate::graph::ValueId> {
    let product = &graph.nodes[index];
    if product.op != "Mul" {
        return None;
    }
    let operands = [product.input(0)?, product.input(1)?];
    [(operands[0], operands[1]), (operands[1], operands[0])].into_iter().find_map(|(x, gate)| {
        let gate = &graph.nodes[graph.sole_producer(gate)?];
        let slope_and_offset = gate.attribute("alpha") == Some(&Attribute::Float(1.0 / 6.0))
            && gate.attribute("beta") == Some(&Attribute::Float(0.5));
        (gate.op == "HardSigmoid" && slope_and_offset && gate.input(0) == Some(x)).then_some(x)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, graph, ops, with};

    fn gated(slope: f32) -> Graph {
        let mut graph = graph(&[1, 4]);
        let input = graph.inputs[0];
        let gate = append(&mut graph, "HardSigmoid", &[input], &[1, 4]);
        with(&mut graph, "alpha", Attribute::Float(slope));
        with(&mut graph, "beta", Attribute::Float(0.5));
        append(&mut graph, "Mul", &[input, gate], &[1, 4]);
        graph
    }

    #[test]
    fn the_pattern_becomes_one_node() {
        let mut graph = gated((1.0f64 / 6.0) as f32);
        form_hard_swish(&mut graph);
        assert_eq!(ops(&graph), ["HardSwish"]);
    }

    #[test]
    fn another_slope_stays() {
        let mut graph = gated(0.2);
        form_hard_swish(&mut graph);
        assert_eq!(ops(&graph), ["HardSigmoid", "Mul"]);
    }
}
