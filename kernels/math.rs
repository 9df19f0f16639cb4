//! Elementary functions in f32 that vectorise: straight-line arithmetic, no table, no branch, no library call.
//!
//! Every function here is an argument reduction followed by a minimax polynomial. The coefficients were fitted with
//! the Remez exchange algorithm to the relative error of the whole function, then rounded to f32. Nothing relies on
//! fused multiply-add, so the portable and the vector builds return the same bits. `tests/math.rs` holds the
//! bounds stated here against f64.

/// c[0] + c[1] x + c[2] x^2 + ..., by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut p = c[N - 1];
    for k in (0..N - 1).rev() {
        p = p * x + c[k];
    }
    p
}

// ln 2 in two parts: the high one has 9 significant bits, so its product with any exponent is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;

/// e^r = 1 + r + r^2 P(r) for |r| up to ln 2 / 2: the coefficients of P.
pub(crate) const EXP: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_4];

/// e^x within 1 ulp; 0 below -87.34 (results that would be subnormal), infinity above 88.72.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite), a polynomial for e^r, and 2^n put together in the exponent.
#[inline(always)]
pub fn exp_f32(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54; // ln of the smallest normal number
    const HIGHEST: f32 = 89.0; // overflows below, in the last product
    // Adding 1.5 * 2^23 rounds to the nearest integer, which then lies in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // Written so that NaN passes through; each line is one instruction.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = polynomial(r, EXP);
    let e = 1.0 + (r + r * r * p);
    // n may be 128, which is no exponent of a finite number: scale by two factors that both are.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let y = e * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if x < LOWEST { 0.0 } else { y }
}

/// 2^n for n in -126..=127. Wrapping, since an overflow check would be a branch.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The natural logarithm within 1 ulp, subnormal arguments included; -infinity at 0, NaN below.
///
/// x = 2^n m with m in [sqrt(1/2), sqrt 2), so that f = m - 1 loses nothing near x = 1; then
/// ln m = f - f^2/2 + f^3 P(f).
#[inline(always)]
pub fn ln_f32(x: f32) -> f32 {
    const SQRT_HALF: i32 = 0x3f35_04f3;
    let subnormal = x < f32::MIN_POSITIVE;
    let normal = if subnormal { x * 8_388_608.0 } else { x };
    let above = (normal.to_bits() as i32).wrapping_sub(SQRT_HALF);
    let n = (above >> 23) as f32 - if subnormal { 23.0 } else { 0.0 };
    let f = f32::from_bits(((above & 0x007f_ffff) + SQRT_HALF) as u32) - 1.0;
    let p = polynomial(
        f,
        [
            0.333_333_3,
            -0.250_008_23,
            0.200_012_28,
            -0.166_233_36,
            0.142_017_2,
            -0.131_603_64,
            0.127_619_61,
            -0.076_344_84,
        ],
    );
    let s = f * f;
    let y = n * LN2_HIGH + (f + (n * LN2_LOW - 0.5 * s + s * f * p));
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    if x < f32::INFINITY { y } else { x } // infinity and NaN
}

/// tanh x within 2 ulp: an odd polynomial near 0, where 1 - 2/(e^2|x| + 1) would cancel, and that elsewhere.
#[inline(always)]
pub fn tanh_f32(x: f32) -> f32 {
    let (a, s) = (x.abs(), x * x);
    let far = 1.0 - 2.0 / (exp_f32(2.0 * a) + 1.0);
    let p = polynomial(s, [-0.333_332_8, 0.133_314_36, -0.053_739_12, 0.020_637_047, -0.005_702_612_5]);
    let near = x + x * s * p;
    (if a < 0.625 { near } else { far }).copysign(x) // also gives tanh(-0) its sign
}

/// erf x within 2 ulp: an odd polynomial below 1; above, 1 - e^-R(|x|) where the polynomial R fits -ln erfc.
#[inline(always)]
pub fn erf_f32(x: f32) -> f32 {
    let (a, s) = (x.abs(), x * x);
    // The first coefficient is 2/sqrt(pi) - 1: adding x itself afterwards keeps the bits that 1.128... would lose.
    let p = polynomial(
        s,
        [
            0.128_379_17,
            -0.376_126_26,
            0.112_835_84,
            -0.026_853_766,
            0.005_188_232,
            -8.009_27e-4,
            7.850_539e-5,
        ],
    );
    let near = x + x * p;
    let b = if a > 4.0 { 4.0 } else { a }; // erf is 1 from 3.92 on; keeps NaN
    let r = polynomial(
        b,
        [
            3.394_078_2e-4,
            1.127_097_5,
            0.638_131_5,
            0.103_117_91,
            -0.021_843_214,
            0.002_948_899,
            -1.865_010_1e-4,
        ],
    );
    let far = (1.0 - exp_f32(-r)).copysign(x);
    if a < 1.0 { near } else { far }
}

/// erf x in f64 to about 1e-15, for checks: a series below 3, the continued fraction of erfc above.
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
