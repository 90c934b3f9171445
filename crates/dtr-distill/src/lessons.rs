//! Lessons of students: handed from the passes of the parent to the threads that teach.
//!
//! While the pass goes on, over the layers of one batch after the other, those it has shown are learnt on other threads; it is ahead of them by a
//! few layers only, so that what is in memory depends on the number of threads, however deep the model.

use std::sync::{Arc, Mutex, mpsc};

use burn::prelude::*;
use dtr_attention::TrainBackend;
use dtr_models::Decoder;
use rayon::ThreadPoolBuilder;

use crate::batch::Batch;
use crate::cache::StateCache;
use crate::error::DistillError;
use crate::observe::{Seen, observe};
use crate::pupil::Pupil;
use crate::snapshot::Clock;
use crate::trainer::{Draw, Progress, Settings};

/// Lessons a thread that may wait for one: a backward pass waits for those of other threads to end, and this one's core works meanwhile.
const AHEAD: usize = 2;

/// What a model's layers are shown by: the model itself, a teacher for layers that are not its own, and states on disk.
pub(crate) struct Source<'a, B: Backend> {
    pub model: &'a Decoder<B>,
    pub teacher: &'a Decoder<B>,
    pub cache: Option<&'a StateCache>,
}

impl<B: dtr_attention::MixerBackend> Source<'_, B> {
    fn observe(&self, batch: &Batch<B>, show: impl FnMut(usize, Seen<B>)) {
        match self.cache {
            Some(cache) => cache.observe(self.model, batch, show),
            None => observe(self.model, self.teacher, batch, show),
        }
    }
}

/// What a pupil is to learn from.
struct Lesson<B: Backend> {
    pupil: usize,
    seen: Seen<B>,
    /// Of the largest learning rate, where a step is made.
    share: Option<f64>,
    /// The last one before a report.
    last: bool,
}

/// All steps before `end` and the fits behind them, on as many threads as there are cores beside this one, which passes on what each layer sees; on
/// this one alone where the backend is not to be used by several.
///
/// The threads are not those of the kernels' pool: a backward pass holds a lock while its kernels run, and a pool thread that
/// waits for a kernel may take up another student's backward pass and wait for that lock in turn. With a pool of its own, of this one
/// thread, there is none to take up.
pub(crate) fn steps<B: TrainBackend>(
    pupils: &mut [Pupil<B>],
    source: &Source<'_, B::InnerBackend>,
    settings: &Settings,
    (clock, end): (&mut Clock, usize),
    training: Draw<'_>,
    device: &B::Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), DistillError> {
    let mut of_layer = vec![Vec::new(); source.model.layers.len()];
    pupils.iter().enumerate().for_each(|(index, pupil)| of_layer[pupil.layer].push(index));
    let pupils: Vec<Mutex<&mut Pupil<B>>> = pupils.iter_mut().map(Mutex::new).collect();
    let teach = |pupil: &mut Pupil<B>, lesson: Lesson<B::InnerBackend>| {
        let teacher = &source.teacher.layers[pupil.layer].mixer;
        pupil.learn(lesson.seen, teacher, settings.loss, settings.accumulate, lesson.share);
        if lesson.last {
            pupil.fit_output();
        }
    };
    let threads = if B::THREADED { rayon::current_num_threads() } else { 0 };
    // Of as many students as cores each has work enough for one: handing kernels to a pool and waiting for it would only cost time.
    let alone = || if pupils.len() < threads { None } else { ThreadPoolBuilder::new().num_threads(1).build().ok() };
    let (send, receive) = mpsc::sync_channel::<Lesson<B::InnerBackend>>(AHEAD * threads);
    let receive = Arc::new(Mutex::new(receive));
    std::thread::scope(|scope| {
        let send = send;
        let (pupils, teach) = (&pupils, &teach);
        for _ in 0..threads {
            let receive = receive.clone();
            let lessons = move || {
                loop {
                    let (lesson, mut pupil) = {
                        let receive = receive.lock().expect("no thread panics while it takes a lesson");
                        let Ok(lesson) = receive.recv() else { return };
                        // Taken before the next lesson is: so a pupil has its lessons in their order.
                        let pupil = pupils[lesson.pupil].lock().expect("no thread panics while it teaches");
                        (lesson, pupil)
                    };
                    teach(&mut pupil, lesson);
                }
            };
            let pool = alone();
            scope.spawn(move || match pool {
                Some(pool) => pool.install(lessons),
                None => lessons(),
            });
        }
        // Held by the threads alone: when they are gone, sending fails and does not wait for ever.
        drop(receive);
        for step in clock.step..end {
            let share = settings.schedule.share(step, settings.steps, settings.warmup);
            for part in 0..settings.accumulate {
                let rows = training(step * settings.accumulate + part).map_err(DistillError::Rows)?;
                clock.tokens += rows.iter().map(|row| row.tokens.len()).sum::<usize>();
                let share = (part + 1 == settings.accumulate).then_some(share);
                let last = share.is_some() && step + 1 == end;
                source.observe(&Batch::new(&rows, device), |layer, seen| {
                    for &pupil in &of_layer[layer] {
                        let lesson = Lesson { pupil, seen: seen.clone(), share, last };
                        if B::THREADED {
                            // It fails only if all threads have panicked, and then the scope panics, too.
                            let _ = send.send(lesson);
                        } else {
                            teach(&mut pupils[pupil].lock().expect("no other thread teaches"), lesson);
                        }
                    }
                });
            }
            clock.step = step + 1;
            progress(Progress::Step { tokens: clock.tokens });
        }
        Ok(())
    })
}
