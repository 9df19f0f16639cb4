//! The files that make the most memory of a byte: what the bounds in `targets.rs` are measured with.
//!
//! A fuzzer's files are small, and a parser may take some memory whatever it is given, so that a fuzzer never sees a bound.
//! Here is of each format what repeats the shortest text that becomes a value, a key, an entry or a pixel.

/// A name for messages, and the file.
type Dense = (&'static str, Vec<u8>);

/// The densest files of a target, of about `size` bytes.
pub fn files(target: &str, size: usize) -> Vec<Dense> {
    match target {
        "image" => images(),
        "safetensors" => weights(size),
        "sentencepiece" => vec![("pieces", pieces(size))],
        "tokenizer_json" => [json(size), vec![("vocabulary", vocabulary(size))]].concat(),
        "config" => configurations(size),
        "records" => records(size),
        "model_json" | "trainer_state" => json(size),
        other => panic!("{other}: no densest file is known"),
    }
}

/// `before`, then `part(0)`, `part(1)` … up to `size` with `between` between them, then `after`.
fn repeated(
    size: usize,
    before: &str,
    part: impl Fn(usize) -> String,
    between: &str,
    after: &str,
) -> Vec<u8> {
    let mut text = before.to_string() + &part(0);
    let mut count = 1;
    while text.len() < size {
        text += between;
        text += &part(count);
        count += 1;
    }
    (text + after).into_bytes()
}

fn always(part: &str) -> impl Fn(usize) -> String {
    move |_| part.to_string()
}

/// Another short word for each number.
fn word(number: usize) -> String {
    format!("{number:x}")
}

fn json(size: usize) -> Vec<Dense> {
    vec![
        ("numbers", repeated(size, "[", always("0"), ",", "]")),
        ("lists", repeated(size, "[", always("[0]"), ",", "]")),
        ("texts", repeated(size, "[", always("\"a\""), ",", "]")),
        ("keys", repeated(size, "{", |i| format!("\"{}\":0", word(i)), ",", "}")),
        ("objects", repeated(size, "[", always("{\"\":0}"), ",", "]")),
    ]
}

fn records(size: usize) -> Vec<Dense> {
    let turns = r#""conversations":[{"from":"human","value":""},{"from":"gpt","value":""}]"#;
    let (ask, answer) = (r#"{"from":"human","value":""}"#, r#"{"from":"gpt","value":""}"#);
    let images = format!("[{{{turns},\"image\":[");
    vec![
        ("records", repeated(size, "[", move |_| format!("{{{turns}}}"), ",", "]")),
        ("turns", repeated(size, "[{\"conversations\":[", move |_| format!("{ask},{answer}"), ",", "]}]")),
        ("images", repeated(size, &images, always("\"a\""), ",", "]}]")),
        ("a key that is not read", repeated(size, &format!("[{{{turns},\"x\":["), always("0"), ",", "]}]")),
    ]
}

fn configurations(size: usize) -> Vec<Dense> {
    let list = vec!["0"; 1000].join(",");
    vec![
        ("numbers", repeated(size, "[", always("0"), ",", "]")),
        ("items", repeated(size, "", always("- "), "\n", "\n")),
        ("lists", repeated(size, "[", always("[]"), ",", "]")),
        ("keys", repeated(size, "{", word, ",", "}")),
        ("aliases", repeated(size, &format!("a: &a [{list}]\nb: ["), always("*a"), ",", "]")),
    ]
}

fn weights(size: usize) -> Vec<Dense> {
    let file = |header: Vec<u8>, data: usize| {
        [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; data]].concat()
    };
    let entry = |i| format!("\"{}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", word(i));
    let shape = repeated(
        size,
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[",
        always("1"),
        ",",
        "],\"data_offsets\":[0,4]}}",
    );
    let metadata = repeated(size, "{\"__metadata__\":{", |i| format!("\"{}\":\"\"", word(i)), ",", "}}");
    vec![
        ("tensors", file(repeated(size, "{", entry, ",", "}"), 0)),
        ("shape", file(shape, 4)),
        ("metadata", file(metadata, 0)),
        ("numbers", file(repeated(size, "{\"a\":[", always("0"), ",", "]}"), 0)),
    ]
}

fn pieces(size: usize) -> Vec<u8> {
    let mut file = vec![];
    let mut put = |text: &str, kind: &[u8]| {
        let piece = [&[0x0a, text.len() as u8], text.as_bytes(), kind].concat();
        file.extend([0x0a, piece.len() as u8]);
        file.extend(piece);
        file.len()
    };
    put("<unk>", &[0x18, 2]);
    let mut count = 0;
    while put(&word(count), &[]) < size {
        count += 1;
    }
    // A trainer that says BPE, and a normalizer.
    file.extend([0x12, 2, 0x18, 2, 0x1a, 0]);
    file
}

fn vocabulary(size: usize) -> Vec<u8> {
    let entry = |i| format!("\"{}\":{i}", word(i));
    let before = r#"{"model":{"type":"BPE","unk_token":"0","merges":["0 0"],"vocab":{"00":"#;
    // The first word of two digits is another, so that the merge is one of the vocabulary.
    repeated(size, &format!("{before}0,\"0\":1,"), |i| entry(i + 2), ",", "}}}")
}

fn images() -> Vec<Dense> {
    vec![
        ("a bit per pixel", bits()),
        ("grey", coefficients(1, [2048, 2048], 1)),
        ("YCbCr", coefficients(3, [2048, 2048], 2)),
        ("CMYK", coefficients(4, [2048, 2048], 1)),
        ("thin", coefficients(3, [1, 65_535], 2)),
    ]
}

/// A PNG of one colour, a bit per pixel.
fn bits() -> Vec<u8> {
    let side = 2048;
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().expect("a header can be written");
    writer.write_image_data(&vec![0; (side * side / 8) as usize]).expect("an image can be written");
    writer.finish().expect("an image can be ended");
    file
}

/// A progressive JPEG of one colour with only its first scan: a bit for each block of 64 pixels. The first component has
/// `sampling` times as many columns and rows as the others.
fn coefficients(components: u8, [width, height]: [u16; 2], sampling: u8) -> Vec<u8> {
    let segment = |marker: u8, body: Vec<u8>| {
        [&[0xff, marker][..], &(body.len() as u16 + 2).to_be_bytes(), &body].concat()
    };
    let ([w1, w0], [h1, h0]) = (width.to_be_bytes(), height.to_be_bytes());
    let mut frame = vec![8, h1, h0, w1, w0, components];
    let mut scan = vec![components];
    for id in 1..=components {
        frame.extend([id, if id == 1 { sampling << 4 | sampling } else { 0x11 }, 0]);
        scan.extend([id, 0]);
    }
    scan.extend([0, 0, 0]); // the first coefficient alone, all its bits
    let mut lengths = vec![0; 17];
    lengths[1] = 1; // one code of one bit, 0: no difference to the block before
    let units = [width, height].map(|side| usize::from(side).div_ceil(8 * usize::from(sampling)));
    let blocks = units[0] * units[1] * usize::from(sampling.pow(2) + components - 1);
    [
        vec![0xff, 0xd8],
        segment(0xdb, [vec![0], vec![1; 64]].concat()),
        segment(0xc2, frame),
        segment(0xc4, [lengths, vec![0]].concat()),
        segment(0xda, scan),
        vec![0; blocks.div_ceil(8)],
        vec![0xff, 0xd9],
    ]
    .concat()
}
