//! Which instructions the CPU kernels may use, decided once per process.
//!
//! Generic row code is written without intrinsics and compiled three times: for the baseline of the target, for AVX2 and
//! for AVX-512. [`vectorize`] picks at run time. `NEVA_CPU=portable`, or another name of a path, forces one.

use std::sync::OnceLock;

/// A set of instructions that CPU kernels are written for. Each has all that the ones before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// What every machine of this architecture has.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// Products of pairs of bf16, summed in f32, in 512-bit registers.
    Avx512Bf16,
    /// Products of tiles of bf16, summed in f32: Intel's AMX, permitted by the system.
    Amx,
}

impl Path {
    /// Every path there is, the best first.
    const ALL: [Path; 5] = [Path::Amx, Path::Avx512Bf16, Path::Avx512, Path::Avx2, Path::Portable];

    /// Every path that this machine can run, the best first.
    pub fn available() -> Vec<Path> {
        let best = Self::best();
        Self::ALL.into_iter().filter(|path| *path <= best).collect()
    }

    /// The last of the paths up to which this machine has all instructions.
    #[cfg(target_arch = "x86_64")]
    fn best() -> Path {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| {
            if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
                return Path::Portable;
            }
            if !(is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            {
                return Path::Avx2;
            }
            if !is_x86_feature_detected!("avx512bf16") {
                return Path::Avx512;
            }
            if crate::amx::available() { Path::Amx } else { Path::Avx512Bf16 }
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Path {
        Path::Portable
    }

    /// The name that `NEVA_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::Avx512Bf16 => "avx512bf16",
            Path::Amx => "amx",
        }
    }

    /// What is used on a machine with this best path. Intel's processors multiply pairs of bf16 in registers so slowly (half as
    /// fast as widened ones, `benches/results`) that without tiles they are better widened.
    fn preferred(self, intel: bool) -> Path {
        if self == Path::Avx512Bf16 && intel { Path::Avx512 } else { self }
    }

    /// Whether the processor is one of Intel's.
    fn intel() -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// What this process uses: `NEVA_CPU` if set, else the fastest there is.
    ///
    /// Errors: `NEVA_CPU` names no path, or one that this machine lacks.
    pub fn choose() -> Result<Path, String> {
        let all = Self::available();
        match std::env::var("NEVA_CPU") {
            Err(_) => Ok(all[0].preferred(Self::intel())),
            Ok(wanted) => all.iter().copied().find(|p| p.name() == wanted).ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|p| p.name()).collect();
                format!("NEVA_CPU={wanted}: this machine has {}", names.join(", "))
            }),
        }
    }

    /// The chosen path. An unusable `NEVA_CPU` was reported by the command line already; here it falls to the best.
    pub fn current() -> Path {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::choose().unwrap_or_else(|_| Self::best().preferred(Self::intel())))
    }
}

/// Runs `body` compiled for the chosen path. Everything hot inside must be inlined into the closure.
#[inline(always)]
pub fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    match Path::current() {
        Path::Portable => {}
        // SAFETY: `Path::current` answers this only where these features were detected.
        Path::Avx2 => return unsafe { avx2(body) },
        // SAFETY: as above; the later paths have what this one has.
        Path::Avx512 | Path::Avx512Bf16 | Path::Amx => return unsafe { avx512(body) },
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline]
fn avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn pairs_in_registers_are_the_default_only_where_they_are_faster() {
        assert_eq!(Path::Avx512Bf16.preferred(true), Path::Avx512);
        assert_eq!(Path::Avx512Bf16.preferred(false), Path::Avx512Bf16);
        for path in [Path::Portable, Path::Avx2, Path::Avx512, Path::Amx] {
            assert_eq!((path.preferred(true), path.preferred(false)), (path, path));
        }
    }

    #[test]
    fn the_chosen_path_is_available() {
        assert!(Path::available().contains(&Path::best().preferred(Path::intel())));
    }
}
