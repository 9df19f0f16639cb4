//! The table that the simulator prints of what it counted, as numbers. `kernels/sim/counters.h` says what each means.

use std::collections::HashMap;

/// What one kernel did in all of its launches.
#[derive(Debug, Default, PartialEq)]
pub struct Kernel {
    pub name: String,
    pub launches: u64,
    pub blocks: u64,
    pub buffers: Vec<Buffer>,
    pub accesses: Vec<Access>,
    pub instructions: Vec<Instruction>,
}

/// Bytes of one buffer that were asked for, and those that were asked for at all.
#[derive(Debug, PartialEq)]
pub struct Buffer {
    pub name: String,
    pub read: u64,
    pub read_least: u64,
    pub written: u64,
    pub written_least: u64,
}

/// A line of the source, innermost first where it was inlined into others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place(pub Vec<(String, usize)>);

/// The accesses of one width to one kind of memory by one place.
#[derive(Debug, PartialEq)]
pub struct Access {
    pub place: Place,
    pub space: Space,
    pub write: bool,
    pub width: u64,
    /// By warps.
    pub requests: u64,
    pub bytes: u64,
    /// Sectors of 32 bytes, or times that the banks of shared memory were gone through, and the fewest there could be.
    pub moved: u64,
    pub least: u64,
    /// The most words of one bank that a request wanted; 1 has no conflict. None of global memory.
    pub ways: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Shared,
}

/// A wrapper of `ptx.cuh`, or a barrier, and how many threads executed it there.
#[derive(Debug, PartialEq)]
pub struct Instruction {
    pub place: Place,
    pub name: String,
    pub threads: u64,
}

impl Space {
    pub fn name(self) -> &'static str {
        match self {
            Space::Global => "global",
            Space::Shared => "shared",
        }
    }

    /// What `moved` counts.
    pub fn unit(self) -> &'static str {
        match self {
            Space::Global => "sectors",
            Space::Shared => "passes",
        }
    }

    /// Bytes that one of them can move.
    pub fn unit_bytes(self) -> u64 {
        match self {
            Space::Global => 32,
            Space::Shared => 32 * 4,
        }
    }
}

impl Access {
    /// Bytes that what was moved beyond the least could have moved: what the worst lines are found by.
    pub fn lost_bytes(&self) -> u64 {
        (self.moved - self.least) * self.space.unit_bytes()
    }

    /// How often the least was moved.
    pub fn ratio(&self) -> f64 {
        ratio(self.moved, self.least)
    }

    /// `global read`, and how wide.
    pub fn what(&self) -> String {
        let direction = if self.write { "write" } else { "read" };
        format!("{} {direction} {} B", self.space.name(), self.width)
    }
}

/// `moved / least`, where nothing of nothing is all there is.
pub fn ratio(moved: u64, least: u64) -> f64 {
    if least == 0 { 1.0 } else { moved as f64 / least as f64 }
}

impl Kernel {
    /// Bytes of global memory: moved as sectors, asked for by requests, and asked for at all.
    pub fn global_bytes(&self) -> [u64; 3] {
        let global = self.accesses.iter().filter(|a| a.space == Space::Global);
        [
            global.map(|a| a.moved * a.space.unit_bytes()).sum(),
            self.buffers.iter().map(|b| b.read + b.written).sum(),
            self.buffers.iter().map(|b| b.read_least + b.written_least).sum(),
        ]
    }

    /// Passes through the banks of shared memory, and how many there would be without conflicts.
    pub fn passes(&self) -> [u64; 2] {
        let shared = || self.accesses.iter().filter(|a| a.space == Space::Shared);
        [shared().map(|a| a.moved).sum(), shared().map(|a| a.least).sum()]
    }

    /// The accesses of which something could be mended first, then by what they move.
    pub fn worst_first(&self) -> Vec<&Access> {
        let mut all: Vec<&Access> = self.accesses.iter().collect();
        all.sort_by_key(|a| std::cmp::Reverse((a.lost_bytes(), a.moved * a.space.unit_bytes())));
        all
    }
}

impl Place {
    /// `mma.cuh:40<flash.cuh:52`, without the frames of files that are not `known`: the host's library.
    fn parse(text: &str, known: &dyn Fn(&str) -> bool) -> Self {
        let frame = |frame: &str| {
            let (file, line) = frame.rsplit_once(':')?;
            known(file).then(|| Some((file.to_string(), line.parse().ok()?))).flatten()
        };
        Place(text.split('<').filter_map(frame).collect())
    }

    /// Where it is written.
    pub fn line(&self) -> String {
        match self.0.first() {
            Some((file, line)) => format!("{file}:{line}"),
            None => "an unknown line".into(),
        }
    }

    /// Where that is inlined.
    pub fn callers(&self) -> String {
        let callers: Vec<String> =
            self.0.iter().skip(1).map(|(file, line)| format!("{file}:{line}")).collect();
        callers.join(" < ")
    }
}

/// The kernels in what a process printed; lines that are not of the table are passed over. `known` says which files are
/// those of the kernels.
pub fn parse(text: &str, known: &dyn Fn(&str) -> bool) -> Result<Vec<Kernel>, String> {
    let mut kernels: Vec<Kernel> = vec![];
    for line in text.lines().filter_map(|line| line.strip_prefix("count kernel=")) {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let fields: HashMap<&str, &str> = rest.split(' ').filter_map(|f| f.split_once('=')).collect();
        let word = |key: &str| fields.get(key).copied().ok_or_else(|| format!("no {key} in: {line}"));
        let number = |key: &str| word(key)?.parse::<u64>().map_err(|e| format!("{key}: {e} in: {line}"));
        if kernels.last().is_none_or(|k| k.name != name) {
            kernels.push(Kernel { name: name.into(), ..Kernel::default() });
        }
        let kernel = kernels.last_mut().expect("one was pushed");
        if fields.contains_key("launches") {
            (kernel.launches, kernel.blocks) = (number("launches")?, number("blocks")?);
        } else if let Some(buffer) = fields.get("buffer") {
            kernel.buffers.push(Buffer {
                name: buffer.to_string(),
                read: number("read")?,
                read_least: number("read_least")?,
                written: number("written")?,
                written_least: number("written_least")?,
            });
        } else if let Some(instruction) = fields.get("instruction") {
            let place = Place::parse(word("place")?, known);
            kernel.instructions.push(Instruction {
                place,
                name: instruction.to_string(),
                threads: number("threads")?,
            });
        } else {
            let space = if word("space")? == "shared" { Space::Shared } else { Space::Global };
            let unit = space.unit();
            kernel.accesses.push(Access {
                place: Place::parse(word("place")?, known),
                space,
                write: word("access")? == "write",
                width: number("width")?,
                requests: number("requests")?,
                bytes: number("bytes")?,
                moved: number(unit)?,
                least: number(&format!("{unit}_least"))?,
                ways: (space == Space::Shared).then(|| number("ways")).transpose()?,
            });
        }
    }
    Ok(kernels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = "compiling\n\
        count kernel=a launches=1 blocks=2\n\
        count kernel=a buffer=x=y read=8 read_least=4 written=2 written_least=2\n\
        count kernel=a place=stl.h:9<m.cuh:40<a.cu:7 space=global access=read width=16 requests=2 bytes=1024 sectors=64 sectors_least=32\n\
        count kernel=a place=a.cu:9 space=shared access=write width=4 requests=1 bytes=128 passes=32 passes_least=1 ways=32\n\
        count kernel=a place=a.cu:8 instruction=mma threads=32\n\
        count kernel=b launches=3 blocks=3\n";

    #[test]
    fn the_table_is_read_as_it_is_printed() {
        let kernels = parse(TEXT, &|file| file != "stl.h").unwrap();
        assert_eq!(kernels.len(), 2);
        let a = &kernels[0];
        assert_eq!((a.name.as_str(), a.launches, a.blocks, kernels[1].launches), ("a", 1, 2, 3));
        assert_eq!(a.buffers[0].name, "x=y");
        assert_eq!(a.accesses[0].place, Place(vec![("m.cuh".into(), 40), ("a.cu".into(), 7)]));
        assert_eq!((a.accesses[0].ratio(), a.accesses[0].lost_bytes()), (2.0, 1024));
        assert_eq!((a.accesses[1].ways, a.accesses[1].lost_bytes()), (Some(32), 31 * 128));
        assert_eq!(a.worst_first()[0].place.line(), "a.cu:9");
        assert_eq!((a.global_bytes(), a.passes()), ([64 * 32, 10, 6], [32, 1]));
    }

    #[test]
    fn a_line_that_lacks_something_is_an_error_that_shows_it() {
        let error = parse("count kernel=a buffer=x read=8\n", &|_| true).unwrap_err();
        assert_eq!(error, "no read_least in: a buffer=x read=8");
        assert!(parse("count kernel=a launches=x blocks=1", &|_| true).unwrap_err().starts_with("launches:"));
    }
}
