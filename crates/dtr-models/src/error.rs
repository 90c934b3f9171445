//! What can be wrong with a checkpoint: each error says what was expected, what was found, where, and what to do.

use std::path::PathBuf;

use thiserror::Error;

/// A `config.json` this crate cannot honour.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The family is unknown.
    #[error(
        "model_type \"{found}\" is not supported; expected one of: {expected}. Convert the checkpoint to one of these families or choose another parent"
    )]
    Family {
        /// What the file says.
        found: String,
        /// What there is.
        expected: String,
    },
    /// A key is missing.
    #[error("config key \"{key}\" is missing; expected {expected}. Take config.json from the original checkpoint")]
    Missing {
        /// The key.
        key: &'static str,
        /// What should stand there.
        expected: &'static str,
    },
    /// A value this crate would have to ignore.
    #[error("config key \"{key}\" is {found}; supported: {expected}. It is refused because ignoring it would change the model")]
    Unsupported {
        /// The key.
        key: String,
        /// What the file says.
        found: String,
        /// What would be understood.
        expected: String,
    },
    /// Sizes that do not fit together.
    #[error("config is inconsistent: {what}")]
    Inconsistent {
        /// Which sizes, with their values.
        what: String,
    },
    /// Not JSON, or a value of the wrong type.
    #[error("config is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

/// A directory that cannot be read or written as a model.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file could not be read or written.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The configuration.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Not a safetensors file, or cut off.
    #[error("{} is damaged or cut off: {reason}. Expected a complete safetensors file; copy or download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// An index that is none, that leads out of its directory, or that does not agree with its shards.
    #[error("{} {reason}. Expected the index that was saved with these shards; copy or download the whole directory again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights as a pickle.
    #[error(
        "{} is a pickle, which is never read: reading one runs whatever stands in it. Expected model.safetensors; where you trust the file, convert it: \
         python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('DIR').save_pretrained('OUT', safe_serialization=True)\"",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// Weights the model needs and the file lacks, and the other way round.
    #[error("{} does not match its configuration: {} missing ({}), {} unexpected ({}). Use the config.json that belongs to these weights", path.display(), missing.len(), list(missing), extra.len(), list(extra))]
    Tensors {
        /// The file or directory.
        path: PathBuf,
        /// Names needed but absent.
        missing: Vec<String>,
        /// Names present but unknown.
        extra: Vec<String>,
    },
    /// A weight of another shape.
    #[error("{}: tensor \"{name}\" has shape {found:?}, expected {expected:?} from the configuration. Use the config.json that belongs to these weights", path.display())]
    Shape {
        /// The file or directory.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Shape the configuration asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A weight of a type that is not a float.
    #[error("{}: tensor \"{name}\" has type {found}, expected F32, F16 or BF16. Convert it, quantised weights are not read", path.display())]
    DType {
        /// The file or directory.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Type in the file.
        found: String,
    },
    /// A saved state that is damaged, or of something else.
    #[error("{} cannot be continued: {reason}. Save the state anew", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be used.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A wish that generation cannot fulfil.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GenerationError {
    /// A setting outside of its range.
    #[error("{name} must be {expected}, found {found}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What would make sense.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The chat template cannot render a conversation, or says by itself that it will not.
    #[error("the model's chat template refuses this conversation: {reason}")]
    Conversation {
        /// In the words of the template, or of its engine.
        reason: String,
    },
}

/// The first few names, so that a wrong file does not fill the screen.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("none");
    } else if names.len() > SHOWN {
        text.push_str(", ...");
    }
    text
}
