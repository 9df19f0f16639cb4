//! Data types, and the one trait that generic CPU code is written against.
//!
//! Rule of precision, everywhere: a value is *stored* as `T` and *accumulated* as `T::Acc`. Statistics, losses,
//! softmax and gradients of weights are in `Acc`: f32 for f32 and bf16, f64 for f64.

use crate::math;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

pub use half::{bf16, f16};

/// The type of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// IEEE half precision: a stored format only, no op computes in it.
    F16,
    /// 32-bit unsigned integer: token ids, row indices, lengths.
    U32,
    /// 64-bit float: on the CPU only, for checks.
    F64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::F64 => 8,
        }
    }

    /// The type that values of this type are accumulated in.
    pub const fn acc(self) -> DType {
        match self {
            DType::Bf16 | DType::F16 => DType::F32,
            other => other,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::U32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
            DType::F64 => "f64",
        })
    }
}

/// An element that can lie in a buffer.
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq + 'static {
    /// Its run-time name.
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f32 => F32, f64 => F64, bf16 => Bf16, f16 => F16, u32 => U32);

/// An element that ops compute with: stored as `Self`, accumulated as [`Real::Acc`].
pub trait Real: Element {
    /// The type of sums, statistics and weight gradients.
    type Acc: Float;
    /// Widens, exactly.
    fn to_acc(self) -> Self::Acc;
    /// Rounds to nearest, ties to even.
    fn from_acc(value: Self::Acc) -> Self;
    /// Widens to f64, exactly.
    fn to_f64(self) -> f64 {
        self.to_acc().f64()
    }
    /// Rounds from f64.
    fn from_f64(value: f64) -> Self {
        Self::from_acc(Self::Acc::of(value))
    }
}

impl Real for f32 {
    type Acc = f32;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_acc(value: f32) -> f32 {
        value
    }
}

impl Real for f64 {
    type Acc = f64;
    #[inline(always)]
    fn to_acc(self) -> f64 {
        self
    }
    #[inline(always)]
    fn from_acc(value: f64) -> f64 {
        value
    }
}

impl Real for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    // Written without a branch on the fast path so that loops over it vectorise; `half`'s own conversion calls
    // a run-time feature check per element.
    #[inline(always)]
    fn from_acc(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet_nan = ((bits >> 16) as u16) | 0x40;
        bf16::from_bits(if value.is_nan() { quiet_nan } else { rounded })
    }
}

impl Real for f16 {
    type Acc = f32;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_acc(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

/// A type to do arithmetic in: f32 or f64.
pub trait Float:
    Real<Acc = Self>
    + Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// From an f64 constant.
    fn of(value: f64) -> Self;
    /// To f64, exactly.
    fn f64(self) -> f64;
    /// e^x. In f32 this and the functions below are those of [`crate::math`], which vectorise.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// The larger of two; the other one if one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller of two; the other one if one is NaN.
    fn min(self, other: Self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

macro_rules! float {
    ($t:ty, $exp:path, $ln:path, $tanh:path, $erf:path) => {
        impl Float for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = <$t>::NEG_INFINITY;
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $ln(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                <$t>::min(self, other)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
        }
    };
}
float!(f32, math::exp_f32, math::ln_f32, math::tanh_f32, math::erf_f32);
float!(f64, f64::exp, f64::ln, f64::tanh, math::erf_f64);

/// The only dispatch on a floating data type: binds `$T` to the Rust type and evaluates `$body`.
///
/// F16 and U32 have passed no `infer` as an activation, so they are a broken invariant here.
#[macro_export]
macro_rules! real {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::Bf16 => {
                type $T = $crate::dtype::bf16;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            other => unreachable!("infer lets no {other} through as an activation"),
        }
    };
}
