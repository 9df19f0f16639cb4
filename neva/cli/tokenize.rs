//! `neva tokenize --model DIR TEXT`

use std::path::PathBuf;

use neva::Result;
use neva::tokenizer::Tokenizer;

use super::print;

#[derive(clap::Args)]
pub struct Arguments {
    /// A model directory, or a tokenizer.model or tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The text; no beginning-of-sequence token is added
    #[arg(allow_hyphen_values = true)]
    text: String,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { model, text } = arguments;
    let tokenizer = if model.is_dir() { Tokenizer::load(model)? } else { Tokenizer::load_file(model)? };
    let ids: Vec<String> = tokenizer.encode(text).iter().map(|piece| piece.id.to_string()).collect();
    print(&format!("[{}]\n", ids.join(", ")))
}
