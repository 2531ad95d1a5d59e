//! A view of every layer that is no convolution is the small layer: outputs and gradients against Burn's layer with
//! hand-cropped parameters and against the definition, and zeros outside the view. And what is materialised is the view.

mod common;

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use common::layers::{batch_norm, group_norm, layer_norm, linear, maps, prelu, squeeze_excite};
use common::norm::NaiveNorm;
use common::subject::{Subject, VIEW};
use common::{
    Run, assert_close, assert_equal, assert_same_bits, cropped, entries, entry, fractions, gradient, replaced, tensor,
    to_f64, values,
};
use elastic_layers::{Elastic, ElasticBatchNormConfig, ElasticGroupNormConfig, SearchSpace, Statistics};
use proptest::prelude::*;

fn check_materialised<E: Elastic, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    subject.check_materialised();
}

every_layer!(a_materialised_layer_is_the_view, 32, check_materialised);

/// Compares the view of a norm, and the gradients of its parameters, with the definition.
fn check_norm(run: &Run, naive: &NaiveNorm, of_gamma: &[f32], of_beta: Option<&[f32]>, tolerance: f64) {
    assert_close("output, naive", &run.output, &naive.output, tolerance * naive.gain);
    assert_close("input gradient, naive", &run.input_gradient, &naive.input, tolerance * naive.gain.powi(2));
    assert_close("gamma's gradient, naive", of_gamma, &naive.gamma, tolerance * naive.gain);
    if let Some(of_beta) = of_beta {
        assert_close("beta's gradient, naive", of_beta, &naive.beta, tolerance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_linear_layer(maps in maps()) {
        let subject = linear(&maps);
        let run = subject.check_view(0.0);
        let [inputs, outputs] = [subject.inputs[VIEW][1], maps.other.active()];
        let (x, weight) = (subject.input(VIEW), entry(&subject.burn[VIEW], "weight"));
        let g = subject.upstream(maps.batch * outputs);
        let bias = if maps.option { entry(&subject.burn[VIEW], "bias") } else { vec![0.0; outputs] };
        let (mut y, mut dx, mut dw, mut db) =
            (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; outputs]);
        for (row, column) in (0..maps.batch).flat_map(|row| (0..outputs).map(move |column| (row, column))) {
            let to = row * outputs + column;
            y[to] = bias[column] as f64;
            db[column] += g[to] as f64;
            for feature in 0..inputs {
                let (from, by) = (row * inputs + feature, feature * outputs + column);
                y[to] += x[from] as f64 * weight[by] as f64;
                dx[from] += g[to] as f64 * weight[by] as f64;
                dw[by] += g[to] as f64 * x[from] as f64;
            }
        }
        assert_equal("output, naive", &run.output, &y);
        assert_equal("input gradient, naive", &run.input_gradient, &dx);
        let supernet = &subject.supernet;
        let of_weight = gradient(&supernet.weight, &run.gradients);
        let inside = cropped(&of_weight, &supernet.weight.dims(), subject.used("weight"));
        assert_equal("weight gradient, naive", &inside, &dw);
        if let Some(bias) = &supernet.bias {
            let of_bias = gradient(bias, &run.gradients);
            assert_equal("bias gradient, naive", &cropped(&of_bias, &bias.dims(), subject.used("bias")), &db);
        }

        let view = subject.view();
        let after = SgdConfig::new().init().step(
            0.25, supernet.clone(), GradientsParams::from_grads(run.gradients, &view),
        );
        let theirs = subject.run_burn(&subject.burn[VIEW], VIEW);
        let theirs = GradientsParams::from_grads(theirs.gradients, &subject.burn[VIEW]);
        let small = SgdConfig::new().init().step(0.25, subject.burn[VIEW].clone(), theirs);
        let shape = supernet.weight.dims();
        let old = values(supernet.weight.val());
        let expected = replaced(&old, &values(small.weight.val()), &shape, subject.used("weight"));
        assert_same_bits("weight after a step", &values(after.weight.val()), &expected);
    }

    #[test]
    fn a_batch_norm(maps in maps()) {
        let subject = batch_norm(&maps);
        let run = subject.check_view(1e-5);
        let (x, [gamma, beta]) = (subject.input(VIEW), ["gamma", "beta"].map(|path| entry(&subject.burn[VIEW], path)));
        let positions = maps.map[0] * maps.map[1];
        let feature = |place: usize| place / positions % gamma.len();
        let naive = NaiveNorm::new([&x, &subject.upstream(x.len())], [&gamma, &beta], 1e-3, feature, feature);
        let inside = |param, path| cropped(&gradient(param, &run.gradients), &[maps.features.max()], subject.used(path));
        let [of_gamma, of_beta] = [inside(&subject.supernet.gamma, "gamma"), inside(&subject.supernet.beta, "beta")];
        check_norm(&run, &naive, &of_gamma, Some(&of_beta), 1e-5);
    }

    #[test]
    fn a_group_norm(maps in maps()) {
        let subject = group_norm(&maps);
        let run = subject.check_view(1e-5);
        let (positions, each) = (maps.map[0] * maps.map[1], maps.other.active());
        let channels = maps.features.active() * each;
        let (x, supernet) = (subject.input(VIEW), &subject.supernet);
        prop_assert_eq!(supernet.gamma.is_some(), maps.option);
        let value = |path, otherwise| if maps.option { entry(&subject.burn[VIEW], path) } else { vec![otherwise; channels] };
        let [gamma, beta] = [value("gamma", 1.0), value("beta", 0.0)];
        let g = subject.upstream(x.len());
        let naive = NaiveNorm::new(
            [&x, &g], [&gamma, &beta], 1e-3, |place| place / positions / each, |place| place / positions % channels,
        );
        let inside = |param: Option<_>, path, naive: &[f64]| param.map_or_else(
            || naive.iter().map(|&value| value as f32).collect(),
            |param| cropped(&gradient(param, &run.gradients), &[maps.features.max() * maps.other.max()], subject.used(path)),
        );
        let of_gamma = inside(supernet.gamma.as_ref(), "gamma", &naive.gamma);
        let of_beta = inside(supernet.beta.as_ref(), "beta", &naive.beta);
        check_norm(&run, &naive, &of_gamma, Some(&of_beta), 1e-5);
    }

    #[test]
    fn a_layer_norm(maps in maps()) {
        let subject = layer_norm(&maps);
        let run = subject.check_view(1e-5);
        let (x, features) = (subject.input(VIEW), maps.features.active());
        let gamma = entry(&subject.burn[VIEW], "gamma");
        let beta = if maps.option { entry(&subject.burn[VIEW], "beta") } else { vec![0.0; features] };
        let g = subject.upstream(x.len());
        let naive =
            NaiveNorm::new([&x, &g], [&gamma, &beta], 1e-3, |place| place / features, |place| place % features);
        let inside = |param, path| cropped(&gradient(param, &run.gradients), &[maps.features.max()], subject.used(path));
        let of_gamma = inside(&subject.supernet.gamma, "gamma");
        let of_beta = subject.supernet.beta.as_ref().map(|beta| inside(beta, "beta"));
        check_norm(&run, &naive, &of_gamma, of_beta.as_deref(), 1e-5);
    }

    #[test]
    fn a_prelu(maps in maps()) {
        let subject = prelu(&maps);
        let run = subject.check_view(1e-6);
        let (x, slopes, channels) = (subject.input(VIEW), entry(&subject.burn[VIEW], "alpha"), maps.features.active());
        let (positions, g) = (maps.map[0] * maps.map[1], subject.upstream(x.len()));
        let slope = |place: usize| place / positions % channels % slopes.len();
        let (mut y, mut dx, mut da) = (Vec::new(), Vec::new(), vec![0.0; slopes.len()]);
        for (place, (&x, &g)) in x.iter().zip(&g).enumerate() {
            let factor = if x > 0.0 { 1.0 } else { slopes[slope(place)] as f64 };
            y.push(x as f64 * factor);
            dx.push(g as f64 * factor);
            da[slope(place)] += g as f64 * x.min(0.0) as f64;
        }
        assert_close("output, naive", &run.output, &y, 1e-6);
        assert_close("input gradient, naive", &run.input_gradient, &dx, 1e-6);
        let alpha = &subject.supernet.alpha;
        let of_alpha = cropped(&gradient(alpha, &run.gradients), &alpha.dims(), subject.used("alpha"));
        assert_close("gradient of the slopes, naive", &of_alpha, &da, 1e-5);
    }

    #[test]
    fn a_squeeze_excite_block(maps in maps()) {
        let subject = squeeze_excite(&maps);
        let run = subject.check_view(1e-5);
        let value = |path| to_f64(&entry(&subject.burn[VIEW], path));
        let [channels, squeezed] = [maps.features.active(), maps.other.active()];
        let (positions, x) = (maps.map[0] * maps.map[1], to_f64(&subject.input(VIEW)));
        let layer = |x: &[f64], [weight, bias]: [Vec<f64>; 2]| -> Vec<f64> {
            let row = |output: usize| x.iter().zip(&weight[output * x.len()..]).map(|(x, weight)| x * weight).sum::<f64>();
            (0..bias.len()).map(|output| row(output) + bias[output]).collect()
        };
        let expected: Vec<f64> = x.chunks(channels * positions).flat_map(|image| {
            let means: Vec<f64> = image.chunks(positions).map(|map| map.iter().sum::<f64>() / positions as f64).collect();
            let reduced = layer(&means, ["reduce.weight", "reduce.bias"].map(value));
            assert_eq!(reduced.len(), squeezed);
            let rectified: Vec<f64> = reduced.iter().map(|value| value.max(0.0)).collect();
            let excited = layer(&rectified, ["expand.weight", "expand.bias"].map(value));
            let gate = |x: f64| if maps.option { 1.0 / (1.0 + (-x).exp()) } else { (x / 6.0 + 0.5).clamp(0.0, 1.0) };
            let scaled = |(place, pixel): (usize, &f64)| pixel * gate(excited[place / positions]);
            image.iter().enumerate().map(scaled).collect::<Vec<_>>()
        }).collect();
        assert_close("output, naive", &run.output, &expected, 1e-5);
    }
}

#[test]
fn running_statistics_of_a_narrow_view_are_not_those_of_the_supernet() {
    let mut space = SearchSpace::new();
    let size = space.channels("features", 4).range(1..=4).add().expect("a dimension");
    let supernet = ElasticBatchNormConfig::new(size).init(&common::device());
    let before = entries(&supernet);
    let view = supernet.select(&space.smallest()).with_statistics(Statistics::Running);
    let images = tensor(&fractions(1, 8), [2, 1, 2, 2], &common::device());
    let _ = view.forward(images);
    assert_eq!(entries(&supernet), before);
}

#[test]
fn a_group_norm_of_a_fixed_number_of_groups_regroups_the_channels_in_use() {
    let mut space = SearchSpace::new();
    let width = space.channels("width", 8).range(2..=8).step_by(2).add().expect("a dimension");
    let norm = ElasticGroupNormConfig::new(2, width).init(&common::device());
    let view = norm.select(&space.architecture([4]).expect("a width"));
    let (x, g) = (fractions(1, 2 * 4 * 3), fractions(2, 2 * 4 * 3));
    let run = Run::new(&x, [2, 4, 3], |_| g.clone(), |x| view.forward(x));
    let naive = NaiveNorm::new([&x, &g], [&[1.0; 4], &[0.0; 4]], 1e-5, |place| place / 6, |place| place / 3 % 4);
    let of_gamma = gradient(norm.gamma.as_ref().expect("a scale"), &run.gradients);
    check_norm(&run, &naive, &of_gamma[..4], None, 1e-5);
    assert_eq!(of_gamma[4..], [0.0; 4]);
}
