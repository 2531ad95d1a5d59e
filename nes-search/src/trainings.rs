//! Trainings from scratch of several networks, one at a time on each device.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use burn::tensor::Device;
use elastic_layers::{Architecture, Backbone, SpaceError};
use rayon::ThreadPoolBuilder;

use crate::Blueprint;
use crate::data::{DataError, ImageSet, Normalization};
use crate::observer::{Observer, Progress};
use crate::train::{Course, TrainError, TrainSettings, Trained};
use crate::training_state::Checkpoints;

/// What networks are trained on, and how.
pub struct Trainer<'a, M> {
    /// The backbone.
    pub blueprint: &'a Blueprint<M>,
    /// Training images.
    pub set: &'a ImageSet,
    /// How pixels become numbers.
    pub normalization: &'a Normalization,
    /// The recipe.
    pub settings: &'a TrainSettings,
    /// A thread for each; a device that is named more often works on several networks at once.
    pub devices: &'a [Device],
}

/// A network to train.
#[derive(Clone, Debug)]
pub struct Training {
    /// What progress is shown under.
    pub name: String,
    /// What is trained.
    pub architecture: Architecture,
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
}

impl<M: Backbone + 'static> Trainer<'_, M> {
    /// Trains networks, and gives each with its index to `done` as soon as it is finished, from its thread. Returns `None`
    /// if interrupted. A network comes out the same on any list of devices of one kind.
    ///
    /// # Errors
    /// The first of `done`, or if a network cannot be built or an image file be read; others are then stopped.
    ///
    /// # Panics
    /// As [`train`](crate::train()).
    pub fn train_all<E: From<SpaceError> + From<DataError> + Send>(
        &self,
        phase: &str,
        trainings: &[Training],
        observer: &mut (dyn Observer + Send),
        done: impl Fn(usize, Trained<M>) -> Result<(), E> + Sync,
    ) -> Result<Option<()>, E> {
        let failed = |error| match error {
            TrainError::Data(error) => E::from(error),
            TrainError::Checkpoint(error) => unreachable!("{error}: no checkpoint was asked for"),
        };
        self.all(phase, trainings, &|_| None, observer, &done, &failed)
    }

    /// As [`train_all`](Self::train_all), with checkpoints: the training of an index goes on from those that
    /// `checkpoints` gives for it, and keeps its state there. When one is interrupted or fails, all that run keep theirs.
    ///
    /// # Errors
    /// As [`train_all`](Self::train_all), or if a checkpoint cannot be written or used.
    ///
    /// # Panics
    /// As [`train`](crate::train()).
    pub fn train_all_kept<E: From<SpaceError> + From<TrainError> + Send>(
        &self,
        phase: &str,
        trainings: &[Training],
        checkpoints: &(dyn Fn(usize) -> Checkpoints + Sync),
        observer: &mut (dyn Observer + Send),
        done: impl Fn(usize, Trained<M>) -> Result<(), E> + Sync,
    ) -> Result<Option<()>, E> {
        self.all(phase, trainings, &|index| Some(checkpoints(index)), observer, &done, &E::from)
    }

    fn all<E: From<SpaceError> + Send>(
        &self,
        phase: &str,
        trainings: &[Training],
        checkpoints: &(dyn Fn(usize) -> Option<Checkpoints> + Sync),
        observer: &mut (dyn Observer + Send),
        done: &(dyn Fn(usize, Trained<M>) -> Result<(), E> + Sync),
        failed: &(dyn Fn(TrainError) -> E + Sync),
    ) -> Result<Option<()>, E> {
        let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..trainings.len()).collect());
        let stop = AtomicBool::new(false);
        let overall = Mutex::new(Overall { observer, phase, steps: 0, finished: 0, trainings: trainings.len() });
        let work = |device: &Device| -> Result<(), E> {
            while !stop.load(Ordering::Relaxed) {
                let Some(index) = lock(&waiting).pop_front() else { break };
                let Training { name, architecture, seed } = &trainings[index];
                let network = self.blueprint.network(architecture, *seed, &device.clone().autodiff())?;
                let mut part = Part { overall: &overall, stop: &stop, done: 0 };
                let checkpoints = checkpoints(index);
                let Self { set, normalization, settings, .. } = *self;
                let course = Course { set, normalization, settings, seed: *seed, checkpoints: checkpoints.as_ref() };
                match course.train(network, name, &mut part).map_err(failed)? {
                    Some(trained) => done(index, trained)?,
                    None => stop.store(true, Ordering::Relaxed),
                }
            }
            Ok(())
        };
        let workers = self.devices.len().min(trainings.len()).max(1);
        let threads = (rayon::current_num_threads() / workers).max(1);
        let work = |device| {
            let work = || work(device).inspect_err(|_| stop.store(true, Ordering::Relaxed));
            if workers == 1 {
                // Among the threads that compute, no operation has to wake them.
                return rayon::scope(|_| work());
            }
            // Threads of its own: small networks would spend their time handing work to those of others.
            match ThreadPoolBuilder::new().num_threads(threads).build() {
                Ok(pool) => pool.install(work),
                // The threads of all do as well, if the system has no more.
                Err(_) => work(),
            }
        };
        thread::scope(|scope| {
            let devices = self.devices.iter().take(workers);
            let workers: Vec<_> = devices.map(|device| scope.spawn(move || work(device))).collect();
            let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            results.into_iter().try_for_each(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        Ok((!stop.into_inner()).then_some(()))
    }
}

/// All trainings together.
struct Overall<'a> {
    observer: &'a mut (dyn Observer + Send),
    phase: &'a str,
    steps: usize,
    finished: usize,
    trainings: usize,
}

/// Tells of one training as a part of all.
struct Part<'t, 'a> {
    overall: &'t Mutex<Overall<'a>>,
    stop: &'t AtomicBool,
    done: usize,
}

impl Observer for Part<'_, '_> {
    fn progress(&mut self, Progress { phase: name, done, total, message }: Progress<'_>) {
        let mut overall = lock(self.overall);
        overall.steps += done - self.done;
        self.done = done;
        overall.finished += usize::from(done == total);
        let message = format!("{} of {}; {name}: {message}", overall.finished, overall.trainings);
        // All take the same number of steps.
        let (phase, done, total) = (overall.phase, overall.steps, total * overall.trainings);
        overall.observer.progress(Progress { phase, done, total, message });
    }

    fn warning(&mut self, message: &str) {
        lock(self.overall).observer.warning(message);
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || lock(self.overall).observer.interrupted()
    }
}

/// A lock that a panic elsewhere does not keep.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
