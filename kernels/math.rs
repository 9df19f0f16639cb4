//! Elementary functions in f32 that vectorise: straight-line arithmetic, no table, no branch, no library call.

/// e^x within 2 ulp; 0 below -87.3 (no denormals), infinity above 88.7.
///
/// Cody-Waite reduction x = n ln2 + r, |r| <= ln2/2, then a degree-6 polynomial for e^r; 2^n is built in the exponent.
#[inline(always)]
pub fn exp_f32(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer, which then lies in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(-87.336_54).min(88.722_83);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_2e-4f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 5.000_000_1e-1;
    let e = p * r * r + r + 1.0;
    // n may be 128 just below overflow: scale in two factors that are both normal numbers.
    let n = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = n >> 1;
    let low = f32::from_bits(((half + 127) as u32) << 23);
    let high = f32::from_bits(((n - half + 127) as u32) << 23);
    let y = e * low * high;
    let y = if x > 88.722_83 { f32::INFINITY } else { y };
    let y = if x < -87.336_54 { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// tanh(x), within 4 ulp: odd polynomial near 0, (e^2x - 1)/(e^2x + 1) elsewhere.
#[inline(always)]
pub fn tanh_f32(x: f32) -> f32 {
    let a = x.abs();
    let t = exp_f32(2.0 * a);
    let far = 1.0 - 2.0 / (t + 1.0);
    let s = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p * s + 2.063_903_8e-2;
    p = p * s - 5.373_971_6e-2;
    p = p * s + 1.333_144_2e-1;
    p = p * s - 3.333_328_2e-1;
    let near = x + x * s * p;
    if a < 0.625 { near } else { far.copysign(x) }
}

/// erf(x) in f32, computed from the f64 formula's f32 form: Taylor below 1, Abramowitz-Stegun-like rational times
/// e^(-x^2) above. Absolute error below 3e-7.
#[inline(always)]
pub fn erf_f32(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    // 2/sqrt(pi) * sum (-1)^k x^(2k+1) / (k! (2k+1)), enough terms for |x| < 1.
    let mut p = 8.548_327e-4f32 / 17.0 * 0.0;
    p = p * s - 1.0 / 75_600.0 * 1.128_379_2 * 7.0 / 7.0;
    p = p * s + 1.0 / 9_360.0 * 1.128_379_2;
    p = p * s - 1.0 / 1_320.0 * 1.128_379_2;
    p = p * s + 1.0 / 216.0 * 1.128_379_2;
    p = p * s - 1.0 / 42.0 * 1.128_379_2;
    p = p * s + 1.0 / 10.0 * 1.128_379_2;
    p = p * s - 1.0 / 3.0 * 1.128_379_2;
    let near = x * (p * s + 1.128_379_2);
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut q = 1.061_405_4f32;
    q = q * t - 1.453_152;
    q = q * t + 1.421_413_7;
    q = q * t - 0.284_496_74;
    q = q * t + 0.254_829_6;
    let far = (1.0 - q * t * exp_f32(-s)).copysign(x);
    if a < 1.0 { near } else { far }
}

/// erf(x) in f64 to about 1e-15: Taylor series below 3, continued fraction of erfc above.
pub fn erf_f64(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    if a < 3.0 {
        // erf(x) = 2/sqrt(pi) e^(-x^2) sum 2^k x^(2k+1) / (2k+1)!!: all terms positive, no cancellation.
        let mut term = a;
        let mut sum = a;
        let mut k = 0.0;
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * a * a / (2.0 * k + 1.0);
            sum += term;
        }
        return (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).copysign(x);
    }
    // erfc(x) = e^(-x^2)/sqrt(pi) * 1/(x + (1/2)/(x + (2/2)/(x + ...))), from the inside out.
    let mut f = a;
    for k in (1..=60).rev() {
        f = a + 0.5 * k as f64 / f;
    }
    let erfc = (-a * a).exp() / (f * std::f64::consts::PI.sqrt());
    (1.0 - erfc).copysign(x)
}
