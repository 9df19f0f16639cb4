//! Prompt templates: from a conversation to the text that the model sees.
//!
//! `{q}` is a question as it is written (an [`IMAGE`] in it stays where it is, as in NeMo and transformers; LLaVA's own
//! trainer moves it to the front), `{a}` its answer. What **bold** marks is supervised, everything else is given:
//!
//! | template | text |
//! |---|---|
//! | plain | `<s><image>`**`{a}\n`** |
//! | v1 | `<s>{system} USER: {q} ASSISTANT:`**` {a}</s>`**`USER: {q} ASSISTANT:`**` {a}</s>`** … |
//! | llama_2 | `<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{q} [/INST]`**` {a} </s>`**`<s>[INST] {q} [/INST]`**` {a} </s>`** … |
//! | nvgpt | `<extra_id_0>System\n{system}\n\n<extra_id_1>User\n{q}\n<extra_id_1>Assistant\n<extra_id_2>{label}\n`**`{a}\n<extra_id_1>`**`User\n{q}\n` … |
//!
//! `<s>` and `</s>` stand for the tokenizer's own tokens that begin and end a sequence, however they are spelled; without
//! the first, nothing stands there. Where NeMo and LLaVA differ, so that a model trained here answers in transformers and
//! LLaVA as it does here:
//! - plain, v1 and llama_2 begin with `<s>` as in LLaVA. NeMo leaves it out.
//! - v1 has no space between `</s>` and `USER:`, as in LLaVA. NeMo has one.
//! - llama_2 is LLaVA's string; its `[INST]` begins a text after each `<s>` (see [`encode`](super::encode())), so that a
//!   SentencePiece model has the space there that NeMo writes out.
//! - nvgpt is NeMo's, without `<s>`. The line of qualities is part of what is given; an answer without a label gets the
//!   one that asks for the best.
//! - plain is one question and one answer. The question is replaced by its images: there must be at least one.
//!
//! The space before an answer belongs to it: in a SentencePiece model `▁red` is one token, and a prompt that ended in the
//! space would ask for a token that training never showed there.

use std::ops::Range;

use super::records::IMAGE;
use crate::config::schema::Template;
use crate::tokenizer::Tokenizer;

/// The system text of v1 and nvgpt.
pub const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";
/// The system text of llama_2.
const LLAMA_2_SYSTEM: &str = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language.";
/// NVGPT's line of qualities for an answer that has none.
const LABEL: &str = "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4";

/// The tokens that NVGPT's prompts are made of.
const NV_SYSTEM: &str = "<extra_id_0>";
const NV_TURN: &str = "<extra_id_1>";
const NV_LABEL: &str = "<extra_id_2>";

/// A question, and what is known of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// What the human says.
    pub question: &'a str,
    /// The answer; None in the last exchange of a prompt.
    pub answer: Option<&'a str>,
    /// NVGPT's line of qualities; None is the default line.
    pub label: Option<&'a str>,
}

/// A conversation as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text, with [`IMAGE`] where images stand.
    pub text: String,
    /// The bytes of `text` that are supervised: each answer with what ends it.
    pub answers: Vec<Range<usize>>,
}

impl Rendered {
    fn given(&mut self, parts: &[&str]) {
        self.text.extend(parts.iter().copied());
    }

    /// `before` and `after` belong to the answer.
    fn answer(&mut self, before: &str, answer: Option<&str>, after: &[&str]) {
        let Some(answer) = answer else { return };
        let start = self.text.len();
        self.given(&[before, answer]);
        self.given(after);
        self.answers.push(start..self.text.len());
    }
}

/// The text of a conversation. When the last answer is missing, the text ends where it would begin: it is then the
/// beginning of the text of every answer.
///
/// # Errors
/// A sentence, when the template has no place for what the conversation holds, or the tokenizer lacks a token that the
/// template needs.
pub fn render(
    template: Template,
    tokenizer: &Tokenizer,
    system: Option<&str>,
    exchanges: &[Exchange],
) -> Result<Rendered, String> {
    let unanswered = exchanges.iter().take_while(|exchange| exchange.answer.is_some()).count();
    if exchanges.is_empty() || unanswered + 1 < exchanges.len() {
        return Err("expected at least one question, and answers to all but the last".into());
    }
    let bos = tokenizer.bos().and_then(|id| tokenizer.piece(id)).unwrap_or_default();
    let eos = || {
        tokenizer.eos().and_then(|id| tokenizer.piece(id)).ok_or_else(|| {
            format!(
                "the tokenizer has no token that ends a sequence, which template {} needs",
                template.word()
            )
        })
    };
    let mut out = Rendered::default();
    match template {
        Template::Plain => {
            let [exchange] = exchanges else {
                let n = exchanges.len();
                return Err(format!("template plain takes one question and one answer, not {n} of each"));
            };
            if system.is_some() {
                return Err("template plain has no place for a \"system\" text".into());
            }
            let images = exchange.question.matches(IMAGE).count();
            if images == 0 {
                return Err(format!("template plain needs an image: the question holds no {IMAGE}"));
            }
            out.given(&[bos, &IMAGE.repeat(images)]);
            out.answer("", exchange.answer, &["\n"]);
        }
        Template::V1 => {
            let (eos, system) = (eos()?, system.unwrap_or(SYSTEM));
            out.given(&[bos, system, if system.is_empty() { "" } else { " " }]);
            for exchange in exchanges {
                out.given(&["USER: ", exchange.question, " ASSISTANT:"]);
                out.answer(" ", exchange.answer, &[eos]);
            }
        }
        Template::Llama2 => {
            let (eos, system) = (eos()?, system.unwrap_or(LLAMA_2_SYSTEM));
            for (index, exchange) in exchanges.iter().enumerate() {
                out.given(&[bos, "[INST] "]);
                if index == 0 && !system.is_empty() {
                    out.given(&["<<SYS>>\n", system, "\n<</SYS>>\n\n"]);
                }
                out.given(&[exchange.question, " [/INST]"]);
                out.answer(" ", exchange.answer, &[" ", eos]);
            }
        }
        Template::Nvgpt => {
            if let Some(missing) =
                [NV_SYSTEM, NV_TURN, NV_LABEL].into_iter().find(|token| tokenizer.id(token).is_none())
            {
                return Err(format!("the tokenizer has no token {missing}, which template nvgpt needs"));
            }
            out.given(&[NV_SYSTEM, "System\n", system.unwrap_or(SYSTEM), "\n\n", NV_TURN]);
            for exchange in exchanges {
                out.given(&["User\n", exchange.question, "\n", NV_TURN, "Assistant\n"]);
                out.given(&[NV_LABEL, exchange.label.unwrap_or(LABEL), "\n"]);
                out.answer("", exchange.answer, &["\n", NV_TURN]);
            }
        }
    }
    Ok(out)
}

/// The texts that end an answer, tried in this order, beside the tokenizer's own end of a sequence. What remains may end
/// in spaces that belong to the template (llama_2).
pub fn stop_strings(template: Template) -> &'static [&'static str] {
    match template {
        Template::Plain => &["\n"],
        Template::V1 | Template::Llama2 => &["</s>"],
        Template::Nvgpt => &["\n<extra_id_1>", "<extra_id_1>"],
    }
}
