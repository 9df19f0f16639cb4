//! The error type of the model, the data and the command line.
//!
//! Every message is one sentence that names the file, the key or record, and what was expected.

use std::io::ErrorKind;
use std::path::PathBuf;

/// The result of everything in `neva`.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a user's files and a trained model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration. `origin` is `path:line` or `command line`.
    #[error("{origin}: {key}: {message}")]
    Config {
        /// Where the value was written: `path:line`, or `command line`.
        origin: String,
        /// The dotted key.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A configuration file as a whole. `origin` is `path` or `path:line`.
    #[error("{origin}: {message}")]
    ConfigFile {
        /// The file, with the line where one is known.
        origin: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A model directory or one of its files.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what was expected; names the tensor.
        message: String,
    },
    /// A file of records as a whole.
    #[error("{}: {message}", path.display())]
    DataFile {
        /// The JSON file.
        path: PathBuf,
        /// What is wrong and what was expected, with the line where one is known.
        message: String,
    },
    /// A record of a data set.
    #[error("{}: record {record}: {message}", path.display())]
    Data {
        /// The JSON file.
        path: PathBuf,
        /// The record's index, and its id where it has one.
        record: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// An image file.
    #[error("{}: {message}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A tokenizer file.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {}", path.display(), reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A request that does not make sense; the message is complete.
    #[error("{0}")]
    Usage(String),
    /// An error of an op or a device.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Error {
    /// Adds, where a device had no room, what would need less of it.
    pub fn advise(self, advice: &str) -> Self {
        match self {
            Error::Engine(e @ engine::Error::OutOfMemory { .. }) => Error::Usage(format!("{e}; {advice}")),
            other => other,
        }
    }

    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

/// Why a file cannot be read or written: what a path that is not right leads to, else the system's own words.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".into(),
        ErrorKind::IsADirectory => "is a directory, expected a file".into(),
        ErrorKind::NotADirectory => "a part of this path is a file, expected a directory".into(),
        _ => error.to_string(),
    }
}

/// A message that quotes foreign bytes, as one line of bearable length.
pub(crate) fn one_line(message: impl Into<String>) -> String {
    const MOST: usize = 600;
    let message = message.into();
    if message.len() <= MOST && !message.contains(char::is_control) {
        return message;
    }
    let mut line = String::new();
    for c in message.chars() {
        if line.len() > MOST {
            return line + &format!("… ({} bytes)", message.len());
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line("é: as it is"), "é: as it is");
        assert_eq!(one_line("two\nlines\u{7}"), "two\\nlines\\u{7}");
        let long = one_line("x".repeat(1_000_000));
        assert!(long.len() < 700 && long.ends_with("… (1000000 bytes)"), "{long}");
    }
}
