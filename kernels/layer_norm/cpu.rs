//! LayerNorm on the CPU: rows in parallel, each row in a fixed order, so a row's result depends on that row alone.

use crate::dtype::{Float, Real};
use crate::reduce::{elements_per_task, lane_sum, rows_per_task, sum_rows};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Where to write mean and rstd of each row, if anywhere.
type Stats<'a, A> = Option<(&'a mut [A], &'a mut [A])>;

/// `y = xhat * (offset + w) + b`; writes mean and rstd if asked.
pub fn forward<T: Real>(
    x: &[T],
    (w, offset, b): (&[T], T::Acc, &[T]),
    eps: f64,
    y: &mut [T],
    stats: Stats<T::Acc>,
) {
    let width = w.len();
    let task = |x: &[T], y: &mut [T], mut stats: Stats<T::Acc>| {
        vectorize(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
                for (i, (x, y)) in rows.enumerate() {
                    let (m, r) = normalize_row(x, (w, offset, b), eps, y);
                    if let Some((mean, rstd)) = &mut stats {
                        (mean[i], rstd[i]) = (m, r);
                    }
                }
            },
        )
    };
    let (step, rows) = (elements_per_task(width), rows_per_task(width));
    let tasks = x.par_chunks(step).zip(y.par_chunks_mut(step));
    match stats {
        Some((mean, rstd)) => {
            let tasks = tasks.zip(mean.par_chunks_mut(rows)).zip(rstd.par_chunks_mut(rows));
            tasks.for_each(|(((x, y), mean), rstd)| task(x, y, Some((mean, rstd))));
        }
        None => tasks.for_each(|(x, y)| task(x, y, None)),
    }
}

/// One row; returns its mean and rstd.
#[inline(always)]
fn normalize_row<T: Real>(
    x: &[T],
    (w, offset, b): (&[T], T::Acc, &[T]),
    eps: f64,
    y: &mut [T],
) -> (T::Acc, T::Acc) {
    let n = T::Acc::of(w.len() as f64);
    let mean = lane_sum([x], |[x]| x.to_acc()) / n;
    // A second pass over the centred row: E[x^2] - E[x]^2 would cancel.
    let squares = lane_sum([x], |[x]| (x.to_acc() - mean) * (x.to_acc() - mean));
    let rstd = T::Acc::ONE / (squares / n + T::Acc::of(eps)).sqrt();
    for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
        let xhat = (x.to_acc() - mean) * rstd;
        *y = T::from_acc(xhat * (offset + w.to_acc()) + b.to_acc());
    }
    (mean, rstd)
}

/// `dx = rstd * (g - mean(g) - xhat * mean(g * xhat))` with `g = dy * (offset + w)`.
pub fn backward_x<T: Real>(
    x: &[T],
    (w, offset): (&[T], T::Acc),
    (mean, rstd): (&[T::Acc], &[T::Acc]),
    dy: &[T],
    dx: &mut [T],
) {
    let width = w.len();
    let (step, rows) = (elements_per_task(width), rows_per_task(width));
    let tasks = x.par_chunks(step).zip(dy.par_chunks(step)).zip(dx.par_chunks_mut(step));
    tasks.zip(mean.par_chunks(rows).zip(rstd.par_chunks(rows))).for_each(|(((x, dy), dx), (mean, rstd))| {
        vectorize(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
                for (((x, dy), dx), (&mean, &rstd)) in rows.zip(mean.iter().zip(rstd)) {
                    let n = T::Acc::of(width as f64);
                    let g = |w: T, dy: T| dy.to_acc() * (offset + w.to_acc());
                    let xhat = |x: T| (x.to_acc() - mean) * rstd;
                    let mean_g = lane_sum([w, dy], |[w, dy]| g(w, dy)) / n;
                    let mean_gx = lane_sum([x, w, dy], |[x, w, dy]| g(w, dy) * xhat(x)) / n;
                    for (((dx, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                        *dx = T::from_acc(rstd * (g(w, dy) - mean_g - xhat(x) * mean_gx));
                    }
                }
            },
        )
    });
}

/// `dw = sum over rows of dy * xhat`.
pub fn backward_w<T: Real>(
    x: &[T],
    (mean, rstd): (&[T::Acc], &[T::Acc]),
    dy: &[T],
    partial: &mut [T::Acc],
    dw: &mut [T::Acc],
) {
    let width = dw.len();
    sum_rows(
        rstd.len(),
        partial,
        dw,
        #[inline(always)]
        |r, column, dw| {
            let first = r * width + column;
            let row = first..first + dw.len();
            for ((dw, x), dy) in dw.iter_mut().zip(&x[row.clone()]).zip(&dy[row]) {
                *dw += dy.to_acc() * ((x.to_acc() - mean[r]) * rstd[r]);
            }
        },
    );
}
