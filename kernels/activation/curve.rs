//! The activation functions and their derivatives, each written once: for f32, f64 and bf16, forward and backward, and
//! for the gated form.

use crate::dtype::Float;

/// Which activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// x Phi(x) with the normal distribution function Phi, through erf: Hendrycks and Gimpel (2016).
    GeluErf,
    /// Its approximation by tanh, from the same paper.
    GeluTanh,
    /// x sigmoid(1.702 x), also from there: the one that OpenAI's CLIP was trained with.
    QuickGelu,
    /// max(x, 0)^2: So et al., *Primer* (2021).
    SquaredRelu,
    /// max(x, 0).
    Relu,
    /// x sigmoid(x), also called swish: Ramachandran, Zoph and Le (2017).
    Silu,
}

impl Act {
    /// The macro that kernels are compiled with, which says what `cuda/curve.cuh` is to give them.
    pub(crate) const fn defines(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Act::GeluErf => &[("CURVE", "GeluErf")],
            Act::GeluTanh => &[("CURVE", "GeluTanh")],
            Act::QuickGelu => &[("CURVE", "QuickGelu")],
            Act::SquaredRelu => &[("CURVE", "SquaredRelu")],
            Act::Relu => &[("CURVE", "Relu")],
            Act::Silu => &[("CURVE", "Silu")],
        }
    }
}

/// An activation function as a type, so that the loops over elements are compiled for each.
pub(crate) trait Curve {
    /// The value and the slope at x. A caller that uses one of them pays for one: this is always inlined.
    fn at<A: Float>(x: A) -> (A, A);
}

/// Evaluates `$body` with `$C` bound to the [`Curve`] of an [`Act`].
macro_rules! curve {
    ($act:expr, $C:ident => $body:expr) => {
        match $act {
            $crate::activation::Act::GeluErf => {
                type $C = $crate::activation::curve::GeluErf;
                $body
            }
            $crate::activation::Act::GeluTanh => {
                type $C = $crate::activation::curve::GeluTanh;
                $body
            }
            $crate::activation::Act::QuickGelu => {
                type $C = $crate::activation::curve::QuickGelu;
                $body
            }
            $crate::activation::Act::SquaredRelu => {
                type $C = $crate::activation::curve::SquaredRelu;
                $body
            }
            $crate::activation::Act::Relu => {
                type $C = $crate::activation::curve::Relu;
                $body
            }
            $crate::activation::Act::Silu => {
                type $C = $crate::activation::curve::Silu;
                $body
            }
        }
    };
}
pub(crate) use curve;

/// See [`Act::GeluErf`].
pub(crate) struct GeluErf;

impl Curve for GeluErf {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        let half = A::of(0.5);
        let cdf = half + half * (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf();
        let density =
            (-half * x * x).exp() * A::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI / std::f64::consts::SQRT_2);
        (x * cdf, cdf + x * density)
    }
}

/// See [`Act::GeluTanh`].
pub(crate) struct GeluTanh;

impl Curve for GeluTanh {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        let half = A::of(0.5);
        // sqrt(2 / pi)
        let c = A::of(std::f64::consts::FRAC_2_SQRT_PI / std::f64::consts::SQRT_2);
        let t = (c * (x + A::of(0.044715) * x * x * x)).tanh();
        let inner = c * (A::ONE + A::of(3.0 * 0.044715) * x * x);
        (half * x * (A::ONE + t), half * (A::ONE + t) + half * x * (A::ONE - t * t) * inner)
    }
}

#[inline(always)]
fn sigmoid<A: Float>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}

/// See [`Act::QuickGelu`].
pub(crate) struct QuickGelu;

impl Curve for QuickGelu {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        let z = A::of(1.702) * x;
        let s = sigmoid(z);
        (x * s, s * (A::ONE + z * (A::ONE - s)))
    }
}

/// See [`Act::SquaredRelu`].
pub(crate) struct SquaredRelu;

impl Curve for SquaredRelu {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        let r = Relu::at(x).0;
        (r * r, r + r)
    }
}

/// See [`Act::Relu`]. The slope at 0 is 0; NaN stays NaN.
pub(crate) struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        (if x < A::ZERO { A::ZERO } else { x }, if x > A::ZERO { A::ONE } else { A::ZERO })
    }
}

/// See [`Act::Silu`].
pub(crate) struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn at<A: Float>(x: A) -> (A, A) {
        let s = sigmoid(x);
        (x * s, s * (A::ONE + x * (A::ONE - s)))
    }
}
