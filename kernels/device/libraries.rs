//! Finding NVIDIA's libraries on this machine.
//!
//! cudarc opens them by bare name. A library that is already loaded satisfies such a request by its SONAME, so
//! opening one by its full path first is how a directory of ours takes precedence. The order: `NEVA_CUDA_DIR`,
//! `CUDA_HOME`, `/usr/local/cuda*` (the newest first), then wherever the system's loader looks.

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Finds the driver, once per process; the error says which places were searched.
pub(super) fn driver() -> Result<(), String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let present = *FOUND.get_or_init(|| {
        open_first(&directories(), "libcuda.so");
        // SAFETY: opens and closes the driver library, whose initialisers have no requirements.
        unsafe { cudarc::driver::sys::is_culib_present() }
    });
    if present { Ok(()) } else { Err(searched("libcuda.so")) }
}

/// As [`driver`], for the run-time compiler.
pub(super) fn compiler() -> Result<(), String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let present = *FOUND.get_or_init(|| {
        // NVRTC opens its builtins by bare name too: they have to be there before it.
        open_first(&directories(), "libnvrtc-builtins.so");
        open_first(&directories(), "libnvrtc.so");
        // SAFETY: as in `driver`.
        unsafe { cudarc::nvrtc::sys::is_culib_present() }
    });
    if present { Ok(()) } else { Err(searched("libnvrtc.so")) }
}

/// Whether the library that marks ranges for profilers is there.
pub(crate) fn nvtx() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        open_first(&directories(), "libnvToolsExt.so");
        // SAFETY: as in `driver`.
        unsafe { cudarc::nvtx::sys::is_culib_present() }
    })
}

fn searched(library: &str) -> String {
    let mut places: Vec<String> = directories().iter().map(|d| d.display().to_string()).collect();
    places.push("the loader's path".into());
    format!("{} for {library}", places.join(", "))
}

/// The directories to search, in order; those that do not exist are left out, except one asked for by name.
fn directories() -> Vec<PathBuf> {
    let mut all = vec![];
    if let Some(dir) = env::var_os("NEVA_CUDA_DIR") {
        all.extend([PathBuf::from(&dir), Path::new(&dir).join("lib64")]);
    }
    if let Some(home) = env::var_os("CUDA_HOME") {
        all.push(Path::new(&home).join("lib64"));
    }
    let mut installed: Vec<PathBuf> = entries(Path::new("/usr/local"))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cuda")))
        .map(|path| path.join("lib64"))
        .filter(|path| path.is_dir())
        .collect();
    installed.sort();
    all.extend(installed.into_iter().rev());
    all
}

/// Opens the first file that is called `name`, or `name` with a version behind it, and leaves it open for good.
/// What cannot be opened (a library of another architecture, say) is passed over.
fn open_first(directories: &[PathBuf], name: &str) {
    for directory in directories {
        let mut files: Vec<PathBuf> = entries(directory)
            .filter(|path| {
                path.file_name().is_some_and(|n| {
                    n.to_string_lossy().strip_prefix(name).is_some_and(|v| v.is_empty() || v.starts_with('.'))
                })
            })
            .collect();
        files.sort();
        for file in files {
            // SAFETY: the file carries the name of an NVIDIA library and lies where the user or the system keeps
            // those; their initialisers have no requirements.
            if let Ok(library) = unsafe { Library::open(Some(&file), RTLD_LAZY | RTLD_LOCAL) } {
                std::mem::forget(library);
                return;
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
