//! What the lanes of a warp do together.

use super::{Finding, Run, equal};
use crate::Result;
use crate::device::gpu::Grid;

const LANES: usize = 32;
const ROUNDS: usize = 16;

fn one_warp() -> Grid {
    Grid::linear(1, LANES as u32)
}

/// Splits the lanes in two parts, neither of them empty.
fn mask(run: &mut Run) -> u32 {
    loop {
        match run.words(1)[0] {
            0 | u32::MAX => {}
            mask => return mask,
        }
    }
}

/// The lanes of the part that `lane` belongs to.
fn part(mask: u32, lane: usize) -> Vec<usize> {
    (0..LANES).filter(|other| mask >> other & 1 == mask >> lane & 1).collect()
}

/// shfl.sync in its four forms; a source beyond the ends of the warp (up, down) leaves a lane its own value.
pub(super) fn shuffles(run: &mut Run) -> Result<Finding> {
    for _ in 0..ROUNDS {
        let values = run.words(LANES);
        let sources: Vec<u32> = (0..LANES).map(|_| run.below(64)).collect();
        let (distance, bits) = (run.below(32) as usize, run.below(32) as usize);
        let input = [&values[..], &sources, &[distance as u32, bits as u32]].concat();
        let got = run.wrapper("shuffles", one_warp(), &input, 6 * LANES)?;
        let from = |source: &dyn Fn(usize) -> Option<usize>| -> Vec<u32> {
            (0..LANES).map(|lane| values[source(lane).filter(|s| *s < LANES).unwrap_or(lane)]).collect()
        };
        let by_index = from(&|lane| Some(sources[lane] as usize % LANES));
        let expected = [
            by_index.clone(),
            from(&|lane| lane.checked_sub(distance)),
            from(&|lane| Some(lane + distance)),
            from(&|lane| Some(lane ^ bits)),
            by_index.iter().map(|v| v ^ 0x5a5a_5a5a).collect(),
            by_index,
        ]
        .concat();
        let form = ["index", "up", "down", "xor", "index, 64 bits, low", "index, 64 bits, high"];
        let place = |i: usize| format!("{} in lane {}", form[i / LANES], i % LANES);
        if let wrong @ Err(_) = equal(&got, &expected, place) {
            return Ok(wrong);
        }
        let mask = mask(run);
        let sources: Vec<usize> = (0..LANES)
            .map(|lane| {
                let part = part(mask, lane);
                part[run.below(part.len() as u32) as usize]
            })
            .collect();
        let input: Vec<u32> =
            values.iter().copied().chain(sources.iter().map(|s| *s as u32)).chain([mask]).collect();
        let got = run.wrapper("partial_shuffle", one_warp(), &input, LANES)?;
        let expected: Vec<u32> = sources.iter().map(|s| values[*s]).collect();
        let place = |lane| format!("index with mask {mask:#010x} in lane {lane}");
        if let wrong @ Err(_) = equal(&got, &expected, place) {
            return Ok(wrong);
        }
    }
    Ok(Ok(()))
}

/// vote.sync.ballot: a bit per lane of the mask, the others 0.
pub(super) fn ballot(run: &mut Run) -> Result<Finding> {
    for _ in 0..ROUNDS {
        let mask = mask(run);
        let predicates: Vec<u32> = (0..LANES).map(|_| run.below(2) * run.below(1000)).collect();
        let input = [&predicates[..], &[mask]].concat();
        let got = run.wrapper("ballot", one_warp(), &input, 2 * LANES)?;
        let votes =
            |lanes: &[usize]| lanes.iter().filter(|l| predicates[**l] != 0).fold(0, |v, l| v | 1u32 << l);
        let all: Vec<usize> = (0..LANES).collect();
        let expected: Vec<u32> = std::iter::repeat_n(votes(&all), LANES)
            .chain((0..LANES).map(|lane| votes(&part(mask, lane))))
            .collect();
        let place = |i| format!("lane {} of parts {mask:#010x}", i % LANES);
        if let wrong @ Err(_) = equal(&got, &expected, place) {
            return Ok(wrong);
        }
    }
    Ok(Ok(()))
}

/// bar.warp.sync: what the lanes of the mask wrote to memory before it is seen behind it.
pub(super) fn syncwarp(run: &mut Run) -> Result<Finding> {
    for _ in 0..ROUNDS {
        let (values, sources, mask) = (run.words(LANES), run.permutation(LANES as u32), mask(run));
        let input = [&values[..], &sources, &[mask]].concat();
        let got = run.wrapper("syncwarp", one_warp(), &input, 3 * LANES)?;
        let once: Vec<u32> = sources.iter().map(|s| values[*s as usize]).collect();
        let twice = sources.iter().map(|s| once[*s as usize]).collect();
        let next = (0..LANES).map(|lane| {
            let part = part(mask, lane);
            let at = part.iter().position(|l| *l == lane).unwrap_or(0);
            values[part[(at + 1) % part.len()]]
        });
        let expected = [once, twice, next.collect()].concat();
        if let wrong @ Err(_) =
            equal(&got, &expected, |i| format!("step {} in lane {}", i / LANES, i % LANES))
        {
            return Ok(wrong);
        }
    }
    Ok(Ok(()))
}
