//! The counts as text: of each kernel its totals, its buffers, and its lines, the worst first.

use super::bytes;
use super::counts::{Access, Buffer, Kernel, ratio};
use super::{Counted, Report};

/// Characters of a source line that are shown.
const SOURCE_WIDTH: usize = 96;

pub fn text(report: &Report, lines: usize) -> String {
    let mut text = format!("{}, {}, {}: counts of the simulated GPU\n", report.op, report.case, report.dtype);
    if let Some(caveat) = report.caveat() {
        text += &format!("note: {caveat}\n");
    }
    for pass in &report.passes {
        text += &format!("\n{}: {}\n", pass.pass, summary(pass));
        for kernel in &pass.kernels {
            text += &kernel_text(report, kernel, lines);
        }
    }
    text
}

/// What the kernels of a pass moved together, beside what the op says has to be moved.
fn summary(pass: &Counted) -> String {
    if pass.kernels.is_empty() {
        return "no kernel ran".into();
    }
    let moved: u64 = pass.kernels.iter().map(|kernel| kernel.global_bytes()[0]).sum();
    format!(
        "{} moved in sectors, {:.2}x the {} that the op has to move",
        bytes(moved),
        ratio(moved, pass.cost.bytes),
        bytes(pass.cost.bytes)
    )
}

fn kernel_text(report: &Report, kernel: &Kernel, lines: usize) -> String {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let ([moved, asked, least], [passes, fewest]) = (kernel.global_bytes(), kernel.passes());
    let mut text = format!(
        "\n{}: {} launch{}, {} block{}\n",
        kernel.name,
        kernel.launches,
        if kernel.launches == 1 { "" } else { "es" },
        kernel.blocks,
        plural(kernel.blocks),
    );
    text += &format!(
        "  global memory: {} moved, {} asked for, {} at least; shared memory: {passes} passes, {fewest} at least\n",
        bytes(moved),
        bytes(asked),
        bytes(least)
    );
    text += &format!(
        "\n  {:<22} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}\n",
        "buffer", "read", "at least", "", "written", "at least", ""
    );
    for buffer in &kernel.buffers {
        text += &buffer_line(buffer);
    }
    text += &format!(
        "\n  {:<18} {:>9} {:>9} {:>9} {:>9} {:>7} {:>4}  line\n",
        "access", "requests", "bytes", "moved", "at least", "", "ways"
    );
    let worst = kernel.worst_first();
    for access in worst.iter().take(lines) {
        text += &access_line(report, access);
    }
    let left = &worst[lines.min(worst.len())..];
    if !left.is_empty() {
        let bad = left.iter().filter(|access| access.lost_bytes() > 0).count();
        text += &format!("  {} more, {bad} of them with more than the least: --lines\n", left.len());
    }
    text
}

fn buffer_line(buffer: &Buffer) -> String {
    let part = |moved: u64, least: u64| {
        if moved == 0 {
            return format!("{:>9} {:>9} {:>7}", "-", "-", "");
        }
        format!("{:>9} {:>9} {:>6.2}x", bytes(moved), bytes(least), ratio(moved, least))
    };
    let line = format!(
        "  {:<22} {} {}",
        buffer.name,
        part(buffer.read, buffer.read_least),
        part(buffer.written, buffer.written_least)
    );
    line.trim_end().to_string() + "\n"
}

fn access_line(report: &Report, access: &Access) -> String {
    let ways = access.ways.map_or("-".into(), |ways| ways.to_string());
    let mut line = format!(
        "  {:<18} {:>9} {:>9} {:>9} {:>9} {:>6.2}x {ways:>4}  {}",
        access.what(),
        access.requests,
        bytes(access.bytes),
        access.moved,
        access.least,
        access.ratio(),
        access.place.line(),
    );
    let callers = access.place.callers();
    if !callers.is_empty() {
        line += &format!(" < {callers}");
    }
    line += "\n";
    if let Some((file, number)) = access.place.0.first()
        && let Some(source) = report.source(file, *number)
    {
        let source = source.trim();
        let shown: String = source.chars().take(SOURCE_WIDTH).collect();
        let more = if shown.len() < source.len() { " …" } else { "" };
        line += &format!("  {:<18}   {shown}{more}\n", "");
    }
    line
}
