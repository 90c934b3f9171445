//! `dtr serve`: a model over HTTP.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::DType;
use clap::Args;
use dtr_attention::{MixerBackend, TrainBackend};
use dtr_experiment::Error;
use dtr_experiment::schema::Compute;
use dtr_experiment::words::bytes;
use dtr_models::{ChatTemplate, Decoder, DecoderConfig, Tokenizer, checkpoint};
use dtr_serve::engine::PIECE_TOKENS;
use dtr_serve::{Engine, Limits, Served, router};

use dtr_experiment::backend::{Work, dispatch};

/// Tokens of a sequence where neither the model nor the command says.
const DEFAULT_TOKENS: usize = 4096;

/// Arguments of `dtr serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Address to listen at. Whoever can reach it can use the model.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen at; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// The model's name in requests; by default that of its directory.
    #[arg(long)]
    name: Option<String>,
    /// Tokens of a sequence, prompt and answer together; by default the model's longest context.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Sequences that are extended together.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_batch: u16,
    /// Sequences that may wait; more are refused with status 429.
    #[arg(long, default_value_t = 256)]
    max_queue: u16,
    /// Bytes of a request.
    #[arg(long, default_value_t = 1 << 20)]
    max_body_bytes: usize,
    /// Open connections; more wait to be accepted. One that is kept open without a request holds its place.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    max_connections: u16,
    /// Bytes of what is remembered of earlier prompts and answers, so that longer ones need not be read from the beginning; 0: nothing.
    #[arg(long, default_value_t = 1 << 28)]
    memory_bytes: usize,
}

/// What the server holds at most, beside the hidden states of what it reads.
fn memory<B: MixerBackend>(config: &DecoderConfig, model: &Decoder<B>, limits: Limits, device: &B::Device) -> String {
    let weights = model.num_params() * DType::from(model.dtype()).size();
    let sequence: usize = config.mixers.iter().map(|mixer| mixer.footprint::<B>(config, device).after(limits.tokens)).sum();
    // Caches grow by half of what they hold, and are copied when a sequence comes or goes.
    let states = (limits.batch * sequence * 5 / 2) as f64;
    let requests = limits.connections as f64 * limits.body_bytes as f64;
    let (weights, memory) = (weights as f64, limits.memory_bytes as f64);
    let [all, weights, states, memory, requests] = [weights + states + memory + requests, weights, states, memory, requests].map(bytes);
    format!(
        "memory: at most {all}: {weights} of weights, {states} of states of sequences, {memory} of what is remembered of earlier ones, \
         {requests} of requests; beside these the hidden states of {PIECE_TOKENS} tokens"
    )
}

/// `dtr serve`.
pub fn serve(model: &Path, compute: Compute, arguments: &ServeArgs) -> Result<(), Error> {
    struct ServeWork<'a>(&'a Path, Compute, &'a ServeArgs);
    impl Work for ServeWork<'_> {
        type Output = Result<(), Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            let Self(directory, compute, arguments) = self;
            let (config, model) = checkpoint::load_in::<B::InnerBackend>(directory, compute.dtype.into(), &device)?;
            if config.is_encoder() {
                return Err(Error::Encoder { directory: directory.into() });
            }
            let limits = Limits {
                body_bytes: arguments.max_body_bytes,
                tokens: arguments.max_tokens.or(config.max_positions).unwrap_or(DEFAULT_TOKENS),
                batch: arguments.max_batch.into(),
                queue: arguments.max_queue.into(),
                connections: arguments.max_connections.into(),
                memory_bytes: arguments.memory_bytes,
            };
            if let Some(limit) = config.position_limit().filter(|&limit| limits.tokens > limit) {
                return Err(Error::TooManyPositions { tokens: limits.tokens, limit });
            }
            let of_directory = || directory.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            let name = arguments.name.clone().or_else(of_directory).unwrap_or_else(|| "model".into());
            let memory = memory::<B::InnerBackend>(&config, &model, limits, &device);
            let served = Served {
                tokenizer: Tokenizer::load(directory, config.vocabulary)?,
                chat: ChatTemplate::load(directory)?,
                end_tokens: config.end_tokens(),
                vocabulary: config.vocabulary,
                limits,
                engine: Engine::start(model, device, limits),
                name,
            };
            let address = format!("{}:{}", arguments.host, arguments.port);
            let refused = |source| Error::Serve { address: address.clone(), source };
            let listener = TcpListener::bind((arguments.host, arguments.port)).map_err(refused)?;
            let chat = if served.chat.is_some() { "completions and chats" } else { "completions (the model has no chat template)" };
            let bound = listener.local_addr().map_err(refused)?;
            eprintln!(
                "serving {} at http://{bound}/v1: {chat}, {} sequences of up to {} tokens together; ctrl-c ends\n{memory}",
                served.name, limits.batch, limits.tokens
            );
            dtr_serve::serve(router(Arc::new(served)), listener, limits.connections).map_err(refused)
        }
    }

    dispatch(compute, ServeWork(model, compute, arguments))?
}
