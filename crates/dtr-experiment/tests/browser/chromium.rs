//! Headless Chromium by its `DevTools` protocol, over the pipe that `--remote-debugging-pipe` speaks on: JSON that ends with a zero byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Names under which it is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// One page in a browser of its own.
pub struct Tab {
    browser: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: String,
    asked: u64,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

fn installed() -> &'static str {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    NAMES.into_iter().find(works).expect("Chromium is missing: install it (on Debian and Ubuntu: apt-get install chromium)")
}

impl Tab {
    /// Loads a file and waits for all of it.
    pub fn open(path: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let data = format!("--user-data-dir={}", profile.path().display());
        // The browser reads from file 3 and writes to file 4.
        let mut browser = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 >&2", installed()])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", &data, "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let (to, from) = (browser.stdin.take().expect("piped"), BufReader::new(browser.stdout.take().expect("piped")));
        let mut tab = Self { browser, to, from, session: String::new(), asked: 0, events: Vec::new(), _profile: profile };
        let target = tab.ask("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let session = tab.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        session["sessionId"].as_str().expect("a session").clone_into(&mut tab.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.ask(&format!("{domain}.enable"), json!({}));
        }
        tab.show(1280, "light");
        let url = format!("file://{}", path.canonicalize().expect("a file").display());
        tab.ask("Page.navigate", json!({ "url": url }));
        while !tab.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            tab.hear();
        }
        // The paint of what was loaded is behind the next frame.
        tab.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))");
        tab
    }

    fn hear(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).expect("the browser answers");
        assert_eq!(message.pop(), Some(0), "the browser ended");
        let message: Value = serde_json::from_slice(&message).expect("JSON");
        if message.get("method").is_some() {
            self.events.push(message.clone());
        }
        message
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut question = json!({ "id": self.asked, "method": method, "params": parameters });
        if !self.session.is_empty() {
            question["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{question}\0").as_bytes()).expect("the browser listens");
        loop {
            let mut message = self.hear();
            if message["id"] == self.asked {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }

    /// The value of an expression in the page, awaited.
    pub fn value(&mut self, expression: &str) -> Value {
        let mut found = self.ask("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }));
        assert!(found.get("exceptionDetails").is_none(), "{expression}: {found}");
        found["result"]["value"].take()
    }

    /// Makes the window so wide, and the reader like light or dark.
    pub fn show(&mut self, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// The whole page as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.ask("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        decoded(shot["data"].as_str().expect("a picture"))
    }

    /// The page on paper, as PDF.
    pub fn print(&mut self) -> Vec<u8> {
        let paper = self.ask("Page.printToPDF", json!({ "printBackground": false }));
        decoded(paper["data"].as_str().expect("a document"))
    }

    /// What the page told the console, and what the browser has against it.
    pub fn messages(&mut self) -> Vec<&Value> {
        let kinds = ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"];
        self.events.iter().filter(|event| kinds.iter().any(|kind| event["method"] == **kind)).collect()
    }

    /// Addresses that the page asked for.
    pub fn requests(&self) -> Vec<String> {
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        // It ends with its pipe; the profile can be removed when it has.
        let _ = self.to.write_all(b"{\"id\": 0, \"method\": \"Browser.close\"}\0");
        let mut rest = Vec::new();
        let _ = self.from.read_to_end(&mut rest);
        for _ in 0..50 {
            if self.browser.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

/// Base64 without line breaks (RFC 4648, section 4).
fn decoded(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|&letter| letter != b'=').collect();
    let group = |group: &[u8]| {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (place, &letter)| bits | u32::from(value(letter)) << (18 - 6 * place));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    letters.chunks(4).flat_map(group).collect()
}
