//! What a fuzzer and the tests do with foreign bytes: one function for each parser, and what must hold of it.
//!
//! A parser takes the bytes or refuses them with a sentence; it never panics, and never takes more memory than a small
//! multiple of what it was given. What it takes must keep its own promises, which the functions check too. They read the
//! bytes from a file where the program does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use neva::checkpoint::{Tensors, arch};
use neva::config::Config;
use neva::image::{Image, MAX_PIXELS, Preprocess, Processor};
use neva::tokenizer::Tokenizer;
use neva::{data, train};
use peak_alloc::PeakAlloc;

/// Counts what is allocated.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Memory that a parser may take whatever it is given: tables of 256 entries, buffers of an inflater, what a short JSON
/// text may take.
const FLOOR_BYTES: usize = 256 << 10;

/// A parser of foreign bytes.
pub struct Target {
    /// Its name: that of its folder in `corpus/` and of its binary.
    pub name: &'static str,
    /// Hands the bytes to the parser; the directory is for files. Returns how many bytes of memory the result may take
    /// beside `factor`: those of a decoded picture, else none.
    read: fn(&[u8], &Path) -> usize,
    /// The bytes of memory that a byte of the file may cost.
    factor: usize,
}

/// Every parser.
///
/// A factor is what the densest file of the format takes (`dense.rs`), with a margin of a few percent:
///
/// - JSON: `neva/json.rs` lets a tree take 32 times its text, beside the text. 8 is out of reach of a tree: a value is 32
///   bytes for two (`0,`), a list that grows holds its old half too, and an object of one key is 632 bytes for eight.
/// - SentencePiece: a piece of seven bytes has a text, a kind, a rank and an entry of a hash table.
/// - safetensors: the crate of its authors reads a shape, two bytes a number, into lists of 8-byte numbers that grow.
/// - YAML: libyaml's port makes a list of events, over a hundred bytes each, before there is a tree; `[],` is two. A
///   configuration is at most 1 MiB.
/// - A picture costs what it decodes to ([`decoded`]); of its file only the rest is counted here.
pub const TARGETS: [Target; 8] = [
    Target { name: "image", read: image, factor: 8 },
    Target { name: "safetensors", read: safetensors, factor: 50 },
    Target { name: "sentencepiece", read: sentencepiece, factor: 20 },
    Target { name: "tokenizer_json", read: tokenizer_json, factor: 34 },
    Target { name: "config", read: config, factor: 200 },
    Target { name: "records", read: records, factor: 34 },
    Target { name: "model_json", read: model_json, factor: 34 },
    Target { name: "trainer_state", read: trainer_state, factor: 34 },
];

impl Target {
    /// Reads `data`. Returns the most memory that was held beside it at once, and what may be: bytes.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn run(&self, data: &[u8], dir: &Path) -> [usize; 2] {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let made = (self.read)(data, dir);
        let used = HEAP.peak_usage().saturating_sub(before);
        let most = FLOOR_BYTES + self.factor * data.len() + made;
        assert!(used <= most, "{}: {used} bytes of memory for {} bytes of input", self.name, data.len());
        [used, most]
    }
}

/// What a fuzzer calls.
#[allow(dead_code)] // the tests call `Target::run`
pub fn fuzz(name: &str, data: &[u8]) {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let dir = parent.join(format!("neva-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for files");
        dir
    });
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of this name");
    target.run(data, &DIR);
}

fn write(dir: &Path, name: &str, data: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, data).expect("a file can be written");
    path
}

/// A refusal is one sentence: it has words, and no line break that would make two lines of an error.
fn sentence<T>(result: neva::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() > 10 && !text.contains('\n'), "no sentence: {text:?}");
            assert!(text.len() < 2000, "a sentence of {} bytes: {text:.200}", text.len());
            None
        }
    }
}

/// Bytes of memory that decoding a picture may take: it is rounded up to the blocks of a JPEG, and of one with four inks
/// there are coefficients of 16 bits, what they decode to, and RGB.
fn decoded(width: usize, height: usize) -> usize {
    let pixels = width.next_multiple_of(16) * height.next_multiple_of(16);
    pixels * (4 * 2 + 4 + 3)
}

fn image(data: &[u8], dir: &Path) -> usize {
    let Some(image) = sentence(Image::from_bytes(data, &dir.join("x.png"))) else {
        // It may have been decoded in part: deflate makes 1,032 bytes of one, of 8 pixels each.
        return decoded((data.len() * 1032).min(MAX_PIXELS as usize / 8), 8);
    };
    assert!(image.width > 0 && image.height > 0);
    assert_eq!(image.rgb.len(), image.width * image.height * 3);
    decoded(image.width, image.height)
}

fn safetensors(data: &[u8], dir: &Path) -> usize {
    let path = write(dir, "model.safetensors", data);
    let Some(tensors) = sentence(Tensors::open_files(dir, vec![path])) else { return 0 };
    for name in ["a", "weight", "language_model.model.norm.weight"] {
        if let Some(entry) = sentence(tensors.find(&[name.to_string()])) {
            let elements = entry.dims.iter().product::<usize>();
            assert_eq!(tensors.bytes(entry).len(), elements * entry.dtype.size());
        }
    }
    0
}

/// Texts with what tokenizers treat in a way of their own.
const TEXTS: [&str; 5] = [
    "",
    "<s> </s>  ",
    "  Hello,\n world's 12345!  ",
    "<s>é漢🦀</s> <image> a",
    "\u{2581}\u{2581} x\u{0}\u{fffd}",
];

fn tokenizer(path: &Path) {
    let Some(tokenizer) = sentence(Tokenizer::load_file(path)) else { return };
    for text in TEXTS {
        let pieces = tokenizer.encode(text);
        let mut at = 0;
        for piece in &pieces {
            assert!((piece.id as usize) < tokenizer.vocab_size(), "an id outside the vocabulary");
            assert_eq!(piece.span.start, at, "a gap between pieces of {text:?}");
            assert!(piece.span.end >= at);
            at = piece.span.end;
        }
        assert!(pieces.is_empty() || at == text.len(), "{text:?} is not covered to its end");
        let ids: Vec<u32> = pieces.iter().map(|p| p.id).collect();
        tokenizer.decode(&ids, true);
    }
    tokenizer.decode(&[0, 1, u32::MAX], false);
}

fn sentencepiece(data: &[u8], dir: &Path) -> usize {
    tokenizer(&write(dir, "tokenizer.model", data));
    0
}

fn tokenizer_json(data: &[u8], dir: &Path) -> usize {
    tokenizer(&write(dir, "tokenizer.json", data));
    0
}

/// The YAML, and behind each byte 0x1e (the record separator of ASCII) a word of the command line.
fn config(data: &[u8], _: &Path) -> usize {
    let Ok(text) = std::str::from_utf8(data) else { return 0 };
    let mut parts = text.split('\u{1e}');
    let yaml = parts.next().unwrap_or_default();
    let words: Vec<String> = parts.map(str::to_string).collect();
    let Some(config) = sentence(Config::parse("fuzz.yaml", yaml, &words)) else { return 0 };
    let resolved = config.resolved_yaml();
    let again = Config::parse("fuzz.yaml", &resolved, &[]).expect("what is written can be read");
    assert_eq!(again.resolved_yaml(), resolved, "what is written reads back as it was");
    0
}

fn records(data: &[u8], dir: &Path) -> usize {
    let Some(records) = sentence(data::read(&write(dir, "records.json", data))) else { return 0 };
    assert!(!records.is_empty());
    for record in records {
        let places: usize = record.turns.iter().map(|t| t.question.matches(data::IMAGE).count()).sum();
        assert_eq!(places, record.images.len());
        assert!(!record.turns.is_empty());
    }
    0
}

/// As long as the file of a processor is.
const SHORT_BYTES: usize = 2048;

/// Each reader of JSON beside a model's weights gets the same bytes.
fn model_json(data: &[u8], dir: &Path) -> usize {
    let path = write(dir, "config.json", data);
    sentence(arch::read_vision(&path));
    sentence(arch::read_llm(&path));
    if let Some((config, _)) = sentence(arch::read(&path)) {
        assert!(config.image_token < config.llm.vocab_size as u32);
        assert!(config.llm.rotary_dim() <= config.llm.head_dim);
        assert!(config.vision.layers_used() <= config.vision.layers);
    }
    let index = dir.join("index");
    fs::create_dir_all(&index).expect("a directory for files");
    write(&index, "model.safetensors.index.json", data);
    sentence(Tensors::open(&index));
    // This tree is made here, without the bound of the program's own: only of a short text.
    if data.len() <= SHORT_BYTES
        && let Ok(json) = serde_json::from_slice(data)
    {
        if let Some(preprocess) = sentence(Preprocess::from_json(&json, &path)) {
            assert!(preprocess.size > 0);
        }
        sentence(Processor::from_json(&json, &path));
    }
    0
}

fn trainer_state(data: &[u8], dir: &Path) -> usize {
    let state = dir.join("checkpoints/step-00000005/trainer");
    fs::create_dir_all(&state).expect("a directory for files");
    write(&state, "state.json", data);
    if let Some(saved) = sentence(train::list(dir)) {
        assert_eq!(saved.len(), 1);
    }
    0
}
