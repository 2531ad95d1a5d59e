//! How work is cut for the thread pool.

use std::ops::Range;

use crate::tiles::even_blocks;

/// Parts of a sum that are worked on side by side: as many on every machine, so that a result does not depend on the
/// threads.
const PARTS: usize = 64;

/// The least numbers in a part.
const LEAST: usize = 1 << 12;

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
