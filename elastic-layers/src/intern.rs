//! Values that every layer has a reference to: each distinct one is kept once, for as long as the process runs, so that a
//! view shares them without counting references. A program has few: module paths, and dimensions of its spaces.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The distinct values of a type.
pub(crate) struct Interned<T: ?Sized + 'static>(LazyLock<Mutex<HashSet<&'static T>>>);

impl<T: ?Sized + Eq + Hash> Interned<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// The one that is kept of those that equal a value.
    pub fn of(&self, value: Box<T>) -> &'static T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&*value) {
            return known;
        }
        let kept: &'static T = Box::leak(value);
        all.insert(kept);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        static WORDS: Interned<str> = Interned::new();
        let [one, other, again] = ["stem", "head", "stem"].map(|word| WORDS.of(word.into()));
        assert_eq!([one, other, again], ["stem", "head", "stem"]);
        assert!(std::ptr::eq(one, again) && !std::ptr::eq(one, other));
    }
}
