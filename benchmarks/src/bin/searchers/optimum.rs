//! The optimum of a problem, by a way that no searcher takes: dynamic programming along the chain under a Lagrange
//! multiplier, at every resolution.

use crate::problem::{Chain, Problem};

/// Halvings of the interval of the multiplier.
const HALVINGS: usize = 50;

/// What is known of the optimum: it lies between the two.
#[derive(Clone, Copy, Debug)]
pub struct Optimum {
    /// The utility of the best architecture that was found within the budget.
    pub reached: f64,
    /// What no architecture within the budget exceeds: the least of the Lagrangian's maxima.
    pub bound: f64,
}

/// The optimum of a problem.
pub fn optimum(problem: &Problem) -> Optimum {
    let (chain, budget) = (problem.chain(), problem.budget());
    let mut optimum = Optimum { reached: f64::NEG_INFINITY, bound: f64::NEG_INFINITY };
    for resolution in 0..chain.levels(chain.channels()) {
        let (mut low, mut high, mut least) = (0.0, 1.0, f64::INFINITY);
        for _ in 0..HALVINGS {
            let multiplier = (low + high) / 2.0;
            let (maximum, mut levels) = lagrangian(chain, resolution, multiplier, budget);
            // Each maximum is a bound, whatever the multiplier: within the budget the term is not negative.
            least = f64::min(least, maximum);
            levels.push(resolution);
            if chain.cost(&levels) <= budget {
                optimum.reached = optimum.reached.max(chain.utility(&levels));
                high = multiplier;
            } else {
                low = multiplier;
            }
        }
        optimum.bound = optimum.bound.max(least);
    }
    optimum
}

/// The maximum over all channel numbers of `utility + multiplier (budget - cost)`, and where it is.
fn lagrangian(chain: &Chain, resolution: usize, multiplier: f64, budget: f64) -> (f64, Vec<usize>) {
    let channels = chain.channels();
    let price = multiplier * chain.area(resolution);
    let alone = |dim: usize, level: usize| chain.gain(dim, level) - price * chain.end(dim, level);
    // The most that the chain up to a dimension brings with that at each level, and the level before that does.
    let mut best: Vec<f64> = (0..chain.levels(0)).map(|level| alone(0, level)).collect();
    let mut origins: Vec<Vec<usize>> = Vec::new();
    for dim in 1..channels {
        let step = |level: usize| {
            let through = |before: usize| best[before] - price * chain.pair(dim, before, level);
            let origin = argmax(best.len(), through);
            (through(origin) + alone(dim, level), origin)
        };
        let (values, origin) = (0..chain.levels(dim)).map(step).unzip();
        best = values;
        origins.push(origin);
    }
    let mut level = argmax(best.len(), |level| best[level]);
    let maximum = best[level] + chain.gain(channels, resolution) + multiplier * budget;
    let mut levels = vec![level];
    for origin in origins.iter().rev() {
        level = origin[level];
        levels.push(level);
    }
    levels.reverse();
    (maximum, levels)
}

fn argmax(count: usize, value: impl Fn(usize) -> f64) -> usize {
    (1..count).fold(0, |most, index| if value(index) > value(most) { index } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channel numbers and a resolution: 27 x 27 x 33 architectures, all of them looked at.
    #[test]
    fn the_optimum_of_a_small_problem_is_that_of_all_its_architectures() {
        for seed in 1..=5 {
            let problem = Problem::new(2, seed).expect("a problem");
            let chain = problem.chain();
            let mut most = f64::NEG_INFINITY;
            for one in 0..chain.levels(0) {
                for other in 0..chain.levels(1) {
                    for resolution in 0..chain.levels(2) {
                        let levels = [one, other, resolution];
                        if chain.cost(&levels) <= problem.budget() {
                            most = most.max(chain.utility(&levels));
                        }
                    }
                }
            }
            let Optimum { reached, bound } = optimum(&problem);
            assert!(reached <= most + 1e-12 && most <= bound + 1e-12, "{reached} <= {most} <= {bound}");
            // With so few dimensions the budget is met in coarse steps only.
            assert!(bound - reached < 0.02, "{reached} to {bound}");
        }
    }

    #[test]
    fn the_optimum_of_26_dimensions_is_known_to_a_thousandth() {
        let problem = Problem::new(25, 1).expect("a problem");
        let Optimum { reached, bound } = optimum(&problem);
        assert!(reached <= bound && (bound - reached) / bound < 1e-3, "{reached} to {bound}");
    }
}
