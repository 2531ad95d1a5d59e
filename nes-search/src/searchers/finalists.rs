//! The last choice of a search: among the best that it saw, by scoring them again and again.

use serde::{Deserialize, Serialize};

/// How many enter the last choice.
const FINALISTS: usize = 32;
/// How many are left at its end.
const LAST: usize = 4;

/// Chooses by sequential halving ([Karnin, Koren and Somekh, 2013](https://proceedings.mlr.press/v28/karnin13.html)): all are
/// scored on the same images, round after round; when a stage's share of the evaluations is spent, the worse half by the
/// mean of all rounds goes. Four are left in the last stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Finalists {
    /// Candidates to enter, the best first: by how many deviations of its iteration's losses each was below their mean.
    noted: Vec<(f64, Vec<usize>)>,
    /// Those that are left, with the sums of their losses.
    left: Vec<(f64, Vec<usize>)>,
    /// Rounds that this stage has left, and rounds in all so far.
    rounds_left: usize,
    rounds: usize,
    /// Evaluations of one stage.
    stage: usize,
}

impl Finalists {
    /// Remembers the best of one iteration's candidates, by their levels. Losses of several iterations are of different
    /// images: they are compared by their distance from the iteration's mean.
    pub fn note(&mut self, candidates: &[Vec<usize>], losses: &[f64]) {
        let finite: Vec<f64> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
        let mean = finite.iter().sum::<f64>() / finite.len() as f64;
        let deviation = (finite.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / finite.len() as f64).sqrt();
        for (levels, loss) in candidates.iter().zip(losses) {
            let score = (loss - mean) / deviation;
            if score.is_finite() && self.noted.iter().all(|(_, known)| known != levels) {
                self.noted.push((score, levels.clone()));
            }
        }
        self.noted.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.noted.truncate(FINALISTS);
    }

    /// Begins with what `enter` makes of the noted ones and of the centre, for so many evaluations.
    pub fn begin(&mut self, centre: Vec<usize>, evaluations: usize, enter: impl Fn(&[usize]) -> Option<Vec<usize>>) {
        let mut all = vec![centre];
        for (_, levels) in self.noted.drain(..) {
            if let Some(levels) = enter(&levels)
                && !all.contains(&levels)
            {
                all.push(levels);
            }
        }
        all.truncate(FINALISTS.min(evaluations));
        let stages = 1 + all.len().div_ceil(LAST).next_power_of_two().ilog2() as usize;
        self.stage = evaluations / stages;
        self.left = all.into_iter().map(|levels| (0.0, levels)).collect();
        self.begin_stage();
    }

    fn begin_stage(&mut self) {
        self.rounds_left = (self.stage / self.left.len().max(1)).max(1);
    }

    /// Those to score in the next round; none, if so many evaluations are too few, or nothing is left to choose.
    pub fn ask(&self, most: usize) -> Vec<Vec<usize>> {
        match self.left.len() {
            0 | 1 => Vec::new(),
            count if count > most => Vec::new(),
            _ => self.left.iter().map(|(_, levels)| levels.clone()).collect(),
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
    pub fn best(&self) -> Option<&[usize]> {
        (self.rounds > 0).then(|| self.left.first().map(|(_, levels)| levels.as_slice())).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_of_several_iterations_are_compared_within_their_own() {
        let mut finalists = Finalists::default();
        let levels = |from: usize| (from..from + 4).map(|level| vec![level]).collect::<Vec<_>>();
        // The second iteration's images are harder for all; its last candidate is not finite.
        finalists.note(&levels(0), &[1.0, 2.0, 3.0, 4.0]);
        finalists.note(&levels(10), &[109.0, 100.0, 110.0, f64::NAN]);
        finalists.note(&levels(20), &[5.0; 4]);
        let order: Vec<usize> = finalists.noted.iter().map(|(_, levels)| levels[0]).collect();
        assert_eq!(order, [11, 0, 1, 2, 10, 12, 3]);
    }

    #[test]
    fn the_best_of_many_is_left_and_the_evaluations_are_kept_to() {
        for evaluations in [64, 97, 400] {
            let mut finalists = Finalists::default();
            let all: Vec<Vec<usize>> = (0..40).map(|level| vec![level]).collect();
            finalists.note(&all, &(0..40).map(f64::from).collect::<Vec<_>>());
            finalists.begin(vec![7], evaluations, |levels| (levels[0] != 3).then(|| levels.to_vec()));
            let (mut spent, mut sizes) = (0, Vec::new());
            let mut round = 0.0;
            loop {
                let asked = finalists.ask(evaluations - spent);
                if asked.is_empty() {
                    break;
                }
                spent += asked.len();
                sizes.push(asked.len());
                // Level 20 is the best; every round's images are others.
                round += 1.0;
                let losses: Vec<f64> =
                    asked.iter().map(|levels| round * 10.0 + (levels[0] as f64 - 20.0).abs()).collect();
                finalists.tell(&losses);
            }
            assert_eq!(finalists.best(), Some(&[20][..]));
            assert!(spent <= evaluations && spent + LAST > evaluations * 3 / 4, "{spent} of {evaluations}: {sizes:?}");
            assert!(sizes.is_sorted_by(|one, other| one >= other), "{sizes:?}");
            let last = if evaluations < 97 { 2 * LAST } else { LAST };
            assert!(sizes.ends_with(&[last; 2]), "{sizes:?}");
            // The centre and 31 others, which are of 32 noted ones: level 3 may not enter, level 7 is the centre.
            assert_eq!(sizes[0], 31);
        }
    }

    #[test]
    fn one_that_is_not_finite_is_out() {
        let mut finalists = Finalists::default();
        finalists.note(&[vec![1], vec![2]], &[0.0, 1.0]);
        assert!(!finalists.begun());
        finalists.begin(vec![0], 30, |levels| Some(levels.to_vec()));
        assert!(finalists.begun() && finalists.best().is_none());
        finalists.tell(&[f64::NAN; 3]);
        assert!(finalists.best().is_none() && finalists.ask(30).len() == 3, "nothing is learned");
        finalists.tell(&[f64::NAN, 2.0, 1.0]);
        assert_eq!(finalists.best(), Some(&[2][..]));
        assert_eq!(finalists.ask(30), [[2], [1]]);
        assert!(finalists.ask(1).is_empty(), "too few");
    }
}
