//! A program's source, and finding its machine code. The first of these that the driver takes:
//!
//! 1. the code embedded in this binary (`prebuilt.rs`), if it was made from this very source,
//! 2. what an earlier run compiled, from the disk cache,
//! 3. what NVRTC compiles now, if there is one,
//! 4. PTX embedded in this binary, which the driver compiles: for GPUs newer than it has code for.
//!
//! So a machine with only the driver works. With `NEVA_KERNEL_DIR=DIR` a source or header that lies in DIR as it does
//! in this package (`DIR/rope/rope.cu`, `DIR/cuda/ptx.cuh`) takes the place of the embedded one: edit, run, without
//! building anything; code made from another text is passed over.
//!
//! Compiling takes a fraction of a second per program and architecture, so the result is kept in the cache
//! (`cache.rs`). A file's name holds a hash of everything that went into it (source, headers, options, compiler,
//! architecture), so a stale one is never found.

use super::compiler::{self, Compiled};
use super::gpu::driver_error;
use super::{cache, prebuilt};
use crate::{CATALOGUE, Error, Result};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::env;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The source of kernels that are compiled together.
pub struct Source {
    /// Its file below this package's directory, such as `rope/rope.cu`.
    pub file: &'static str,
    /// The text of that file.
    pub text: &'static str,
    /// Macros it is compiled with: names and values. The same file with others is another program.
    pub defines: Defines,
    /// The architectures it is for, of [`prebuilt::ARCHITECTURES`].
    pub architectures: &'static [&'static str],
    /// The most bytes of dynamic shared memory that launches give to a kernel, by the program's macros and the kernel's
    /// name. None where nobody says.
    pub dynamic_bytes: Option<fn(Defines, &str) -> usize>,
}

/// Macros: names and values.
pub type Defines = &'static [(&'static str, &'static str)];

impl Source {
    /// A source without macros, for every architecture.
    pub const fn new(file: &'static str, text: &'static str) -> Self {
        Source { file, text, defines: &[], architectures: &prebuilt::ARCHITECTURES, dynamic_bytes: None }
    }

    /// The most dynamic shared memory that a launch of `entry` takes, in bytes, if that is known beforehand.
    pub fn dynamic_bytes(&self, entry: &str) -> Option<usize> {
        self.dynamic_bytes.map(|bytes| bytes(self.defines, entry))
    }

    /// What the program is called: the stem of its file and the values of its macros.
    pub fn name(&self) -> String {
        let stem = Path::new(self.file).file_stem().unwrap_or_default().to_string_lossy();
        self.defines.iter().fold(stem.into_owned(), |name, (_, value)| format!("{name}_{value}"))
    }
}

/// What the compiler is given: a source and the headers it includes, directly or through others.
pub(crate) struct Texts {
    pub(super) file: String,
    pub(crate) source: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    defines: &'static [(&'static str, &'static str)],
}

impl Texts {
    /// The embedded texts, except for files that `NEVA_KERNEL_DIR` has.
    pub(crate) fn of(source: &Source) -> Result<Self> {
        let directory = env::var_os("NEVA_KERNEL_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
        let failed = |why: String| compiler::error(&source.name(), format!("NEVA_KERNEL_DIR: {why}"));
        let text = |file: String, embedded: &str| match &directory {
            None => Ok(embedded.to_string()),
            Some(dir) if !dir.is_dir() => Err(failed(format!("{} is no directory", dir.display()))),
            Some(dir) => match fs::read_to_string(dir.join(&file)) {
                Ok(text) => Ok(text),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(embedded.to_string()),
                Err(e) => Err(failed(format!("{}: {e}", dir.join(file).display()))),
            },
        };
        let main = text(source.file.into(), source.text)?;
        let mut headers: Vec<(&str, String)> = vec![];
        let mut open = includes(&main);
        while let Some(name) = open.pop() {
            // One that there is not is for the compiler to complain about.
            let Some((name, embedded)) = HEADERS.iter().find(|(known, _)| *known == name) else { continue };
            if headers.iter().all(|(known, _)| known != name) {
                let header = text(format!("cuda/{name}"), embedded)?;
                open.extend(includes(&header));
                headers.push((name, header));
            }
        }
        headers.sort();
        let file = Path::new(source.file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Texts { file, source: main, headers, defines: source.defines })
    }

    /// The compiler's options for `architecture`.
    pub(crate) fn options(&self, architecture: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_string()];
        options.extend(self.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        options
    }

    /// A hash of all that the code for `architecture` depends on, with `compiler` if it matters which one made it.
    pub(crate) fn key(&self, compiler: &str, architecture: &str) -> u128 {
        let options = self.options(architecture);
        let options = options.iter().map(String::as_str);
        let headers = self.headers.iter().flat_map(|(name, text)| [*name, text.as_str()]);
        cache::hash([compiler, &self.file, &self.source].into_iter().chain(options).chain(headers))
    }
}

/// The headers of ours that a text includes.
fn includes(text: &str) -> Vec<String> {
    let quoted = text.lines().filter_map(|line| line.trim().strip_prefix("#include \""));
    quoted.filter_map(|rest| Some(rest.split_once('"')?.0.to_string())).collect()
}

/// What kernels include: names and texts. Kernels use no other header.
const HEADERS: &[(&str, &str)] = &[
    ("copy_rows.cuh", include_str!("../cuda/copy_rows.cuh")),
    ("curve.cuh", include_str!("../cuda/curve.cuh")),
    ("elementwise.cuh", include_str!("../cuda/elementwise.cuh")),
    ("flash.cuh", include_str!("../cuda/flash.cuh")),
    ("fragments.cuh", include_str!("../cuda/fragments.cuh")),
    ("mma.cuh", include_str!("../cuda/mma.cuh")),
    ("packed.cuh", include_str!("../cuda/packed.cuh")),
    ("philox.cuh", include_str!("../cuda/philox.cuh")),
    ("ptx.cuh", include_str!("../cuda/ptx.cuh")),
    ("reduce.cuh", include_str!("../cuda/reduce.cuh")),
    ("rms_norm.cuh", include_str!("../cuda/rms_norm.cuh")),
    ("rows.cuh", include_str!("../cuda/rows.cuh")),
    ("softmax.cuh", include_str!("../cuda/softmax.cuh")),
    ("tensors.cuh", include_str!("../cuda/tensors.cuh")),
    ("vector.cuh", include_str!("../cuda/vector.cuh")),
];

/// A program loaded into a context.
pub(super) struct Program {
    name: String,
    module: sys::CUmodule,
    entries: HashMap<String, Entry>,
}

/// A kernel of a program.
#[derive(Clone, Copy)]
struct Entry {
    function: sys::CUfunction,
    /// How much dynamic shared memory has been asked for. Without asking a kernel has 48 KiB less its static arrays.
    shared_bytes: u32,
}

impl Program {
    /// Loads the program into the current context, that of a device of this compute capability (times ten).
    ///
    /// Errors: there is no code that the device takes; the source does not compile.
    pub(super) fn load(source: &Source, capability: u32) -> Result<Self> {
        let (name, texts) = (source.name(), Texts::of(source)?);
        let mut search = Search { name: &name, capability, tried: vec![] };
        let module = match search.prebuilt(&texts, &prebuilt::machine_code_for(capability))? {
            Some(module) => module,
            None => match search.compiler(&texts, &architecture(capability)) {
                Ok(Some(module)) => module,
                // A source that this compiler refuses, as one too old for the architecture does, may be there as PTX.
                compiled => match search.prebuilt(&texts, &prebuilt::ptx_for(capability))? {
                    Some(module) => module,
                    None => {
                        compiled?;
                        return Err(search.failed());
                    }
                },
            },
        };
        Ok(Program { name, module, entries: HashMap::new() })
    }

    /// The kernel of this name, fit to be launched with `shared_bytes` bytes of dynamic shared memory.
    pub(super) fn entry(&mut self, entry: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        if !self.entries.contains_key(entry) {
            let name = CString::new(entry).expect("entry names are identifiers");
            // SAFETY: the module stays loaded as long as `self`.
            let function = unsafe { result::module::get_function(self.module, name) }
                .map_err(|e| driver_error(format!("{}: find {entry}", self.name), e))?;
            self.entries.insert(entry.to_string(), Entry { function, shared_bytes: 0 });
        }
        let found = self.entries.get_mut(entry).expect("inserted above");
        if shared_bytes > found.shared_bytes {
            let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that stays loaded as long as `self`.
            unsafe { result::function::set_function_attribute(found.function, which, shared_bytes as i32) }
                .map_err(|e| {
                let name = &self.name;
                driver_error(format!("{name}: {shared_bytes} bytes of shared memory for {entry}"), e)
            })?;
            found.shared_bytes = shared_bytes;
        }
        Ok(found.function)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: loaded once in `load`; a context that faulted refuses this, and frees the module itself.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// Whether this binary holds code of every op for a device of this compute capability (times ten). A driver may refuse
/// it all the same.
pub(super) fn all_prebuilt(capability: u32) -> Result<bool> {
    let architectures = [prebuilt::machine_code_for(capability), prebuilt::ptx_for(capability)].concat();
    for source in CATALOGUE.iter().flat_map(|entry| entry.programs) {
        let texts = Texts::of(source)?;
        let has = |a: &String| prebuilt::has(&source.name(), a, texts.key("", a));
        if !architectures.iter().any(has) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The architecture to compile for, as NVRTC names it. From 9.0 on there is a variant with the instructions of that
/// generation alone.
fn architecture(capability: u32) -> String {
    format!("sm_{capability}{}", if capability >= 90 { "a" } else { "" })
}

/// What the driver made of an image.
enum Loaded {
    Module(sys::CUmodule),
    /// It runs no code of this kind.
    WrongKind,
    /// It does not run this image.
    Unfit,
}

/// Where code for one program was looked for, and what came of it.
struct Search<'a> {
    name: &'a str,
    capability: u32,
    tried: Vec<String>,
}

impl Search<'_> {
    /// What this binary holds for the first of `architectures` that it has and the driver takes.
    fn prebuilt(&mut self, texts: &Texts, architectures: &[String]) -> Result<Option<sys::CUmodule>> {
        /// Devices (by compute capability) and architectures whose code the driver has no use for whatever it is: the
        /// GPU simulator runs this machine's instructions. Unpacking the rest would be for nothing.
        static REFUSED: Mutex<Vec<(u32, String)>> = Mutex::new(vec![]);
        let refused = || REFUSED.lock().unwrap_or_else(|e| e.into_inner());
        for architecture in architectures {
            let kind = (self.capability, architecture.clone());
            if refused().contains(&kind) {
                self.tried.push(format!("prebuilt for {architecture}: refused before"));
                continue;
            }
            match prebuilt::find(self.name, architecture, texts.key("", architecture)) {
                Ok(image) => match self.load(&format!("prebuilt for {architecture}"), &image)? {
                    Loaded::Module(module) => return Ok(Some(module)),
                    Loaded::WrongKind => refused().push(kind),
                    Loaded::Unfit => {}
                },
                Err(why) => self.tried.push(format!("prebuilt for {architecture}: {why}")),
            }
        }
        Ok(None)
    }

    /// What an earlier run compiled, or what NVRTC makes now; None without NVRTC or if the driver refuses its code.
    fn compiler(&mut self, texts: &Texts, architecture: &str) -> Result<Option<sys::CUmodule>> {
        let (major, minor) = match compiler::version(self.name) {
            Ok(version) => version,
            Err(Error::NoCompiler { searched }) => {
                self.tried.push(format!("no NVRTC: searched {searched}"));
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let key = texts.key(&format!("NVRTC {major}.{minor}"), architecture);
        let file = format!("{}-{architecture}-{key:032x}.cubin", self.name);
        let path = cache::folder("kernels").map(|directory| directory.join(file));
        // A file that a crash cut short is refused by the driver, and made anew.
        let cached = path.as_ref().and_then(|path| fs::read(path).ok());
        if let Some(module) = cached.and_then(|cubin| load_module(&cubin).ok()) {
            return Ok(Some(module));
        }
        let cubin = Compiled::new(self.name, texts, &texts.options(architecture))?.cubin()?;
        if let Some(path) = &path {
            let _ = cache::write_whole(path, &cubin); // a cache that cannot be written is no error
        }
        match self.load(&format!("compiled for {architecture}"), &cubin)? {
            Loaded::Module(module) => Ok(Some(module)),
            Loaded::WrongKind | Loaded::Unfit => Ok(None),
        }
    }

    /// Loads `image`.
    ///
    /// Errors: the device failed.
    fn load(&mut self, what: &str, image: &[u8]) -> Result<Loaded> {
        use sys::CUresult::*;
        let error = match load_module(image) {
            Ok(module) => return Ok(Loaded::Module(module)),
            Err(error) => error,
        };
        let refusal = match error.0 {
            CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_JIT_COMPILER_NOT_FOUND => Loaded::WrongKind,
            CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_INVALID_SOURCE
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILATION_DISABLED => Loaded::Unfit,
            _ => return Err(driver_error(format!("load {}, {what}", self.name), error)),
        };
        self.tried.push(driver_error(what, error).to_string());
        Ok(refusal)
    }

    fn failed(self) -> Error {
        let (major, minor) = (self.capability / 10, self.capability % 10);
        Error::NoCode {
            kernel: self.name.to_string(),
            device: format!("compute capability {major}.{minor}"),
            tried: self.tried.join("; "),
        }
    }
}

/// Loads machine code, or PTX that ends in a NUL. The driver takes no length, so what cannot be whole is refused here.
fn load_module(image: &[u8]) -> std::result::Result<sys::CUmodule, result::DriverError> {
    let is_ptx = image.starts_with(b"//") && image.ends_with(&[0]);
    if !is_ptx && !is_whole_elf(image) {
        return Err(result::DriverError(sys::CUresult::CUDA_ERROR_INVALID_IMAGE));
    }
    // SAFETY: the image is complete, by the check above; the driver copies it.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
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
        let texts = |file: &str, source: &str, header: &str, defines| Texts {
            file: file.into(),
            source: source.into(),
            headers: vec![("h", header.into())],
            defines,
        };
        let source = texts("a", "b", "h", &[]);
        let base = source.key("c", "sm_80");
        assert_ne!(base, texts("a", "B", "h", &[]).key("c", "sm_80"));
        assert_ne!(base, texts("A", "b", "h", &[]).key("c", "sm_80"));
        assert_ne!(base, texts("a", "b", "H", &[]).key("c", "sm_80"));
        assert_ne!(base, texts("a", "b", "h", &[("D", "1")]).key("c", "sm_80"));
        assert_ne!(base, source.key("C", "sm_80"));
        assert_ne!(base, source.key("c", "sm_89"));
        assert_ne!(
            texts("ab", "c", "h", &[]).key("", "sm_80"),
            texts("a", "bc", "h", &[]).key("", "sm_80"),
            "parts run into each other"
        );
        assert_eq!(base, texts("a", "b", "h", &[]).key("c", "sm_80"));
    }

    #[test]
    fn a_program_depends_on_the_headers_it_includes_and_no_other() {
        let names = |text| {
            let texts = Texts::of(&Source::new("x/x.cu", text)).expect("embedded texts");
            texts.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert_eq!(names("#include \"reduce.cuh\"\n"), ["ptx.cuh", "reduce.cuh"]);
        assert_eq!(names("  #include \"ptx.cuh\" // why\n#include \"ptx.cuh\"\n"), ["ptx.cuh"]);
        assert_eq!(names("// reduce.cuh\n#include \"unknown.cuh\"\n#include <cuda.h>\n"), [""; 0]);
    }
}
