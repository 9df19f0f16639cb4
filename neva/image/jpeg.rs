//! JPEG: baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK, to RGB bytes close to libjpeg's.
//!
//! The entropy decoding, the inverse DCT and the upsampling are zune-jpeg's, the colour conversion here is libjpeg's
//! arithmetic. Every decoder rounds the inverse DCT in its own way: a picture whose chroma is not subsampled differs
//! from libjpeg-turbo's (hence Pillow's) by a level or two, a subsampled one by a few at edges of colour.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Image, check_size};

/// A block of 64 pixels costs at least a bit; the oddest legal sampling factors halve the blocks of a picture.
const PIXELS_PER_BYTE: u64 = 64 * 8 * 2;

/// The picture in the bytes of a JPEG file. Stricter than libjpeg, which draws grey where the data are damaged.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    let [width, height] = walk(bytes)?;
    let (width, height) = check_size(width, height, bytes.len(), PIXELS_PER_BYTE)?;

    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(width).set_max_height(height);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    // Some of the decoder's errors end in a line break.
    let damaged = |error: DecodeErrors| format!("damaged JPEG: {}", error.to_string().trim_end());
    decoder.decode_headers().map_err(damaged)?;
    if decoder.dimensions() != Some((width, height)) {
        return Err("damaged JPEG: two different frame headers".into());
    }
    let space = decoder.input_colorspace().unwrap_or(ColorSpace::Unknown);
    let channels = match space {
        ColorSpace::Luma => 1,
        ColorSpace::YCbCr | ColorSpace::RGB => 3,
        ColorSpace::CMYK | ColorSpace::YCCK => 4,
        other => {
            return Err(format!("the JPEG's colours are {other:?}, expected grey, YCbCr, RGB, CMYK or YCCK"));
        }
    };
    // The components come as stored; what they mean in RGB is decided below.
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let mut stored = vec![0; width * height * channels];
    decoder.decode_into(&mut stored).map_err(damaged)?;

    let rgb = match space {
        ColorSpace::RGB => stored,
        ColorSpace::Luma => stored.into_iter().flat_map(|y| [y; 3]).collect(),
        ColorSpace::YCbCr => {
            for pixel in stored.chunks_exact_mut(3) {
                pixel.copy_from_slice(&ycc_to_rgb(pixel[0], pixel[1], pixel[2]));
            }
            stored
        }
        _ => stored
            .chunks_exact(4)
            .flat_map(|pixel| {
                // Four components are ink, stored inverted (Adobe's way, and assumed of every file): 255 is no ink.
                let inks = match space {
                    // The transform was taken of 255 - ink, and is undone to ink.
                    ColorSpace::YCCK => ycc_to_rgb(pixel[0], pixel[1], pixel[2]).map(|v| 255 - v),
                    _ => [pixel[0], pixel[1], pixel[2]],
                };
                inks.map(|paper| pixel[3] - divide_by_255(u32::from(255 - paper) * u32::from(pixel[3])))
            })
            .collect(),
    };
    Ok(Image { width, height, rgb })
}

/// `product / 255`, rounded, for products of two bytes.
fn divide_by_255(product: u32) -> u8 {
    let biased = product + 128;
    (((biased >> 8) + biased) >> 8) as u8
}

/// JFIF's colour conversion in 16-bit fixed point, the two chroma terms of green rounded together.
fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let fixed = |factor: f64| (factor * 65536.0 + 0.5) as i32;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((fixed(1.402) * cr + HALF) >> 16);
    let green = y + ((-fixed(0.344136286) * cb - fixed(0.714136286) * cr + HALF) >> 16);
    let blue = y + ((fixed(1.772) * cb + HALF) >> 16);
    [red, green, blue].map(|v| v.clamp(0, 255) as u8)
}

/// Walks the markers from the first byte to the end of the image: the frame's width and height, or why the file cannot
/// be one that we decode. Allocates nothing, and is what finds a file that was cut off.
fn walk(bytes: &[u8]) -> Result<[u64; 2], String> {
    let truncated = || "the file is truncated".to_string();
    let mut size = None;
    let mut at = 2;
    loop {
        // Next marker: 0xff, then a byte that is neither fill (0xff) nor stuffing (0) nor a restart.
        at += bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)).ok_or_else(truncated)?;
        let marker = *bytes.get(at + 1).ok_or_else(truncated)?;
        match marker {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            0xd9 => {
                return size.ok_or_else(|| "damaged JPEG: it ends without a frame header".into());
            }
            _ => {
                let segment = bytes.get(at + 2..).ok_or_else(truncated)?;
                let length = match segment {
                    [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
                    _ => return Err(truncated()),
                };
                let body = segment.get(2..length.max(2)).ok_or_else(truncated)?;
                match marker {
                    0xc0..=0xc2 => match body {
                        [8, h1, h0, w1, w0, ..] => {
                            size = Some([[*w1, *w0], [*h1, *h0]].map(|v| u16::from_be_bytes(v).into()));
                        }
                        [bits, ..] => return Err(format!("the JPEG has {bits}-bit samples, expected 8")),
                        [] => return Err("damaged JPEG: an empty frame header".into()),
                    },
                    // 0xc4, 0xc8 and 0xcc are no frames: Huffman tables, an extension, arithmetic tables.
                    0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                        return Err(format!(
                            "the JPEG is {}, expected baseline or progressive Huffman coding",
                            match marker {
                                0xc9..=0xcf => "arithmetic coded",
                                0xc3 => "lossless",
                                _ => "hierarchical",
                            }
                        ));
                    }
                    _ => {}
                }
                at += 2 + length.max(2);
            }
        }
    }
}
