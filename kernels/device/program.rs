//! Finding a compiled kernel: from the disk cache, or by compiling the source embedded in this binary with NVRTC.
//!
//! With `NEVA_KERNEL_DIR=DIR` a source or header that lies in DIR as it does in this package (`DIR/rope/rope.cu`,
//! `DIR/cuda/ptx.cuh`) takes the place of the embedded one: edit, run, without building anything.
//!
//! Compiling takes a fraction of a second per program and architecture, so the result is kept in the cache
//! (`cache.rs`). A file's name holds a hash of everything that went into it (source, headers, options, compiler,
//! architecture), so a stale one is never found.

use super::gpu::driver_error;
use super::{cache, libraries};
use crate::{Error, Result};
use cudarc::driver::{result, sys};
use cudarc::nvrtc::result as nvrtc;
use cudarc::nvrtc::sys::{self as nvrtc_sys, nvrtcProgram};
use std::collections::HashMap;
use std::env;
use std::ffi::{CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};

/// The source of kernels that are compiled together.
pub struct Source {
    /// Its file below this package's directory, such as `rope/rope.cu`.
    pub file: &'static str,
    /// The text of that file.
    pub text: &'static str,
    /// Macros it is compiled with: names and values. The same file with others is another program.
    pub defines: &'static [(&'static str, &'static str)],
}

impl Source {
    /// A source without macros.
    pub const fn new(file: &'static str, text: &'static str) -> Self {
        Source { file, text, defines: &[] }
    }

    /// What the program is called: the stem of its file and the values of its macros.
    pub fn name(&self) -> String {
        let stem = Path::new(self.file).file_stem().unwrap_or_default().to_string_lossy();
        self.defines.iter().fold(stem.into_owned(), |name, (_, value)| format!("{name}_{value}"))
    }
}

/// What the compiler is given.
struct Texts {
    file: String,
    source: String,
    headers: Vec<(&'static str, String)>,
}

impl Texts {
    /// The embedded texts, except for files that `NEVA_KERNEL_DIR` has.
    fn of(source: &Source) -> Result<Self> {
        let directory = env::var_os("NEVA_KERNEL_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
        let text = |file: String, embedded: &str| match &directory {
            None => Ok(embedded.to_string()),
            Some(dir) if !dir.is_dir() => Err(compile_error(
                &source.name(),
                format!("NEVA_KERNEL_DIR: {} is no directory", dir.display()),
            )),
            Some(dir) => match fs::read_to_string(dir.join(&file)) {
                Ok(text) => Ok(text),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(embedded.to_string()),
                Err(e) => Err(compile_error(
                    &source.name(),
                    format!("NEVA_KERNEL_DIR: {}: {e}", dir.join(file).display()),
                )),
            },
        };
        let headers =
            HEADERS.iter().map(|(name, embedded)| Ok((*name, text(format!("cuda/{name}"), embedded)?)));
        let file = Path::new(source.file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Texts {
            file,
            source: text(source.file.into(), source.text)?,
            headers: headers.collect::<Result<_>>()?,
        })
    }
}

/// What kernels include: names and texts. Kernels use no other header.
const HEADERS: &[(&str, &str)] = &[
    ("curve.cuh", include_str!("../cuda/curve.cuh")),
    ("elementwise.cuh", include_str!("../cuda/elementwise.cuh")),
    ("philox.cuh", include_str!("../cuda/philox.cuh")),
    ("ptx.cuh", include_str!("../cuda/ptx.cuh")),
    ("reduce.cuh", include_str!("../cuda/reduce.cuh")),
    ("rows.cuh", include_str!("../cuda/rows.cuh")),
    ("rms_norm.cuh", include_str!("../cuda/rms_norm.cuh")),
    ("rows.cuh", include_str!("../cuda/rows.cuh")),
    ("vector.cuh", include_str!("../cuda/vector.cuh")),
];

/// A program loaded into a context.
pub(super) struct Program {
    name: String,
    module: sys::CUmodule,
    entries: HashMap<String, sys::CUfunction>,
}

impl Program {
    /// Loads the program for `architecture` into the current context.
    pub(super) fn load(source: &Source, architecture: &str) -> Result<Self> {
        let name = source.name();
        let compiler = compiler_version(&name)?;
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_string()];
        options.extend(source.defines.iter().map(|(macro_name, value)| format!("-D{macro_name}={value}")));
        let texts = Texts::of(source)?;
        let key = key(&texts, &compiler, &options);
        let path =
            cache::folder("kernels").map(|d| d.join(format!("{name}-{architecture}-{key:032x}.cubin")));
        // A file that a crash cut short is refused by the driver, and made anew.
        let cached = path.as_ref().and_then(|p| fs::read(p).ok()).and_then(|c| load_module(&c).ok());
        let module = match cached {
            Some(module) => module,
            None => {
                let cubin = compile(&name, &texts, &options)?;
                if let Some(path) = &path {
                    let _ = cache::write_whole(path, &cubin); // a cache that cannot be written is no error
                }
                load_module(&cubin).map_err(|e| driver_error(format!("load {name}"), e))?
            }
        };
        Ok(Program { name, module, entries: HashMap::new() })
    }

    /// The kernel of this name.
    pub(super) fn entry(&mut self, entry: &str) -> Result<sys::CUfunction> {
        if let Some(function) = self.entries.get(entry) {
            return Ok(*function);
        }
        let name = CString::new(entry).expect("entry names are identifiers");
        // SAFETY: the module stays loaded as long as `self`.
        let function = unsafe { result::module::get_function(self.module, name) }
            .map_err(|e| driver_error(format!("{}: find {entry}", self.name), e))?;
        self.entries.insert(entry.to_string(), function);
        Ok(function)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: loaded once in `load`; a context that faulted refuses this, and frees the module itself.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// Loads machine code. The driver takes no length, so what cannot be a whole ELF file is refused here.
fn load_module(cubin: &[u8]) -> std::result::Result<sys::CUmodule, result::DriverError> {
    if !is_whole_elf(cubin) {
        return Err(result::DriverError(sys::CUresult::CUDA_ERROR_INVALID_IMAGE));
    }
    // SAFETY: the image is complete, by the check above; the driver copies it.
    unsafe { result::module::load_data(cubin.as_ptr().cast()) }
}

/// Whether the tables that a 64-bit ELF header points to lie within the file.
fn is_whole_elf(bytes: &[u8]) -> bool {
    let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]) as u64;
    let u64_at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("eight bytes"));
    if bytes.len() < 64 || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let fits = |offset: u64, size: u64, count: u64| {
        offset.checked_add(size * count).is_some_and(|end| end <= bytes.len() as u64)
    };
    // Program headers: offset at 32, size at 54, count at 56. Section headers: 40, 58, 60.
    fits(u64_at(32), u16_at(54), u16_at(56)) && fits(u64_at(40), u16_at(58), u16_at(60))
}

fn compiler_version(kernel: &str) -> Result<String> {
    libraries::compiler().map_err(|searched| Error::NoCompiler { searched })?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded; both are written.
    unsafe { nvrtc_sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|e| compile_error(kernel, format!("NVRTC does not tell its version: {e}")))?;
    if (major, minor) < (11, 2) {
        let log = format!("NVRTC {major}.{minor} is too old, NeVA needs 11.2 or newer");
        return Err(compile_error(kernel, log));
    }
    Ok(format!("NVRTC {major}.{minor}"))
}

fn compile_error(kernel: &str, log: String) -> Error {
    Error::Compile { kernel: kernel.to_string(), log }
}

/// Compiles to machine code for one architecture.
fn compile(name: &str, texts: &Texts, options: &[String]) -> Result<Vec<u8>> {
    let error = |step: &str, e: nvrtc::NvrtcError| compile_error(name, format!("{step}: {e}"));
    let program = NvrtcProgram::new(texts).map_err(|e| error("create", e))?;
    // SAFETY: the program exists until `program` is dropped.
    if let Err(e) = unsafe { nvrtc::compile_program(program.0, options) } {
        // SAFETY: as above.
        let log = unsafe { nvrtc::get_program_log(program.0) }.map_err(|e| error("read the log", e))?;
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
        return Err(compile_error(name, format!("{e}\n{}", String::from_utf8_lossy(&log))));
    }
    let mut bytes = 0;
    // SAFETY: as above; the size is written.
    unsafe { nvrtc_sys::nvrtcGetCUBINSize(program.0, &mut bytes) }.result().map_err(|e| error("size", e))?;
    let mut cubin = vec![0u8; bytes];
    // SAFETY: as above; `cubin` has the size NVRTC asked for.
    unsafe { nvrtc_sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) }
        .result()
        .map_err(|e| error("result", e))?;
    Ok(cubin)
}

struct NvrtcProgram(nvrtcProgram);

impl NvrtcProgram {
    fn new(source: &Texts) -> std::result::Result<Self, nvrtc::NvrtcError> {
        let c = |text: &str| CString::new(text).unwrap_or_default(); // a text with a NUL does not compile either way
        let (text, name) = (c(&source.source), c(&source.file));
        let names: Vec<CString> = source.headers.iter().map(|(name, _)| c(name)).collect();
        let texts: Vec<CString> = source.headers.iter().map(|(_, text)| c(text)).collect();
        let pointers = |all: &[CString]| -> Vec<*const c_char> { all.iter().map(|s| s.as_ptr()).collect() };
        let (name_pointers, text_pointers) = (pointers(&names), pointers(&texts));
        let mut program = std::ptr::null_mut();
        let count = names.len() as i32;
        // SAFETY: every pointer is to a NUL-terminated string that outlives the call, which copies them.
        unsafe {
            nvrtc_sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                count,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        }
        .result()?;
        Ok(NvrtcProgram(program))
    }
}

impl Drop for NvrtcProgram {
    fn drop(&mut self) {
        // SAFETY: created once in `new`. Nothing is lost if it fails but memory.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

/// A hash of all that a compiled program depends on.
fn key(texts: &Texts, compiler: &str, options: &[String]) -> u128 {
    let options = options.iter().map(String::as_str);
    let headers = texts.headers.iter().flat_map(|(name, text)| [*name, text.as_str()]);
    cache::hash([compiler, &texts.file, &texts.source].into_iter().chain(options).chain(headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_images_reach_the_driver() {
        let mut image = vec![0u8; 200];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[40..48].copy_from_slice(&136u64.to_le_bytes()); // one section header of 64 bytes, at the end
        image[58..60].copy_from_slice(&64u16.to_le_bytes());
        image[60..62].copy_from_slice(&1u16.to_le_bytes());
        assert!(is_whole_elf(&image));
        assert!(!is_whole_elf(&image[..199]));
        assert!(!is_whole_elf(b"\x7fELF"));
        image[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!is_whole_elf(&image));
    }

    #[test]
    fn every_part_of_a_program_changes_its_key() {
        let texts = |file: &str, source: &str, header: &str| Texts {
            file: file.into(),
            source: source.into(),
            headers: vec![("h", header.into())],
        };
        let source = texts("a", "b", "h");
        let base = key(&source, "c", &["d".into()]);
        assert_ne!(base, key(&texts("a", "B", "h"), "c", &["d".into()]));
        assert_ne!(base, key(&texts("A", "b", "h"), "c", &["d".into()]));
        assert_ne!(base, key(&texts("a", "b", "H"), "c", &["d".into()]));
        assert_ne!(base, key(&source, "C", &["d".into()]));
        assert_ne!(base, key(&source, "c", &["D".into()]));
        assert_ne!(key(&source, "c", &["de".into()]), key(&source, "c", &["d".into(), "e".into()]));
        assert_eq!(base, key(&source, "c", &["d".into()]));
    }
}
