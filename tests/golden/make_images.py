"""Writes images.safetensors: what Pillow and transformers make of synthetic pictures. Read by tests/images.rs.

    python tests/golden/make_images.py        # needs pillow 13.0.0, transformers 5.23.0, numpy, safetensors

png/*/file, jpeg/*/file   the bytes of an image file;   */rgb   Pillow's convert("RGB") of it, [H, W, 3]
resize/WxH-wxh            the synthetic picture W x H resized to w x h with BICUBIC, [h, w, 3]
preprocess/MODE-S-WxH     pixel_values of the image processor (PIL backend) of the picture W x H, [3, S, S] f32
checksum/MODE-S-WxH       CRC-32 of the bytes of the same, where they are many, [1] u32
"""

import io
import pathlib
import struct
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image
from safetensors.numpy import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

assert (PIL.__version__, transformers.__version__) == ("13.0.0", "5.23.0")
ADAM7 = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]


def noise(count):
    """`count` bytes of a linear congruential generator; tests/images.rs has the same."""
    state, out = 1, np.empty(count, np.uint8)
    for i in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out[i] = state >> 24
    return out


def picture(width, height):
    """Noise on the left, black or white (which makes a cubic overshoot) on the right."""
    rgb = noise(width * height * 3).reshape(height, width, 3)
    rgb[:, width // 2 :] = np.where(rgb[:, width // 2 :] < 128, 0, 255)
    return rgb


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth, colour, interlaced=False, palette=b"", transparency=b""):
    """A PNG of samples [H, W, channels]; Pillow writes neither interlaced files nor most depths."""
    height, width, _ = samples.shape
    raw = b""
    for x0, dx, y0, dy in ADAM7 if interlaced else [(0, 1, 0, 1)]:
        part = samples[y0::dy, x0::dx]
        for row in part if part.shape[1] else []:
            bits = "".join(f"{value:0{depth}b}" for value in row.reshape(-1))
            bits += "0" * (-len(bits) % 8)
            raw += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header)
    body += chunk(b"PLTE", palette) if palette else b""
    body += chunk(b"tRNS", transparency) if transparency else b""
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def bytes_of(data):
    return np.frombuffer(data, np.uint8)


golden = {}


def decoded(name, data):
    golden[f"{name}/file"] = bytes_of(data)
    golden[f"{name}/rgb"] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# PNG: every colour type and depth, plain and interlaced, transparency of each kind.
for colour, channels, name, depths in [
    (0, 1, "grey", (1, 2, 4, 8, 16)),
    (2, 3, "rgb", (8, 16)),
    (3, 1, "palette", (1, 2, 4, 8)),
    (4, 2, "grey_alpha", (8, 16)),
    (6, 4, "rgba", (8, 16)),
]:
    for depth in depths:
        for width, height, interlaced in [(13, 9, False), (13, 9, True), (3, 2, True), (1, 1, False)]:
            wide = noise(width * height * channels * 2).astype(np.uint32)
            samples = (wide[0::2] * 256 + wide[1::2]).reshape(height, width, channels) >> (16 - depth)
            if colour == 0 and depth == 16:
                samples[:, ::2] >>= 8  # some of the values that fit a byte
            colours = 3 * min(2**depth, 200)  # of 256 indices, 56 lie past the palette
            palette = noise(colours).tobytes() if colour == 3 else b""
            kind = "interlaced" if interlaced else "plain"
            decoded(f"png/{name}_{depth}_{kind}_{width}x{height}", png(samples, depth, colour, interlaced, palette))
grey = noise(40).reshape(5, 8, 1).astype(np.uint32)
rgb = noise(120).reshape(5, 8, 3).astype(np.uint32)
decoded("png/grey_8_transparent", png(grey, 8, 0, transparency=struct.pack(">H", int(grey[0, 0, 0]))))
decoded("png/rgb_8_transparent", png(rgb, 8, 2, transparency=struct.pack(">3H", *map(int, rgb[0, 0]))))
decoded("png/palette_8_transparent", png(grey, 8, 3, palette=noise(768).tobytes(), transparency=b"\0\x80\xff"))

# JPEG: smooth colours with one sharp shape.
y, x = np.mgrid[0:45, 0:61]
smooth = np.stack([x * 4, y * 5, 255 - x * 2 - y], -1).clip(0, 255).astype(np.uint8)
smooth[10:30, 20:40] = (200, 30, 40)
photo = Image.fromarray(smooth)


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


decoded("jpeg/grey", jpeg(photo.convert("L")))
decoded("jpeg/grey_progressive", jpeg(photo.convert("L"), progressive=True))
for subsampling, name in [(0, "444"), (1, "422"), (2, "420")]:
    decoded(f"jpeg/{name}", jpeg(photo, subsampling=subsampling))
    decoded(f"jpeg/{name}_progressive", jpeg(photo, subsampling=subsampling, progressive=True))
decoded("jpeg/420_restarts", jpeg(photo, subsampling=2, restart_marker_blocks=3))
decoded("jpeg/444_narrow", jpeg(photo.crop((0, 0, 7, 45)), subsampling=0))
decoded("jpeg/444_one_pixel", jpeg(photo.crop((30, 20, 31, 21)), subsampling=0))
decoded("jpeg/rgb", jpeg(photo, subsampling=0, keep_rgb=True))
cmyk = jpeg(photo.convert("CMYK"))
decoded("jpeg/cmyk", cmyk)
# Adobe's marker says how four components are transformed: 0 CMYK, 2 YCCK. Pillow writes the former only.
transform = cmyk.index(b"Adobe\0") + 11
assert cmyk[transform] == 0
decoded("jpeg/ycck", cmyk[:transform] + b"\x02" + cmyk[transform + 1 :])

for source, target in [
    ((37, 23), (16, 16)),
    ((5, 7), (19, 31)),
    ((1, 1), (7, 5)),
    ((200, 3), (8, 8)),
    ((3, 200), (8, 8)),
    ((97, 64), (33, 64)),
    ((64, 97), (64, 33)),
    ((31, 29), (31, 29)),
    ((320, 241), (24, 18)),
    ((2, 2), (40, 41)),
    ((300, 1), (11, 10)),
    ((48, 48), (47, 49)),
    # The last picture that is resized horizontally first, and the first that is not.
    ((60, 90), (20, 10)),
    ((60, 90), (20, 9)),
    ((9, 60), (20, 59)),
]:
    resized = Image.fromarray(picture(*source)).resize(target, Image.Resampling.BICUBIC)
    golden["resize/{}x{}-{}x{}".format(*source, *target)] = np.asarray(resized)


def preprocessed(mode, size, width, height):
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    if mode == "pad":
        processor = LlavaImageProcessorPil(do_pad=True, **options)
    else:
        processor = CLIPImageProcessorPil(do_center_crop=mode == "square", **options)
    return processor(Image.fromarray(picture(width, height)), return_tensors="np")["pixel_values"][0]


for case in [
    ("square", 16, 40, 30),
    ("square", 16, 31, 50),
    ("square", 17, 17, 17),
    ("square", 16, 3, 200),
    ("square", 16, 200, 1),
    ("square", 16, 5, 4),
    ("pad", 16, 50, 17),
    ("pad", 16, 17, 50),
    ("pad", 16, 24, 24),
    ("pad", 17, 40, 39),
    ("keep", 16, 33, 33),
    ("keep", 16, 100, 99),
]:
    golden["preprocess/{}-{}-{}x{}".format(*case)] = preprocessed(*case)
for case in [("square", 224, 640, 427), ("square", 336, 333, 500), ("pad", 336, 640, 427), ("square", 224, 100, 75)]:
    pixels = preprocessed(*case)
    assert pixels.dtype == np.float32
    golden["checksum/{}-{}-{}x{}".format(*case)] = np.array([zlib.crc32(pixels.tobytes())], np.uint32)

save_file({name: np.ascontiguousarray(value) for name, value in golden.items()},
          pathlib.Path(__file__).with_name("images.safetensors"))
