//! Work that is spread over devices.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A thread for each device, with an equal share of the process's threads to compute with.
pub(crate) struct Workers {
    devices: Vec<Device>,
    pools: Vec<Option<ThreadPool>>,
}

impl Workers {
    /// Workers on devices. A device that is named more often does several things at once.
    ///
    /// # Panics
    /// If there is no device.
    pub fn new(devices: &[Device]) -> Self {
        assert!(!devices.is_empty(), "at least one device");
        let threads = (rayon::current_num_threads() / devices.len()).max(1);
        // Without threads of their own, small pieces of work would wait for each other. The threads of the process do as
        // well, if the system has no more.
        let pool = |_| ThreadPoolBuilder::new().num_threads(threads).build().ok();
        let pools = if devices.len() == 1 { vec![None] } else { (0..devices.len()).map(pool).collect() };
        Self { devices: devices.to_vec(), pools }
    }

    /// The first device.
    pub fn first(&self) -> &Device {
        &self.devices[0]
    }

    /// How many jobs run at once.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// Does jobs with a copy of a tool in each thread, and returns their results in the order of the jobs. One job alone gets
    /// all threads.
    pub fn map<C: Clone + Send, T: Sync, R: Send>(
        &self,
        tool: &C,
        jobs: &[T],
        work: impl Fn(&C, &Device, &T) -> R + Sync,
    ) -> Vec<R> {
        if self.devices.len() == 1 || jobs.len() < 2 {
            let (tool, device, work) = (tool.clone(), &self.devices[0], &work);
            // Among the threads that compute, no operation has to wake them.
            return rayon::scope(move |_| jobs.iter().map(|job| work(&tool, device, job)).collect());
        }
        let next = AtomicUsize::new(0);
        let run = |tool: &C, device: &Device| {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(index) else { return done };
                done.push((index, work(tool, device, job)));
            }
        };
        let run = &run;
        let mut done: Vec<(usize, R)> = thread::scope(|scope| {
            let workers: Vec<_> = (self.devices.iter().zip(&self.pools))
                .take(jobs.len())
                .map(|(device, pool)| {
                    let tool = tool.clone();
                    scope.spawn(move || match pool {
                        Some(pool) => pool.install(move || run(&tool, device)),
                        None => run(&tool, device),
                    })
                })
                .collect();
            let parts = workers.into_iter().map(ScopedJoinHandle::join);
            parts.flat_map(|part| part.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        done.sort_unstable_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for devices in 1..4 {
            let workers = Workers::new(&vec![Device::default(); devices]);
            for jobs in 0..9_u32 {
                let jobs: Vec<u32> = (0..jobs).collect();
                let squares: Vec<u32> = jobs.iter().map(|job| 3 * job * job).collect();
                assert_eq!(workers.map(&3, &jobs, |tool, _, job| tool * job * job), squares);
            }
        }
    }
}
