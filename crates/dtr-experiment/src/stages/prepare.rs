//! Everything that can be refused before any work: the parent, its tokenizer, the tasks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_eval::corpus::Sources;
use dtr_eval::task::{JsonLines, Phonebook, Retrieval, RustText, SnippetOrigin, Text, rust_docs};
use dtr_eval::{EvalError, Files, Reader, Split, random};
use dtr_models::layers::cast;
use dtr_models::{Decoder, DecoderConfig, Mixer, MixerConfig, checkpoint};
use dtr_search::{Layout, Operator};
use sha2::{Digest, Sha256};

use super::{Texts, fits};
use crate::error::Error;
use crate::hub::{self, Wanted};
use crate::schema::{self, Experiment, TaskKind, key};

/// The model a run begins with.
pub(super) struct Parent<B: Backend> {
    pub config: DecoderConfig,
    pub model: Decoder<B>,
    pub reader: Reader,
    pub directory: PathBuf,
    /// Stands for its weights in the keys of units.
    pub identity: String,
}

impl<B: Backend> Parent<B> {
    pub fn parameters(&self) -> usize {
        self.model.num_params()
    }

    /// The parent with other mixers, and the configuration that says so. In single precision no weights are copied.
    pub fn hybrid(&self, layout: &Layout, bank: &Bank<B>) -> (DecoderConfig, Decoder<B>) {
        let (mut config, mut model) = (self.config.clone(), self.model.clone());
        for (layer, &operator) in layout.operators().iter().enumerate() {
            if let Some((mixer_config, mixer)) = bank.mixers.get(&(layer, operator)) {
                config.mixers[layer] = mixer_config.clone();
                model.layers[layer].mixer = cast(mixer.clone(), self.model.dtype());
            }
        }
        (config, model)
    }
}

/// All students, with what they are and how well each imitates its layer.
#[derive(Clone)]
pub(super) struct Bank<B: Backend> {
    pub mixers: BTreeMap<(usize, Operator), (MixerConfig, Mixer<B>)>,
    pub losses: BTreeMap<(usize, Operator), f64>,
    /// Stands for the students in the keys of units.
    pub identity: String,
}

pub(super) fn parent<B: MixerBackend>(experiment: &Experiment, device: &B::Device) -> Result<Parent<B>, Error> {
    let directory = hub::directory(experiment.parent(), Wanted::Everything)?;
    let (config, model) = checkpoint::load_in::<B>(&directory, experiment.compute().dtype.into(), device)?;
    require_parent(&directory, &config)?;
    fits::check(experiment, &config)?;
    let reader = Reader::load(&directory, &config)?;
    let identity = identity(&directory)?;
    Ok(Parent { config, model, reader, directory, identity })
}

/// Refuses a hybrid.
pub(super) fn require_parent(directory: &Path, config: &DecoderConfig) -> Result<(), Error> {
    match config.mixers.iter().position(|mixer| !matches!(mixer, MixerConfig::Softmax { .. })) {
        Some(layer) => Err(Error::NotAParent { directory: directory.into(), layer, layout: config.layout() }),
        None => Ok(()),
    }
}

/// Stands for the model in `directory`: a hash of the configuration and of each weight file's size and beginning, header and first
/// weights, so that large checkpoints need not be read twice.
///
/// # Errors
/// If a file cannot be read.
pub fn identity(directory: &Path) -> Result<String, Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { action: "read", path, source }
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).map_err(failed(directory))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors") || path.ends_with("config.json"));
    paths.sort();
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(content(&path)?);
    }
    Ok(key(hash.finalize().as_slice()))
}

/// Hash of a file's size and beginning.
fn content(path: &Path) -> Result<[u8; 32], Error> {
    use std::io::Read;
    const BEGINNING: u64 = 8 << 20;
    let failed = |source| Error::Io { action: "read", path: path.into(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    hash.update(file.metadata().map_err(failed)?.len().to_le_bytes());
    let mut bytes = Vec::new();
    file.take(BEGINNING).read_to_end(&mut bytes).map_err(failed)?;
    hash.update(bytes);
    Ok(hash.finalize().into())
}

/// Tasks and corpora.
pub(super) fn texts(experiment: &Experiment, reader: &Reader, config: &DecoderConfig) -> Result<Texts, Error> {
    let search = experiment.search();
    let training = |name: &str| if search.tasks.iter().any(|task| task == name) { search.acceptance.training() } else { 0 };
    let tasks = tasks(experiment.tasks(), training, reader)?;
    // A task without a training split cannot be distilled on.
    for task in experiment.distill().mixture.keys().filter_map(|name| tasks.get(name)) {
        task.document(1, &mut random::stream("plan"))?;
    }
    let batch = experiment.distill().batch();
    let mut corpora = BTreeMap::new();
    for (name, corpus) in experiment.corpora() {
        let files = Files::open(&corpus.files, corpus.format.clone(), &corpus.separator, reader.tokenizer(), config.vocabulary)?;
        files.require(batch)?;
        let contents = corpus.files.iter().map(|file| content(file)).collect::<Result<Vec<_>, _>>()?;
        corpora.insert(name.clone(), (files, key(&(&corpus.format, &corpus.separator, contents))));
    }
    Ok(Texts { tasks, corpora, encoder: config.is_encoder() })
}

/// Tasks over the tokens of one model; so many questions of the training split must be there, too.
pub(super) fn tasks(
    tasks: &BTreeMap<String, schema::Task>,
    training: impl Fn(&str) -> usize,
    reader: &Reader,
) -> Result<BTreeMap<String, Box<dyn dtr_eval::Task>>, Error> {
    let (mut sources, mut all) = (None, BTreeMap::new());
    let tokenizer = reader.tokenizer();
    for (name, task) in tasks {
        let mut sources = || -> Result<Sources, EvalError> {
            if sources.is_none() {
                sources = Some(Sources::locate(&workspace_manifest())?);
            }
            Ok(sources.clone().expect("just located"))
        };
        let wanted = [(Split::Training, training(name)), (Split::Validation, task.validation), (Split::Test, task.test)];
        if reader.is_encoder() && !task.kind.is_for_encoders() && (reader.classes().is_empty() || !task.kind.has_labels()) {
            return Err(EvalError::OnlyEncoder { what: format!("task \"{name}\"") }.into());
        }
        let made: Box<dyn dtr_eval::Task> = match &task.kind {
            TaskKind::Phonebook(book) => Box::new(Phonebook::new(tokenizer, book.entries, &book.start, &book.question)?),
            TaskKind::SnippetOrigin(snippet) => {
                Box::new(SnippetOrigin::new(tokenizer, &sources()?, snippet.tokens, &snippet.question, &snippet.labels)?)
            }
            TaskKind::RustText(text) => Box::new(RustText::new(tokenizer, &sources()?, text.tokens, &text.separator, &text.crates)?),
            TaskKind::Synthetic(synthetic) => {
                synthetic.task(tokenizer, &mut sources).map_err(|source| Error::InTask { task: name.clone(), source: Box::new(source) })?
            }
            TaskKind::JsonLines(config) => Box::new(JsonLines::open(name, config, &wanted, reader)?),
            TaskKind::Text(config) => Box::new(Text::open(name, config, &wanted, reader)?),
            TaskKind::Retrieval(config) => Box::new(Retrieval::open(name, config, &wanted, reader)?),
            TaskKind::RustDocs(docs) => Box::new(rust_docs(name, (&sources()?, &docs.crates), docs.measure, &wanted, reader)?),
        };
        if let Some(available) = reader.position_limit() {
            let questions = wanted.iter().flat_map(|&(split, count)| made.questions(name, split, count));
            let longest = questions.flat_map(|question| question.answers).map(|answer| answer.tokens.len()).max().unwrap_or(0);
            if longest > available {
                return Err(EvalError::ContextTooLong { what: format!("task \"{name}\""), wanted: longest, available }.into());
            }
        }
        all.insert(name.clone(), made);
    }
    Ok(all)
}

/// Stands for all that a task's examples are.
pub(super) fn task_key(kind: &TaskKind, task: &dyn dtr_eval::Task) -> String {
    kind.key() + &task.content()
}

/// The workspace this binary was built in: its locked dependencies lie wherever it was built.
fn workspace_manifest() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")).into()
}

pub(super) fn operators(experiment: &Experiment) -> Vec<MixerConfig> {
    let convert = |operator: &schema::Operator| match *operator {
        schema::Operator::GatedDelta { convolution, rotary } => MixerConfig::GatedDelta { convolution, rotary },
        schema::Operator::Mamba2 { state, convolution } => MixerConfig::Mamba2 { state, convolution },
        schema::Operator::LinearMap {} => MixerConfig::LinearMap {},
        schema::Operator::SlidingWindow { window, sinks } => MixerConfig::SlidingWindow { window, sinks },
        schema::Operator::Hedgehog {} => MixerConfig::Hedgehog {},
    };
    experiment.operators().iter().map(convert).collect()
}

/// The operator's letter as the search knows it.
pub(super) fn letter(mixer: &MixerConfig) -> Operator {
    Operator::new(mixer.letter()).expect("mixers have letters")
}
