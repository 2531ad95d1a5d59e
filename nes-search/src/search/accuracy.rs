//! Whether the shared weights know more than nothing.

use elastic_layers::{Architecture, Backbone};
use serde::{Deserialize, Serialize};

use super::{Search, SearchError};
use crate::evaluate;
use crate::observer::Observer;

/// Standard errors above chance from which on an accuracy is significant: one in 740 guesses gets there.
const SIGNIFICANT: f64 = 3.0;

/// What the shared weights get right on the evaluation split, at one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedAccuracy {
    /// Share of the images whose class has the largest score.
    pub accuracy: f64,
    /// Share of the most frequent class, which is what guessing it gets right.
    pub chance: f64,
    /// Evaluation images.
    pub images: usize,
    /// Whether the accuracy is not significantly above chance: less than three standard errors of guessing.
    pub near_chance: bool,
}

impl SharedAccuracy {
    pub(super) fn new(accuracy: f64, class_sizes: &[usize]) -> Self {
        let images: usize = class_sizes.iter().sum();
        let chance = class_sizes.iter().copied().max().unwrap_or(0) as f64 / images as f64;
        let error = (chance * (1.0 - chance) / images as f64).sqrt();
        let near_chance = accuracy.is_nan() || accuracy <= chance + SIGNIFICANT * error;
        Self { accuracy, chance, images, near_chance }
    }

    fn warning(&self) -> String {
        format!(
            "in the end, the shared weights get {:.1} % of {} evaluation images right, which is not significantly above \
             chance ({:.1} %): their losses say little about architectures. A longer search.length, or another \
             search.sgd.learning_rate, may help",
            self.accuracy * 100.0,
            self.images,
            self.chance * 100.0
        )
    }
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// What the shared weights get right at an architecture; warns if that is near chance.
    pub(super) fn shared_accuracy(
        &mut self,
        architecture: &Architecture,
        observer: &mut dyn Observer,
    ) -> Result<SharedAccuracy, SearchError> {
        let (set, batch) = (self.task.evaluation, self.settings.evaluation_batch);
        let view = self.supernet().valid().select(architecture);
        let evaluation = evaluate(&view, set, self.task.normalization, batch, self.workers.first())?;
        let macs = self.task.blueprint.cost().cost(architecture)?.macs;
        self.state.cost.scored(macs, set.len() as u64);
        let accuracy = SharedAccuracy::new(evaluation.accuracy, &set.class_sizes());
        if accuracy.near_chance {
            observer.warning(&accuracy.warning());
        }
        Ok(accuracy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Length;
    use crate::search::test_setting::Setting;

    #[test]
    fn near_chance_is_less_than_three_standard_errors_above_it() {
        // Of 900 images in ten equal classes: 0.1, with a standard error of 0.01.
        let at = |accuracy| SharedAccuracy::new(accuracy, &[90; 10]);
        for (accuracy, near) in [(0.05, true), (0.1, true), (0.129, true), (0.131, false), (0.9, false)] {
            assert_eq!(at(accuracy).near_chance, near, "{accuracy}");
        }
        assert!(at(f64::NAN).near_chance);
        assert_eq!((at(0.1).chance, at(0.1).images), (0.1, 900));
        // The most frequent class is what a guess names.
        assert!(SharedAccuracy::new(0.75, &[75, 25]).near_chance);
        assert!(!SharedAccuracy::new(0.9, &[75, 25]).near_chance);
    }

    #[test]
    fn a_search_says_that_its_weights_know_nothing() {
        #[derive(Default)]
        struct Warned(Vec<String>);
        impl Observer for Warned {
            fn progress(&mut self, _progress: crate::Progress<'_>) {}

            fn warning(&mut self, message: &str) {
                self.0.push(message.into());
            }
        }
        // A network that says the same of every image.
        let setting = Setting::new(0.4);
        let mut search = setting.search(|settings| settings.length = Length::Iterations(2));
        let mut warned = Warned::default();
        let found = search.run(None, &mut warned).expect("no error").expect("not interrupted");
        let accuracy = found.accuracy.expect("shared weights");
        assert!(accuracy.near_chance, "{accuracy:?}");
        assert_eq!((accuracy.images, accuracy.chance), (40, 0.1));
        assert!(warned.0.len() == 1 && warned.0[0].contains("of 40 evaluation images"), "{:?}", warned.0);
        assert!(warned.0[0].contains("chance (10.0 %)"), "{:?}", warned.0);
    }
}
