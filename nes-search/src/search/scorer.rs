//! Losses of many views on the same images.

use std::collections::HashMap;

use burn::tensor::Device;
use elastic_layers::{Architecture, Backbone};

use crate::data::{Batch, DataError, Feed, ImageSet, Normalization, Plan};
use crate::evaluate::batch_loss;
use crate::workers::Workers;

/// Scores views of a supernet on images of a set.
pub(super) struct Scorer<'a> {
    pub workers: &'a Workers,
    pub set: &'a ImageSet,
    pub normalization: &'a Normalization,
}

/// A view to score.
struct Job<'a> {
    architecture: &'a Architecture,
    batch: &'a Batch,
}

impl Scorer<'_> {
    /// The mean loss of the view at each architecture over batches of positions in the set, each normalised with its own
    /// statistics. The losses are the same on any list of devices. Equal architectures are scored once: also returns the
    /// places of those that were.
    ///
    /// # Errors
    /// If an image file cannot be read or decoded.
    pub fn losses<M: Backbone>(
        &self,
        supernet: &M,
        architectures: &[Architecture],
        batches: &[Vec<usize>],
    ) -> Result<(Vec<f64>, Vec<usize>), DataError> {
        let supernet = supernet.valid();
        let mut place: HashMap<&[usize], usize> = HashMap::new();
        let mut distinct: Vec<usize> = Vec::new();
        for (index, architecture) in architectures.iter().enumerate() {
            place.entry(architecture.values()).or_insert_with(|| {
                distinct.push(index);
                distinct.len() - 1
            });
        }
        let mut sums = vec![0.0; distinct.len()];
        let images: usize = batches.iter().map(Vec::len).sum();
        let plans = batches.iter().map(|indices| Plan::new(indices, None));
        for batch in Feed::new(self.set, plans, self.normalization, self.workers.first()) {
            let batch = &batch?;
            let weight = batch.labels.dims()[0] as f64 / images as f64;
            let job = |&index: &usize| Job { architecture: &architectures[index], batch };
            let jobs: Vec<_> = distinct.iter().map(job).collect();
            let losses = self.workers.map(&supernet, &jobs, view_loss);
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += weight * loss);
        }
        let losses = architectures.iter().map(|architecture| sums[place[architecture.values()]]).collect();
        Ok((losses, distinct))
    }
}

fn view_loss<M: Backbone>(supernet: &M, device: &Device, job: &Job<'_>) -> f64 {
    let (view, Batch { images, labels }) = (supernet.select(job.architecture), job.batch.clone());
    if images.device() == *device {
        return batch_loss(&view, Batch { images, labels });
    }
    let batch = Batch { images: images.to_device(device), labels: labels.to_device(device) };
    batch_loss(&view.to_device(device), batch)
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
            let workers = Workers::new(&vec![device.clone(); devices]);
            let scorer = Scorer { workers: &workers, set: &set, normalization: &normalization };
            scorer.losses(&supernet, candidates, &batches).expect("in memory")
        };
        let (alone, _) = losses(1, &candidates);
        assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "{alone:?}");
        for devices in 1..=4 {
            for count in 1..=candidates.len() {
                let (some, scored) = losses(devices, &candidates[..count]);
                assert_eq!(some, alone[..count], "{count} candidates on {devices} devices");
                assert_eq!(scored, (0..count).collect::<Vec<_>>());
            }
        }
        // Equal ones are scored once.
        let twice = [candidates[1].clone(), candidates[0].clone(), candidates[1].clone()];
        assert_eq!(losses(2, &twice), (vec![alone[1], alone[0], alone[1]], vec![0, 1]));
    }
}
