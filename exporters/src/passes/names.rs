use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Constant, Graph, Node, ValueId};

/// Names every node and value after the module that made it and its place in the order of execution, never after an
/// identity: `stem.conv`, `stem.conv_relu6`, `head`.
///
/// A node with parameters has its module's path; a node without has the path of the last one before it and what it
/// does. Equal constants share one value. Every input and output has a name that the caller gives.
pub(crate) fn name_values(graph: &mut Graph, inputs: &[String], outputs: &[String]) {
    share_constants(graph);
    let mut taken: BTreeSet<String> = inputs.iter().chain(outputs).cloned().collect();
    // The module behind a value, and the place of the node that computes the value.
    let mut roots: BTreeMap<ValueId, (usize, String)> =
        graph.inputs.iter().zip(inputs).map(|(id, name)| (*id, (0, name.clone()))).collect();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let latest = || node.inputs.iter().flatten().filter_map(|id| roots.get(id)).max_by_key(|(place, _)| *place);
        let inherited = || latest().map(|(_, root)| root.clone());
        let (root, wanted) = match &node.module {
            Some(module) => (module.clone(), module.clone()),
            None => {
                let root = inherited().unwrap_or_else(|| "constant".to_string());
                let wanted = format!("{root}_{}", suffix(graph, node));
                (root, wanted)
            }
        };
        let name = unique(&mut taken, wanted);
        roots.insert(node.output, (index + 1, root));
        let id = node.output;
        graph.nodes[index].name.clone_from(&name);
        graph.value_mut(id).name = name;
    }
    for id in graph.used_constants() {
        let value = graph.value(id);
        let wanted = match &value.constant {
            _ if !value.name.is_empty() => value.name.clone(),
            Some(Constant::Ints(values)) => format!("ints_{}", joined(values)),
            Some(Constant::Float(array)) if array.ndim() == 0 => format!("float_{}", joined(array)),
            _ => "constant".to_string(),
        };
        let name = unique(&mut taken, wanted);
        graph.value_mut(id).name = name;
    }
    let boundaries = graph.inputs.clone().into_iter().zip(inputs).chain(graph.outputs.clone().into_iter().zip(outputs));
    for (id, name) in boundaries {
        graph.value_mut(id).name.clone_from(name);
    }
}

fn unique(taken: &mut BTreeSet<String>, wanted: String) -> String {
    let mut name = wanted.clone();
    let mut count = 1;
    while !taken.insert(name.clone()) {
        count += 1;
        name = format!("{wanted}_{count}");
    }
    name
}

fn joined<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> String {
    let texts: Vec<String> = values.into_iter().take(8).map(ToString::to_string).collect();
    texts.join("_")
}

/// What a node without parameters is called.
fn suffix(graph: &Graph, node: &Node) -> String {
    let bound = |index| node.input(index).and_then(|id| graph.scalar(id));
    match node.op {
        "Clip" if (bound(1), bound(2)) == (Some(0.0), Some(6.0)) => "relu6".to_string(),
        "Reshape" if graph.dims(node.output).len() == 2 => "flatten".to_string(),
        "GlobalAveragePool" => "pool".to_string(),
        "AveragePool" => "avg_pool".to_string(),
        "MaxPool" => "max_pool".to_string(),
        operator => snake_case(operator),
    }
}

fn snake_case(operator: &str) -> String {
    let mut text = String::new();
    for letter in operator.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// Makes equal constants one: numbers of the forward, and parameters of one name, which a layer that is used twice has
/// twice when something was folded into it.
fn share_constants(graph: &mut Graph) {
    let mut shared: Vec<ValueId> = Vec::new();
    for id in graph.used_constants() {
        let same = |other: ValueId| {
            let (one, other) = (graph.value(other), graph.value(id));
            one.name == other.name && one.kind == other.kind && one.constant == other.constant
        };
        match shared.iter().find(|other| same(**other)) {
            Some(other) => graph.redirect(id, *other),
            None => shared.push(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph};

    #[test]
    fn names_follow_modules_and_order() {
        let mut graph = graph(&[1, 1, 4, 4]);
        let shape = [1, 1, 4, 4];
        let mut x = graph.inputs[0];
        for _ in 0..2 {
            let weight = graph.add_floats("stem.conv.weight", array(&[1, 1, 1, 1], &[1.0]));
            x = append(&mut graph, "Conv", &[x, weight], &shape);
            graph.nodes.last_mut().expect("a node").module = Some("stem.conv".to_string());
            let bounds = [0.0, 6.0].map(|bound| graph.add_scalar(bound));
            x = append(&mut graph, "Clip", &[x, bounds[0], bounds[1]], &shape);
        }
        append(&mut graph, "Add", &[x, x], &shape);
        name_values(&mut graph, &["images".to_string()], &["logits".to_string()]);
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["stem.conv", "stem.conv_relu6", "stem.conv_2", "stem.conv_relu6_2", "stem.conv_add"]);
        assert_eq!(graph.value(graph.outputs[0]).name, "logits");
        let constants: Vec<&str> = graph.used_constants().iter().map(|id| graph.value(*id).name.as_str()).collect();
        // The layer that is used twice has one weight.
        assert_eq!(constants, ["stem.conv.weight", "float_0", "float_6"]);
    }
}
