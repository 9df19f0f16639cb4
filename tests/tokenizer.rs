//! The tokenizer against its oracles, on text of every kind, and on broken files.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use neva::tokenizer::{Piece, Tokenizer, train};
use proptest::prelude::*;
use serde_json::Value;

/// The committed vocabularies and golden files.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer")
}

fn ids(pieces: &[Piece]) -> Vec<u32> {
    pieces.iter().map(|piece| piece.id).collect()
}

fn id_list(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Checks that the spans follow each other from the first byte of `text` to its last.
fn assert_spans_cover(pieces: &[Piece], text: &str) {
    let mut at = 0;
    for piece in pieces {
        assert_eq!(piece.span.start, at, "{pieces:?} of {text:?}");
        assert!(piece.span.end >= at, "{pieces:?} of {text:?}");
        at = piece.span.end;
    }
    assert_eq!(at, text.len(), "{pieces:?} of {text:?}");
}

/// Checks every case of a golden file; tells how many there were.
fn check_golden(path: &Path) -> usize {
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let name = golden["vocabulary"].as_str().unwrap();
    let tokenizer = Tokenizer::load_file(&path.with_file_name(name)).unwrap();
    let encode = golden["encode"].as_array().unwrap();
    for case in encode {
        let text = case["text"].as_str().unwrap();
        let pieces = tokenizer.encode(text);
        assert_eq!(ids(&pieces), id_list(&case["ids"]), "{name}: {text:?}");
        if !pieces.is_empty() {
            assert_spans_cover(&pieces, text);
        }
    }
    let decode = golden["decode"].as_array().unwrap();
    for case in decode {
        let ids = id_list(&case["ids"]);
        assert_eq!(tokenizer.decode(&ids, false), case["text"].as_str().unwrap(), "{name}: {ids:?}");
    }
    encode.len() + decode.len()
}

#[test]
fn ids_and_text_are_those_of_the_golden_files() {
    let extra = std::env::var_os("NEVA_TOKENIZER_GOLDEN").map(PathBuf::from);
    let mut cases = 0;
    for directory in [Some(data()), extra].into_iter().flatten() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().ends_with(".golden.json") {
                let checked = check_golden(&path);
                println!("{}: {checked} cases", path.display());
                cases += checked;
            }
        }
    }
    assert!(cases > 0, "no golden files");
}

/// The text that the committed vocabularies were learned from.
fn text() -> String {
    std::fs::read_to_string(data().join("text.txt")).unwrap()
}

/// The committed SentencePiece model.
fn small() -> Tokenizer {
    Tokenizer::load_file(&data().join("small.model")).unwrap()
}

/// Every committed vocabulary that can spell any text: those but `unknown`, which has no bytes.
fn complete() -> Vec<(String, Tokenizer)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if name.ends_with(".model") || (name.ends_with(".tokenizer.json") && !name.starts_with("unknown")) {
            found.push((name, Tokenizer::load_file(&path).unwrap()));
        }
    }
    assert_eq!(found.len(), 8);
    found
}

fn temporary(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tokenizer").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// `NEVA_BLESS=1` rewrites the model; then rewrite its golden file with `tokenizer_oracle.py --golden`.
#[test]
fn training_again_gives_the_committed_model() {
    let directory = temporary("train");
    train([text().as_str()], 700, &["<image>"]).unwrap().save(&directory).unwrap();
    let made = std::fs::read(directory.join("tokenizer.model")).unwrap();
    if std::env::var_os("NEVA_BLESS").is_some() {
        std::fs::write(data().join("small.model"), &made).unwrap();
    }
    assert!(made == std::fs::read(data().join("small.model")).unwrap());
}

#[test]
fn every_character_of_the_text_is_a_piece() {
    let tokenizer = small();
    for character in text().chars().filter(|&character| character != ' ') {
        assert!(tokenizer.id(&character.to_string()).is_some(), "{character:?}");
    }
    let pieces = tokenizer.encode(&text());
    assert!(pieces.iter().all(|piece| !tokenizer.piece(piece.id).unwrap().starts_with("<0x")));
}

#[test]
fn frequent_words_are_one_piece() {
    let tokenizer = small();
    let expected = ["▁the", "▁ball"].map(|piece| tokenizer.id(piece).unwrap());
    assert_eq!(ids(&tokenizer.encode("the ball")), expected);
}

#[test]
fn special_pieces_come_last_and_in_order() {
    let tokenizer = small();
    let first = tokenizer.vocab_size() as u32 - 9;
    for index in 0..8 {
        assert_eq!(tokenizer.id(&format!("<extra_id_{index}>")), Some(first + index));
    }
    assert_eq!(tokenizer.id("<image>"), Some(first + 8));
    assert_eq!(
        (tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
        (Some(0), Some(1), Some(2), None)
    );
}

#[test]
fn control_pieces_are_literal_and_take_no_dummy_prefix() {
    let tokenizer = small();
    let pieces = |text: &str| {
        let ids = ids(&tokenizer.encode(text));
        ids.iter().map(|&id| tokenizer.piece(id).unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(pieces("a</s>a<s> a"), ["▁a", "</s>", "a", "<s>", "▁a"]);
    assert_eq!(pieces("<s>a"), ["<s>", "a"]);
    assert_eq!(pieces("<image>a"), ["▁", "<image>", "a"]);
    assert_eq!(tokenizer.decode(&ids(&tokenizer.encode("<s>a</s> a")), true), "<s>a</s> a");
    assert_eq!(tokenizer.decode(&ids(&tokenizer.encode("<s>a</s> a<image>")), false), "a a<image>");
}

#[test]
fn parts_of_a_text_decode_to_the_text() {
    let text = "a dog's\n\n  2 tails é字";
    for (name, tokenizer) in complete() {
        for (at, _) in text.char_indices() {
            let mut pieces = tokenizer.encode_part(text, 0..at);
            pieces.extend(tokenizer.encode_part(text, at..text.len()));
            assert_spans_cover(&pieces, text);
            let whole = tokenizer.decode(&ids(&tokenizer.encode(text)), true);
            assert_eq!(tokenizer.decode(&ids(&pieces), true), whole, "{name}: cut at {at}");
        }
    }
    let small = small();
    let part = small.encode_part("red circle", 4..10);
    let spelled: String = part.iter().map(|piece| small.piece(piece.id).unwrap()).collect();
    assert_eq!(spelled, "circle", "no dummy prefix inside a text");
}

#[test]
fn a_vocabulary_that_cannot_be_made_is_refused() {
    let error = |size, special: &[&str]| train(["ab"], size, special).unwrap_err().to_string();
    assert_eq!(
        error(269, &[]),
        "a vocabulary of 269 pieces is too small, expected at least 270: 3 control pieces, 256 bytes, 3 characters of \
         the text and 8 special tokens"
    );
    assert_eq!(error(300, &["<s>"]), "special token: pieces 1 and 270 are both \"<s>\"");
    assert_eq!(error(300, &[""]), "special token: piece 270 is empty");
    assert_eq!(error(300, &["<a b>"]), "special token: \"<a b>\" holds whitespace");
}

#[test]
fn a_saved_directory_loads_again() {
    let directory = temporary("save");
    small().save(&directory).unwrap();
    assert_eq!(
        std::fs::read(directory.join("tokenizer.model")).unwrap(),
        std::fs::read(data().join("small.model")).unwrap()
    );
    let config = std::fs::read(directory.join("tokenizer_config.json")).unwrap();
    let loaded = Tokenizer::load(&directory).unwrap();
    assert_eq!((loaded.bos(), loaded.eos(), loaded.unk(), loaded.pad()), (Some(1), Some(2), Some(0), None));
    loaded.save(&directory).unwrap();
    assert_eq!(std::fs::read(directory.join("tokenizer_config.json")).unwrap(), config);
}

#[test]
fn tokenizer_config_adds_tokens_and_names_roles() {
    let directory = temporary("config");
    let tokenizer = small();
    let next = tokenizer.vocab_size() as u32;
    tokenizer.save(&directory).unwrap();
    let load = |config: &str| {
        std::fs::write(directory.join("tokenizer_config.json"), config).unwrap();
        Tokenizer::load(&directory)
    };
    let loaded = load(&format!(
        r#"{{"added_tokens_decoder": {{"{}": {{"content": "<pad>", "special": true}}, "{next}": {{"content": "<media>"}}}},
            "pad_token": {{"content": "<pad>"}}, "eos_token": "<extra_id_7>"}}"#,
        next + 1
    ))
    .unwrap();
    assert_eq!((loaded.pad(), loaded.eos()), (Some(next + 1), loaded.id("<extra_id_7>")));
    assert_eq!(ids(&loaded.encode("<media><pad>")), [next, next + 1]);
    assert_eq!(loaded.decode(&[next, next + 1], false), "<media>");

    let path = directory.join("tokenizer_config.json");
    let error =
        |config: &str| load(config).unwrap_err().to_string().replace(path.to_str().unwrap(), "CONFIG");
    assert_eq!(error("[]"), "CONFIG: expected a JSON object");
    assert_eq!(error(r#"{"bos_token": 1}"#), "CONFIG: bos_token: expected a string");
    assert_eq!(error(r#"{"bos_token": "<b>"}"#), "CONFIG: bos_token: \"<b>\" is not in the vocabulary");
    assert_eq!(
        error(r#"{"added_tokens_decoder": {"x": {}}}"#),
        "CONFIG: added_tokens_decoder: \"x\" is not an id"
    );
    assert_eq!(
        error(r#"{"added_tokens_decoder": {"1": {"content": "<b>"}}}"#),
        format!("CONFIG: added_tokens_decoder: 1 is \"<b>\", but the {next} pieces have \"<s>\" there")
    );
    assert_eq!(
        error(r#"{"added_tokens_decoder": {"4000000000": {"content": "<b>"}}}"#),
        format!(
            "CONFIG: added_tokens_decoder: 4000000000 is \"<b>\", but the {next} pieces have nothing there"
        )
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(directory.join("tokenizer.model")).unwrap();
    let error = Tokenizer::load(&directory).unwrap_err().to_string();
    assert!(
        error.ends_with("config: has no tokenizer.model and no tokenizer.json, expected one of them"),
        "{error}"
    );
}

/// Loading `bytes` as a file called `name`; the message without the path.
fn load_error(name: &str, bytes: &[u8]) -> String {
    let path = temporary("broken").join(name);
    std::fs::write(&path, bytes).unwrap();
    let message = Tokenizer::load_file(&path).unwrap_err().to_string();
    message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
}

#[test]
fn a_model_that_is_cut_short_is_refused() {
    let file = std::fs::read(data().join("small.model")).unwrap();
    for eighth in 0..8 {
        load_error("cut.model", &file[..file.len() * eighth / 8]);
    }
    for cut in 1..=60 {
        load_error("cut.model", &file[..file.len() - cut]);
    }
    assert!(load_error("cut.model", &[]).starts_with("no trainer or normalizer specification"));
}

/// A model of given fields: pieces (text, kind), trainer and normalizer specification.
fn model(pieces: &[(&str, u8)], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut field = |number: u8, content: &[u8]| {
        file.extend([number << 3 | 2, content.len() as u8]);
        file.extend_from_slice(content);
    };
    for (text, kind) in pieces {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend_from_slice(text.as_bytes());
        piece.extend([0x18, *kind]);
        field(1, &piece);
    }
    field(2, trainer);
    field(3, normalizer);
    file
}

#[test]
fn unsupported_and_contradictory_models_are_refused_by_name() {
    const BPE: &[u8] = &[0x18, 2];
    let unk = ("<unk>", 2);
    let expected = "is not supported; expected a BPE model with identity normalisation";
    let error = |pieces: &[(&str, u8)], trainer: &[u8], normalizer: &[u8]| {
        load_error("small.model", &model(pieces, trainer, normalizer))
    };
    assert_eq!(error(&[unk], &[], &[]), format!("a unigram model {expected}"));
    assert_eq!(error(&[unk], &[0x18, 9], &[]), format!("model type 9 {expected}"));
    assert_eq!(error(&[unk], BPE, b"\x0a\x04nfkc\x12\x01x"), format!("the normaliser \"nfkc\" {expected}"));
    assert_eq!(
        error(&[unk], BPE, b"\x28\x00"),
        format!("unescaped whitespace (escape_whitespaces: false) {expected}")
    );
    assert_eq!(error(&[], BPE, &[]), "expected one unknown piece, found 0");
    assert_eq!(error(&[unk, ("<u>", 2)], BPE, &[]), "expected one unknown piece, found 2");
    assert_eq!(error(&[unk, ("a", 1), ("a", 1)], BPE, &[]), "pieces 1 and 2 are both \"a\"");
    assert_eq!(error(&[unk, ("", 1)], BPE, &[]), "piece 1 is empty");
    assert_eq!(error(&[unk, ("a", 5)], BPE, &[]), "piece 1 \"a\": unused pieces are not supported");
    assert_eq!(error(&[unk, ("a", 7)], BPE, &[]), "piece 1 \"a\": unknown kind 7");
    assert_eq!(error(&[unk, ("<0xZZ>", 6)], BPE, &[]), "piece 1 \"<0xZZ>\": a byte piece is spelled <0xNN>");
    assert_eq!(error(&[unk, ("<0x01>", 6)], BPE, &[]), "byte fallback without the piece <0x00>");
    let contradiction = "byte fallback without byte pieces, or byte pieces without byte fallback";
    assert_eq!(error(&[unk], &[0x18, 2, 0x98, 0x02, 1], &[]), contradiction);
    assert_eq!(load_error("small.model", b"\x0a\x03\x0a\x01\xff"), "byte 4: a string that is not UTF-8");
    assert_eq!(
        load_error("small.model", b"\x0a\xff\xff\xff\xff\x7f"),
        "byte 6: a field of 34359738367 bytes where 0 are left: cut short, or no SentencePiece model"
    );
}

/// The committed LLaMA-3 style file with one value replaced; the message of loading it.
fn json_error(change: impl FnOnce(&mut Value)) -> String {
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(data().join("llama3.tokenizer.json")).unwrap()).unwrap();
    change(&mut file);
    load_error("tokenizer.json", &serde_json::to_vec(&file).unwrap())
}

#[test]
fn a_json_tokenizer_that_is_cut_short_is_refused() {
    let file = std::fs::read(data().join("llama3.tokenizer.json")).unwrap();
    for eighth in 0..8 {
        let error = load_error("tokenizer.json", &file[..file.len() * eighth / 8]);
        let cut = ["EOF", "is cut off inside a character", "is empty"];
        assert!(cut.iter().any(|words| error.contains(words)), "{error}");
    }
    load_error("tokenizer.json", &b"[".repeat(100_000));
}

#[test]
fn wrong_types_in_a_json_tokenizer_name_the_key() {
    use serde_json::json;
    let error = |pointer: &str, value: Value| json_error(|file| *file.pointer_mut(pointer).unwrap() = value);
    assert_eq!(error("/model", json!(3)), "model: expected an object");
    assert_eq!(error("/model/type", json!("Unigram")), "model.type: \"Unigram\" is not supported");
    assert_eq!(error("/model/vocab", json!([])), "model.vocab: expected an object");
    assert_eq!(error("/model/vocab/a", json!("x")), "model.vocab[\"a\"]: expected an id");
    assert_eq!(error("/model/vocab/a", json!(-1)), "model.vocab[\"a\"]: expected an id");
    assert_eq!(error("/model/vocab/a", json!(4_000_000_000u32)), "no piece has the id 67, but \"b\" has 68");
    assert_eq!(error("/model/vocab/b", json!(67)), "id 67 is both \"a\" and \"b\"");
    assert_eq!(error("/model/merges", json!({})), "model.merges: expected a list");
    assert_eq!(
        error("/model/merges/0", json!("a b c")),
        "model.merges[0]: expected \"left right\" or [left, right]"
    );
    assert_eq!(
        error("/model/merges/0", json!(["a", 1])),
        "model.merges[0]: expected \"left right\" or [left, right]"
    );
    assert_eq!(
        error("/model/merges/0", json!(["a", "§§"])),
        "model.merges[0]: \"§§\" is not in the vocabulary"
    );
    assert_eq!(
        error("/model/merges/0", json!(["a", "#"])),
        "model.merges[0]: \"a#\" is not in the vocabulary"
    );
    assert_eq!(error("/model/byte_fallback", json!("yes")), "model.byte_fallback: expected true or false");
    assert_eq!(error("/model/dropout", json!(0.1)), "model.dropout: dropout of merges is not supported");
    assert_eq!(
        error("/model/end_of_word_suffix", json!("</w>")),
        "model.end_of_word_suffix: \"</w>\" is not supported"
    );
    assert_eq!(error("/added_tokens/0/id", json!(1.5)), "added_tokens[0].id: expected an id");
    assert_eq!(error("/added_tokens/0/content", json!(null)), "added_tokens[0].content: expected a string");
    assert_eq!(
        error("/added_tokens/0/single_word", json!(true)),
        "added_tokens[0]: single_word of \"<unk>\" is not supported"
    );
    assert_eq!(
        error("/added_tokens/0/id", json!(5)),
        "added_tokens: \"<unk>\" has another id in model.vocab"
    );
    assert_eq!(
        error("/normalizer", json!({"type": "NFC"})),
        "normalizer: NFC ({\"type\":\"NFC\"}) is not supported"
    );
    assert_eq!(
        error("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\w+")),
        "pre_tokenizer[0]: the pattern \"\\\\w+\" is not supported"
    );
    assert_eq!(
        error("/pre_tokenizer/pretokenizers/0", json!({"type": "Whitespace"})),
        "pre_tokenizer[0]: Whitespace is not supported"
    );
    assert_eq!(
        error("/decoder", json!(null)),
        "decoder: [] after a byte-level pre_tokenizer is not supported"
    );
    assert_eq!(
        error("/model/unk_token", json!("<none>")),
        "model.unk_token: \"<none>\" is not in the vocabulary"
    );
}

#[test]
fn a_template_names_the_token_that_begins_a_sequence() {
    let tokenizer = Tokenizer::load_file(&data().join("llama3.tokenizer.json")).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (tokenizer.id("<s>"), tokenizer.id("</s>")));
}

/// Text in which specials, spaces, letters of many scripts and arbitrary characters are all frequent.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("<s>".to_string()),
        Just("<extra_id_1>".to_string()),
        Just("<image>".to_string()),
        Just("  ".to_string()),
        "[a-z' ]{0,8}",
        "\\PC{0,4}",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_survives_the_round_trip_and_spans_cover_it(text in any_text()) {
        // U+2581 is how most formats spell a space, so it cannot survive.
        let text = text.replace('\u{2581}', "_");
        for (name, tokenizer) in complete() {
            let pieces = tokenizer.encode(&text);
            assert_spans_cover(&pieces, &text);
            // The other files swallow whitespace beside <image>, or put a space where it cannot be told from the text's own.
            if ["small", "llama3", "qwen2", "smollm"].contains(&name.split('.').next().unwrap()) {
                prop_assert_eq!(tokenizer.decode(&ids(&pieces), true), text.as_str(), "{}", name);
            }
        }
    }

    #[test]
    fn streaming_is_decoding(ids in proptest::collection::vec(0u32..720, 0..40), keep_special: bool) {
        for (name, tokenizer) in complete() {
            let mut decoder = tokenizer.decoder(keep_special);
            let mut text = String::new();
            for &id in &ids {
                decoder.push(id, &mut text);
            }
            decoder.finish(&mut text);
            prop_assert_eq!(text, tokenizer.decode(&ids, keep_special), "{}", name);
        }
    }

    #[test]
    fn damaged_models_do_not_panic(damage in proptest::collection::vec((0usize..20_000, any::<u8>()), 1..6)) {
        let mut file = std::fs::read(data().join("small.model")).unwrap();
        for (at, byte) in damage {
            let length = file.len();
            file[at % length] = byte;
        }
        let path = temporary("damaged").join("tokenizer.model");
        std::fs::write(&path, &file).unwrap();
        if let Ok(tokenizer) = Tokenizer::load_file(&path) {
            tokenizer.decode(&ids(&tokenizer.encode("the ball is <extra_id_0> 赤い \u{1f44d}")), true);
        }
    }
}

#[test]
fn a_character_comes_out_whole() {
    let tokenizer = small();
    let mut decoder = tokenizer.decoder(false);
    let mut lengths = Vec::new();
    let mut text = String::new();
    for piece in tokenizer.encode("👍") {
        decoder.push(piece.id, &mut text);
        lengths.push(text.len());
    }
    // The dummy prefix, then four bytes.
    assert_eq!(lengths, [0, 0, 0, 0, 4]);
    let thumb = tokenizer.encode("👍");
    decoder.finish(&mut text);
    decoder.push(thumb[1].id, &mut text);
    decoder.push(tokenizer.id("a").unwrap(), &mut text);
    decoder.push(thumb[1].id, &mut text);
    decoder.finish(&mut text);
    decoder.push(u32::MAX, &mut text);
    assert_eq!(text, "👍\u{fffd}a\u{fffd}\u{fffd}");
}

#[test]
fn a_megabyte_is_encoded_in_linear_time() {
    let tokenizer = small();
    for text in [text().repeat(400), "a".repeat(1_000_000), " ".repeat(1_000_000), "é".repeat(500_000)] {
        let start = std::time::Instant::now();
        let pieces = tokenizer.encode(&text);
        assert_spans_cover(&pieces, &text);
        println!("{} bytes, {} pieces: {:?}", text.len(), pieces.len(), start.elapsed());
        // Quadratic work would take hours; the limit only tells that apart.
        assert!(start.elapsed().as_secs() < 60);
    }
}

#[test]
fn the_command_line_trains_and_tokenizes() {
    let directory = temporary("cli");
    let neva = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_neva")).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (input, out) = (data().join("text.txt"), directory.join("model"));
    let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());
    let train =
        ["tokenizer", "train", "--input", input, "--vocab-size", "700", "--out", out, "--special", "<image>"];
    assert_eq!(neva(&train), (Some(0), format!("{out}: {} pieces\n", small().vocab_size()), String::new()));
    assert_eq!(
        std::fs::read(directory.join("model/tokenizer.model")).unwrap(),
        std::fs::read(data().join("small.model")).unwrap()
    );
    let text = "the <image>ball";
    let expected = format!("{:?}\n", ids(&small().encode(text)));
    assert_eq!(neva(&["tokenize", "--model", out, text]), (Some(0), expected, String::new()));
    let missing = neva(&["tokenize", "--model", input, text]);
    assert_eq!(missing.0, Some(1));
    assert!(missing.2.starts_with(&format!("error: {input}: ")), "{}", missing.2);
}
