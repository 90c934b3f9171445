//! What a person sees in the terminal: progress while it runs, tables when it is done.

mod devices;
mod planned;
mod tables;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub use devices::devices;
pub use planned::plan;
pub(crate) use tables::confirmed;
pub use tables::{comparison, distilled, study, summary};

/// Between two lines of progress where there is no terminal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows stages on standard error: bars on a terminal, plain lines elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    quiet: bool,
}

/// One stage on the way.
#[derive(Debug)]
pub struct Stage {
    bar: ProgressBar,
    name: String,
    unit: &'static str,
    began: Instant,
    /// Whether lines are written in place of a bar.
    plain: bool,
    said: std::cell::Cell<Instant>,
}

impl Progress {
    /// Progress, or silence.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Something to know, whatever is shown besides.
    pub fn warn(self, text: &str) {
        if !self.quiet {
            eprintln!("warning: {text}");
        }
    }

    /// Begins a stage of `total` units.
    ///
    /// # Panics
    /// Never: the template is part of the program.
    pub fn stage(&self, name: &str, total: u64, unit: &'static str) -> Stage {
        let terminal = std::io::stderr().is_terminal();
        let bar = if self.quiet || !terminal { ProgressBar::hidden() } else { ProgressBar::new(total) };
        bar.set_length(total);
        let style = "{prefix:>24} {bar:28.cyan/blue} {human_pos}/{human_len} {per_sec:>12} {eta:>4} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        bar.set_prefix(name.to_owned());
        let plain = !self.quiet && !terminal;
        if plain {
            eprintln!("{name}: {total} {unit}");
        }
        let now = Instant::now();
        Stage { bar, name: name.into(), unit, began: now, plain, said: std::cell::Cell::new(now) }
    }
}

impl Stage {
    /// That many units are done.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
        self.say();
    }

    /// So many more units are done.
    pub fn inc(&self, units: u64) {
        self.bar.inc(units);
        self.say();
    }

    /// The latest news.
    pub fn message(&self, news: &str) {
        self.bar.set_message(news.to_owned());
        if self.plain {
            eprintln!("{}: {news}", self.name);
        }
    }

    /// Something that a person should know even where progress is not shown.
    pub fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{}: {text}", self.name));
    }

    /// The stage is done.
    pub fn finish(&self) {
        // A search may end before all it could have done: the bar stays where it is.
        self.bar.abandon();
        if self.plain {
            let seconds = self.began.elapsed().as_secs_f64();
            let done = self.bar.position();
            eprintln!("{}: {done} {} in {seconds:.1} s, {:.1} a second", self.name, self.unit, done as f64 / seconds.max(1e-9));
        }
    }

    fn say(&self) {
        if self.plain && self.said.get().elapsed() > PATIENCE {
            self.said.set(Instant::now());
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let seconds = self.began.elapsed().as_secs_f64();
            let left = seconds / done.max(1) as f64 * total.saturating_sub(done) as f64;
            eprintln!("{}: {done} of {total} {}, about {left:.0} s left", self.name, self.unit);
        }
    }
}
