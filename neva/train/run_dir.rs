//! The run directory: what it holds, who may write it, and which checkpoint is the newest.
//!
//! ```text
//! RUN/config.yaml                 the resolved configuration
//! RUN/metrics.jsonl               one line a step
//! RUN/checkpoints/step-00000100/  a model directory, complete since it has this name
//!                       trainer/  optimiser state, to go on from
//! ```

use crate::{Error, Result};
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// A run directory that this process alone writes.
pub struct RunDir {
    path: PathBuf,
    metrics: File,
    _lock: File,
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The model directory.
    pub path: PathBuf,
    /// How many steps it has seen.
    pub step: u64,
    /// Its validation loss, if there was a validation.
    pub val_loss: Option<f64>,
}

impl RunDir {
    /// Opens or makes the directory and takes its lock.
    ///
    /// Errors: it cannot be made or written; another process is training into it.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoints = path.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        let lock_path = path.join("run.lock");
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("{}: another process is training into this directory", path.display());
                return Err(Error::Usage(message));
            }
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: lock_path, source }),
        }
        // What a kill left half-written never had its final name: it is of no use to anyone.
        for entry in fs::read_dir(&checkpoints).map_err(Error::io(&checkpoints))? {
            let entry = entry.map_err(Error::io(&checkpoints))?.path();
            if name_of(&entry).starts_with(".writing-") || name_of(&entry).starts_with(".removing-") {
                fs::remove_dir_all(&entry).map_err(Error::io(&entry))?;
            }
        }
        let metrics = open_metrics(path)?;
        Ok(RunDir { path: path.to_path_buf(), metrics, _lock: lock })
    }

    /// Writes the resolved configuration.
    pub fn write_config(&self, yaml: &str) -> Result<()> {
        let path = self.path.join("config.yaml");
        fs::write(&path, yaml).map_err(Error::io(&path))
    }

    /// Appends a line to metrics.jsonl.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        writeln!(self.metrics, "{line}").map_err(Error::io(self.path.join("metrics.jsonl")))
    }

    /// Drops the lines of steps after `step`: a run that goes on from a checkpoint writes them again.
    pub fn rewind_metrics(&mut self, step: u64) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let mut reader = BufReader::new(File::open(&path).map_err(Error::io(&path))?);
        let (mut kept, mut line) = (vec![], vec![]);
        while reader.read_until(b'\n', &mut line).map_err(Error::io(&path))? > 0 {
            // A line cut off by a kill does not parse, and its step is after the checkpoint's. A machine that went down
            // may have left anything there.
            let parsed = serde_json::from_slice::<Value>(&line).ok();
            if parsed.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step) {
                kept.extend_from_slice(line.trim_ascii_end());
                kept.push(b'\n');
            }
            line.clear();
        }
        let temporary = self.path.join(".metrics.jsonl");
        fs::write(&temporary, kept).map_err(Error::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(Error::io(&path))?;
        self.metrics = open_metrics(&self.path)?;
        Ok(())
    }

    /// Where the checkpoint after `step` steps goes.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join("checkpoints").join(format!("step-{step:08}"))
    }

    /// Every complete checkpoint, the oldest first.
    pub fn saved(&self) -> Result<Vec<Saved>> {
        list(&self.path)
    }

    /// Removes checkpoints that are neither the last nor among the best `top_k` (negative: keeps all). Without
    /// validation losses the newest count as the best.
    pub fn prune(&self, top_k: i64) -> Result<()> {
        let Ok(top_k) = usize::try_from(top_k) else { return Ok(()) };
        let saved = self.saved()?;
        let Some((last, others)) = saved.split_last() else { return Ok(()) };
        let mut ranked: Vec<&Saved> = others.iter().chain([last]).collect();
        ranked.sort_by(|a, b| {
            let loss = |s: &Saved| s.val_loss.unwrap_or(f64::INFINITY);
            loss(a).total_cmp(&loss(b)).then(b.step.cmp(&a.step))
        });
        for saved in ranked.into_iter().skip(top_k).filter(|s| s.step != last.step) {
            // Renamed first: a kill half-way must not leave a directory that looks like a checkpoint.
            let removing = saved.path.with_file_name(format!(".removing-{}", name_of(&saved.path)));
            fs::rename(&saved.path, &removing).map_err(Error::io(&saved.path))?;
            fs::remove_dir_all(&removing).map_err(Error::io(&removing))?;
        }
        Ok(())
    }
}

/// Every complete checkpoint of a run directory, the oldest first.
pub fn list(run: &Path) -> Result<Vec<Saved>> {
    let dir = run.join("checkpoints");
    let mut all = vec![];
    for entry in fs::read_dir(&dir).map_err(Error::io(&dir))? {
        let path = entry.map_err(Error::io(&dir))?.path();
        let Some(step) = name_of(&path).strip_prefix("step-").and_then(|s| s.parse().ok()) else { continue };
        let val_loss = super::state::read_position(&path)?.val_loss;
        all.push(Saved { path, step, val_loss });
    }
    all.sort_by_key(|saved| saved.step);
    Ok(all)
}

fn open_metrics(run: &Path) -> Result<File> {
    let path = run.join("metrics.jsonl");
    OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}
