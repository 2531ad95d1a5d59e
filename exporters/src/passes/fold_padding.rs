use crate::graph::{Attribute, Graph, Node};

/// Moves padding with zeros into the convolution that follows.
pub(crate) fn fold_padding(graph: &mut Graph) {
    for index in (0..graph.nodes.len()).rev() {
        let Some((producer, pads)) = foldable(graph, index) else { continue };
        let source = graph.nodes[producer].inputs[0];
        let node = &mut graph.nodes[index];
        node.inputs[0] = source;
        node.set("pads", Attribute::Ints(pads));
    }
}

/// The `Pad` before the convolution at `index`, and the convolution's padding with it included.
fn foldable(graph: &Graph, index: usize) -> Option<(usize, Vec<i64>)> {
    let conv = &graph.nodes[index];
    if conv.op != "Conv" {
        return None;
    }
    let producer = graph.sole_producer(conv.input(0)?)?;
    let pad = &graph.nodes[producer];
    if pad.op != "Pad" || !pads_with_zeros(graph, pad) {
        return None;
    }
    let pads = graph.ints(pad.input(1)?)?;
    let rank = pads.len() / 2;
    let spatial = [&pads[2..rank], &pads[rank + 2..]].concat();
    let only_spatial = pads[..2].iter().chain(&pads[rank..rank + 2]).all(|pad| *pad == 0);
    let own = conv.ints("pads")?;
    let sums: Vec<i64> = own.iter().zip(&spatial).map(|(own, more)| own + more).collect();
    (only_spatial && spatial.iter().all(|pad| *pad >= 0)).then_some((producer, sums))
}

fn pads_with_zeros(graph: &Graph, pad: &Node) -> bool {
    pad.attribute("mode") == Some(&Attribute::Text("constant"))
        && pad.input(2).and_then(|value| graph.scalar(value)) == Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::drop_dead_nodes;
    use crate::passes::testing::{append, array, graph, ops, with};

    fn padded(value: f32) -> Graph {
        let mut graph = graph(&[1, 1, 4, 4]);
        let input = graph.inputs[0];
        let pads = graph.add_ints(vec![0, 0, 0, 1, 0, 0, 2, 3]);
        let value = graph.add_scalar(value);
        let x = append(&mut graph, "Pad", &[input, pads, value], &[1, 1, 6, 8]);
        with(&mut graph, "mode", Attribute::Text("constant"));
        let weight = graph.add_floats("conv.weight", array(&[1, 1, 1, 1], &[1.0]));
        append(&mut graph, "Conv", &[x, weight], &[1, 1, 8, 10]);
        with(&mut graph, "pads", Attribute::Ints(vec![1, 1, 1, 1]));
        graph
    }

    #[test]
    fn zeros_join_the_padding_of_the_convolution() {
        let mut graph = padded(0.0);
        fold_padding(&mut graph);
        drop_dead_nodes(&mut graph);
        assert_eq!(ops(&graph), ["Conv"]);
        assert_eq!(graph.nodes[0].ints("pads"), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn other_values_stay() {
        let mut graph = padded(1.0);
        fold_padding(&mut graph);
        assert_eq!(ops(&graph), ["Pad", "Conv"]);
    }
}
