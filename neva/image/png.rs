//! PNG: every colour type and bit depth, to the RGB bytes that Pillow's `convert("RGB")` gives.
//!
//! The rules that are Pillow's own: alpha and tRNS are dropped; 16-bit colour and grey with alpha keep the high byte, but
//! 16-bit grey alone is *clipped* at 255; a palette index past the palette is black.

use std::io::{Cursor, Write};

use ::png::{
    BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Limits, Reader, Transformations,
};

use super::{Image, check_size};

/// Deflate makes at most 1,032 bytes of one, and a byte holds at most 8 pixels.
const PIXELS_PER_BYTE: u64 = 1032 * 8;

/// What the decoder may allocate beyond a few rows: metadata that we do not read.
const LIMIT_BYTES: usize = 16 << 20;

/// The seven passes of an interlaced file: first column, column step, first row, row step.
const ADAM7: [[usize; 4]; 7] =
    [[0, 8, 0, 8], [4, 8, 0, 8], [0, 4, 4, 8], [2, 4, 0, 4], [0, 2, 2, 4], [1, 2, 0, 2], [0, 1, 1, 2]];

/// The picture in the bytes of a PNG file; of an animated one, its default image.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: LIMIT_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(describe)?;
    let interlaced = header.interlaced;
    let bits = header.bits_per_pixel() as u64;
    // Rows are at least a byte, so a bit count per pixel sharper than 8 pixels a byte is safe to ask for.
    let (width, height) =
        check_size(header.width.into(), header.height.into(), bytes.len(), PIXELS_PER_BYTE / bits)?;
    // A few rows: this one, the one above, and what the inflater holds ahead.
    decoder.set_limits(Limits { bytes: LIMIT_BYTES + 8 * (header_row_bytes(width, bits) + 1) });
    let mut reader = decoder.read_info().map_err(describe)?;
    let pixels = Pixels::new(&reader);

    let passes: &[[usize; 4]] = if interlaced { &ADAM7 } else { &[[0, 1, 0, 1]] };
    let mut rgb = vec![0; width * height * 3];
    for &[x0, dx, y0, dy] in passes {
        if x0 >= width {
            continue; // A pass without columns has no rows in the file either.
        }
        for y in (y0..height).step_by(dy) {
            let row = reader.next_row().map_err(describe)?.ok_or("the file is truncated")?;
            let target = &mut rgb[y * width * 3..][..width * 3];
            pixels.expand(row.data(), target.chunks_exact_mut(3).skip(x0).step_by(dx));
        }
    }
    reader.finish().map_err(describe)?;
    Ok(Image { width, height, rgb })
}

/// Writes `image` as an 8-bit RGB PNG.
pub(super) fn encode(image: &Image, out: impl Write) -> std::io::Result<()> {
    let (Ok(width), Ok(height)) = (u32::try_from(image.width), u32::try_from(image.height)) else {
        return Err(std::io::Error::other(format!(
            "{} x {} is too large for PNG",
            image.width, image.height
        )));
    };
    let mut encoder = Encoder::new(std::io::BufWriter::new(out), width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let write = || {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&image.rgb)?;
        writer.finish()
    };
    write().map_err(|error| match error {
        EncodingError::IoError(error) => error,
        other => std::io::Error::other(other),
    })
}

fn header_row_bytes(width: usize, bits: u64) -> usize {
    (width as u64 * bits).div_ceil(8) as usize
}

/// How the samples of a row become RGB.
struct Pixels {
    colour: ColorType,
    /// Bits of one sample: 1, 2, 4, 8 or 16.
    depth: usize,
    /// One colour per index, black where the file has none.
    palette: Box<[[u8; 3]; 256]>,
}

impl Pixels {
    fn new(reader: &Reader<Cursor<&[u8]>>) -> Self {
        let info = reader.info();
        let mut palette = Box::new([[0; 3]; 256]);
        if let Some(colours) = &info.palette {
            for (entry, colour) in palette.iter_mut().zip(colours.chunks_exact(3)) {
                entry.copy_from_slice(colour);
            }
        }
        Self { colour: info.color_type, depth: info.bit_depth as usize, palette }
    }

    /// Writes the pixels of `row` to `targets`, one RGB triple each.
    fn expand<'a>(&self, row: &[u8], targets: impl Iterator<Item = &'a mut [u8]>) {
        let bytes = self.depth / 8;
        match (self.colour, self.depth) {
            (ColorType::Grayscale | ColorType::Indexed, 1 | 2 | 4) => {
                let mask = (1u8 << self.depth) - 1;
                // 1, 2 or 4 bits of grey cover 0..=255: times 255, 85 or 17.
                let scale = 255 / mask;
                for (i, target) in targets.enumerate() {
                    let bit = i * self.depth;
                    let value = (row[bit / 8] >> (8 - self.depth - bit % 8)) & mask;
                    match self.colour {
                        ColorType::Indexed => target.copy_from_slice(&self.palette[value as usize]),
                        _ => target.fill(value * scale),
                    }
                }
            }
            (ColorType::Indexed, _) => {
                for (target, index) in targets.zip(row) {
                    target.copy_from_slice(&self.palette[*index as usize]);
                }
            }
            (ColorType::Grayscale, 16) => {
                for (target, sample) in targets.zip(row.chunks_exact(2)) {
                    target.fill(if sample[0] == 0 { sample[1] } else { 255 });
                }
            }
            (ColorType::Grayscale | ColorType::GrayscaleAlpha, _) => {
                for (target, pixel) in targets.zip(row.chunks_exact(self.colour.samples() * bytes)) {
                    target.fill(pixel[0]);
                }
            }
            (ColorType::Rgb | ColorType::Rgba, _) => {
                for (target, pixel) in targets.zip(row.chunks_exact(self.colour.samples() * bytes)) {
                    for (channel, sample) in target.iter_mut().zip(pixel.chunks_exact(bytes)) {
                        *channel = sample[0];
                    }
                }
            }
        }
    }
}

fn describe(error: DecodingError) -> String {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is truncated".into()
        }
        DecodingError::LimitsExceeded => format!("a chunk of the PNG is larger than {LIMIT_BYTES} bytes"),
        other => format!("damaged PNG: {other}"),
    }
}
