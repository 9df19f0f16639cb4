//! `neva kernels compile [OP]`: every program through NVIDIA's compiler, without a GPU.

use ::kernels::check::compile::{Built, PINNED, build, compiler_version, disassembler};
use ::kernels::device::prebuilt::{self, ARCHITECTURES, Image};
use ::kernels::device::program::Source;
use ::kernels::programs;
use clap::Args;
use clap::builder::PossibleValuesParser;
use neva::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::kernels::entries;
use super::kernels_budgets::{self, Budgets};
use super::print;

/// Compile every program for every architecture and hold it to its budgets of registers, memory and instructions
#[derive(Args)]
pub struct CompileArguments {
    /// Only the programs of this op
    op: Option<String>,
    /// Only these architectures
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = PossibleValuesParser::new(ARCHITECTURES))]
    arch: Vec<String>,
    /// Nothing may go unchecked: fails without nvdisasm, with another compiler than budgets were measured with, and
    /// where the code in this binary is not what the sources compile to
    #[arg(long)]
    verify: bool,
    /// Rewrite the budgets: FILE allows each kernel what it needs now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["op", "arch"])]
    budgets: Option<PathBuf>,
    /// Write the programs to DIR, from which the next build of neva embeds them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["op", "arch"])]
    prebuilt: Option<PathBuf>,
}

pub fn compile(arguments: &CompileArguments) -> Result<()> {
    let version = compiler_version()?;
    let tool = disassembler();
    let pinned = version == PINNED;
    print(&format!("NVRTC {}.{}; ", version.0, version.1))?;
    match &tool {
        Some(path) => print(&format!("instructions counted by {}\n", path.display()))?,
        None => print("no nvdisasm was found: instructions are not counted\n")?,
    }
    let writes = arguments.budgets.is_some() || arguments.prebuilt.is_some();
    if !pinned && (arguments.verify || writes) {
        return Err(Error::Usage(format!("this needs NVRTC {}.{}", PINNED.0, PINNED.1)));
    }
    if tool.is_none() && (arguments.verify || arguments.budgets.is_some()) {
        return Err(Error::Usage("this needs nvdisasm (Python package nvidia-cuda-nvdisasm)".into()));
    }
    let sources = match arguments.op.as_deref() {
        None => programs(),
        op => entries(op)?.into_iter().flat_map(|entry| entry.programs).collect(),
    };
    let wanted = |a: &&&str| arguments.arch.is_empty() || arguments.arch.iter().any(|asked| asked == **a);
    let jobs: Vec<(&Source, &str)> = sources
        .iter()
        .flat_map(|source| {
            source.architectures.iter().filter(wanted).map(|architecture| (*source, *architecture))
        })
        .collect();
    let results: Vec<::kernels::Result<Built>> =
        jobs.par_iter().map(|(source, architecture)| build(source, architecture, tool.as_deref())).collect();
    let mut failures = vec![];
    let mut built = vec![];
    for (result, (_, architecture)) in results.into_iter().zip(&jobs) {
        match result {
            Ok(one) => built.push(one),
            Err(error) => failures.push(format!("{architecture}: {error}")),
        }
    }
    print(&table(&built))?;
    // Nothing is written of a part of the programs.
    if failures.is_empty() {
        failures = judge(arguments, &built, pinned)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    for failure in &failures {
        print(&format!("FAIL {failure}\n"))?;
    }
    Err(Error::Usage(format!("{} of these are not as they should be", failures.len())))
}

/// Writes what is to be written, and compares the rest: a sentence for each thing that is not as it should be.
fn judge(arguments: &CompileArguments, built: &[Built], pinned: bool) -> Result<Vec<String>> {
    let complete = arguments.op.is_none() && arguments.arch.is_empty();
    let mut failures = vec![];
    if let Some(file) = &arguments.budgets {
        fs::write(file, kernels_budgets::write(built)).map_err(Error::io(file))?;
        failures.extend(built.iter().flat_map(kernels_budgets::spills));
    } else if pinned {
        let budgets = Budgets::read()?;
        failures.extend(built.iter().flat_map(|b| budgets.breaches(b)));
        if complete {
            failures.extend(budgets.unused(built));
        }
    } else {
        failures.extend(built.iter().flat_map(kernels_budgets::spills));
        print(&format!("budgets are for NVRTC {}.{}: not compared\n", PINNED.0, PINNED.1))?;
    }
    if let Some(directory) = &arguments.prebuilt {
        write_prebuilt(directory, built)?;
    } else if arguments.verify {
        failures.extend(stale(built, prebuilt::all(), complete));
    }
    Ok(failures)
}

/// What each kernel needs, a line each.
fn table(built: &[Built]) -> String {
    let name_width = built.iter().flat_map(|b| &b.entries).map(|m| m.entry.len()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:<name_width$}  arch     threads  regs  shared  stack  spills  instructions  tensor  ldsm  async  local\n",
        "kernel"
    );
    for b in built {
        for m in &b.entries {
            let counts = match m.instructions {
                Some(i) => format!(
                    "{:>12}  {:>6}  {:>4}  {:>5}  {:>5}",
                    i.all, i.tensor, i.matrix_loads, i.async_copies, i.local
                ),
                None => format!("{:>12}  {:>6}  {:>4}  {:>5}  {:>5}", "-", "-", "-", "-", "-"),
            };
            text += &format!(
                "{:<name_width$}  {:<7}  {:>7}  {:>4}  {:>6}  {:>5}  {:>6}  {counts}\n",
                m.entry,
                b.image.architecture,
                m.threads,
                m.registers,
                m.shared_bytes,
                m.stack_bytes,
                m.spilled_bytes
            );
        }
    }
    text
}

/// The images of each program, by its name.
fn images(built: &[Built]) -> BTreeMap<&str, Vec<Image>> {
    let mut all: BTreeMap<&str, Vec<Image>> = BTreeMap::new();
    for b in built {
        all.entry(&b.program).or_default().push(b.image.clone());
    }
    all
}

/// An archive for each program and the list of them, and nothing else.
fn write_prebuilt(directory: &Path, built: &[Built]) -> Result<()> {
    let mut list = String::from(
        "//! The programs that this binary holds compiled. Written by `neva kernels compile --prebuilt`; do not edit.\n\n\
         /// Names, in their order, and archives; `device/prebuilt.rs` says what lies in one.\n\
         pub(crate) const PROGRAMS: &[(&str, &[u8])] = &[\n",
    );
    let mut bytes = 0;
    let images = images(built);
    for (program, images) in &images {
        let path = directory.join(format!("{program}.bin"));
        let archive = prebuilt::write(images).map_err(Error::io(&path))?;
        bytes += archive.len();
        fs::write(&path, archive).map_err(Error::io(&path))?;
        list += &format!("    (\"{program}\", include_bytes!(\"{program}.bin\")),\n");
    }
    list += "];\n";
    let path = directory.join("mod.rs");
    fs::write(&path, list).map_err(Error::io(&path))?;
    for file in fs::read_dir(directory).map_err(Error::io(directory))? {
        let path = file.map_err(Error::io(directory))?.path();
        let of_none = path.file_stem().is_none_or(|stem| !images.contains_key(&*stem.to_string_lossy()));
        if path.extension().is_some_and(|e| e == "bin") && of_none {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    print(&format!(
        "{} programs, {bytes} bytes in {}; build neva again to embed them\n",
        images.len(),
        directory.display()
    ))
}

/// A sentence for each program that `embedded` does not hold as it was built, and, if `complete`, for each that it
/// holds and was not built.
fn stale<'a>(
    built: &[Built],
    embedded: impl Iterator<Item = (&'a str, std::result::Result<Vec<Image>, String>)>,
    complete: bool,
) -> Vec<String> {
    const HOW: &str = "write it anew: neva kernels compile --prebuilt kernels/prebuilt";
    let mut embedded: BTreeMap<&str, _> = embedded.collect();
    let mut stale = vec![];
    for (program, images) in images(built) {
        let why = match embedded.remove(program) {
            None => "is not in this binary".to_string(),
            Some(Err(why)) => format!("in this binary is {why}"),
            Some(Ok(there)) => match images.iter().find(|image| !there.contains(image)) {
                Some(image) => {
                    format!("in this binary is not what its source compiles to for {}", image.architecture)
                }
                None => continue,
            },
        };
        stale.push(format!("{program} {why}; {HOW}"));
    }
    if complete {
        stale.extend(embedded.keys().map(|program| format!("{program} in this binary is no program; {HOW}")));
    }
    stale
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn built(program: &str, bytes: &[u8]) -> Built {
        let image = Image { architecture: "sm_90a".into(), key: 7, bytes: bytes.into() };
        Built { program: program.into(), image, entries: vec![] }
    }

    #[test]
    fn a_program_that_is_not_what_its_source_compiles_to_is_named() {
        let embedded = |bytes: &[u8]| vec![("rope", Ok(vec![built("rope", bytes).image]))].into_iter();
        assert_eq!(stale(&[built("rope", b"a")], embedded(b"a"), true), [""; 0]);
        let first = |all: Vec<String>| all[0].split(';').next().unwrap().to_string();
        assert_eq!(
            first(stale(&[built("rope", b"b")], embedded(b"a"), true)),
            "rope in this binary is not what its source compiles to for sm_90a"
        );
        assert_eq!(first(stale(&[built("add", b"a")], embedded(b"a"), false)), "add is not in this binary");
        assert_eq!(first(stale(&[], embedded(b"a"), true)), "rope in this binary is no program");
        assert_eq!(stale(&[], embedded(b"a"), false), [""; 0], "another op was asked for");
        let damaged = [("rope", Err("damaged".to_string()))].into_iter();
        assert_eq!(first(stale(&[built("rope", b"a")], damaged, true)), "rope in this binary is damaged");
    }

    #[test]
    fn a_directory_holds_the_archives_that_were_written_and_no_other() {
        let directory = std::env::temp_dir().join(format!("neva-prebuilt-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("gone.bin"), b"").unwrap();
        write_prebuilt(&directory, &[built("rope", b"a"), built("add", b"b")]).unwrap();
        let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["add.bin", "mod.rs", "rope.bin"]);
        let list = fs::read_to_string(directory.join("mod.rs")).unwrap();
        assert!(list.contains("    (\"rope\", include_bytes!(\"rope.bin\")),\n"), "{list}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
