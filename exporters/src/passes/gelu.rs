use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::graph::{Graph, ValueId};

/// The opset that `Gelu` came with.
const OPSET: i64 = 20;

/// Turns `x / 2 * (1 + erf(x / sqrt(2)))`, in whatever order it is multiplied, into `Gelu`, from the opset on that has
/// it.
pub(crate) fn form_gelu(graph: &mut Graph, opset: i64) {
    if opset < OPSET {
        return;
    }
    for index in 0..graph.nodes.len() {
        if let Some(input) = gelu_input(graph, index) {
            let node = &mut graph.nodes[index];
            node.op = "Gelu";
            node.inputs = vec![Some(input)];
        }
    }
    super::drop_dead_nodes(graph);
}

fn gelu_input(graph: &Graph, index: usize) -> Option<ValueId> {
    let mut product = Product { scalar: 1.0, factors: Vec::new() };
    product.add_node(graph, index)?;
    let [one, other] = product.factors[..] else { return None };
    let is_half = product.scalar == 0.5;
    [(one, other), (other, one)]
        .into_iter()
        .find_map(|(x, cumulative)| (is_half && erf_input(graph, cumulative)? == x).then_some(x))
}

/// The `x` of `1 + erf(x / sqrt(2))`.
fn erf_input(graph: &Graph, id: ValueId) -> Option<ValueId> {
    let add = &graph.nodes[graph.sole_producer(id)?];
    let (erf, one) = graph.with_scalar(add)?;
    if add.op != "Add" || one != 1.0 {
        return None;
    }
    let erf = &graph.nodes[graph.sole_producer(erf)?];
    let scaled = &graph.nodes[graph.sole_producer(erf.input(0).filter(|_| erf.op == "Erf")?)?];
    let (x, factor) = graph.with_scalar(scaled)?;
    let is_scaled = match scaled.op {
        "Mul" => factor == FRAC_1_SQRT_2,
        "Div" => factor == SQRT_2,
        _ => false,
    };
    is_scaled.then_some(x)
}

/// What is multiplied in a tree of products that have no other reader.
struct Product {
    scalar: f32,
    factors: Vec<ValueId>,
}

impl Product {
    fn add_node(&mut self, graph: &Graph, index: usize) -> Option<()> {
        let node = &graph.nodes[index];
        match (node.op, graph.with_scalar(node)) {
            ("Mul", Some((x, scalar))) => {
                self.scalar *= scalar;
                self.add(graph, x);
            }
            ("Div", Some((x, scalar))) if node.input(0) == Some(x) => {
                self.scalar /= scalar;
                self.add(graph, x);
            }
            ("Mul", None) => {
                self.add(graph, node.input(0)?);
                self.add(graph, node.input(1)?);
            }
            _ => return None,
        }
        Some(())
    }

    fn add(&mut self, graph: &Graph, id: ValueId) {
        let inner = graph.sole_producer(id);
        if self.factors.len() > 2 || inner.and_then(|index| self.add_node(graph, index)).is_none() {
            self.factors.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, graph, ops};

    fn cumulative(graph: &mut Graph, factor: f32) -> ValueId {
        let x = graph.inputs[0];
        let (factor, one) = (graph.add_scalar(factor), graph.add_scalar(1.0));
        let scaled = append(graph, "Div", &[x, factor], &[1, 4]);
        let erf = append(graph, "Erf", &[scaled], &[1, 4]);
        append(graph, "Add", &[one, erf], &[1, 4])
    }

    #[test]
    fn every_order_of_the_product_is_found() {
        for order in 0..3 {
            let mut graph = graph(&[1, 4]);
            let (x, half) = (graph.inputs[0], graph.add_scalar(0.5));
            let two = graph.add_scalar(2.0);
            let cumulative = cumulative(&mut graph, SQRT_2);
            match order {
                0 => {
                    let product = append(&mut graph, "Mul", &[x, cumulative], &[1, 4]);
                    append(&mut graph, "Mul", &[half, product], &[1, 4]);
                }
                1 => {
                    let halved = append(&mut graph, "Div", &[x, two], &[1, 4]);
                    append(&mut graph, "Mul", &[halved, cumulative], &[1, 4]);
                }
                _ => {
                    let halved = append(&mut graph, "Mul", &[cumulative, half], &[1, 4]);
                    append(&mut graph, "Mul", &[halved, x], &[1, 4]);
                }
            }
            let nodes = ops(&graph);
            form_gelu(&mut graph, 19);
            assert_eq!(ops(&graph), nodes, "opset 19 has none");
            form_gelu(&mut graph, 20);
            assert_eq!(ops(&graph), ["Gelu"], "order {order}");
            assert_eq!(graph.nodes[0].inputs, [Some(x)]);
        }
    }

    #[test]
    fn another_factor_is_none() {
        let mut graph = graph(&[1, 4]);
        let (x, half) = (graph.inputs[0], graph.add_scalar(0.5));
        let cumulative = cumulative(&mut graph, 1.5);
        let product = append(&mut graph, "Mul", &[x, cumulative], &[1, 4]);
        append(&mut graph, "Mul", &[product, half], &[1, 4]);
        form_gelu(&mut graph, 20);
        assert_eq!(ops(&graph), ["Div", "Erf", "Add", "Mul", "Mul"]);
    }
}
