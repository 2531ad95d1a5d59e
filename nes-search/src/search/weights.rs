//! Steps on the shared weights.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use burn::tensor::activation::{log_softmax, softmax};
use elastic_layers::{Architecture, Backbone, SearchSpace};
use serde::{Deserialize, Serialize};

use super::{Search, SearchError, State};
use crate::data::{Batch, DataError, Plan};
use crate::settings::{SettingsError, check};
use crate::train::SgdSettings;

/// The views in each weight step, whose gradients are summed, and what they learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Views that are drawn: in the warm-up along the budget, after that around H (equation 8).
    pub random: usize,
    /// Whether the largest and the smallest view of the space are in every step too: the sandwich rule of
    /// [Yu and Huang, 2019](https://arxiv.org/abs/1903.05134).
    pub sandwich: bool,
    /// Whether all others learn the largest view's softmax, which is no target of a gradient itself, in place of the
    /// labels: in-place distillation of the same paper. Needs the sandwich rule.
    pub distillation: bool,
}

impl Views {
    /// One drawn view: the paper's.
    pub const ONE: Self = Self { random: 1, sandwich: false, distillation: false };

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        check("search.views.random", self.random, 0..=1000)?;
        if self.count() == 0 {
            return Err(SettingsError::new("search.views.random", "at least 1 without search.views.sandwich", 0));
        }
        if self.distillation && !self.sandwich {
            let expected = "false without search.views.sandwich, as the largest view is the teacher";
            return Err(SettingsError::new("search.views.distillation", expected, true));
        }
        Ok(())
    }

    /// How many views a step trains.
    pub(super) fn count(&self) -> usize {
        self.random + 2 * usize::from(self.sandwich)
    }

    /// The views of a step from those that were drawn, the largest first.
    fn with(&self, drawn: Vec<Architecture>, space: &SearchSpace) -> Vec<Architecture> {
        if self.sandwich {
            return [vec![space.largest()], drawn, vec![space.smallest()]].concat();
        }
        drawn
    }

    /// The sum of the gradients of views on one batch, and the mean of their losses. With distillation, the first view is
    /// the teacher of all others.
    fn gradients<M: Backbone>(
        &self,
        supernet: &M,
        views: &[Architecture],
        sgd: &SgdSettings,
        batch: &Batch,
    ) -> (GradientsParams, f64) {
        let mut sum = GradientsAccumulator::new();
        let mut mean = 0.0;
        let mut teacher: Option<Tensor<2>> = None;
        for architecture in views {
            // One view's graph is gone before the next one's is built.
            let view = supernet.select(architecture);
            let logits = view.forward(batch.images.clone());
            let loss = match &teacher {
                Some(teacher) => distillation_loss(logits, teacher.clone()),
                None => {
                    if self.distillation {
                        teacher = Some(logits.clone());
                    }
                    sgd.loss(logits, batch.labels.clone())
                }
            };
            sum.accumulate(supernet, GradientsParams::from_grads(loss.backward(), &view));
            mean += f64::from(loss.into_scalar::<f32>()) / views.len() as f64;
        }
        (sum.grads(), mean)
    }
}

/// The mean cross-entropy to a teacher's softmax, `- sum_c softmax(teacher)_c log softmax(logits)_c`, of which the teacher
/// gets no gradient.
///
/// # Shapes
/// - `logits`, `teacher`: `[images, classes]`
fn distillation_loss(logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let target = softmax(teacher.detach(), 1);
    (target * log_softmax(logits, 1)).sum_dim(1).mean().neg()
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// One step on the weights of views.
    pub(super) fn weight_step(
        &mut self,
        draw: fn(&mut Self) -> Result<Architecture, SearchError>,
        learning_rate: f64,
        feed: &mut impl Iterator<Item = Result<Batch, DataError>>,
    ) -> Result<String, SearchError> {
        let drawn = (0..self.settings.views.random).map(|_| draw(self)).collect::<Result<Vec<_>, _>>()?;
        let views = self.settings.views.with(drawn, self.task.blueprint.space());
        let State { supernet, weight_optimizer, position, .. } = &mut self.state;
        let sgd = &self.settings.sgd;
        let data = feed.next().expect("a batch for each weight step")?;
        // Where the feed was when it drew this batch, and where it is for the next one.
        Plan::next(&mut position.training_order, sgd.batch_size, &sgd.augment, &mut position.augmentation);
        let (gradients, loss) = self.settings.views.gradients(supernet, &views, sgd, &data);
        if !loss.is_finite() {
            return Err(SearchError::Diverged);
        }
        *supernet = weight_optimizer.step(learning_rate, supernet.clone(), gradients);
        position.images += (views.len() * sgd.batch_size) as u64;
        position.training_loss += 0.05 * (loss - position.training_loss);
        Ok(format!("training loss {:.3}", position.training_loss))
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{ModuleVisitor, Param};
    use burn::nn::loss::CrossEntropyLossConfig;
    use burn::tensor::{Device, TensorData};
    use elastic_layers::Elastic;
    use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};

    use super::*;
    use crate::data::{ImageData, Normalization, batch};
    use crate::{Blueprint, Config, Preset};

    struct Setting {
        blueprint: Blueprint<MobileNetV2>,
        supernet: MobileNetV2,
        batch: Batch,
        sgd: SgdSettings,
    }

    impl Setting {
        fn new() -> Self {
            let config = MobileNetV2Config::small(1, 28, 10);
            let blueprint =
                Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a net");
            let device = Device::default().autodiff();
            let supernet = blueprint.supernet(3, &device).expect("a net");
            let train = ImageData::embedded().train;
            let normalization = Normalization::of(&train).expect("in memory");
            let batch = batch(&train, &[0, 5, 9, 17, 33, 40], &normalization, None, &device).expect("in memory");
            let sgd = SgdSettings { label_smoothing: 0.1, ..Config::preset(Preset::Smoke).search.sgd };
            Self { blueprint, supernet, batch, sgd }
        }

        /// The gradients of one view's loss by Burn's cross-entropy to the labels.
        fn alone(&self, architecture: &Architecture) -> (GradientsParams, f64) {
            let view = self.supernet.select(architecture);
            let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.1)).init(&self.batch.images.device());
            let loss = loss.forward(view.forward(self.batch.images.clone()), self.batch.labels.clone());
            (GradientsParams::from_grads(loss.backward(), &view), loss.into_scalar::<f32>().into())
        }

        fn logits(&self, architecture: &Architecture) -> Tensor<2> {
            self.supernet.select(architecture).forward(self.batch.images.clone()).without_autodiff()
        }

        /// Largest, one with other sizes everywhere, smallest.
        fn views(&self) -> Vec<Architecture> {
            let space = self.blueprint.space();
            Views { random: 1, sandwich: true, distillation: false }.with(vec![space.base()], space)
        }

        /// The gradients, parameter by parameter.
        fn values(&self, gradients: &GradientsParams) -> Vec<Vec<f32>> {
            struct Values<'a>(&'a GradientsParams, Vec<Vec<f32>>);
            impl ModuleVisitor for Values<'_> {
                fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                    let gradient =
                        self.0.get::<D>(param.id).map(|gradient| gradient.into_data().iter::<f32>().collect());
                    self.1.push(gradient.unwrap_or_default());
                }
            }
            let mut visitor = Values(gradients, Vec::new());
            burn::module::Module::visit(&self.supernet, &mut visitor);
            visitor.1
        }
    }

    #[test]
    fn a_sandwich_is_the_largest_the_drawn_and_the_smallest() {
        let setting = Setting::new();
        let space = setting.blueprint.space();
        assert_eq!(setting.views(), [space.largest(), space.base(), space.smallest()]);
        assert_eq!(Views::ONE.with(vec![space.base()], space), [space.base()]);
        assert_eq!(Views { random: 2, sandwich: true, distillation: true }.count(), 4);
    }

    #[test]
    fn gradients_of_views_add_up() {
        let setting = Setting::new();
        let views = setting.views();
        let (sum, mean) = Views::ONE.gradients(&setting.supernet, &views, &setting.sgd, &setting.batch);
        let sum = setting.values(&sum);
        let alone: Vec<_> = views.iter().map(|view| setting.alone(view)).collect();
        let expected = alone.iter().map(|(_, loss)| loss).sum::<f64>() / 3.0;
        assert!((mean - expected).abs() < 1e-6, "{mean} and {expected}");
        let alone: Vec<_> = alone.iter().map(|(gradients, _)| setting.values(gradients)).collect();
        let mut different = 0;
        for (place, sum) in sum.iter().enumerate() {
            assert!(!sum.is_empty() || alone.iter().all(|view| view[place].is_empty()), "parameter {place} has none");
            let scale = sum.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            for (element, sum) in sum.iter().enumerate() {
                // A view that has no block has no gradient of it.
                let parts = alone.iter().map(|view| view[place].get(element).copied().unwrap_or(0.0));
                let expected: f32 = parts.clone().sum();
                assert!((sum - expected).abs() <= 1e-5 * scale, "parameter {place}: {sum}, not {expected}");
                different += usize::from(parts.filter(|part| *part != 0.0).count() > 1);
            }
        }
        assert!(different > 1000, "the views share weights: {different}");
    }

    #[test]
    fn the_distillation_loss_is_the_cross_entropy_to_the_teacher_who_learns_nothing_by_it() {
        let device = Device::default().autodiff();
        let (student, teacher) = ([[0.2_f64, -1.0, 3.0], [0.0, 0.5, -0.5]], [[1.0_f64, 2.0, -1.0], [4.0, 0.0, 0.1]]);
        let tensor = |values: [[f64; 3]; 2]| Tensor::<2>::from_data(TensorData::from(values), &device).require_grad();
        let softmax = |row: &[f64; 3]| {
            let sum: f64 = row.iter().map(|value| value.exp()).sum();
            row.map(|value| value.exp() / sum)
        };
        let (of_student, of_teacher) = (tensor(student), tensor(teacher));
        let loss = distillation_loss(of_student.clone(), of_teacher.clone());
        let gradients = loss.backward();
        let got: f64 = loss.into_scalar::<f32>().into();
        let mut expected = 0.0;
        let mut slope = Vec::new();
        for (student, teacher) in student.iter().zip(&teacher) {
            let (p, q) = (softmax(teacher), softmax(student));
            expected -= p.iter().zip(q).map(|(p, q)| p * q.ln()).sum::<f64>() / 2.0;
            // Of a cross-entropy with respect to the logits, averaged over two images.
            slope.extend(q.iter().zip(p).map(|(q, p)| (q - p) / 2.0));
        }
        assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
        let gradient = of_student.grad(&gradients).expect("the student learns").into_data();
        for (got, expected) in gradient.iter::<f64>().zip(slope) {
            assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
        }
        let of_teacher = of_teacher.grad(&gradients).map(|gradient| gradient.abs().sum().into_scalar::<f32>());
        assert!(of_teacher.is_none_or(|sum| sum == 0.0), "the teacher got a gradient");
    }

    #[test]
    fn others_learn_from_the_largest_view_which_learns_from_the_labels() {
        let setting = Setting::new();
        let (views, distilled) = (setting.views(), Views { random: 1, sandwich: true, distillation: true });
        let (sum, mean) = distilled.gradients(&setting.supernet, &views, &setting.sgd, &setting.batch);
        // Cross-entropies from the logits alone, in f64.
        let rows = |view| -> Vec<Vec<f64>> {
            let logits: Vec<f64> = setting.logits(view).into_data().iter::<f64>().collect();
            logits.chunks(10).map(<[f64]>::to_vec).collect()
        };
        let softmax = |row: &[f64]| -> Vec<f64> {
            let sum: f64 = row.iter().map(|value| value.exp()).sum();
            row.iter().map(|value| value.exp() / sum).collect()
        };
        let teacher = rows(&views[0]);
        let mut expected = setting.alone(&views[0]).1;
        for student in &views[1..] {
            let rows = rows(student);
            let images = rows.len() as f64;
            for (student, teacher) in rows.iter().zip(&teacher) {
                let (p, q) = (softmax(teacher), softmax(student));
                expected -= p.iter().zip(q).map(|(p, q)| p * q.ln()).sum::<f64>() / images;
            }
        }
        assert!((mean - expected / 3.0).abs() < 1e-5, "{mean}, not {}", expected / 3.0);
        // Where only the largest view has weights, their gradient is that of its own loss to the labels.
        let (labels, sum) = (setting.values(&setting.alone(&views[0]).0), setting.values(&sum));
        let others: Vec<_> = views[1..].iter().map(|view| setting.values(&setting.alone(view).0)).collect();
        let mut compared = 0;
        for (place, (labels, sum)) in labels.iter().zip(&sum).enumerate() {
            for (element, (labels, sum)) in labels.iter().zip(sum).enumerate() {
                if others.iter().all(|view| view[place].get(element).is_none_or(|value| *value == 0.0)) {
                    assert!((labels - sum).abs() <= 1e-6 * labels.abs().max(1e-3), "{sum}, not {labels}");
                    compared += usize::from(*labels != 0.0);
                }
            }
        }
        assert!(compared > 1000, "{compared} weights of the largest view alone");
    }
}
