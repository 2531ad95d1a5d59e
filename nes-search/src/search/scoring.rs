//! Losses of many views on the same images, over a list of devices.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use burn::tensor::Device;
use elastic_layers::{Architecture, Backbone};

use crate::data::{DataError, Feed, ImageSet, Normalization, Plan};
use crate::evaluate::batch_loss;

/// The shared weights on every device.
pub(super) struct Scorer<M> {
    replicas: Vec<(Device, M)>,
}

impl<M: Backbone + 'static> Scorer<M> {
    /// Copies the shared weights to the devices.
    pub(super) fn new(supernet: &M, devices: &[Device]) -> Self {
        let supernet = supernet.valid();
        Self { replicas: devices.iter().map(|device| (device.clone(), supernet.clone().to_device(device))).collect() }
    }

    /// The mean loss of the view at each architecture over batches of positions in a set, each normalised with its own
    /// statistics. The same in any split over devices; equal architectures are scored once.
    ///
    /// Also returns how many views were scored.
    ///
    /// # Errors
    /// If an image file cannot be read or decoded.
    pub(super) fn losses(
        &self,
        architectures: &[Architecture],
        set: &ImageSet,
        batches: &[Vec<usize>],
        normalization: &Normalization,
    ) -> Result<(Vec<f64>, u64), DataError> {
        let mut place: HashMap<&[usize], usize> = HashMap::new();
        let mut distinct: Vec<&Architecture> = Vec::new();
        for architecture in architectures {
            place.entry(architecture.values()).or_insert_with(|| {
                distinct.push(architecture);
                distinct.len() - 1
            });
        }
        let share = distinct.len().div_ceil(self.replicas.len()).max(1);
        let parts: Vec<_> = self.replicas.iter().zip(distinct.chunks(share)).collect();
        let workers = rayon::current_num_threads().div_ceil(parts.len().max(1));
        let score = |(device, supernet): &(Device, M), part: &[&Architecture]| -> Result<Vec<f64>, DataError> {
            let mut losses = vec![0.0; part.len()];
            let images: usize = batches.iter().map(Vec::len).sum();
            let plans = batches.iter().map(|indices| Plan::new(indices, None));
            let feed = Feed::new(set, plans, normalization, device).with_workers(workers);
            for (indices, data) in batches.iter().zip(feed) {
                let data = data?;
                let weight = indices.len() as f64 / images as f64;
                for (loss, architecture) in losses.iter_mut().zip(part) {
                    *loss += weight * batch_loss(&supernet.select(architecture), data.clone());
                }
            }
            Ok(losses)
        };
        let losses: Vec<f64> = match parts.as_slice() {
            [(replica, part)] => score(replica, part)?,
            parts => thread::scope(|scope| {
                let workers: Vec<_> = parts
                    .iter()
                    .map(|(replica, part)| {
                        let replica = (*replica).clone();
                        scope.spawn(move || score(&replica, part))
                    })
                    .collect();
                let parts: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
                let parts = parts.into_iter().map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)));
                parts.collect::<Result<Vec<_>, _>>().map(|parts| parts.concat())
            })?,
        };
        let losses = architectures.iter().map(|architecture| losses[place[architecture.values()]]).collect();
        Ok((losses, distinct.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use elastic_layers::backbones::MobileNetV2Config;
    use rand::RngExt;

    use super::*;
    use crate::Blueprint;
    use crate::data::ImageData;
    use crate::rng::{Stream, stream};

    #[test]
    fn any_number_of_candidates_scores_the_same_on_any_number_of_devices() {
        let config = MobileNetV2Config::small(1, 28, 10);
        let blueprint = Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a net");
        let (space, device) = (blueprint.space(), Device::default());
        let supernet = blueprint.supernet(3, &device.clone().autodiff()).expect("a net");
        let set = ImageData::embedded().train;
        let normalization = Normalization::of(&set).expect("in memory");
        let mut rng = stream(1, Stream::Views);
        let mut draw = |dim: &elastic_layers::ElasticDim| rng.random_range(0.0..dim.levels() as f64);
        let candidates: Vec<Architecture> =
            (0..7).map(|_| space.at_params(&space.dims().iter().map(|dim| draw(dim)).collect::<Vec<_>>())).collect();
        let batches = [vec![3, 8, 100], vec![5, 900]];
        let losses = |devices: usize, candidates: &[Architecture]| {
            let scorer = Scorer::new(&supernet, &vec![device.clone(); devices]);
            scorer.losses(candidates, &set, &batches, &normalization).expect("in memory")
        };
        let (alone, _) = losses(1, &candidates);
        assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "{alone:?}");
        for devices in 1..=4 {
            for count in 1..=candidates.len() {
                let (some, scored) = losses(devices, &candidates[..count]);
                assert_eq!(some, alone[..count], "{count} candidates on {devices} devices");
                assert_eq!(scored, count as u64);
            }
        }
        // Equal ones are scored once.
        let twice = [candidates[1].clone(), candidates[0].clone(), candidates[1].clone()];
        assert_eq!(losses(2, &twice), (vec![alone[1], alone[0], alone[1]], 2));
    }
}
