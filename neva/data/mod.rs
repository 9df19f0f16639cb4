//! From LLaVA's JSON files to what the model trains on and answers.
//!
//! ```text
//! train.json --records--> turns --template--> text + answers' spans --encode--> ids --loader--> Batch
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `records.rs` | LLaVA JSON, read and checked |
//! | `template.rs` | turns to text: plain, v1, llama_2, nvgpt; the texts that end an answer |
//! | `encode.rs` | text to ids, without a token that reaches over the beginning or the end of an answer or an image |
//! | `sample.rs` | one record's ids, and which of them are to be predicted |
//! | `loader.rs` | the order of the samples, their images, batches |
//! | `write.rs` | LLaVA JSON, written |
//! | `import.rs` | other data sets to LLaVA JSON |
//!
//! Training and answering share the path from turns to ids: the ids of a question's prompt are the ids that its answer
//! followed in training.

mod encode;
pub mod import;
mod loader;
mod records;
mod sample;
mod template;
mod write;

pub use encode::{ImageTokens, Prompt, prompt, raw_prompt};
pub use loader::{DataOptions, Dataset};
pub use records::{IMAGE, Record, Turn, read};
pub use sample::Sample;
pub use template::{Exchange, Rendered, SYSTEM, render, stop_strings};
pub use write::{Conversation, write, write_texts};
