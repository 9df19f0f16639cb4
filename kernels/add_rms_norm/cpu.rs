//! Residual sum and RMSNorm on the CPU, one pass over memory: a row of r is normed while it is in cache.

use crate::dtype::Real;
use crate::reduce::{elements_per_task, rows_per_task};
use crate::rms_norm::cpu::{gradient_row, normalize_row};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `r = r + residual`, rounded, and `y = r * rstd * w`; `r` holds x before. Writes rstd if asked.
pub fn forward<T: Real>(
    r: &mut [T],
    residual: &[T],
    w: &[T],
    eps: f64,
    y: &mut [T],
    rstd: Option<&mut [T::Acc]>,
) {
    let width = w.len();
    let task = |r: &mut [T], residual: &[T], y: &mut [T], mut rstd: Option<&mut [T::Acc]>| {
        vectorize(
            #[inline(always)]
            || {
                let rows = r.chunks_exact_mut(width).zip(residual.chunks_exact(width));
                for (i, ((r, residual), y)) in rows.zip(y.chunks_exact_mut(width)).enumerate() {
                    for (r, residual) in r.iter_mut().zip(residual) {
                        *r = T::from_acc(r.to_acc() + residual.to_acc());
                    }
                    let scale = normalize_row(r, w, eps, y);
                    if let Some(rstd) = &mut rstd {
                        rstd[i] = scale;
                    }
                }
            },
        )
    };
    let step = elements_per_task(width);
    let tasks = r.par_chunks_mut(step).zip(residual.par_chunks(step)).zip(y.par_chunks_mut(step));
    match rstd {
        Some(rstd) => {
            let tasks = tasks.zip(rstd.par_chunks_mut(rows_per_task(width)));
            tasks.for_each(|(((r, residual), y), rstd)| task(r, residual, y, Some(rstd)));
        }
        None => tasks.for_each(|((r, residual), y)| task(r, residual, y, None)),
    }
}

/// `dr += rstd * (dy * w - xhat * mean(dy * w * xhat))`, rounded once.
pub fn backward_r<T: Real>(r: &[T], w: &[T], rstd: &[T::Acc], dy: &[T], dr: &mut [T]) {
    let width = w.len();
    let step = elements_per_task(width);
    let tasks = r.par_chunks(step).zip(dy.par_chunks(step)).zip(rstd.par_chunks(rows_per_task(width)));
    tasks.zip(dr.par_chunks_mut(step)).for_each(|(((r, dy), rstd), dr)| {
        vectorize(
            #[inline(always)]
            || {
                let rows = r.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rstd);
                for (((r, dy), &rstd), dr) in rows.zip(dr.chunks_exact_mut(width)) {
                    gradient_row(r, w, rstd, dy, dr, |dr, g| dr + g);
                }
            },
        )
    });
}
