//! The tensor cores of sm_90a.

use super::matrices::{BOTH, Numbers, bf16};
use super::{Finding, Launch, Run, WGMMA, equal};
use crate::Result;
use crate::device::gpu::Grid;

const WARPGROUP: usize = 128;
const ROWS: usize = 64;
const DEPTH: usize = 64;

/// A matrix of `rows` rows of [`DEPTH`] numbers.
fn matrix(run: &mut Run, rows: usize, numbers: Numbers) -> Vec<f32> {
    (0..rows * DEPTH).map(|_| numbers.draw(run)).collect()
}

/// The matrix as bf16 in shared memory, as the descriptor says: rows of 128 bytes, eight of them 1024 bytes apart from
/// the next eight, and of row r the 16-byte piece p at p ^ (r % 8).
fn image(matrix: &[f32]) -> Vec<u32> {
    let mut words = vec![0; matrix.len() / 2];
    for (i, value) in matrix.iter().enumerate() {
        let (row, column) = (i / DEPTH, i % DEPTH);
        let element = ((column / 8) ^ (row % 8)) * 8 + column % 8;
        words[row * (DEPTH / 2) + element / 2] |= bf16(*value) << (element % 2 * 16);
    }
    words
}

/// Where register i of a thread lies in the 64 rows of d: row 16 w + g, 8 more in every second pair of registers;
/// column 8 (i / 4) + 2 t + i % 2; with w the warp, g = lane / 4, t = lane % 4.
fn place(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// Compares the registers of a product with `c` + a b^T.
fn compare(
    numbers: Numbers,
    got: &[u32],
    columns: usize,
    (a, b): (&[f32], &[f32]),
    c: impl Fn(usize) -> f32,
) -> Finding {
    for (at, &bits) in got.iter().enumerate() {
        let (row, column) = place(at / (columns / 2), at % (columns / 2));
        let product = |k| f64::from(a[row * DEPTH + k]) * f64::from(b[column * DEPTH + k]);
        let mut terms = vec![f64::from(c(at))];
        terms.extend((0..DEPTH).map(product));
        numbers
            .is_sum(f32::from_bits(bits), &terms)
            .map_err(|wrong| format!("{columns} columns, d[{row}][{column}]: {wrong}"))?;
    }
    Ok(())
}

fn grid(operand_rows: usize) -> Grid {
    Grid { shared_bytes: (operand_rows * 128) as u32, ..Grid::linear(1, WARPGROUP as u32) }
}

/// wgmma.mma_async m64nNk16, four of them over 64 values of k, with and without what d held.
pub(super) fn products(run: &mut Run) -> Result<Finding> {
    for (columns, entry) in [
        (64, "conformance_wgmma_bf16_64"),
        (128, "conformance_wgmma_bf16_128"),
        (256, "conformance_wgmma_bf16_256"),
    ] {
        for (numbers, accumulate) in BOTH.into_iter().flat_map(|n| [(n, false), (n, true)]) {
            let (a, b) = (matrix(run, ROWS, numbers), matrix(run, columns, numbers));
            let d: Vec<f32> = (0..WARPGROUP * columns / 2).map(|_| numbers.draw(run)).collect();
            let mut input = vec![u32::from(accumulate)];
            input.extend(image(&a).into_iter().chain(image(&b)).chain(d.iter().map(|v| v.to_bits())));
            let launch = Launch { source: &WGMMA, entry, grid: grid(ROWS + columns), map: None };
            let got = run.launch(launch, &input, d.len())?;
            let c = |at: usize| if accumulate { d[at] } else { 0.0 };
            if let wrong @ Err(_) = compare(numbers, &got, columns, (&a, &b), c) {
                return Ok(wrong);
            }
        }
    }
    Ok(Ok(()))
}

/// wgmma.commit_group and wait_group: two products in flight, the first read while the second may run.
pub(super) fn groups(run: &mut Run) -> Result<Finding> {
    for numbers in BOTH {
        let (a, b, c) = (matrix(run, ROWS, numbers), matrix(run, 64, numbers), matrix(run, 64, numbers));
        let input = [image(&a), image(&b), image(&c)].concat();
        let entry = "conformance_wgmma_groups";
        let launch = Launch { source: &WGMMA, entry, grid: grid(3 * ROWS), map: None };
        let got = run.launch(launch, &input, 2 * WARPGROUP * 32)?;
        let (first, second) = got.split_at(WARPGROUP * 32);
        for (got, right) in [(first, &b), (second, &c)] {
            if let wrong @ Err(_) = compare(numbers, got, 64, (&a, right), |_| 0.0) {
                return Ok(wrong);
            }
        }
    }
    Ok(Ok(()))
}

/// setmaxnreg: two warpgroups pass registers on and both finish.
pub(super) fn setmaxnreg(run: &mut Run) -> Result<Finding> {
    let values = run.words(2 * WARPGROUP);
    let entry = "conformance_setmaxnreg";
    let grid = Grid::linear(1, 2 * WARPGROUP as u32);
    let got = run.launch(Launch { source: &WGMMA, entry, grid, map: None }, &values, values.len())?;
    let expected: Vec<u32> =
        values.iter().enumerate().map(|(i, v)| v.wrapping_add(1 + (i / WARPGROUP) as u32)).collect();
    Ok(equal(&got, &expected, |thread| format!("thread {thread}")))
}
