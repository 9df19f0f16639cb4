//! A file mapped into memory, read-only.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, paged in as they are read.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file. An empty file is an error of kind `UnexpectedEof`, a directory one of the system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        // SAFETY: the map is read-only and private to this value. Another process that truncates the file while
        // it is mapped can end this one with SIGBUS, as with every mapped file; checkpoints are never rewritten in
        // place (they are written to a temporary name and renamed), so no part of this project does that.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
