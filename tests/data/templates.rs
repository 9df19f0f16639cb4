//! Templates: their strings, their ids and labels, and that prompts are the beginning of training texts.

use neva::config::schema::Template;
use neva::data::{Dataset, Exchange, ImageTokens, Rendered, prompt, raw_prompt, render, stop_strings};
use neva::model::IGNORE;
use neva::tokenizer::{Tokenizer, train};

use super::{Folder, TEMPLATES, characters, image_tokens, labels, spelled};

const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                      helpful, detailed, and polite answers to the user's questions.";
const LLAMA_2_SYSTEM: &str = "You are a helpful language and vision assistant. You are able to understand the visual content \
     that the user provides, and assist the user with a variety of tasks using natural language.";
const LABEL: &str = "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,\
                     complexity:4,verbosity:4";

fn exchange<'a>(question: &'a str, answer: &'a str) -> Exchange<'a> {
    Exchange { question, answer: Some(answer), label: None }
}

fn rendered(template: Template, system: Option<&str>, exchanges: &[Exchange]) -> Rendered {
    render(template, &characters(), system, exchanges).unwrap()
}

fn answers(rendered: &Rendered) -> Vec<&str> {
    rendered.answers.iter().map(|answer| &rendered.text[answer.clone()]).collect()
}

#[test]
fn v1_is_the_string_of_llava() {
    let text = rendered(Template::V1, None, &[exchange("<image>\nWhat?", "A cat."), exchange("Why?", "So.")]);
    let expected =
        format!("<s>{SYSTEM} USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Why? ASSISTANT: So.</s>");
    assert_eq!(text.text, expected);
    assert_eq!(answers(&text), [" A cat.</s>", " So.</s>"]);
    let text = rendered(Template::V1, Some("Be short."), &[exchange("What?", "It.")]);
    assert_eq!(text.text, "<s>Be short. USER: What? ASSISTANT: It.</s>");
    let text = rendered(Template::V1, Some(""), &[exchange("What?", "It.")]);
    assert_eq!(text.text, "<s>USER: What? ASSISTANT: It.</s>");
}

#[test]
fn llama_2_is_the_string_of_llava() {
    let turns = [exchange("<image>\nWhat?", "A cat."), exchange("Why?", "So.")];
    let text = rendered(Template::Llama2, None, &turns);
    let expected = format!(
        "<s>[INST] <<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n<image>\nWhat? [/INST] A cat. </s>\
         <s>[INST] Why? [/INST] So. </s>"
    );
    assert_eq!(text.text, expected);
    assert_eq!(answers(&text), [" A cat. </s>", " So. </s>"]);
    let text = rendered(Template::Llama2, Some(""), &turns[1..]);
    assert_eq!(text.text, "<s>[INST] Why? [/INST] So. </s>");
}

#[test]
fn nvgpt_is_the_string_of_nemo() {
    let labelled = Exchange { label: Some("quality:1"), ..exchange("Why?", "So.") };
    let text = rendered(Template::Nvgpt, None, &[exchange("<image>\nWhat?", "A cat."), labelled]);
    let expected = format!(
        "<extra_id_0>System\n{SYSTEM}\n\n<extra_id_1>User\n<image>\nWhat?\n<extra_id_1>Assistant\n\
         <extra_id_2>{LABEL}\nA cat.\n<extra_id_1>User\nWhy?\n<extra_id_1>Assistant\n\
         <extra_id_2>quality:1\nSo.\n<extra_id_1>"
    );
    assert_eq!(text.text, expected);
    assert_eq!(answers(&text), ["A cat.\n<extra_id_1>", "So.\n<extra_id_1>"]);
    let text = rendered(Template::Nvgpt, Some("Be short."), &[labelled]);
    assert!(text.text.starts_with("<extra_id_0>System\nBe short.\n\n<extra_id_1>User\nWhy?\n"), "{text:?}");
}

#[test]
fn plain_is_the_images_and_the_caption() {
    let text = rendered(Template::Plain, None, &[exchange("Describe <image> it. <image>", "A cat.")]);
    assert_eq!(text.text, "<s><image><image>A cat.\n");
    assert_eq!(answers(&text), ["A cat.\n"]);
}

#[test]
fn a_template_says_what_it_has_no_place_for() {
    let tokenizer = characters();
    let refused = |template, system, exchanges: &[Exchange]| {
        render(template, &tokenizer, system, exchanges).unwrap_err()
    };
    let shown = exchange("<image>", "A cat.");
    assert_eq!(
        refused(Template::Plain, None, &[shown, shown]),
        "template plain takes one question and one answer, not 2 of each"
    );
    assert_eq!(
        refused(Template::Plain, Some("Be short."), &[shown]),
        "template plain has no place for a \"system\" text"
    );
    assert_eq!(
        refused(Template::Plain, None, &[exchange("What?", "A cat.")]),
        "template plain needs an image: the question holds no <image>"
    );
    let unanswered = Exchange { answer: None, ..shown };
    let expected = "expected at least one question, and answers to all but the last";
    assert_eq!(refused(Template::V1, None, &[]), expected);
    assert_eq!(refused(Template::V1, None, &[unanswered, shown]), expected);
    // A file without tokens that begin and end a sequence, and without <extra_id_0>.
    let folder = Folder::new("bare");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer/gpt2.tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    json["post_processor"] = serde_json::Value::Null;
    let path = folder.write("tokenizer.json", &json.to_string().replace("</s>", "</>"));
    let bare = Tokenizer::load_file(&path).unwrap();
    for template in [Template::V1, Template::Llama2] {
        assert_eq!(
            render(template, &bare, None, &[shown]).unwrap_err(),
            format!(
                "the tokenizer has no token that ends a sequence, which template {} needs",
                template.word()
            )
        );
    }
    assert_eq!(
        render(Template::Nvgpt, &bare, None, &[shown]).unwrap_err(),
        "the tokenizer has no token <extra_id_0>, which template nvgpt needs"
    );
    // Without a token that begins a sequence nothing stands in its place.
    assert_eq!(render(Template::Plain, &bare, None, &[shown]).unwrap().text, "<image>A cat.\n");
}

const TWO_TURNS: &str = r#"{"image": "a.png", "system": "Be it.", "conversations": [
    {"from": "human", "value": "See\n<image>"}, {"from": "gpt", "value": "a cat", "label": "good"},
    {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "so"}]}"#;

#[test]
fn ids_and_labels_are_exact() {
    let (folder, tokenizer) = (Folder::new("exact"), characters());
    folder.image("a.png", 0);
    let check = |template, record: &str, rows: &str, predicted: &str| {
        let batch = folder.sample(template, &tokenizer, record);
        assert_eq!(spelled(&tokenizer, &batch.ids), rows);
        assert_eq!(labels(&tokenizer, &batch.labels), predicted);
        let image = tokenizer.id("<image>").unwrap();
        let images: Vec<u32> =
            (0..batch.ids.len() as u32).filter(|&row| batch.ids[row as usize] == image).collect();
        assert_eq!(batch.image_rows, images);
        assert_eq!(batch.pixels.len(), batch.images * 3 * 4 * 4);
        let rows = batch.ids.len() as u32;
        assert_eq!((batch.positions, batch.cu_seqlens), ((0..rows).collect(), vec![0, rows]));
    };
    // The dummy space stands after <s> and after the image, and nowhere else. The last id is no row.
    check(
        Template::V1,
        TWO_TURNS,
        "<s>▁Be▁it.▁USER:▁See⏎<image><image><image>▁▁ASSISTANT:▁a▁cat</s>USER:▁Why?▁ASSISTANT:▁so",
        "(33)▁a▁cat</s>(21)▁so</s>",
    );
    check(
        Template::Llama2,
        TWO_TURNS,
        "<s>▁[INST]▁<<SYS>>⏎Be▁it.⏎<</SYS>>⏎⏎See⏎<image><image><image>▁▁[/INST]▁a▁cat▁</s>\
         <s>▁[INST]▁Why?▁[/INST]▁so▁",
        "(49)▁a▁cat▁</s>(21)▁so▁</s>",
    );
    check(
        Template::Nvgpt,
        &TWO_TURNS.replace("\"so\"", "\"so\", \"label\": \"bad\""),
        "▁<extra_id_0>System⏎Be▁it.⏎⏎<extra_id_1>User⏎See⏎<image><image><image>▁⏎<extra_id_1>Assistant⏎\
         <extra_id_2>good⏎a▁cat⏎<extra_id_1>User⏎Why?⏎<extra_id_1>Assistant⏎<extra_id_2>bad⏎so⏎",
        "(48)a▁cat⏎<extra_id_1>(26)so⏎<extra_id_1>",
    );
    check(
        Template::Plain,
        r#"{"image": "a.png", "conversations": [
            {"from": "human", "value": "Say.\n<image>"}, {"from": "gpt", "value": "a cat"}]}"#,
        "<s><image><image><image>▁a▁cat",
        "(3)▁a▁cat⏎",
    );
}

#[test]
fn text_only_and_several_images() {
    let (folder, tokenizer) = (Folder::new("several"), characters());
    folder.image("a.png", 0);
    folder.image("b.png", 255);
    let record = r#"{"image": ["b.png", "a.png"], "system": "", "conversations": [
        {"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "x"}]}"#;
    let batch = folder.sample(Template::V1, &tokenizer, record);
    assert_eq!(
        spelled(&tokenizer, &batch.ids),
        "<s>▁USER:▁<image><image><image><image><image><image>▁?▁ASSISTANT:▁x"
    );
    assert_eq!(labels(&tokenizer, &batch.labels), "(26)▁x</s>");
    assert_eq!((batch.images, batch.pixels.len()), (2, 2 * 48));
    assert!(batch.pixels[0] > 0.0 && batch.pixels[48] < 0.0, "b.png is white and comes first");

    let record = r#"{"system": "", "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]}"#;
    let batch = folder.sample(Template::V1, &tokenizer, record);
    assert_eq!(spelled(&tokenizer, &batch.ids), "<s>▁USER:▁q▁ASSISTANT:▁");
    assert_eq!(labels(&tokenizer, &batch.labels), "(19)▁</s>");
    assert_eq!((batch.images, batch.pixels.len(), batch.image_rows.len()), (0, 0, 0));
}

#[test]
fn marks_stand_around_an_image_and_keep_their_ids() {
    let (folder, tokenizer) = (Folder::new("marks"), characters());
    folder.image("a.png", 0);
    let record = r#"{"image": "a.png", "conversations": [
        {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]}"#;
    let path = folder.write("one.json", &format!("[{record}]"));
    let mut options = folder.options(Template::Plain, &tokenizer, &path);
    let marks = Some((tokenizer.id("<im_start>").unwrap(), tokenizer.id("<im_end>").unwrap()));
    options.image_marks = marks;
    let batch = Dataset::open(options, &tokenizer).unwrap().in_order(0, 1).unwrap();
    assert_eq!(spelled(&tokenizer, &batch.ids), "<s><im_start><image><image><image><im_end>▁x");
    assert_eq!(batch.image_rows, [2, 3, 4]);
    assert_eq!(labels(&tokenizer, &batch.labels), "(5)▁x⏎");
    let images = ImageTokens { marks, ..image_tokens(&tokenizer) };
    let asked = prompt(Template::Plain, &tokenizer, images, &[("<image>".into(), None)]).unwrap();
    assert_eq!((asked.ids.as_slice(), asked.image_rows.as_slice()), (&batch.ids[..6], &[2, 3, 4][..]));
}

/// Tokenizers of every kind, all with `<s>`, `</s>` and `<image>`.
fn tokenizers(folder: &Folder) -> Vec<(String, Tokenizer)> {
    let said = "a small red circle on the left; USER: ASSISTANT: [INST] [/INST]\n".repeat(3);
    let merged = train([said.as_str()], 1000, &["<image>"]).unwrap();
    let mut all = vec![("characters".to_string(), characters()), ("merged".to_string(), merged)];
    folder.write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
    for name in ["gpt2", "llama3", "smollm", "qwen2", "llama2", "metaspace", "prefixed"] {
        let file = format!("tests/tokenizer/{name}.tokenizer.json");
        let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let path = folder.write("tokenizer.json", &std::fs::read_to_string(from).unwrap());
        all.push((name.to_string(), Tokenizer::load_file(&path).unwrap()));
    }
    all
}

#[test]
fn a_prompt_is_the_beginning_of_training_and_the_rest_decodes_to_the_answer() {
    let folder = Folder::new("prefix");
    folder.image("a.png", 0);
    let answers = ["red", "\n\nA dog's  2 tails", "déjà vu 字", " x ", ""];
    let mut checked = 0;
    for (name, tokenizer) in tokenizers(&folder) {
        for template in TEMPLATES {
            if template == Template::Nvgpt && tokenizer.id("<extra_id_0>").is_none() {
                continue;
            }
            for answer in answers {
                let mut turns = vec![("What <image>?\n".to_string(), None)];
                if template != Template::Plain {
                    turns[0].1 = Some("a circle".to_string());
                    turns.push(("And  this?".to_string(), None));
                }
                let asked = prompt(template, &tokenizer, image_tokens(&tokenizer), &turns).unwrap();
                turns.last_mut().unwrap().1 = Some(answer.to_string());
                let said: Vec<_> = turns
                    .iter()
                    .flat_map(|(q, a)| {
                        [
                            serde_json::json!({"from": "human", "value": q}),
                            serde_json::json!({"from": "gpt", "value": a}),
                        ]
                    })
                    .collect();
                let record = serde_json::json!({"image": "a.png", "conversations": said});
                let batch = folder.sample(template, &tokenizer, &record.to_string());
                let at = asked.ids.len();
                let case = format!("{name}, {}, {answer:?}", template.word());
                assert_eq!(batch.ids[..at], asked.ids, "{case}");
                assert_eq!(batch.image_rows, asked.image_rows, "{case}");
                // Everything after the prompt is supervised, and nothing right before its last row.
                let predicted = &batch.labels[at - 1..];
                assert!(predicted.iter().all(|&label| label != IGNORE), "{case}");
                assert_eq!(batch.labels[at - 2], IGNORE, "{case}");
                let text = tokenizer.decode(predicted, false);
                let text = stop_strings(template)
                    .iter()
                    .find_map(|stop| text.find(stop))
                    .map_or(&text[..], |n| &text[..n]);
                let mut wanted = answer.trim();
                if template == Template::Plain {
                    // A caption ends with its line.
                    wanted = answer.split('\n').next().unwrap().trim();
                }
                assert_eq!(text.trim(), wanted, "{case}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 5 * (2 * 4 + 7 * 3));
}

#[test]
fn prompts_are_refused_or_taken_as_they_are() {
    let tokenizer = characters();
    let images = image_tokens(&tokenizer);
    let error = |turns: &[(String, Option<String>)]| {
        prompt(Template::V1, &tokenizer, images, turns).unwrap_err().to_string()
    };
    let expected = "a prompt ends with a question that has no answer yet";
    assert_eq!(error(&[]), expected);
    assert_eq!(error(&[("q".into(), Some("a".into()))]), expected);
    assert_eq!(
        error(&[("q".into(), None), ("q".into(), None)]),
        "expected at least one question, and answers to all but the last"
    );
    let other = ImageTokens { token: tokenizer.id("<extra_id_3>").unwrap(), ..images };
    let asked = [("<image> <extra_id_3>".to_string(), None)];
    assert_eq!(
        prompt(Template::V1, &tokenizer, other, &asked).unwrap_err().to_string(),
        "the text holds <extra_id_3>, which stands for rows of images: write <image>"
    );

    let raw = raw_prompt("a <image>b</s>", &tokenizer, images).unwrap();
    assert_eq!(spelled(&tokenizer, &raw.ids), "▁a▁<image><image><image>▁b</s>");
    assert_eq!(raw.image_rows, [3, 4, 5]);
    assert_eq!(raw_prompt("", &tokenizer, images).unwrap_err().to_string(), "the prompt is empty");
    // The text of a template, taken as it is, is its prompt.
    let turns = [("<image>\nWhat?".to_string(), None)];
    let asked = prompt(Template::Llama2, &tokenizer, images, &turns).unwrap();
    let exchange = Exchange { question: &turns[0].0, answer: None, label: None };
    let text = rendered(Template::Llama2, None, &[exchange]).text;
    assert_eq!(raw_prompt(&text, &tokenizer, images).unwrap(), asked);
}
