//! How the GPU kernels cut their work: the numbers that the `.cu` files are compiled with, and what follows from them.
//!
//! A program is compiled for one width of heads, with loops that are unrolled over it. Widths are the multiples of 32
//! (the swizzle of tiles needs that) up to 128, and 192 and 256; a head is padded with zeros to the next one. The models
//! that NeVA is for have heads of 64 and 128, for which nothing is padded, and no program exists that nobody runs.
//!
//! Per width, a row of a table says how many rows a warp and a tile have. They are bounded by the 255 registers of a
//! thread at 256 threads per multiprocessor (in none of the programs does a loop spill), and by shared memory: 99 KiB
//! per block is what the smallest of our architectures have (sm_89, sm_120).

use crate::DType;

/// Threads of a block of every kernel for bf16: 4 warps.
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
    ($(#[$doc:meta])* $table:ident: $type:ident { $($(#[$field_doc:meta])* $field:ident = $macro_name:literal,)* }
     $([$($value:literal),*],)*) => {
        $(#[$doc])*
        pub struct $type {
            $($(#[$field_doc])* pub $field: usize,)*
            /// The numbers as macros.
            pub defines: Defines,
        }
        tilings!(@table $table $type [$($field $macro_name),*] $([$($value),*])*);
        impl Tiling for $type {
            fn head_width(&self) -> usize {
                self.head_width
            }
            fn defines(&self) -> Defines {
                self.defines
            }
        }
    };
    (@table $table:ident $type:ident $fields:tt $($row:tt)*) => {
        /// By width.
        pub const $table: [$type; WIDTHS] = [$(tilings!(@row $type $fields $row)),*];
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
    /// not fit the registers. The ring has as many slots as leave room for two blocks in the 164 KiB of an A100.
    FORWARD: ForwardTiling {
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
    [256, 1, 64, 2],
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
    /// `attention_bwd.cu`. "kv" is the pass that makes dk and dv, "q" the one that makes dq.
    BACKWARD: BackwardTiling {
        /// Values of a head, padding included.
        head_width = "HEAD_WIDTH",
        /// kv: tiles of 16 keys in a warp.
        kv_key_tiles = "KV_KEY_TILES",
        /// kv: queries in a tile.
        kv_queries = "KV_QUERIES",
        /// kv: blocks that share the columns of dk and dv, which beyond 128 do not fit the registers of one.
        kv_parts = "KV_PARTS",
        /// q: tiles of 16 queries in a warp.
        q_query_tiles = "Q_QUERY_TILES",
        /// q: keys in a tile.
        q_keys = "Q_KEYS",
    }
    [32, 2, 32, 1, 2, 64],
    [64, 2, 32, 1, 2, 64],
    [96, 1, 32, 1, 2, 32],
    [128, 1, 32, 1, 2, 32],
    [192, 1, 32, 2, 1, 32],
    [256, 1, 16, 2, 1, 16],
}

impl BackwardTiling {
    /// Keys in a block of the kv pass.
    pub fn kv_keys(&self) -> usize {
        self.kv_key_tiles * 16 * WARPS
    }

    /// Queries in a block of the q pass.
    pub fn q_queries(&self) -> usize {
        self.q_query_tiles * 16 * WARPS
    }

    /// Shared memory of a block of the kv pass and of one of the q pass: two tiles of its own rows, and twice, for the
    /// turn that runs and the next one, two tiles of the others; in the kv pass with two f32 per query.
    pub fn shared_bytes(&self) -> (usize, usize) {
        let bytes = |own, others| tile_bytes(2 * own + 4 * others, self.head_width);
        let rows_of_scores = 2 * self.kv_queries * 2 * DType::F32.size();
        (bytes(self.kv_keys(), self.kv_queries) + rows_of_scores, bytes(self.q_queries(), self.q_keys))
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

    /// What a block may have on the architectures that have least.
    const LEAST_SHARED_BYTES: usize = 99 << 10;

    #[test]
    fn every_width_finds_a_program_that_fits_every_architecture() {
        for head_dim in (8..=256).step_by(8) {
            let (forward, backward) = (tiling(&FORWARD, head_dim), tiling(&BACKWARD, head_dim));
            assert!(forward.head_width >= head_dim && backward.head_width == forward.head_width);
            let (kv, q) = backward.shared_bytes();
            let exact = Exact::new(head_dim).backward_bytes(head_dim);
            let most = forward.cached_bytes().max(kv).max(q).max(exact);
            assert!(most <= LEAST_SHARED_BYTES, "head_dim {head_dim}: {most} bytes");
        }
    }

    #[test]
    fn macros_are_the_numbers() {
        let defines = tiling(&BACKWARD, 200).defines;
        assert_eq!(defines[0], ("HEAD_WIDTH", "256"));
        assert_eq!(defines[3], ("KV_PARTS", "2"));
    }
}
