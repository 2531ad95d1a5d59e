use ndarray::{Array1, ArrayD, Axis, Ix1};

use crate::graph::{Attribute, Graph, Node, ValueId};

/// Folds a batch norm into the convolution or linear layer that feeds it, and it alone.
///
/// With `s = gamma / sqrt(var + epsilon)`: the weights of an output channel are multiplied by its `s`, and the bias
/// becomes `(bias - mean) * s + beta`. Computed in `f64`. A layer with a channel for which that leaves `f32` too few bits
/// keeps its norm.
pub(crate) fn fold_batch_norm(graph: &mut Graph) {
    let mut index = 0;
    while index < graph.nodes.len() {
        if graph.nodes[index].op == "BatchNormalization" && fold(graph, index).is_some() {
            graph.nodes.remove(index);
        } else {
            index += 1;
        }
    }
}

/// Moves the norm at `index` into its producer; the norm's output becomes the producer's.
fn fold(graph: &mut Graph, index: usize) -> Option<()> {
    let norm = graph.nodes[index].clone();
    let producer = graph.sole_producer(norm.input(0)?)?;
    let target = graph.nodes[producer].clone();
    let (weight, bias) = (target.input(1)?, target.input(2));
    let affine = Affine::of(graph, &norm)?;
    let folded = scaled(&target, graph.floats(weight)?, &affine.scale)?;
    let old_bias = match bias {
        Some(bias) => doubles(graph, bias)?,
        None => Array1::zeros(affine.scale.len()),
    };
    if !is_exact(&affine, &old_bias) {
        return None;
    }
    let Affine { scale, shift, .. } = affine;
    let new_bias: ArrayD<f32> = (old_bias * &scale + shift).mapv(|value| value as f32).into_dyn();

    let name = graph.value(weight).name.clone();
    let bias_name = format!("{}bias", name.strip_suffix("weight").unwrap_or(&name));
    let weight = graph.add_floats(name, folded);
    let bias_value = graph.add_floats(bias_name, new_bias);
    let node = &mut graph.nodes[producer];
    node.inputs = vec![node.inputs[0], Some(weight), Some(bias_value)];
    node.doc = folded_doc(bias.is_some(), norm.module.as_deref());
    node.output = norm.output;
    Some(())
}

/// The largest part of a folded bias that may cancel in the layer, over what the norm adds in the end: 13 of the 24 bits of
/// an `f32`. A channel without variance, whose mean is far from zero, has more: its output would be rounding errors.
const CANCELLED: f64 = 8192.0;

/// Whether `f32` can hold what the norm makes of every channel. It moves the layer's output by its mean, times the scale,
/// and that takes all bits of a bias where the mean is many deviations from zero.
fn is_exact(affine: &Affine, bias: &Array1<f64>) -> bool {
    let Affine { scale, shift, size } = affine;
    let channels = scale.iter().zip(shift).zip(size).zip(bias);
    channels.into_iter().all(|(((scale, shift), size), bias)| {
        let moved = (shift + bias * scale).abs();
        moved.is_finite() && scale.is_finite() && moved <= CANCELLED * size
    })
}

/// The weight of a node with every output channel multiplied by its factor.
fn scaled(node: &Node, weight: &ArrayD<f32>, scale: &Array1<f64>) -> Option<ArrayD<f32>> {
    let (out_axis, groups) = match (node.op, node.attribute("group")) {
        ("Conv", _) => (Axis(0), 1),
        ("Gemm", _) => (Axis(1), 1),
        // `[in, out / groups, ...]`: the outputs of a group are behind the inputs of that group.
        ("ConvTranspose", Some(Attribute::Int(groups))) => (Axis(1), usize::try_from(*groups).ok()?),
        _ => return None,
    };
    let outputs = weight.len_of(out_axis);
    let mut scaled = weight.clone();
    for (group, mut part) in scaled.axis_chunks_iter_mut(Axis(0), weight.len_of(Axis(0)) / groups).enumerate() {
        for (output, mut channel) in part.axis_iter_mut(out_axis).enumerate() {
            let scale = scale[group * outputs + output];
            channel.mapv_inplace(|value| (f64::from(value) * scale) as f32);
        }
    }
    Some(scaled)
}

/// How a node says what its bias was made of: a script that counts the model's parameters needs to know.
fn folded_doc(had_bias: bool, norm: Option<&str>) -> String {
    let what = if had_bias { "bias and batch norm" } else { "batch norm" };
    format!("{what} folded in: {}", norm.unwrap_or("unnamed"))
}

/// A batch norm with given statistics: `x * scale + shift`, per channel.
struct Affine {
    scale: Array1<f64>,
    shift: Array1<f64>,
    /// How large the output is: a deviation and the shift of the norm.
    size: Array1<f64>,
}

impl Affine {
    fn of(graph: &Graph, norm: &Node) -> Option<Self> {
        let Some(Attribute::Float(epsilon)) = norm.attribute("epsilon") else { return None };
        let epsilon = f64::from(*epsilon);
        let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|input| doubles(graph, norm.input(input)?));
        let (gamma, beta) = (gamma?, beta?);
        // A network that is dead altogether has neither.
        let size = (gamma.mapv(f64::abs) + beta.mapv(f64::abs)).mapv(|size| size.max(1e-3));
        let scale = gamma / (variance? + epsilon).mapv(f64::sqrt);
        let shift = beta - mean? * &scale;
        Some(Self { scale, shift, size })
    }
}

fn doubles(graph: &Graph, id: ValueId) -> Option<Array1<f64>> {
    graph.floats(id)?.mapv(f64::from).into_dimensionality::<Ix1>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::{append, array, graph, ops, with};

    fn norm(graph: &mut Graph, input: ValueId, shape: &[usize]) -> ValueId {
        let gamma = graph.add_floats("gamma", array(&[2], &[2.0, 3.0]));
        let beta = graph.add_floats("beta", array(&[2], &[0.5, -0.5]));
        let mean = graph.add_floats("mean", array(&[2], &[1.0, 2.0]));
        let variance = graph.add_floats("variance", array(&[2], &[3.0, 15.0]));
        let output = append(graph, "BatchNormalization", &[input, gamma, beta, mean, variance], shape);
        with(graph, "epsilon", Attribute::Float(1.0));
        output
    }

    #[test]
    fn a_convolution_takes_the_norm_in() {
        let mut graph = graph(&[1, 1, 2, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("conv.weight", array(&[2, 1, 1, 1], &[4.0, 8.0]));
        let x = append(&mut graph, "Conv", &[input, weight], &[1, 2, 2, 2]);
        graph.nodes[0].module = Some("conv".to_string());
        let output = norm(&mut graph, x, &[1, 2, 2, 2]);
        fold_batch_norm(&mut graph);
        // Scales 2 / sqrt(4) = 1 and 3 / sqrt(16) = 0.75.
        assert_eq!(ops(&graph), ["Conv"]);
        let conv = &graph.nodes[0];
        assert_eq!(conv.output, output);
        let constant = |index| graph.floats(conv.input(index).expect("an input")).expect("floats").clone();
        assert_eq!(constant(1), array(&[2, 1, 1, 1], &[4.0, 6.0]));
        assert_eq!(constant(2), array(&[2], &[0.5 - 1.0, -0.5 - 1.5]));
        assert_eq!(conv.doc, "batch norm folded in: unnamed");
    }

    #[test]
    fn a_linear_layer_keeps_its_bias_within_the_new_one() {
        let mut graph = graph(&[1, 1]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("head.weight", array(&[1, 2], &[4.0, 8.0]));
        let bias = graph.add_floats("head.bias", array(&[2], &[10.0, 20.0]));
        let x = append(&mut graph, "Gemm", &[input, weight, bias], &[1, 2]);
        norm(&mut graph, x, &[1, 2]);
        fold_batch_norm(&mut graph);
        assert_eq!(ops(&graph), ["Gemm"]);
        let bias = graph.floats(graph.nodes[0].input(2).expect("a bias")).expect("floats");
        assert_eq!(*bias, array(&[2], &[10.0 - 0.5, 15.0 - 2.0]));
    }

    #[test]
    fn a_transposed_convolution_takes_the_norm_in_group_by_group() {
        for (groups, weight, expected) in [
            // [in, out]: two inputs, two outputs.
            (1, array(&[2, 2, 1, 1], &[4.0, 8.0, 12.0, 16.0]), [4.0, 6.0, 12.0, 12.0]),
            // Four inputs in two groups of one output each.
            (2, array(&[4, 1, 1, 1], &[4.0, 8.0, 12.0, 16.0]), [4.0, 8.0, 9.0, 12.0]),
        ] {
            let shape = weight.shape().to_vec();
            let mut graph = graph(&[1, shape[0], 2, 2]);
            let input = graph.inputs[0];
            let weight = graph.add_floats("up.weight", weight);
            let x = append(&mut graph, "ConvTranspose", &[input, weight], &[1, 2, 2, 2]);
            with(&mut graph, "group", Attribute::Int(groups));
            norm(&mut graph, x, &[1, 2, 2, 2]);
            fold_batch_norm(&mut graph);
            assert_eq!(ops(&graph), ["ConvTranspose"]);
            let constant =
                |index| graph.floats(graph.nodes[0].input(index).expect("an input")).expect("floats").clone();
            assert_eq!(constant(1), array(&shape, &expected));
            assert_eq!(constant(2), array(&[2], &[0.5 - 1.0, -0.5 - 1.5]));
        }
    }

    /// A channel that is the same everywhere, of a network that collapsed.
    #[test]
    fn a_norm_without_variance_stays_unless_its_mean_is_small() {
        for (mean, variance, ops_left) in
            [(1e6, 0.0, 2), (f32::MAX, 0.0, 2), (0.01, 0.0, 1), (0.0, 0.0, 1), (1e6, 1e9, 1)]
        {
            let mut graph = graph(&[1, 1, 2, 2]);
            let input = graph.inputs[0];
            let weight = graph.add_floats("conv.weight", array(&[1, 1, 1, 1], &[4.0]));
            let x = append(&mut graph, "Conv", &[input, weight], &[1, 1, 2, 2]);
            let norm = [1.0, 0.5, mean, variance].map(|value| graph.add_floats("value", array(&[1], &[value])));
            let [gamma, beta, mean, variance] = norm;
            append(&mut graph, "BatchNormalization", &[x, gamma, beta, mean, variance], &[1, 1, 2, 2]);
            with(&mut graph, "epsilon", Attribute::Float(1e-5));
            fold_batch_norm(&mut graph);
            assert_eq!(ops(&graph).len(), ops_left);
        }
    }

    #[test]
    fn a_norm_stays_where_its_input_has_other_readers_or_no_weights() {
        let mut graph = graph(&[1, 2, 2, 2]);
        let input = graph.inputs[0];
        let weight = graph.add_floats("conv.weight", array(&[2, 2, 1, 1], &[1.0; 4]));
        let x = append(&mut graph, "Conv", &[input, weight], &[1, 2, 2, 2]);
        let normed = norm(&mut graph, x, &[1, 2, 2, 2]);
        append(&mut graph, "Add", &[x, normed], &[1, 2, 2, 2]);
        fold_batch_norm(&mut graph);
        assert_eq!(ops(&graph), ["Conv", "BatchNormalization", "Add"]);
    }
}
