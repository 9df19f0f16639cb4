//! Finding NVIDIA's libraries on this machine.
//!
//! cudarc opens them by bare name. A library that is already loaded satisfies such a request by its SONAME, so
//! opening one by its full path first is how a directory of ours takes precedence. The order:
//!
//! 1. `NEVA_CUDA_DIR`, and `lib64` below it,
//! 2. `lib64` of `CUDA_HOME`,
//! 3. `/usr/local/cuda*`, the newest first,
//! 4. NVIDIA's Python packages: `nvidia/*/lib` in the active virtual environment, in the environment of the `python3`
//!    on the path, and in the user's own packages,
//! 5. wherever the system's loader looks.

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Finds the driver, once per process; the error says which places were searched.
pub(super) fn driver() -> Result<(), String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens and closes the driver library, whose initialisers have no requirements.
    find(&FOUND, &["libcuda.so"], || unsafe { cudarc::driver::sys::is_culib_present() })
}

/// As [`driver`], for the run-time compiler.
pub(super) fn compiler() -> Result<(), String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // NVRTC opens its builtins by bare name too: they have to be there before it.
    // SAFETY: as in `driver`.
    find(&FOUND, &["libnvrtc-builtins.so", "libnvrtc.so"], || unsafe {
        cudarc::nvrtc::sys::is_culib_present()
    })
}

/// As [`driver`], for the library of matrix products.
pub(super) fn blas() -> Result<(), String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: as in `driver`.
    find(&FOUND, &["libcublasLt.so"], || unsafe { cudarc::cublaslt::sys::is_culib_present() })
}

/// Whether the library that marks ranges for profilers is there.
pub(crate) fn nvtx() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: as in `driver`.
    find(&FOUND, &["libnvToolsExt.so"], || unsafe { cudarc::nvtx::sys::is_culib_present() }).is_ok()
}

/// A program of NVIDIA's: beside the libraries, in `bin` next to their directory or to one beside that (where Python
/// packages have it), or on the path.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let beside = directories().into_iter().flat_map(|lib| {
        let packages = lib.ancestors().nth(2).into_iter().flat_map(|dir| named(dir, ""));
        let packages = packages.map(|package| package.join("bin"));
        [lib.clone(), lib.join("bin"), lib.join("../bin")].into_iter().chain(packages).collect::<Vec<_>>()
    });
    let path = env::var_os("PATH").unwrap_or_default();
    beside.chain(env::split_paths(&path)).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Opens `names` where they lie and asks whether the last of them is there now.
fn find(found: &OnceLock<bool>, names: &[&str], present: impl Fn() -> bool) -> Result<(), String> {
    let directories = directories();
    let found = *found.get_or_init(|| {
        names.iter().for_each(|name| open_first(&directories, name));
        present()
    });
    if found {
        return Ok(());
    }
    let mut places: Vec<String> = directories.iter().map(|d| d.display().to_string()).collect();
    places.push("the loader's path".into());
    Err(format!("{} for {}", places.join(", "), names[names.len() - 1]))
}

/// The directories to search, in order; those that do not exist are left out, except one asked for by name.
fn directories() -> Vec<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut all = vec![];
    if let Some(dir) = set("NEVA_CUDA_DIR") {
        all.extend([dir.clone(), dir.join("lib64")]);
    }
    if let Some(home) = set("CUDA_HOME") {
        all.push(home.join("lib64"));
    }
    let mut installed = named(Path::new("/usr/local"), "cuda");
    installed.iter_mut().for_each(|path| path.push("lib64"));
    all.extend(installed.into_iter().rev().filter(|path| path.is_dir()));
    let path = env::var_os("PATH").unwrap_or_default();
    let python = env::split_paths(&path).map(|dir| dir.join("python3")).find(|file| file.is_file());
    for root in python_roots(set("VIRTUAL_ENV"), python, set("HOME")) {
        all.extend(packages(&root));
    }
    let mut seen = vec![];
    all.retain(|dir| !seen.contains(dir) && (seen.push(dir.clone()), true).1);
    all
}

/// The directories that hold a `lib/python3.*`: of the virtual environment, of an interpreter (as it is named, and
/// where its links lead: an environment's own packages, and those of the installation behind it), of the user.
fn python_roots(
    environment: Option<PathBuf>,
    interpreter: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Vec<PathBuf> {
    let behind = interpreter.as_ref().and_then(|file| fs::canonicalize(file).ok());
    let prefix = |file: PathBuf| Some(file.parent()?.parent()?.to_path_buf());
    let mut roots: Vec<PathBuf> = environment.into_iter().collect();
    roots.extend(interpreter.into_iter().chain(behind).filter_map(prefix));
    roots.extend(home.map(|home| home.join(".local")));
    roots
}

/// `nvidia/*/lib` of the Python packages below `root`.
fn packages(root: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for version in named(&root.join("lib"), "python3").into_iter().rev() {
        for kind in ["site-packages", "dist-packages"] {
            let mut found = named(&version.join(kind).join("nvidia"), "");
            found.iter_mut().for_each(|path| path.push("lib"));
            all.extend(found.into_iter().filter(|path| path.is_dir()));
        }
    }
    all
}

/// What lies in a directory under a name that begins so, in the order of the names.
fn named(directory: &Path, beginning: &str) -> Vec<PathBuf> {
    let begins =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(beginning));
    let mut all: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).filter(begins).collect();
    all.sort();
    all
}

/// Opens the first file that is called `name`, or `name` with a version behind it, and leaves it open for good.
/// What cannot be opened (a library of another architecture, say) is passed over.
fn open_first(directories: &[PathBuf], name: &str) {
    for file in directories.iter().flat_map(|directory| named(directory, name)) {
        let version =
            file.file_name().map(|n| n.to_string_lossy()[name.len()..].to_string()).unwrap_or_default();
        if !version.is_empty() && !version.starts_with('.') {
            continue;
        }
        // SAFETY: the file carries the name of an NVIDIA library and lies where the user or the system keeps
        // those; their initialisers have no requirements.
        if let Ok(library) = unsafe { Library::open(Some(&file), RTLD_LAZY | RTLD_LOCAL) } {
            std::mem::forget(library);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_packages_are_found_below_their_environment() {
        let root = env::temp_dir().join(format!("neva-packages-{}", std::process::id()));
        let lib =
            |version: &str, kind: &str, part: &str| root.join("lib").join(version).join(kind).join(part);
        let old = lib("python3.9", "dist-packages", "nvidia/cublas/lib");
        let new = lib("python3.9", "site-packages", "nvidia/cu13/lib");
        for dir in
            [&old, &new, &lib("python3.9", "site-packages", "numpy/lib"), &lib("perl5", "", "nvidia/x/lib")]
        {
            fs::create_dir_all(dir).expect("a temporary directory");
        }
        assert_eq!(packages(&root), [new, old]);
        fs::remove_dir_all(&root).expect("made above");
        assert!(packages(&root).is_empty());
    }

    #[test]
    fn an_interpreter_stands_for_its_environment_and_the_installation_behind_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        let roots = python_roots(path("/venv"), path("/nowhere/bin/python3"), path("/people/me"));
        assert_eq!(roots, ["/venv", "/nowhere", "/people/me/.local"].map(PathBuf::from));
        assert!(python_roots(None, None, None).is_empty());
    }
}
