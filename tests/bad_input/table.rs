//! Tables of everything that can be wrong and of what is then said: files in `errors/` that a reader can judge.
//!
//! A test fills one and compares it with the file; `NEVA_UPDATE=1 cargo test --release --test bad_input` writes the files
//! anew. What a machine has (free memory) and where the tests run is replaced by words.

use super::*;
use std::env;

/// A table under way.
pub struct Table {
    name: &'static str,
    text: String,
}

impl Table {
    /// `what` says in a sentence what the lines are.
    pub fn new(name: &'static str, what: &str) -> Self {
        Table { name, text: format!("# {what}\n") }
    }

    pub fn section(&mut self, title: &str) {
        self.text += &format!("\n## {title}\n");
    }

    /// What was wrong, and the answer.
    pub fn line(&mut self, wrong: &str, answer: &str) {
        let wrong = if wrong.is_empty() { "(empty)" } else { wrong };
        self.text += &format!("{wrong:<24} {answer}\n");
    }

    /// Compares with the file, or writes it.
    pub fn finish(self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input/errors").join(self.name);
        if env::var_os("NEVA_UPDATE").is_some() {
            fs::write(&path, self.text).unwrap();
            return;
        }
        let stored = fs::read_to_string(&path).unwrap();
        let command = "NEVA_UPDATE=1 cargo test --release --test bad_input writes it anew";
        for (new, old) in self.text.lines().zip(stored.lines()) {
            assert_eq!(new, old, "left: now; right: tests/bad_input/errors/{}; {command}", self.name);
        }
        assert_eq!(self.text.lines().count(), stored.lines().count(), "{}: {command}", self.name);
    }
}

/// The answer of a command that may be refused and never breaks: `accepted`, or the one line of the error; exit code 2
/// is clap's, whose first line it is. Nothing else ends a command.
pub fn answer(what: &str, (code, _, stderr): (Option<i32>, String, String)) -> String {
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{what}: {stderr}");
    match code {
        Some(0) => "accepted".into(),
        Some(1) => {
            let last = stderr.lines().last().unwrap_or_default();
            let error = last.strip_prefix("error: ").unwrap_or_else(|| panic!("{what}: {stderr}"));
            assert_eq!(stderr.matches("error: ").count(), 1, "{what}: {stderr}");
            error.into()
        }
        Some(2) => {
            let first = stderr.lines().next().unwrap_or_default();
            let error = first.strip_prefix("error: ").unwrap_or_else(|| panic!("{what}: {stderr}"));
            format!("{error} (exit code 2)")
        }
        other => panic!("{what}: ends with {other:?}: {stderr}"),
    }
}

/// The command with no more than 6 GiB of address space, so that a size that is not checked is a failure of the test and
/// not of the machine.
pub fn bounded(arguments: &[String]) -> (Option<i32>, String, String) {
    let limit = "ulimit -v 6291456; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    end(command.args(["-c", limit, env!("CARGO_BIN_EXE_neva")]).args(arguments).output().unwrap())
}

/// Every run of digits as `N`: places in a file that was cut.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            c => out.push(c),
        }
    }
    out
}

/// The text with `dir` as `DIR`, and free memory as words.
pub fn anywhere(text: &str, dir: &Path) -> String {
    let text = text.replace(dir.to_str().unwrap(), "DIR");
    match (text.find(" bytes, "), text.find(" are free")) {
        (Some(from), Some(to)) if from < to => {
            format!("{} bytes, what there is{}", &text[..from], &text[to + " are free".len()..])
        }
        _ => text,
    }
}
