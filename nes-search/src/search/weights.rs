//! Steps on the shared weights.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use elastic_layers::{Architecture, Backbone};

use crate::data::Batch;
use crate::train::SgdSettings;
use crate::workers::Workers;

/// The shared weights and their optimizer.
pub(super) struct Weights<M> {
    /// Always there but during a step, which changes it in place.
    supernet: Option<M>,
    pub optimizer: ModuleOptimizer,
}

impl<M: Module> Weights<M> {
    pub fn new(supernet: M, optimizer: ModuleOptimizer) -> Self {
        Self { supernet: Some(supernet), optimizer }
    }

    pub fn supernet(&self) -> &M {
        self.supernet.as_ref().expect("it is missing only during a step")
    }
}

impl<M: Backbone> Weights<M> {
    /// One step on the mean of the gradients of views, each on a batch of its own; gives the mean of their losses. A step
    /// with a loss that is not finite changes nothing.
    pub fn step(
        &mut self,
        views: &[(Architecture, Batch)],
        sgd: &SgdSettings,
        learning_rate: f64,
        workers: &Workers,
    ) -> f64 {
        let (gradients, loss) = gradients(self.supernet(), views, sgd, workers);
        if loss.is_finite()
            && let Some(supernet) = self.supernet.take()
        {
            self.supernet = Some(self.optimizer.step(learning_rate, supernet, gradients));
        }
        loss
    }
}

/// The mean of the gradients of views, each on a batch of its own, and the mean of their losses.
fn gradients<M: Backbone>(
    supernet: &M,
    views: &[(Architecture, Batch)],
    sgd: &SgdSettings,
    workers: &Workers,
) -> (GradientsParams, f64) {
    // Leaves of its own for each view: views that share them would be one graph, which one thread at a time works on.
    let plain = supernet.valid();
    let share = 1.0 / views.len() as f64;
    let parts = workers.map(&plain, views, |plain, _, (architecture, batch)| {
        let view = plain.select(architecture).train();
        let loss = sgd.loss(view.forward(batch.images.clone()), batch.labels.clone()).mul_scalar(share);
        (GradientsParams::from_grads(loss.backward(), &view), f64::from(loss.into_scalar::<f32>()))
    });
    let mut sum = GradientsAccumulator::new();
    let mut mean = 0.0;
    for (gradients, loss) in parts {
        sum.accumulate(supernet, gradients);
        mean += loss;
    }
    (sum.grads(), mean)
}

#[cfg(test)]
mod tests {
    use burn::module::{ModuleVisitor, Param};
    use burn::nn::loss::CrossEntropyLossConfig;
    use burn::tensor::{Device, Tensor};
    use elastic_layers::Elastic;
    use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};

    use super::*;
    use crate::data::{ImageData, Normalization, batch};
    use crate::{Blueprint, Config, Preset};

    /// The gradients, parameter by parameter.
    fn values(model: &MobileNetV2, gradients: &GradientsParams) -> Vec<Vec<f32>> {
        struct Values<'a>(&'a GradientsParams, Vec<Vec<f32>>);
        impl ModuleVisitor for Values<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = self.0.get::<D>(param.id).map(|gradient| gradient.into_data().iter::<f32>().collect());
                self.1.push(gradient.unwrap_or_default());
            }
        }
        let mut visitor = Values(gradients, Vec::new());
        Module::visit(model, &mut visitor);
        visitor.1
    }

    #[test]
    fn gradients_of_views_are_averaged_and_the_same_on_any_number_of_devices() {
        let config = MobileNetV2Config::small(1, 28, 10);
        let blueprint = Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a net");
        let device = Device::default().autodiff();
        let supernet = blueprint.supernet(3, &device).expect("a net");
        let set = ImageData::embedded().train;
        let normalization = Normalization::of(&set).expect("in memory");
        let sgd = SgdSettings { label_smoothing: 0.1, ..Config::preset(Preset::Smoke).search.sgd };
        let space = blueprint.space();
        let positions = [[0, 5, 9, 17], [33, 40, 2, 3], [7, 8, 10, 11]];
        let views: Vec<(Architecture, Batch)> = [space.largest(), space.base(), space.smallest()]
            .into_iter()
            .zip(&positions)
            .map(|(view, positions)| (view, batch(&set, positions, &normalization, None, &device).expect("in memory")))
            .collect();
        let on = |devices: usize| {
            let workers = Workers::new(&vec![Device::default(); devices]);
            let (gradients, loss) = gradients(&supernet, &views, &sgd, &workers);
            (values(&supernet, &gradients), loss)
        };
        let (sum, mean) = on(1);
        for devices in 2..4 {
            assert!(on(devices) == (sum.clone(), mean), "{devices} devices");
        }
        // One view after the other by Burn's cross-entropy, on the supernet's own leaves.
        let alone: Vec<(Vec<Vec<f32>>, f32)> = (views.iter())
            .map(|(architecture, batch)| {
                let view = supernet.select(architecture);
                let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.1)).init(&device);
                let loss = loss.forward(view.forward(batch.images.clone()), batch.labels.clone());
                let gradients = GradientsParams::from_grads(loss.backward(), &view);
                (values(&supernet, &gradients), loss.into_scalar::<f32>())
            })
            .collect();
        let expected = alone.iter().map(|(_, loss)| f64::from(*loss)).sum::<f64>() / 3.0;
        assert!((mean - expected).abs() < 1e-6, "{mean} and {expected}");
        // Some gradients are 0 but for rounding.
        let all = sum.iter().flatten().fold(0.0_f32, |most, value| most.max(value.abs()));
        let mut several = 0;
        for (place, sum) in sum.iter().enumerate() {
            assert!(!sum.is_empty() || alone.iter().all(|(view, _)| view[place].is_empty()), "{place} has none");
            let scale = sum.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            for (element, sum) in sum.iter().enumerate() {
                // A view that has no block has no gradient of it.
                let parts = alone.iter().map(|(view, _)| view[place].get(element).copied().unwrap_or(0.0));
                let expected: f32 = parts.clone().sum::<f32>() / 3.0;
                assert!(
                    (sum - expected).abs() <= 1e-5 * scale + 1e-6 * all,
                    "parameter {place}: {sum}, not {expected}"
                );
                several += usize::from(parts.filter(|part| *part != 0.0).count() > 1);
            }
        }
        assert!(several > 1000, "the views share weights: {several}");
    }
}
