//! The random numbers: known answers, distributions, and independence of threads and of what was drawn before.

#![allow(clippy::unwrap_used)]

use kernels::random::{Random, derive, fill_normal, philox};

#[test]
fn philox_gives_the_known_answers_of_its_authors() {
    // From the test vectors that accompany the paper: all zeros, all ones, digits of pi.
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let cases = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
    ];
    for (counter, key, want) in cases {
        assert_eq!(philox(counter, key), want, "{counter:x?} {key:x?}");
    }
}

#[test]
fn a_stream_is_its_blocks_in_order() {
    let mut random = Random::new(0x1234_5678_9abc_def0, 3);
    for block in 0..3 {
        let want = philox([block, 0, 3, 0], [0x9abc_def0, 0x1234_5678]);
        assert_eq!([0; 4].map(|_: u32| random.next_u32()), want, "block {block}");
    }
}

#[test]
fn streams_and_seeds_differ() {
    let first = |seed, stream| Random::new(seed, stream).next_u64();
    let all = [first(1, 0), first(1, 1), first(2, 0), first(1 << 32, 0)];
    for (i, a) in all.iter().enumerate() {
        assert!(!all[..i].contains(a), "stream {i} repeats another");
    }
}

#[test]
fn derived_seeds_differ_by_value_and_by_place() {
    let mut seeds =
        vec![derive(5, &[]), derive(5, &[0]), derive(5, &[0, 0]), derive(5, &[1, 2]), derive(5, &[2, 1])];
    seeds.extend([derive(6, &[1, 2]), derive(5, &[1 << 32, 2])]);
    let n = seeds.len();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), n);
    assert_eq!(derive(5, &[]), 5, "an empty path is the seed itself");
    assert_eq!(derive(5, &[1, 2]), derive(derive(5, &[1]), &[2]), "a path can be walked in steps");
}

/// Mean and variance.
fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

#[test]
fn uniform_numbers_are_uniform() {
    let mut random = Random::new(1, 0);
    let values: Vec<f64> = (0..100_000).map(|_| random.uniform()).collect();
    assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
    let (mean, variance) = moments(values.iter().copied());
    // Four standard errors: sqrt(1/12 / n) and sqrt(1/180 / n).
    assert!((mean - 0.5).abs() < 4.0 * (1.0 / 12.0 / 1e5f64).sqrt(), "{mean}");
    assert!((variance - 1.0 / 12.0).abs() < 4.0 * (1.0 / 180.0 / 1e5f64).sqrt(), "{variance}");
}

#[test]
fn normal_numbers_are_normal() {
    let mut random = Random::new(1, 0);
    let one_by_one: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
    let mut filled = vec![0f32; 100_001];
    fill_normal(1, 7, 2.0, &mut filled);
    let filled: Vec<f64> = filled.iter().map(|&v| v as f64 / 2.0).collect();
    for values in [one_by_one, filled] {
        let n = values.len() as f64;
        let (mean, variance) = moments(values.iter().copied());
        assert!(mean.abs() < 4.0 / n.sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "{variance}");
        let (fourth, _) = moments(values.iter().map(|v| v.powi(4)));
        assert!((fourth - 3.0).abs() < 4.0 * (96.0 / n).sqrt(), "{fourth}");
        let beyond = values.iter().filter(|v| v.abs() > 1.959_964).count() as f64 / n;
        assert!((beyond - 0.05).abs() < 4.0 * (0.05 * 0.95 / n).sqrt(), "{beyond}");
        // Neighbours come from one Box-Muller pair and must not be correlated.
        let (neighbours, _) = moments(values.chunks_exact(2).map(|p| p[0] * p[1]));
        assert!(neighbours.abs() < 4.0 / (n / 2.0).sqrt(), "{neighbours}");
    }
}

#[test]
fn filled_numbers_depend_on_their_place_alone() {
    let fill = |threads: usize, n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![0f32; n];
        pool.install(|| fill_normal(9, 0, 1.0, &mut out));
        out
    };
    let all = fill(2, 10_001);
    assert_eq!(fill(1, 10_001), all);
    assert_eq!(fill(2, 4_097), all[..4_097]);
}

#[test]
fn below_hits_every_value_equally() {
    let mut random = Random::new(3, 0);
    let mut counts = [0f64; 6];
    for _ in 0..60_000 {
        counts[random.below(6) as usize] += 1.0;
    }
    let chi_squared: f64 = counts.iter().map(|c| (c - 1e4) * (c - 1e4) / 1e4).sum();
    assert!(chi_squared < 20.5, "{counts:?}"); // 5 degrees of freedom, 0.1 %
    assert_eq!(random.below(1), 0);
    // With 3 * 2^30 values the plain high half would favour every third one: 1/2 against 1/4 of the draws.
    let third = (0..30_000).filter(|_| random.below(3 << 30).is_multiple_of(3)).count() as f64;
    assert!((third / 3e4 - 1.0 / 3.0).abs() < 4.0 * (2.0 / 9.0 / 3e4f64).sqrt(), "{third}");
}

#[test]
fn permutations_are_equally_likely() {
    let mut random = Random::new(4, 0);
    let mut counts = std::collections::HashMap::new();
    for _ in 0..24_000 {
        *counts.entry(random.permutation(4)).or_insert(0f64) += 1.0;
    }
    assert_eq!(counts.len(), 24);
    let chi_squared: f64 = counts.values().map(|c| (c - 1e3) * (c - 1e3) / 1e3).sum();
    assert!(chi_squared < 49.7, "{chi_squared}"); // 23 degrees of freedom, 0.1 %
    let mut long = random.permutation(10_000);
    long.sort_unstable();
    assert_eq!(long, (0..10_000).collect::<Vec<u32>>());
    assert!(random.permutation(0).is_empty());
}
