//! The configuration: NeMo's NeVA YAML, typed and checked before anything is loaded.
//!
//! The keys and their nesting are those NeVA users have in their files; [`schema`] declares each one that this
//! program honours. The way of a file:
//!
//! 1. `value`: text to an untyped tree; duplicate keys, tags and hostile nesting are refused,
//! 2. `overrides`: `key=value` words of the command line,
//! 3. `interpolate`: `${model.seed}`, `${.encoder_seq_length}`, `${multiply:2, 3}`,
//! 4. `keys`: unknown keys and features that this version lacks are refused by name; keys of NeMo that mean nothing
//!    here are collected for one warning,
//! 5. `setting`: the typed sections, each value checked against its type and range,
//! 6. `check`: values that must fit each other; architecture keys of the parts that are born here are filled in.
//!
//! Relative paths start from the working directory. Every error names the file and line (or "command line"), the key, and what was expected.

mod check;
mod interpolate;
mod keys;
mod overrides;
pub mod schema;
mod setting;
mod value;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use check::{LlmArchitecture, VisionArchitecture};
pub use schema::{ExpManager, Model, Trainer};

use self::keys::Keys;
use self::schema::Root;
use self::setting::{At, Setting};
use self::value::{Entry, Origin, Source, Value};
use crate::{Error, Result};

/// No configuration is longer; a file that is, is the wrong file.
const LONGEST_FILE_BYTES: u64 = 1 << 20;

/// A whole configuration, checked.
///
/// ```
/// let yaml = "
/// model:
///   num_layers: 2
///   hidden_size: 64
///   ffn_hidden_size: 160
///   num_attention_heads: 4
/// ";
/// let config = neva::config::Config::parse("tiny.yaml", yaml, &["model.optim.lr=1e-3".into()])?;
/// assert_eq!(config.model.optim.lr, 1e-3);
/// # Ok::<(), neva::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The run.
    pub trainer: Trainer,
    /// Where the run writes.
    pub exp_manager: ExpManager,
    /// The model, its data and its optimiser.
    pub model: Model,
    /// Keys that were given and mean nothing here.
    without_effect: Vec<&'static str>,
    /// For the places in later errors: the text, and the tree after the overrides.
    source: Source,
    tree: Value,
}

impl Config {
    /// Reads a file and applies the `key=value` words of the command line.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::ConfigFile`] if it is not YAML; [`Error::Config`] for a key;
    /// [`Error::Usage`] for a word that is no override.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Config> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        let whole = |message: String| Error::ConfigFile { origin: name.clone(), message };
        if bytes.len() as u64 > LONGEST_FILE_BYTES {
            return Err(whole("is longer than 1 MiB; expected a configuration in YAML".to_string()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            whole(format!("is not UTF-8 text from line {line} on; expected a configuration in YAML"))
        })?;
        Config::parse(&name, &text, overrides)
    }

    /// The same from a text; `name` is what messages call it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Config> {
        let source = Source { name: name.to_string(), text: text.to_string() };
        let keys = Keys::new();
        let mut tree = source.parse()?;
        // Before the interpolations, so that a mistyped key is not reported by whoever refers to it.
        keys.check_known(&tree, &source)?;
        overrides::apply(&mut tree, overrides, &keys, &source)?;
        let tree = interpolate::resolve(&tree, &source)?;
        keys.check_known(&tree, &source)?;
        let without_effect = keys.check_features(&tree, &source)?;
        let root = Root::read(&tree, &At { source: &source, key: String::new(), origin: Origin::Default })?;
        let Root { trainer, exp_manager, model } = root;
        let mut config = Config { trainer, exp_manager, model, without_effect, source, tree };
        config.check()?;
        Ok(config)
    }

    /// Every honoured key with its value, as YAML. Reading it gives the same configuration.
    pub fn resolved_yaml(&self) -> String {
        let entry = |key: &str, value| Entry { key: key.to_string(), value, origin: Origin::Default };
        let tree = Value::Map(vec![
            entry("trainer", self.trainer.write()),
            entry("exp_manager", self.exp_manager.write()),
            entry("model", self.model.write()),
        ]);
        serde_yaml::to_string(&tree).expect("a tree of plain values has a YAML text")
    }

    /// One line that names the keys which were given and mean nothing here; `None` if there are none.
    pub fn warning(&self) -> Option<String> {
        if self.without_effect.is_empty() {
            return None;
        }
        let keys = self.without_effect.join(", ");
        Some(format!("{}: NeMo keys without effect here: {keys}", self.source.name))
    }

    /// An error about a key, with the place where it was given: for what is found out only later, such as a model
    /// directory whose shape is another.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let mut value = &self.tree;
        let mut origin = Origin::Default;
        for part in key.split('.') {
            match value.entry(part) {
                Some(entry) => (value, origin) = (&entry.value, entry.origin),
                // A key that was not given has the place of the file.
                None => {
                    origin = Origin::Default;
                    break;
                }
            }
        }
        self.source.error(origin, key, message)
    }

    /// Where the run writes: `exp_manager.explicit_log_dir`, else `exp_dir/name`.
    pub fn run_directory(&self) -> PathBuf {
        match (&self.exp_manager.explicit_log_dir, &self.exp_manager.exp_dir) {
            (Some(directory), _) => directory.clone(),
            (None, Some(parent)) => parent.join(&self.exp_manager.name),
            (None, None) => Path::new("nemo_experiments").join(&self.exp_manager.name),
        }
    }
}
