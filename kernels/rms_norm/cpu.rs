//! RMSNorm on the CPU: rows in parallel, each row in a fixed order, so a row's result depends on that row alone.

use crate::dtype::{Float, Real};
use crate::reduce::lane_sum;
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y = x * rstd * w`; writes rstd if asked.
pub fn forward<T: Real>(x: &[T], w: &[T], eps: f64, y: &mut [T], rstd: Option<&mut [T::Acc]>) {
    let width = w.len();
    let row = |x: &[T], y: &mut [T]| {
        vectorize(
            #[inline(always)]
            || {
                let (x, y, w) = (&x[..width], &mut y[..width], &w[..width]);
                let squares = lane_sum(width, |i| x[i].to_acc() * x[i].to_acc());
                let r = T::Acc::ONE / (squares / T::Acc::of(width as f64) + T::Acc::of(eps)).sqrt();
                for i in 0..width {
                    y[i] = T::from_acc(x[i].to_acc() * r * w[i].to_acc());
                }
                r
            },
        )
    };
    let rows = x.par_chunks(width).zip(y.par_chunks_mut(width));
    match rstd {
        Some(rstd) => rows.zip(rstd).for_each(|((x, y), r)| *r = row(x, y)),
        None => rows.for_each(|(x, y)| {
            row(x, y);
        }),
    }
}

/// `dx = rstd * (dy * w - xhat * mean(dy * w * xhat))`.
pub fn backward_x<T: Real>(x: &[T], w: &[T], rstd: &[T::Acc], dy: &[T], dx: &mut [T]) {
    let width = w.len();
    let rows = x.par_chunks(width).zip(dy.par_chunks(width)).zip(rstd).zip(dx.par_chunks_mut(width));
    rows.for_each(|(((x, dy), &r), dx)| {
        vectorize(
            #[inline(always)]
            || {
                let (x, dy, w, dx) = (&x[..width], &dy[..width], &w[..width], &mut dx[..width]);
                let dot = lane_sum(width, |i| dy[i].to_acc() * w[i].to_acc() * (x[i].to_acc() * r));
                let mean = dot / T::Acc::of(width as f64);
                for i in 0..width {
                    let g = dy[i].to_acc() * w[i].to_acc();
                    dx[i] = T::from_acc(r * (g - x[i].to_acc() * r * mean));
                }
            },
        )
    });
}

/// `dw = sum over rows of dy * xhat`, in row order.
pub fn backward_w<T: Real>(x: &[T], rstd: &[T::Acc], dy: &[T], dw: &mut [T::Acc]) {
    let width = dw.len();
    let chunk = 256.min(width.max(1));
    dw.par_chunks_mut(chunk).enumerate().for_each(|(c, dw)| {
        vectorize(
            #[inline(always)]
            || {
                dw.fill(T::Acc::ZERO);
                for ((x, dy), &r) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rstd) {
                    let (x, dy) = (&x[c * chunk..], &dy[c * chunk..]);
                    for i in 0..dw.len() {
                        dw[i] += dy[i].to_acc() * (x[i].to_acc() * r);
                    }
                }
            },
        )
    });
}
