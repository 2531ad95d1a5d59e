use crate::graph::{Attribute, Graph, ValueId};

/// Turns `x` where it is positive, and `alpha * (exp(x) - 1)` elsewhere, into `Elu`.
pub(crate) fn form_elu(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        if let Some((input, alpha)) = elu_input(graph, index) {
            let node = &mut graph.nodes[index];
            node.op = "Elu";
            node.inputs = vec![Some(input)];
            node.set("alpha", Attribute::Float(alpha));
        }
    }
    super::drop_dead_nodes(graph);
}

fn elu_input(graph: &Graph, index: usize) -> Option<(ValueId, f32)> {
    let choice = &graph.nodes[index];
    if choice.op != "Where" {
        return None;
    }
    let [mask, negative, x] = [choice.input(0)?, choice.input(1)?, choice.input(2)?];
    let (compared, bound) = with_scalar(graph, "LessOrEqual", mask)?;
    let (difference, alpha) = with_scalar(graph, "Mul", negative).unwrap_or((negative, 1.0));
    let (exponential, one) = with_scalar(graph, "Sub", difference)?;
    let exponential = &graph.nodes[graph.producer(exponential)?];
    let is_elu = compared == x && bound == 0.0 && one == 1.0;
    (is_elu && exponential.op == "Exp" && exponential.input(0) == Some(x)).then_some((x, alpha))
}

/// The operand and the constant of the node that computes a value, if it is of that operator.
fn with_scalar(graph: &Graph, operator: &str, id: ValueId) -> Option<(ValueId, f32)> {
    let node = &graph.nodes[graph.producer(id)?];
    if node.op != operator {
        return None;
    }
    Some((node.input(0)?, graph.scalar(node.input(1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, graph, ops};

    fn elu(bound: f32, alpha: Option<f32>) -> Graph {
        let mut graph = graph(&[1, 4]);
        let x = graph.inputs[0];
        let [bound, one] = [bound, 1.0].map(|scalar| graph.add_scalar(scalar));
        let mask = append(&mut graph, "LessOrEqual", &[x, bound], &[1, 4]);
        let exp = append(&mut graph, "Exp", &[x], &[1, 4]);
        let mut negative = append(&mut graph, "Sub", &[exp, one], &[1, 4]);
        if let Some(alpha) = alpha {
            let alpha = graph.add_scalar(alpha);
            negative = append(&mut graph, "Mul", &[negative, alpha], &[1, 4]);
        }
        append(&mut graph, "Where", &[mask, negative, x], &[1, 4]);
        graph
    }

    #[test]
    fn an_elu_is_found_with_its_alpha() {
        for (alpha, expected) in [(None, 1.0), (Some(0.3), 0.3)] {
            let mut graph = elu(0.0, alpha);
            form_elu(&mut graph);
            assert_eq!(ops(&graph), ["Elu"]);
            assert_eq!(graph.nodes[0].attribute("alpha"), Some(&Attribute::Float(expected)));
            assert_eq!(graph.nodes[0].inputs, [Some(graph.inputs[0])]);
        }
    }

    #[test]
    fn another_bound_is_none() {
        let mut graph = elu(0.5, None);
        form_elu(&mut graph);
        assert_eq!(ops(&graph), ["LessOrEqual", "Exp", "Sub", "Where"]);
    }
}
