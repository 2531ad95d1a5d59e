//! A view of a supernet is the small layer: outputs and gradients against Burn's layer with hand-cropped weights and
//! against naive loops, zeros outside the view, and optimizer steps that stay inside it.

mod common;

use burn::module::{Module, ParamId};
use burn::nn::{BatchNormConfig, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::Gradients;
use common::conv::{Case, Naive, cases};
use common::{
    Run, assert_close, assert_equal, assert_same_bits, cropped, device, eighths, entries, fractions, gradient,
    in_zeros, param, replaced, to_f64, values,
};
use elastic_layers::{
    Architecture, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticLinear, ElasticLinearConfig, SearchSpace,
};
use proptest::prelude::*;

/// A module after a step of plain gradient descent.
fn stepped<M: Module + Clone>(module: &M, gradients: Gradients, of: &M) -> M {
    let gradients = GradientsParams::from_grads(gradients, of);
    SgdConfig::new().init().step(0.25, module.clone(), gradients)
}

fn ids<M: Module>(module: &M) -> Vec<ParamId> {
    burn::module::list_param_ids(module)
}

/// The weights and bias of a supernet's convolution.
fn convolution_values(case: &Case) -> (Vec<f32>, Vec<f32>) {
    (eighths(case.seed, case.weight_shape(case.max).iter().product()), eighths(case.seed + 1, case.max[1]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_convolution_is_the_small_one(mut case in cases()) {
        case.seed >>= 8;
        let (weight, bias) = convolution_values(&case);
        let (small_weight, small_bias) = case.active_values(&weight, &bias);
        let (supernet, _, architecture) = case.elastic(&weight, &bias, &device());
        let view = supernet.select(&architecture);
        let burn = case.burn(case.active, &small_weight, &small_bias, &device());
        prop_assert_eq!(view.active_channels(), case.active);

        let shape = case.images(case.active[0]);
        let images = eighths(case.seed + 2, shape.iter().product());
        let upstream = |count| eighths(case.seed + 3, count);
        let ours = Run::new(&images, shape, upstream, |x| view.forward(x));
        let theirs = Run::new(&images, shape, upstream, |x| burn.forward(x));
        let naive = Naive::new(&case, case.active, &images, &small_weight, &small_bias, &upstream(ours.output.len()));

        let [rows, columns] = case.output_size().expect("an output");
        prop_assert_eq!(&ours.output_shape, &[case.batch, case.active[1], rows, columns]);
        assert_equal("output, Burn", &ours.output, &to_f64(&theirs.output));
        assert_equal("output, naive", &ours.output, &naive.output);
        assert_equal("input gradient, Burn", &ours.input_gradient, &to_f64(&theirs.input_gradient));
        assert_equal("input gradient, naive", &ours.input_gradient, &naive.input);

        let of_weight = gradient(&supernet.weight, &ours.gradients);
        let of_small = gradient(&burn.weight, &theirs.gradients);
        let (large, small) = (case.weight_shape(case.max), case.weight_shape(case.active));
        assert_equal("weight gradient, Burn", &of_weight, &to_f64(&in_zeros(&of_small, &large, &small)));
        assert_equal("weight gradient, naive", &cropped(&of_weight, &large, &small), &naive.weight);
        if let (Some(ours_bias), Some(theirs_bias)) = (&supernet.bias, &burn.bias) {
            let (of_bias, of_small) = (gradient(ours_bias, &ours.gradients), gradient(theirs_bias, &theirs.gradients));
            let (max, active) = ([case.max[1]], [case.active[1]]);
            assert_equal("bias gradient, Burn", &of_bias, &to_f64(&in_zeros(&of_small, &max, &active)));
            assert_equal("bias gradient, naive", &cropped(&of_bias, &max, &active), &naive.bias);
        }
    }

    #[test]
    fn a_materialised_convolution_has_the_small_weights_and_nothing_else(mut case in cases()) {
        case.seed >>= 8;
        let (weight, bias) = convolution_values(&case);
        let (small_weight, small_bias) = case.active_values(&weight, &bias);
        let (supernet, space, architecture) = case.elastic(&weight, &bias, &device());
        let small = supernet.materialize_at(&architecture);
        assert_same_bits("weight", &values(small.weight.val()), &small_weight);
        prop_assert_eq!(small.weight.val().dims(), case.weight_shape(case.active));
        if let Some(small) = &small.bias {
            assert_same_bits("bias", &values(small.val()), &small_bias);
        }
        prop_assert!(ids(&small).iter().all(|id| !ids(&supernet).contains(id)), "parameters of its own");
        // Sizes are fixed: it is the same in any architecture.
        let again = small.select(&space.smallest());
        prop_assert_eq!(again.active_channels(), case.active);

        let shape = case.images(case.active[0]);
        let images = fractions(case.seed + 2, shape.iter().product());
        let upstream = |count| fractions(case.seed + 3, count);
        let view = Run::new(&images, shape, upstream, |x| supernet.select(&architecture).forward(x));
        let run = Run::new(&images, shape, upstream, |x| small.forward(x));
        assert_equal("output", &run.output, &to_f64(&view.output));
        assert_equal("input gradient", &run.input_gradient, &to_f64(&view.input_gradient));
        let of_small = gradient(&small.weight, &run.gradients);
        let of_view = gradient(&supernet.weight, &view.gradients);
        let (large, inside) = (case.weight_shape(case.max), case.weight_shape(case.active));
        assert_equal("weight gradient", &of_small, &to_f64(&cropped(&of_view, &large, &inside)));
    }

    #[test]
    fn a_step_on_a_convolutions_view_moves_the_supernet_inside_the_view_only(mut case in cases()) {
        case.seed >>= 8;
        let (weight, bias) = convolution_values(&case);
        let (small_weight, small_bias) = case.active_values(&weight, &bias);
        let (supernet, _, architecture) = case.elastic(&weight, &bias, &device());
        let view = supernet.select(&architecture);
        prop_assert_eq!(ids(&view), ids(&supernet));
        let burn = case.burn(case.active, &small_weight, &small_bias, &device());
        let shape = case.images(case.active[0]);
        let images = eighths(case.seed + 2, shape.iter().product());
        let upstream = |count| eighths(case.seed + 3, count);

        let ours = Run::new(&images, shape, upstream, |x| view.forward(x));
        let theirs = Run::new(&images, shape, upstream, |x| burn.forward(x));
        let (after, small) = (stepped(&supernet, ours.gradients, &view), stepped(&burn, theirs.gradients, &burn));
        let (large, inside) = (case.weight_shape(case.max), case.weight_shape(case.active));
        let expected = replaced(&weight, &values(small.weight.val()), &large, &inside);
        assert_same_bits("weight", &values(after.weight.val()), &expected);
        if let (Some(after), Some(small)) = (after.bias, small.bias) {
            let expected = replaced(&bias, &values(small.val()), &[case.max[1]], &[case.active[1]]);
            assert_same_bits("bias", &values(after.val()), &expected);
        }
        assert_same_bits("the supernet that was stepped from", &values(supernet.weight.val()), &weight);
    }
}

/// A supernet's linear layer of dimensions "in" and "out", and an architecture of it.
struct Linear {
    layer: ElasticLinear,
    architecture: Architecture,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    fn new([inputs, outputs]: [(usize, usize); 2], bias: bool, seed: u64) -> Self {
        let mut space = SearchSpace::new();
        let mut size = |name, max| space.channels(name, max).range(1..=max).add().expect("a dimension");
        let sizes = [size("in", inputs.0), size("out", outputs.0)];
        let [ins, outs] = sizes;
        let mut layer = ElasticLinearConfig::new(ins, outs).with_bias(bias).init(&device());
        let (weight, shift) = (eighths(seed, inputs.0 * outputs.0), eighths(seed + 1, outputs.0));
        layer.weight = param(&weight, [inputs.0, outputs.0], &device());
        layer.bias = layer.bias.map(|_| param(&shift, [outputs.0], &device()));
        let architecture = space.architecture([inputs.1, outputs.1]).expect("sizes in range");
        Self { layer, architecture, weight, bias: shift }
    }
}

/// A maximum and a size of at most that.
fn sizes() -> impl Strategy<Value = (usize, usize)> {
    (1..=9usize).prop_flat_map(|max| (Just(max), 1..=max))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_linear_layer_is_the_small_one(ins in sizes(), outs in sizes(), batch in 1..=4usize, bias: bool, seed in 0..1u64 << 50) {
        let supernet = Linear::new([ins, outs], bias, seed);
        let (large, small) = ([ins.0, outs.0], [ins.1, outs.1]);
        let small_weight = cropped(&supernet.weight, &large, &small);
        let mut burn = LinearConfig::new(ins.1, outs.1).with_bias(bias).init(&device());
        burn.weight = param(&small_weight, small, &device());
        burn.bias = burn.bias.map(|_| param(&supernet.bias[..outs.1], [outs.1], &device()));
        let view = supernet.layer.select(&supernet.architecture);

        let input = eighths(seed + 2, batch * ins.1);
        let upstream = |count| eighths(seed + 3, count);
        let ours = Run::new(&input, [batch, ins.1], upstream, |x| view.forward(x));
        let theirs = Run::new(&input, [batch, ins.1], upstream, |x| burn.forward(x));
        let g = upstream(batch * outs.1);
        let (mut y, mut dx, mut dw, mut db) =
            (vec![0.0; batch * outs.1], vec![0.0; batch * ins.1], vec![0.0; ins.1 * outs.1], vec![0.0; outs.1]);
        for (row, column) in (0..batch).flat_map(|row| (0..outs.1).map(move |column| (row, column))) {
            let to = row * outs.1 + column;
            y[to] = if bias { supernet.bias[column] as f64 } else { 0.0 };
            db[column] += g[to] as f64;
            for feature in 0..ins.1 {
                let (x, w) = (input[row * ins.1 + feature] as f64, small_weight[feature * outs.1 + column] as f64);
                y[to] += x * w;
                dx[row * ins.1 + feature] += g[to] as f64 * w;
                dw[feature * outs.1 + column] += g[to] as f64 * x;
            }
        }
        assert_equal("output, Burn", &ours.output, &to_f64(&theirs.output));
        assert_equal("output, naive", &ours.output, &y);
        assert_equal("input gradient, Burn", &ours.input_gradient, &to_f64(&theirs.input_gradient));
        assert_equal("input gradient, naive", &ours.input_gradient, &dx);
        let of_weight = gradient(&supernet.layer.weight, &ours.gradients);
        let of_small = gradient(&burn.weight, &theirs.gradients);
        assert_equal("weight gradient, Burn", &of_weight, &to_f64(&in_zeros(&of_small, &large, &small)));
        assert_equal("weight gradient, naive", &cropped(&of_weight, &large, &small), &dw);
        if let Some(bias) = &supernet.layer.bias {
            let of_bias = gradient(bias, &ours.gradients);
            assert_equal("bias gradient, naive", &of_bias[..outs.1], &db);
            assert_equal("bias gradient outside", &of_bias[outs.1..], &vec![0.0; outs.0 - outs.1]);
        }

        let (after, small_after) =
            (stepped(&supernet.layer, ours.gradients, &view), stepped(&burn, theirs.gradients, &burn));
        let expected = replaced(&supernet.weight, &values(small_after.weight.val()), &large, &small);
        assert_same_bits("weight after a step", &values(after.weight.val()), &expected);

        let materialised = supernet.layer.materialize_at(&supernet.architecture);
        assert_same_bits("materialised weight", &values(materialised.weight.val()), &small_weight);
        let run = Run::new(&input, [batch, ins.1], upstream, |x| materialised.forward(x));
        // Burn's product of a slice may give zeros of the other sign.
        assert_equal("materialised output", &run.output, &to_f64(&ours.output));
    }
}

/// Output and gradients of a batch norm over `[batch, features, positions]`, from the definition.
struct NaiveNorm {
    output: Vec<f64>,
    input: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    /// By how much an error of a rounding is magnified: the largest 1 / deviation.
    gain: f64,
}

impl NaiveNorm {
    fn new(
        [batch, features, positions]: [usize; 3],
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        g: &[f32],
        e: f64,
    ) -> Self {
        let zeros = |count| vec![0.0; count];
        let mut naive = Self {
            output: zeros(x.len()),
            input: zeros(x.len()),
            gamma: zeros(features),
            beta: zeros(features),
            gain: 1.0,
        };
        for feature in 0..features {
            let places: Vec<_> = (0..batch)
                .flat_map(|image| {
                    (0..positions).map(move |position| (image * features + feature) * positions + position)
                })
                .collect();
            let mean_of = |value: &dyn Fn(usize) -> f64| {
                places.iter().map(|&place| value(place)).sum::<f64>() / places.len() as f64
            };
            let mean = mean_of(&|place| x[place] as f64);
            let variance = mean_of(&|place| (x[place] as f64 - mean).powi(2));
            let deviation = (variance + e).sqrt();
            let normal = |place: usize| (x[place] as f64 - mean) / deviation;
            let mean_gradient = mean_of(&|place| g[place] as f64);
            let mean_product = mean_of(&|place| g[place] as f64 * normal(place));
            for &place in &places {
                naive.output[place] = gamma[feature] as f64 * normal(place) + beta[feature] as f64;
                naive.input[place] = gamma[feature] as f64 / deviation
                    * (g[place] as f64 - mean_gradient - normal(place) * mean_product);
            }
            naive.gamma[feature] = mean_product * places.len() as f64;
            naive.beta[feature] = mean_gradient * places.len() as f64;
            naive.gain = naive.gain.max(1.0 / deviation);
        }
        naive
    }
}

fn norm(features: usize, gamma: &[f32], beta: &[f32]) -> (ElasticBatchNorm, SearchSpace) {
    let mut space = SearchSpace::new();
    let size = space.channels("features", features).range(1..=features).add().expect("a dimension");
    let mut norm = ElasticBatchNormConfig::new(size).init(&device());
    norm.gamma = param(gamma, [features], &device());
    norm.beta = param(beta, [features], &device());
    (norm, space)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_batch_norm_is_the_small_one(
        (max, active) in sizes(), batch in 1..=4usize, map in [1..=5usize, 1..=5usize], seed in 0..1u64 << 50
    ) {
        let (gamma, beta) = (fractions(seed, max), fractions(seed + 1, max));
        let (supernet, space) = norm(max, &gamma, &beta);
        let before = entries(&supernet);
        let view = supernet.select(&space.architecture([active]).expect("a size in range"));
        let mut burn = BatchNormConfig::new(active).init(&device());
        burn.gamma = param(&gamma[..active], [active], &device());
        burn.beta = param(&beta[..active], [active], &device());

        let shape = [batch, active, map[0], map[1]];
        let images = fractions(seed + 2, shape.iter().product());
        let upstream = |count| fractions(seed + 3, count);
        let ours = Run::new(&images, shape, upstream, |x| view.forward(x));
        let theirs = Run::new(&images, shape, upstream, |x| burn.forward(x));
        let naive = NaiveNorm::new(
            [batch, active, map[0] * map[1]], &images, &gamma[..active], &beta[..active], &upstream(images.len()), 1e-5,
        );
        let of_gamma = gradient(&supernet.gamma, &ours.gradients);
        let of_beta = gradient(&supernet.beta, &ours.gradients);
        let tolerance = 1e-5 * naive.gain;
        assert_close("output, Burn", &ours.output, &to_f64(&theirs.output), tolerance);
        let gradient_tolerance = tolerance * naive.gain;
        assert_close("input gradient, Burn", &ours.input_gradient, &to_f64(&theirs.input_gradient), gradient_tolerance);
        let (max, active) = ([max], [active]);
        let padded = |small: Vec<f32>| to_f64(&in_zeros(&small, &max, &active));
        assert_close("gamma's gradient, Burn", &of_gamma, &padded(gradient(&burn.gamma, &theirs.gradients)), tolerance);
        assert_close("beta's gradient, Burn", &of_beta, &padded(gradient(&burn.beta, &theirs.gradients)), tolerance);
        for of in [&of_gamma, &of_beta] {
            assert!(of[active[0]..].iter().all(|&outside| outside == 0.0), "a gradient outside the view: {of:?}");
        }
        assert_close("output, naive", &ours.output, &naive.output, tolerance);
        assert_close("input gradient, naive", &ours.input_gradient, &naive.input, tolerance * naive.gain);
        assert_close("gamma's gradient, naive", &of_gamma[..active[0]], &naive.gamma, tolerance);
        assert_close("beta's gradient, naive", &of_beta[..active[0]], &naive.beta, tolerance);

        let (after, small) = (stepped(&supernet, ours.gradients, &view), stepped(&burn, theirs.gradients, &burn));
        let expected = |all: &[f32], small| to_f64(&replaced(all, &values(small), &max, &active));
        assert_close("gamma after a step", &values(after.gamma.val()), &expected(&gamma, small.gamma.val()), tolerance);
        assert_close("beta after a step", &values(after.beta.val()), &expected(&beta, small.beta.val()), tolerance);
        prop_assert_eq!(entries(&supernet), before, "the supernet and its running statistics are as they were");
    }
}

#[test]
fn running_statistics_of_a_narrow_view_are_not_those_of_the_supernet() {
    let (supernet, space) = norm(4, &[1.0; 4], &[0.0; 4]);
    let before = entries(&supernet);
    let view = supernet.select(&space.smallest()).with_statistics(elastic_layers::Statistics::Running);
    let images = common::tensor(&fractions(1, 8), [2, 1, 2, 2], &device());
    let _ = view.forward(images);
    assert_eq!(entries(&supernet), before);
}
