//! `kernels/budgets.yaml`: what each kernel may need on each architecture, measured when it was last looked at.
//!
//! Registers, shared memory and stack are the most there may be, instructions of tensor cores and the copies that feed
//! them the least. So a change that costs something is seen, and `neva kernels compile --budgets` makes it a line of
//! the diff. Spilled registers have no budget: no kernel has any.

use ::kernels::check::compile::{Built, Measured, PINNED};
use ::kernels::device::prebuilt::ARCHITECTURES;
use neva::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

/// The budgets this binary was built with.
const EMBEDDED: &str = include_str!("../../kernels/budgets.yaml");

/// By program, then by kernel.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Budgets(BTreeMap<String, BTreeMap<String, Budget>>);

/// What one kernel may need.
#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Threads of its largest block.
    pub threads: u32,
    /// Bytes of shared memory that it declares.
    pub shared: u32,
    /// Whether launches give it more.
    #[serde(default)]
    pub dynamic: bool,
    /// Registers by architecture.
    pub registers: BTreeMap<String, u32>,
    /// Bytes of local memory.
    #[serde(default)]
    stack: u32,
    /// The least products on tensor cores, loads of matrices and asynchronous copies.
    #[serde(default)]
    tensor: u32,
    #[serde(default)]
    matrix_loads: u32,
    #[serde(default)]
    async_copies: u32,
}

impl Budgets {
    /// Those of this binary, or of the directory that `NEVA_KERNEL_DIR` names, as for sources.
    ///
    /// # Errors
    /// A file that is not as [`write`] makes it.
    pub fn read() -> Result<Self> {
        let directory = env::var_os("NEVA_KERNEL_DIR").filter(|d| !d.is_empty());
        let path = directory.map(|d| Path::new(&d).join("budgets.yaml")).filter(|path| path.exists());
        let text = match &path {
            Some(path) => fs::read_to_string(path).map_err(Error::io(path))?,
            None => EMBEDDED.into(),
        };
        Self::parse(&text).map_err(|e| Error::Usage(format!("budgets.yaml: {e}")))
    }

    fn parse(text: &str) -> std::result::Result<Self, serde_yaml::Error> {
        serde_yaml::from_str(text)
    }

    /// The budget of a kernel.
    pub fn of(&self, program: &str, entry: &str) -> Option<&Budget> {
        self.0.get(program)?.get(entry)
    }

    /// The kernels of a program and their budgets.
    pub fn program(&self, program: &str) -> impl Iterator<Item = (&String, &Budget)> {
        self.0.get(program).into_iter().flatten()
    }

    /// A sentence for everything that `built` has too much or too little of, and each kernel without a budget.
    pub fn breaches(&self, built: &Built) -> Vec<String> {
        let (program, architecture) = (&built.program, &built.image.architecture);
        let mut breaches = vec![];
        for measured in &built.entries {
            let found = match self.of(program, &measured.entry) {
                Some(budget) => budget.breaches(architecture, measured),
                None => vec!["has no budget".into()],
            };
            breaches.extend(
                found.into_iter().map(|b| format!("{program}: {} {architecture} {b}", measured.entry)),
            );
        }
        breaches.extend(spills(built));
        breaches
    }

    /// A sentence for each budget of a kernel that `built`, all programs there are, does not have.
    pub fn unused(&self, built: &[Built]) -> Vec<String> {
        let there = |program: &String, entry: &String| {
            built.iter().any(|b| b.program == *program && b.entries.iter().any(|m| m.entry == *entry))
        };
        let all =
            self.0.iter().flat_map(|(program, entries)| entries.keys().map(move |entry| (program, entry)));
        let unused = all.filter(|(program, entry)| !there(program, entry));
        unused
            .map(|(program, entry)| format!("{program}: {entry} has a budget but is in no program"))
            .collect()
    }
}

/// A sentence for each kernel of `built` that spills.
pub fn spills(built: &Built) -> impl Iterator<Item = String> {
    let spilling = built.entries.iter().filter(|measured| measured.spilled_bytes > 0);
    spilling.map(|Measured { entry, spilled_bytes, .. }| {
        format!(
            "{}: {entry} {} spills {spilled_bytes} bytes, and no kernel may",
            built.program, built.image.architecture
        )
    })
}

impl Budget {
    fn breaches(&self, architecture: &str, measured: &Measured) -> Vec<String> {
        let mut breaches = vec![];
        let mut at_most = |what: &str, got: u32, most: u32| {
            if got > most {
                breaches.push(format!("needs {got} {what}, its budget is {most}"));
            }
        };
        at_most("bytes of shared memory", measured.shared_bytes, self.shared);
        at_most("bytes of stack", measured.stack_bytes, self.stack);
        if let Some(most) = self.registers.get(architecture) {
            at_most("registers", measured.registers, *most);
        } else {
            breaches.push("has no budget of registers".into());
        }
        if measured.threads != self.threads {
            breaches.push(format!("is for {} threads, its budget for {}", measured.threads, self.threads));
        }
        if measured.dynamic_shared != self.dynamic {
            breaches.push(format!("takes dynamic shared memory: {}", measured.dynamic_shared));
        }
        if let Some(counts) = measured.instructions {
            let mut at_least = |what: &str, got: u32, least: u32| {
                if got < least {
                    breaches.push(format!("has {got} {what}, expected at least {least}"));
                }
            };
            at_least("instructions of tensor cores", counts.tensor, self.tensor);
            at_least("loads of matrices", counts.matrix_loads, self.matrix_loads);
            at_least("asynchronous copies", counts.async_copies, self.async_copies);
            if counts.local > 0 && self.stack == 0 {
                breaches.push(format!("has {} accesses of local memory, expected none", counts.local));
            }
        }
        breaches
    }
}

/// The kernels of a program, each with what it needs on each architecture.
type Entries<'a> = BTreeMap<&'a str, Vec<(&'a str, &'a Measured)>>;

/// The file whose budgets are what `built` needs: all programs for all architectures, disassembled.
pub fn write(built: &[Built]) -> String {
    let mut text = format!(
        "# What each kernel may need: most registers by architecture, bytes of shared memory and stack (0 if not said);\n\
         # least instructions of tensor cores, loads of matrices, asynchronous copies. Measured with NVRTC {}.{}; written by\n\
         # `neva kernels compile --budgets kernels/budgets.yaml`.\n",
        PINNED.0, PINNED.1
    );
    let mut programs: BTreeMap<&str, Entries> = BTreeMap::new();
    for b in built {
        for measured in &b.entries {
            let entries = programs.entry(&b.program).or_default();
            entries.entry(&measured.entry).or_default().push((&b.image.architecture, measured));
        }
    }
    for (program, entries) in programs {
        text += &format!("{program}:\n");
        for (entry, mut on) in entries {
            on.sort_by_key(|(architecture, _)| ARCHITECTURES.iter().position(|a| a == architecture));
            text += &format!("  {entry}: {{{}}}\n", line(&on));
        }
    }
    text
}

/// The budget of one kernel, from what it needs on each architecture.
fn line(on: &[(&str, &Measured)]) -> String {
    let most = |of: fn(&Measured) -> u32| on.iter().map(|(_, m)| of(m)).max().unwrap_or(0);
    let least = |of: fn(&Measured) -> u32| on.iter().map(|(_, m)| of(m)).min().unwrap_or(0);
    let registers: Vec<String> = on.iter().map(|(a, m)| format!("{a}: {}", m.registers)).collect();
    let mut line = format!("threads: {}, shared: {}", most(|m| m.threads), most(|m| m.shared_bytes));
    if on.iter().any(|(_, m)| m.dynamic_shared) {
        line += ", dynamic: true";
    }
    for (name, value) in [
        ("stack", most(|m| m.stack_bytes)),
        ("tensor", least(|m| m.instructions.unwrap_or_default().tensor)),
        ("matrix_loads", least(|m| m.instructions.unwrap_or_default().matrix_loads)),
        ("async_copies", least(|m| m.instructions.unwrap_or_default().async_copies)),
    ] {
        if value > 0 {
            line += &format!(", {name}: {value}");
        }
    }
    line + &format!(", registers: {{{}}}", registers.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use ::kernels::check::compile::Instructions;
    use ::kernels::device::prebuilt::{Image, PTX};

    fn built(architecture: &str, change: impl Fn(&mut Measured)) -> Built {
        let instructions = Instructions { all: 100, tensor: 16, matrix_loads: 8, async_copies: 4, local: 0 };
        let mut measured = Measured {
            entry: "flash_fwd_bf16".into(),
            threads: 128,
            registers: 168,
            shared_bytes: 64,
            dynamic_shared: true,
            stack_bytes: 0,
            spilled_bytes: 0,
            instructions: Some(instructions),
        };
        change(&mut measured);
        let image = Image { architecture: architecture.into(), key: 0, bytes: vec![] };
        Built { program: "flash".into(), image, entries: vec![measured] }
    }

    #[test]
    fn what_was_measured_is_within_the_budgets_written_of_it() {
        let all = [built("sm_80", |m| m.registers = 200), built("sm_90a", |_| ())];
        let text = write(&all);
        let line = "  flash_fwd_bf16: {threads: 128, shared: 64, dynamic: true, tensor: 16, matrix_loads: 8, \
                    async_copies: 4, registers: {sm_80: 200, sm_90a: 168}}\n";
        assert!(text.ends_with(&format!("flash:\n{line}")), "{text}");
        let budgets = Budgets::parse(&text).unwrap();
        assert!(all.iter().all(|b| budgets.breaches(b).is_empty()));
        assert_eq!(budgets.unused(&all), [""; 0]);
    }

    #[test]
    fn each_breach_is_a_sentence() {
        let budgets = Budgets::parse(&write(&[built("sm_90a", |_| ())])).unwrap();
        let breach = |change: fn(&mut Measured)| budgets.breaches(&built("sm_90a", change)).join("; ");
        let of = |what: &str| format!("flash: flash_fwd_bf16 sm_90a {what}");
        assert_eq!(breach(|m| m.registers += 1), of("needs 169 registers, its budget is 168"));
        assert_eq!(breach(|m| m.shared_bytes = 65), of("needs 65 bytes of shared memory, its budget is 64"));
        assert_eq!(breach(|m| m.stack_bytes = 8), of("needs 8 bytes of stack, its budget is 0"));
        assert_eq!(breach(|m| m.spilled_bytes = 4), of("spills 4 bytes, and no kernel may"));
        assert_eq!(breach(|m| m.threads = 256), of("is for 256 threads, its budget for 128"));
        assert_eq!(breach(|m| m.dynamic_shared = false), of("takes dynamic shared memory: false"));
        let count = |change: fn(&mut Instructions)| {
            let mut measured = built("sm_90a", |_| ());
            change(measured.entries[0].instructions.as_mut().unwrap());
            budgets.breaches(&measured).join("; ")
        };
        assert_eq!(count(|c| c.tensor = 15), of("has 15 instructions of tensor cores, expected at least 16"));
        assert_eq!(count(|c| c.matrix_loads = 0), of("has 0 loads of matrices, expected at least 8"));
        assert_eq!(count(|c| c.async_copies = 3), of("has 3 asynchronous copies, expected at least 4"));
        assert_eq!(count(|c| c.local = 2), of("has 2 accesses of local memory, expected none"));
        assert_eq!(breach(|m| m.entry = "x".into()), "flash: x sm_90a has no budget");
        assert_eq!(
            budgets.breaches(&built("sm_80", |_| ())),
            ["flash: flash_fwd_bf16 sm_80 has no budget of registers"]
        );
        assert_eq!(budgets.unused(&[]), ["flash: flash_fwd_bf16 has a budget but is in no program"]);
    }

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        let text = write(&[built("sm_90a", |_| ())]).replace("shared", "chared");
        assert!(Budgets::parse(&text).is_err());
        Budgets::parse(EMBEDDED).unwrap();
    }

    #[test]
    fn ptx_has_no_budget() {
        let mut ptx = built(PTX, |_| ());
        ptx.entries.clear();
        assert_eq!(Budgets::parse("{}").unwrap().breaches(&ptx), [""; 0]);
    }
}
