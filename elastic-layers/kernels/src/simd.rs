//! The instruction set, chosen at run time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use pulp::{Scalar, Simd, WithSimd};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// One number at a time: every processor.
    Scalar = 1,
    /// 256-bit vectors with fused multiply-add: x86-64-v3.
    Avx2 = 2,
    /// 512-bit vectors: x86-64-v4.
    Avx512 = 3,
    /// 128-bit vectors: AArch64.
    Neon = 4,
}

impl Level {
    /// All of them, the slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::is_available(),
            _ => false,
        }
    }

    fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let mut available = Self::ALL.into_iter().filter(|level| level.is_available());
            available.next_back().unwrap_or(Self::Scalar)
        })
    }
}

static FORCED: AtomicU8 = AtomicU8::new(0);

/// The level in use: the fastest that this processor has, or the forced one.
pub fn level() -> Level {
    let forced = FORCED.load(Ordering::Relaxed);
    Level::ALL.into_iter().find(|level| *level as u8 == forced).unwrap_or_else(Level::best)
}

/// Uses one level in the whole process, or the fastest again; for tests and for finding faults.
///
/// # Panics
/// If the level is not available.
pub fn force_level(level: Option<Level>) {
    if let Some(level) = level {
        assert!(level.is_available(), "{level:?} is not available on this processor");
    }
    FORCED.store(level.map_or(0, |level| level as u8), Ordering::Relaxed);
}

/// Runs an operation at the level in use.
pub(crate) fn run<O: WithSimd>(operation: O) -> O::Output {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Simd::vectorize(simd, operation);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Simd::vectorize(simd, operation);
            }
        }
        #[cfg(target_arch = "aarch64")]
        Level::Neon => {
            if let Some(simd) = pulp::aarch64::Neon::try_new() {
                return Simd::vectorize(simd, operation);
            }
        }
        _ => {}
    }
    Simd::vectorize(Scalar, operation)
}

/// Numbers in the longest vector of any level.
pub(crate) const MOST_LANES: usize = 16;

/// Numbers in a vector of [`run`].
pub(crate) fn width() -> usize {
    match level() {
        Level::Scalar => 1,
        Level::Neon => 4,
        Level::Avx2 => 8,
        Level::Avx512 => 16,
    }
}

/// `yes` where the mask is set, and `no` elsewhere. `select_f32s` of `pulp` may not be inlined, and is then called for
/// every vector.
#[inline(always)]
pub(crate) fn select<S: Simd>(simd: S, mask: S::m32s, yes: S::f32s, no: S::f32s) -> S::f32s {
    let bits = simd.select_u32s(mask, simd.transmute_u32s_f32s(yes), simd.transmute_u32s_f32s(no));
    simd.transmute_f32s_u32s(bits)
}

/// Writes a vector to the start of a slice of at least as many numbers.
#[inline(always)]
pub(crate) fn store<S: Simd>(_simd: S, target: &mut [f32], value: S::f32s) {
    S::as_mut_simd_f32s(&mut target[..S::F32_LANES]).0[0] = value;
}
