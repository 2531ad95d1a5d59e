//! What the tests share.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use elastic_kernels::{Level, force_level};

/// Levels and the switch are the process': one test at a time.
pub fn process() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers around 0 that look random.
pub fn numbers(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
        })
        .collect()
}

pub fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(seed, shape.iter().product()), shape), device)
}

/// How the numbers of an input lie.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    Contiguous,
    /// The front of larger axes.
    Sliced,
    /// The middle of a larger batch: contiguous, but not at the start.
    Inner,
    Transposed,
}

pub const LAYOUTS: [Layout; 4] = [Layout::Contiguous, Layout::Sliced, Layout::Inner, Layout::Transposed];

/// A tensor that requires a gradient and, in the given layout, a tensor of it.
pub fn laid_out(
    seed: u64,
    [n, c, h, w]: [usize; 4],
    layout: Layout,
    device: &Device,
    prepare: impl Fn(Tensor<4>) -> Tensor<4>,
) -> [Tensor<4>; 2] {
    let grad = |tensor: Tensor<4>| {
        let tensor = prepare(tensor);
        if device.is_autodiff() { tensor.require_grad() } else { tensor }
    };
    let source = match layout {
        Layout::Contiguous => [n, c, h, w],
        Layout::Sliced => [n, c + 2, h + 1, w],
        Layout::Inner => [n + 2, c, h, w],
        Layout::Transposed => [n, c, w, h],
    };
    let source = grad(tensor(seed, source, device));
    [source.clone(), view(source, [n, c, h, w], layout)]
}

/// The part of a source that a layout shows.
pub fn view(source: Tensor<4>, [n, c, h, w]: [usize; 4], layout: Layout) -> Tensor<4> {
    match layout {
        Layout::Contiguous => source,
        Layout::Sliced => source.slice([0..n, 0..c, 0..h, 0..w]),
        Layout::Inner => source.slice([1..n + 1, 0..c, 0..h, 0..w]),
        Layout::Transposed => source.swap_dims(2, 3),
    }
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("a value")
}

pub fn doubles<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.cast(DType::F64).into_data().try_into_vec().unwrap()
}

/// By how much an output may differ from Burn's, and a gradient.
///
/// Every number is a sum. Two orders of summation differ by some roundings of its *terms*, however small the sum is, so
/// the difference is measured by the sum of the terms' absolute values ([`assert_sums`]); where a test does not have
/// them, by the number and the largest of its tensor ([`assert_close`]).
pub const OUTPUT: f64 = 1e-5;
pub const GRADIENT: f64 = 1e-4;

/// By how much a sum may differ from the exact one, in `f64`.
pub const EXACT: f64 = 1e-6;

/// Whether every number differs by at most the tolerance, relative to the absolute values of the terms that it sums.
pub fn assert_sums(name: &str, expected: &[f64], found: &[f64], terms: &[f64], tolerance: f64) {
    assert_eq!([expected.len(); 2], [found.len(), terms.len()], "{name}: length");
    for (place, ((expected, found), terms)) in expected.iter().zip(found).zip(terms).enumerate() {
        let allowed = tolerance * terms + 1e-30;
        assert!(
            (expected - found).abs() <= allowed,
            "{name}[{place}]: expected {expected}, found {found}, terms of {terms} in all"
        );
    }
}

/// Whether every number differs by at most the tolerance, relative to the expected one and to the largest of them.
pub fn assert_close(name: &str, expected: &[f32], found: &[f32], tolerance: f64) {
    let tolerance = tolerance as f32;
    assert_eq!(expected.len(), found.len(), "{name}: length");
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (place, (expected, found)) in expected.iter().zip(found).enumerate() {
        let allowed = tolerance * (expected.abs() + largest) + 1e-30;
        assert!((expected - found).abs() <= allowed, "{name}[{place}]: expected {expected}, found {found}");
    }
}

/// Runs at every level that is available, on one thread and on two, and expects the same bits on both.
pub fn everywhere<T: PartialEq + std::fmt::Debug + Send>(work: impl Fn() -> T + Sync) -> Vec<(Level, T)> {
    let pools = [1, 2].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a value"));
    let levels = Level::ALL.into_iter().filter(|level| level.is_available());
    let results = levels
        .map(|level| {
            force_level(Some(level));
            let [one, two] = pools.each_ref().map(|pool| pool.install(&work));
            assert_eq!(one, two, "{level:?}: one thread and two");
            (level, two)
        })
        .collect();
    force_level(None);
    results
}
