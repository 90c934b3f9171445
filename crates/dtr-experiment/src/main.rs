//! The command `dtr`: arguments, the choice of backend, and what is printed.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dtr_experiment::Error;
use dtr_experiment::schema::{Compute, Device, Precision};
use mimalloc::MiMalloc;
use peakmem_alloc::PeakMemAlloc;

/// Counts, so that the memory a model takes can be told.
#[global_allocator]
static ALLOCATOR: PeakMemAlloc<MiMalloc> = PeakMemAlloc::new(MiMalloc);

/// Turns a pretrained full-attention Transformer and a task into a task-specific hybrid of full and linear attention.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Do what is still to be done of an experiment: distil, search, test, measure, export, report.
    Run {
        #[command(flatten)]
        experiment: ExperimentArgs,
        #[command(flatten)]
        place: PlaceArgs,
        /// Every event as a line of JSON in place of tables, the report in the last line.
        #[arg(long)]
        json: bool,
    },
    /// Train the students of an experiment, and nothing else; runs below the same directory find them.
    Distill {
        #[command(flatten)]
        experiment: ExperimentArgs,
        #[command(flatten)]
        place: PlaceArgs,
        /// JSON in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Check an experiment and everything it names, print the plan, run nothing.
    Check {
        #[command(flatten)]
        experiment: ExperimentArgs,
    },
    /// Write the report of a run anew, also of one that goes on or broke off, and print its tables. Of several runs, compare them.
    Report {
        /// Run directories.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// The page that compares several runs.
        #[arg(long, default_value = "comparison.html")]
        output: PathBuf,
        /// JSON in place of tables.
        #[arg(long)]
        json: bool,
    },
    /// Do the searches of a run again from what is stored of them, without a model, and explain every decision.
    Trace {
        /// The run directory.
        directory: PathBuf,
    },
    /// Compare all strategies on the scores of runs that searched exhaustively (configs/studies/exhaustive.toml).
    Study {
        /// Run directories, of one experiment with several seeds.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Draws of examples that every strategy is tried on.
        #[arg(long, default_value_t = 200)]
        draws: usize,
        /// Share of a task's examples that are a draw's validation split, at most 0.6: half as many more stand for training examples, and
        /// the others tell what is true.
        #[arg(long, default_value_t = 0.5)]
        share: f64,
        /// Share of the parent's score to keep.
        #[arg(long, default_value_t = 0.95)]
        floor: f64,
        /// Confidence of the rule that keeps its word.
        #[arg(long, default_value_t = 0.9)]
        confidence: f64,
    },
    /// List the devices of the backends built in: numbers, names, element types, memory.
    Devices {
        /// JSON in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Continue prompts, or answer in a chat.
    Generate {
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        arguments: commands::GenerateArgs,
    },
    /// Serve a model over HTTP: completions and chats, whole or streamed.
    Serve {
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        arguments: commands::ServeArgs,
    },
    /// Score a model on tasks: those of an experiment, or of a file with tasks alone.
    Eval {
        #[command(flatten)]
        model: ModelArgs,
        /// A TOML file with tables `[tasks.NAME]`.
        #[arg(long)]
        tasks: PathBuf,
        /// Examples to report on, or those to choose on.
        #[arg(long, value_enum, default_value_t = SplitArg::Test)]
        split: SplitArg,
        /// Directory for the results of each example; with it, an evaluation that was broken off goes on.
        #[arg(long)]
        out: Option<PathBuf>,
        /// JSON in place of a table.
        #[arg(long)]
        json: bool,
        /// No progress on the terminal.
        #[arg(long)]
        quiet: bool,
    },
    /// Write a model as a directory that stock runtimes load, where there is an exact form of it.
    Export {
        /// Directory of the model, a parent or a hybrid.
        directory: PathBuf,
        /// What is to load it: parent, qwen3-5, qwen3-next, fla.
        #[arg(long)]
        format: String,
        /// The directory to write, new or empty.
        #[arg(long)]
        output: PathBuf,
    },
    /// What a model is: layers, mixers, parameters, memory, and what it can be exported to.
    Inspect {
        /// Directory of the model, a parent or a hybrid.
        directory: PathBuf,
        /// JSON in place of text.
        #[arg(long)]
        json: bool,
    },
    /// Log-probability of every token but the first, as JSON lines.
    Score {
        #[command(flatten)]
        model: ModelArgs,
        /// A file of lines `{"tokens": [..]}`.
        #[arg(long)]
        tokens: PathBuf,
    },
}

#[derive(Args)]
struct ExperimentArgs {
    /// The experiment, a TOML file.
    file: PathBuf,
    /// Device in place of the file's.
    #[arg(long)]
    device: Option<String>,
    /// Replace a value of the file, such as `seed=1` or `search.floor=0.9`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

#[derive(Args)]
struct PlaceArgs {
    /// Directory that holds run directories, and students for all of them.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// No progress on the terminal.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct ModelArgs {
    /// Directory of a model, a parent or a hybrid.
    #[arg(long)]
    model: PathBuf,
    /// Device to compute on; by default the first one built in.
    #[arg(long)]
    device: Option<Device>,
    /// Element type of weights and hidden states: f32, f16 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: Precision,
}

impl ModelArgs {
    fn compute(&self) -> Result<Compute, Error> {
        Compute::or_default(self.device, self.dtype)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Validation,
    Test,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as seed=1")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl ExperimentArgs {
    /// The overrides, the device among them.
    fn overrides(&self) -> Vec<(String, String)> {
        let device = self.device.iter().map(|device| ("device".to_owned(), device.clone()));
        self.overrides.iter().cloned().chain(device).collect()
    }
}

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<(), Error> {
    match command {
        Command::Run { experiment, place, json } => commands::run(&experiment.file, &experiment.overrides(), place.runs, place.quiet, json),
        Command::Distill { experiment, place, json } => {
            commands::distill(&experiment.file, &experiment.overrides(), place.runs, place.quiet, json)
        }
        Command::Check { experiment } => commands::check(&experiment.file, &experiment.overrides()),
        Command::Report { directories, output, json } => match &directories[..] {
            [directory] => commands::report(directory, json),
            directories => commands::compare(directories, &output, json),
        },
        Command::Trace { directory } => commands::trace(&directory),
        Command::Study { directories, draws, share, floor, confidence } => {
            commands::study(&directories, &dtr_experiment::stages::Study { draws, share, floor, confidence })
        }
        Command::Devices { json } => {
            commands::devices(json);
            Ok(())
        }
        Command::Generate { model, arguments } => commands::generate(&model.model, model.compute()?, &arguments),
        Command::Serve { model, arguments } => commands::serve(&model.model, model.compute()?, &arguments),
        Command::Eval { model, tasks, split, out, json, quiet } => {
            let split = match split {
                SplitArg::Validation => dtr_eval::Split::Validation,
                SplitArg::Test => dtr_eval::Split::Test,
            };
            commands::eval(&model.model, model.compute()?, &tasks, split, out, json, quiet)
        }
        Command::Export { directory, format, output } => commands::export(&directory, &format, &output),
        Command::Inspect { directory, json } => commands::inspect(&directory, json),
        Command::Score { model, tokens } => commands::score(&model.model, model.compute()?, &tokens),
    }
}
