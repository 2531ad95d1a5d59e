use crate::graph::{Attribute, Constant, Graph, Kind, Node};

/// ONNX's numbers for element types.
const FLOAT: i64 = 1;
const FLOAT16: i64 = 10;

/// The largest finite number of 16 bits.
const LARGEST: f32 = 65504.0;

/// Makes a graph of 16-bit numbers: inputs are cast when they come in, outputs before they go out.
///
/// # Errors
///
/// The name of a constant that is finite, and too large, and the constant's largest value.
pub(crate) fn to_half(graph: &mut Graph) -> Result<(), (String, f32)> {
    for id in graph.used_constants() {
        let value = graph.value(id);
        let Some(Constant::Float(array)) = value.constant.as_ref().filter(|_| value.kind == Kind::Float) else {
            continue;
        };
        if let Some(large) = array.iter().find(|value| value.is_finite() && value.abs() > LARGEST) {
            return Err((value.name.clone(), *large));
        }
    }
    for node in &mut graph.nodes {
        if node.op == "Cast" && node.attribute("to") == Some(&Attribute::Int(FLOAT)) {
            node.set("to", Attribute::Int(FLOAT16));
        }
    }
    for input in graph.inputs.clone() {
        if graph.value(input).kind == Kind::Float {
            let half = graph.add_value(graph.dims(input).to_vec());
            graph.redirect(input, half);
            graph.value_mut(input).kind = Kind::Float32;
            graph.nodes.insert(0, Node::new("Cast", [input], half).with("to", Attribute::Int(FLOAT16)));
        }
    }
    for place in 0..graph.outputs.len() {
        let half = graph.outputs[place];
        if graph.value(half).kind == Kind::Float {
            let output = graph.add_value_of(Kind::Float32, graph.dims(half).to_vec());
            graph.nodes.push(Node::new("Cast", [half], output).with("to", Attribute::Int(FLOAT)));
            graph.outputs[place] = output;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops};

    #[test]
    fn casts_stand_at_the_borders() {
        let mut graph = graph(&[1, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("weight", array(&[2, 2], &[1.0, 2.0, 3.0, -65504.0]));
        append(&mut graph, "MatMul", &[input, weight], &[1, 2]);
        assert_eq!(to_half(&mut graph), Ok(()));
        assert_eq!(ops(&graph), ["Cast", "MatMul", "Cast"]);
        assert_eq!(graph.nodes[0].input(0), Some(input));
        assert_eq!(graph.nodes[1].input(0), Some(graph.nodes[0].output));
        assert_eq!(graph.value(input).kind, Kind::Float32);
        assert_eq!(graph.value(graph.outputs[0]).kind, Kind::Float32);
        assert_eq!(graph.nodes[2].attribute("to"), Some(&Attribute::Int(FLOAT)));
    }

    #[test]
    fn what_would_become_infinite_is_refused() {
        let mut graph = graph(&[1, 2]);
        let input = graph.inputs[0];
        let [infinite, large] = [f32::NEG_INFINITY, 7e4].map(|value| graph.add_floats("mask", array(&[1], &[value])));
        append(&mut graph, "Add", &[input, infinite], &[1, 2]);
        assert_eq!(to_half(&mut graph.clone()), Ok(()));
        append(&mut graph, "Add", &[input, large], &[1, 2]);
        assert_eq!(to_half(&mut graph), Err(("mask".to_string(), 7e4)));
    }
}
