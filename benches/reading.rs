//! A checkpoint of some hundred megabytes into memory, beside reading its file: time and peak. `cargo bench --profile dev -p dtr-benches --bench reading`
//!
//! Each time a process of its own reads it, as a model is read: memory is new to it. Once the file is in the operating system's memory both
//! times, and once neither time, as when a model is used for the first time that day: GNU's `dd` has the system forget it. Peak and weights are
//! bytes as the allocator counts them.

use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::module::Module;
use dtr_models::checkpoint;
use mimalloc::MiMalloc;
use peakmem_alloc::{PeakMemAlloc, PeakMemAllocTrait};
use serde_json::{Map, json};

#[global_allocator]
static ALLOCATOR: PeakMemAlloc<MiMalloc> = PeakMemAlloc::new(MiMalloc);

const HIDDEN: usize = 1024;
const INNER: usize = 4096;
const LAYERS: usize = 8;
const VOCABULARY: usize = 32_768;
const REPETITIONS: usize = 15;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "read", directory] => return read(Path::new(directory)),
        [_, "load", directory] => return load(Path::new(directory)),
        _ => {}
    }
    println!(
        "{:5} {:6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7}",
        "type", "from", "file, MB", "read, ms", "load, ms", "ratio", "peak, MB", "ratio"
    );
    for (dtype, size) in [("BF16", 2), ("F16", 2), ("F32", 4)] {
        let directory = std::env::temp_dir().join(format!("dtr-reading-{}-{dtype}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        write(&directory, dtype, size);
        measure(&directory, dtype, Source::Memory);
        measure(&directory, dtype, Source::Disk);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}

/// Where the file is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Memory,
    Disk,
}

impl Source {
    /// Has the file there and nowhere else.
    fn prepare(self, file: &Path) {
        if matches!(self, Self::Disk) {
            let of = format!("of={}", file.display());
            let forgotten = Command::new("dd").args([&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]).status();
            assert!(forgotten.expect("GNU dd").success(), "the file is still in memory");
        }
    }
}

fn measure(directory: &Path, dtype: &str, source: Source) {
    let file = directory.join("model.safetensors");
    let (mut read, mut load) = (vec![], vec![]);
    let (mut peak, mut weights) = (0.0, 0.0);
    // In turns, so that other work on the machine strikes both alike.
    for _ in 0..REPETITIONS {
        source.prepare(&file);
        read.push(told("read", directory)[0]);
        source.prepare(&file);
        let found = told("load", directory);
        load.push(found[0]);
        (peak, weights) = (found[1], found[2]);
    }
    let [read, load] = [read, load].map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[REPETITIONS / 2]
    });
    let size = std::fs::metadata(&file).expect("a size").len() as f64;
    let ratios = [load / read, peak / weights];
    let from = format!("{source:?}").to_lowercase();
    println!("{dtype:5} {from:6} {:9.0} {read:9.0} {load:9.0} {:7.2} {:9.0} {:7.3}", size / 1e6, ratios[0], peak / 1e6, ratios[1]);
}

/// Numbers that a process of its own prints.
fn told(what: &str, directory: &Path) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(what).arg(directory).output().expect("started");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn read(directory: &Path) {
    let began = Instant::now();
    black_box(std::fs::read(directory.join("model.safetensors")).expect("bytes"));
    println!("{}", began.elapsed().as_secs_f64() * 1e3);
}

fn load(directory: &Path) {
    // A program has its threads already.
    rayon::join(|| (), || ());
    ALLOCATOR.reset_peak_memory();
    let began = Instant::now();
    let model = checkpoint::load::<burn_flex::Flex>(directory, &Default::default()).expect("a model");
    let elapsed = began.elapsed().as_secs_f64() * 1e3;
    println!("{elapsed} {} {}", ALLOCATOR.get_peak_memory(), 4 * model.1.num_params());
}

/// A model of the shape of Qwen2 whose weights are anything.
fn write(directory: &Path, dtype: &str, size: usize) {
    let config = json!({
        "model_type": "qwen2", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 1e4,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
    let mut tensors =
        vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]), ("model.norm.weight".to_owned(), vec![HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (name, rows) in [("q", HIDDEN), ("k", HIDDEN / 4), ("v", HIDDEN / 4)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, HIDDEN]);
            add(&format!("self_attn.{name}_proj.bias"), &[rows]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INNER, HIDDEN]);
        add("mlp.up_proj.weight", &[INNER, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = BufWriter::new(std::fs::File::create(directory.join("model.safetensors")).expect("created"));
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(header.as_bytes())).expect("written");
    // Small numbers in any of the three types.
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| if i % size as u32 == size as u32 - 1 { 0x3c } else { (i * 37 % 251) as u8 }).collect();
    let mut left = end;
    while left > 0 {
        let count = left.min(block.len());
        file.write_all(&block[..count]).expect("written");
        left -= count;
    }
    file.flush().expect("written");
}
