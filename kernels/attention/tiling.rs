//! How the GPU kernels cut their work: the numbers that the `.cu` files are compiled with, and what follows from them.
//!
//! A program is compiled for one width of heads, with loops that are unrolled over it. Widths are the multiples of 32
//! (the swizzle of tiles needs that) up to 128, and 192 and 256; a head is padded with zeros to the next one. The models
//! that NeVA is for have heads of 64 and 128, for which nothing is padded, and no program exists that nobody runs.
//!
//! Per width, a row of a table says how many rows a warp and a tile have. They are bounded by the 255 registers of a
//! thread at 256 threads per multiprocessor (nothing spills), and by shared memory: a block may have 227 KiB on sm_90a
//! and sm_100a, 163 on sm_80, 99 on sm_89 and sm_120. Forward fits 99 KiB everywhere; backward, whose tiles are the
//! faster the larger they are, has two programs for each width, one for 163 KiB and one for 99.

use crate::DType;

/// Threads of a block of the forward kernels for bf16: 4 warps.
pub const THREADS: u32 = 128;
/// How many widths there are.
pub const WIDTHS: usize = 6;
const WARPS: usize = THREADS as usize / 32;
/// The most values of a head that `infer` allows.
const MOST_VALUES: usize = 256;

pub use crate::device::program::Defines;

/// A program for one width of heads.
pub trait Tiling: 'static {
    /// Values of a head, padding included.
    fn head_width(&self) -> usize;
    /// Its macros.
    fn defines(&self) -> Defines;
}

/// The row of `table` with these macros.
pub fn with_defines<T: Tiling>(table: &'static [T], defines: Defines) -> &'static T {
    table.iter().find(|t| t.defines() == defines).expect("programs are made from rows of the table")
}

/// The program of `table`, in order of width, for heads of `head_dim` values.
pub fn tiling<T: Tiling>(table: &'static [T], head_dim: usize) -> &'static T {
    let fits = table.iter().find(|t| t.head_width() >= head_dim);
    fits.expect("the last width is the largest that infer allows")
}

/// Bytes of `rows` rows of bf16.
fn tile_bytes(rows: usize, head_width: usize) -> usize {
    rows * head_width * DType::Bf16.size()
}

/// Declares a type with these fields and a table of it, where each row's numbers are also macros of the program.
macro_rules! tilings {
    ($(#[$doc:meta])* $table:ident: [$type:ident; $count:expr] { $($(#[$field_doc:meta])* $field:ident = $macro_name:literal,)* }
     $([$($value:literal),*],)*) => {
        $(#[$doc])*
        pub struct $type {
            $($(#[$field_doc])* pub $field: usize,)*
            /// The numbers as macros.
            pub defines: Defines,
        }
        tilings!(@table $table $type $count, [$($field $macro_name),*] $([$($value),*])*);
        impl Tiling for $type {
            fn head_width(&self) -> usize {
                self.head_width
            }
            fn defines(&self) -> Defines {
                self.defines
            }
        }
    };
    (@table $table:ident $type:ident $count:expr, $fields:tt $($row:tt)*) => {
        /// By width.
        pub const $table: [$type; $count] = [$(tilings!(@row $type $fields $row)),*];
    };
    (@row $type:ident [$($field:ident $macro_name:literal),*] [$($value:literal),*]) => {
        $type { $($field: $value,)* defines: &[$(($macro_name, stringify!($value))),*] }
    };
}

tilings! {
    /// `attention_fwd.cu`, and the part of `cached_attention.cu` for many rows.
    ///
    /// With 32 queries to a warp, each fragment of keys and values that it loads serves two products; with 16, shared
    /// memory (128 bytes per clock) could not feed an H100's tensor cores. Beyond 128 values the result of 32 queries does
    /// not fit the registers, at 256 the scores of 64 keys do not fit beside that of 16. The ring has as many slots as
    /// leave room for two blocks in the 164 KiB of an A100.
    FORWARD: [ForwardTiling; WIDTHS] {
        /// Values of a head, padding included.
        head_width = "HEAD_WIDTH",
        /// Tiles of 16 queries in a warp.
        query_tiles = "QUERY_TILES",
        /// Keys in a tile.
        keys = "KEYS",
        /// Tiles of keys or values in the ring.
        slots = "SLOTS",
    }
    [32, 2, 64, 4],
    [64, 2, 64, 4],
    [96, 2, 64, 3],
    [128, 2, 64, 3],
    [192, 1, 64, 2],
    [256, 1, 32, 4],
}

impl ForwardTiling {
    /// Queries in a block.
    pub fn queries(&self) -> usize {
        self.query_tiles * 16 * WARPS
    }

    /// Shared memory of a block: queries, ring.
    pub fn shared_bytes(&self) -> usize {
        tile_bytes(self.queries() + self.slots * self.keys, self.head_width)
    }

    /// The same for rows of a cache, with the slot of each row and how many keys it sees.
    pub fn cached_bytes(&self) -> usize {
        self.shared_bytes() + self.queries() * 2 * DType::U32.size()
    }
}

tilings! {
    /// `attention_bwd.cu`. A block has a tile of keys and goes over tiles of queries; of each pair of tiles, a warp makes
    /// the scores of some keys and some queries.
    ///
    /// With 32 keys to a warp and 32 queries or more, a fragment serves two products or four. Each width has a program
    /// for 163 KiB of shared memory and, behind it, one for 99.
    BACKWARD: [BackwardTiling; 2 * WIDTHS] {
        /// Values of a head, padding included.
        head_width = "HEAD_WIDTH",
        /// Groups of warps, by the keys of their scores.
        key_groups = "KEY_GROUPS",
        /// Groups of warps, by the queries of their scores, and by the columns of dk and dv.
        query_groups = "QUERY_GROUPS",
        /// Tiles of 16 keys in a warp.
        key_tiles = "KEY_TILES",
        /// Tiles of 16 queries in a warp.
        query_tiles = "QUERY_TILES",
        /// Groups of warps, by the queries whose dq they make; the others share its columns.
        dq_groups = "DQ_GROUPS",
        /// Tiles of queries in shared memory: one, or the next one too.
        stages = "STAGES",
    }
    [32, 4, 2, 2, 4, 4, 2],
    [32, 4, 2, 2, 2, 4, 2],
    [64, 4, 2, 2, 4, 4, 2],
    [64, 4, 2, 2, 2, 4, 2],
    [96, 4, 2, 2, 2, 4, 2],
    [96, 4, 2, 1, 2, 4, 2],
    [128, 4, 2, 2, 2, 2, 2],
    [128, 4, 2, 1, 1, 2, 2],
    [192, 2, 4, 2, 1, 2, 2],
    [192, 4, 2, 1, 1, 2, 1],
    [256, 2, 4, 2, 1, 2, 1],
    [256, 2, 2, 1, 1, 2, 1],
}

/// What a block of `attention_bwd.cu` declares itself.
const STATIC_BYTES: usize = 32;

// Matrix instructions load 16 rows or columns.
const _: () = {
    let mut i = 0;
    while i < BACKWARD.len() {
        let t = &BACKWARD[i];
        let dq_queries = t.query_groups * t.query_tiles * 16 / t.dq_groups;
        let dq_columns = t.head_width * t.dq_groups / (t.key_groups * t.query_groups);
        let columns = t.head_width / t.query_groups;
        assert!(dq_queries.is_multiple_of(16) && dq_columns.is_multiple_of(16) && columns.is_multiple_of(16));
        i += 1;
    }
};

impl BackwardTiling {
    /// The program for heads of `head_dim` values where a block may have `shared_bytes` bytes of shared memory.
    pub fn of(head_dim: usize, shared_bytes: usize) -> &'static Self {
        let fits = |t: &&Self| t.head_width >= head_dim && t.shared_bytes() + STATIC_BYTES <= shared_bytes;
        BACKWARD.iter().find(fits).expect("the last program is for the least shared memory that there is")
    }

    fn warps(&self) -> usize {
        self.key_groups * self.query_groups
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.warps() as u32 * 32
    }

    /// Keys in a block.
    pub fn keys(&self) -> usize {
        self.key_groups * self.key_tiles * 16
    }

    /// Queries in a tile.
    pub fn queries(&self) -> usize {
        self.query_groups * self.query_tiles * 16
    }

    /// Dynamic shared memory of a block: keys and values, tiles of q and dout, p and ds of one pair of tiles, and two
    /// f32 per query.
    pub fn shared_bytes(&self) -> usize {
        let rows_of_scores = self.stages * self.queries() * 2 * DType::F32.size();
        tile_bytes(2 * self.keys() + 2 * self.stages * self.queries(), self.head_width)
            + 2 * tile_bytes(self.keys(), self.queries())
            + rows_of_scores
    }

    /// Queries in a block of the kernel that turns the sums of dq into dqkv: 16 to a warp.
    pub fn summed_queries(&self) -> usize {
        16 * self.warps()
    }

    /// Shared memory of such a block.
    pub fn summed_bytes(&self) -> usize {
        tile_bytes(self.summed_queries(), self.head_width)
    }
}

/// How `attention_f32.cu` cuts its work.
pub struct Exact {
    /// Rows of a tile.
    pub rows: usize,
    /// The same as a macro.
    pub defines: Defines,
}

impl Exact {
    /// The widest heads for which backward's tiles of 32 rows fit 99 KiB.
    pub const WIDEST_OF_LARGE_TILES: usize = 128;

    /// For heads of `head_dim` values.
    pub const fn new(head_dim: usize) -> Self {
        match head_dim {
            ..=Self::WIDEST_OF_LARGE_TILES => Exact { rows: 32, defines: &[("TILE", "32")] },
            _ => Exact { rows: 16, defines: &[("TILE", "16")] },
        }
    }

    /// The most shared memory of a block, forward and backward, of the program with these macros.
    pub fn most_bytes(defines: Defines) -> (usize, usize) {
        let widths = [Self::WIDEST_OF_LARGE_TILES, MOST_VALUES];
        let of = |width: &usize| Exact::new(*width).defines == defines;
        let width = *widths.iter().find(|width| of(width)).expect("programs are made for these widths");
        (Exact::new(width).forward_bytes(width), Exact::new(width).backward_bytes(width))
    }

    /// Threads of a block: eight to a row.
    pub fn threads(&self) -> u32 {
        self.rows as u32 * 8
    }

    /// Shared memory of `tiles` tiles of rows and `weights` tiles of weights, all padded.
    fn bytes(&self, head_dim: usize, tiles: usize, weights: usize) -> usize {
        (tiles * self.rows * (head_dim + 4) + weights * self.rows * (self.rows + 8)) * DType::F32.size()
    }

    /// Shared memory of a block of the forward pass.
    pub fn forward_bytes(&self, head_dim: usize) -> usize {
        self.bytes(head_dim, 2, 1)
    }

    /// Shared memory of a block of either backward pass.
    pub fn backward_bytes(&self, head_dim: usize) -> usize {
        self.bytes(head_dim, 4, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a block may have: on sm_89 and sm_120, on sm_80.
    const SHARED_BYTES: [usize; 2] = [99 << 10, 163 << 10];

    #[test]
    fn every_width_finds_a_program_that_fits_every_architecture() {
        for head_dim in (8..=256).step_by(8) {
            let forward = tiling(&FORWARD, head_dim);
            assert!(forward.head_width >= head_dim);
            let exact = Exact::new(head_dim).backward_bytes(head_dim);
            assert!(forward.cached_bytes().max(exact) <= SHARED_BYTES[0], "head_dim {head_dim}");
            for (large, shared_bytes) in SHARED_BYTES.into_iter().enumerate() {
                let backward = BackwardTiling::of(head_dim, shared_bytes);
                assert_eq!(backward.head_width, forward.head_width, "{shared_bytes} bytes");
                let small = BackwardTiling::of(head_dim, SHARED_BYTES[0]);
                assert_eq!(large == 1, backward.shared_bytes() > small.shared_bytes(), "head_dim {head_dim}");
            }
        }
    }

    #[test]
    fn macros_are_the_numbers() {
        let defines = BackwardTiling::of(200, SHARED_BYTES[1]).defines;
        assert_eq!(defines[0], ("HEAD_WIDTH", "256"));
        assert_eq!(defines[6], ("STAGES", "1"));
    }
}
