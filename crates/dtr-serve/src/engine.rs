//! The model's own thread: sequences wait, join the batch at its next step, and leave it when they end or nobody listens any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use dtr_attention::MixerBackend;
use dtr_models::Decoder;
use dtr_models::generate::{Batch, Finish, Progress, Sequence, TokenScore};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Limits;
use crate::error::ApiError;

/// Tokens, padding included, that are read of prompts between two tokens of what is being generated: bounds how long a stream is held up,
/// and the memory of hidden states.
pub const PIECE_TOKENS: usize = 512;

/// The way to the model's thread.
#[derive(Debug)]
pub struct Engine {
    jobs: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    count: usize,
}

/// One sequence of a request has gone on.
#[derive(Debug)]
pub struct Event {
    /// Which sequence of the request.
    pub choice: usize,
    /// Scores of the prompt's tokens but the first, with the first event, if asked for.
    pub prompt: Vec<TokenScore>,
    /// Tokens of the prompt that an earlier sequence had read, with the first event.
    pub cached: usize,
    /// The new token, if one was asked for.
    pub token: Option<u32>,
    /// Its score, if asked for.
    pub score: Option<TokenScore>,
    /// Set with the last event of the sequence.
    pub finish: Option<Finish>,
}

/// What becomes of a request. Dropping it ends the work on it.
#[derive(Debug)]
pub struct Running {
    /// Events of all of its sequences; without an end where one had no last event, the model's thread has ended.
    pub events: UnboundedReceiver<Event>,
    left: Vec<Arc<AtomicBool>>,
}

impl Running {
    /// Ends the work on one sequence.
    pub fn leave(&self, choice: usize) {
        self.left[choice].store(true, Ordering::Relaxed);
    }
}

/// Who waits for a sequence. The place is free again when the last copy is gone.
#[derive(Debug, Clone)]
struct Client(Arc<Listener>);

#[derive(Debug)]
struct Listener {
    choice: usize,
    events: UnboundedSender<Event>,
    left: Arc<AtomicBool>,
    /// One permit of the places: there are as many as sequences.
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    fn listens(&self) -> bool {
        !self.0.events.is_closed() && !self.0.left.load(Ordering::Relaxed)
    }
}

/// A sequence, and who waits for it.
type Job = (Client, Sequence);

impl Engine {
    /// Gives `model` a thread of its own, which ends when the engine is dropped.
    pub fn start<B: MixerBackend>(model: Decoder<B>, device: B::Device, limits: Limits) -> Self {
        let (sender, jobs) = mpsc::channel();
        thread::spawn(move || run(&model, &device, &jobs, limits));
        let count = limits.batch + limits.queue;
        Self { jobs: sender, places: Arc::new(Semaphore::new(count)), count }
    }

    /// Lets the sequences of one request wait for the model. All of them, or none.
    ///
    /// # Errors
    /// If there are not places enough, or the model's thread has ended.
    pub fn submit(&self, sequences: Vec<Sequence>) -> Result<Running, ApiError> {
        let busy = |_| ApiError::Busy { waiting: self.count };
        let mut places = Arc::clone(&self.places).try_acquire_many_owned(sequences.len() as u32).map_err(busy)?;
        let (events, receiver) = unbounded_channel();
        let mut left = Vec::with_capacity(sequences.len());
        for (choice, sequence) in sequences.into_iter().enumerate() {
            let gone = Arc::new(AtomicBool::new(false));
            left.push(Arc::clone(&gone));
            let client = Client(Arc::new(Listener { choice, events: events.clone(), left: gone, _place: places.split(1) }));
            self.jobs.send((client, sequence)).map_err(|_| ApiError::Stopped)?;
        }
        Ok(Running { events: receiver, left })
    }
}

fn run<B: MixerBackend>(model: &Decoder<B>, device: &B::Device, jobs: &mpsc::Receiver<Job>, limits: Limits) {
    let mut batch = Batch::new(model, device).remembering(limits.memory_bytes);
    let mut waiting = VecDeque::new();
    loop {
        if batch.is_empty() && waiting.is_empty() {
            let Ok(job) = jobs.recv() else { return };
            waiting.push_back(job);
        }
        waiting.extend(jobs.try_iter());
        waiting.retain(|(client, _): &Job| client.listens());
        batch.retain(Client::listens);
        batch.begin(&mut waiting, limits.batch - batch.len(), PIECE_TOKENS);
        batch.read(PIECE_TOKENS).into_iter().for_each(tell);
        batch.step().into_iter().for_each(tell);
    }
}

fn tell(progress: Progress<Client>) {
    let Progress { key: Client(listener), prompt, cached, token, score, finish } = progress;
    let (choice, events) = (listener.choice, listener.events.clone());
    // After a last event the place is free before it is known: whoever has all of its answer may ask again at once.
    drop(listener);
    // Nobody may listen any more: then the sequence leaves before the next step.
    let _ = events.send(Event { choice, prompt, cached, token, score, finish });
}
