//! `dtr-portability --devices flex,ndarray,wgpu`: runs one suite on each device and compares what it computes with the same in double
//! precision on the processor.
//!
//! Each device is a process of its own, so that one whose driver takes the process down is one row of the table and not the end
//! of it.

mod suite;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use burn::backend::{Autodiff, NdArray};
use clap::Parser;
use dtr_attention::TrainBackend;
use dtr_experiment::backend::{Work, dispatch};
use dtr_experiment::schema::{Compute, Device, Precision};
use dtr_portability::compare::{Result, compare};
use dtr_portability::outcome::Outcome;
use dtr_portability::table::table;
use mimalloc::MiMalloc;

use crate::suite::Suite;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Compares devices with a reference in double precision, operation by operation.
#[derive(Parser)]
struct Cli {
    /// Devices as experiments name them, each with an element type if it is not f32: flex, wgpu:0, cuda:bf16, cuda:0:bf16.
    #[arg(long, value_delimiter = ',', required = true)]
    devices: Vec<String>,
    /// Where all results go, as JSON.
    #[arg(long, default_value = "portability.json")]
    output: PathBuf,
    /// Only cases whose group or name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Every case in the table, not only the worst of its group.
    #[arg(long)]
    all: bool,
    /// Run the suite on one device and print its numbers: what the process of a device does.
    #[arg(long, hide = true)]
    outcomes: bool,
}

struct Run<'a>(Compute, &'a str);

impl Work for Run<'_> {
    type Output = Vec<Outcome>;

    fn run<B: TrainBackend>(self, device: B::Device) -> Vec<Outcome> {
        Suite::<B>::new(device, self.0.dtype, self.1).run()
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let devices: std::result::Result<Vec<Compute>, String> = cli.devices.iter().map(|name| named(name)).collect();
    let devices = match devices {
        Ok(devices) => devices,
        Err(error) => return refuse(&error),
    };
    if cli.outcomes {
        return match dispatch(devices[0], Run(devices[0], &cli.only)) {
            Ok(outcomes) => {
                println!("{}", serde_json::to_string(&outcomes).expect("numbers are JSON"));
                ExitCode::SUCCESS
            }
            Err(error) => refuse(&error.to_string()),
        };
    }
    eprintln!("reference: ndarray in double precision");
    let reference = Suite::<Autodiff<NdArray<f64>>>::new(Default::default(), Precision::F32, &cli.only).run();
    if reference.is_empty() {
        return refuse(&format!("no case contains \"{}\"", cli.only));
    }
    let results: Vec<Result> =
        devices.iter().zip(&cli.devices).map(|(&compute, name)| compare(compute, &reference, child(name, &cli.only))).collect();
    println!("{}", table(&results, cli.all));
    let json = serde_json::to_vec_pretty(&results).expect("results are JSON");
    if let Err(error) = std::fs::write(&cli.output, json) {
        return refuse(&format!("cannot write {}: {error}", cli.output.display()));
    }
    println!("all differences: {}", cli.output.display());
    if results.iter().all(Result::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// `DEVICE[:INDEX][:DTYPE]`.
fn named(name: &str) -> std::result::Result<Compute, String> {
    let (device, dtype) = match name.rsplit_once(':') {
        Some((device, last)) if last.parse::<Precision>().is_ok() => (device, last.parse()?),
        _ => (name, Precision::F32),
    };
    let device = device.parse::<Device>().map_err(|grammar| format!("\"{name}\" is no device: expected {grammar}"))?;
    Ok(Compute { device, dtype })
}

/// The suite's outcomes from a process of its own, or what became of it.
fn child(device: &str, only: &str) -> std::result::Result<Vec<Outcome>, String> {
    eprintln!("{device}");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["--outcomes", "--devices", device, "--only", only])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("the suite did not end: {}", output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}
