//! What each wrapper of `kernels/cuda/ptx.cuh` does on a device, against what the PTX ISA manual says it does.
//!
//! The wrappers are the one place where kernels rest on the text of an instruction, and where the GPU simulator has a
//! reading of its own. So each of them is run alone, on random operands, and its result compared with a reference
//! written from the manual's formulas: which lane holds which element, which bytes a copy zeroes, where a swizzle puts
//! a piece. Everything has to be equal bit for bit but the sums of products, whose order is the hardware's own, and
//! `ex2`, which is an approximation. The suite knows nothing of the simulator: it is the first thing to run on a card.
//!
//! A product of integers whose sums are exact in f32 is compared bit for bit; it shows where elements lie. A second one on
//! normal values is held to the error of adding in f32, with truncation as tensor cores do it.

mod copies;
mod matrices;
mod numbers;
mod warps;
mod wgmma;

use super::{Random, gpu};
use crate::device::gpu::{Gpu, Grid};
use crate::device::program::Source;
use crate::device::tensor_map::TensorMap;
use crate::device::{Device, Kind};
use crate::{Buffer, Error, Result, Role};

/// What is the same on every machine of a compute capability.
const WRAPPERS: Source = Source::new("check/conformance/wrappers.cu", include_str!("wrappers.cu"));
const TRANSFERS: Source = Source {
    architectures: &["sm_90a", "sm_100a", "sm_120"],
    ..Source::new("check/conformance/transfers.cu", include_str!("transfers.cu"))
};
const WGMMA: Source = Source {
    architectures: &["sm_90a"],
    ..Source::new("check/conformance/wgmma.cu", include_str!("wgmma.cu"))
};

/// The kernels that use one wrapper each.
pub const PROGRAMS: &[Source] = &[WRAPPERS, TRANSFERS, WGMMA];

/// A result that is as it should be, or a sentence on how it is not.
type Finding = std::result::Result<(), String>;

/// Some wrappers that are checked together.
pub struct Check {
    /// What the line about it is called.
    pub name: &'static str,
    /// The functions of `ptx.cuh`, or of the language, that it uses.
    pub wrappers: &'static [&'static str],
    /// Compute capabilities, times ten, that have the instructions.
    capabilities: std::ops::RangeInclusive<u32>,
    run: fn(&mut Run) -> Result<Finding>,
}

/// What a device made of one [`Check`].
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// What the manual says.
    Conforms,
    /// Something else: a sentence.
    Differs(String),
    /// It does not have the instructions.
    Absent,
}

const ALL: std::ops::RangeInclusive<u32> = 80..=u32::MAX;
const HOPPER_ON: std::ops::RangeInclusive<u32> = 90..=u32::MAX;
const HOPPER: std::ops::RangeInclusive<u32> = 90..=90;

const fn of(
    name: &'static str,
    wrappers: &'static [&'static str],
    capabilities: std::ops::RangeInclusive<u32>,
    run: fn(&mut Run) -> Result<Finding>,
) -> Check {
    Check { name, wrappers, capabilities, run }
}

/// Every check, in the order of `ptx.cuh`.
pub const CHECKS: [Check; 20] = [
    of("fresh_thread_index", &["fresh_thread_index"], ALL, numbers::fresh_thread_index),
    of("bf16_bits", &["bf16_bits"], ALL, numbers::bf16_bits),
    of("bf16_pair", &["bf16_pair"], ALL, numbers::bf16_pair),
    of("ex2", &["ex2"], ALL, numbers::ex2),
    of(
        "shuffles",
        &["__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"],
        ALL,
        warps::shuffles,
    ),
    of("ballot", &["__ballot_sync"], ALL, warps::ballot),
    of("syncwarp", &["__syncwarp"], ALL, warps::syncwarp),
    of("ldmatrix_x4", &["ldmatrix_x4", "shared_address"], ALL, matrices::ldmatrix_x4),
    of("ldmatrix_x4_trans", &["ldmatrix_x4_trans"], ALL, matrices::ldmatrix_x4_trans),
    of("mma_bf16", &["mma_bf16"], ALL, matrices::mma_bf16),
    of("cp_async", &["cp_async_16", "cp_async_commit", "cp_async_wait"], ALL, copies::cp_async),
    of("turns", &["load_acquire", "store_release", "wait_acquire"], ALL, copies::turns),
    of("reduce_add_4", &["reduce_add_4"], HOPPER_ON, copies::reduce_add_4),
    of("named barriers", &["named_barrier_sync", "named_barrier_arrive"], ALL, copies::named_barriers),
    of("mbarrier", &["mbarrier_init", "mbarrier_arrive", "mbarrier_wait"], HOPPER_ON, copies::mbarrier),
    of(
        "TMA loads",
        &["tma_load_2d", "mbarrier_arrive_expect", "fence_mbarrier_init"],
        HOPPER_ON,
        copies::tma_loads,
    ),
    of(
        "TMA stores",
        &["tma_store_2d", "tma_store_commit", "tma_store_wait_read", "tma_store_wait", "fence_async_proxy"],
        HOPPER_ON,
        copies::tma_stores,
    ),
    of("wgmma_bf16", &["wgmma_bf16", "wgmma_descriptor", "wgmma_fence"], HOPPER, wgmma::products),
    of("wgmma groups", &["wgmma_commit", "wgmma_wait", "wgmma_pin"], HOPPER, wgmma::groups),
    of("setmaxnreg", &["setmaxnreg_inc", "setmaxnreg_dec"], HOPPER, wgmma::setmaxnreg),
];

/// Runs every check on a CUDA device, each with its own operands.
///
/// Errors: not a CUDA device, a kernel does not compile, the driver refuses or loses a launch.
pub fn check(device: &Device) -> Result<Vec<(&'static str, Verdict)>> {
    let Kind::Gpu(gpu) = device.kind() else { return Err(device.not_implemented("conformance")) };
    let mut verdicts = vec![];
    for (seed, check) in (1..).zip(&CHECKS) {
        let verdict = if check.capabilities.contains(&gpu.capability()) {
            match (check.run)(&mut Run { gpu, device, random: Random::new(seed) })? {
                Ok(()) => Verdict::Conforms,
                Err(message) => Verdict::Differs(message),
            }
        } else {
            Verdict::Absent
        };
        verdicts.push((check.name, verdict));
    }
    Ok(verdicts)
}

/// How a kernel of the suite is run.
pub(super) struct Launch<'a> {
    pub(super) source: &'a Source,
    pub(super) entry: &'a str,
    pub(super) grid: Grid,
    pub(super) map: Option<TensorMap>,
}

/// What results hold before a kernel writes them.
const UNWRITTEN: u32 = 0xdead_beef;

/// The device, and where operands come from.
struct Run<'a> {
    gpu: &'a Gpu,
    device: &'a Device,
    random: Random,
}

impl Run<'_> {
    /// Words of which every bit is random.
    fn words(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.random.next() as u32).collect()
    }

    /// A random number below `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        (self.random.next() % u64::from(bound)) as u32
    }

    /// The numbers below `n` in a random order.
    fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i as u32 + 1) as usize);
        }
        order
    }

    /// A kernel on these operands, with room for `results` words; what it wrote.
    fn launch(&self, launch: Launch, input: &[u32], results: usize) -> Result<Vec<u32>> {
        const BEHIND: usize = 64; // words that nobody writes
        let unwritten = vec![UNWRITTEN; results + BEHIND];
        let input = Buffer::from_slice(self.device, [input.len()], input, Role::Workspace)?;
        let mut output = Buffer::from_slice(self.device, [unwritten.len()], &unwritten, Role::Workspace)?;
        gpu::launch(self.gpu, &launch, &input, Some(&mut output))?;
        let mut words = output.to_vec::<u32>()?;
        if words.split_off(results) != unwritten[..BEHIND] {
            let message = format!("{} wrote behind its results", launch.entry);
            return Err(Error::Driver { op: "conformance".into(), message });
        }
        Ok(words)
    }

    /// The same for a kernel that leaves its results where its map says.
    fn launch_for_effect(&self, launch: Launch, input: &[u32]) -> Result<()> {
        let input = Buffer::from_slice(self.device, [input.len()], input, Role::Workspace)?;
        gpu::launch(self.gpu, &launch, &input, None)
    }

    /// A kernel of `wrappers.cu`, by the name behind `conformance_`.
    fn wrapper(&self, name: &str, grid: Grid, input: &[u32], results: usize) -> Result<Vec<u32>> {
        let entry = format!("conformance_{name}");
        self.launch(Launch { source: &WRAPPERS, entry: &entry, grid, map: None }, input, results)
    }
}

/// Fails with the first place where two lists of words differ; `what` names the place.
fn equal(got: &[u32], expected: &[u32], what: impl Fn(usize) -> String) -> Finding {
    assert_eq!(got.len(), expected.len(), "as many results as references");
    match got.iter().zip(expected).position(|(g, e)| g != e) {
        None => Ok(()),
        Some(i) => Err(format!("{}: {:#010x}, expected {:#010x}", what(i), got[i], expected[i])),
    }
}
