//! The directory where compiled kernels and chosen algorithms are kept: `NEVA_CACHE_DIR`, else
//! `$XDG_CACHE_HOME/neva`, else `~/.cache/neva`.
//!
//! A cache that cannot be read or written costs time, nothing else.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// The folder of this name in the cache; None where no home is known.
pub(super) fn folder(name: &str) -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("NEVA_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("neva")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/neva")))
        .map(|d| d.join(name))
}

/// Writes a file that other processes see whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let unfinished = path.with_extension(format!("{}.part", process::id()));
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}

/// As [`write_whole`], but leaves a file that is there as it is, and returns whether this one is new.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let unfinished = path.with_extension(format!("{}.part", process::id()));
    fs::write(&unfinished, bytes)?;
    // Unlike renaming, linking never replaces.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// A hash of texts and where each ends. It guards against mistakes, not malice: who can write the cache can replace a
/// file in it.
pub(super) fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> u128 {
    digest(texts.into_iter().flat_map(|text| text.bytes().chain([0])))
}

/// A hash of bytes (FNV-1a, 128 bits).
pub(super) fn digest(bytes: impl IntoIterator<Item = u8>) -> u128 {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in bytes {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash
}
