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
