//! Cuts images into square patches, one per row, so that the stem of a ViT is a matrix product.
//!
//! Row (b, i, j) of y holds the pixels of patch (i, j) of image b, row-major over patches; within a row they lie as
//! a convolution's weight [D, C, p, p] flattens: channel, then line, then column. So
//! `conv2d(pixels, weight, stride = p) = y weight^T`. Dosovitskiy et al., *An Image is Worth 16x16 Words* (2020),
//! equation 1. As in such a convolution, lines and columns beyond the last whole patch are left out.
//! Backward is the inverse, zero where no patch reaches.
//!
//! | | shape | type |
//! |---|---|---|
//! | pixels | [B, C, H, W] | T |
//! | y | [B * (H / p) * (W / p), C * p * p] | T |
//!
//! Exact; no flops. Errors: not four dimensions, or an image smaller than a patch.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Op, Run, Shapes, check, float, take};
use crate::{Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Patchify {
    /// Side of a patch, in pixels.
    pub patch: usize,
}

impl Patchify {
    /// The image dimensions behind a checked spec.
    fn grid(&self, pixels: Spec) -> cpu::Grid {
        let &[_, channels, height, width] = pixels.dims() else { unreachable!("infer checked the rank") };
        cpu::Grid { channels, height, width, patch: self.patch }
    }
}

impl Op for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [pixels] = take(self.name(), ins)?;
        float(self.name(), pixels)?;
        let p = self.patch;
        let fits = match pixels.dims() {
            [_, c, h, w] => p > 0 && *c > 0 && *h >= p && *w >= p,
            _ => false,
        };
        check(self.name(), fits, || format!("takes pixels [B, C, H, W] of at least {p}x{p}, got {pixels}"))?;
        let grid = self.grid(pixels);
        let rows = pixels.dims()[0] * grid.down() * grid.across();
        Ok(Shapes::new([pixels.with_dims([rows, grid.channels * p * p])]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let pixels = io.input(0);
        let mut y = io.output(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, self.grid(pixels.spec()), pixels, &mut y)?;
            return Ok(Made::outs([y]));
        }
        on_cpu!(io.device(), self.name(), pixels.dtype(), T => {
            cpu::forward::<T>(self.grid(pixels.spec()), pixels.slice(), y.slice_mut())
        });
        Ok(Made::outs([y]))
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let pixels = io.spec(0);
        let mut dx = io.alloc(pixels)?;
        let dy = io.dy();
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::backward(gpu, self.grid(pixels), dy, &mut dx)?;
            return io.give(0, dx);
        }
        on_cpu!(io.device(), self.name(), pixels.dtype, T => {
            cpu::backward::<T>(self.grid(pixels), dy.slice(), dx.slice_mut())
        });
        io.give(0, dx)
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: 0, bytes: 2 * ins[0].bytes() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "patchify",
    summary: "rows of pixels, one per image patch",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, patch: usize, dims: [usize; 4]| {
            Case::check(name, Patchify { patch }, [Input::normal(dims)])
        };
        vec![
            case("2x3 patches", 2, [2, 3, 4, 6]),
            case("one patch", 3, [1, 2, 3, 3]),
            case("cut edges", 3, [1, 1, 7, 8]),
            Case::parity("patch 14, cut edges", Patchify { patch: 14 }, [Input::normal([3, 3, 112, 117])]),
            Case::parity("patch 16, whole", Patchify { patch: 16 }, [Input::normal([2, 3, 48, 64])]),
            Case::parity("patch 4, cut edges", Patchify { patch: 4 }, [Input::normal([2, 2, 11, 16])]),
            Case::bench("8 x 336x336", Patchify { patch: 14 }, [Input::normal([8, 3, 336, 336])]),
        ]
    },
};
