//! Model directories in the layout of Hugging Face: config.json, safetensors, tokenizer and processor files.
//!
//! | file | what it holds |
//! |---|---|
//! | `arch.rs` | config.json: reading and writing an architecture |
//! | `names.rs` | which tensors make up each parameter, under every naming that exists |
//! | `mod.rs` | [`Checkpoint`]: reading tensors |
//! | `save.rs` | writing a model directory, all of it or nothing |

pub mod arch;
mod names;
mod save;

pub use arch::Extras;
pub use save::{ModelFiles, Outgoing, save, write_json, write_tensors};

use crate::error::one_line;
use crate::model::ModelConfig;
use crate::{Error, Result, json};
use engine::{Buffer, DType, Device, Role, Spec};
use kernels::cast::cast;
use kernels::device::MappedFile;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An opened model directory: its architecture, and its tensors mapped but not read.
pub struct Checkpoint {
    config: ModelConfig,
    extras: Extras,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens a directory with config.json and model.safetensors or shards with model.safetensors.index.json.
    ///
    /// Errors: a file is missing, is not what its name says, or config.json describes a model we cannot run; each
    /// names the file and the key or tensor.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = dir.join("config.json");
        if !file.exists() {
            let message = match dir.is_dir() {
                true => "has no config.json, expected the directory of a model",
                false => "is no directory, expected that of a model",
            };
            return Err(Error::Checkpoint { path: dir.into(), message: message.into() });
        }
        let (config, extras) = arch::read(&file)?;
        Ok(Checkpoint { config, extras, tensors: Tensors::open(dir)? })
    }

    /// Opens the tensors of a directory that may hold only a part (a tower, a decoder) as parts of a model of this
    /// architecture.
    pub fn with_config(dir: &Path, config: ModelConfig) -> Result<Self> {
        Ok(Checkpoint { config, extras: Extras::default(), tensors: Tensors::open(dir)? })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What config.json says beside the architecture.
    pub fn extras(&self) -> &Extras {
        &self.extras
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.tensors.dir
    }

    /// The type most of its tensors are stored in: f32, or bf16.
    pub fn stored_dtype(&self) -> DType {
        self.tensors.stored_dtype()
    }

    /// Our parameter `name` as `spec` says, put together from its parts and rounded once if the types differ. The
    /// mapped files are copied straight to the device.
    pub fn load(&self, device: &Device, name: &str, spec: Spec) -> Result<Buffer> {
        let parts = names::parts(&self.config, name, spec.dims());
        let mut bytes = vec![];
        let mut stored = None;
        for part in &parts {
            let entry = self.tensors.find(&part.names)?;
            if entry.dims != part.dims {
                return Err(self.tensors.error(
                    entry,
                    format!("{}: has shape {:?}, expected {:?}", entry.name, entry.dims, part.dims),
                ));
            }
            if !matches!(entry.dtype, DType::F32 | DType::Bf16 | DType::F16) {
                let message = format!("{}: stored as {}, expected f32, bf16 or f16", entry.name, entry.dtype);
                return Err(self.tensors.error(entry, message));
            }
            if *stored.get_or_insert(entry.dtype) != entry.dtype {
                return Err(self
                    .tensors
                    .error(entry, format!("{}: stored in another type than its siblings", entry.name)));
            }
            bytes.push(self.tensors.bytes(entry));
        }
        let stored = stored.expect("every parameter has a part");
        // f16 is a stored type: only the CPU reads it.
        let reader = if stored == DType::F16 { &Device::cpu() } else { device };
        let mut buffer = reader.alloc(spec.with_dtype(stored), Role::Weight)?;
        buffer.copy_from_parts(&bytes)?;
        let buffer = if stored == spec.dtype { buffer } else { cast(&buffer, spec.dtype, Role::Weight)? };
        Ok(buffer.to_device(device)?)
    }
}

/// Safetensors files of one directory.
pub struct Tensors {
    dir: PathBuf,
    files: Vec<(PathBuf, MappedFile)>,
    entries: HashMap<String, Entry>,
}

/// One tensor in a file.
pub struct Entry {
    name: String,
    file: usize,
    /// Its type.
    pub dtype: DType,
    /// Its dimensions.
    pub dims: Vec<usize>,
    range: Range<usize>,
}

impl Tensors {
    /// Opens model.safetensors, or the shards that model.safetensors.index.json names.
    pub fn open(dir: &Path) -> Result<Self> {
        let index = dir.join("model.safetensors.index.json");
        let single = dir.join("model.safetensors");
        if !index.exists() {
            if !single.exists() {
                let message =
                    "has no model.safetensors and no model.safetensors.index.json, expected one of them";
                return Err(Error::Checkpoint { path: dir.into(), message: message.into() });
            }
            return Self::open_files(dir, vec![single]);
        }
        let (paths, homes) = shards(dir, &index)?;
        Self::open_where(dir, paths, |name, path| homes.get(name).is_none_or(|home| home == path))
    }

    /// Opens these files.
    pub fn open_files(dir: &Path, paths: Vec<PathBuf>) -> Result<Self> {
        Self::open_where(dir, paths, |_, _| true)
    }

    /// Opens these files, and takes from each the tensors that are `wanted` from it.
    fn open_where(dir: &Path, paths: Vec<PathBuf>, wanted: impl Fn(&str, &Path) -> bool) -> Result<Self> {
        let mut all = Tensors { dir: dir.to_path_buf(), files: vec![], entries: HashMap::new() };
        for path in paths {
            if path.is_dir() {
                return Err(Error::io(path)(ErrorKind::IsADirectory.into())); // mapping one says "no such device"
            }
            let bytes = MappedFile::open(&path).map_err(Error::io(&path))?;
            let bad = |message: String| Error::Checkpoint { path: path.clone(), message: one_line(message) };
            let (header, metadata) = SafeTensors::read_metadata(&bytes)
                .map_err(|e| bad(format!("not a complete safetensors file: {e}")))?;
            for (name, info) in metadata.tensors() {
                if !wanted(&name, &path) {
                    continue;
                }
                let dtype = match info.dtype {
                    Dtype::F32 => DType::F32,
                    Dtype::BF16 => DType::Bf16,
                    Dtype::F16 => DType::F16,
                    Dtype::F64 => DType::F64,
                    Dtype::U32 => DType::U32,
                    // Position ids and the like: never a parameter of ours.
                    _ => continue,
                };
                let (from, to) = info.data_offsets;
                let base = header + 8;
                let entry = Entry {
                    name: name.clone(),
                    file: all.files.len(),
                    dtype,
                    dims: info.shape.clone(),
                    range: base + from..base + to,
                };
                if let Some(first) = all.entries.insert(name, entry) {
                    let other = all.files[first.file].0.display();
                    return Err(bad(format!("{}: {other} holds a tensor of this name too", first.name)));
                }
            }
            all.files.push((path, bytes));
        }
        Ok(all)
    }

    /// The tensor under the first of `names` that exists.
    pub fn find(&self, names: &[String]) -> Result<&Entry> {
        names.iter().find_map(|n| self.entries.get(n)).ok_or_else(|| Error::Checkpoint {
            path: self.dir.clone(),
            message: format!("{}: no such tensor in {}", names[0], self.list_files()),
        })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].1[entry.range.clone()]
    }

    fn error(&self, entry: &Entry, message: String) -> Error {
        Error::Checkpoint { path: self.files[entry.file].0.clone(), message: one_line(message) }
    }

    fn list_files(&self) -> String {
        let names: Vec<_> =
            self.files.iter().filter_map(|(p, _)| p.file_name()).map(|n| n.to_string_lossy()).collect();
        names.join(", ")
    }

    fn stored_dtype(&self) -> DType {
        let elements = |dtype| -> usize {
            self.entries.values().filter(|e| e.dtype == dtype).map(|e| e.dims.iter().product::<usize>()).sum()
        };
        if elements(DType::F32) >= elements(DType::Bf16) + elements(DType::F16) {
            DType::F32
        } else {
            DType::Bf16
        }
    }
}

/// The shards that an index names, and which of them holds each tensor.
fn shards(dir: &Path, index: &Path) -> Result<(Vec<PathBuf>, HashMap<String, PathBuf>)> {
    let bad = |message: String| Error::Checkpoint { path: index.to_path_buf(), message: one_line(message) };
    let json = json::read(index)?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| bad("weight_map: expected an object of tensor names to files".into()))?;
    if map.is_empty() {
        return Err(bad("weight_map: is empty, expected the names of tensors".into()));
    }
    let mut paths = std::collections::BTreeSet::new();
    let mut homes = HashMap::with_capacity(map.len());
    for (tensor, file) in map {
        let name = file.as_str().filter(|f| !f.is_empty() && !f.contains(['/', '\\']));
        let name = name.ok_or_else(|| {
            let tensor = json::shorten(tensor.as_str());
            bad(format!("weight_map: {tensor}: is {}, expected a file name", json::shorten(file.clone())))
        })?;
        let path = dir.join(name);
        homes.insert(tensor.clone(), path.clone());
        paths.insert(path);
    }
    Ok((paths.into_iter().collect(), homes))
}
