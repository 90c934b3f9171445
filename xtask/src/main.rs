//! Picks the backend features that an experiment's device needs, builds `dtr` with them and launches it. Knows nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask run FILE [--device D] [--runs DIR] [--set KEY=VALUE]..  do, or go on with, an experiment; --json for its events
cargo xtask distill FILE [the same]                                  its students alone, which runs in the same directory find
cargo xtask check FILE [--device D] [--set KEY=VALUE]..             validate it and print the plan
cargo xtask devices [--backends B,..]                                what this machine has: devices, their element types and memory
cargo xtask portability --devices D,.. [ARGS]..                      the suite of what dtr asks of a backend, on each device, beside a
                                                                     reference in double precision; --untuned: without trying which
                                                                     of a card's kernels is fastest; --backends B,..: built in as well
cargo xtask report DIR..                                             write a run's report anew, or compare runs
cargo xtask trace DIR                                                explain every decision of a run's searches
cargo xtask study DIR..                                              compare strategies on runs that searched exhaustively
cargo xtask ci                                                       what has to pass before a change lands
cargo xtask golden                                                   make the golden files of the tests anew (needs Python, see tests/golden)
cargo xtask bench [ARGS]..                                           benchmarks of the kernels";

/// Devices whose backend is a feature of `dtr`, under the feature's name.
const BACKENDS: [&str; 7] = ["flex", "ndarray", "wgpu", "vulkan", "metal", "cuda", "rocm"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match start(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else { bail!("no command given\n\n{HELP}") };
    match command.as_str() {
        "run" | "distill" | "check" => {
            let Needs { backend, hub } = needs(rest)?;
            launch(&build(&[backend.as_str()], hub)?, arguments)
        }
        "devices" => {
            let (named, rest) = option(rest, "--backends");
            let backends = backends(named.as_deref().unwrap_or("flex"))?;
            launch(&build(&backends, false)?, &[&["devices".to_owned()], &rest[..]].concat())
        }
        "portability" => portability(rest),
        "report" | "trace" | "study" => launch(&build(&["flex"], false)?, arguments),
        "ci" => launch(&workspace().join(".ci/run"), &[]),
        "golden" => golden(),
        "bench" => {
            // In the profile whose dependencies are already there, and with its figures where benches/pytorch looks for them.
            let fixed = ["bench", "--profile", "dev", "--package", "dtr-benches"].map(str::to_owned);
            let mut cargo = Command::new("cargo");
            cargo.args(&fixed).args(rest).env("CRITERION_HOME", target().join("criterion"));
            done(cargo)
        }
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("no command \"{other}\"\n\n{HELP}"),
    }
}

/// Features that an experiment needs.
#[derive(Debug, PartialEq)]
struct Needs {
    backend: String,
    /// Whether the parent is on a hub of models.
    hub: bool,
}

/// Needs of the experiment: of `--device` and `--set`, the last of which counts, else of the file.
///
/// What is wrong with the file is for `dtr` to tell: it knows the place. Here it only must not stop the build.
fn needs(arguments: &[String]) -> Result<Needs> {
    let mut file = None;
    let mut device = None;
    let mut parent = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, inline) = argument.split_once('=').map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
        match name {
            "--device" => device = inline.or_else(|| rest.next().map(String::as_str)).map(str::to_owned).or(device),
            "--set" => {
                let pair = inline.or_else(|| rest.next().map(String::as_str)).unwrap_or("");
                device = pair.strip_prefix("device=").map(|value| value.trim_matches('"').to_owned()).or(device);
                parent = pair.strip_prefix("parent").map(|rest| rest.contains("hub")).or(parent);
            }
            "--runs" => {
                rest.next();
            }
            _ if !argument.starts_with("--") => file = Some(argument),
            _ => {}
        }
    }
    let file = file.context("no experiment given: name a TOML file, such as configs/quickstart.toml")?;
    let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    let device = device.or_else(|| table.get("device")?.as_str().map(str::to_owned));
    let name = device.as_deref().unwrap_or("flex").split(':').next().unwrap_or("flex");
    let hub = parent.unwrap_or_else(|| table.get("parent").is_some_and(|parent| parent.get("hub").is_some()));
    Ok(Needs { backend: if BACKENDS.contains(&name) { name } else { "flex" }.to_owned(), hub })
}

/// The value of an option, and the arguments without it.
fn option(arguments: &[String], name: &str) -> (Option<String>, Vec<String>) {
    let mut rest = arguments.to_vec();
    let Some(at) = rest.iter().position(|argument| argument.split('=').next() == Some(name)) else { return (None, rest) };
    let found = rest.remove(at);
    let value = match found.split_once('=') {
        Some((_, value)) => value.to_owned(),
        None if at < rest.len() => rest.remove(at),
        None => String::new(),
    };
    (Some(value), rest)
}

/// The backends of a list of devices or backends, each once.
fn backends(list: &str) -> Result<Vec<&str>> {
    let mut backends = Vec::new();
    for device in list.split(',') {
        let name = device.trim().split(':').next().unwrap_or("");
        if !BACKENDS.contains(&name) {
            bail!("\"{name}\" is no backend: expected {}", BACKENDS.join(", "));
        }
        if !backends.contains(&name) {
            backends.push(name);
        }
    }
    Ok(backends)
}

/// Builds the suite with the backends of the devices it is to run on, and runs it.
fn portability(arguments: &[String]) -> Result<ExitCode> {
    let (devices, _) = option(arguments, "--devices");
    let devices = devices.context("no device named: --devices flex,ndarray,wgpu for example")?;
    let (more, arguments) = option(arguments, "--backends");
    let (untuned, arguments): (Vec<String>, Vec<String>) = arguments.into_iter().partition(|argument| argument == "--untuned");
    let built: Vec<String> = std::iter::once(devices).chain(more).collect();
    let built = built.join(",");
    let mut cargo = cargo(&["build", "--package", "dtr-portability"], &backends(&built)?, untuned.is_empty());
    if !cargo.status().context("could not run cargo")?.success() {
        bail!("the suite could not be built for {built}");
    }
    launch(&target().join("debug").join(format!("dtr-portability{}", std::env::consts::EXE_SUFFIX)), &arguments)
}

/// Cargo on a package with exactly these backends; `tuned`: cards look for their fastest kernels.
fn cargo(arguments: &[&str], backends: &[&str], tuned: bool) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(arguments);
    // The default features are those of flex, under which everything else is built, too.
    if backends != ["flex"] {
        let tuning = tuned && backends.iter().any(|backend| !["flex", "ndarray"].contains(backend));
        let features: Vec<&str> = backends.iter().copied().chain(tuning.then_some("autotune")).collect();
        cargo.args(["--no-default-features", "--features", &features.join(",")]);
    }
    cargo
}

/// Builds `dtr` for some backends, with access to a hub of models where that is needed, and leaves it at `target/release/dtr`.
///
/// The default profile is the optimised one that the tests use: one set of compiled dependencies serves both.
fn build(backends: &[&str], hub: bool) -> Result<PathBuf> {
    let mut cargo = cargo(&["build", "--package", "dtr-experiment", "--bin", "dtr"], backends, true);
    if hub {
        cargo.args(["--features", "hub"]);
    }
    if !cargo.status().context("could not run cargo")?.success() {
        bail!("dtr could not be built with the backend {}", backends.join(", "));
    }
    let target = target();
    let name = format!("dtr{}", std::env::consts::EXE_SUFFIX);
    let (built, release) = (target.join("debug").join(&name), target.join("release"));
    std::fs::create_dir_all(&release).with_context(|| format!("could not create {}", release.display()))?;
    let place = release.join(name);
    // A fresh file: one that is running cannot be written to, but it can be replaced.
    let fresh = place.with_extension("new");
    std::fs::copy(&built, &fresh)
        .and_then(|_| std::fs::rename(&fresh, &place))
        .with_context(|| format!("could not write {}", place.display()))?;
    Ok(place)
}

/// Runs the scripts that make the golden files, with the interpreter of `PYTHON`.
fn golden() -> Result<ExitCode> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    for script in [
        "make_models.py",
        "make_mixers.py",
        "make_optimiser.py",
        "make_family.py",
        "make_tiny_qwen3.py",
        "make_ruler.py",
        "make_lm_eval.py",
        "make_generation.py",
        "make_chat.py",
        "fetch_minilm.py",
        "make_minilm.py",
    ] {
        let status = Command::new(&python).current_dir(workspace().join("tests/golden")).arg(script).status();
        if !status.with_context(|| format!("could not run {}", python.display()))?.success() {
            bail!("{script} failed: install tests/golden/requirements.txt, then name the interpreter in PYTHON");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a program in place of this one and hands on how it ended.
fn launch(program: &Path, arguments: &[String]) -> Result<ExitCode> {
    let mut command = Command::new(program);
    command.args(arguments);
    done(command)
}

fn done(mut command: Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("could not run {}", command.get_program().display()))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::{Needs, backends, needs, option};

    fn check(arguments: &str, backend: &str, hub: bool) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        assert_eq!(needs(&arguments).expect("needs"), Needs { backend: backend.into(), hub }, "{arguments:?}");
    }

    #[test]
    fn needs_are_those_of_device_and_parent() {
        let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
        let (file, on_hub) = (format!("{configs}/quickstart.toml"), format!("{configs}/qwen2.5-1.5b-tasks.toml"));
        check(&file, "flex", false);
        check(&format!("{file} --device cuda:1"), "cuda", false);
        check(&format!("--set seed=3 --device=wgpu {file} --runs elsewhere"), "wgpu", false);
        check(&format!("{file} --set device=ndarray"), "ndarray", false);
        check(&format!("{file} --device abacus"), "flex", false);
        check(&format!("{on_hub} --device cuda"), "cuda", true);
        check(&format!("{on_hub} --device flex --set parent={{path=\"somewhere\"}}"), "flex", false);
        check(&format!("{file} --set parent={{hub=\"a/b\",revision=\"main\"}}"), "flex", true);
        check("missing.toml", "flex", false);
        assert!(needs(&[]).is_err());
    }

    #[test]
    fn every_device_of_a_list_has_its_backend_once() {
        assert_eq!(backends("flex,wgpu:0,flex:bf16, cuda").expect("backends"), ["flex", "wgpu", "cuda"]);
        assert!(backends("flex,abacus").is_err() && backends("").is_err());
    }

    #[test]
    fn an_option_is_taken_out_of_the_arguments() {
        let arguments = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |text: &str, value: Option<&str>, rest: &str| {
            assert_eq!(option(&arguments(text), "--backends"), (value.map(str::to_owned), arguments(rest)), "{text}");
        };
        check("--json --backends cuda x", Some("cuda"), "--json x");
        check("--backends=cuda,flex", Some("cuda,flex"), "");
        check("--json", None, "--json");
        check("--backends", Some(""), "");
    }
}
