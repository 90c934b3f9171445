//! Parents by their name on a hub, against a small one in this process. `cargo test -p dtr-experiment --features hub --test hub`
#![cfg(feature = "hub")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use support::{dtr, fails, succeeds, workspace};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_aVerySecretToken";
const REPOSITORY: &str = "someone/tiny";

/// What the hub holds and how it behaves.
#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, Vec<u8>>,
    /// Whether it opens only to those with the token.
    gated: bool,
    /// Bytes after which the connection breaks, once, while this file is sent.
    breaks: Option<(&'static str, usize)>,
    /// What was asked for.
    asked: Vec<String>,
}

/// A hub at an address of its own, for as long as the test.
struct Hub {
    address: String,
    shelf: Arc<Mutex<Shelf>>,
}

impl Hub {
    fn open(shelf: Shelf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let shelf = Arc::new(Mutex::new(shelf));
        let shared = Arc::clone(&shelf);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is no concern of the hub.
                let _ = answer(stream, &shared);
            }
        });
        Self { address, shelf }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf.lock().expect("a shelf").asked)
    }

    /// A command that knows this hub and keeps its cache in `home`.
    fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = dtr(arguments);
        for name in [
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", home).env("HF_ENDPOINT", &self.address).env("RUST_LOG", "trace");
        command
    }
}

/// One request and its answer.
fn answer(mut stream: TcpStream, shelf: &Mutex<Shelf>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let mut shelf = shelf.lock().expect("a shelf");
    shelf.asked.push(path.clone());
    let status =
        |stream: &mut TcpStream, status: &str| write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    if !path.contains(REPOSITORY) {
        return status(&mut stream, "404 Not Found");
    }
    if shelf.gated && headers.get("authorization").map(String::as_str) != Some(&format!("Bearer {TOKEN}")) {
        return status(&mut stream, "401 Unauthorized");
    }
    if path == format!("/api/models/{REPOSITORY}/revision/main") {
        let siblings: Vec<_> = shelf.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }
    let name = path.strip_prefix(&format!("/{REPOSITORY}/resolve/main/")).unwrap_or_default().to_owned();
    let Some(bytes) = shelf.files.get(&name).cloned() else { return status(&mut stream, "404 Not Found") };
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')).unwrap_or(("0", ""));
    let from: usize = range.0.parse().unwrap_or(0);
    let to = range.1.parse().map_or(bytes.len(), |last: usize| last + 1).min(bytes.len());
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nETag: \"tag-{name}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        to.max(1) - 1,
        bytes.len(),
        to - from
    )?;
    let cut = shelf.breaks.filter(|(broken, after)| *broken == name && to - from > *after).map(|(_, after)| after);
    if let Some(after) = cut {
        shelf.breaks = None;
        return stream.write_all(&bytes[from..from + after]);
    }
    stream.write_all(&bytes[from..to])
}

/// The bundled parent.
fn tiny() -> Shelf {
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"];
    let read = |name: &str| std::fs::read(workspace().join("assets/models/tiny-qwen3").join(name)).expect("bytes");
    Shelf { files: names.iter().map(|name| ((*name).to_owned(), read(name))).collect(), ..Shelf::default() }
}

const PARENT: &str = "parent={ hub = \"someone/tiny\", revision = \"main\" }";

/// Trains a little.
fn distil(runs: &str) -> Vec<&str> {
    let mut words = vec!["distill", "configs/quickstart.toml", "--quiet", "--runs", runs];
    for set in [PARENT, "distill.tokens=1280", "distill.calibration-tokens=1280", "distill.rows=8", "distill.mixture={ phonebook = 1.0 }"] {
        words.extend(["--set", set]);
    }
    words
}

const CHECK: [&str; 4] = ["check", "configs/quickstart.toml", "--set", PARENT];

#[test]
fn a_parent_is_downloaded_once_and_then_needs_no_hub() {
    let (hub, home, runs) = (Hub::open(tiny()), tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let planned = succeeds(&mut hub.command(home.path(), &CHECK));
    let text = String::from_utf8_lossy(&planned.stdout);
    for part in ["qwen3, 8 layers", "its weights are not here", "its tokenizer is not here"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(hub.asked().iter().all(|path| path.ends_with("/config.json")), "a plan needs the configuration alone");

    let runs = runs.path().to_str().expect("text");
    succeeds(&mut hub.command(home.path(), &distil(runs)));
    let asked = hub.asked();
    assert!(
        asked.iter().any(|path| path.ends_with("/model.safetensors")) && !asked.iter().any(|path| path.ends_with("README.md")),
        "{asked:?}"
    );
    // With nobody to ask, and told so or not.
    let planned = succeeds(hub.command(home.path(), &CHECK).env("HF_HUB_OFFLINE", "1"));
    assert!(!String::from_utf8_lossy(&planned.stdout).contains("not here"));
    succeeds(&mut hub.command(home.path(), &distil(runs)));
    assert_eq!(hub.asked(), Vec::<String>::new());
    let nowhere = tempfile::tempdir().expect("a directory");
    fails(
        hub.command(nowhere.path(), &CHECK).env("HF_HUB_OFFLINE", "1"),
        &["someone/tiny at main", "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"],
    );
    let unreachable = ["HF_ENDPOINT", "http://127.0.0.1:9"];
    fails(
        hub.command(nowhere.path(), &CHECK).env(unreachable[0], unreachable[1]),
        &["config.json could not be downloaded", "run the same command again"],
    );
}

#[test]
fn what_is_not_there_is_said() {
    let (hub, home) = (Hub::open(Shelf::default()), tempfile::tempdir().expect("a directory"));
    let check = |parent: &str, parts: &[&str]| {
        fails(&mut hub.command(home.path(), &["check", "configs/quickstart.toml", "--set", parent]), parts);
    };
    check(
        "parent={ hub = \"nobody/nothing\", revision = \"main\" }",
        &["nobody/nothing at main", "the hub has no config.json there", "correct parent.hub"],
    );
    let mut pickled = tiny();
    let weights = pickled.files.remove("model.safetensors").expect("weights");
    pickled.files.insert("pytorch_model.bin".into(), weights);
    let hub = Hub::open(pickled);
    let runs = home.path().join("runs").display().to_string();
    fails(
        &mut hub.command(home.path(), &distil(&runs)),
        &["neither model.safetensors nor model.safetensors.index.json", "pickles are never read"],
    );
    assert!(!hub.asked().iter().any(|path| path.contains("pytorch_model")));
}

/// All text below a directory that has the token in it.
fn betrayed(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let found = |path: std::path::PathBuf| {
        if path.is_dir() {
            return betrayed(&path);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        let there = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        there.then(|| path.display().to_string()).into_iter().collect()
    };
    entries.flat_map(found).collect()
}

#[test]
fn a_gated_model_needs_a_token_that_nobody_sees() {
    let (hub, home, runs) =
        (Hub::open(Shelf { gated: true, ..tiny() }), tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    fails(&mut hub.command(home.path(), &CHECK), &["access to config.json is denied", "HF_TOKEN", "accept the model's terms"]);
    let wrong = hub.command(home.path(), &CHECK).env("HF_TOKEN", "hf_another").output().expect("the binary runs");
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && message.contains("HF_TOKEN") && !message.contains("hf_another"), "{message}");

    let words = distil(runs.path().to_str().expect("text"));
    let right = succeeds(hub.command(home.path(), &words).env("HF_TOKEN", TOKEN));
    // Behind an open gate something else fails: what is said then has no token in it either.
    hub.shelf.lock().expect("a shelf").files.clear();
    let nowhere = tempfile::tempdir().expect("a directory");
    let missing = hub.command(nowhere.path(), &CHECK).env("HF_TOKEN", TOKEN).output().expect("the binary runs");
    assert!(!missing.status.success());
    for output in [right, missing] {
        for text in [output.stdout, output.stderr] {
            assert!(!String::from_utf8_lossy(&text).contains(TOKEN));
        }
    }
    assert_eq!([betrayed(runs.path()), betrayed(home.path()), betrayed(nowhere.path())].concat(), Vec::<String>::new());
}

#[test]
fn a_download_that_breaks_off_leaves_nothing_half_and_goes_on() {
    let (home, runs) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let hub = Hub::open(Shelf { breaks: Some(("model.safetensors", 1_000_000)), ..tiny() });
    let words = distil(runs.path().to_str().expect("text"));
    fails(&mut hub.command(home.path(), &words), &["model.safetensors could not be downloaded", "run the same command again"]);
    let snapshot = home.path().join("hub/models--someone--tiny/snapshots").join(COMMIT);
    assert!(snapshot.join("tokenizer.json").exists() && !snapshot.join("model.safetensors").exists());
    fails(hub.command(home.path(), &words).env("HF_HUB_OFFLINE", "1"), &["not whole", "HF_HUB_OFFLINE"]);
    succeeds(&mut hub.command(home.path(), &words));
    let found = std::fs::read(snapshot.join("model.safetensors")).expect("bytes");
    assert_eq!(found, tiny().files["model.safetensors"]);
}
