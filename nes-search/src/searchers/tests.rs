//! Every searcher on a problem that is arithmetic: what holds for all of them, and how NES moves.

use std::sync::Arc;

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::AdamConfig;
use burn::tensor::Device;
use elastic_layers::SearchSpace;

use super::*;
use crate::nes::{Form, NesParts};
use crate::rng::{Stream, stream};
use crate::{ArchParams, Estimator, LEAST_SHARE, Limit, Limits, Resource};

/// The sum of products of neighbours, times the squared resolution, which is the last dimension.
#[derive(Debug)]
struct Area;

impl Resource for Area {
    fn name(&self) -> &str {
        "area"
    }

    fn unit(&self) -> &str {
        "units"
    }

    fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
        let (side, channels) = architecture.values().split_last().expect("a resolution");
        Ok((side * side) as f64 * channels.windows(2).map(|pair| (pair[0] * pair[1]) as f64).sum::<f64>())
    }
}

fn space() -> SearchSpace {
    let mut space = SearchSpace::new();
    for name in ["a", "b", "c", "d"] {
        space.channels(name, 40).range(8..=60).add().expect("a dimension");
    }
    space.resolution("side", 28).range(14..=28).add().expect("a dimension");
    space
}

fn limits(space: &SearchSpace) -> Limits {
    let base = Area.of(&space.base()).expect("arithmetic");
    Limits::new(Limit::new(Arc::new(Area), 0.2 * base))
}

/// Least where "a" and "d" are wide, and the resolution is 20.
fn loss(architecture: &Architecture) -> f64 {
    let at = |name: &str| architecture.get(name).expect("a dimension") as f64;
    (1.0 - at("a") / 60.0).powi(2) + (1.0 - at("d") / 60.0).powi(2) + ((at("side") - 20.0) / 14.0).powi(2)
}

fn begin(name: SearcherName, projection: &Projection<'_>, evaluations: usize) -> AnySearcher {
    let start = projection.project(&projection.space().base().params()).expect("arithmetic");
    let rng = stream(5, Stream::Perturbations);
    name.init(&NesSettings::default(), projection, &start, evaluations, rng).expect("a searcher")
}

#[test]
fn every_searcher_keeps_to_its_evaluations_and_the_budget_and_finds_more_than_its_start() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    for name in SearcherName::ALL {
        let mut searcher = begin(name, &projection, 600);
        let start = searcher.found(&projection).expect("an architecture");
        let mut largest: f64 = 0.0;
        let spent = spend(&mut searcher, &projection, 600, |asked| {
            for one in asked {
                largest = largest.max(projection.share(one)?);
            }
            Ok::<_, CostError>(asked.iter().map(loss).collect())
        });
        let spent = spent.expect("arithmetic");
        let found = searcher.found(&projection).expect("an architecture");
        let share = projection.share(&found).expect("arithmetic");
        assert!((LEAST_SHARE..=1.0).contains(&share), "{name}: {share}");
        assert!(spent <= 600, "{name}: {spent}");
        if name != SearcherName::Netadapt {
            assert!(largest <= 1.0, "{name} asked for {largest} of the budget");
        }
        match name {
            SearcherName::UniformChannel | SearcherName::UniformResolution => assert_eq!(spent, 0, "{name}"),
            _ => {
                assert!(spent > 300, "{name}: {spent}");
                assert!(loss(&found) < loss(&start) || name == SearcherName::UniformJoint, "{name}: {found}");
            }
        }
    }
}

#[test]
fn a_searcher_that_was_saved_and_restored_goes_on_bit_for_bit() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    for name in SearcherName::ALL {
        let rounds = |searcher: &mut AnySearcher, rounds: usize, restored: bool| {
            let mut asked = Vec::new();
            for round in 0..rounds {
                if restored {
                    let text = serde_json::to_string(&*searcher).expect("written");
                    *searcher = serde_json::from_str(&text).expect("read");
                }
                let turn = Turn { projection: &projection, done: round as f64 / 10.0, most: 10_000 };
                let some = searcher.ask(turn).expect("arithmetic");
                searcher.tell(&projection, &some.iter().map(loss).collect::<Vec<_>>()).expect("arithmetic");
                asked.push(some);
            }
            asked
        };
        if matches!(name, SearcherName::UniformChannel | SearcherName::UniformResolution) {
            continue;
        }
        let (mut whole, mut parts) = (begin(name, &projection, 1000), begin(name, &projection, 1000));
        assert_eq!(rounds(&mut whole, 6, false), rounds(&mut parts, 6, true), "{name}");
        assert_eq!(whole.params(), parts.params(), "{name}");
    }
}

#[test]
fn a_loss_that_is_not_finite_never_wins() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    // Every architecture with a wide "b" fails.
    let failing = |one: &Architecture| if one.get("b") > Some(24) { f64::NAN } else { loss(one) };
    for name in [SearcherName::Random, SearcherName::Evolution, SearcherName::UniformJoint] {
        let mut searcher = begin(name, &projection, 300);
        let score = |asked: &[Architecture]| Ok::<_, CostError>(asked.iter().map(failing).collect());
        spend(&mut searcher, &projection, 300, score).expect("arithmetic");
        let found = searcher.found(&projection).expect("an architecture");
        assert!(failing(&found).is_finite(), "{name}: {found}");
    }
    // Where nothing is finite, nothing is learned.
    for name in SearcherName::ALL {
        let mut searcher = begin(name, &projection, 200);
        let score = |asked: &[Architecture]| Ok::<_, CostError>(vec![f64::INFINITY; asked.len()]);
        spend(&mut searcher, &projection, 200, score).expect("arithmetic");
        let share = projection.share(&searcher.found(&projection).expect("an architecture")).expect("arithmetic");
        assert!((LEAST_SHARE..=1.0).contains(&share), "{name}: {share}");
    }
}

/// Equations 6, 7 and 9 written out, with the penalty of equation 2, on the numbers of the same random stream.
#[test]
fn the_papers_form_moves_h_as_its_equations_say() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    let settings = NesSettings { samples: 10, rho: 0.5, ..NesSettings::paper() };
    let start = space.base().params();
    let rng = || stream(9, Stream::Perturbations);
    let mut searcher = NesSearcher::new(&settings, &projection, &start, rng());
    let (mut h, mut numbers) = (start, rng());
    for iteration in 0..5 {
        let turn = Turn { projection: &projection, done: f64::from(iteration) / 5.0, most: 11 };
        let asked = searcher.ask(turn).expect("arithmetic");
        let losses: Vec<f64> = asked.iter().map(loss).collect();
        searcher.tell(&projection, &losses).expect("arithmetic");

        let left = 1.0 - f64::from(iteration) / 5.0;
        let (sigma, alpha) = (1.25 * left, 5.0 * left);
        let total = |point: &[f64]| {
            let one = space.at_params(point);
            loss(&one) + 0.5 * (projection.share(&one).expect("arithmetic") - 1.0).powi(2)
        };
        let mut gradient = vec![0.0; h.len()];
        for _ in 0..10 {
            let n: Vec<f64> = h.iter().map(|_| sigma * crate::nes::normal(&mut numbers)).collect();
            let point: Vec<f64> = h.iter().zip(&n).map(|(h, n)| h + n).collect();
            let difference = total(&point) - total(&h);
            gradient.iter_mut().zip(&n).for_each(|(sum, n)| *sum += difference * n / (sigma * 10.0));
        }
        for ((h, gradient), dim) in h.iter_mut().zip(&gradient).zip(space.dims()) {
            *h = (*h - alpha * gradient).clamp(0.0, dim.levels() as f64 - 1e-3);
        }
        let step = searcher.step().expect("a step");
        assert!((step.sigma - sigma).abs() < 1e-12 && (step.learning_rate - alpha).abs() < 1e-12);
        for (found, expected) in searcher.params().iter().zip(&h) {
            assert!((found - expected).abs() < 1e-3, "iteration {iteration}: {:?}, not {h:?}", searcher.params());
        }
    }
    let few = Turn { projection: &projection, done: 0.5, most: 10 };
    assert!(searcher.ask(few).expect("arithmetic").is_empty(), "its evaluations are spent");
}

#[test]
fn any_optimizer_and_scheduler_of_burn_step_h() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    let start = projection.project(&space.base().params()).expect("arithmetic");
    let before = loss(&projection.architecture(&start).expect("an architecture"));

    let estimator = Estimator::antithetic(16);
    let mut optimizer = AdamConfig::new().init();
    let mut scheduler = CosineAnnealingLrSchedulerConfig::new(1.0, 40).init().expect("a schedule");
    let mut params = ArchParams::new(&start, &Device::default());
    let mut rng = stream(4, Stream::Perturbations);
    for _ in 0..40 {
        let h = params.values();
        let directions = estimator.directions(&[3.0; 5], &mut rng);
        let point = |n: ndarray::ArrayView1<'_, f64>| h.iter().zip(n).map(|(h, n)| h + n).collect::<Vec<_>>();
        let nearest = |n| projection.nearest(&point(n)).expect("arithmetic");
        let losses: Vec<f64> = directions.rows().into_iter().map(|n| loss(&nearest(n))).collect();
        let gradient = estimator.gradient(&directions, &losses, 0.0, 3.0).values.to_vec();
        let gradients = params.gradient(&gradient);
        params = optimizer.step(scheduler.step(), params, gradients);
        let projected = projection.project(&params.values()).expect("arithmetic");
        params = params.with_values(&projected);
    }
    let after = loss(&projection.architecture(&params.values()).expect("an architecture"));
    assert!(after < 0.5 * before, "Adam under a cosine: from {before} to {after}");
}

#[test]
fn the_mean_of_the_last_iterations_is_found() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    let start = projection.project(&space.base().params()).expect("arithmetic");
    for (average, counted) in [(0.0, 1), (0.3, 3), (0.5, 5), (1.0, 10)] {
        let parts = NesParts { average, choice: 0.0, ..Form::Projected.parts() };
        let settings = NesSettings { learning_rate: 30.0, ..NesSettings::default() };
        let rng = stream(6, Stream::Perturbations);
        let mut searcher = NesSearcher::new(&settings, &projection, &start, rng).with_parts(parts);
        let mut trajectory = Vec::new();
        for iteration in 0..10 {
            // The middle of each tenth, so that rounding decides nothing.
            let turn = Turn { projection: &projection, done: (f64::from(iteration) + 0.5) / 10.0, most: 16 };
            let asked = searcher.ask(turn).expect("arithmetic");
            searcher.tell(&projection, &asked.iter().map(loss).collect::<Vec<_>>()).expect("arithmetic");
            trajectory.push(searcher.params());
        }
        assert_eq!(trajectory.len(), 10);
        let last = &trajectory[10 - counted..];
        let mean: Vec<f64> =
            (0..start.len()).map(|dim| last.iter().map(|h| h[dim]).sum::<f64>() / counted as f64).collect();
        let expected = projection.architecture(&mean).expect("an architecture");
        assert_eq!(searcher.found(&projection).expect("an architecture"), expected, "average {average}");
        if counted > 1 {
            let end = projection.architecture(&trajectory[9]).expect("an architecture");
            assert_ne!(expected, end, "H moves too little to tell them apart");
        }
    }
}

/// What the default NES does from one seed, as it was when this was written: a change of these numbers is a change of every
/// search.
#[test]
fn the_golden_trajectory() {
    let space = space();
    let limits = limits(&space);
    let projection = Projection::new(&space, &limits).expect("a feasible budget");
    let mut searcher = begin(SearcherName::Nes, &projection, 12 * 16);
    let mut trajectory = Vec::new();
    for iteration in 0..12 {
        let turn = Turn { projection: &projection, done: f64::from(iteration) / 12.0, most: 16 };
        let asked = searcher.ask(turn).expect("arithmetic");
        searcher.tell(&projection, &asked.iter().map(loss).collect::<Vec<_>>()).expect("arithmetic");
        trajectory.push(searcher.params());
    }
    let golden: [(usize, [f64; 5]); 3] = [
        (0, [13.000, 9.129, 9.454, 15.048, 13.204]),
        (5, [30.186, 8.946, 15.359, 41.000, 5.570]),
        (8, [37.279, 8.946, 18.000, 50.003, 3.725]),
    ];
    for (iteration, expected) in golden {
        for (found, expected) in trajectory[iteration].iter().zip(expected) {
            // H is single precision.
            assert!((found - expected).abs() < 0.01, "iteration {iteration}: {:?}", trajectory[iteration]);
        }
    }
    let found = searcher.found(&projection).expect("an architecture");
    assert_eq!(found.values(), [47, 15, 26, 58, 17]);
}
