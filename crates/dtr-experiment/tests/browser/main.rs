//! The pages in headless Chromium: a run of 28 layers full of hostile names, complete, under way and beside another one.
//!
//! Needs Chromium, and is therefore no part of `cargo test`: `cargo test -p dtr-experiment --test browser` runs it.

mod chromium;
mod run;

use std::path::{Path, PathBuf};

use chromium::Tab;
use dtr_experiment::html::{Compared, Page, compare, render};
use dtr_experiment::report::Report;
use serde_json::Value;

/// Bytes that a report of 28 layers may have.
const LARGEST: usize = 3_000_000;

/// Milliseconds from the start of loading to the first thing seen.
const FIRST_PAINT_MS: f64 = 1000.0;

/// Writes a page; where `DTR_PAGES` names a directory, there, for people to look at.
fn written(name: &str, page: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = std::env::var_os("DTR_PAGES").map_or_else(|| directory.path().to_owned(), PathBuf::from).join(format!("{name}.html"));
    std::fs::write(&path, page).expect("written");
    (directory, path)
}

/// What must hold for every page, on a desk, on a phone and on paper, light and dark.
fn holds(name: &str, page: &str) {
    assert!(page.len() <= LARGEST, "{name} has {} bytes", page.len());
    let (_directory, path) = written(name, page);
    let mut tab = Tab::open(&path);
    let paint = tab.value("performance.getEntriesByName('first-contentful-paint')[0].startTime").as_f64().expect("a first paint");
    assert!(paint < FIRST_PAINT_MS, "{name}: first paint after {paint} ms");
    // Nothing in it acts: no name became an element, no handler, no address.
    let acting = "document.querySelectorAll('script, img, iframe, object, link, [onerror], [onload], [href^=\"javascript:\"]').length";
    assert_eq!(tab.value(acting), 0, "{name} has an element that acts");
    assert_eq!(tab.value("typeof window.hostile"), "undefined", "{name} ran what a name said");
    assert!(tab.value("document.body.innerText").as_str().expect("text").contains("<script>hostile"), "{name} hides a name");
    accessible(name, &mut tab);
    let mut grounds = Vec::new();
    for (width, what) in [(1280, "desk"), (390, "phone")] {
        for scheme in ["light", "dark"] {
            tab.show(width, scheme);
            let wider = tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(wider, 0, "{name} on a {what} scrolls sideways");
            let ground = tab.value("getComputedStyle(document.body).backgroundColor");
            grounds.push(ground);
            contrast(name, scheme, &mut tab);
            picture(&path, &format!("{what}-{scheme}.png"), &tab.screenshot());
        }
    }
    assert_ne!(grounds[0], grounds[1], "{name} is the same in light and dark");
    let paper = tab.print();
    assert!(paper.starts_with(b"%PDF"), "{name} prints");
    picture(&path, "print.pdf", &paper);
    let messages = tab.messages();
    assert!(messages.is_empty(), "{name}: {messages:#?}");
    let own = format!("file://{}", path.canonicalize().expect("a page").display());
    // Once, or again where a run is under way: the page reloads itself.
    let requests = tab.requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| *request == own), "{name} asks for more than itself: {requests:?}");
}

/// Beside the page, where somebody wants to look at it.
fn picture(page: &Path, what: &str, bytes: &[u8]) {
    if std::env::var_os("DTR_PAGES").is_some() {
        std::fs::write(page.with_extension(what), bytes).expect("written");
    }
}

/// Every picture has words, every table has headings, every part that scrolls is reached by keyboard, every target has a place.
fn accessible(name: &str, tab: &mut Tab) {
    let missing = [
        (
            "pictures without words",
            "[...document.querySelectorAll('svg:not([aria-hidden])')].filter(e => e.getAttribute('role') != 'img' || !e.getAttribute('aria-label')).length",
        ),
        ("tables without headings", "[...document.querySelectorAll('table')].filter(e => !e.querySelector('thead th[scope=col]')).length"),
        ("scrolling parts without focus", "[...document.querySelectorAll('.scroll, pre.wrap')].filter(e => e.tabIndex != 0).length"),
        (
            "links to nowhere",
            "[...document.querySelectorAll('a[href^=\"#\"]')].filter(e => !document.getElementById(e.getAttribute('href').slice(1))).length",
        ),
        (
            "places of one name",
            "[...document.querySelectorAll('[id]')].filter(e => document.querySelectorAll('#' + CSS.escape(e.id)).length > 1).length",
        ),
        (
            "headings that skip a level",
            "[...document.querySelectorAll('main h2, main h3, main h4')].map(e => +e.tagName[1]).filter((l, i, all) => i && l > all[i - 1] + 1).length",
        ),
        ("main parts but one", "document.querySelectorAll('main').length - 1"),
    ];
    for (what, expression) in missing {
        assert_eq!(tab.value(expression), 0, "{name}: {what}");
    }
    assert_eq!(tab.value("document.documentElement.lang"), "en");
}

/// Text stands out from its ground by 4.5 to 1 (WCAG 2.2, 1.4.3).
fn contrast(name: &str, scheme: &str, tab: &mut Tab) {
    let faint = tab.value(include_str!("contrast.js"));
    assert_eq!(faint, Value::Array(vec![]), "{name}, {scheme}: text that hardly shows");
}

/// What the other tests find nothing of is found where it is.
#[test]
fn a_page_that_does_wrong_is_found_out() {
    let wrong = "<!doctype html><title>wrong</title><body style='color: #bbb; background: #fff'>faint<script>console.log('said')</script>\
        <img src='http://127.0.0.1:9/wrong.png'><svg></svg><div style='width: 3000px'>wide</div>";
    let (_directory, path) = written("wrong", wrong);
    let mut tab = Tab::open(&path);
    assert!(tab.requests().iter().any(|url| url == "http://127.0.0.1:9/wrong.png"), "{:?}", tab.requests());
    assert!(tab.messages().iter().any(|message| message.to_string().contains("said")), "{:?}", tab.messages());
    assert_eq!(tab.value(include_str!("contrast.js")).as_array().map(Vec::len), Some(1));
    assert_ne!(tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth"), 0);
}

#[test]
fn a_report_of_28_layers_shows_everything_and_runs_nothing() {
    let events = run::events(28, true, 0);
    let page = render(&Report::from_events(&events), &events, Page { command: run::HOSTILE, live: true });
    assert!(!page.contains("http-equiv=\"refresh\""), "what is complete does not show itself anew");
    for part in [
        "layers replaced",
        "Pareto front",
        "Why layers stayed full",
        "time to first token",
        "peak memory",
        "Answered differently",
        "from about",
    ] {
        assert!(page.contains(part), "{part:?} is missing");
    }
    holds("complete", &page);
}

#[test]
fn a_run_under_way_shows_what_is_known() {
    let events = run::events(28, false, 0);
    let page = render(&Report::from_events(&events), &events, Page { command: run::HOSTILE, live: true });
    assert!(page.contains("http-equiv=\"refresh\"") && page.contains("not complete"));
    holds("under-way", &page);
}

#[test]
fn runs_are_compared() {
    let run = |seed: u64| {
        let events = run::events(28, true, seed);
        let label = format!("{}-{seed}", run::HOSTILE);
        let experiment = format!("seed = {seed}\nname = '''{}'''", run::HOSTILE);
        Compared { label, report: Report::from_events(&events), events, experiment }
    };
    holds("comparison", &compare(&[run(0), run(1), run(2)]));
}
