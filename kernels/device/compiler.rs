//! NVRTC: CUDA C++ to machine code for one architecture, or to PTX.

use super::libraries;
use super::program::Texts;
use crate::{Error, Result};
use cudarc::nvrtc::result;
use cudarc::nvrtc::sys::{self, nvrtcProgram};
use std::ffi::{CString, c_char};

/// The oldest NVRTC that gives machine code.
const OLDEST: (i32, i32) = (11, 2);

/// The version of the NVRTC on this machine, major and minor; `program` is what it is wanted for.
///
/// Errors: none is found; it is older than 11.2.
pub(crate) fn version(program: &str) -> Result<(i32, i32)> {
    libraries::compiler().map_err(|searched| Error::NoCompiler { searched })?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded; both are written.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|e| error(program, format!("NVRTC does not tell its version: {e}")))?;
    if (major, minor) < OLDEST {
        let needs = format!("NeVA needs {}.{} or newer", OLDEST.0, OLDEST.1);
        return Err(error(program, format!("NVRTC {major}.{minor} is too old, {needs}")));
    }
    Ok((major, minor))
}

pub(super) fn error(program: &str, log: String) -> Error {
    Error::Compile { kernel: program.to_string(), log }
}

/// A program that compiled.
pub(crate) struct Compiled {
    name: String,
    handle: Handle,
    /// What the compiler said.
    pub(crate) log: String,
}

impl Compiled {
    /// Compiles `texts`, the program called `name`.
    ///
    /// Errors: no NVRTC, or it refuses; the error holds its log.
    pub(crate) fn new(name: &str, texts: &Texts, options: &[String]) -> Result<Self> {
        version(name)?;
        let failed = |step: &str, e: result::NvrtcError| error(name, format!("{step}: {e}"));
        let handle = Handle::new(texts).map_err(|e| failed("create", e))?;
        // SAFETY: the program exists until `handle` is dropped.
        let compiled = unsafe { result::compile_program(handle.0, options) };
        // SAFETY: as above; there is a log whether it compiled or not.
        let log = unsafe { result::get_program_log(handle.0) }.map_err(|e| failed("read the log", e))?;
        let log = text(log);
        match compiled {
            Ok(()) => Ok(Compiled { name: name.to_string(), handle, log }),
            Err(e) => Err(error(name, format!("{e}\n{log}"))),
        }
    }

    /// The machine code, an ELF file; there is some if it was compiled for a real architecture.
    pub(crate) fn cubin(&self) -> Result<Vec<u8>> {
        let failed = |e: result::NvrtcError| error(&self.name, format!("machine code: {e}"));
        let mut bytes = 0;
        // SAFETY: the program exists; the size is written.
        unsafe { sys::nvrtcGetCUBINSize(self.handle.0, &mut bytes) }.result().map_err(failed)?;
        let mut cubin = vec![0u8; bytes];
        // SAFETY: as above; `cubin` has the size NVRTC asked for.
        unsafe { sys::nvrtcGetCUBIN(self.handle.0, cubin.as_mut_ptr().cast()) }.result().map_err(failed)?;
        Ok(cubin)
    }

    /// The PTX, whichever architecture it was compiled for.
    pub(crate) fn ptx(&self) -> Result<String> {
        // SAFETY: the program exists.
        let ptx = unsafe { result::get_ptx(self.handle.0) };
        Ok(text(ptx.map_err(|e| error(&self.name, format!("PTX: {e}")))?))
    }
}

/// The characters before the NUL.
fn text(chars: Vec<c_char>) -> String {
    let bytes: Vec<u8> = chars.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Handle(nvrtcProgram);

impl Handle {
    fn new(source: &Texts) -> std::result::Result<Self, result::NvrtcError> {
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
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                count,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        }
        .result()?;
        Ok(Handle(program))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created once in `new`. Nothing is lost if it fails but memory.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
