//! Whether a changed kernel is noticed: by `neva kernels check` on the simulated GPU, case by case, the cheapest first;
//! else by the tests of what the catalogue's cases cannot hold.

use crate::rules::Mutant;
use crate::simulated::simulator;
use kernels::check::device::cases_on_gpu;
use kernels::{CATALOGUE, DType};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What each case is run under until one notices; `gpu_kernels.rs` runs unchanged kernels under the same. Only what lacks
/// a call that orders comes to the last two: other mistakes do not depend on the schedule.
const MODES: [&str; 4] = [
    "schedule=random:7,late",
    "schedule=highest,check=race+bounds+proxy",
    "schedule=lowest,late",
    "schedule=random:9,check=race+bounds+proxy",
];

/// Tests of kernels in other files than the checks: indices out of range, single sequences, a whole step.
const TESTS: [&str; 3] = ["gpu_ops", "gpu_attention", "gpu_pointwise"];

/// A case that takes more seconds of a processor hangs. The longest takes a few.
const PATIENCE: u32 = 60;

/// What became of a mutant.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// It does not compile.
    Invalid,
    /// Noticed by this.
    Killed(String),
    /// Noticed by nothing.
    Survived,
}

/// One case of an op in one type: what `neva kernels check` is asked for at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    op: &'static str,
    case: String,
    dtype: &'static str,
}

/// What a run said.
#[derive(Debug, PartialEq)]
enum Verdict {
    Well,
    Wrong,
    DoesNotCompile,
}

/// Runs changed kernels, and remembers what it knows of unchanged ones.
pub struct Judge {
    directory: PathBuf,
    /// Per file and unit, whether the unit runs code of the file.
    reaches: BTreeMap<(String, Unit), bool>,
    /// Modes and units that pass with unchanged kernels.
    passes: BTreeSet<(&'static str, Unit)>,
    /// The tests in other files that pass with unchanged kernels.
    tests_pass: BTreeSet<&'static str>,
}

/// Every file of the catalogue's programs, headers too, with the ops whose programs hold it. `ptx.cuh` is left out: the
/// simulator has its own.
pub fn files() -> BTreeMap<String, Vec<&'static str>> {
    let mut ops: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for entry in CATALOGUE {
        let mut left: Vec<String> = entry.programs.iter().map(|s| s.file.to_string()).collect();
        while let Some(file) = left.pop() {
            let users = ops.entry(file.clone()).or_default();
            if users.contains(&entry.name) {
                continue;
            }
            users.push(entry.name);
            let text = source(&file);
            let headers = text.lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'));
            left.extend(headers.filter(|h| *h != "ptx.cuh").map(|h| format!("cuda/{h}")));
        }
    }
    ops
}

/// The text of a file of kernels.
pub fn source(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file)).unwrap()
}

impl Judge {
    /// One that works in a directory of this name, from scratch.
    pub fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("cache/kernels")).unwrap();
        Judge { directory, reaches: BTreeMap::new(), passes: BTreeSet::new(), tests_pass: BTreeSet::new() }
    }

    /// What becomes of a mutant of `file`. The last resort, tests in other files, is left out unless `thoroughly`.
    pub fn fate(&mut self, mutant: &Mutant, file: &str, thoroughly: bool) -> Fate {
        let units = units(file);
        let modes = if mutant.change.starts_with("dropped") { &MODES[..] } else { &MODES[..2] };
        for mode in modes {
            for unit in &units {
                if !self.reaches(file, unit) {
                    continue;
                }
                self.demand(unit, mode);
                let before = self.compiled();
                let verdict = self.run(unit, mode, Some((file, &mutant.text)));
                // Nobody compiles a mutant again.
                self.compiled().difference(&before).for_each(|path| fs::remove_file(path).unwrap());
                match verdict {
                    Verdict::Well => {}
                    Verdict::Wrong => {
                        return Fate::Killed(format!("{} in {}: {}, {mode}", unit.op, unit.dtype, unit.case));
                    }
                    Verdict::DoesNotCompile => return Fate::Invalid,
                }
            }
        }
        if !thoroughly {
            return Fate::Survived;
        }
        for test in tests_of(file) {
            if self.tests_pass.insert(test) {
                assert!(self.passes_test(test, None), "{test} with unchanged kernels");
            }
            if !self.passes_test(test, Some((file, &mutant.text))) {
                return Fate::Killed(format!("tests/{test}.rs"));
            }
        }
        Fate::Survived
    }

    /// Whether a unit runs code of this file: it fails when that does not compile.
    fn reaches(&mut self, file: &str, unit: &Unit) -> bool {
        let key = (file.to_string(), unit.clone());
        if let Some(reaches) = self.reaches.get(&key) {
            return *reaches;
        }
        let broken = source(file) + "\n#error\n";
        let reaches = self.run(unit, MODES[0], Some((file, &broken))) == Verdict::DoesNotCompile;
        self.reaches.insert(key, reaches);
        reaches
    }

    /// With unchanged kernels it has to pass. This also leaves them compiled.
    fn demand(&mut self, unit: &Unit, mode: &'static str) {
        if self.passes.insert((mode, unit.clone())) {
            let verdict = self.run(unit, mode, None);
            assert_eq!(verdict, Verdict::Well, "{unit:?} under {mode} with unchanged kernels");
        }
    }

    /// Runs one unit, perhaps with one file replaced.
    fn run(&self, unit: &Unit, mode: &str, changed: Option<(&str, &str)>) -> Verdict {
        // The shell's limit, since a wall clock would also count what others do to the machine.
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -t {PATIENCE}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_neva")]);
        command.args(["kernels", "check", unit.op, "--device", "cuda"]);
        command.args(["--case", &unit.case, "--dtype", unit.dtype]);
        command.envs(simulator().unwrap().environment());
        command.env("NEVA_CACHE_DIR", self.directory.join("cache")).env("NEVA_SIM", mode);
        self.replace(&mut command, changed);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Verdict::Well,
            false if String::from_utf8_lossy(&output.stdout).contains("does not compile") => {
                Verdict::DoesNotCompile
            }
            false => Verdict::Wrong,
        }
    }

    /// Lets a command take this text in place of the embedded file.
    fn replace(&self, command: &mut Command, changed: Option<(&str, &str)>) {
        let sources = self.directory.join("sources");
        let _ = fs::remove_dir_all(&sources);
        fs::create_dir_all(&sources).unwrap();
        if let Some((file, text)) = changed {
            let place = sources.join(file);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, text).unwrap();
        }
        command.env("NEVA_KERNEL_DIR", sources);
    }

    /// The compiled programs in the cache.
    fn compiled(&self) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(self.directory.join("cache/kernels")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Whether the tests of this file pass, perhaps with one file of kernels replaced.
    fn passes_test(&self, test: &str, changed: Option<(&str, &str)>) -> bool {
        let mut command = Command::new(test_program(test));
        // Kernels go to the cache of the simulator, named after their text.
        self.replace(&mut command, changed);
        command.output().unwrap().status.success()
    }
}

/// The ops whose cases are to notice what is wrong with a file: the one in whose folder it lies, else all that use it.
fn ops(file: &str) -> Vec<&'static str> {
    let ops = files().remove(file).unwrap();
    let own = ops.iter().find(|op| file.starts_with(&format!("{op}/"))).copied();
    own.map_or(ops, |own| vec![own])
}

/// The tests in other files that name one of these ops, or the folder of the file.
fn tests_of(file: &str) -> Vec<&'static str> {
    let mut names = ops(file);
    names.extend(file.split('/').next());
    let text =
        |test: &str| fs::read_to_string(format!("{}/tests/{test}.rs", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let named = |text: String| {
        let used =
            |op: &&str| text.contains(&format!("kernels::{op}::")) || text.contains(&format!("\"{op}\""));
        names.iter().any(used)
    };
    TESTS.into_iter().filter(|test| named(text(test))).collect()
}

/// The cases that are to notice. Ops of few programs come first, and of each the smallest cases.
fn units(file: &str) -> Vec<Unit> {
    let ops = ops(file);
    let mut units = vec![];
    for entry in CATALOGUE.iter().filter(|entry| ops.contains(&entry.name)) {
        for case in cases_on_gpu(entry) {
            let size: usize = case.specs(DType::F32).iter().map(|spec| spec.elements()).sum();
            for dtype in ["f32", "bf16"] {
                let order = (entry.programs.len(), entry.name, size);
                units.push((order, Unit { op: entry.name, case: case.name.clone(), dtype }));
            }
        }
    }
    units.sort();
    units.into_iter().map(|(_, unit)| unit).collect()
}

/// The newest program that cargo has built beside this one from the test of this name.
fn test_program(name: &str) -> PathBuf {
    let this = env::current_exe().unwrap();
    let is_it = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_string_lossy();
        file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-') && !rest.contains('.'))
    };
    let beside = fs::read_dir(this.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let newest = beside.filter(is_it).max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    newest.unwrap_or_else(|| panic!("{name} is not built: add --test {name} to the command"))
}
