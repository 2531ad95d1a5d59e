//! Planes of channels to pixels, vectors with a number of each channel, and back.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

/// Numbers in the longest vector.
const MOST: usize = 16;

/// Writes the pixels of up to as many planes as a vector has numbers to their places; 0 where there is no plane.
#[inline(always)]
pub(crate) fn to_pixels<S: Simd>(simd: S, planes: &[f32], places: &[usize], pixels: &mut [S::f32s]) {
    let (lanes, length) = (S::F32_LANES, places.len());
    if planes.len() == lanes * length && length >= lanes && has_squares(simd) {
        let mut at = 0;
        while at < length {
            // The last square repeats some of the one before it.
            at = at.min(length - lanes);
            let mut square = [simd.splat_f32s(0.0); MOST];
            for lane in 0..lanes {
                square[lane] = S::as_simd_f32s(&planes[lane * length + at..][..lanes]).0[0];
            }
            transpose(simd, &mut square);
            for (&place, pixel) in places[at..at + lanes].iter().zip(square) {
                pixels[place] = pixel;
            }
            at += lanes;
        }
        return;
    }
    for (at, &place) in places.iter().enumerate() {
        let mut pixel = [0.0; MOST];
        for (plane, number) in planes.chunks_exact(length).zip(&mut pixel) {
            *number = plane[at];
        }
        pixels[place] = S::as_simd_f32s(&pixel[..lanes]).0[0];
    }
}

/// Writes the pixels at their places to up to as many planes as a vector has numbers.
#[inline(always)]
pub(crate) fn from_pixels<S: Simd>(simd: S, pixels: &[S::f32s], places: &[usize], planes: &mut [f32]) {
    let (lanes, length) = (S::F32_LANES, places.len());
    if planes.len() == lanes * length && length >= lanes && has_squares(simd) {
        let mut at = 0;
        while at < length {
            at = at.min(length - lanes);
            let mut square = [simd.splat_f32s(0.0); MOST];
            for (&place, pixel) in places[at..at + lanes].iter().zip(&mut square) {
                *pixel = pixels[place];
            }
            transpose(simd, &mut square);
            for lane in 0..lanes {
                S::as_mut_simd_f32s(&mut planes[lane * length + at..][..lanes]).0[0] = square[lane];
            }
            at += lanes;
        }
        return;
    }
    for (at, &place) in places.iter().enumerate() {
        let mut pixel = [0.0; MOST];
        S::as_mut_simd_f32s(&mut pixel[..lanes]).0[0] = pixels[place];
        for (plane, number) in planes.chunks_exact_mut(length).zip(pixel) {
            plane[at] = number;
        }
    }
}

/// Whether [`transpose`] knows this instruction set.
#[inline(always)]
fn has_squares<S: Simd>(simd: S) -> bool {
    #[cfg(target_arch = "x86_64")]
    if as_v3(simd).is_some() {
        return true;
    }
    let _ = simd;
    S::F32_LANES == 1
}

/// Transposes the first square of numbers of some vectors, where [`has_squares`] says so.
#[inline(always)]
fn transpose<S: Simd>(simd: S, square: &mut [S::f32s; MOST]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = as_v3(simd) {
        let mut rows = [v3.avx._mm256_setzero_ps(); 8];
        for row in 0..8 {
            rows[row] = pulp::bytemuck::cast(square[row]);
        }
        let rows = transpose_8(v3, rows);
        for row in 0..8 {
            square[row] = pulp::bytemuck::cast(rows[row]);
        }
    }
    let _ = (simd, square);
}

/// The instruction set, if it is x86-64-v3; known when the code is compiled.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn as_v3<S: Simd>(simd: S) -> Option<pulp::x86::V3> {
    (&simd as &dyn std::any::Any).downcast_ref().copied()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose_8(v3: pulp::x86::V3, rows: [std::arch::x86_64::__m256; 8]) -> [std::arch::x86_64::__m256; 8] {
    let avx = v3.avx;
    let [a, b, c, d, e, f, g, h] = rows;
    // Pairs of rows: numbers 0, 1, 4 and 5 of both, and the others.
    let (ab, cd, ef, gh) = (
        [avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b)],
        [avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d)],
        [avx._mm256_unpacklo_ps(e, f), avx._mm256_unpackhi_ps(e, f)],
        [avx._mm256_unpacklo_ps(g, h), avx._mm256_unpackhi_ps(g, h)],
    );
    // Fours of rows: numbers n and n + 4 of all.
    let fours = |low: [_; 2], high: [_; 2]| {
        [
            avx._mm256_shuffle_ps::<0b01_00_01_00>(low[0], high[0]),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(low[0], high[0]),
            avx._mm256_shuffle_ps::<0b01_00_01_00>(low[1], high[1]),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(low[1], high[1]),
        ]
    };
    let (first, last) = (fours(ab, cd), fours(ef, gh));
    [
        avx._mm256_permute2f128_ps::<0x20>(first[0], last[0]),
        avx._mm256_permute2f128_ps::<0x20>(first[1], last[1]),
        avx._mm256_permute2f128_ps::<0x20>(first[2], last[2]),
        avx._mm256_permute2f128_ps::<0x20>(first[3], last[3]),
        avx._mm256_permute2f128_ps::<0x31>(first[0], last[0]),
        avx._mm256_permute2f128_ps::<0x31>(first[1], last[1]),
        avx._mm256_permute2f128_ps::<0x31>(first[2], last[2]),
        avx._mm256_permute2f128_ps::<0x31>(first[3], last[3]),
    ]
}
