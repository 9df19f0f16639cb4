//! Conversions and elementary functions.

use super::{Finding, Run, equal};
use crate::Result;
use crate::device::gpu::Grid;

const THREADS: u32 = 128;
const BLOCKS: u32 = 32;

/// Zeros, ends of ranges, subnormals, infinities, NaNs, and what lies in the middle of two bf16 numbers or beside it.
const SPECIAL: [u32; 24] = [
    0x0000_0000,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f7f_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffff_ffff,
    0x7f80_0001,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x0000_8000,
    0x0000_8001,
    0x0001_8000,
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_7fff,
    0x3f80_8001,
    0x7f7f_8000,
];

fn grid() -> Grid {
    Grid::linear(BLOCKS, THREADS)
}

/// %tid.x: each thread reads the word of its own number.
pub(super) fn fresh_thread_index(run: &mut Run) -> Result<Finding> {
    let words = run.words((BLOCKS * THREADS) as usize);
    let got = run.wrapper("fresh_thread_index", grid(), &words, words.len())?;
    Ok(equal(&got, &words, |i| format!("thread {} of block {}", i as u32 % THREADS, i as u32 / THREADS)))
}

/// f32 numbers as bits: special ones, any, and some halfway between two bf16 numbers.
fn floats(run: &mut Run) -> Vec<u32> {
    let mut words = run.words((BLOCKS * THREADS) as usize);
    words[..SPECIAL.len()].copy_from_slice(&SPECIAL);
    for word in words.iter_mut().skip(SPECIAL.len()).step_by(4) {
        *word = *word & 0xffff_0000 | 0x8000;
    }
    words
}

/// The nearest bf16 number, of two equally near ones the one with an even last bit; 0x7fff for NaN.
fn nearest_bf16(bits: u32) -> u32 {
    let value = f64::from(f32::from_bits(bits));
    if value.is_nan() {
        return 0x7fff;
    }
    if value.is_infinite() {
        return bits >> 16;
    }
    // Both neighbours by magnitude. Behind the largest finite one comes 2^128, where infinity begins.
    let below = bits >> 16;
    let magnitude = |half: u32| match half & 0x7fff {
        0x7f80 => 2f64.powi(128),
        half => f64::from(f32::from_bits(half << 16)),
    };
    let (down, up) = (value.abs() - magnitude(below), magnitude(below + 1) - value.abs());
    if down < up || down == up && below.is_multiple_of(2) { below } else { below + 1 }
}

/// cvt.rn.bf16.f32.
pub(super) fn bf16_bits(run: &mut Run) -> Result<Finding> {
    let input = floats(run);
    let got = run.wrapper("bf16_bits", grid(), &input, input.len())?;
    let expected: Vec<u32> = input.iter().map(|&bits| nearest_bf16(bits)).collect();
    Ok(super::equal(&got, &expected, |i| format!("of {:#010x}", input[i])))
}

/// cvt.rn.bf16x2.f32: the second value of the wrapper is the upper half.
pub(super) fn bf16_pair(run: &mut Run) -> Result<Finding> {
    let (low, high) = (floats(run), run.words((BLOCKS * THREADS) as usize));
    let input: Vec<u32> = low.iter().zip(&high).flat_map(|(l, h)| [*l, *h]).collect();
    let got = run.wrapper("bf16_pair", grid(), &input, low.len())?;
    let pair = |(l, h): (&u32, &u32)| nearest_bf16(*h) << 16 | nearest_bf16(*l);
    let expected: Vec<u32> = low.iter().zip(&high).map(pair).collect();
    Ok(super::equal(&got, &expected, |i| format!("of {:#010x}, {:#010x}", low[i], high[i])))
}

/// ex2.approx.ftz.f32: a relative error of 2^-22, subnormal results become 0.
pub(super) fn ex2(run: &mut Run) -> Result<Finding> {
    let mut input: Vec<u32> = (0..BLOCKS * THREADS)
        .map(|i| {
            let range = if i % 2 == 0 { 160.0 } else { 2.0 };
            (((2.0 * run.random.uniform() - 1.0) * range) as f32).to_bits()
        })
        .collect();
    input[..SPECIAL.len()].copy_from_slice(&SPECIAL);
    let got = run.wrapper("ex2", grid(), &input, input.len())?;
    let error = 2f64.powi(-22);
    for (x, y) in input.iter().zip(&got).map(|(x, y)| (f32::from_bits(*x), f32::from_bits(*y))) {
        let exact = f64::from(x).exp2();
        let (least, most) = (exact * (1.0 - error), exact * (1.0 + error));
        let right = match f64::from(y) {
            y if exact.is_nan() => y.is_nan(),
            0.0 => y.is_sign_positive() && least < f64::from(f32::MIN_POSITIVE),
            f64::INFINITY => most > f64::from(f32::MAX),
            y => least <= y && y <= most && y >= f64::from(f32::MIN_POSITIVE),
        };
        if !right {
            return Ok(Err(format!("2^{x:e} is {y:e}, expected {exact:e}")));
        }
    }
    Ok(Ok(()))
}
