//! Chat templates: a conversation to the text that the model was trained to continue, as transformers renders them.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::ZonedDateTime;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use crate::error::{CheckpointError, GenerationError};
use crate::python_json;

/// Special tokens that templates may name.
const SPECIAL_TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The template for conversations with tools, where a model has one of its own.
const WITH_TOOLS: &str = "tool_use";
/// Any other template.
const DEFAULT: &str = "default";

/// What is to be rendered. The order of keys is kept: templates print them.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Messages, first to last, with `role`, `content` and whatever else the template reads.
    pub messages: Vec<Value>,
    /// Tools the model may call, as JSON schemas; `None` is told from no tools by some templates.
    pub tools: Option<Vec<Value>>,
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// More names the template knows.
    pub more: BTreeMap<String, Value>,
}

/// The chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: BTreeMap<String, String>,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, else the `chat_template` in `tokenizer_config.json`. `None`: the model in `directory` has neither.
    ///
    /// # Errors
    /// If a file cannot be read or the template cannot be parsed.
    pub fn load(directory: &Path) -> Result<Option<Self>, CheckpointError> {
        let config_path = directory.join("tokenizer_config.json");
        let config = read_json(&config_path)?;
        let file = directory.join("chat_template.jinja");
        let (templates, path) = match read(&file)? {
            Some(text) => (BTreeMap::from([(DEFAULT.to_owned(), text)]), file),
            None => (templates(&config["chat_template"]), config_path),
        };
        if templates.is_empty() {
            return Ok(None);
        }
        let legacy = read_json(&directory.join("special_tokens_map.json"))?;
        let token = |name: &&'static str| {
            let found = [&config[*name], &legacy[*name]].into_iter().find_map(|value| value.as_str().or(value["content"].as_str()))?;
            Some((*name, found.to_owned()))
        };
        let special_tokens = SPECIAL_TOKENS.iter().filter_map(token).collect();
        let template = Self { templates: templates.into_iter().map(|(name, text)| (name, without_marks(&text))).collect(), special_tokens };
        for text in template.templates.values() {
            let reason = |error: Error| CheckpointError::Tokenizer { path: path.clone(), reason: format!("its chat template: {error}") };
            environment(ZonedDateTime::now()).template_from_str(text).map_err(reason)?;
        }
        Ok(Some(template))
    }

    /// The text of a conversation; `strftime_now` in it tells the time of this call.
    ///
    /// # Errors
    /// If the template refuses the conversation, or asks of it what it has not.
    pub fn render(&self, conversation: &Conversation) -> Result<String, GenerationError> {
        self.render_at(conversation, ZonedDateTime::now())
    }

    /// The text of a conversation at the time `now`.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_at(&self, conversation: &Conversation, now: ZonedDateTime) -> Result<String, GenerationError> {
        let mut names: BTreeMap<String, Value> = self.special_tokens.iter().map(|(&name, token)| (name.to_owned(), token.into())).collect();
        names.extend(conversation.more.clone());
        names.insert("messages".into(), conversation.messages.clone().into());
        names.insert("tools".into(), conversation.tools.clone().map_or(Value::from(()), Value::from));
        names.insert("documents".into(), conversation.more.get("documents").cloned().unwrap_or(Value::from(())));
        names.insert("add_generation_prompt".into(), conversation.add_generation_prompt.into());
        let wanted = if conversation.tools.is_some() { [WITH_TOOLS, DEFAULT] } else { [DEFAULT, WITH_TOOLS] };
        let text = wanted.iter().find_map(|&name| self.templates.get(name)).or(self.templates.values().next());
        let rendered = environment(now).render_str(text.map_or("", String::as_str), Value::from(names));
        rendered.map_err(|error| GenerationError::Conversation { reason: error.detail().map_or(error.to_string(), str::to_owned) })
    }
}

/// The template, or the templates by name.
fn templates(value: &Json) -> BTreeMap<String, String> {
    match value {
        Json::String(text) => BTreeMap::from([(DEFAULT.to_owned(), text.clone())]),
        Json::Array(list) => {
            let named = |entry: &Json| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
            list.iter().filter_map(named).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// What transformers gives a template: its whitespace rules, Python's methods, and four functions.
fn environment(now: ZonedDateTime) -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = environment.syntax().to_builder();
    environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build().expect("the usual marks"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", python_json::dumps);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| {
        jiff::fmt::strtime::format(format, &now).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    environment.add_function("dict", |entries: Option<Value>, more: Kwargs| -> Result<Value, Error> {
        let mut all = Vec::new();
        for map in entries.into_iter().chain([Value::from(more)]) {
            for key in map.try_iter()? {
                let value = map.get_item(&key)?;
                all.push((key, value));
            }
        }
        Ok(all.into_iter().collect())
    });
    environment
}

/// The template with blocks that always run in place of `{% generation %}`, which marks what a model has said for its trainers.
fn without_marks(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(begin) = rest.find("{%") {
        let Some(end) = rest[begin..].find("%}").map(|end| begin + end) else { break };
        let inner = &rest[begin + 2..end];
        let name = inner.trim_matches(['-', '+']).trim();
        text.push_str(&rest[..begin + 2]);
        match name {
            "generation" => text.push_str(&inner.replacen(name, "if true", 1)),
            "endgeneration" => text.push_str(&inner.replacen(name, "endif", 1)),
            _ => text.push_str(inner),
        }
        rest = &rest[end..];
    }
    text + rest
}

fn read(path: &Path) -> Result<Option<String>, CheckpointError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Io { action: "read", path: path.into(), source }),
    }
}

/// `null` where there is no file.
fn read_json(path: &Path) -> Result<Json, CheckpointError> {
    let Some(text) = read(path)? else { return Ok(Json::Null) };
    serde_json::from_str(&text).map_err(|error| CheckpointError::Tokenizer { path: path.into(), reason: format!("not JSON: {error}") })
}
