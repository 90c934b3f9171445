//! How far kernels are from what the machine can do. `cargo bench --profile dev -p dtr-kernels`
//!
//! Multiply-add rate and read bandwidth are measured in the same run. A kernel's own operations are counted from its equation,
//! a lone multiplication as one; a share of the bandwidth counts each input read and each output written once.

use std::time::Instant;

use dtr_kernels::recurrence::{self, Inputs};
use dtr_kernels::view::{Rows, View};
use dtr_kernels::{attention, cross_entropy, peak, rows, simd};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HEADS: usize = 8;
const TIME: usize = 4096;
const WIDTH: usize = 64;

fn main() {
    let (rate, bandwidth) = (peak::multiplications_per_second(), peak::bytes_per_second());
    println!("{:?}, {} threads", simd::level(), rayon::current_num_threads());
    println!("peak: {:.1} G multiply-adds/s, {:.1} GB/s read\n", rate / 1e9, bandwidth / 1e9);
    println!("{:34} {:>9} {:>12} {:>8}", "kernel", "ms", "G/s", "of peak");
    let computed = |name: &str, operations: usize, work: &mut dyn FnMut()| {
        let seconds = median(work);
        let done = operations as f64 / seconds;
        println!("{name:34} {:9.2} {:10.1} G {:6.0} %", seconds * 1e3, done / 1e9, 100.0 * done / rate);
    };
    let moved = |name: &str, bytes: usize, work: &mut dyn FnMut()| {
        let seconds = median(work);
        let done = bytes as f64 / seconds;
        println!("{name:34} {:9.2} {:9.1} GB {:6.0} %", seconds * 1e3, done / 1e9, 100.0 * done / bandwidth);
    };

    let numbers: Vec<f32> = (0..HEADS * TIME * WIDTH).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect();
    let small: Vec<f32> = numbers.iter().map(|x| 0.1 * x).collect();
    let fades: Vec<f32> = numbers.iter().map(|x| -0.1 * x.abs()).collect();
    let halves = vec![0.5; HEADS * TIME];
    let zeros = vec![0.0; HEADS * WIDTH * WIDTH];
    let wide = |x| View::contiguous(x, [1, HEADS, TIME, WIDTH]);
    let flat = |x| View::contiguous(x, [1, HEADS, TIME, 1]);
    let grads = vec![0.5; HEADS * TIME * WIDTH];
    let cell = HEADS * TIME * WIDTH * WIDTH;
    // Forward: write and read (2), decay (1), recall (1). Backward: one forward pass twice over, then by q, k, u, the flow's
    // update and, with decay, the state's, the flow's and the decay's own; with recall three more.
    for (name, g, beta, forward, backward) in [
        ("linear", None, None, 2, 6),
        ("scalar decay", Some(flat(&fades)), None, 3, 11),
        ("vector decay", Some(wide(&fades)), None, 3, 11),
        ("delta", None, Some(flat(&halves)), 3, 11),
        ("gated delta", Some(flat(&fades)), Some(flat(&halves)), 4, 16),
        ("Kimi delta", Some(wide(&fades)), Some(flat(&halves)), 4, 16),
    ] {
        let state = View::contiguous(&zeros, [1, HEADS, WIDTH, WIDTH]);
        let inputs = Inputs { q: wide(&numbers), k: wide(&small), v: wide(&numbers), g, beta, state };
        computed(&format!("{name}, forward"), forward * cell, &mut || drop(recurrence::forward(&inputs)));
        computed(&format!("{name}, backward"), backward * cell, &mut || drop(recurrence::backward(&inputs, wide(&grads), state)));
    }
    let positions: Vec<i32> = (0..TIME as i32).collect();
    let inputs = attention::Inputs {
        q: wide(&numbers),
        k: wide(&small),
        v: wide(&numbers),
        positions: &positions,
        in_order: true,
        window: None,
        sinks: 0,
        scale: 0.125,
    };
    let pairs = HEADS * TIME * TIME / 2;
    computed("softmax attention, forward", pairs * 2 * WIDTH, &mut || drop(attention::forward(inputs)));
    let (output, sums) = attention::forward_for_backward(inputs);
    let by_token = [TIME * HEADS * WIDTH, WIDTH, HEADS * WIDTH, 1];
    let output = View::new(&output, [1, HEADS, TIME, WIDTH], by_token);
    computed("softmax attention, backward", pairs * 5 * WIDTH, &mut || drop(attention::backward(inputs, output, &sums, wide(&numbers))));

    let (count, width) = (4096, 1024);
    let matrix: Vec<f32> = (0..count * width).map(|i| ((i * 31) % 997) as f32 / 500.0 - 1.0).collect();
    let plain = Rows::new(&matrix, &[count, width], &[width, 1], &[0, 1]);
    let weight = vec![1.0; width];
    let size = 4 * matrix.len();
    moved("RMS norm, forward", 2 * size, &mut || drop(rows::rms_norm(&plain, &weight, 1e-6)));
    moved("RMS norm, backward", 3 * size, &mut || drop(rows::rms_norm_backward(&plain, &weight, 1e-6, &plain)));
    moved("SwiGLU, forward", 3 * size, &mut || drop(rows::swiglu(&plain, &plain)));
    moved("SwiGLU, backward", 5 * size, &mut || drop(rows::swiglu_backward(&plain, &plain, &plain)));
    let targets: Vec<i64> = (0..count as i64).map(|i| i % width as i64).collect();
    let ones = vec![1.0; count];
    moved("cross-entropy, forward", size, &mut || drop(cross_entropy::forward(&plain, &targets)));
    moved("cross-entropy, backward", 2 * size, &mut || drop(cross_entropy::backward(&plain, &targets, &ones)));
}

/// Median seconds of eleven runs after one that does not count.
fn median(work: &mut dyn FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..11)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[5]
}
