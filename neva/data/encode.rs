//! From a template's text to ids, the same way for training and for answering.
//!
//! A text is encoded in pieces that no token reaches over:
//! - It begins anew after every image and after every beginning-of-sequence token, as LLaVA encodes the texts around an
//!   image by themselves: a SentencePiece model puts its dummy space there, so `<image>\nWhat` has the ids `<image> ▁ \n
//!   What` that LLaVA's checkpoints were trained with.
//! - It is cut where an answer begins and ends, without a dummy space there. So the ids of a prompt are exactly the ids
//!   before the answer in training, and decoding the answer's ids gives the answer.
//!
//! Special tokens in a text are recognised as they are spelled, also within questions and answers.

use std::ops::Range;

use super::records::IMAGE;
use super::template::{Exchange, Rendered, render};
use crate::config::schema::Template;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What stands for an image among the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageTokens {
    /// The id of each row that a feature replaces.
    pub token: u32,
    /// Rows per image.
    pub rows: usize,
    /// The ids before and after the rows, with embeddings of their own: NeMo's `use_im_start_end`.
    pub marks: Option<(u32, u32)>,
}

/// A question to the model as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Id per row; rows of images hold the image token.
    pub ids: Vec<u32>,
    /// The rows that features replace, in the order of the images.
    pub image_rows: Vec<u32>,
}

/// The prompt for the answer to the last of `turns`, questions with the answers so far. Where `<image>` stands in a
/// question, the rows of an image are.
///
/// # Errors
/// [`Error::Usage`] when the template has no place for the turns, when an answer but the last is missing or the last is
/// there, or when a text holds the token that stands for images itself.
pub fn prompt(
    template: Template,
    tokenizer: &Tokenizer,
    images: ImageTokens,
    turns: &[(String, Option<String>)],
) -> Result<Prompt> {
    if turns.last().is_none_or(|(_, answer)| answer.is_some()) {
        return Err(Error::Usage("a prompt ends with a question that has no answer yet".into()));
    }
    let exchanges: Vec<Exchange> = turns
        .iter()
        .map(|(question, answer)| Exchange { question, answer: answer.as_deref(), label: None })
        .collect();
    render(template, tokenizer, None, &exchanges)
        .and_then(|rendered| encode(&rendered, tokenizer, images))
        .map(|encoded| encoded.expand(images))
        .map_err(Error::Usage)
}

/// The prompt that is `text` as it is, without a template: a beginning-of-sequence token only where it is spelled out.
///
/// # Errors
/// [`Error::Usage`] when the text is empty, or holds the token that stands for images itself.
pub fn raw_prompt(text: &str, tokenizer: &Tokenizer, images: ImageTokens) -> Result<Prompt> {
    let rendered = Rendered { text: text.into(), answers: Vec::new() };
    let encoded = encode(&rendered, tokenizer, images).map_err(Error::Usage)?;
    if encoded.ids.is_empty() {
        return Err(Error::Usage("the prompt is empty".into()));
    }
    Ok(encoded.expand(images))
}

/// A text as ids, with one id for an image however many rows it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// Where in `ids` the images stand.
    pub(super) images: Vec<usize>,
    /// The part of `ids` that each of the text's answers became.
    pub(super) answers: Vec<Range<usize>>,
}

impl Encoded {
    fn expand(&self, images: ImageTokens) -> Prompt {
        let mut prompt = Prompt { ids: Vec::new(), image_rows: Vec::new() };
        let mut places = self.images.iter().peekable();
        for (at, &id) in self.ids.iter().enumerate() {
            if places.next_if_eq(&&at).is_some() {
                let first = prompt.ids.len();
                prompt.ids.resize(first + images.rows, images.token);
                prompt.image_rows.extend(first as u32..prompt.ids.len() as u32);
            } else {
                prompt.ids.push(id);
            }
        }
        prompt
    }
}

/// The ids of a text. The error is a sentence.
pub(super) fn encode(
    rendered: &Rendered,
    tokenizer: &Tokenizer,
    images: ImageTokens,
) -> std::result::Result<Encoded, String> {
    let text = rendered.text.as_str();
    let bos = tokenizer.bos().and_then(|id| Some((id, tokenizer.piece(id)?)));
    let mut begins: Vec<(usize, &str)> = text.match_indices(IMAGE).collect();
    if let Some((_, bos)) = bos {
        begins.extend(text.match_indices(bos));
        begins.sort_unstable();
    }
    let bounds = rendered.answers.iter().flat_map(|answer| [answer.start, answer.end]).collect();
    let mut encoder = Encoder {
        tokenizer,
        text,
        bounds,
        image_token: images.token,
        out: Encoded::default(),
        at_bounds: vec![],
    };
    let mut from = 0;
    for (at, literal) in begins {
        encoder.stretch(from..at)?;
        from = at + literal.len();
        let out = &mut encoder.out;
        match bos {
            Some((id, bos)) if literal == bos => out.ids.push(id),
            _ => {
                out.ids.extend(images.marks.map(|(start, _)| start));
                out.images.push(out.ids.len());
                out.ids.push(images.token);
                out.ids.extend(images.marks.map(|(_, end)| end));
            }
        }
    }
    encoder.stretch(from..text.len())?;
    let Encoder { mut out, at_bounds, .. } = encoder;
    out.answers = at_bounds.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    assert_eq!(
        out.answers.len(),
        rendered.answers.len(),
        "every answer of a text lies in one of its stretches"
    );
    Ok(out)
}

/// The state of [`encode`].
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    text: &'a str,
    /// The bytes where answers begin and end, in order.
    bounds: Vec<usize>,
    image_token: u32,
    out: Encoded,
    /// The number of ids before each of `bounds` passed so far.
    at_bounds: Vec<usize>,
}

impl Encoder<'_> {
    /// Encodes what lies between two places where the text begins anew.
    fn stretch(&mut self, range: Range<usize>) -> std::result::Result<(), String> {
        let text = &self.text[range.clone()];
        let mut from = range.start;
        loop {
            while self.bounds.get(self.at_bounds.len()).is_some_and(|&bound| bound <= from) {
                self.at_bounds.push(self.out.ids.len());
            }
            if from == range.end {
                return Ok(());
            }
            let bound = self.bounds.get(self.at_bounds.len());
            let end = bound.map_or(range.end, |&bound| bound.min(range.end));
            let pieces = self.tokenizer.encode_part(text, from - range.start..end - range.start);
            if pieces.iter().any(|piece| piece.id == self.image_token) {
                let spelled = self.tokenizer.piece(self.image_token).unwrap_or_default();
                return Err(format!(
                    "the text holds {spelled}, which stands for rows of images: write {IMAGE}"
                ));
            }
            self.out.ids.extend(pieces.iter().map(|piece| piece.id));
            from = end;
        }
    }
}
