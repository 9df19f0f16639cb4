//! Copies that do not wait, and what orders those who write memory and those who read it: barriers within a block,
//! turns between blocks.

use super::{Finding, Launch, Run, TRANSFERS, UNWRITTEN, equal};
use crate::device::gpu::Grid;
use crate::device::tensor_map::{Swizzle, TensorMap};
use crate::dtype::bf16;
use crate::{Buffer, Result, Role};

const THREADS: usize = 128;

fn one_block() -> Grid {
    Grid::linear(1, THREADS as u32)
}

/// The first `bytes` bytes of four words, the others 0.
fn head(words: &[u32], bytes: u32) -> Vec<u32> {
    let kept = |i: u32| bytes.saturating_sub(4 * i).min(4);
    (0..).zip(words).map(|(i, word)| word & ((1u64 << (8 * kept(i))) - 1) as u32).collect()
}

/// cp.async.cg with a source of 0 to 16 bytes: the rest of the 16 becomes 0; wait_group N leaves the newest N out.
pub(super) fn cp_async(run: &mut Run) -> Result<Finding> {
    let data = run.words(3 * THREADS * 4);
    let bytes: Vec<u32> = (0..3 * THREADS as u32).map(|i| if i < 17 { i } else { run.below(17) }).collect();
    let got = run.wrapper("cp_async", one_block(), &[&bytes[..], &data].concat(), 4 * THREADS * 4)?;
    let copied: Vec<Vec<u32>> = data.chunks(4).zip(&bytes).map(|(words, b)| head(words, *b)).collect();
    let others = (0..THREADS).map(|thread| &copied[2 * THREADS + (thread ^ 64)]);
    let expected: Vec<u32> = copied.iter().chain(others).flatten().copied().collect();
    Ok(equal(&got, &expected, |i| {
        let copy = i / 4;
        format!("group {}, thread {}, word {}", (copy / THREADS).min(2), copy % THREADS, i % 4)
    }))
}

/// ld.acquire and st.release at the scope of the device: blocks go over the same words one after the other.
pub(super) fn turns(run: &mut Run) -> Result<Finding> {
    const BLOCKS: usize = 200; // more than run side by side
    let values = run.words(BLOCKS * THREADS);
    let grid = Grid::linear(BLOCKS as u32, THREADS as u32);
    let got = run.wrapper("turns", grid, &[&[0, 0], &values[..]].concat(), THREADS)?;
    let moved_on = |words: Vec<u32>, own: &[u32]| -> Vec<u32> {
        (0..THREADS).map(|i| words[(i + 1) % THREADS].wrapping_add(own[i])).collect()
    };
    let expected = values.chunks(THREADS).fold(vec![0; THREADS], moved_on);
    Ok(equal(&got, &expected, |i| format!("word {i}")))
}

/// red.add.v4.f32: four floats each, of sums that are exact in any order.
pub(super) fn reduce_add_4(run: &mut Run) -> Result<Finding> {
    const ROUNDS: usize = 8;
    let places: Vec<u32> = (0..ROUNDS * THREADS).map(|_| run.below(32)).collect();
    let values: Vec<f32> = (0..ROUNDS * THREADS * 4).map(|_| run.below(2001) as f32 - 1000.0).collect();
    let input: Vec<u32> = places.iter().copied().chain(values.iter().map(|v| v.to_bits())).collect();
    let entry = "conformance_reduce_add_4";
    let launch = Launch { source: &TRANSFERS, entry, grid: one_block(), map: None };
    let got = run.launch(launch, &input, 32 * 4)?;
    let mut sums = [0.0f32; 32 * 4];
    for (place, added) in places.iter().zip(values.chunks(4)) {
        for (sum, value) in sums[*place as usize * 4..].iter_mut().zip(added) {
            *sum += value;
        }
    }
    // -0.0 + 0.0 is 0.0: no sum has a sign that depends on the order.
    let expected: Vec<u32> = sums.iter().map(|sum| sum.to_bits()).collect();
    Ok(equal(&got, &expected, |i| format!("quadruple {}, value {}", i / 4, i % 4)))
}

/// Eight rounds of 64 values, each read in the reverse order.
fn handed_over(run: &mut Run, launch: impl Fn(&Run, &[u32]) -> Result<Vec<u32>>) -> Result<Finding> {
    let values = run.words(8 * 64);
    let got = launch(run, &values)?;
    let expected: Vec<u32> = values.chunks(64).flat_map(|round| round.iter().rev().copied()).collect();
    Ok(equal(&got, &expected, |i| format!("round {}, value {}", i / 64, i % 64)))
}

/// bar.sync and bar.arrive with a number of threads.
pub(super) fn named_barriers(run: &mut Run) -> Result<Finding> {
    handed_over(run, |run, values| run.wrapper("named_barriers", one_block(), values, 8 * 64))
}

/// mbarrier.init, arrive and try_wait.parity, over several phases.
pub(super) fn mbarrier(run: &mut Run) -> Result<Finding> {
    handed_over(run, |run, values| {
        let entry = "conformance_mbarrier";
        run.launch(Launch { source: &TRANSFERS, entry, grid: one_block(), map: None }, values, 8 * 64)
    })
}

/// A tile that a test moves: its rows and columns of bf16, and how it lies in shared memory.
struct Tile {
    rows: usize,
    columns: usize,
    swizzle: Swizzle,
}

const TILES: [Tile; 3] = [
    Tile { rows: 16, columns: 64, swizzle: Swizzle::Bytes128 },
    Tile { rows: 8, columns: 24, swizzle: Swizzle::None },
    Tile { rows: 1, columns: 256, swizzle: Swizzle::None },
];

/// The tensor's rows and columns: rows of 144 bytes, so not all of them begin at multiples of 128.
const TENSOR: [usize; 2] = [37, 72];

impl Tile {
    fn bytes(&self) -> usize {
        self.rows * self.columns * 2
    }

    fn dims(&self) -> [u32; 2] {
        [self.rows as u32, self.columns as u32]
    }

    fn grid(&self) -> Grid {
        Grid { shared_bytes: self.bytes() as u32, ..one_block() }
    }

    /// Which 16-bit element of shared memory an element of the tile is: within a row, 16-byte pieces change places
    /// with the three bits of the address above those of the row.
    fn place(&self, row: usize, column: usize) -> usize {
        let (piece, within) = (column / 8, column % 8);
        let piece = match self.swizzle {
            Swizzle::None => piece,
            Swizzle::Bytes128 => piece ^ (row % 8),
        };
        row * self.columns + piece * 8 + within
    }

    /// The tensor's element that an element of the tile at (x, y) is, if there is one.
    fn source(&self, x: i32, y: i32, row: usize, column: usize) -> Option<usize> {
        let row = usize::try_from(y + row as i32).ok().filter(|r| *r < TENSOR[0])?;
        let column = usize::try_from(x + column as i32).ok().filter(|c| *c < TENSOR[1])?;
        Some(row * TENSOR[1] + column)
    }
}

/// 16-bit elements of words, and back.
fn halves(words: &[u32]) -> Vec<u16> {
    words.iter().flat_map(|w| [*w as u16, (w >> 16) as u16]).collect()
}
fn words(halves: &[u16]) -> Vec<u32> {
    halves.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect()
}

fn tensor(run: &Run, elements: &[u16]) -> Result<Buffer> {
    let values: Vec<bf16> = elements.iter().map(|bits| bf16::from_bits(*bits)).collect();
    Buffer::from_slice(run.device, TENSOR, &values, Role::Workspace)
}

/// cp.async.bulk.tensor of two dimensions to shared memory, with tiles that lie within the tensor, on its edges and
/// beside it: what is not in the tensor becomes 0, and counts as copied.
pub(super) fn tma_loads(run: &mut Run) -> Result<Finding> {
    let elements = halves(&run.words(TENSOR[0] * TENSOR[1] / 2));
    let matrix = tensor(run, &elements)?;
    let positions = [(0, 0), (8, 5), (3, 1), (-5, 0), (0, -3), (50, 30), (71, 36), (72, 0), (-256, 40)];
    for tile in TILES {
        let map = TensorMap::read(run.gpu, &matrix, tile.dims(), tile.swizzle)?;
        for (x, y) in positions {
            let input = [x as u32, y as u32, tile.bytes() as u32];
            let entry = "conformance_tma_load_2d";
            let launch = Launch { source: &TRANSFERS, entry, grid: tile.grid(), map: Some(map) };
            let got = run.launch(launch, &input, tile.bytes() / 4)?;
            let mut expected = vec![0; tile.rows * tile.columns];
            for (row, column) in (0..tile.rows).flat_map(|r| (0..tile.columns).map(move |c| (r, c))) {
                let source = tile.source(x, y, row, column);
                expected[tile.place(row, column)] = source.map_or(0, |i| elements[i]);
            }
            let place = |i| format!("tile {:?} at ({x}, {y}), word {i}", tile.dims());
            if let wrong @ Err(_) = equal(&got, &words(&expected), place) {
                return Ok(wrong);
            }
        }
    }
    Ok(Ok(()))
}

/// cp.async.bulk.tensor of two dimensions to global memory: what is not in the tensor goes nowhere.
pub(super) fn tma_stores(run: &mut Run) -> Result<Finding> {
    let untouched = halves(&vec![UNWRITTEN; TENSOR[0] * TENSOR[1] / 2]);
    for tile in TILES {
        // Two tiles of one launch that do not meet.
        for [first, second] in
            [[(0, 0), (8, 16)], [(-3, 5), (70, 25)], [(1, -2), (40, 30)], [(5, 36), (72, 0)]]
        {
            let mut matrix = tensor(run, &untouched)?;
            let tiles = [halves(&run.words(tile.bytes() / 4)), halves(&run.words(tile.bytes() / 4))];
            let mut input = vec![tile.bytes() as u32];
            input.extend([first.0, first.1, second.0, second.1].map(|v: i32| v as u32));
            input.extend(tiles.iter().flat_map(|t| words(t)));
            let map = TensorMap::write(run.gpu, &mut matrix, tile.dims(), tile.swizzle)?;
            let entry = "conformance_tma_store_2d";
            let launch = Launch { source: &TRANSFERS, entry, grid: tile.grid(), map: Some(map) };
            run.launch_for_effect(launch, &input)?;
            let mut expected = untouched.clone();
            for ((x, y), elements) in [first, second].into_iter().zip(&tiles) {
                for (row, column) in (0..tile.rows).flat_map(|r| (0..tile.columns).map(move |c| (r, c))) {
                    if let Some(to) = tile.source(x, y, row, column) {
                        expected[to] = elements[tile.place(row, column)];
                    }
                }
            }
            let got: Vec<u16> = matrix.to_vec::<bf16>()?.into_iter().map(bf16::to_bits).collect();
            let place =
                |i| format!("tiles {:?} at {first:?} and {second:?}, word {i} of the tensor", tile.dims());
            if let wrong @ Err(_) = equal(&words(&got), &words(&expected), place) {
                return Ok(wrong);
            }
        }
    }
    Ok(Ok(()))
}
