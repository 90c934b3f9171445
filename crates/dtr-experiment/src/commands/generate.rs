//! `dtr generate`: prompts continued together, one of them shown as it grows.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use dtr_attention::{MixerBackend, TrainBackend};
use dtr_experiment::schema::Compute;
use dtr_experiment::{Error, stages, words};
use dtr_models::chat::Conversation;
use dtr_models::generate::{Batch, Finish, Progress, Sampling, Sequence, Session, TextStream};
use dtr_models::{ChatTemplate, CheckpointError, Decoder, Tokenizer, checkpoint};
use serde_json::json;

use dtr_experiment::backend::{Work, dispatch};

/// Arguments of `dtr generate`.
#[derive(Args)]
pub struct GenerateArgs {
    /// The text to continue; several are continued together.
    #[arg(long = "prompt", required = true)]
    prompts: Vec<String>,
    /// Each prompt is what a user says to the model, by its chat template.
    #[arg(long)]
    chat: bool,
    /// Tokens to add at most.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw from so many likeliest tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Make tokens that were there already less likely, by a factor above 1.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the draws where the temperature is above 0.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End in front of this text; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    stops: Vec<String>,
    /// Write what the model remembers of the prompt, all but its last token, into this file.
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Go on from a file of --save-state: the prompts begin as that one did, and this beginning is not read again.
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// One JSON object a prompt and line in place of text.
    #[arg(long)]
    json: bool,
}

/// What one prompt has come to.
struct Row<'a> {
    stream: Option<TextStream<'a>>,
    text: String,
    tokens: Vec<u32>,
    finish: &'static str,
    cache_bytes: usize,
}

/// `dtr generate`.
pub fn generate(model: &Path, compute: Compute, arguments: &GenerateArgs) -> Result<(), Error> {
    struct GenerateWork<'a>(&'a Path, Compute, &'a GenerateArgs);
    impl Work for GenerateWork<'_> {
        type Output = Result<(), Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            let Self(directory, compute, arguments) = self;
            let (config, model) = checkpoint::load_in::<B::InnerBackend>(directory, compute.dtype.into(), &device)?;
            if config.is_encoder() {
                return Err(Error::Encoder { directory: directory.into() });
            }
            let tokenizer = Tokenizer::load(directory, config.vocabulary)?;
            let prompts = prompts(directory, &tokenizer, arguments)?;
            let tokens = prompts.iter().map(|prompt| prompt.len() + arguments.max_new_tokens).max().unwrap_or(0);
            if let Some(limit) = config.position_limit().filter(|&limit| tokens > limit) {
                return Err(Error::TooManyPositions { tokens, limit });
            }
            let &GenerateArgs { temperature, top_k, top_p, repetition_penalty, seed, max_new_tokens, .. } = arguments;
            let sampling = Sampling { temperature, top_k, top_p, repetition_penalty, seed }.check()?;
            let sequence = |(row, prompt): (usize, Vec<u32>)| {
                let stop = config.end_tokens();
                (row, Sequence { sampling, stream: row as u64, stop, ..Sequence::new(prompt, max_new_tokens) })
            };
            let row = || Row {
                stream: Some(TextStream::new(&tokenizer, arguments.stops.clone(), false)),
                text: String::new(),
                tokens: Vec::new(),
                finish: "length",
                cache_bytes: 0,
            };
            let mut rows: Vec<Row> = prompts.iter().map(|_| row()).collect();
            let shown = !arguments.json && rows.len() == 1;
            let mut batch = match prefix(directory, &model, &prompts, arguments, &device)? {
                Some((session, length)) => Batch::behind(session, length, &model, &device),
                None => Batch::new(&model, &device),
            };
            let mut progress = batch.admit(prompts.into_iter().enumerate().map(sequence).collect());
            while !progress.is_empty() {
                let cache_bytes = batch.cache_bytes();
                for step in progress {
                    let row = &mut rows[step.key];
                    row.cache_bytes = row.cache_bytes.max(cache_bytes);
                    let new = row.take(step)?;
                    if shown {
                        print!("{new}");
                        let _ = std::io::stdout().flush();
                    }
                }
                batch.retain(|row| rows[*row].stream.is_some());
                progress = batch.step();
            }
            print(&rows, arguments.json);
            let held = rows.iter().map(|row| row.cache_bytes).max().unwrap_or(0);
            eprintln!("caches and states: {}", words::bytes(held as f64));
            Ok(())
        }
    }

    dispatch(compute, GenerateWork(model, compute, arguments))?
}

/// What the prompts begin with and need not be read again: loaded, or read and saved here. With the number of its tokens.
fn prefix<'a, B: MixerBackend>(
    directory: &Path,
    model: &'a Decoder<B>,
    prompts: &[Vec<u32>],
    arguments: &GenerateArgs,
    device: &B::Device,
) -> Result<Option<(Session<'a, B>, usize)>, Error> {
    let GenerateArgs { save_state, load_state, .. } = arguments;
    if save_state.is_none() && load_state.is_none() {
        return Ok(None);
    }
    let key = stages::identity(directory)?;
    let mut read = Vec::new();
    let mut session = Session::empty(model, 1, device);
    if let Some(path) = load_state {
        let refused = |reason: String| CheckpointError::State { path: path.clone(), reason };
        let (restored, mut rows) = Session::restore(model, path, &key, device)?;
        if rows.len() != 1 {
            return Err(refused(format!("it has {} rows, expected one", rows.len())).into());
        }
        (session, read) = (restored, rows.remove(0));
        for (index, prompt) in prompts.iter().enumerate() {
            if let Some(at) = (0..=read.len()).find(|&at| at >= prompt.len() || (at < read.len() && prompt[at] != read[at])) {
                let reason = format!("prompt {} differs from its {} tokens at token {}", index + 1, read.len(), at + 1);
                return Err(refused(reason).into());
            }
        }
    }
    if let Some(path) = save_state {
        let [prompt] = prompts else { return Err(Error::SeveralStates { prompts: prompts.len() }) };
        let known = &prompt[..prompt.len() - 1];
        if known.is_empty() {
            return Err(Error::EmptyState);
        }
        if known.len() > read.len() {
            session.read(&[known[read.len()..].to_vec()]);
        }
        session.save(path, &key, &[known.to_vec()])?;
        read = known.to_vec();
    }
    Ok(Some((session, read.len())))
}

/// The prompts as tokens.
fn prompts(directory: &Path, tokenizer: &Tokenizer, arguments: &GenerateArgs) -> Result<Vec<Vec<u32>>, Error> {
    let template = if arguments.chat { ChatTemplate::load(directory)? } else { None };
    let tokens = |prompt: &String| {
        let tokens = match &template {
            None if arguments.chat => return Err(Error::NoChatTemplate { directory: directory.into() }),
            None => tokenizer.encode_prompt(prompt)?,
            Some(template) => {
                let message = [("role", "user"), ("content", prompt)].into_iter().collect();
                let conversation = Conversation { messages: vec![message], add_generation_prompt: true, ..Conversation::default() };
                tokenizer.encode(&template.render(&conversation)?)?
            }
        };
        if tokens.is_empty() { Err(Error::EmptyPrompt) } else { Ok(tokens) }
    };
    arguments.prompts.iter().map(tokens).collect()
}

impl Row<'_> {
    /// Takes in a step and returns the text it adds.
    fn take(&mut self, step: Progress<usize>) -> Result<String, Error> {
        let Some(mut stream) = self.stream.take() else { return Ok(String::new()) };
        self.tokens.extend(step.token);
        let mut new = step.token.map_or_else(|| Ok(String::new()), |token| stream.push(token))?;
        if step.finish == Some(Finish::Stop) || stream.stopped() {
            self.finish = "stop";
        }
        if step.finish.is_some() || stream.stopped() {
            new += &stream.finish()?;
        } else {
            self.stream = Some(stream);
        }
        self.text += &new;
        Ok(new)
    }
}

fn print(rows: &[Row], json: bool) {
    for (index, row) in rows.iter().enumerate() {
        let Row { text, tokens, finish, cache_bytes, .. } = row;
        match rows.len() {
            _ if json => println!("{}", json!({ "text": text, "tokens": tokens, "finish": finish, "cache_bytes": cache_bytes })),
            // It is on the screen already.
            1 => println!(),
            count => println!("[{} of {count}]\n{text}", index + 1),
        }
    }
}
