//! The whole chain, tested from outside: see the files in `tests/tests/`.
