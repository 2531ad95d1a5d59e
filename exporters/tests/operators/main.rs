//! Exported operations against Burn, in every runtime and with other people's tools at hand.

#[path = "../common/mod.rs"]
mod common;

mod elementwise;
mod every;
mod windows;
