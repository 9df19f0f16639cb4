//! Which instructions the CPU kernels may use, decided once per process.
//!
//! Generic row code is written without intrinsics and compiled twice: for the baseline of the target and for
//! AVX-512. [`vectorize`] picks at run time. `NEVA_CPU=portable` forces the baseline.

use std::sync::OnceLock;

/// A set of instructions that CPU kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// What every machine of this architecture has.
    Portable,
    /// AVX-512 F, BW, DQ and VL with FMA.
    Avx512,
}

impl Path {
    /// Every path that this machine can run, the best first.
    pub fn available() -> Vec<Path> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            all.push(Path::Avx512);
        }
        all.push(Path::Portable);
        all
    }

    /// The name that `NEVA_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            Path::Avx512 => "avx512",
        }
    }

    /// What this process uses: `NEVA_CPU` if set, else the best there is.
    ///
    /// Errors: `NEVA_CPU` names no path, or one that this machine lacks.
    pub fn choose() -> Result<Path, String> {
        let all = Self::available();
        match std::env::var("NEVA_CPU") {
            Err(_) => Ok(all[0]),
            Ok(wanted) => all.iter().copied().find(|p| p.name() == wanted).ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|p| p.name()).collect();
                format!("NEVA_CPU={wanted}: this machine has {}", names.join(", "))
            }),
        }
    }

    /// The chosen path. An unusable `NEVA_CPU` was reported by the command line already; here it falls to the best.
    pub fn current() -> Path {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::choose().unwrap_or_else(|_| Self::available()[0]))
    }
}

/// Runs `body` compiled for the chosen path. Everything hot inside must be inlined into the closure.
#[inline(always)]
pub fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if Path::current() == Path::Avx512 {
        // SAFETY: `Path::current` answers Avx512 only where these features were detected.
        return unsafe { avx512(body) };
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline]
fn avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}
