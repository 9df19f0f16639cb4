//! The counts as a page: totals and the worst lines, then every file that took part, each line with what it did.
//!
//! One HTML file without scripts; nothing is loaded from elsewhere. A line that accessed memory unfolds into its accesses
//! by kernel, width and caller.

use neva::report::escape;
use std::collections::BTreeMap;
use std::fmt::Write;

use super::counts::{Access, Instruction, Kernel, Space, ratio};
use super::{Counted, Report, bytes};

const STYLE: &str = include_str!("page.css");

/// Lines of the summary, of those where something is lost.
const WORST: usize = 25;

pub fn html(report: &Report) -> String {
    let title = escape(&format!("{}, {}, {}", report.op, report.case, report.dtype));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n<main>\n<h1>{}</h1>\n<p class=\"sub\">{}, {}, counted on the simulated GPU</p>\n",
        escape(report.op),
        escape(&report.case),
        report.dtype,
    );
    if let Some(caveat) = report.caveat() {
        let _ = writeln!(html, "<p class=\"caveat\">Note: {}.</p>", escape(caveat));
    }
    html += &totals(report);
    html += &worst(report);
    html += &buffers(report);
    html += &sources(report);
    html + "</main>\n</html>\n"
}

/// A row per kernel: bytes of global memory and passes of shared memory beside the least.
fn totals(report: &Report) -> String {
    let mut html = String::from(
        "<table>\n<tr><th>kernel<th>launches<th>blocks<th title=\"sectors of 32 bytes\">bytes moved<th>asked for\
         <th>at least<th><th title=\"times that the banks of shared memory are gone through\">shared passes\
         <th>at least<th>\n",
    );
    for pass in &report.passes {
        let moved: u64 = pass.kernels.iter().map(|k| k.global_bytes()[0]).sum();
        let _ = writeln!(
            html,
            "<tr class=\"pass\"><td>{}<td><td><td>{}<td><td title=\"what the op has to move\">{}{}<td><td><td>",
            pass.pass,
            bytes(moved),
            bytes(pass.cost.bytes),
            ratio_cell(moved, pass.cost.bytes),
        );
        for kernel in &pass.kernels {
            let ([moved, asked, least], [passes, fewest]) = (kernel.global_bytes(), kernel.passes());
            let _ = write!(
                html,
                "<tr><td class=\"code\">{}<td>{}<td>{}<td>{}<td>{}<td>{}{}",
                escape(&kernel.name),
                kernel.launches,
                kernel.blocks,
                bytes(moved),
                bytes(asked),
                bytes(least),
                ratio_cell(moved, least),
            );
            let _ = match passes {
                0 => writeln!(html, "<td>–<td>–<td>"),
                _ => writeln!(html, "<td>{passes}<td>{fewest}{}", ratio_cell(passes, fewest)),
            };
        }
    }
    html + "</table>\n"
}

/// The lines of all kernels where something is lost, the worst first.
fn worst(report: &Report) -> String {
    let mut all: Vec<(&Kernel, &Access)> = kernels(report)
        .flat_map(|kernel| kernel.accesses.iter().map(move |access| (kernel, access)))
        .filter(|(_, access)| access.lost_bytes() > 0)
        .collect();
    all.sort_by_key(|(_, access)| std::cmp::Reverse(access.lost_bytes()));
    if all.is_empty() {
        return "<h2>Worst lines</h2>\n<p>Every access is in as few sectors and passes as its bytes fill.</p>\n"
            .into();
    }
    let mut html = String::from(
        "<h2>Worst lines</h2>\n<table>\n<tr><th>line<th>access<th>moved<th>at least<th><th class=\"code\">kernel<th class=\"code\">source\n",
    );
    for (kernel, access) in all.iter().take(WORST) {
        let source = access.place.0.first().and_then(|(file, line)| report.source(file, *line));
        let _ = writeln!(
            html,
            "<tr><td class=\"code\">{}<td>{}<td>{} {}<td>{}{}<td class=\"code\">{}<td class=\"code cut\">{}",
            link(access),
            access.what(),
            access.moved,
            access.space.unit(),
            access.least,
            ratio_cell(access.moved, access.least),
            escape(&kernel.name),
            escape(source.unwrap_or_default().trim()),
        );
    }
    html += "</table>\n";
    if all.len() > WORST {
        let _ = writeln!(html, "<p>{} more are marked in the sources.</p>", all.len() - WORST);
    }
    html
}

/// What each buffer saw.
fn buffers(report: &Report) -> String {
    let mut html = String::from(
        "<h2>Buffers</h2>\n<table>\n<tr><th>kernel<th class=\"code\">argument<th>read<th>at least<th><th>written<th>at least<th>\n",
    );
    for kernel in kernels(report) {
        for (i, buffer) in kernel.buffers.iter().enumerate() {
            // What is lost on a small table that every block reads is nothing to look for.
            let matters = |lost: u64| lost * 100 > kernel.global_bytes()[1];
            let part = |moved: u64, least: u64| match moved {
                0 => "<td>–<td>–<td>".into(),
                _ if matters(moved - least) => {
                    format!("<td>{}<td>{}{}", bytes(moved), bytes(least), ratio_cell(moved, least))
                }
                _ => {
                    let ratio = ratio(moved, least);
                    format!(
                        "<td>{}<td>{}<td><span class=\"g0\">{ratio:.2}×</span>",
                        bytes(moved),
                        bytes(least)
                    )
                }
            };
            let _ = writeln!(
                html,
                "<tr><td class=\"code\">{}<td class=\"code\">{}{}{}",
                if i == 0 { escape(&kernel.name) } else { String::new() },
                escape(&buffer.name),
                part(buffer.read, buffer.read_least),
                part(buffer.written, buffer.written_least),
            );
        }
    }
    html + "</table>\n"
}

/// What one line of a file did.
#[derive(Default)]
struct Line<'a> {
    accesses: Vec<(&'a Kernel, &'a Access)>,
    instructions: Vec<(&'a Kernel, &'a Instruction)>,
}

impl Line<'_> {
    /// Moved and least of one kind of memory; None if the line does not access it.
    fn units(&self, space: Space) -> Option<(u64, u64)> {
        let here: Vec<&Access> = self.accesses.iter().map(|(_, a)| *a).filter(|a| a.space == space).collect();
        let sum = |of: fn(&Access) -> u64| here.iter().map(|a| of(a)).sum();
        (!here.is_empty()).then(|| (sum(|a| a.moved), sum(|a| a.least)))
    }
}

/// Every file that took part, annotated.
fn sources(report: &Report) -> String {
    let mut files: BTreeMap<&str, BTreeMap<usize, Line>> = BTreeMap::new();
    for kernel in kernels(report) {
        for access in &kernel.accesses {
            if let Some((file, line)) = access.place.0.first() {
                let of_file = files.entry(file).or_default();
                of_file.entry(*line).or_default().accesses.push((kernel, access));
            }
        }
        for instruction in &kernel.instructions {
            if let Some((file, line)) = instruction.place.0.first() {
                let of_file = files.entry(file).or_default();
                of_file.entry(*line).or_default().instructions.push((kernel, instruction));
            }
        }
    }
    let mut html = String::from(
        "<h2>Sources</h2>\n<p>Beside a line: bytes that its requests ask for; sectors of global memory and passes of \
         shared memory, and how often the least there could be, where it is more. Lines that accessed memory or used an \
         instruction unfold.</p>\n",
    );
    // The kernels' own files before the headers.
    let mut names: Vec<&&str> = files.keys().collect();
    names.sort_by_key(|name| (!name.ends_with(".cu"), **name));
    for name in names {
        let Some((path, text)) = report.files.get(*name) else { continue };
        let _ = write!(
            html,
            "<section>\n<h3>kernels/{}</h3>\n<div class=\"row head\"><span>line</span><span>bytes</span>\
             <span>sectors</span><span>passes</span><span></span></div>\n",
            escape(path)
        );
        for (i, source) in text.lines().enumerate() {
            html += &source_line(name, i + 1, source, files[*name].get(&(i + 1)));
        }
        html += "</section>\n";
    }
    html
}

fn source_line(file: &str, number: usize, source: &str, line: Option<&Line>) -> String {
    let code = code(source);
    let Some(line) = line else {
        return format!(
            "<div class=\"row\"><span>{number}</span><span></span><span></span><span></span><code>{code}</code></div>\n"
        );
    };
    let asked: u64 = line.accesses.iter().map(|(_, a)| a.bytes).sum();
    let cell = |space| match line.units(space) {
        None => "<span></span>".into(),
        Some((moved, least)) => {
            format!("<span class=\"{}\">{moved}{}</span>", grade(moved, least), excess(moved, least))
        }
    };
    let mut html = format!(
        "<details id=\"{}\"><summary class=\"row\"><span>{number}</span><span>{}</span>{}{}<code>{code}</code></summary>\n\
         <table>\n<tr><th>kernel<th>access<th>requests<th>bytes<th>moved<th>at least<th><th>ways<th class=\"code\">inlined at\n",
        anchor(file, number),
        if line.accesses.is_empty() { String::new() } else { bytes(asked) },
        cell(Space::Global),
        cell(Space::Shared),
    );
    for (kernel, a) in &line.accesses {
        let _ = writeln!(
            html,
            "<tr><td class=\"code\">{}<td>{}<td>{}<td>{}<td>{} {}<td>{}{}<td>{}<td class=\"code\">{}",
            escape(&kernel.name),
            a.what(),
            a.requests,
            bytes(a.bytes),
            a.moved,
            a.space.unit(),
            a.least,
            ratio_cell(a.moved, a.least),
            a.ways.map_or("–".into(), |ways| ways.to_string()),
            escape(&a.place.callers()),
        );
    }
    for (kernel, i) in &line.instructions {
        let _ = writeln!(
            html,
            "<tr><td class=\"code\">{}<td>{}<td>{}<td><td><td><td><td><td class=\"code\">{}",
            escape(&kernel.name),
            escape(&i.name),
            i.threads.div_ceil(32),
            escape(&i.place.callers()),
        );
    }
    html + "</table>\n</details>\n"
}

/// A line of source with its comment set apart.
fn code(source: &str) -> String {
    match source.find("//") {
        Some(at) => format!("{}<i>{}</i>", escape(&source[..at]), escape(&source[at..])),
        None => escape(source),
    }
}

fn kernels(report: &Report) -> impl Iterator<Item = &Kernel> {
    report.passes.iter().flat_map(|pass: &Counted| &pass.kernels)
}

fn anchor(file: &str, line: usize) -> String {
    escape(&format!("{file}-{line}"))
}

fn link(access: &Access) -> String {
    match access.place.0.first() {
        Some((file, line)) => format!("<a href=\"#{}\">{}:{line}</a>", anchor(file, *line), escape(file)),
        None => access.place.line(),
    }
}

/// How bad it is to move so much more than the least.
fn grade(moved: u64, least: u64) -> &'static str {
    match ratio(moved, least) {
        r if r >= 4.0 => "g3",
        r if r >= 1.5 => "g2",
        r if r > 1.0 => "g1",
        _ => "g0",
    }
}

fn excess(moved: u64, least: u64) -> String {
    if moved > least { format!(" <b>{:.2}×</b>", ratio(moved, least)) } else { String::new() }
}

fn ratio_cell(moved: u64, least: u64) -> String {
    format!("<td><span class=\"{}\">{:.2}×</span>", grade(moved, least), ratio(moved, least))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::counts::parse;
    use super::*;
    use ::kernels::DType;
    use ::kernels::op::Cost;

    fn report() -> Report {
        let text = "count kernel=k<T&> launches=1 blocks=1\n\
            count kernel=k<T&> buffer=\"x\" read=8 read_least=4 written=0 written_least=0\n\
            count kernel=k<T&> place=a.cu:2 space=shared access=write width=4 requests=1 bytes=128 passes=32 passes_least=1 ways=32\n";
        let kernels = parse(text, &|file| file == "a.cu").unwrap();
        let source = "// a < b && \"c\"\n  if (i<n) tile[32 * i] = '\"' & x; // <script>\n";
        Report {
            op: "a",
            case: "5 < 6 & </title>".into(),
            dtype: DType::Bf16,
            passes: vec![Counted { pass: "forward", cost: Cost { flops: 0, bytes: 4 }, kernels }],
            files: [("a.cu".to_string(), ("a/a.cu".to_string(), source.to_string()))].into(),
        }
    }

    #[test]
    fn nothing_that_is_shown_is_markup() {
        let html = html(&report());
        for text in [
            "<title>a, 5 &lt; 6 &amp; &lt;/title&gt;, bf16</title>",
            "<i>// a &lt; b &amp;&amp; &quot;c&quot;</i>",
            "  if (i&lt;n) tile[32 * i] = '&quot;' &amp; x; <i>// &lt;script&gt;</i>",
            "<td class=\"code\">k&lt;T&amp;&gt;",
            "<td class=\"code\">&quot;x&quot;",
        ] {
            assert!(html.contains(text), "{text} in\n{html}");
        }
        assert!(!html.contains("<script"));
    }

    #[test]
    fn a_line_is_found_from_the_summary_and_shows_its_conflict() {
        let html = html(&report());
        assert!(html.contains("<a href=\"#a.cu-2\">a.cu:2</a>"), "{html}");
        assert!(html.contains("<details id=\"a.cu-2\">"), "{html}");
        assert!(html.contains("<span class=\"g3\">32 <b>32.00×</b></span>"), "{html}");
        assert!(html.contains("<td>32<td class=\"code\">\n"), "its ways: {html}");
    }

    #[test]
    fn the_page_loads_nothing() {
        let html = html(&report());
        for what in ["http", "src=", "url(", "@import"] {
            assert!(!html.contains(what), "{what}");
        }
    }
}
