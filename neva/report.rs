//! A page of curves and answered pictures: one HTML file, no script, nothing loaded from elsewhere.

use crate::eval::Answered;
use crate::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// Losses by step.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Above the plot.
    pub title: String,
    /// (step, loss).
    pub points: Vec<(f64, f64)>,
}

/// Pictures shown at most.
const PICTURES: usize = 24;

/// The page as HTML. `answered` are questions in the order of their records, so that those of one picture follow
/// each other.
///
/// Errors: a picture cannot be read.
pub fn page(
    title: &str,
    lines: &[String],
    curves: &[Curve],
    answered: &[Answered],
    image_folder: &Path,
) -> Result<String> {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n",
        escape(title)
    );
    for line in lines {
        let _ = writeln!(html, "<p>{}</p>", escape(line));
    }
    for curve in curves {
        let _ = writeln!(html, "<h2>{}</h2>\n{}", escape(&curve.title), svg(&curve.points));
    }
    html.push_str("<h2>Pictures it never saw</h2>\n<div class=\"cards\">\n");
    for questions in answered.chunk_by(|a, b| a.record == b.record).take(PICTURES) {
        html.push_str("<figure>");
        for image in &questions[0].images {
            let path = image_folder.join(image);
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            let kind = if bytes.starts_with(b"\x89PNG") { "png" } else { "jpeg" };
            let _ = write!(html, "<img alt=\"\" src=\"data:image/{kind};base64,{}\">", base64(&bytes));
        }
        html.push_str("<figcaption>");
        for q in questions {
            let class = if q.correct() { "right" } else { "wrong" };
            let _ = write!(html, "{}<br><b class=\"{class}\">{}</b>", escape(&q.question), escape(&q.answer));
            if !q.correct() {
                let _ = write!(html, " (it is: {})", escape(&q.expected));
            }
            html.push_str("<br>");
        }
        html.push_str("</figcaption></figure>\n");
    }
    html.push_str("</div></html>\n");
    Ok(html)
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:1rem}figure{margin:0}\
img{width:8rem;image-rendering:pixelated}.right{color:#06752c}.wrong{color:#b00020}\
svg{width:100%;height:auto;font-size:12px}";

/// A loss curve: every step in grey, the mean of its last twentieth in blue.
fn svg(points: &[(f64, f64)]) -> String {
    let (w, h, left, bottom) = (800.0, 240.0, 48.0, 28.0);
    let last = points.iter().map(|p| p.0).fold(1.0, f64::max);
    let top = points.iter().map(|p| p.1).filter(|v| v.is_finite()).fold(1e-9, f64::max);
    let x = |step: f64| left + step / last * (w - left - 8.0);
    let y = |loss: f64| (h - bottom) - loss / top * (h - bottom - 8.0);
    let path = |points: &mut dyn Iterator<Item = (f64, f64)>| -> String {
        points.map(|(s, l)| format!("{:.1},{:.1}", x(s), y(l))).collect::<Vec<_>>().join(" ")
    };
    let window = (points.len() / 20).max(1);
    let mut smooth = points.iter().enumerate().map(|(i, p)| {
        let from = (i + 1).saturating_sub(window);
        (p.0, points[from..=i].iter().map(|p| p.1).sum::<f64>() / (i + 1 - from) as f64)
    });
    format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"loss by step\">\
         <path d=\"M{left} 8V{0}H{w}\" fill=\"none\" stroke=\"#888\"/>\
         <text x=\"{left}\" y=\"{h}\">0</text><text x=\"{w}\" y=\"{h}\" text-anchor=\"end\">step {last}</text>\
         <text x=\"40\" y=\"18\" text-anchor=\"end\">{top:.2}</text><text x=\"40\" y=\"{0}\" text-anchor=\"end\">0</text>\
         <polyline points=\"{1}\" fill=\"none\" stroke=\"#ccc\"/>\
         <polyline points=\"{2}\" fill=\"none\" stroke=\"#1f5fbf\" stroke-width=\"2\"/></svg>",
        h - bottom,
        path(&mut points.iter().copied()),
        path(&mut smooth),
    )
}

/// Text as HTML: nothing in it is markup, in an element or between double quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * i) & 63) as usize] as char;
            text.push(if i <= chunk.len() { symbol } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        assert_eq!([base64(b"f"), base64(b"fo"), base64(b"foo")], ["Zg==", "Zm8=", "Zm9v"]);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
