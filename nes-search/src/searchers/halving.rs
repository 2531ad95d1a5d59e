//! A choice among a few architectures, by scoring them again and again.

use elastic_layers::Architecture;
use serde::{Deserialize, Serialize};

/// How many enter the last choice.
const FINALISTS: usize = 32;
/// How many are left at its end.
const LAST: usize = 4;

/// Chooses by sequential halving ([Karnin, Koren and Somekh, 2013](https://proceedings.mlr.press/v28/karnin13.html)): all are
/// scored on the same images, round after round; when a stage's share of the evaluations is spent, the worse half by the
/// mean of all rounds goes. Four are left in the last stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Halving {
    /// Candidates to enter, the best first: by how many deviations of its iteration's losses each was below their mean.
    noted: Vec<(f64, Architecture)>,
    /// Those that are left, with the sums of their losses.
    left: Vec<(f64, Architecture)>,
    /// Rounds that this stage has left, and rounds in all so far.
    rounds_left: usize,
    rounds: usize,
    /// Evaluations of one stage.
    stage: usize,
}

impl Halving {
    /// Remembers the best of one iteration's candidates. Losses of several iterations are of different
    /// images: they are compared by their distance from the iteration's mean.
    pub fn note(&mut self, candidates: &[Architecture], losses: &[f64]) {
        let finite: Vec<f64> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
        let mean = finite.iter().sum::<f64>() / finite.len() as f64;
        let deviation = (finite.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / finite.len() as f64).sqrt();
        for (candidate, loss) in candidates.iter().zip(losses) {
            let score = (loss - mean) / deviation;
            if score.is_finite() && self.noted.iter().all(|(_, known)| known != candidate) {
                self.noted.push((score, candidate.clone()));
            }
        }
        self.noted.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.noted.truncate(FINALISTS);
    }

    /// Begins with what `enter` makes of the noted ones and of the centre, for so many evaluations.
    pub fn begin(
        &mut self,
        centre: Architecture,
        evaluations: usize,
        enter: impl Fn(&Architecture) -> Option<Architecture>,
    ) {
        let mut all = vec![centre];
        for (_, noted) in self.noted.drain(..) {
            if let Some(one) = enter(&noted)
                && !all.contains(&one)
            {
                all.push(one);
            }
        }
        all.truncate(FINALISTS.min(evaluations));
        let stages = 1 + all.len().div_ceil(LAST).next_power_of_two().ilog2() as usize;
        self.stage = evaluations / stages;
        self.left = all.into_iter().map(|one| (0.0, one)).collect();
        self.begin_stage();
    }

    fn begin_stage(&mut self) {
        self.rounds_left = (self.stage / self.left.len().max(1)).max(1);
    }

    /// Those to score in the next round; none, if so many evaluations are too few, or nothing is left to choose.
    pub fn ask(&self, most: usize) -> Vec<Architecture> {
        match self.left.len() {
            0 | 1 => Vec::new(),
            count if count > most => Vec::new(),
            _ => self.left.iter().map(|(_, one)| one.clone()).collect(),
        }
    }

    /// Takes the losses of those that were asked for. One that is not finite is out, if any other is.
    pub fn tell(&mut self, losses: &[f64]) {
        if losses.iter().all(|loss| !loss.is_finite()) {
            return;
        }
        self.rounds += 1;
        for ((sum, _), loss) in self.left.iter_mut().zip(losses) {
            *sum += loss;
        }
        self.left.retain(|(sum, _)| sum.is_finite());
        self.left.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.rounds_left -= 1;
        if self.rounds_left == 0 {
            if self.left.len() > LAST {
                self.left.truncate(self.left.len().div_ceil(2).max(LAST));
            }
            self.begin_stage();
        }
    }

    /// Whether the choice has begun.
    pub fn begun(&self) -> bool {
        !self.left.is_empty()
    }

    /// The best so far; none before the first round.
    pub fn best(&self) -> Option<&Architecture> {
        (self.rounds > 0).then(|| self.left.first().map(|(_, one)| one)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use elastic_layers::SearchSpace;

    use super::*;

    fn at(value: usize) -> Architecture {
        let mut space = SearchSpace::new();
        space.channels("width", 200).range(1..=200).add().expect("a dimension");
        space.architecture([value + 1]).expect("one of the space")
    }

    fn value(one: &Architecture) -> usize {
        one.values()[0] - 1
    }

    #[test]
    fn candidates_of_several_iterations_are_compared_within_their_own() {
        let mut halving = Halving::default();
        let some = |from: usize| (from..from + 4).map(at).collect::<Vec<_>>();
        // The second iteration's images are harder for all; its last candidate is not finite.
        halving.note(&some(0), &[1.0, 2.0, 3.0, 4.0]);
        halving.note(&some(10), &[109.0, 100.0, 110.0, f64::NAN]);
        halving.note(&some(20), &[5.0; 4]);
        let order: Vec<usize> = halving.noted.iter().map(|(_, one)| value(one)).collect();
        assert_eq!(order, [11, 0, 1, 2, 10, 12, 3]);
    }

    #[test]
    fn the_best_of_many_is_left_and_the_evaluations_are_kept_to() {
        for evaluations in [64, 97, 400] {
            let mut halving = Halving::default();
            let all: Vec<Architecture> = (0..40).map(at).collect();
            halving.note(&all, &(0..40).map(f64::from).collect::<Vec<_>>());
            halving.begin(at(7), evaluations, |one| (value(one) != 3).then(|| one.clone()));
            let (mut spent, mut sizes) = (0, Vec::new());
            let mut round = 0.0;
            loop {
                let asked = halving.ask(evaluations - spent);
                if asked.is_empty() {
                    break;
                }
                spent += asked.len();
                sizes.push(asked.len());
                // 20 is the best; every round's images are others.
                round += 1.0;
                let losses: Vec<f64> =
                    asked.iter().map(|one| round * 10.0 + (value(one) as f64 - 20.0).abs()).collect();
                halving.tell(&losses);
            }
            assert_eq!(halving.best(), Some(&at(20)));
            assert!(spent <= evaluations && spent + LAST > evaluations * 3 / 4, "{spent} of {evaluations}: {sizes:?}");
            assert!(sizes.is_sorted_by(|one, other| one >= other), "{sizes:?}");
            let last = if evaluations < 97 { 2 * LAST } else { LAST };
            assert!(sizes.ends_with(&[last; 2]), "{sizes:?}");
            // The centre and 31 others, which are of 32 noted ones: 3 may not enter, 7 is the centre.
            assert_eq!(sizes[0], 31);
        }
    }

    #[test]
    fn one_that_is_not_finite_is_out() {
        let mut halving = Halving::default();
        halving.note(&[at(1), at(2)], &[0.0, 1.0]);
        assert!(!halving.begun());
        halving.begin(at(0), 30, |one| Some(one.clone()));
        assert!(halving.begun() && halving.best().is_none());
        halving.tell(&[f64::NAN; 3]);
        assert!(halving.best().is_none() && halving.ask(30).len() == 3, "nothing is learned");
        halving.tell(&[f64::NAN, 2.0, 1.0]);
        assert_eq!(halving.best(), Some(&at(2)));
        assert_eq!(halving.ask(30), [at(2), at(1)]);
        assert!(halving.ask(1).is_empty(), "too few");
    }
}
