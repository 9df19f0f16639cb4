//! Pictures: decoding, Pillow's bicubic resize, and the preprocessing that a CLIP tower was trained with.
//!
//! A tower sees what its preprocessing makes of a file, so every step here gives what Pillow and transformers give:
//! PNG decodes to the same bytes, [`resize`] is equal to Pillow bit for bit, [`preprocess`] equals `CLIPImageProcessor`
//! to the last bit of its f32 output. JPEG is the exception, see [`jpeg`].

pub mod augment;
pub mod jpeg;
pub mod png;
pub mod preprocess;
pub mod processor;
pub mod resize;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

pub use augment::Augment;
pub use preprocess::{Mode, Preprocess};
pub use processor::Processor;

use crate::error::one_line;
use crate::{Error, Result};

/// The most pixels that a file may announce, 2^31 / 12: the size at which Pillow refuses a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The largest file that is read, in bytes; a real picture of [`MAX_PIXELS`] is smaller.
const MAX_FILE_BYTES: u64 = 1 << 31;

/// An 8-bit RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`, row by row from the top, red first.
    pub rgb: Vec<u8>,
}

impl Image {
    /// A picture of one colour.
    ///
    /// # Panics
    /// When a side is 0.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        assert!(width > 0 && height > 0, "an image has at least one pixel, not {width} x {height}");
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// The `3 * width` samples of row `y`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.rgb[y * self.width * 3..][..self.width * 3]
    }

    /// Reads a PNG or a JPEG. The content says which, not the extension. Rotation tags (EXIF) are not applied; an alpha
    /// channel is dropped, not composited.
    ///
    /// # Errors
    /// [`Error::Image`] when the file is missing, empty, cut off, damaged, of another format, or larger than
    /// [`MAX_PIXELS`]; the last is known from the header, before any allocation.
    pub fn open(path: &Path) -> Result<Self> {
        read(path)
            .and_then(|bytes| decode(&bytes))
            .map_err(|message| Error::Image { path: path.into(), message: one_line(message) })
    }

    /// Decodes the bytes of a PNG or JPEG file, as [`Image::open`] does; `origin` is named in errors.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_bytes(bytes: &[u8], origin: &Path) -> Result<Self> {
        decode(bytes).map_err(|message| Error::Image { path: origin.into(), message: one_line(message) })
    }

    /// Writes an 8-bit RGB PNG.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let file = File::create(path).map_err(Error::io(path))?;
        png::encode(self, file).map_err(Error::io(path))
    }
}

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    /// A format that is known by name only.
    Other(&'static str),
    Unknown,
}

impl Format {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [b'G', b'I', b'F', b'8', ..] => Self::Other("GIF"),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::Other("WebP"),
            [b'B', b'M', ..] => Self::Other("BMP"),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Self::Other("TIFF"),
            [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => Self::Other("AVIF"),
            [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => Self::Other("HEIC"),
            [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Self::Other("JPEG XL"),
            [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => Self::Other("JPEG 2000"),
            [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..] => Self::Other("PNM"),
            [b'%', b'P', b'D', b'F', ..] => Self::Other("PDF"),
            [b'<', b's', b'v', b'g', ..] => Self::Other("SVG"),
            [b'<', ..] => Self::Other("HTML or XML"),
            _ => Self::Unknown,
        }
    }
}

/// The file's bytes, read only when they begin like a format that we decode.
fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "no such image file".to_string(),
        _ => format!("cannot open the image: {error}"),
    })?;
    let failed = |error: std::io::Error| format!("cannot read the image: {error}");
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err("is a directory, expected a PNG or JPEG image".into());
    }
    if !meta.is_file() {
        return Err("is not a regular file, expected a PNG or JPEG image".into());
    }
    let mut bytes = Vec::new();
    file.by_ref().take(16).read_to_end(&mut bytes).map_err(failed)?;
    if !matches!(Format::of(&bytes), Format::Png | Format::Jpeg) {
        return Ok(bytes);
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(format!("has {} bytes, an image may have at most {MAX_FILE_BYTES}", meta.len()));
    }
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> std::result::Result<Image, String> {
    if bytes.is_empty() {
        return Err("the file is empty (0 bytes), expected a PNG or JPEG image".into());
    }
    match Format::of(bytes) {
        Format::Png => png::decode(bytes),
        Format::Jpeg => jpeg::decode(bytes),
        Format::Other(name) => Err(format!("the content is {name}, expected PNG or JPEG")),
        Format::Unknown => Err("the content is not an image that we know, expected PNG or JPEG".into()),
    }
}

/// Refuses a header that promises no pixels, too many, or more than `bytes` of its format can hold (`per_byte` pixels
/// in a byte at best): what is allocated afterwards is bounded by the size of the file itself.
fn check_size(
    width: u64,
    height: u64,
    bytes: usize,
    per_byte: u64,
) -> std::result::Result<(usize, usize), String> {
    if width == 0 || height == 0 {
        return Err(format!("the header says {width} x {height} pixels, expected at least 1 x 1"));
    }
    let pixels = width.saturating_mul(height);
    if pixels > MAX_PIXELS {
        return Err(format!(
            "the header says {width} x {height} = {pixels} pixels, an image may have at most {MAX_PIXELS}"
        ));
    }
    if pixels > (bytes as u64).saturating_mul(per_byte) {
        return Err(format!(
            "the file is truncated or its header is wrong: {bytes} bytes cannot hold the {width} x {height} pixels it says"
        ));
    }
    Ok((width as usize, height as usize))
}
