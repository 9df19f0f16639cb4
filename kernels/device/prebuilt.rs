//! Programs compiled beforehand and embedded in this binary, so that a machine with only the driver runs them.
//!
//! One archive per program (`prebuilt/<program>.bin`, made by `neva kernels compile --prebuilt`) holds its machine code
//! or PTX for each of [`ARCHITECTURES`]. They are packed as one stream, because code for one generation resembles that
//! for the next: half of what they take packed apart. An archive also records what each image was made from; one whose
//! source, headers or options have changed since is never used.
//!
//! ```text
//! magic                    8 bytes
//! images                   u32
//! then of each image       architecture (16 bytes, NUL-padded), key (u128), digest (u128), length (u32)
//! then                     the images one behind the other, in lzip's format
//! ```
//!
//! Numbers are little-endian. The digest is the image's own, since not all of the stream need be unpacked for one.

use super::cache::digest;
use crate::prebuilt::PROGRAMS;
use lzma_rust2::{LzipOptions, LzipReader, LzipWriter};
use std::io::{self, Read, Write};

/// What programs are compiled for. Code for 8.0 runs on every 8.x, 12.0's on every 12.x; with an `a` behind it, on that
/// one alone. The PTX of 8.0 is for what none of these runs on: newer GPUs, whose driver compiles it.
pub const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120", PTX];

/// The one of [`ARCHITECTURES`] that is no machine code.
pub const PTX: &str = "compute_80";

const MAGIC: &[u8; 8] = b"NEVAPRE1";
const NAME_BYTES: usize = 16;
const ROW_BYTES: usize = NAME_BYTES + 16 + 16 + 4;

/// One image of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The architecture.
    pub architecture: String,
    /// What it was made from.
    pub key: u128,
    /// A cubin, or PTX with a NUL behind it.
    pub bytes: Vec<u8>,
}

/// Which machine code of [`ARCHITECTURES`] runs on a device of this compute capability (times ten), the best first.
pub(super) fn machine_code_for(capability: u32) -> Vec<String> {
    let runs = |architecture: &&str| {
        let Some(number) = architecture.strip_prefix("sm_") else { return false };
        let exact = number.ends_with('a');
        let number: u32 = number.trim_end_matches('a').parse().expect("a number");
        number == capability || !exact && number / 10 == capability / 10 && number < capability
    };
    // Those of one generation stand in the order of their numbers.
    ARCHITECTURES.into_iter().rev().filter(runs).map(String::from).collect()
}

/// Whether [`PTX`] runs there.
pub(super) fn ptx_for(capability: u32) -> Vec<String> {
    if capability >= 80 { vec![PTX.into()] } else { vec![] }
}

/// The image of `program` for `architecture` that was made from `key`; if there is none, why.
pub(super) fn find(program: &str, architecture: &str, key: u128) -> Result<Vec<u8>, String> {
    find_in(PROGRAMS, program, architecture, key)?.unpack()
}

/// Whether there is one.
pub(super) fn has(program: &str, architecture: &str, key: u128) -> bool {
    find_in(PROGRAMS, program, architecture, key).is_ok()
}

fn find_in<'a>(
    programs: &[(&str, &'a [u8])],
    program: &str,
    architecture: &str,
    key: u128,
) -> Result<Row<'a>, String> {
    let (_, archive) = programs.iter().find(|(name, _)| *name == program).ok_or("none")?;
    let row = rows(archive)?.into_iter().find(|row| row.architecture == architecture).ok_or("none")?;
    if row.key == key { Ok(row) } else { Err("made from another source".into()) }
}

/// The names of the programs in this binary, and all images of each.
///
/// Errors, of one program: damaged.
pub fn all() -> impl Iterator<Item = (&'static str, Result<Vec<Image>, String>)> {
    PROGRAMS.iter().map(|(name, archive)| (*name, read(archive)))
}

fn read(archive: &[u8]) -> Result<Vec<Image>, String> {
    let rows = rows(archive)?;
    let mut stream = LzipReader::new(rows.first().map_or(&[][..], |row| row.stream));
    let image = |row: Row| {
        Ok(Image { bytes: row.next_of(&mut stream)?, architecture: row.architecture.into(), key: row.key })
    };
    rows.into_iter().map(image).collect()
}

/// The architectures that this binary holds code of `program` for; none if the archive is damaged.
pub fn architectures(program: &str) -> Vec<&'static str> {
    let archive = PROGRAMS.iter().find(|(name, _)| *name == program);
    let rows = archive.and_then(|(_, archive)| rows(archive).ok()).unwrap_or_default();
    rows.into_iter().map(|row| row.architecture).collect()
}

/// The archive of these images.
///
/// Errors: more bytes than the format has room for.
pub fn write(images: &[Image]) -> io::Result<Vec<u8>> {
    let mut archive = MAGIC.to_vec();
    archive.extend((images.len() as u32).to_le_bytes());
    for image in images {
        let mut name = [0; NAME_BYTES];
        name[..image.architecture.len()].copy_from_slice(image.architecture.as_bytes());
        let length = u32::try_from(image.bytes.len()).map_err(io::Error::other)?;
        archive.extend(name);
        archive.extend(image.key.to_le_bytes());
        archive.extend(digest(image.bytes.iter().copied()).to_le_bytes());
        archive.extend(length.to_le_bytes());
    }
    let mut options = LzipOptions::with_preset(9);
    // Who unpacks it allocates a window of this size: no larger than what there is to look back on.
    let bytes: usize = images.iter().map(|image| image.bytes.len()).sum();
    options.lzma_options.dict_size = (bytes.next_power_of_two() as u32).max(4096);
    let mut packer = LzipWriter::new(archive, options);
    for image in images {
        packer.write_all(&image.bytes)?;
    }
    packer.finish()
}

/// An image where it lies in an archive.
struct Row<'a> {
    architecture: &'a str,
    key: u128,
    digest: u128,
    /// Bytes of the images before it, and its own.
    from: u64,
    bytes: u64,
    stream: &'a [u8],
}

impl Row<'_> {
    fn unpack(&self) -> Result<Vec<u8>, String> {
        let mut stream = LzipReader::new(self.stream);
        io::copy(&mut (&mut stream).take(self.from), &mut io::sink()).map_err(|_| "damaged")?;
        self.next_of(&mut stream)
    }

    /// The image, of a stream that stands before it.
    fn next_of(&self, stream: &mut impl Read) -> Result<Vec<u8>, String> {
        let mut image = vec![];
        match stream.take(self.bytes).read_to_end(&mut image) {
            Ok(_) if image.len() as u64 == self.bytes && digest(image.iter().copied()) == self.digest => {
                Ok(image)
            }
            _ => Err("damaged".into()),
        }
    }
}

fn rows(archive: &[u8]) -> Result<Vec<Row<'_>>, String> {
    try_rows(archive).ok_or("damaged".into())
}

/// None if the archive is not as `write` makes it.
fn try_rows(archive: &[u8]) -> Option<Vec<Row<'_>>> {
    let (count, rest) = archive.strip_prefix(MAGIC)?.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (table, stream) = rest.split_at_checked(count.checked_mul(ROW_BYTES)?)?;
    let (mut rows, mut from) = (vec![], 0);
    for row in table.chunks_exact(ROW_BYTES) {
        let (name, row) = row.split_at(NAME_BYTES);
        let (key, row) = row.split_first_chunk()?;
        let (digest, bytes) = row.split_first_chunk()?;
        let bytes = u32::from_le_bytes(bytes.try_into().ok()?).into();
        rows.push(Row {
            architecture: std::str::from_utf8(name).ok()?.trim_end_matches('\0'),
            key: u128::from_le_bytes(*key),
            digest: u128::from_le_bytes(*digest),
            from,
            bytes,
            stream,
        });
        from += bytes;
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let image = |architecture: &str, key, bytes: &[u8]| Image {
            architecture: architecture.into(),
            key,
            bytes: bytes.repeat(50),
        };
        write(&[image("sm_80", 1, b"eighty"), image("sm_90a", 2, b"ninety")]).expect("written to memory")
    }

    #[test]
    fn images_come_back_as_they_were() {
        let images = read(&archive()).expect("an archive");
        assert_eq!(write(&images).expect("written to memory"), archive());
        assert_eq!((images[1].architecture.as_str(), images[1].key), ("sm_90a", 2));
        assert_eq!(images[1].bytes, b"ninety".repeat(50));
    }

    #[test]
    fn code_of_another_source_is_not_used() {
        let archive = archive();
        let programs: &[(&str, &[u8])] = &[("rope", &archive)];
        let find = |program, architecture, key| find_in(programs, program, architecture, key)?.unpack();
        assert_eq!(find("rope", "sm_90a", 2), Ok(b"ninety".repeat(50)));
        assert_eq!(find("rope", "sm_90a", 1), Err("made from another source".into()));
        assert_eq!(find("rope", "sm_89", 2), Err("none".into()));
        assert_eq!(find("add", "sm_90a", 2), Err("none".into()));
    }

    #[test]
    fn damage_is_noticed() {
        let whole = archive();
        let images = read(&whole).expect("an archive");
        // Another name or key is one that nothing asks for; the bytes of an image are never others.
        let check = |damaged: &[u8], how: String| {
            for (got, want) in read(damaged).into_iter().flatten().zip(&images) {
                assert_eq!(got.bytes, want.bytes, "{how}");
            }
        };
        for i in 0..whole.len() {
            check(&whole[..i], format!("cut to {i} bytes"));
            let mut damaged = whole.clone();
            damaged[i] ^= 0x20;
            check(&damaged, format!("byte {i} changed"));
        }
        let table = 12 + 2 * ROW_BYTES;
        assert!((0..table + 12).all(|length| read(&whole[..length]).is_err()), "no stream to speak of");
        let mut damaged = whole.clone();
        damaged[table + 12] ^= 1;
        assert!(read(&damaged).is_err(), "the first packed bytes");
    }

    #[test]
    fn a_device_gets_code_of_its_own_generation() {
        assert_eq!(machine_code_for(80), ["sm_80"]);
        assert_eq!(machine_code_for(86), ["sm_80"]);
        assert_eq!(machine_code_for(89), ["sm_89", "sm_80"]);
        assert_eq!(machine_code_for(90), ["sm_90a"]);
        assert_eq!(machine_code_for(103), [""; 0], "code for 10.0 alone does not run on 10.3");
        assert_eq!(machine_code_for(121), ["sm_120"]);
        assert_eq!(machine_code_for(75), [""; 0]);
        assert_eq!((ptx_for(103).len(), ptx_for(75).len()), (1, 0));
    }
}
