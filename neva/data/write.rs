//! Writing LLaVA JSON: conversations about one image each.

use std::path::Path;

use serde::Serialize;

use super::records::IMAGE;
use super::template::SYSTEM;
use crate::{Error, Result};

/// A record to write.
#[derive(Clone, Debug, Serialize)]
pub struct Conversation {
    id: String,
    image: String,
    conversations: Vec<Said>,
}

#[derive(Clone, Debug, Serialize)]
struct Said {
    from: &'static str,
    value: String,
}

impl Conversation {
    /// Questions with their answers about the image at the path `image`, which is put before the first.
    pub fn new(
        id: impl Into<String>,
        image: impl Into<String>,
        turns: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut conversations = Vec::new();
        for (mut question, answer) in turns {
            if conversations.is_empty() {
                question.insert_str(0, &format!("{IMAGE}\n"));
            }
            conversations.push(Said { from: "human", value: question });
            conversations.push(Said { from: "gpt", value: answer });
        }
        Conversation { id: id.into(), image: image.into(), conversations }
    }

    /// A caption of the image at the path `image`, for the template plain.
    pub fn caption(id: impl Into<String>, image: impl Into<String>, caption: impl Into<String>) -> Self {
        let said = |from, value| Said { from, value };
        let conversations = vec![said("human", IMAGE.into()), said("gpt", caption.into())];
        Conversation { id: id.into(), image: image.into(), conversations }
    }
}

/// Writes a file of records.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, records: &[Conversation]) -> Result<()> {
    let json = serde_json::to_string_pretty(records)
        .map_err(|error| Error::Io { path: path.into(), source: error.into() })?;
    std::fs::write(path, json).map_err(Error::io(path))
}

/// Writes every question and answer, one a line, to train a tokenizer on; and, as often as makes a tokenizer learn its
/// words, the frame that the template v1 puts around every conversation.
///
/// # Errors
/// [`Error::Io`].
pub fn write_texts<'a>(path: &Path, records: impl IntoIterator<Item = &'a Conversation>) -> Result<()> {
    let said = records.into_iter().flat_map(|record| &record.conversations);
    let mut texts: String = said
        .map(|turn| turn.value.trim_start_matches(IMAGE).trim_start())
        .filter(|text| !text.is_empty())
        .flat_map(|text| [text, "\n"])
        .collect();
    for _ in 0..50 {
        texts.push_str(SYSTEM);
        texts.push_str("\nUSER: ASSISTANT:\n");
    }
    std::fs::write(path, texts).map_err(Error::io(path))
}
