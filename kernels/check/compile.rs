//! Compiling programs without a GPU, and measuring what the compiler made of them.
//!
//! Registers, shared memory, stack and spills are what ptxas reports (`--ptxas-options=-v`, which does not change the
//! code); launch bounds and dynamic shared memory stand in the PTX; instructions are counted in what NVIDIA's
//! `nvdisasm` prints, where it is found.

use crate::device::compiler::{self, Compiled};
use crate::device::libraries;
use crate::device::prebuilt::{Image, PTX};
use crate::device::program::{Source, Texts};
use crate::{Error, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// The NVRTC that prebuilt programs are made with and budgets were measured with, major and minor: another one
/// allocates registers otherwise.
pub const PINNED: (i32, i32) = (12, 9);

/// A program compiled for one architecture.
pub struct Built {
    /// The program's name.
    pub program: String,
    /// Its code.
    pub image: Image,
    /// Its kernels in the order of their names; none of PTX, which has no registers yet.
    pub entries: Vec<Measured>,
}

/// What one kernel needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Its name.
    pub entry: String,
    /// The most threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block that the kernel declares.
    pub shared_bytes: u32,
    /// Whether a launch gives it shared memory on top.
    pub dynamic_shared: bool,
    /// Bytes of local memory of a thread: arrays that are not in registers, and spills.
    pub stack_bytes: u32,
    /// Bytes of spilled registers stored and loaded.
    pub spilled_bytes: u32,
    /// What it consists of; None where there is no disassembler.
    pub instructions: Option<Instructions>,
}

/// Instructions of a kernel, by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instructions {
    /// All of them.
    pub all: u32,
    /// Products on tensor cores: `HMMA`, `HGMMA` and their like.
    pub tensor: u32,
    /// Loads of matrices from shared memory: `LDSM`.
    pub matrix_loads: u32,
    /// Copies that go past the registers: `LDGSTS`, and TMA's.
    pub async_copies: u32,
    /// Loads and stores of local memory: `LDL`, `STL`.
    pub local: u32,
}

/// The version of the NVRTC on this machine, major and minor.
///
/// Errors: there is none, or it is too old.
pub fn compiler_version() -> Result<(i32, i32)> {
    compiler::version("compiler")
}

/// Where `nvdisasm` lies, if it does: beside CUDA's libraries or on the path.
pub fn disassembler() -> Option<PathBuf> {
    libraries::tool("nvdisasm")
}

/// The files that a program is compiled from, its source first and then the headers: their names below this package's
/// directory, and their texts.
///
/// Errors: a file that `NEVA_KERNEL_DIR` has cannot be read.
pub fn files(source: &Source) -> Result<Vec<(String, String)>> {
    let texts = Texts::of(source)?;
    let headers = texts.headers.into_iter().map(|(name, text)| (format!("cuda/{name}"), text));
    Ok([(source.file.to_string(), texts.source)].into_iter().chain(headers).collect())
}

/// Compiles a program for one of [`crate::device::prebuilt::ARCHITECTURES`].
///
/// Errors: the compiler refuses, or is not NVIDIA's; `nvdisasm` fails.
pub fn build(source: &Source, architecture: &str, disassembler: Option<&Path>) -> Result<Built> {
    let (program, texts) = (source.name(), Texts::of(source)?);
    let mut options = texts.options(architecture);
    options.push("--ptxas-options=-v".into());
    let compiled = Compiled::new(&program, &texts, &options)?;
    let ptx = compiled.ptx()?;
    let is_ptx = architecture == PTX;
    let bytes = if is_ptx { [ptx.as_bytes(), &[0]].concat() } else { compiled.cubin()? };
    let image = Image { architecture: architecture.into(), key: texts.key("", architecture), bytes };
    if is_ptx {
        return Ok(Built { program, image, entries: vec![] });
    }
    let mut entries =
        measure(&ptx, &compiled.log).map_err(|log| Error::Compile { kernel: program.clone(), log })?;
    if let Some(tool) = disassembler {
        let text =
            disassemble(tool, &image.bytes).map_err(|log| Error::Compile { kernel: program.clone(), log })?;
        for measured in &mut entries {
            measured.instructions = Some(count(&text, &measured.entry));
        }
    }
    Ok(Built { program, image, entries })
}

/// The kernels of a program by what its PTX and ptxas's log say.
fn measure(ptx: &str, log: &str) -> std::result::Result<Vec<Measured>, String> {
    let (declarations, _) = ptx.split_once(".entry ").ok_or("it holds no kernel")?;
    // Of `.extern .shared .align 1024 .b8 shared[];`, the name.
    let dynamic: Vec<&str> = declarations
        .lines()
        .filter(|line| line.starts_with(".extern .shared"))
        .filter_map(|line| line.split_once('[')?.0.split_whitespace().last())
        .collect();
    let mut entries = vec![];
    for text in ptx.split(".entry ").skip(1) {
        let name = text.split('(').next().unwrap_or_default();
        let unbounded = || format!("{name} has no launch bound: declare it with KERNEL");
        let bound = text.split_once(".maxntid ").ok_or_else(unbounded)?.1;
        let number = |after: &str, before: &str| -> std::result::Result<u32, String> {
            let words = log_of(log, name).ok_or_else(|| format!("ptxas says nothing of {name}:\n{log}"))?;
            Ok(words.filter_map(|line| number_between(line, after, before)).sum())
        };
        entries.push(Measured {
            entry: name.into(),
            threads: number_between(bound, "", ",").ok_or_else(unbounded)?,
            registers: number("Used ", " registers")?,
            shared_bytes: number(", ", " bytes smem")?,
            dynamic_shared: dynamic.iter().any(|shared| text.contains(shared)),
            stack_bytes: number("", " bytes stack frame")?,
            spilled_bytes: number(", ", " bytes spill stores")? + number(", ", " bytes spill loads")?,
            instructions: None,
        });
    }
    entries.sort_by(|a, b| a.entry.cmp(&b.entry));
    Ok(entries)
}

/// The lines of ptxas's log about an entry, those about functions that it calls among them.
fn log_of<'a>(log: &'a str, entry: &str) -> Option<impl Iterator<Item = &'a str>> {
    let start = format!("Compiling entry function '{entry}'");
    let mut lines = log.lines().skip_while(move |line| !line.contains(&start));
    lines.next()?;
    Some(lines.take_while(|line| !line.contains("Compiling entry function")))
}

/// The number that ends where `before` begins, if `after` stands before it.
fn number_between(line: &str, after: &str, before: &str) -> Option<u32> {
    let (left, _) = line.split_once(before)?;
    let digits = left.len() - left.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (rest, number) = left.split_at(left.len() - digits);
    if rest.ends_with(after) { number.parse().ok() } else { None }
}

/// What `nvdisasm` prints of a cubin.
fn disassemble(tool: &Path, cubin: &[u8]) -> std::result::Result<String, String> {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let name = format!("neva-{}-{}.cubin", process::id(), FILES.fetch_add(1, Ordering::Relaxed));
    let path = env::temp_dir().join(name);
    fs::write(&path, cubin).map_err(|e| format!("{}: {e}", path.display()))?;
    let output = Command::new(tool).arg("--print-code").arg(&path).output();
    let _ = fs::remove_file(&path); // one more temporary file at worst
    let output = output.map_err(|e| format!("{}: {e}", tool.display()))?;
    if !output.status.success() {
        return Err(format!("{}: {}", tool.display(), String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Counts the instructions of one kernel in the disassembler's text.
fn count(text: &str, entry: &str) -> Instructions {
    let mut counts = Instructions::default();
    let section = format!(".text.{entry},");
    let mut inside = false;
    for line in text.lines().map(str::trim_start) {
        // Tabs and spaces; `.sectionflags` is another word.
        if let Some(name) = line.strip_prefix(".section").filter(|rest| rest.starts_with(char::is_whitespace))
        {
            inside = name.trim_start().starts_with(&section);
        }
        // `/*0180*/   @!P3 LDG.E R9, desc[UR8][R8.64] ;`
        let Some((_, code)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) else { continue };
        let name = code.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
        let name = name.split(['.', ';']).next().unwrap_or_default();
        if !inside || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
            continue;
        }
        counts.all += 1;
        counts.tensor += u32::from(name.ends_with("MMA"));
        counts.matrix_loads += u32::from(name == "LDSM");
        counts.async_copies += u32::from(["LDGSTS", "UTMALDG", "UTMASTG", "UBLKCP"].contains(&name));
        counts.local += u32::from(["LDL", "STL"].contains(&name));
    }
    counts
}

/// The share of an H100's threads that run at once, in percent, if all of its blocks are of this kernel and its
/// launches add no shared memory. From the CUDA programming guide's table for compute capability 9.0.
pub fn occupancy(threads: u32, registers: u32, shared_bytes: u32) -> u32 {
    const REGISTERS: u32 = 65_536;
    const WARPS: u32 = 64;
    const BLOCKS: u32 = 32;
    const SHARED_BYTES: u32 = 228 * 1024;
    const RESERVED_BYTES: u32 = 1024; // of each block
    let warps = threads.div_ceil(32).max(1);
    // Registers are given to a warp 256 at a time.
    let by_registers = REGISTERS / (registers.max(1) * 32).next_multiple_of(256) / warps;
    let by_shared = SHARED_BYTES / (shared_bytes.next_multiple_of(128) + RESERVED_BYTES);
    let blocks = by_registers.min(by_shared).min(WARPS / warps).min(BLOCKS);
    100 * blocks * warps / WARPS
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX_TEXT: &str = "
.extern .shared .align 1024 .b8 shared[];
.visible .entry b_fwd_f32(
.maxntid 256, 1, 1
{ mov.u32 %r1, shared; }
.visible .entry a_fwd_f32(
.maxntid 64, 1, 1
{ ret; }
";
    const LOG: &str = "ptxas info    : 12 bytes gmem
ptxas info    : Compiling entry function 'b_fwd_f32' for 'sm_90a'
ptxas info    : Function properties for b_fwd_f32
ptxas         .     24 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 106 registers, used 1 barriers, 1024 bytes smem, 24 bytes cumulative stack size
ptxas info    : Compiling entry function 'a_fwd_f32' for 'sm_90a'
ptxas info    : Function properties for a_fwd_f32
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 28 registers
";

    #[test]
    fn resources_are_read_from_the_log_and_the_ptx() {
        let entries = measure(PTX_TEXT, LOG).expect("both entries");
        let a = Measured {
            entry: "a_fwd_f32".into(),
            threads: 64,
            registers: 28,
            shared_bytes: 0,
            dynamic_shared: false,
            stack_bytes: 0,
            spilled_bytes: 0,
            instructions: None,
        };
        let b = Measured {
            entry: "b_fwd_f32".into(),
            threads: 256,
            registers: 106,
            shared_bytes: 1024,
            dynamic_shared: true,
            stack_bytes: 24,
            spilled_bytes: 24,
            instructions: None,
        };
        assert_eq!(entries, [a, b]);
    }

    #[test]
    fn an_entry_without_a_bound_or_a_line_is_an_error() {
        let error = |ptx: &str, log: &str| measure(ptx, log).expect_err("something is missing");
        let no_bound = error(&PTX_TEXT.replace(".maxntid 64", ".reqntid 64"), LOG);
        assert!(no_bound.starts_with("a_fwd_f32 has no launch bound"), "{no_bound}");
        let no_line = error(PTX_TEXT, &LOG.replace("'a_", "'c_"));
        assert!(no_line.starts_with("ptxas says nothing of a_fwd_f32"), "{no_line}");
        assert!(measure("", LOG).is_err());
    }

    #[test]
    fn instructions_are_counted_by_kernel() {
        let text = "
\t.section\t.text.other,\"ax\",@progbits
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
\t.section\t.text.mine,\"ax\",@progbits
\t.sectionflags\t@\"SHF_BARRIERS=1\"
.text.mine:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0020*/                   HFMA2.MMA R0, -RZ, RZ, 0, 0 ;
        /*0030*/               @P1 LDSM.16.M88.4 R8, [R5] ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR8][R6.64] ;
        /*0050*/                   STL [R1], R9 ;
        /*0060*/                   EXIT ;
\t.section\t.text.mine_too,\"ax\",@progbits
        /*0000*/                   LDL R9, [R1] ;
";
        let counts = count(text, "mine");
        assert_eq!(counts, Instructions { all: 7, tensor: 1, matrix_loads: 1, async_copies: 1, local: 1 });
    }

    #[test]
    fn occupancy_is_bound_by_what_runs_out_first() {
        assert_eq!(occupancy(256, 32, 0), 100);
        assert_eq!(occupancy(256, 106, 256), 25, "112 registers a thread leave room for two blocks");
        assert_eq!(occupancy(256, 33, 0), 75, "registers are given in steps of eight a thread");
        assert_eq!(occupancy(32, 32, 0), 50, "32 blocks at most");
        assert_eq!(occupancy(128, 32, 100 * 1024), 12);
    }
}
