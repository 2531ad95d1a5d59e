//! Batch after batch of a set. Image files are decoded ahead of their use, by threads of their own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use burn::tensor::Device;

use super::{Batch, DataError, ImageSet, Normalization, Plan};

/// Batches that are decoded while the one before them is used. It bounds the memory that they take.
const AHEAD: usize = 2;

/// The batches of plans, in order, on a device. It ends after an image that cannot be read.
///
/// Plans of image files are asked for two batches ahead, and their images decoded by threads while the caller computes.
/// Whoever has to say which plans have been used has to count, or draw, them himself. The number of threads changes
/// nothing but time. Of a set in memory a batch is made when it is asked for, without threads.
pub struct Feed<P> {
    set: ImageSet,
    normalization: Normalization,
    device: Device,
    plans: P,
    workers: usize,
    /// There are some once they are needed.
    decoders: Option<Decoders>,
    ahead: VecDeque<Decoding>,
    failed: bool,
}

impl<P: Iterator<Item = Plan>> Feed<P> {
    /// A feed with as many threads as `rayon` would compute with here, if any are needed.
    pub fn new(set: &ImageSet, plans: P, normalization: &Normalization, device: &Device) -> Self {
        Self {
            set: set.clone(),
            normalization: normalization.clone(),
            device: device.clone(),
            plans,
            workers: rayon::current_num_threads(),
            decoders: None,
            ahead: VecDeque::new(),
            failed: false,
        }
    }

    /// The same with another number of threads, at least 1.
    pub fn with_workers(self, workers: usize) -> Self {
        Self { workers: workers.max(1), ..self }
    }

    fn in_memory(&mut self) -> Option<Result<Batch, DataError>> {
        let plan = self.plans.next()?;
        let views = plan.views().map(|(position, crop)| self.set.view(position, crop));
        Some(plan.batch(&self.set, views, &self.normalization, &self.device))
    }

    fn decoded(&mut self) -> Option<Result<Batch, DataError>> {
        let decoders = self.decoders.get_or_insert_with(|| Decoders::start(&self.set, self.workers));
        let mut look_ahead = |ahead: &mut VecDeque<Decoding>| {
            while ahead.len() < AHEAD {
                let Some(plan) = self.plans.next() else { break };
                ahead.push_back(decoders.begin(plan));
            }
        };
        look_ahead(&mut self.ahead);
        let Decoding { plan, views } = self.ahead.pop_front()?;
        let views = views.finish();
        look_ahead(&mut self.ahead);
        let views = views.into_iter().map(|view| view.map(Cow::Owned));
        Some(plan.batch(&self.set, views, &self.normalization, &self.device))
    }
}

impl<P: Iterator<Item = Plan>> Iterator for Feed<P> {
    type Item = Result<Batch, DataError>;

    /// # Panics
    ///
    /// As [`batch`](super::batch()).
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = if self.set.is_lazy() { self.decoded() } else { self.in_memory() };
        self.failed = matches!(batch, Some(Err(_)));
        batch
    }
}

type View = Result<Vec<u8>, DataError>;

/// A batch in the making.
struct Decoding {
    plan: Plan,
    views: Views,
}

/// Views as they come, each with its place in the batch.
struct Views {
    count: usize,
    arriving: Receiver<(usize, View)>,
}

impl Views {
    /// All of them, in the order of the batch.
    fn finish(self) -> Vec<View> {
        let mut views: Vec<(usize, View)> = self.arriving.iter().collect();
        assert!(views.len() == self.count, "a thread that decodes images panicked");
        views.sort_unstable_by_key(|&(place, _)| place);
        views.into_iter().map(|(_, view)| view).collect()
    }
}

/// An image to decode.
struct Order {
    position: usize,
    crop: Option<u64>,
    place: usize,
    done: Sender<(usize, View)>,
}

/// Threads that decode images of a set. They end with this, at the latest after the image that they are at.
struct Decoders {
    orders: Option<Sender<Order>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Decoders {
    fn start(set: &ImageSet, workers: usize) -> Self {
        let (orders, waiting) = channel::<Order>();
        let waiting = Arc::new(Mutex::new(waiting));
        let stop = Arc::new(AtomicBool::new(false));
        let work = |_| {
            let (set, waiting, stop) = (set.clone(), Arc::clone(&waiting), Arc::clone(&stop));
            let decode = move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Order { position, crop, place, done }) = next else { break };
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // Nobody waits for it any more, if it cannot be sent.
                    let _ = done.send((place, set.view(position, crop).map(Cow::into_owned)));
                }
            };
            thread::spawn(decode)
        };
        let threads = (0..workers).map(work).collect();
        Self { orders: Some(orders), stop, threads }
    }

    fn begin(&self, plan: Plan) -> Decoding {
        let (done, arriving) = channel();
        let mut count = 0;
        for (place, (position, crop)) in plan.views().enumerate() {
            let order = Order { position, crop, place, done: done.clone() };
            self.orders.as_ref().and_then(|orders| orders.send(order).ok()).expect("threads wait for orders");
            count += 1;
        }
        Decoding { plan, views: Views { count, arriving } }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        for thread in self.threads.drain(..) {
            // A panic has been told where its image was waited for.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
