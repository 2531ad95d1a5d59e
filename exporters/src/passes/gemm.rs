use crate::graph::{Graph, Node, ValueId};

/// Turns a matrix product with a constant, and the addition of a constant row to it, into one `Gemm`. Constants of
/// other products lose leading axes of size 1.
pub(crate) fn form_gemm(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        drop_leading_axes(graph, index);
        if !is_linear(graph, &graph.nodes[index]) {
            continue;
        }
        graph.nodes[index].op = "Gemm";
        if let Some((add, bias)) = added_row(graph, graph.nodes[index].output) {
            let bias = as_vector(graph, bias);
            let output = graph.nodes[add].output;
            graph.nodes[index].inputs.push(Some(bias));
            graph.nodes[index].output = output;
            // The addition reads a value that nothing computes now, and nothing reads what it computes.
            graph.nodes[add].output = graph.add_value(Vec::new());
        }
    }
    super::drop_dead_nodes(graph);
}

/// A constant matrix that was given leading axes to match the rank of the activations.
fn drop_leading_axes(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    if node.op != "MatMul" {
        return None;
    }
    let weight = node.input(1)?;
    let array = graph.floats(weight)?;
    let leading = array.ndim().checked_sub(2)?;
    if leading == 0 || array.shape()[..leading].iter().any(|size| *size != 1) {
        return None;
    }
    let matrix = array.clone().into_shape_with_order(ndarray::IxDyn(&array.shape()[leading..])).ok()?;
    let name = graph.value(weight).name.clone();
    let matrix = graph.add_floats(name, matrix);
    graph.nodes[index].inputs[1] = Some(matrix);
    Some(())
}

/// A product of a matrix of activations, one row per image, and a constant matrix.
fn is_linear(graph: &Graph, node: &Node) -> bool {
    let rank = |index| node.input(index).map(|id| graph.dims(id).len());
    let constant = |index| node.input(index).is_some_and(|id| graph.floats(id).is_some());
    node.op == "MatMul" && rank(0) == Some(2) && rank(1) == Some(2) && constant(1) && !constant(0)
}

/// The addition of a constant row that is the only reader of `product`, and that row.
fn added_row(graph: &Graph, product: ValueId) -> Option<(usize, ValueId)> {
    let columns = graph.dims(product).get(1)?.fixed()?;
    graph.sole_producer(product)?;
    let add = graph.nodes.iter().position(|node| node.op == "Add" && node.inputs.contains(&Some(product)))?;
    let row = graph.nodes[add].inputs.iter().flatten().find(|id| **id != product)?;
    let shape = graph.floats(*row)?.shape().to_vec();
    (shape == [columns] || shape == [1, columns]).then_some((add, *row))
}

fn as_vector(graph: &mut Graph, row: ValueId) -> ValueId {
    match graph.floats(row) {
        Some(array) if array.ndim() == 2 => {
            let vector = ndarray::Array1::from_iter(array.iter().copied()).into_dyn();
            let name = graph.value(row).name.clone();
            graph.add_floats(name, vector)
        }
        _ => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops};

    #[test]
    fn product_and_row_become_one_node() {
        let mut graph = graph(&[1, 3]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("head.weight", array(&[3, 2], &[0.0; 6]));
        let bias = graph.add_floats("head.bias", array(&[1, 2], &[1.0, 2.0]));
        let product = append(&mut graph, "MatMul", &[input, weight], &[1, 2]);
        let sum = append(&mut graph, "Add", &[bias, product], &[1, 2]);
        append(&mut graph, "Relu", &[sum], &[1, 2]);
        form_gemm(&mut graph);
        assert_eq!(ops(&graph), ["Gemm", "Relu"]);
        let bias = graph.nodes[0].input(2).expect("a bias");
        assert_eq!(graph.floats(bias), Some(&array(&[2], &[1.0, 2.0])));
        assert_eq!(graph.nodes[1].input(0), Some(graph.nodes[0].output));
    }

    #[test]
    fn products_of_activations_and_of_higher_rank_stay() {
        let mut graph = graph(&[1, 3, 3]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("head.weight", array(&[1, 3, 2], &[0.0; 6]));
        let product = append(&mut graph, "MatMul", &[input, input], &[1, 3, 3]);
        append(&mut graph, "MatMul", &[product, weight], &[1, 3, 2]);
        form_gemm(&mut graph);
        assert_eq!(ops(&graph), ["MatMul", "MatMul"]);
        let weight = graph.nodes[1].input(1).expect("a weight");
        assert_eq!(graph.shape(weight), Some(vec![3, 2]));
    }

    #[test]
    fn an_addition_of_several_rows_stays() {
        let mut graph = graph(&[2, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("head.weight", array(&[2, 2], &[0.0; 4]));
        let rows = graph.add_floats("rows", array(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        let product = append(&mut graph, "MatMul", &[input, weight], &[2, 2]);
        append(&mut graph, "Add", &[product, rows], &[2, 2]);
        form_gemm(&mut graph);
        assert_eq!(ops(&graph), ["Gemm", "Add"]);
    }

    #[test]
    fn an_addition_of_activations_stays() {
        let mut graph = graph(&[1, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("head.weight", array(&[2, 2], &[0.0; 4]));
        let product = append(&mut graph, "MatMul", &[input, weight], &[1, 2]);
        append(&mut graph, "Add", &[product, input], &[1, 2]);
        form_gemm(&mut graph);
        assert_eq!(ops(&graph), ["Gemm", "Add"]);
        assert_eq!(graph.nodes[0].inputs.len(), 2);
    }
}
