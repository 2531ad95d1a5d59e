//! What has to hold for every graph that is written.

use std::collections::BTreeSet;

use crate::graph::{Constant, Dim, Graph, ValueId};

/// Checks that every node reads what was computed before it, and that values have names of their own and the shapes
/// of their constants.
///
/// # Errors
///
/// What is wrong, and with which node.
pub(crate) fn check(graph: &Graph) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut take = |id: ValueId, what: &str| {
        let name = graph.value(id).name.clone();
        if name.is_empty() {
            return Err(format!("{what} without a name"));
        }
        let repeated = format!("two values named `{name}`");
        if names.insert(name) { Ok(()) } else { Err(repeated) }
    };
    let mut known: BTreeSet<ValueId> = BTreeSet::new();
    for id in graph.inputs.iter().copied().chain(graph.used_constants()) {
        take(id, "a value that is given")?;
        known.insert(id);
    }
    for id in graph.used_constants() {
        check_constant(graph, id)?;
    }
    for node in &graph.nodes {
        if let Some(missing) = node.inputs.iter().flatten().find(|id| !known.contains(id)) {
            let name = &graph.value(*missing).name;
            return Err(format!("{} `{}` reads `{name}` before it is computed", node.op, node.name));
        }
        take(node.output, "a node's output")?;
        known.insert(node.output);
    }
    let computed = |id: &ValueId| graph.producer(*id).is_some();
    match graph.outputs.iter().find(|id| !computed(id)) {
        Some(id) => Err(format!("output `{}` is not computed by a node", graph.value(*id).name)),
        None => Ok(()),
    }
}

fn check_constant(graph: &Graph, id: ValueId) -> Result<(), String> {
    let value = graph.value(id);
    let Some(shape) = value.constant.as_ref().map(Constant::shape) else { return Ok(()) };
    let dims: Vec<Dim> = shape.iter().map(|size| Dim::Fixed(*size)).collect();
    if dims == value.dims {
        return Ok(());
    }
    Err(format!("constant `{}` of shape {shape:?} is declared as {:?}", value.name, value.dims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::name_values;
    use crate::passes::testing::{append, array, graph};

    fn named(break_it: impl FnOnce(&mut Graph)) -> Result<(), String> {
        let mut graph = graph(&[1, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("weight", array(&[2, 2], &[1.0; 4]));
        let x = append(&mut graph, "MatMul", &[input, weight], &[1, 2]);
        append(&mut graph, "Relu", &[x], &[1, 2]);
        name_values(&mut graph, &["in".to_string()], &["out".to_string()]);
        break_it(&mut graph);
        check(&graph)
    }

    #[test]
    fn what_is_broken_is_told() {
        assert_eq!(named(|_| ()), Ok(()));
        let expect = |break_it: fn(&mut Graph), message: &str| assert_eq!(named(break_it), Err(message.to_string()));
        expect(|graph| graph.nodes.swap(0, 1), "Relu `in_relu` reads `in_mat_mul` before it is computed");
        expect(|graph| graph.outputs = graph.inputs.clone(), "output `in` is not computed by a node");
        expect(
            |graph| {
                let weight = graph.used_constants()[0];
                graph.value_mut(weight).dims.pop();
            },
            "constant `weight` of shape [2, 2] is declared as [Fixed(2)]",
        );
        expect(
            |graph| {
                let output = graph.outputs[0];
                graph.value_mut(output).name = "weight".to_string();
            },
            "two values named `weight`",
        );
        expect(|graph| graph.value_mut(graph.inputs[0]).name.clear(), "a value that is given without a name");
    }
}
