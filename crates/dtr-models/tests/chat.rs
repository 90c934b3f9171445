//! Chat templates against transformers' `apply_chat_template`.

use std::collections::BTreeMap;
use std::path::Path;

use dtr_models::chat::{ChatTemplate, Conversation};
use minijinja::Value;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Golden {
    now: String,
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: BTreeMap<String, Value>,
    text: Option<String>,
    refused: Option<String>,
}

fn model_with(files: &[(&str, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

fn load(files: &[(&str, String)]) -> Option<ChatTemplate> {
    ChatTemplate::load(model_with(files).path()).expect("readable")
}

fn list(value: Value) -> Vec<Value> {
    value.try_iter().expect("a list").collect()
}

fn config() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3/tokenizer_config.json");
    std::fs::read_to_string(path).expect("the bundled model")
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/chat.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).expect("golden")).expect("JSON");
    let now: jiff::civil::DateTime = golden.now.parse().expect("a time");
    let now = now.to_zoned_datetime(jiff::tz::TimeZone::UTC).expect("a time");
    let mut wrong = Vec::new();
    for (index, Case { template, mut conversation, text, refused }) in golden.cases.into_iter().enumerate() {
        let chat = load(&[("tokenizer_config.json", config()), ("chat_template.jinja", golden.templates[&template].clone())]).expect("one");
        let conversation = Conversation {
            messages: list(conversation.remove("messages").expect("messages")),
            tools: conversation.remove("tools").map(list),
            add_generation_prompt: conversation.remove("add_generation_prompt").is_some_and(|value| value.is_true()),
            more: conversation,
        };
        let (right, found) = match chat.render_at(&conversation, now.clone()) {
            Ok(found) => (Some(&found) == text.as_ref(), found),
            Err(error) => (refused.as_ref().is_some_and(|wanted| error.to_string().ends_with(wanted)), error.to_string()),
        };
        if !right {
            wrong.push(format!("case {index}, {template}: {found:?}, expected {text:?} {refused:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn templates_are_found_where_transformers_looks() {
    let said = |chat: Option<ChatTemplate>, tools: Option<Vec<Value>>| {
        let message = serde_json::from_value(json!({ "role": "user", "content": "hi" })).expect("a message");
        chat.expect("a template").render(&Conversation { messages: vec![message], tools, ..Default::default() }).expect("text")
    };
    let named = json!({ "eos_token": { "content": "</s>" }, "chat_template": [
        { "name": "tool_use", "template": "tools" }, { "name": "default", "template": "{{ messages[0].content }}{{ eos_token }}{{ bos_token }}" } ] });
    let special = ("special_tokens_map.json", json!({ "eos_token": "unused", "bos_token": "<s>" }).to_string());
    assert_eq!(said(load(&[("tokenizer_config.json", named.to_string()), special]), None), "hi</s><s>");
    assert_eq!(said(load(&[("tokenizer_config.json", named.to_string())]), Some(vec![])), "tools");
    let both = [("tokenizer_config.json", json!({ "chat_template": "config" }).to_string()), ("chat_template.jinja", "file\n".to_owned())];
    assert_eq!(said(load(&both), None), "file");
    assert!(load(&[("tokenizer_config.json", config())]).is_none());
    assert!(load(&[]).is_none());
    let refused = ChatTemplate::load(model_with(&[("chat_template.jinja", "{% if %}".to_owned())]).path()).expect_err("no template");
    assert!(refused.to_string().contains("chat_template.jinja"), "{refused}");
}
