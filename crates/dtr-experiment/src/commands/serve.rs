//! `dtr serve`: a model over HTTP.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use dtr_attention::TrainBackend;
use dtr_experiment::Error;
use dtr_experiment::schema::Compute;
use dtr_models::{ChatTemplate, Tokenizer, checkpoint};
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
            };
            if let Some(limit) = config.position_limit().filter(|&limit| limits.tokens > limit) {
                return Err(Error::TooManyPositions { tokens: limits.tokens, limit });
            }
            let of_directory = || directory.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            let name = arguments.name.clone().or_else(of_directory).unwrap_or_else(|| "model".into());
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
                "serving {} at http://{bound}/v1: {chat}, {} sequences of up to {} tokens together; ctrl-c ends",
                served.name, limits.batch, limits.tokens
            );
            dtr_serve::serve(router(Arc::new(served)), listener).map_err(refused)
        }
    }

    dispatch(compute, ServeWork(model, compute, arguments))?
}
