//! The f32 elementary functions against f64, over a dense sample of every f32 bit pattern.

#![allow(clippy::unwrap_used)]

use kernels::dtype::{Real, bf16};
use kernels::math::{erf_f32, erf_f64, exp_f32, ln_f32, tanh_f32};
use kernels::simd::vectorize;

/// Distance between `got` and `want` in units of the last place of `want` rounded to f32.
fn ulps(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if got == rounded || (got.is_nan() && rounded.is_nan()) {
        return 0.0;
    }
    let next = f32::from_bits(rounded.abs().to_bits() + 1);
    (got as f64 - want).abs() / (next as f64 - rounded.abs() as f64)
}

/// The worst error of `f` over every 251st f32 that `within` accepts, with where it is.
fn worst(f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64, within: impl Fn(f32) -> bool) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for bits in (0..=u32::MAX).step_by(251) {
        let x = f32::from_bits(bits);
        if !x.is_nan() && within(x) {
            let error = ulps(f(x), truth(x as f64));
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
    }
    println!("worst {:.2} ulp at {:e}", worst.0, worst.1);
    worst
}

#[test]
fn exp_is_within_1_ulp() {
    let (error, x) = worst(exp_f32, f64::exp, |x| x > -87.3365 && x.abs() > 1e-9);
    assert!(error <= 1.0, "{error} ulp at {x:e}");
}

#[test]
fn exp_ends_in_zero_infinity_and_nan() {
    for (x, y) in [(f32::NEG_INFINITY, 0.0), (-1e30, 0.0), (-87.34, 0.0), (0.0, 1.0), (-0.0, 1.0)] {
        assert_eq!(exp_f32(x), y, "exp({x})");
    }
    for x in [88.722_85, 89.0, 1e30, f32::INFINITY] {
        assert_eq!(exp_f32(x), f32::INFINITY, "exp({x})");
    }
    assert!(exp_f32(88.722_83).is_finite());
    assert!(exp_f32(f32::NAN).is_nan() && exp_f32(-f32::NAN).is_nan());
}

#[test]
fn ln_is_within_1_ulp() {
    let (error, x) = worst(ln_f32, f64::ln, |x| x > 0.0);
    assert!(error <= 1.0, "{error} ulp at {x:e}");
    assert_eq!(ln_f32(1.0), 0.0);
    assert_eq!(ln_f32(0.0), f32::NEG_INFINITY);
    assert_eq!(ln_f32(-0.0), f32::NEG_INFINITY);
    assert_eq!(ln_f32(f32::INFINITY), f32::INFINITY);
    for x in [-1.0, -1e-40, f32::NEG_INFINITY, f32::NAN] {
        assert!(ln_f32(x).is_nan(), "ln({x})");
    }
}

#[test]
fn tanh_is_within_2_ulp_of_its_own_size() {
    let (error, x) = worst(tanh_f32, f64::tanh, |_| true);
    assert!(error <= 2.0, "{error} ulp at {x:e}");
    assert!(tanh_f32(f32::NAN).is_nan());
    assert_eq!(tanh_f32(-0.0).to_bits(), (-0f32).to_bits());
}

#[test]
fn erf_is_within_2_ulp_of_its_own_size() {
    let (error, x) = worst(erf_f32, erf_f64, |_| true);
    assert!(error <= 2.0, "{error} ulp at {x:e}");
    assert!(erf_f32(f32::NAN).is_nan());
    assert_eq!(erf_f32(-0.0).to_bits(), (-0f32).to_bits());
}

#[test]
fn erf_in_f64_matches_tabulated_values() {
    // Computed with 40 digits.
    let table = [
        (1e-8, 1.128_379_167_095_512_5e-8),
        (0.1, 0.112_462_916_018_284_9),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (2.0, 0.995_322_265_018_952_7),
        (2.999, 0.999_977_769_831_400_2),
        (3.001, 0.999_978_048_339_082_3),
        (5.0, 0.999_999_999_998_462_5),
    ];
    for (x, y) in table {
        assert!((erf_f64(x) / y - 1.0).abs() < 4e-15, "erf({x}) = {}", erf_f64(x));
        assert_eq!(erf_f64(-x), -erf_f64(x));
    }
}

#[test]
fn vector_and_scalar_builds_return_the_same_bits() {
    let x: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(i * 65_521)).collect();
    for f in [exp_f32, ln_f32, tanh_f32, erf_f32] {
        let scalar: Vec<u32> = x.iter().map(|&x| f(std::hint::black_box(x)).to_bits()).collect();
        let mut vector = vec![0f32; x.len()];
        vectorize(
            #[inline(always)]
            || {
                for (y, &x) in vector.iter_mut().zip(&x) {
                    *y = f(x);
                }
            },
        );
        for ((&x, s), v) in x.iter().zip(scalar).zip(vector) {
            assert!(v.to_bits() == s || v.is_nan() && f32::from_bits(s).is_nan(), "at {x:e}");
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    for bits in (0..=u32::MAX).step_by(9973) {
        let x = f32::from_bits(bits);
        let (ours, theirs) = (bf16::from_acc(x), bf16::from_f32(x));
        assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{x:e}");
    }
}

/// Printed, not asserted: a shared machine's clock proves nothing.
#[test]
fn elementary_functions_report_their_speed() {
    let x: Vec<f32> = (0..1 << 14).map(|i| (i as f32 - 8192.0) * 1e-3).collect();
    let mut y = vec![0f32; x.len()];
    macro_rules! time {
        ($f:ident) => {
            let best = (0..200)
                .map(|_| {
                    let start = std::time::Instant::now();
                    vectorize(
                        #[inline(always)]
                        || {
                            for (y, &x) in y.iter_mut().zip(&x) {
                                *y = $f(x);
                            }
                        },
                    );
                    std::hint::black_box(&mut y);
                    start.elapsed()
                })
                .min()
                .unwrap();
            println!("{}: {:.2} ns per element", stringify!($f), best.as_secs_f64() * 1e9 / x.len() as f64);
        };
    }
    time!(exp_f32);
    time!(ln_f32);
    time!(tanh_f32);
    time!(erf_f32);
}
