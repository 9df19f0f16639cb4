//! RMSNorm on the CPU: rows in parallel, each row in a fixed order, so a row's result depends on that row alone.

use crate::dtype::{Float, Real};
use crate::reduce::{elements_per_task, lane_sum, rows_per_task, sum_rows};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y = x * rstd * w`; writes rstd if asked.
pub fn forward<T: Real>(x: &[T], w: &[T], eps: f64, y: &mut [T], rstd: Option<&mut [T::Acc]>) {
    let width = w.len();
    let task = |x: &[T], y: &mut [T], mut rstd: Option<&mut [T::Acc]>| {
        vectorize(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
                for (i, (x, y)) in rows.enumerate() {
                    let r = normalize_row(x, w, eps, y);
                    if let Some(rstd) = &mut rstd {
                        rstd[i] = r;
                    }
                }
            },
        )
    };
    let step = elements_per_task(width);
    let tasks = x.par_chunks(step).zip(y.par_chunks_mut(step));
    match rstd {
        Some(rstd) => {
            let tasks = tasks.zip(rstd.par_chunks_mut(rows_per_task(width)));
            tasks.for_each(|((x, y), rstd)| task(x, y, Some(rstd)));
        }
        None => tasks.for_each(|(x, y)| task(x, y, None)),
    }
}

/// `y = x * rstd * w` for one row; returns rstd.
#[inline(always)]
pub(crate) fn normalize_row<T: Real>(x: &[T], w: &[T], eps: f64, y: &mut [T]) -> T::Acc {
    let squares = lane_sum([x], |[x]| x.to_acc() * x.to_acc());
    let rstd = T::Acc::ONE / (squares / T::Acc::of(w.len() as f64) + T::Acc::of(eps)).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = T::from_acc(x.to_acc() * rstd * w.to_acc());
    }
    rstd
}

/// `dx = rstd * (dy * w - xhat * mean(dy * w * xhat))`.
pub fn backward_x<T: Real>(x: &[T], w: &[T], rstd: &[T::Acc], dy: &[T], dx: &mut [T]) {
    let width = w.len();
    let step = elements_per_task(width);
    let tasks = x.par_chunks(step).zip(dy.par_chunks(step)).zip(rstd.par_chunks(rows_per_task(width)));
    tasks.zip(dx.par_chunks_mut(step)).for_each(|(((x, dy), rstd), dx)| {
        vectorize(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rstd);
                for (((x, dy), &r), dx) in rows.zip(dx.chunks_exact_mut(width)) {
                    gradient_row(x, w, r, dy, dx, |_, g| g);
                }
            },
        )
    });
}

/// `dx = put(dx, gradient)` for one row.
#[inline(always)]
pub(crate) fn gradient_row<T: Real>(
    x: &[T],
    w: &[T],
    rstd: T::Acc,
    dy: &[T],
    dx: &mut [T],
    put: impl Fn(T::Acc, T::Acc) -> T::Acc,
) {
    let dot = lane_sum([x, w, dy], |[x, w, dy]| dy.to_acc() * w.to_acc() * (x.to_acc() * rstd));
    let mean = dot / T::Acc::of(w.len() as f64);
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
        let g = dy.to_acc() * w.to_acc();
        *dx = T::from_acc(put(dx.to_acc(), rstd * (g - x.to_acc() * rstd * mean)));
    }
}

/// `dw = sum over rows of dy * xhat`.
pub fn backward_w<T: Real>(x: &[T], rstd: &[T::Acc], dy: &[T], partial: &mut [T::Acc], dw: &mut [T::Acc]) {
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
                *dw += dy.to_acc() * (x.to_acc() * rstd[r]);
            }
        },
    );
}
