//! The directory of one run: where its files lie, who may write to it, and which of its units are done.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{atomic, error::Error, events::Model, schema::Experiment};

/// `<runs>/<name>-<hash>/`, owned by this process until dropped.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    units: Units,
    /// The operating system frees the lock when the process ends, however it ends.
    _lock: File,
}

/// A unit of work as stored: `key` is the hash of all that `value` depends on.
#[derive(Serialize, Deserialize)]
struct Unit<K, T> {
    key: K,
    value: T,
}

impl RunDir {
    /// Opens the directory of `experiment` below `runs`, making it when it is not there, and removes what a kill left half
    /// written.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it open, [`Error::OtherExperiment`] when its `experiment.toml` differs,
    /// [`Error::Io`] when something in it cannot be read or written.
    pub fn open(runs: &Path, experiment: &Experiment) -> Result<Self, Error> {
        let root = runs.join(format!("{}-{}", experiment.name(), experiment.hash()));
        let cannot = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action, path, source }
        };
        fs::create_dir_all(&root).map_err(cannot("create the directory", &root))?;
        let lock = lock(&root.join(".lock"), &root)?;
        atomic::remove_temporaries(&root, true)?;

        let path = root.join("experiment.toml");
        match fs::read_to_string(&path) {
            Ok(found) => check_same(&root, experiment, &found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                atomic::write(&path, experiment.to_toml().as_bytes())?;
            }
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        }
        Ok(Self { units: Units::new(root.clone()), root, _lock: lock })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Directory of the trained students of one operator.
    pub fn students(&self, operator: &str) -> PathBuf {
        self.root.join("students").join(operator)
    }

    /// Directory of the search for one task's hybrid.
    pub fn search(&self, task: &str) -> PathBuf {
        self.root.join("search").join(task)
    }

    /// Directory of one exported model, which loads again.
    pub fn hybrid(&self, task: &str, model: Model) -> PathBuf {
        self.root.join("hybrid").join(format!("{task}-{}", model.name()))
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// The report for programs.
    pub fn report_json(&self) -> PathBuf {
        self.root.join("report.json")
    }

    /// The report for people.
    pub fn report_html(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// As [`Units::load`].
    ///
    /// # Errors
    /// As there.
    pub fn load_unit<T: DeserializeOwned>(&self, relative: &str, key: &str) -> Result<Option<T>, Error> {
        self.units.load(relative, key)
    }

    /// As [`Units::save`].
    ///
    /// # Errors
    /// As there.
    pub fn save_unit<T: Serialize>(&self, relative: &str, key: &str, value: &T) -> Result<(), Error> {
        self.units.save(relative, key, value)
    }
}

/// Units of work in a directory.
#[derive(Debug)]
pub struct Units {
    root: PathBuf,
}

impl Units {
    /// Those in `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where they are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The stored value of a unit, if there is one and it depends on the same as `key` says. What another key made, or what
    /// is damaged, counts as absent, so that it is made anew.
    ///
    /// # Errors
    /// [`Error::Io`] when the file is there but cannot be read.
    pub fn load<T: DeserializeOwned>(&self, relative: &str, key: &str) -> Result<Option<T>, Error> {
        let path = self.root.join(relative);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        Ok(serde_json::from_slice::<Unit<String, T>>(&bytes).ok().filter(|unit| unit.key == key).map(|unit| unit.value))
    }

    /// Stores the value of a unit with the key of what it depends on.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Unstorable`] when it is not representable as JSON.
    pub fn save<T: Serialize>(&self, relative: &str, key: &str, value: &T) -> Result<(), Error> {
        let path = self.root.join(relative);
        match serde_json::to_vec(&Unit { key, value }) {
            Ok(bytes) => atomic::write(&path, &bytes),
            Err(source) => Err(Error::Unstorable { path, source }),
        }
    }
}

/// Takes the lock at `path` for this process, until the file is dropped; `directory` is what it guards.
///
/// # Errors
/// [`Error::Locked`] while another process has it, [`Error::Io`] when it cannot be made.
pub fn lock(path: &Path, directory: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(|source| Error::Io { action: "create", path: path.to_owned(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::Io { action: "lock", path: path.to_owned(), source }),
    }
}

/// Two experiments that differ only in the machine's paths have one hash, and the hash is short: compare the whole.
fn check_same(root: &Path, experiment: &Experiment, found: &str) -> Result<(), Error> {
    let expected = experiment.to_toml();
    if expected == found {
        return Ok(());
    }
    let same = expected.lines().zip(found.lines()).take_while(|(expected, found)| expected == found).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("the end of the file").to_owned();
    Err(Error::OtherExperiment {
        directory: root.to_owned(),
        experiment: experiment.name().to_owned(),
        line: same + 1,
        expected: line(&expected),
        found: line(found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::quickstart;

    fn open() -> (tempfile::TempDir, RunDir) {
        let runs = tempfile::tempdir().unwrap();
        let run = RunDir::open(runs.path(), &quickstart(&[])).unwrap();
        (runs, run)
    }

    #[test]
    fn opens_again_and_holds_the_resolved_experiment() {
        let (runs, run) = open();
        let root = run.path().to_owned();
        drop(run);
        fs::write(root.join(".dtr-1-0.tmp"), "half").unwrap();
        let run = RunDir::open(runs.path(), &quickstart(&[])).unwrap();
        assert_eq!(run.path(), root);
        assert!(!root.join(".dtr-1-0.tmp").exists());
        let stored = Experiment::load(&root.join("experiment.toml"), &[]).unwrap();
        assert_eq!(stored, quickstart(&[]));
    }

    #[test]
    fn other_seed_is_another_directory() {
        let (runs, run) = open();
        let other = RunDir::open(runs.path(), &quickstart(&[("seed", "1")])).unwrap();
        assert_ne!(run.path(), other.path());
    }

    #[test]
    fn directory_of_another_experiment_is_refused() {
        let (runs, run) = open();
        let path = run.path().join("experiment.toml");
        drop(run);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("seed = 0", "seed = 5", 1)).unwrap();
        let error = RunDir::open(runs.path(), &quickstart(&[])).unwrap_err().to_string();
        for part in ["another experiment", "`seed = 5`", "`quickstart` has `seed = 0`"] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    #[test]
    fn two_processes_cannot_have_one_run() {
        let (runs, run) = open();
        let error = RunDir::open(runs.path(), &quickstart(&[])).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        drop(run);
        RunDir::open(runs.path(), &quickstart(&[])).unwrap();
    }

    #[test]
    fn unit_is_found_only_whole_and_with_its_key() {
        let (_runs, run) = open();
        let relative = "search/phonebook/parent.json";
        let load = |key| run.load_unit::<Vec<f64>>(relative, key).unwrap();
        assert_eq!(load("k"), None);
        run.save_unit(relative, "k", &[0.1, 1.0 / 3.0]).unwrap();
        assert_eq!(load("k"), Some(vec![0.1, 1.0 / 3.0]));
        assert_eq!(load("other"), None);
        let path = run.path().join(relative);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(load("k"), None);
    }

    #[test]
    fn paths_follow_the_contract() {
        let (_runs, run) = open();
        let relative = |path: PathBuf| path.strip_prefix(run.path()).unwrap().display().to_string();
        assert_eq!(relative(run.students("gated-delta")), "students/gated-delta");
        assert_eq!(relative(run.search("phonebook")), "search/phonebook");
        assert_eq!(relative(run.hybrid("phonebook", Model::MOpt)), "hybrid/phonebook-m_opt");
        assert_eq!(relative(run.hybrid("phonebook", Model::MBest)), "hybrid/phonebook-m_best");
        assert_eq!(relative(run.events()), "events.jsonl");
    }
}
