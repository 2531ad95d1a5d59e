//! How work is cut for the thread pool.

use std::ops::Range;

use rayon::prelude::*;

use crate::tiles::even_blocks;

/// Parts of a sum that are worked on side by side: as many on every machine, so that a result does not depend on the
/// threads.
const PARTS: usize = 64;

/// The least numbers in a part, or in a task: of fewer, to hand them to another thread takes longer than to work on them.
pub(crate) const LEAST: usize = 1 << 14;

/// Tasks for each thread, so that uneven threads finish together.
const TASKS_PER_THREAD: usize = 4;

/// Parts of a sum over pixels of some channels each.
pub(crate) fn parts(length: usize, channels: usize) -> Vec<Range<usize>> {
    let pixels = length / channels;
    let count = PARTS.min(length.div_ceil(LEAST)).max(1);
    even_blocks(pixels, pixels.div_ceil(count))
        .map(|(first, count)| first * channels..(first + count) * channels)
        .collect()
}

/// What becomes of every part, in their order. A single part is worked on by this thread: no other has to wake up.
pub(crate) fn each<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    if parts.len() == 1 { parts.into_iter().map(work).collect() } else { parts.into_par_iter().map(work).collect() }
}

/// Numbers in a task that keeps none for another; a multiple of `period`.
pub(crate) fn aligned_chunk(length: usize, period: usize) -> usize {
    let tasks = rayon::current_num_threads() * TASKS_PER_THREAD;
    length.div_ceil(tasks).max(LEAST).next_multiple_of(period)
}

/// Cuts a slice into parts of the given lengths.
pub(crate) fn cut(mut data: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    lengths
        .map(|length| {
            let (part, rest) = std::mem::take(&mut data).split_at_mut(length);
            data = rest;
            part
        })
        .collect()
}
