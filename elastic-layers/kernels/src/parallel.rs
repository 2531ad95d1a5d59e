//! How work is cut for the thread pool. No result depends on the cut.

use std::ops::Range;

use crate::matrix::even_blocks;

/// Tasks for each thread, so that uneven threads finish together.
const TASKS_PER_THREAD: usize = 4;

/// Items in a task.
pub(crate) fn chunk_length(items: usize) -> usize {
    items.div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD).max(1)
}

/// Some channels, and their planes of every image.
pub(crate) struct ChannelTask<'a> {
    pub channels: Range<usize>,
    /// For every image; empty if there is no output.
    pub planes: Vec<&'a mut [f32]>,
}

/// Cuts `[batch, channels, plane]` between channels.
pub(crate) fn channel_tasks(data: Option<&mut [f32]>, channels: usize, plane: usize) -> Vec<ChannelTask<'_>> {
    let mut tasks: Vec<ChannelTask<'_>> = even_blocks(channels, chunk_length(channels))
        .map(|(first, count)| ChannelTask { channels: first..first + count, planes: Vec::new() })
        .collect();
    for image in data.unwrap_or_default().chunks_exact_mut(channels * plane) {
        let mut rest = image;
        for task in &mut tasks {
            let (planes, behind) = rest.split_at_mut(task.channels.len() * plane);
            task.planes.push(planes);
            rest = behind;
        }
    }
    tasks
}
