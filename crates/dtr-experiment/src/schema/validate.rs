//! What the types of the raw experiment cannot say: ranges, and names that refer to each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::{Path, PathBuf},
};

use dtr_distill::Loss;
use dtr_eval::{Format, Measure, task::Synthetic};
use dtr_search::{Acceptance, Confirm, Racing, Signal};

use super::{
    Corpus, Device, Distill, Efficiency, Goal, Limit, Operator, Parent, Search, Task, TaskKind, Trained, UnknownDevice,
    document::Document,
    raw::{RawParent, RawTask},
};
use crate::error::Error;

/// Checks values, and reports one that makes no sense at its place in the document.
pub(super) struct Checker<'d>(pub &'d Document<'d>);

impl Checker<'_> {
    pub(super) fn require(&self, holds: bool, key: &[&str], expected: &str, found: &dyn Display, remedy: &str) -> Result<(), Error> {
        if holds {
            return Ok(());
        }
        Err(self.0.invalid(key, expected.to_owned(), found.to_string(), remedy.to_owned()))
    }

    pub(super) fn positive(&self, key: &[&str], value: usize) -> Result<(), Error> {
        self.require(value > 0, key, "at least 1", &value, "write a whole number from 1")
    }

    fn token(&self, key: &[&str], token: &str) -> Result<(), Error> {
        self.require(
            !token.is_empty(),
            key,
            "a token of the parent's vocabulary",
            &"an empty string",
            "write one of the special tokens in the parent's tokenizer.json",
        )
    }

    pub(super) fn not_empty(&self, key: &[&str], empty: bool, what: &str) -> Result<(), Error> {
        self.require(!empty, key, what, &"none", "add one as in configs/quickstart.toml")
    }

    /// Names that may occur only once.
    pub(super) fn unique<'n>(&self, key: &[&str], names: impl IntoIterator<Item = &'n str>) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for (index, name) in names.into_iter().enumerate() {
            let index = index.to_string();
            let key = [key, &[&index]].concat();
            let found = format_args!("a second `{name}`");
            self.require(seen.insert(name), &key, "unlike all before it", &found, "keep one of them")?;
        }
        Ok(())
    }

    /// A task that `key` refers to by its name.
    fn known(&self, key: &[&str], name: &str, tasks: &BTreeMap<String, Task>) -> Result<(), Error> {
        let names: Vec<&str> = tasks.keys().map(String::as_str).collect();
        self.one_of(key, name, "tasks", &names, &format!("[tasks.{name}]"))
    }

    /// A name among those of a kind; a `table` would add it.
    fn one_of(&self, key: &[&str], name: &str, kind: &str, names: &[&str], table: &str) -> Result<(), Error> {
        self.require(
            names.contains(&name),
            key,
            &format!("one of the {kind} {}", names.join(", ")),
            &format_args!("`{name}`"),
            &format!("correct the name, or add a table {table}"),
        )
    }

    /// A name that becomes a part of paths.
    pub(super) fn name(&self, key: &[&str], name: &str) -> Result<(), Error> {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        self.require(
            name.starts_with(alphanumeric) && name.chars().all(|c| alphanumeric(c) || "._-".contains(c)),
            key,
            "named with a letter or digit, then any of a-z 0-9 . _ -",
            &format_args!("{name:?}"),
            "rename it: the name becomes that of a directory",
        )
    }

    pub(super) fn device(&self, device: &str) -> Result<Device, Error> {
        device.parse().map_err(|grammar: UnknownDevice| {
            let remedy = "`cargo xtask devices` lists what this machine has; `flex` works everywhere";
            self.0.invalid(&["device"], grammar.to_string(), format!("{device:?}"), remedy.to_owned())
        })
    }

    /// The parent: one of a directory, from a path relative to `directory`, and a name on a hub.
    pub(super) fn parent(&self, raw: RawParent, directory: &Path) -> Result<Parent, Error> {
        match raw {
            RawParent { path: Some(path), hub: None, revision: None } => self.parent_directory(&path, directory),
            RawParent { path: None, hub: Some(repository), revision: Some(revision) } => {
                self.hub_name(&["parent", "hub"], &repository, 1, "a repository such as \"Qwen/Qwen2.5-1.5B\"")?;
                self.hub_name(&["parent", "revision"], &revision, 3, "a branch, a tag or a commit, such as \"main\"")?;
                Ok(Parent::Hub { repository, revision })
            }
            RawParent { path, hub, revision } => {
                let keys = [("path", path.is_some()), ("hub", hub.is_some()), ("revision", revision.is_some())];
                let found = keys.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
                let expected = "either `path`, or `hub` and `revision`".to_owned();
                Err(self.0.invalid(&["parent"], expected, found, "name the parent in one of the two ways".to_owned()))
            }
        }
    }

    /// A name that becomes a part of addresses and of paths in the cache.
    fn hub_name(&self, key: &[&str], name: &str, slashes: usize, expected: &str) -> Result<(), Error> {
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && !part.contains("..")
        };
        let right = name.len() <= 200 && name.matches('/').count() <= slashes && name.split('/').all(part);
        self.require(right, key, expected, &format_args!("{name:?}"), "write it as the hub's page shows it")
    }

    fn parent_directory(&self, path: &Path, directory: &Path) -> Result<Parent, Error> {
        let joined = directory.join(path);
        let canonical = joined.canonicalize().unwrap_or_default();
        self.require(
            canonical.is_dir() && canonical.to_str().is_some(),
            &["parent", "path"],
            "the directory of a model, relative to the experiment file",
            &format_args!("no directory {}", joined.display()),
            "correct the path, or put the model there",
        )?;
        Ok(Parent::Directory(canonical))
    }

    pub(super) fn operators(&self, operators: &[Operator]) -> Result<(), Error> {
        self.not_empty(&["operators"], operators.is_empty(), "at least one operator")?;
        self.unique(&["operators"], operators.iter().map(Operator::name))?;
        for (index, operator) in operators.iter().enumerate() {
            let index = index.to_string();
            let key = |last| ["operators", &index, operator.name(), last];
            match *operator {
                Operator::GatedDelta { convolution, rotary: _ } => self.positive(&key("convolution"), convolution)?,
                Operator::Mamba2 { state, convolution } => {
                    self.positive(&key("state"), state)?;
                    self.positive(&key("convolution"), convolution)?;
                }
                // Without sinks, the window alone is a sound operator.
                Operator::SlidingWindow { window, sinks: _ } => self.positive(&key("window"), window)?,
                Operator::Hedgehog {} | Operator::LinearMap {} => {}
            }
        }
        Ok(())
    }

    pub(super) fn tasks(&self, raw: BTreeMap<String, RawTask>, directory: &Path) -> Result<BTreeMap<String, Task>, Error> {
        self.not_empty(&["tasks"], raw.is_empty(), "at least one task")?;
        raw.into_iter()
            .map(|(name, task)| {
                let task = self.task(&name, task, directory)?;
                Ok((name, task))
            })
            .collect()
    }

    fn task(&self, name: &str, raw: RawTask, directory: &Path) -> Result<Task, Error> {
        let task = ["tasks", name];
        self.name(&task, name)?;
        let kinds = [
            raw.phonebook.map(TaskKind::Phonebook),
            raw.snippet_origin.map(TaskKind::SnippetOrigin),
            raw.rust_text.map(TaskKind::RustText),
            raw.json_lines.map(TaskKind::JsonLines),
            raw.text.map(TaskKind::Text),
            raw.retrieval.map(TaskKind::Retrieval),
            raw.rust_docs.map(TaskKind::RustDocs),
            raw.mqar.map(Synthetic::Mqar).map(TaskKind::Synthetic),
            raw.in_context_recall.map(Synthetic::InContextRecall).map(TaskKind::Synthetic),
            raw.induction.map(Synthetic::Induction).map(TaskKind::Synthetic),
            raw.selective_copying.map(Synthetic::SelectiveCopying).map(TaskKind::Synthetic),
            raw.needle.map(Synthetic::Needle).map(TaskKind::Synthetic),
            raw.variable_tracking.map(Synthetic::VariableTracking).map(TaskKind::Synthetic),
            raw.list_ops.map(Synthetic::ListOps).map(TaskKind::Synthetic),
        ];
        let mut kinds: Vec<TaskKind> = kinds.into_iter().flatten().collect();
        self.require(
            kinds.len() == 1,
            &task,
            "a task with one of the keys phonebook, snippet-origin, rust-text, json-lines, text, mqar, in-context-recall, induction, \
             selective-copying, needle, variable-tracking, list-ops, retrieval, rust-docs",
            &format_args!("{} of them", kinds.len()),
            "keep the key of one kind; make a task of each further one",
        )?;
        let mut kind = kinds.remove(0);
        let of_kind = kind.name();
        let key = |last| ["tasks", name, of_kind, last];
        match &mut kind {
            TaskKind::Phonebook(phonebook) => {
                self.positive(&key("entries"), phonebook.entries)?;
                self.token(&key("start"), &phonebook.start)?;
                self.token(&key("question"), &phonebook.question)?;
            }
            TaskKind::SnippetOrigin(origin) => {
                self.positive(&key("tokens"), origin.tokens)?;
                self.token(&key("question"), &origin.question)?;
                self.require(
                    origin.labels.len() >= 2,
                    &key("labels"),
                    "at least two crates to tell apart",
                    &origin.labels.len(),
                    "add crates",
                )?;
                let mut seen = BTreeSet::new();
                for (label, token) in &origin.labels {
                    let key = ["tasks", name, of_kind, "labels", label];
                    self.token(&key, token)?;
                    let found = format_args!("`{token}` a second time");
                    self.require(seen.insert(token), &key, "a token of its own", &found, "write another token")?;
                }
            }
            TaskKind::RustText(text) => {
                self.positive(&key("tokens"), text.tokens)?;
                self.token(&key("separator"), &text.separator)?;
                self.not_empty(&key("crates"), text.crates.is_empty(), "at least one crate")?;
                self.unique(&key("crates"), text.crates.iter().map(String::as_str))?;
            }
            TaskKind::Synthetic(synthetic) => synthetic.check().map_err(|wrong| {
                let key: Vec<&str> = ["tasks", name, of_kind].into_iter().chain(wrong.key.split('.')).collect();
                self.0.invalid(&key, wrong.expected, wrong.found, wrong.remedy.to_owned())
            })?,
            TaskKind::JsonLines(config) => self.json_lines(&["tasks", name, of_kind], config, directory)?,
            TaskKind::Retrieval(config) => {
                self.splits(&["tasks", name, of_kind, "files"], &mut config.files, directory)?;
                self.measure(&key("measure"), config.measure)?;
            }
            TaskKind::RustDocs(docs) => {
                self.not_empty(&key("crates"), docs.crates.is_empty(), "at least one crate")?;
                self.unique(&key("crates"), docs.crates.iter().map(String::as_str))?;
                self.measure(&key("measure"), docs.measure)?;
            }
            TaskKind::Text(config) => {
                self.splits(&["tasks", name, of_kind, "files"], &mut config.files, directory)?;
                self.positive(&key("length"), config.length)?;
            }
        }
        Ok(Task { validation: raw.validation, test: raw.test, kind })
    }

    fn measure(&self, key: &[&str], measure: Measure) -> Result<(), Error> {
        if let Measure::Hit(best) = measure { self.positive(key, best) } else { Ok(()) }
    }

    /// Makes a path relative to `directory` canonical.
    pub(super) fn file(&self, key: &[&str], file: &mut PathBuf, directory: &Path) -> Result<(), Error> {
        let joined = directory.join(&*file);
        let canonical = joined.canonicalize().unwrap_or_default();
        let found = format_args!("no file {}", joined.display());
        self.require(canonical.is_file(), key, "a file, relative to the experiment file", &found, "correct the path")?;
        *file = canonical;
        Ok(())
    }

    pub(super) fn corpora(
        &self,
        mut corpora: BTreeMap<String, Corpus>,
        tasks: &BTreeMap<String, Task>,
        directory: &Path,
    ) -> Result<BTreeMap<String, Corpus>, Error> {
        for (name, corpus) in &mut corpora {
            self.name(&["corpora", name], name)?;
            let found = format_args!("`{name}`");
            self.require(!tasks.contains_key(name), &["corpora", name], "a name that no task has", &found, "rename it")?;
            self.not_empty(&["corpora", name, "files"], corpus.files.is_empty(), "at least one file")?;
            if let Format::Tokens { bytes } = corpus.format {
                let key = ["corpora", name, "format", "tokens", "bytes"];
                self.require([2, 4].contains(&bytes), &key, "2 or 4", &bytes, "write the bytes of a token id")?;
            }
            for (index, file) in corpus.files.iter_mut().enumerate() {
                self.file(&["corpora", name, "files", &index.to_string()], file, directory)?;
            }
        }
        Ok(corpora)
    }

    pub(super) fn distill(
        &self,
        distill: &Distill,
        operators: &[Operator],
        tasks: &BTreeMap<String, Task>,
        corpora: &BTreeMap<String, Corpus>,
    ) -> Result<(), Error> {
        let key = |last| ["distill", last];
        self.positive(&key("rows"), distill.rows)?;
        self.positive(&key("length"), distill.length)?;
        self.positive(&key("accumulate"), distill.accumulate)?;
        let step = distill.rows.saturating_mul(distill.length).saturating_mul(distill.accumulate);
        self.require(
            distill.tokens >= step,
            &key("tokens"),
            &format!("at least one step of accumulate * rows * length = {step} tokens"),
            &distill.tokens,
            "raise tokens, or lower rows, length or accumulate",
        )?;
        self.require(
            distill.calibration_tokens >= distill.length,
            &key("calibration-tokens"),
            &format!("at least one row of length = {} tokens", distill.length),
            &distill.calibration_tokens,
            "raise calibration-tokens, or lower length",
        )?;
        self.require(
            distill.loss != Loss::AttentionWeights || operators.iter().all(|operator| matches!(operator, Operator::Hedgehog {})),
            &key("loss"),
            "a loss that all operators have",
            &"`attention-weights`, which only hedgehog has",
            "write normalised-mse, or keep hedgehog alone",
        )?;
        let shrink = distill.initialise.shrink;
        let place = ["distill", "initialise", "shrink"];
        self.require(
            shrink > 0.0 && shrink <= 1.0,
            &place,
            "above 0 and at most 1",
            &shrink,
            "write 1 to leave queries and keys as they are",
        )?;
        self.weight(&key("answer-weight"), distill.answer_weight)?;
        for (name, value) in [("patience", distill.patience), ("devices", distill.devices)] {
            value.map_or(Ok(()), |value| self.positive(&key(name), value))?;
        }
        self.rate(&key("learning-rate"), distill.learning_rate)?;
        let names: Vec<&str> = operators.iter().map(Operator::name).collect();
        for (name, &rate) in &distill.learning_rates {
            let place = ["distill", "learning-rates", name];
            self.one_of(&place, name, "operators", &names, "[[operators]]")?;
            self.rate(&place, rate)?;
        }
        self.require(
            (0.0..1.0).contains(&distill.warmup),
            &key("warmup"),
            "a share of the steps, at least 0 and below 1",
            &distill.warmup,
            "write 0.05 for five in a hundred steps",
        )?;
        self.require(
            distill.weight_decay >= 0.0 && distill.weight_decay.is_finite(),
            &key("weight-decay"),
            "at least 0 and finite",
            &distill.weight_decay,
            "write 0.0 for none",
        )?;
        self.not_empty(&key("mixture"), distill.mixture.is_empty(), "a weight for at least one task")?;
        for (task, &weight) in &distill.mixture {
            let key = ["distill", "mixture", task];
            if !corpora.contains_key(task) {
                self.known(&key, task, tasks)?;
            }
            let remedy = "leave out a task that shall give no rows";
            self.require(weight > 0.0 && weight.is_finite(), &key, "above 0 and finite", &weight, remedy)?;
        }
        Ok(())
    }

    pub(super) fn search(&self, search: &Search, tasks: &BTreeMap<String, Task>) -> Result<(), Error> {
        self.not_empty(&["search", "tasks"], search.tasks.is_empty(), "at least one task")?;
        self.unique(&["search", "tasks"], search.tasks.iter().map(String::as_str))?;
        for (index, task) in search.tasks.iter().enumerate() {
            self.known(&["search", "tasks", &index.to_string()], task, tasks)?;
            self.positive(&["tasks", task, "validation"], tasks[task].validation)?;
            self.positive(&["tasks", task, "test"], tasks[task].test)?;
        }
        let pooled = search.tasks.iter().find(|name| tasks[*name].kind.is_for_encoders());
        if let Some(name) = pooled {
            self.require(
                search.racing == Racing::Off,
                &["search", "racing"],
                "`off` where documents are looked for among those of all examples",
                &format_args!("racing, with task `{name}`"),
                "write racing = \"off\"",
            )?;
        }
        let key = |last| ["search", last];
        let inside = |number: f64| number > 0.0 && number < 1.0;
        let floor = search.floor.value();
        self.require(
            floor > 0.0 && floor <= 1.0,
            &key("floor"),
            "a share of the parent's score, or a score, above 0 and at most 1",
            &floor,
            "write 0.95 to keep 95 % of the score",
        )?;
        if let Racing::Statistical { error } = search.racing {
            let key = ["search", "racing", "statistical", "error"];
            self.require(inside(error), &key, "a probability between 0 and 1", &error, "write 0.05")?;
        }
        self.require(
            search.racing != Racing::Exact || search.rank == Signal::Score,
            &key("racing"),
            "`off` or statistical racing where candidates are ranked by something without bounds",
            &"`exact`",
            "rank by `score`, or write { statistical = { error = 0.05 } }",
        )?;
        if let Acceptance::Bound { confirm, confidence, .. } = search.acceptance {
            let key = |last| ["search", "acceptance", "bound", last];
            match confirm {
                Confirm::Share(share) => {
                    self.require(inside(share), &key("confirm"), "a share of the examples between 0 and 1", &share, "write 0.5")?;
                }
                Confirm::AllBut { training } => self.positive(&["search", "acceptance", "bound", "confirm", "training"], training)?,
            }
            self.require(inside(confidence), &key("confidence"), "a probability between 0 and 1", &confidence, "write 0.95")?;
        }
        self.positive(&key("swaps"), search.swaps)?;
        match &search.goal {
            Goal::Floor => {}
            Goal::Replaced(count) => self.positive(&["search", "goal", "replaced"], *count)?,
            Goal::CacheBytes(limit) => self.limit("cache-bytes", limit)?,
            Goal::PrefillSeconds(limit) => self.limit("prefill-seconds", limit)?,
            Goal::DecodeSeconds(limit) => self.limit("decode-seconds", limit)?,
        }
        if let Some(refit) = &search.refit {
            self.positive(&["search", "refit", "every"], refit.every)?;
            self.positive(&["search", "refit", "tokens"], refit.tokens)?;
            self.rate(&["search", "refit", "learning-rate"], refit.learning_rate)?;
            self.weight(&["search", "refit", "answer-weight"], refit.answer_weight)?;
        }
        if let Some(recovery) = &search.recovery {
            let key = |last| ["search", "recovery", last];
            self.positive(&key("tokens"), recovery.tokens)?;
            self.rate(&key("learning-rate"), recovery.learning_rate)?;
            self.weight(&key("answer-weight"), recovery.answer_weight)?;
            let weight = recovery.task_weight;
            self.require(weight >= 0.0 && weight.is_finite(), &key("task-weight"), "at least 0 and finite", &weight, "write 0.0 for none")?;
            if let Trained::Lora(rank) = recovery.trained {
                self.positive(&["search", "recovery", "trained", "lora"], rank)?;
            }
        }
        Ok(())
    }

    fn limit(&self, goal: &str, limit: &Limit) -> Result<(), Error> {
        let key = |last| ["search", "goal", goal, last];
        let most = limit.at_most;
        self.require(most > 0.0 && most.is_finite(), &key("at-most"), "above 0 and finite", &most, "write what the hybrid may take")?;
        self.positive(&key("context"), limit.context)
    }

    fn rate(&self, key: &[&str], rate: f64) -> Result<(), Error> {
        self.require(rate > 0.0 && rate.is_finite(), key, "above 0 and finite", &rate, "5e-3 is a good beginning")
    }

    fn weight(&self, key: &[&str], weight: f64) -> Result<(), Error> {
        self.require(weight > 0.0 && weight.is_finite(), key, "above 0 and finite", &weight, "write 1.0 for no difference")
    }

    pub(super) fn efficiency(&self, efficiency: &Efficiency) -> Result<(), Error> {
        let key = ["efficiency", "contexts"];
        self.not_empty(&key, efficiency.contexts.is_empty(), "at least one context length")?;
        let mut shorter = 0;
        for (index, &context) in efficiency.contexts.iter().enumerate() {
            self.require(
                context > shorter,
                &["efficiency", "contexts", &index.to_string()],
                &format!("above {shorter}"),
                &context,
                "write the context lengths in rising order, each once",
            )?;
            shorter = context;
        }
        self.positive(&["efficiency", "decode-tokens"], efficiency.decode_tokens)?;
        self.positive(&["efficiency", "repetitions"], efficiency.repetitions)
    }
}
