//! Matrices in the registers of a warp.

use super::{Finding, Run, equal};
use crate::Result;
use crate::device::gpu::Grid;
use crate::dtype::bf16 as bf16_number;

const LANES: usize = 32;
const ROUNDS: usize = 8;

fn one_warp() -> Grid {
    Grid::linear(1, LANES as u32)
}

/// Half of a word.
fn half_of(words: &[u32], index: usize) -> u32 {
    words[index / 2] >> (index % 2 * 16) & 0xffff
}

/// ldmatrix: lane 8 i + j brings the address of row j of matrix i; of each 8x8 matrix, lane l gets the elements
/// (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1), or with .trans those at the mirrored places.
fn ldmatrix(run: &mut Run, name: &str, transposed: bool) -> Result<Finding> {
    for _ in 0..ROUNDS {
        let (rows, places) = (run.words(LANES * 4), run.permutation(LANES as u32));
        let input = [&rows[..], &places].concat();
        let got = run.wrapper(name, one_warp(), &input, LANES * 4)?;
        let element = |matrix: usize, row: usize, column: usize| {
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            half_of(&rows[(matrix * 8 + row) * 4..], column)
        };
        let expected: Vec<u32> = (0..LANES * 4)
            .map(|i| {
                let (lane, matrix) = (i / 4, i % 4);
                let (row, column) = (lane / 4, lane % 4 * 2);
                element(matrix, row, column) | element(matrix, row, column + 1) << 16
            })
            .collect();
        if let wrong @ Err(_) = equal(&got, &expected, |i| format!("lane {}, matrix {}", i / 4, i % 4)) {
            return Ok(wrong);
        }
    }
    Ok(Ok(()))
}

pub(super) fn ldmatrix_x4(run: &mut Run) -> Result<Finding> {
    ldmatrix(run, "ldmatrix_x4", false)
}

pub(super) fn ldmatrix_x4_trans(run: &mut Run) -> Result<Finding> {
    ldmatrix(run, "ldmatrix_x4_trans", true)
}

/// Which numbers a product is tried on.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Numbers {
    /// Small integers: every sum is exact in f32, whatever its order.
    Exact,
    /// Normal ones.
    Normal,
}

/// The two kinds, one after the other.
pub(super) const BOTH: [Numbers; 2] = [Numbers::Exact, Numbers::Normal];

impl Numbers {
    /// One that bf16 holds, as f32.
    pub(super) fn draw(self, run: &mut Run) -> f32 {
        match self {
            Numbers::Exact => run.below(17) as f32 - 8.0,
            Numbers::Normal => f32::from(bf16_number::from_f32(run.random.normal() as f32)),
        }
    }

    /// Whether `got` may be the sum of `terms`. The hardware adds in an order of its own and cuts off what does not
    /// fit into f32, so each of its additions may lose 2^-23 of what all terms make together.
    pub(super) fn is_sum(self, got: f32, terms: &[f64]) -> Finding {
        let exact: f64 = terms.iter().sum();
        let allowed = match self {
            Numbers::Exact => 0.0,
            Numbers::Normal => {
                terms.len() as f64 * 2f64.powi(-23) * terms.iter().map(|t| t.abs()).sum::<f64>()
            }
        };
        let error = (f64::from(got) - exact).abs();
        // A NaN is not within anything.
        if error <= allowed { Ok(()) } else { Err(format!("{got}, expected {exact} within {allowed:e}")) }
    }
}

/// The upper half of an f32 that bf16 holds.
pub(super) fn bf16(value: f32) -> u32 {
    value.to_bits() >> 16
}

/// mma.m16n8k16.row.col.f32.bf16.bf16.f32. Element i of a lane's fragments, with g = lane / 4 and t = lane % 4:
/// a in row g (i < 2 or 4 <= i < 6) or g + 8, column 2 t + i % 2, 8 more for i >= 4; b in row 2 t + i % 2, 8 more for
/// i >= 2, column g; c and d in row g, 8 more for i >= 2, column 2 t + i % 2.
pub(super) fn mma_bf16(run: &mut Run) -> Result<Finding> {
    for numbers in BOTH.repeat(ROUNDS) {
        let mut matrix = |n: usize| -> Vec<f32> { (0..n).map(|_| numbers.draw(run)).collect() };
        let (a, b, c) = (matrix(16 * 16), matrix(16 * 8), matrix(16 * 8)); // rows one behind the other; b is k x n
        let a_place = |lane: usize, i: usize| {
            let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
            (row, lane % 4 * 2 + i % 2 + if i >= 4 { 8 } else { 0 })
        };
        let b_place = |lane: usize, i: usize| (lane % 4 * 2 + i % 2 + if i >= 2 { 8 } else { 0 }, lane / 4);
        let c_place = |lane: usize, i: usize| (lane / 4 + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + i % 2);
        let mut input = vec![];
        for lane in 0..LANES {
            let a = |i| bf16(a[a_place(lane, i).0 * 16 + a_place(lane, i).1]);
            let b = |i| bf16(b[b_place(lane, i).0 * 8 + b_place(lane, i).1]);
            input.extend((0..4).map(|r| a(2 * r) | a(2 * r + 1) << 16));
            input.extend((0..2).map(|r| b(2 * r) | b(2 * r + 1) << 16));
            input.extend((0..4).map(|i| c[c_place(lane, i).0 * 8 + c_place(lane, i).1].to_bits()));
        }
        let got = run.wrapper("mma_bf16", one_warp(), &input, LANES * 4)?;
        for (at, &bits) in got.iter().enumerate() {
            let (row, column) = c_place(at / 4, at % 4);
            let mut terms = vec![f64::from(c[row * 8 + column])];
            terms.extend((0..16).map(|k| f64::from(a[row * 16 + k]) * f64::from(b[k * 8 + column])));
            if let Err(wrong) = numbers.is_sum(f32::from_bits(bits), &terms) {
                return Ok(Err(format!("d[{row}][{column}] (lane {}): {wrong}", at / 4)));
            }
        }
    }
    Ok(Ok(()))
}
