//! Programs compiled beforehand and embedded in this binary, so that a machine with only the driver runs them.
//!
//! One archive per program (`prebuilt/<program>.bin`, made by `neva kernels compile --prebuilt`) holds its machine code
//! or PTX for each of [`ARCHITECTURES`], each compressed by itself. An archive also records what each image was made
//! from; one whose source, headers or options have changed since is never used.
//!
//! ```text
//! magic                    8 bytes
//! images                   u32
//! then of each image       architecture (16 bytes, NUL-padded), key (u128), length and packed length (u32 each)
//! then of each image       the image, in zlib's format, whose checksum finds damage
//! ```
//!
//! Numbers are little-endian.

use crate::prebuilt::PROGRAMS;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// What programs are compiled for. Code for 8.0 runs on every 8.x, 12.0's on every 12.x; with an `a` behind it, on that
/// one alone. The PTX of 8.0 is for what none of these runs on: newer GPUs, whose driver compiles it.
pub const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120", PTX];

/// The one of [`ARCHITECTURES`] that is no machine code.
pub const PTX: &str = "compute_80";

const MAGIC: &[u8; 8] = b"NEVAPRE1";
const NAME_BYTES: usize = 16;
const ROW_BYTES: usize = NAME_BYTES + 16 + 4 + 4;

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
    let image = |row: Row| {
        let bytes = row.unpack()?;
        Ok(Image { architecture: row.architecture.into(), key: row.key, bytes })
    };
    rows(archive)?.into_iter().map(image).collect()
}

/// The archive of these images.
pub fn write(images: &[Image]) -> Vec<u8> {
    let packed: Vec<Vec<u8>> = images.iter().map(|image| compress_to_vec_zlib(&image.bytes, 10)).collect();
    let mut archive = MAGIC.to_vec();
    archive.extend((images.len() as u32).to_le_bytes());
    for (image, packed) in images.iter().zip(&packed) {
        let mut name = [0; NAME_BYTES];
        name[..image.architecture.len()].copy_from_slice(image.architecture.as_bytes());
        archive.extend(name);
        archive.extend(image.key.to_le_bytes());
        archive.extend((image.bytes.len() as u32).to_le_bytes());
        archive.extend((packed.len() as u32).to_le_bytes());
    }
    packed.iter().for_each(|packed| archive.extend(packed));
    archive
}

/// An image where it lies in an archive.
struct Row<'a> {
    architecture: &'a str,
    key: u128,
    bytes: usize,
    packed: &'a [u8],
}

impl Row<'_> {
    fn unpack(&self) -> Result<Vec<u8>, String> {
        match decompress_to_vec_zlib_with_limit(self.packed, self.bytes) {
            Ok(bytes) if bytes.len() == self.bytes => Ok(bytes),
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
    let (table, mut images) = rest.split_at_checked(count.checked_mul(ROW_BYTES)?)?;
    let mut rows = vec![];
    for row in table.chunks_exact(ROW_BYTES) {
        let (name, row) = row.split_at(NAME_BYTES);
        let (key, row) = row.split_first_chunk()?;
        let (bytes, row) = row.split_first_chunk()?;
        let packed = u32::from_le_bytes(row.try_into().ok()?) as usize;
        let (packed, rest) = images.split_at_checked(packed)?;
        images = rest;
        rows.push(Row {
            architecture: std::str::from_utf8(name).ok()?.trim_end_matches('\0'),
            key: u128::from_le_bytes(*key),
            bytes: u32::from_le_bytes(*bytes) as usize,
            packed,
        });
    }
    images.is_empty().then_some(rows)
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
        write(&[image("sm_80", 1, b"eighty"), image("sm_90a", 2, b"ninety")])
    }

    #[test]
    fn images_come_back_as_they_were() {
        let images = read(&archive()).expect("an archive");
        assert_eq!(write(&images), archive());
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
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "cut to {length} bytes");
        }
        let images = read(&whole).expect("an archive");
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 0x20;
            // Another name or key is one that nothing asks for; the bytes of an image are never others.
            for (got, want) in read(&damaged).into_iter().flatten().zip(&images) {
                assert_eq!(got.bytes, want.bytes, "byte {i} changed");
            }
        }
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
