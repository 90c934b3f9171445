//! The server as clients meet it: answers, streams, scores; limits and bad input; clients that go away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use dtr_models::generate::Sequence;
use dtr_models::{ChatTemplate, Tokenizer, checkpoint};
use dtr_serve::engine::PIECE_TOKENS;
use dtr_serve::{Engine, Limits, Served, router};
use serde_json::{Value, json};
use tower::ServiceExt;

type Flex = burn_flex::Flex;

const LIMITS: Limits = Limits { body_bytes: 20_000, tokens: 400, batch: 4, queue: 4, connections: 16, memory_bytes: 0 };
const TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% if message.role == 'bad' %}{{ raise_exception('no ' + message.role) }}{% endif %}{% endfor %}";
const BOOK: &str = "<|phone|>Alice Baker: 4821\nBob Clark: 1733\nCarol Davis: 9046\n<|query|>Bob Clark: ";

fn tiny_qwen3() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3")
}

/// The bundled parent, with a template that joins what is said.
fn served(limits: Limits) -> Arc<Served> {
    let directory = tiny_qwen3();
    let (config, model) = checkpoint::load::<Flex>(&directory, &Default::default()).expect("the bundled parent");
    let template = tempfile::tempdir().expect("a directory");
    std::fs::write(template.path().join("chat_template.jinja"), TEMPLATE).expect("written");
    Arc::new(Served {
        name: "tiny".into(),
        tokenizer: Tokenizer::load(&directory, config.vocabulary).expect("its tokenizer"),
        chat: ChatTemplate::load(template.path()).expect("readable"),
        end_tokens: config.end_tokens(),
        vocabulary: config.vocabulary,
        limits,
        engine: Engine::start(model, Default::default(), limits),
    })
}

fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn send(served: &Arc<Served>, method: Method, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(body.into()).expect("a request");
    let response = router(Arc::clone(served)).oneshot(request).await.expect("an answer");
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (status, String::from_utf8(bytes.to_vec()).expect("text"))
}

/// The answer to a request that must be served.
async fn ask(served: &Arc<Served>, path: &str, mut body: Value) -> Value {
    body["model"] = "tiny".into();
    let (status, text) = send(served, Method::POST, path, body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The data of a stream, without its end.
async fn ask_stream(served: &Arc<Served>, path: &str, mut body: Value) -> Vec<Value> {
    body["model"] = "tiny".into();
    body["stream"] = true.into();
    let (status, text) = send(served, Method::POST, path, body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[test]
fn models_are_listed() {
    let served = served(LIMITS);
    within(async {
        let (status, text) = send(&served, Method::GET, "/v1/models", "").await;
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((status, &list["object"], &list["data"][0]["id"]), (StatusCode::OK, &json!("list"), &json!("tiny")));
        assert_eq!(send(&served, Method::GET, "/v1/models/tiny", "").await.0, StatusCode::OK);
        assert_eq!(send(&served, Method::GET, "/v1/models/other", "").await.0, StatusCode::NOT_FOUND);
    });
}

#[test]
fn prompts_of_every_form_are_continued() {
    let served = served(LIMITS);
    let tokens = served.tokenizer.encode(BOOK).expect("tokens");
    within(async {
        for (prompt, choices) in [(json!(BOOK), 1), (json!([BOOK, BOOK]), 2), (json!(tokens), 1), (json!([tokens, tokens, tokens]), 3)] {
            let answer = ask(&served, "/v1/completions", json!({ "prompt": prompt, "max_tokens": 4, "temperature": 0 })).await;
            assert_eq!(answer["object"], "text_completion");
            let list = answer["choices"].as_array().expect("choices");
            assert_eq!(list.len(), choices);
            for (index, choice) in list.iter().enumerate() {
                assert_eq!(
                    (&choice["index"], &choice["text"], &choice["finish_reason"]),
                    (&json!(index), &json!("1733"), &json!("length"))
                );
            }
            let prompt_tokens = choices * tokens.len();
            assert_eq!(
                answer["usage"],
                json!({
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": 4 * choices,
                    "total_tokens": prompt_tokens + 4 * choices,
                    "prompt_tokens_details": { "cached_tokens": 0 },
                })
            );
        }
        let answer =
            ask(&served, "/v1/completions", json!({ "prompt": BOOK, "max_tokens": 9, "temperature": 0, "stop": ["33", "zzz"] })).await;
        assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]), (&json!("17"), &json!("stop")));
        let answer = ask(&served, "/v1/completions", json!({ "prompt": BOOK, "max_tokens": 0, "echo": true })).await;
        assert_eq!(answer["choices"][0]["text"], BOOK);
    });
}

#[test]
fn scores_cover_the_prompt_and_what_follows() {
    let served = served(LIMITS);
    let tokens = served.tokenizer.encode(BOOK).expect("tokens");
    within(async {
        let body = json!({ "prompt": BOOK, "max_tokens": 2, "temperature": 0, "echo": true, "logprobs": 2 });
        let answer = ask(&served, "/v1/completions", body).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], format!("{BOOK}17"));
        let scores = &choice["logprobs"];
        let pieces = scores["tokens"].as_array().expect("tokens");
        assert_eq!(pieces.len(), tokens.len() + 2);
        assert_eq!(pieces.iter().map(|piece| piece.as_str().expect("text")).collect::<String>(), format!("{BOOK}17"));
        assert!(scores["token_logprobs"][0].is_null() && scores["top_logprobs"][0].is_null());
        let mut offset = 0;
        for (place, piece) in pieces.iter().enumerate() {
            assert_eq!(scores["text_offset"][place], offset);
            offset += piece.as_str().expect("text").chars().count();
            if place > 0 {
                let logprob = scores["token_logprobs"][place].as_f64().expect("a number");
                let top = scores["top_logprobs"][place].as_object().expect("the likeliest");
                assert!(logprob <= 0.0 && (2..=3).contains(&top.len()));
                assert_eq!(top[piece.as_str().expect("text")], scores["token_logprobs"][place]);
            }
        }
    });
}

#[test]
fn streams_bring_what_whole_answers_bring() {
    let served = served(LIMITS);
    within(async {
        for body in [
            json!({ "prompt": BOOK, "max_tokens": 12, "temperature": 0, "stop": "9\n" }),
            json!({ "prompt": ["fn main() {\n", BOOK], "n": 2, "max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 7, "echo": true, "logprobs": 1 }),
            json!({ "prompt": "// Grüße \u{1F980}", "max_tokens": 30, "temperature": 1.5, "seed": 3, "repetition_penalty": 1.1 }),
        ] {
            let whole = ask(&served, "/v1/completions", body.clone()).await;
            let mut body = body;
            body["stream_options"] = json!({ "include_usage": true });
            let mut chunks = ask_stream(&served, "/v1/completions", body).await;
            assert_eq!(chunks.pop().expect("a last one")["usage"], whole["usage"]);
            for choice in whole["choices"].as_array().expect("choices") {
                let own: Vec<&Value> =
                    chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|one| one["index"] == choice["index"]).collect();
                let text: String = own.iter().map(|one| one["text"].as_str().expect("text")).collect();
                assert_eq!(choice["text"], text);
                assert_eq!(own.last().expect("chunks")["finish_reason"], choice["finish_reason"]);
                let offsets: Vec<&Value> = own.iter().filter_map(|one| one["logprobs"]["text_offset"].as_array()).flatten().collect();
                assert_eq!(
                    offsets,
                    choice["logprobs"]["text_offset"].as_array().map(|list| list.iter().collect::<Vec<_>>()).unwrap_or_default()
                );
            }
        }
    });
}

#[test]
fn conversations_are_answered() {
    let served = served(LIMITS);
    let (begin, end) = BOOK.split_once("Carol").expect("two parts");
    let end = format!("Carol{end}");
    within(async {
        let messages = json!([{ "role": "system", "content": begin }, { "role": "user", "content": [{ "type": "text", "text": end }] }]);
        let body = json!({ "messages": messages, "max_tokens": 4, "temperature": 0, "logprobs": true, "top_logprobs": 1 });
        let answer = ask(&served, "/v1/chat/completions", body.clone()).await;
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["choices"][0]["message"], json!({ "role": "assistant", "content": "1733" }));
        let scores = answer["choices"][0]["logprobs"]["content"].as_array().expect("scores");
        assert_eq!((scores.len(), &scores[0]["token"], &scores[0]["top_logprobs"][0]["token"]), (4, &json!("1"), &json!("1")));
        let chunks = ask_stream(&served, "/v1/chat/completions", body).await;
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!((text.as_str(), &chunks.last().expect("chunks")["choices"][0]["finish_reason"]), ("1733", &json!("length")));
    });
}

#[test]
fn requests_that_cannot_be_served_are_refused_in_words() {
    let served = served(LIMITS);
    let check = async |path: &str, body: Vec<u8>, status: u16, parts: &[&str]| {
        let (found, text) = send(&served, Method::POST, path, body).await;
        assert_eq!(found.as_u16(), status, "{text}");
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string(), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    };
    let with = |more: Value| {
        let mut body = json!({ "model": "tiny", "prompt": "fn" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body.to_string().into_bytes()
    };
    within(async {
        let completions = "/v1/completions";
        check(completions, b"{".to_vec(), 400, &["the body is not a request", "EOF"]).await;
        check(completions, b"{\"model\": \"tiny\", \"prompt\": \"\xff\"}".to_vec(), 400, &["not a request"]).await;
        check(completions, b"[1]".to_vec(), 400, &["not a request"]).await;
        check(completions, with(json!({ "model": "gpt" })), 404, &["gpt", "tiny", "model_not_found"]).await;
        check(completions, with(json!({ "model": null })), 400, &["model", "is missing"]).await;
        check(completions, with(json!({ "prompt": null })), 400, &["prompt", "is missing"]).await;
        check(completions, with(json!({ "prompt": 3 })), 400, &["a list of tokens"]).await;
        check(completions, with(json!({ "prompt": "" })), 400, &["at least one token"]).await;
        check(completions, with(json!({ "prompt": [] })), 400, &["prompt"]).await;
        check(completions, with(json!({ "prompt": [2048] })), 400, &["token 2048", "2047"]).await;
        check(completions, with(json!({ "prompt": [-1] })), 400, &["a list of tokens"]).await;
        check(completions, with(json!({ "max_tokens": -1 })), 400, &["max_tokens", "-1", "invalid_request_error"]).await;
        check(completions, with(json!({ "max_tokens": 1.5 })), 400, &["1.5"]).await;
        check(completions, with(json!({ "max_tokens": 401 })), 400, &["at most 400", "context_length_exceeded"]).await;
        check(completions, with(json!({ "prompt": vec![20; 500] })), 400, &["500 tokens", "context_length_exceeded"]).await;
        check(completions, with(json!({ "n": 1_000_000_000 })), 400, &["\"n\"", "from 1 to 8"]).await;
        check(completions, with(json!({ "n": 0 })), 400, &["\"n\""]).await;
        check(completions, with(json!({ "n": 5, "prompt": ["fn", "let"] })), 400, &["1 to 8 sequences"]).await;
        check(completions, with(json!({ "temperature": -1 })), 400, &["temperature", "0 or more"]).await;
        check(completions, with(json!({ "top_p": 0 })), 400, &["top_p"]).await;
        check(completions, with(json!({ "top_k": -2 })), 400, &["top_k"]).await;
        check(completions, with(json!({ "repetition_penalty": 0 })), 400, &["repetition_penalty"]).await;
        check(completions, with(json!({ "logprobs": 21 })), 400, &["logprobs", "0 to 20"]).await;
        check(completions, with(json!({ "logprobs": true })), 400, &["logprobs"]).await;
        check(completions, with(json!({ "stop": vec!["x"; 17] })), 400, &["stop", "16"]).await;
        check(completions, with(json!({ "presence_penalty": 0.5 })), 400, &["presence_penalty", "not supported"]).await;
        check(completions, with(json!({ "best_of": 3 })), 400, &["best_of"]).await;
        check(completions, with(json!({ "colour": 1 })), 400, &["unknown field `colour`"]).await;
        check(completions, with(json!({ "messages": [] })), 400, &["messages", "does not go with"]).await;
        check(completions, vec![b' '; 20_001], 413, &["larger than 20000 bytes"]).await;
        check("/v1/chat/completions", with(json!({})), 400, &["prompt", "does not go with"]).await;
        let chat = |messages: Value| json!({ "model": "tiny", "messages": messages }).to_string().into_bytes();
        check("/v1/chat/completions", chat(json!([])), 400, &["at least one message"]).await;
        check("/v1/chat/completions", chat(json!(["hi"])), 400, &["objects with a role"]).await;
        check(
            "/v1/chat/completions",
            chat(json!([{ "role": "user", "content": [{ "type": "image_url" }] }])),
            400,
            &["parts of type text"],
        )
        .await;
        check("/v1/chat/completions", chat(json!([{ "role": "bad", "content": "x" }])), 400, &["no bad"]).await;
        check("/v2/completions", vec![], 404, &["/v2/completions is not served"]).await;
        let (status, text) = send(&served, Method::GET, completions, "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{text}");
        // None of it has done harm.
        ask(&served, completions, json!({ "prompt": "fn", "max_tokens": 1 })).await;
    });
}

#[test]
fn more_than_there_is_room_for_is_turned_away() {
    let served = served(Limits { batch: 1, queue: 1, ..LIMITS });
    within(async {
        let body = json!({ "model": "tiny", "prompt": "fn", "n": 2, "max_tokens": 390, "temperature": 0, "stream": true }).to_string();
        let request = Request::post("/v1/completions").body(Body::from(body)).expect("a request");
        // With the head of the answer both places are taken, one of them by a sequence that waits.
        let running = router(Arc::clone(&served)).oneshot(request).await.expect("an answer");
        let one = json!({ "model": "tiny", "prompt": "fn", "max_tokens": 1 }).to_string();
        let (status, text) = send(&served, Method::POST, "/v1/completions", one).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{text}");
        assert!(text.contains("rate_limit_exceeded") && text.contains("2 sequences"), "{text}");
        let bytes = to_bytes(running.into_body(), usize::MAX).await.expect("a body");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("\"finish_reason\":\"length\"").count(), 2, "{text}");
        ask(&served, "/v1/completions", json!({ "prompt": "fn", "max_tokens": 1 })).await;
    });
}

/// The address of a server, and it. No token ends a text: one that is drawn would do so at any time.
fn listening(limits: Limits) -> (std::net::SocketAddr, Arc<Served>) {
    let served = Arc::new(Served { end_tokens: vec![], ..Arc::into_inner(served(limits)).expect("nobody else has it") });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, router) = (listener.local_addr().expect("an address"), router(Arc::clone(&served)));
    std::thread::spawn(move || dtr_serve::serve(router, listener, limits.connections));
    (address, served)
}

fn post(address: std::net::SocketAddr, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    let body = body.to_string();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .expect("sent");
    stream
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let (address, _served) = listening(Limits { batch: 1, queue: 0, tokens: 4000, ..LIMITS });
    let short = || {
        let mut text = String::new();
        post(address, &json!({ "model": "tiny", "prompt": "fn", "max_tokens": 2 })).read_to_string(&mut text).expect("an answer");
        text
    };
    for streamed in [true, false] {
        let posted = Instant::now();
        // Of two that arrive at once either may be the first: again, until it is the long one.
        let long = loop {
            let mut long =
                post(address, &json!({ "model": "tiny", "prompt": "fn", "max_tokens": 3900, "temperature": 1, "stream": streamed }));
            if streamed {
                // It comes piece by piece: the first long before the last.
                let mut lines = BufReader::new(&mut long).lines();
                assert!(lines.any(|line| line.expect("a line").starts_with("data: {")));
            } else {
                std::thread::sleep(Duration::from_millis(100));
            }
            if short().starts_with("HTTP/1.1 429") {
                break long;
            }
            assert!(!streamed && posted.elapsed() < Duration::from_secs(10), "the only place is taken");
        };
        drop(long);
        let left = Instant::now();
        while !short().starts_with("HTTP/1.1 200") {
            assert!(left.elapsed() < Duration::from_secs(5), "the place is not free again");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn what_was_read_before_is_read_no_more() {
    let served = served(Limits { memory_bytes: 1 << 26, ..LIMITS });
    let tokens = served.tokenizer.encode(BOOK).expect("tokens");
    let (answer, more) = ("1733", "\n<|query|>Alice Baker: ");
    let [answer_tokens, more_tokens] = [answer, more].map(|text| served.tokenizer.encode(text).expect("tokens"));
    assert_eq!(answer_tokens.len(), 4);
    let further = [&tokens[..], &answer_tokens, &more_tokens].concat();
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number") as usize;
    within(async {
        let check = async |body: Value, text: &str, expected: usize| {
            let answer = ask(&served, "/v1/completions", body.clone()).await;
            assert_eq!((answer["choices"][0]["text"].as_str(), cached(&answer)), (Some(text), expected), "{body}");
        };
        let body = |prompt: Value| json!({ "prompt": prompt, "max_tokens": 4, "temperature": 0 });
        check(body(json!(BOOK)), answer, 0).await;
        check(body(json!(BOOK)), answer, tokens.len()).await;
        // The last token of an answer is made and not read. A prompt that goes on otherwise goes on from the prompt.
        check(body(json!(further)), "4821", tokens.len() + 3).await;
        check(body(json!([&tokens[..], &more_tokens].concat())), "4821", tokens.len()).await;
        // Each prompt counts once.
        check(json!({ "prompt": [tokens, further], "n": 2, "max_tokens": 4, "temperature": 0 }), answer, tokens.len() + further.len())
            .await;
        // Scores of a prompt need all of it; and what is shorter than anything known is read from its beginning.
        let scored = json!({ "prompt": BOOK, "max_tokens": 4, "temperature": 0, "echo": true, "logprobs": 0 });
        check(scored, &format!("{BOOK}{answer}"), 0).await;
        let shorter = ask(&served, "/v1/completions", body(json!(tokens[..tokens.len() - 1]))).await;
        assert_eq!(cached(&shorter), 0);
        // A conversation goes on from its last turn.
        let mut body = json!({ "messages": [{ "role": "user", "content": BOOK }], "max_tokens": 4, "temperature": 0 });
        assert_eq!(cached(&ask(&served, "/v1/chat/completions", body.clone()).await), tokens.len());
        for (role, content) in [("assistant", answer), ("user", more)] {
            body["messages"].as_array_mut().expect("a list").push(json!({ "role": role, "content": content }));
        }
        body["stream_options"] = json!({ "include_usage": true });
        let chunks = ask_stream(&served, "/v1/chat/completions", body).await;
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        let read = cached(chunks.last().expect("usage"));
        assert!(text == "4821" && read >= tokens.len() + 3, "{text}, {read}");
    });
}

#[test]
fn a_long_prompt_does_not_hold_up_a_stream() {
    let served = served(Limits { tokens: 8000, ..LIMITS });
    let mut stream = served.engine.submit(vec![Sequence::new(vec![20, 21, 22], 4000)]).expect("a place");
    within(async {
        stream.events.recv().await.expect("a first token");
        let pieces = 6;
        let long: Vec<u32> = (0..pieces * PIECE_TOKENS as u32).map(|i| i * 37 % 2000 + 15).collect();
        let mut other = served.engine.submit(vec![Sequence::new(long, 1)]).expect("a place");
        while stream.events.try_recv().is_ok() {}
        other.events.recv().await.expect("its only token");
        let meanwhile = std::iter::from_fn(|| stream.events.try_recv().ok()).count();
        // One token behind each piece but the last.
        assert!(meanwhile >= pieces as usize - 1, "{meanwhile}");
    });
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let (address, _served) = listening(Limits { connections: 2, ..LIMITS });
    let mut idle: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(address).expect("connected")).collect();
    let mut third = post(address, &json!({ "model": "tiny", "prompt": "fn", "max_tokens": 1 }));
    third.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    let mut byte = [0];
    third.read_exact(&mut byte).expect_err("nobody listens yet");
    idle.pop();
    third.set_read_timeout(Some(Duration::from_mins(1))).expect("a limit");
    let mut text = String::new();
    third.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
