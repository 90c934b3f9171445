//! `dtr generate` and `dtr serve` as their users meet them.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::{dtr, fails, succeeds};

const MODEL: &str = "assets/models/tiny-qwen3";
const BOOK: &str = "<|phone|>Alice Baker: 4821\nBob Clark: 1733\n<|query|>";

/// What `dtr generate` prints.
fn generate(arguments: &[&str]) -> String {
    String::from_utf8(succeeds(dtr(&["generate", "--model", MODEL]).args(arguments)).stdout).expect("text")
}

#[test]
fn several_prompts_are_continued_together() {
    let [alice, bob] = ["Alice Baker: ", "Bob Clark: "].map(|name| format!("{BOOK}{name}"));
    let both = ["--prompt", &alice, "--prompt", &bob, "--max-new-tokens", "4"];
    assert_eq!(generate(&both), "[1 of 2]\n4821\n[2 of 2]\n1733\n");
    let json = generate(&[&both[..], &["--json", "--stop", "33"]].concat());
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["text"].as_str().expect("text"), line["finish"].as_str().expect("text"))).collect();
    assert_eq!(told, [("4821", "length"), ("17", "stop")]);
    assert!(lines.iter().all(|line| line["cache_bytes"].as_u64().is_some_and(|bytes| bytes > 0)));
    let drawn = |more: &[&str]| generate(&[&["--prompt", "fn ", "--temperature", "1.2", "--top-k", "40", "--top-p", "0.9"], more].concat());
    assert_eq!(drawn(&["--seed", "3"]), drawn(&["--seed", "3"]));
    assert_ne!(drawn(&["--seed", "3"]), drawn(&["--seed", "4"]));
}

#[test]
fn a_saved_state_is_gone_on_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (state, longer) = (path("state.safetensors"), path("longer.safetensors"));
    let prompt = format!("{BOOK}Alice Baker: ");
    let asked = ["--prompt", &prompt, "--max-new-tokens", "12"];
    let plain = generate(&asked);
    assert_eq!(generate(&[&asked[..], &["--save-state", &state]].concat()), plain);
    assert_eq!(generate(&[&asked[..], &["--load-state", &state]].concat()), plain);

    let further = format!("{prompt}4821\n");
    let asked = ["--prompt", &further, "--max-new-tokens", "12"];
    let plain = generate(&asked);
    assert_eq!(generate(&[&asked[..], &["--load-state", &state, "--save-state", &longer]].concat()), plain);
    assert_eq!(generate(&[&asked[..], &["--load-state", &longer]].concat()), plain);

    let refused = |arguments: &[&str], parts: &[&str]| fails(dtr(&["generate", "--model", MODEL]).args(arguments), parts);
    refused(&["--prompt", BOOK, "--load-state", &state], &["state.safetensors cannot be continued", "prompt 1 differs"]);
    refused(&["--prompt", "fn main", "--load-state", &state], &["prompt 1 differs from its", "tokens at token 1"]);
    refused(&["--prompt", "a", "--prompt", "b", "--save-state", &longer], &["a state of 2 prompts", "one --prompt"]);
    refused(&["--prompt", BOOK, "--load-state", "nowhere"], &["could not read nowhere"]);
    let other = directory.path().join("other");
    std::fs::create_dir(&other).expect("created");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(support::workspace().join(MODEL).join(name), other.join(name)).expect("copied");
    }
    let config = other.join("config.json");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(&config, format!("{text} ")).expect("written");
    let other = other.display().to_string();
    fails(&mut dtr(&["generate", "--model", &other, "--prompt", &prompt, "--load-state", &state]), &["it is of another model"]);
    let bytes = std::fs::read(&state).expect("bytes");
    std::fs::write(&state, &bytes[..bytes.len() / 2]).expect("written");
    refused(&["--prompt", &prompt, "--load-state", &state], &["state.safetensors is damaged or cut off"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, part) in [
        (&["--temperature", "NaN"][..], "temperature must be"),
        (&["--top-p", "1.5"], "top_p must be"),
        (&["--top-k", "0"], "top_k must be"),
        (&["--repetition-penalty", "0"], "repetition_penalty must be"),
        (&["--chat"], "no chat template"),
    ] {
        fails(dtr(&["generate", "--model", MODEL, "--prompt", "fn"]).args(arguments), &[part]);
    }
}

#[test]
#[cfg(unix)]
fn a_server_answers_and_lets_what_is_under_way_end() {
    let mut server = dtr(&["serve", "--model", MODEL, "--port", "0"]).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(server.stderr.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split("/v1").next()).expect("an address").to_owned();
    assert!(line.contains("tiny-qwen3") && address.starts_with("127.0.0.1:"), "{line}");

    let body = "{\"model\": \"tiny-qwen3\", \"prompt\": \"fn\", \"max_tokens\": 600, \"temperature\": 1, \"stream\": true}";
    let mut stream = TcpStream::connect(&address).expect("connected");
    write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    while !first.starts_with("data: ") {
        first.clear();
        assert!(reader.read_line(&mut first).expect("a line") > 0, "no data came");
    }
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill").success());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("[DONE]"), "cut off");
    assert!(server.wait().expect("an end").success());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = dtr(&["serve", "--model", MODEL, "--port", &port]).output().expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("cannot serve at 127.0.0.1") && message.contains("--port"), "{message}");
}
