//! Writing a model directory: all of it, or nothing.
//!
//! Everything goes to a temporary name beside the target, is fsynced, and is renamed into place; a kill at any
//! moment leaves either the whole directory or none of that name. Frozen parameters lie in a shard of their own
//! that later checkpoints of a run hard-link instead of writing again.

use super::{arch, names};
use crate::model::{Model, ModelConfig};
use crate::{Error, Result};
use engine::{Buffer, DType, Param};
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a model directory holds beside its weights.
pub struct ModelFiles<'a> {
    /// What config.json says beside the architecture.
    pub extras: &'a arch::Extras,
    /// Writes the tokenizer and processor files into a directory.
    pub write: &'a dyn Fn(&Path) -> Result<()>,
    /// A complete checkpoint of the same run whose frozen shard may be linked.
    pub previous: Option<&'a Path>,
}

const SINGLE: &str = "model.safetensors";
const FROZEN: &str = "model-frozen.safetensors";
const TRAINED: &str = "model-trained.safetensors";

/// Writes `model` to the directory `target`, which must not exist; its parent must. `more` adds files to the
/// temporary directory before it is renamed (trainer state).
pub fn save(
    target: &Path,
    model: &Model,
    files: &ModelFiles,
    more: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let temporary = temporary_name(target)?;
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
    }
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    let written = write_all(&temporary, model, files)
        .and_then(|()| more(&temporary))
        .and_then(|()| sync_dir(&temporary))
        .and_then(|()| fs::rename(&temporary, target).map_err(Error::io(target)));
    if written.is_err() {
        // The disk may be full: give back what was taken. The first error is the one that counts.
        let _ = fs::remove_dir_all(&temporary);
    }
    written?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(parent)
}

fn temporary_name(target: &Path) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{}: not a name for a directory", target.display())))?;
    Ok(target.with_file_name(format!(".writing-{}", name.to_string_lossy())))
}

fn write_all(dir: &Path, model: &Model, files: &ModelFiles) -> Result<()> {
    let dtype = model.dtype();
    let name = if dtype == DType::Bf16 { "bfloat16" } else { "float32" };
    write_json(&dir.join("config.json"), &arch::to_json(model.config(), files.extras, name))?;
    (files.write)(dir)?;

    let (trained, frozen): (Vec<&Param>, Vec<&Param>) =
        model.params().into_iter().partition(|p| p.trainable());
    let config = model.config();
    if frozen.is_empty() || trained.is_empty() {
        let all = if frozen.is_empty() { trained } else { frozen };
        return write_tensors(&dir.join(SINGLE), &tensors(config, &all, true));
    }
    // The identity that stands in for a missing second projector layer follows the projector's shard.
    let projector_learns = trained.iter().any(|p| p.name().starts_with("projector."));
    let frozen_tensors = tensors(config, &frozen, !projector_learns);
    let trained_tensors = tensors(config, &trained, projector_learns);
    let mut map = BTreeMap::new();
    let mut total = 0;
    for (file, tensors) in [(FROZEN, &frozen_tensors), (TRAINED, &trained_tensors)] {
        for (name, tensor) in tensors {
            map.insert(name.clone(), json!(file));
            total += tensor.data_len();
        }
    }
    let linked =
        files.previous.is_some_and(|previous| fs::hard_link(previous.join(FROZEN), dir.join(FROZEN)).is_ok());
    if !linked {
        write_tensors(&dir.join(FROZEN), &frozen_tensors)?;
    }
    write_tensors(&dir.join(TRAINED), &trained_tensors)?;
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_json(&dir.join("model.safetensors.index.json"), &index)
}

/// A tensor to be written. A buffer is read when its turn comes, so that no more than one lies on the host beside the
/// device that holds it.
pub struct Outgoing {
    dtype: Dtype,
    dims: Vec<usize>,
    contents: Contents,
    /// What kept a buffer from being read: [`View`] cannot say so.
    failed: RefCell<Option<engine::Error>>,
}

enum Contents {
    Bytes(Vec<u8>),
    Buffer(Buffer),
}

impl Outgoing {
    /// The contents of a buffer.
    pub fn buffer(buffer: Buffer) -> Self {
        Self::part(buffer.clone(), buffer.dims().to_vec())
    }

    /// The contents of a buffer under other dimensions.
    fn part(buffer: Buffer, dims: Vec<usize>) -> Self {
        let dtype = dtype_of(buffer.dtype());
        Outgoing { dtype, dims, contents: Contents::Buffer(buffer), failed: RefCell::default() }
    }

    fn bytes(dtype: Dtype, dims: Vec<usize>, bytes: Vec<u8>) -> Self {
        Outgoing { dtype, dims, contents: Contents::Bytes(bytes), failed: RefCell::default() }
    }
}

impl View for &Outgoing {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.dims
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let buffer = match &self.contents {
            Contents::Bytes(bytes) => return Cow::Borrowed(bytes),
            Contents::Buffer(buffer) => buffer,
        };
        match buffer.as_host() {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(buffer.to_host().unwrap_or_else(|error| {
                *self.failed.borrow_mut() = Some(error);
                vec![0; buffer.spec().bytes()]
            })),
        }
    }
    fn data_len(&self) -> usize {
        match &self.contents {
            Contents::Bytes(bytes) => bytes.len(),
            Contents::Buffer(buffer) => buffer.spec().bytes(),
        }
    }
}

fn dtype_of(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F64 => Dtype::F64,
        DType::U32 => Dtype::U32,
    }
}

/// Parameters as the tensors of a Hugging Face checkpoint.
fn tensors(config: &ModelConfig, params: &[&Param], identity: bool) -> BTreeMap<String, Outgoing> {
    let mut all = BTreeMap::new();
    for param in params {
        let value = param.value();
        let elements = value.clone().reshaped([value.spec().elements()]);
        let mut first = 0;
        for part in names::parts(config, param.name(), value.dims()) {
            let end = first + part.dims.iter().product::<usize>();
            let tensor = Outgoing::part(elements.rows(first..end), part.dims);
            first = end;
            all.insert(part.names.into_iter().next().expect("a part has a name"), tensor);
        }
    }
    if identity && config.projector.layers == 1 && arch::is_llava(config) {
        let d = config.llm.hidden_size;
        let dtype = params.first().map_or(DType::F32, |p| p.spec().dtype);
        let one: &[u8] = if dtype == DType::Bf16 { &[0x80, 0x3f] } else { &[0, 0, 0x80, 0x3f] };
        let mut eye = vec![0; d * d * one.len()];
        for i in 0..d {
            eye[i * (d + 1) * one.len()..][..one.len()].copy_from_slice(one);
        }
        let dtype = dtype_of(dtype);
        let name = |kind| format!("multi_modal_projector.linear_2.{kind}");
        all.insert(name("weight"), Outgoing::bytes(dtype, vec![d, d], eye));
        all.insert(name("bias"), Outgoing::bytes(dtype, vec![d], vec![0; d * one.len()]));
    }
    all
}

/// Writes a safetensors file and fsyncs it.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Outgoing>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors.iter(), Some(metadata), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.into(), source },
        other => Error::Checkpoint { path: path.into(), message: other.to_string() },
    })?;
    if let Some(error) = tensors.values().find_map(|tensor| tensor.failed.take()) {
        return Err(error.into());
    }
    sync(path)
}

/// Writes a JSON file and fsyncs it.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value has a text");
    let mut file = File::create(path).map_err(Error::io(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(Error::io(path))?;
    file.sync_all().map_err(Error::io(path))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

/// Fsyncs every file in a directory, then the directory.
pub fn sync_dir(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        if path.is_dir() { sync_dir(&path)? } else { sync(&path)? }
    }
    sync(dir)
}
