//! A CUDA for machines without a GPU: drop-in `libcuda.so`, `libnvrtc.so` and `libcublasLt.so` that work on the CPU.
//!
//! The C++ of this package is embedded here and built by [`Simulator::build`] with the host's compiler, so building
//! the workspace compiles no C. A program that runs in [`Simulator::environment`] finds these libraries instead of
//! NVIDIA's and knows no difference: it loads, compiles and launches as on a card. How the simulator works is in the
//! files themselves; start with `driver.h` and `block.h`.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

/// Every file the libraries are built from or need beside them.
const FILES: &[(&str, &str)] = &[
    ("allocation.cpp", include_str!("allocation.cpp")),
    ("async.cpp", include_str!("async.cpp")),
    ("async.h", include_str!("async.h")),
    ("blas.cpp", include_str!("blas.cpp")),
    ("blas.h", include_str!("blas.h")),
    ("block.cpp", include_str!("block.cpp")),
    ("block.h", include_str!("block.h")),
    ("checker.cpp", include_str!("checker.cpp")),
    ("checker.h", include_str!("checker.h")),
    ("collective.cpp", include_str!("collective.cpp")),
    ("collective.h", include_str!("collective.h")),
    ("counters.cpp", include_str!("counters.cpp")),
    ("counters.h", include_str!("counters.h")),
    ("driver.cpp", include_str!("driver.cpp")),
    ("driver.h", include_str!("driver.h")),
    ("faults.cpp", include_str!("faults.cpp")),
    ("faults.h", include_str!("faults.h")),
    ("fiber.cpp", include_str!("fiber.cpp")),
    ("fiber.h", include_str!("fiber.h")),
    ("graph.cpp", include_str!("graph.cpp")),
    ("graph.h", include_str!("graph.h")),
    ("hook.h", include_str!("hook.h")),
    ("launch.cpp", include_str!("launch.cpp")),
    ("matmul.cpp", include_str!("matmul.cpp")),
    ("matmul.h", include_str!("matmul.h")),
    ("memory.cpp", include_str!("memory.cpp")),
    ("memory.h", include_str!("memory.h")),
    ("module.cpp", include_str!("module.cpp")),
    ("module.h", include_str!("module.h")),
    ("nvrtc.cpp", include_str!("nvrtc.cpp")),
    ("order.cpp", include_str!("order.cpp")),
    ("order.h", include_str!("order.h")),
    ("place.cpp", include_str!("place.cpp")),
    ("place.h", include_str!("place.h")),
    ("ptx.cuh", include_str!("ptx.cuh")),
    ("regions.cpp", include_str!("regions.cpp")),
    ("regions.h", include_str!("regions.h")),
    ("runtime.h", include_str!("runtime.h")),
    ("settings.cpp", include_str!("settings.cpp")),
    ("settings.h", include_str!("settings.h")),
    ("shadow.h", include_str!("shadow.h")),
    ("stream.cpp", include_str!("stream.cpp")),
    ("stream.h", include_str!("stream.h")),
    ("tensor_map.cpp", include_str!("tensor_map.cpp")),
    ("tensor_map.h", include_str!("tensor_map.h")),
    ("transfer.cpp", include_str!("transfer.cpp")),
    ("watch.cpp", include_str!("watch.cpp")),
    ("watch.h", include_str!("watch.h")),
    ("wgmma.cpp", include_str!("wgmma.cpp")),
    ("wgmma.h", include_str!("wgmma.h")),
];

/// A library: its name, its sources, and the other of ours that it calls.
#[derive(Hash)]
struct Library {
    name: &'static str,
    sources: &'static [&'static str],
    needs: Option<&'static str>,
}

/// In the order they are linked in.
const LIBRARIES: &[Library] = &[
    Library {
        name: "libcuda.so",
        sources: &[
            "allocation.cpp",
            "async.cpp",
            "block.cpp",
            "checker.cpp",
            "collective.cpp",
            "counters.cpp",
            "driver.cpp",
            "faults.cpp",
            "fiber.cpp",
            "graph.cpp",
            "launch.cpp",
            "memory.cpp",
            "module.cpp",
            "order.cpp",
            "place.cpp",
            "regions.cpp",
            "settings.cpp",
            "stream.cpp",
            "tensor_map.cpp",
            "transfer.cpp",
            "watch.cpp",
            "wgmma.cpp",
        ],
        needs: None,
    },
    Library { name: "libnvrtc.so", sources: &["nvrtc.cpp", "settings.cpp"], needs: None },
    Library { name: "libcublasLt.so", sources: &["blas.cpp", "matmul.cpp"], needs: Some("libcuda.so") },
];

const COMPILE: [&str; 8] =
    ["-c", "-std=c++17", "-O2", "-g1", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"];

/// An undefined symbol is an error here, not at the first launch.
const LINK: [&str; 2] = ["-shared", "-Wl,-z,defs"];

/// The built libraries.
#[derive(Debug)]
pub struct Simulator {
    directory: PathBuf,
}

/// Why there is no simulator.
#[derive(Debug)]
pub enum Error {
    /// The C++ compiler cannot be run: its name, and the system's words.
    NoCompiler(String, io::Error),
    /// The C++ compiler refused: its log.
    Compile(String),
    /// A file cannot be written.
    Io(PathBuf, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoCompiler(name, e) => {
                write!(f, "the GPU simulator needs a C++ compiler: {name}: {e} (install g++ or set CXX)")
            }
            Error::Compile(log) => write!(f, "the GPU simulator does not compile:\n{log}"),
            Error::Io(path, e) => write!(f, "{}: {e}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

impl Simulator {
    /// Builds the libraries below `cache`, unless a former call has, from the same sources with the same compiler.
    pub fn build(cache: &Path) -> Result<Self, Error> {
        let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
        let version = Command::new(&compiler)
            .arg("--version")
            .output()
            .map_err(|e| Error::NoCompiler(compiler.clone(), e))?
            .stdout;
        let mut hash = DefaultHasher::new();
        (FILES, LIBRARIES, COMPILE, LINK, version).hash(&mut hash);
        let directory = cache.join(format!("kernel-sim-{:016x}", hash.finish()));
        if directory.is_dir() {
            return Ok(Simulator { directory });
        }
        // Built aside and renamed: others see the whole of it or nothing.
        static BUILDS: AtomicU32 = AtomicU32::new(0);
        let build = BUILDS.fetch_add(1, Ordering::Relaxed);
        let unfinished = directory.with_extension(format!("{}-{build}.part", process::id()));
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |e| Error::Io(path, e)
        };
        fs::create_dir_all(&unfinished).map_err(io(&unfinished))?;
        for (name, text) in FILES {
            let path = unfinished.join(name);
            fs::write(&path, text).map_err(io(&path))?;
        }
        compile_all(&compiler, &unfinished)?;
        for library in LIBRARIES {
            let mut link = Command::new(&compiler);
            // This SONAME answers whoever asks for the library by its plain name.
            link.current_dir(&unfinished)
                .args(LINK)
                .arg(format!("-Wl,-soname,{}", library.name))
                .args(["-o", library.name])
                .args(library.sources.iter().map(|source| object(source)))
                .arg("-ldl");
            if let Some(other) = library.needs {
                link.args(["-L.", &format!("-l:{other}"), "-Wl,-rpath,$ORIGIN"]);
            }
            run(&mut link)?;
        }
        match fs::rename(&unfinished, &directory) {
            Err(e) if !directory.is_dir() => return Err(Error::Io(directory, e)),
            Err(_) => fs::remove_dir_all(&unfinished).map_err(io(&unfinished))?, // somebody else was faster
            Ok(()) => {}
        }
        Ok(Simulator { directory })
    }

    /// What to set for a program that is to run on the simulated GPU. Compiled kernels are cached beside the
    /// libraries they were made for.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("NEVA_CUDA_DIR", self.directory.clone().into()),
            ("NEVA_CACHE_DIR", self.directory.join("cache").into()),
        ]
    }

    /// Where the libraries lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Compiles the sources of all libraries, as many at a time as there are processors.
fn compile_all(compiler: &str, directory: &Path) -> Result<(), Error> {
    let sources: BTreeSet<&str> =
        LIBRARIES.iter().flat_map(|library| library.sources.iter().copied()).collect();
    let sources: Vec<&str> = sources.into_iter().collect();
    let next = AtomicUsize::new(0);
    let compile = || -> Result<(), Error> {
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut command = Command::new(compiler);
            run(command.current_dir(directory).args(COMPILE).args([source, "-o", &object(source)]))?;
        }
        Ok(())
    };
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(compile)).collect();
        running.into_iter().try_for_each(|worker| worker.join().expect("compiling does not panic"))
    })
}

fn object(source: &str) -> String {
    source.replace(".cpp", ".o")
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command
        .output()
        .map_err(|e| Error::NoCompiler(command.get_program().to_string_lossy().into_owned(), e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Compile(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Where `kernel-sim` keeps what it builds: `$XDG_CACHE_HOME/neva`, else `~/.cache/neva`, else the system's
/// directory for temporary files.
pub fn default_cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("neva")
}
