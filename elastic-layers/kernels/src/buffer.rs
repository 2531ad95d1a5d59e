//! Memory of results, used again.
//!
//! A training step makes the same large tensors over and over. New memory from the system costs a fault for every page
//! and is cleared, which takes longer than many an operation: what a tensor leaves is kept for the next of about its size.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

use crate::origin::{Origin, forget, remember};

/// Numbers of a cache line: as many as the longest vector has, which is slow to read across lines.
const LINE: usize = 16;

/// Fewer lines are kept by every thread for itself.
const LEAST_LINES: usize = 1 << 10;

/// The most pieces that a thread keeps.
const SPARE_PIECES: usize = 64;

/// Lines that may always be kept.
const SPARE_LINES: usize = 1 << 18;

/// Requests for new memory in which the most that was in use is forgotten.
const FORGET: usize = 256;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers in aligned memory.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    length: usize,
    /// Whether it may be known what made the numbers.
    has_origin: bool,
}

/// Numbers that are all written to before they are read: there may be any in them.
pub(crate) fn take(length: usize) -> Buffer {
    let lines = length.div_ceil(LINE);
    let lines = if lines < LEAST_LINES { take_spare(lines) } else { pool().take(lines) };
    Buffer { lines, length, ..Buffer::default() }
}

thread_local! {
    /// Small pieces of memory that this thread has used.
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// At least so many lines, and at most twice as many.
fn take_spare(lines: usize) -> Vec<Line> {
    SPARE
        .with_borrow_mut(|spare| {
            let fits = |piece: &Vec<Line>| piece.len() >= lines && piece.len() <= 2 * lines;
            let place = spare.iter().rposition(fits)?;
            Some(spare.swap_remove(place))
        })
        .unwrap_or_else(|| vec![Line([0.0; LINE]); lines])
}

fn give_spare(piece: Vec<Line>) {
    if piece.is_empty() {
        return;
    }
    // A thread that ends has no spare any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() == SPARE_PIECES {
            spare.remove(0);
        }
        spare.push(piece);
    });
}

/// Zeros.
pub(crate) fn zeros(length: usize) -> Buffer {
    let mut buffer = take(length);
    buffer.fill(0.0);
    buffer
}

impl Buffer {
    /// Makes room for so many numbers; there may be any in them.
    pub fn resize(&mut self, length: usize) {
        if length > self.lines.len() * LINE {
            *self = take(length);
        }
        self.length = length;
    }

    /// As memory of a tensor.
    pub fn into_bytes(self) -> Bytes {
        let length = self.length * size_of::<f32>();
        // SAFETY: the controller's memory is that of `lines`, which has at least `length` bytes (an invariant of
        // `Buffer`), all of them initialised, since they are numbers; and what it owns can be sent between threads.
        unsafe { Bytes::from_controller(Box::new(self), length) }
    }

    /// As memory of a tensor of which [`crate::origin::origin_of`] tells the origin until it is written to.
    pub fn into_bytes_from(mut self, origin: Origin) -> Bytes {
        self.has_origin = true;
        remember(self.as_ptr().addr(), origin);
        self.into_bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let address = self.as_ptr().addr();
        if self.has_origin {
            forget(address);
        }
        let lines = std::mem::take(&mut self.lines);
        if lines.len() < LEAST_LINES {
            give_spare(lines);
        } else {
            pool().give(lines);
        }
    }
}

impl FromIterator<f32> for Buffer {
    fn from_iter<T: IntoIterator<Item = f32>>(numbers: T) -> Self {
        let numbers: Vec<f32> = numbers.into_iter().collect();
        let mut buffer = take(numbers.len());
        buffer.copy_from_slice(&numbers);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is `LINE` numbers without gaps, so `lines` is `lines.len() * LINE` numbers that are
        // initialised and borrowed with `self`; `length` is at most that: `take` and `resize` see to it.
        unsafe { from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

impl AllocationController for Buffer {
    /// What `Bytes` supports at most, and the memory has and more.
    fn alloc_align(&self) -> usize {
        align_of::<u128>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _policy: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        // Every write by others comes through here.
        if self.has_origin {
            forget(self.as_ptr().addr());
        }
        let length = self.lines.len() * size_of::<Line>();
        // SAFETY: the bytes are those of `lines`, borrowed exclusively with `self`. The caller writes only initialised
        // bytes, as the trait demands, and any bytes are numbers.
        Ok(unsafe { from_raw_parts_mut(self.lines.as_mut_ptr().cast(), length) })
    }

    fn memory(&self, _policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let length = self.lines.len() * size_of::<Line>();
        // SAFETY: the bytes are those of `lines`, borrowed with `self`; `Line` has no padding.
        Ok(unsafe { from_raw_parts(self.lines.as_ptr().cast(), length) })
    }
}

/// What is free, and how much is in use, in lines.
struct Pool {
    free: Vec<Vec<Line>>,
    free_lines: usize,
    used_lines: usize,
    /// The most that was in use, recently: between two steps of training it is next to nothing.
    most_lines: usize,
}

fn pool() -> MutexGuard<'static, Pool> {
    static POOL: LazyLock<Mutex<Pool>> =
        LazyLock::new(|| Mutex::new(Pool { free: Vec::new(), free_lines: 0, used_lines: 0, most_lines: 0 }));
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// At least so many lines, and not many more.
    fn take(&mut self, lines: usize) -> Vec<Line> {
        let fits = |free: &(usize, &Vec<Line>)| free.1.len() >= lines && free.1.len() <= lines + lines / 8;
        let best = self.free.iter().enumerate().filter(fits).min_by_key(|(_, free)| free.len()).map(|(place, _)| place);
        let found = match best {
            Some(place) => {
                let found = self.free.swap_remove(place);
                self.free_lines -= found.len();
                found
            }
            None => {
                self.make_room(lines);
                vec![Line([0.0; LINE]); lines]
            }
        };
        self.used_lines += found.len();
        self.most_lines = self.most_lines.max(self.used_lines);
        found
    }

    fn give(&mut self, lines: Vec<Line>) {
        self.used_lines = self.used_lines.saturating_sub(lines.len());
        self.free_lines += lines.len();
        self.free.push(lines);
    }

    /// Gives memory back before more is asked for: so much that there is at most half as much again as was in use at
    /// once. With less, what is given back is what is asked for next.
    fn make_room(&mut self, lines: usize) {
        self.most_lines -= self.most_lines / FORGET;
        let most = (self.used_lines + lines).max(self.most_lines);
        let most = most + most / 2 + SPARE_LINES;
        while self.used_lines + self.free_lines + lines > most && !self.free.is_empty() {
            self.free_lines -= self.free.swap_remove(0).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        // No other test takes as much.
        let length = LEAST_LINES * LINE * 5 + 5;
        let mut first = take(length);
        assert!(first.as_ptr().is_aligned_to_line());
        first.fill(7.0);
        let place = first.as_ptr();
        drop(first.into_bytes());
        let second = take(length - 100);
        assert_eq!((second.as_ptr(), second.len()), (place, length - 100));
        assert!(zeros(length).iter().all(|number| *number == 0.0));
    }

    trait Aligned {
        fn is_aligned_to_line(&self) -> bool;
    }

    impl Aligned for *const f32 {
        fn is_aligned_to_line(&self) -> bool {
            self.addr().is_multiple_of(align_of::<Line>())
        }
    }

    #[test]
    fn bytes_are_the_numbers() {
        let buffer: Buffer = (0..1000).map(|number| number as f32).collect();
        let bytes = buffer.into_bytes();
        let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        assert_eq!(numbers, (0..1000).map(|number| number as f32).collect::<Vec<_>>());
        let mut copy = bytes.clone();
        copy[0] = 1;
        assert_eq!(bytes[0], 0);
    }
}
