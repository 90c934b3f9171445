//! Picks the backend features that an experiment's device needs, builds `dtr` with them and launches it. Knows nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask run FILE [--device D] [--runs DIR] [--set KEY=VALUE]..  do, or go on with, an experiment; --json for its events
cargo xtask distill FILE [the same]                                  its students alone, which runs in the same directory find
cargo xtask check FILE [--device D] [--set KEY=VALUE]..             validate it and print the plan
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
            let backend = backend(rest)?;
            launch(&build(&backend)?, arguments)
        }
        "report" | "trace" | "study" => launch(&build("flex")?, arguments),
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

/// Backend of the experiment: of `--device` or `--set device=..`, the last of which counts, else of the file.
///
/// What is wrong with the file is for `dtr` to tell: it knows the place. Here it only must not stop the build.
fn backend(arguments: &[String]) -> Result<String> {
    let mut file = None;
    let mut device = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, inline) = argument.split_once('=').map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
        match name {
            "--device" => device = inline.or_else(|| rest.next().map(String::as_str)).map(str::to_owned).or(device),
            "--set" => {
                let pair = inline.or_else(|| rest.next().map(String::as_str)).unwrap_or("");
                device = pair.strip_prefix("device=").map(|value| value.trim_matches('"').to_owned()).or(device);
            }
            "--runs" => {
                rest.next();
            }
            _ if !argument.starts_with("--") => file = Some(argument),
            _ => {}
        }
    }
    let file = file.context("no experiment given: name a TOML file, such as configs/quickstart.toml")?;
    let device = device.or_else(|| {
        let text = std::fs::read_to_string(file).ok()?;
        text.parse::<toml::Table>().ok()?.get("device")?.as_str().map(str::to_owned)
    });
    let name = device.as_deref().unwrap_or("flex").split(':').next().unwrap_or("flex");
    Ok(if BACKENDS.contains(&name) { name } else { "flex" }.to_owned())
}

/// Builds `dtr` for one backend and leaves it at `target/release/dtr`.
///
/// The default profile is the optimised one that the tests use: one set of compiled dependencies serves both.
fn build(backend: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--package", "dtr-experiment", "--bin", "dtr"]);
    if backend != "flex" {
        cargo.args(["--no-default-features", "--features", backend]);
    }
    if !cargo.status().context("could not run cargo")?.success() {
        bail!("dtr could not be built with the backend {backend}");
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
    use super::backend;

    fn check(arguments: &str, expected: &str) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        assert_eq!(backend(&arguments).expect("a backend"), expected, "{arguments:?}");
    }

    #[test]
    fn the_backend_is_that_of_the_device() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/quickstart.toml");
        check(file, "flex");
        check(&format!("{file} --device cuda:1"), "cuda");
        check(&format!("--set seed=3 --device=wgpu {file} --runs elsewhere"), "wgpu");
        check(&format!("{file} --set device=ndarray"), "ndarray");
        check(&format!("{file} --device abacus"), "flex");
        check("missing.toml", "flex");
        assert!(backend(&[]).is_err());
    }
}
