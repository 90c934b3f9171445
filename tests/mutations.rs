//! Damaged checkpoints: whatever is done to the bytes of a small one, reading it neither panics nor takes much memory. Alone in its process, because
//! it counts allocations.

use std::alloc::System;
use std::path::Path;

use dtr_models::checkpoint;
use dtr_tests::{Inner, golden};
use peakmem_alloc::{PeakMemAlloc, PeakMemAllocTrait};
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: PeakMemAlloc<System> = PeakMemAlloc::new(System);

/// What is done to a file.
#[derive(Debug, Clone)]
enum Mutation {
    Flip {
        at: prop::sample::Index,
        bits: u8,
    },
    Cut {
        at: prop::sample::Index,
    },
    Insert {
        at: prop::sample::Index,
        bytes: Vec<u8>,
    },
    /// A number of the text becomes another.
    Number {
        which: prop::sample::Index,
        number: u64,
    },
    /// A stretch is written over another place.
    Copy {
        from: prop::sample::Index,
        to: prop::sample::Index,
        length: usize,
    },
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let size = bytes.len();
        match self {
            Self::Flip { at, bits } => bytes[at.index(size)] ^= bits,
            Self::Cut { at } => bytes.truncate(at.index(size)),
            Self::Insert { at, bytes: new } => {
                let at = at.index(size);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Number { which, number } => {
                let starts: Vec<usize> = (1..size).filter(|&at| bytes[at].is_ascii_digit() && !bytes[at - 1].is_ascii_digit()).collect();
                if !starts.is_empty() {
                    let start = starts[which.index(starts.len())];
                    let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    bytes.splice(start..end, number.to_string().into_bytes());
                }
            }
            Self::Copy { from, to, length } => {
                let stretch: Vec<u8> = bytes[from.index(size)..].iter().take(*length).copied().collect();
                let to = to.index(size);
                let end = (to + stretch.len()).min(size);
                bytes.splice(to..end, stretch);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use prop::sample::Index;
    let number = prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX / 4 + 1), Just(1 << 40), 0_u64..5000];
    prop_oneof![
        (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Mutation::Flip { at, bits }),
        any::<Index>().prop_map(|at| Mutation::Cut { at }),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (any::<Index>(), number).prop_map(|(which, number)| Mutation::Number { which, number }),
        (any::<Index>(), any::<Index>(), 1_usize..80).prop_map(|(from, to, length)| Mutation::Copy { from, to, length }),
    ]
}

/// Bytes that reading a model whose files have `size` bytes may take: numbers of two bytes become four, with a header and a strip beside them.
fn allowed(size: usize) -> usize {
    8 * size + (1 << 20)
}

fn read(directory: &Path) {
    let files = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").metadata().expect("a size").len());
    let size = files.sum::<u64>() as usize;
    ALLOCATOR.reset_peak_memory();
    let _ = checkpoint::load::<Inner>(directory, &Default::default());
    let peak = ALLOCATOR.get_peak_memory();
    assert!(peak <= allowed(size), "{peak} bytes for files of {size}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_and_costs_nothing(
        file in 0_usize..5,
        header in any::<bool>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let (source, directory) = (golden("models/grid/qwen3_dynamic"), tempfile::tempdir().expect("a directory"));
        let mut names: Vec<_> = std::fs::read_dir(&source).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
        names.retain(|name| name != "expected.safetensors");
        names.sort();
        for (number, name) in names.iter().enumerate() {
            let mut bytes = std::fs::read(source.join(name)).expect("bytes");
            if number == file {
                // Most of a shard is weights, of which any bytes are as good: its header is what can be wrong.
                let kept = if header { 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")).min(bytes.len() as u64 - 8) as usize } else { bytes.len() };
                let tail = bytes.split_off(kept);
                for mutation in &mutations {
                    mutation.apply(&mut bytes);
                }
                bytes.extend(tail);
            }
            std::fs::write(directory.path().join(name), bytes).expect("written");
        }
        read(directory.path());
    }
}
