//! The event log of a run, `events.jsonl`: append-only, one JSON object a line, readable after a kill at any moment.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{error::Error, events::Event};

/// Is told of each event once it is in the log: its line, and all events, itself the last one.
pub type Listener = Box<dyn FnMut(&str, &[Event])>;

/// The events of a run, on disk and in memory.
pub struct EventLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines in the file: where the next line begins.
    length: u64,
    events: Vec<Event>,
    listeners: Vec<Listener>,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("path", &self.path).field("events", &self.events.len()).finish_non_exhaustive()
    }
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Unix time in seconds.
    at: f64,
    #[serde(flatten)]
    event: Event,
}

impl EventLog {
    /// Opens the log at `path`, or begins one, and gives the events in it. A last line cut off by a kill is removed.
    ///
    /// # Errors
    /// [`Error::DamagedLog`] when any other line is not an event, [`Error::Io`] when the file cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Vec<Event>), Error> {
        let path = path.into();
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(|source| Error::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let (events, length) = parse(&path)?;
        cut(&mut file, length).map_err(|source| Error::Io { action: "cut off the incomplete last line of", path: path.clone(), source })?;
        Ok((Self { path, file, length, events: events.clone(), listeners: Vec::new() }, events))
    }

    /// Appends `event` and carries it through to the disk, unless the log has it already: a resumed run announces again
    /// what it finds done. [`Event::Started`] is always appended. [`Event::Distilling`] does not wait for the disk, because
    /// it is frequent and no unit's completion depends on it.
    ///
    /// # Errors
    /// [`Error::Unstorable`] when the event could not be read back, [`Error::Io`] when it cannot be written; the log on
    /// disk is then as before.
    pub fn emit(&mut self, event: Event) -> Result<(), Error> {
        if !matches!(event, Event::Started { .. }) && self.events.contains(&event) {
            return Ok(());
        }
        let unstorable = |source| Error::Unstorable { path: self.path.clone(), source };
        let record = Record { at: now(), event };
        let mut line = serde_json::to_string(&record).map_err(unstorable)?;
        // JSON has no infinity: it would be written as null, and the next start would find a damaged log.
        serde_json::from_str::<Record>(&line).map_err(unstorable)?;
        line.push('\n');
        let durable = !matches!(record.event, Event::Distilling { .. });
        if let Err(source) = self.append(line.as_bytes(), durable) {
            // The first error is the one to report; half a line that stays is removed on the next start.
            let _ = cut(&mut self.file, self.length);
            return Err(Error::Io { action: "append to", path: self.path.clone(), source });
        }
        self.length += line.len() as u64;
        self.events.push(record.event);
        for listener in &mut self.listeners {
            listener(line.trim_end(), &self.events);
        }
        Ok(())
    }

    /// Tells `listener` of every event from now on.
    pub fn listen(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// All events, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn append(&mut self, line: &[u8], durable: bool) -> io::Result<()> {
        self.file.write_all(line)?;
        if durable { self.file.sync_data() } else { Ok(()) }
    }
}

/// The events in the log at `path`, which is not changed: the run may be going on.
///
/// # Errors
/// [`Error::DamagedLog`] when a line, other than a last one cut off by a kill, is not an event; [`Error::Io`] when the file
/// cannot be read.
pub fn read(path: &Path) -> Result<Vec<Event>, Error> {
    Ok(parse(path)?.0)
}

/// The events in a log, and the number of bytes that hold them.
fn parse(path: &Path) -> Result<(Vec<Event>, u64), Error> {
    let bytes = fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let mut events = Vec::new();
    let mut length = 0;
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let last = length + line.len() == bytes.len();
        if last && !line.ends_with(b"\n") {
            break;
        }
        match serde_json::from_slice::<Record>(line) {
            Ok(record) => events.push(record.event),
            // A line that is JSON of another shape was not cut off by a kill: another version wrote it.
            Err(error) if last && !error.is_data() => break,
            Err(source) => {
                return Err(Error::DamagedLog { path: path.to_owned(), line: index + 1, source });
            }
        }
        length += line.len();
    }
    Ok((events, length as u64))
}

/// Leaves `length` bytes and goes to their end.
fn cut(file: &mut File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length)).map(drop)
}

fn now() -> f64 {
    // A clock before 1970 has no better answer than 0; nothing is computed from this time.
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> Event {
        Event::Started { experiment: "quickstart".into(), device: "flex".into(), seed: 0 }
    }

    fn student(layer: usize) -> Event {
        Event::Student { layer, operator: "gated-delta".into(), normalised_mse: 0.1 }
    }

    fn distilling(loss: f32) -> Event {
        Event::Distilling { operator: "hedgehog".into(), tokens: 10, normalised_mse: vec![0.3, loss] }
    }

    /// Writes three events, lets `damage` change the file, and gives what opening it then gives.
    fn reopened(damage: impl Fn(String) -> String) -> Result<Vec<Event>, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let (mut log, earlier) = EventLog::open(&path)?;
        assert_eq!(earlier, []);
        for event in [started(), student(0), distilling(0.2)] {
            log.emit(event)?;
        }
        drop(log);
        fs::write(&path, damage(fs::read_to_string(&path).unwrap())).unwrap();
        let (mut log, events) = EventLog::open(&path)?;
        assert_eq!(log.events(), events);
        log.emit(student(7))?;
        assert_eq!(read(&path)?.len(), events.len() + 1);
        Ok(events)
    }

    #[test]
    fn gives_back_what_was_written() {
        assert_eq!(reopened(|text| text).unwrap(), [started(), student(0), distilling(0.2)]);
    }

    #[test]
    fn last_line_cut_off_by_a_kill_is_dropped() {
        let expected = [started(), student(0)];
        let last = |text: &str| text[..text.len() - 1].rfind('\n').unwrap() + 1;
        assert_eq!(reopened(|text| text[..text.len() - 1].into()).unwrap(), expected);
        assert_eq!(reopened(|text| text[..=last(&text)].into()).unwrap(), expected);
        assert_eq!(reopened(|text| text[..last(&text)].to_owned() + "\0\0\0\n").unwrap(), expected);
        assert_eq!(reopened(|_| String::new()).unwrap(), []);
    }

    #[test]
    fn damage_elsewhere_names_the_line() {
        for damage in [
            |text: String| text.replacen("\"student\"", "\"student", 1),
            |text: String| text.replacen("normalised_mse", "mse", 1),
            |text: String| text.replace("\"distilling\"", "\"of-a-later-version\""),
        ] {
            let error = reopened(damage).unwrap_err();
            let Error::DamagedLog { line, .. } = error else { panic!("{error}") };
            assert!((2..=3).contains(&line), "{line}");
        }
    }

    #[test]
    fn what_is_announced_again_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        for _ in 0..2 {
            let (mut log, _) = EventLog::open(&path).unwrap();
            for event in [started(), student(0), student(1)] {
                log.emit(event).unwrap();
            }
        }
        assert_eq!(read(&path).unwrap(), [started(), student(0), student(1), started()]);
    }

    #[test]
    fn listeners_hear_what_is_new_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let (mut log, _) = EventLog::open(&path).unwrap();
        log.emit(student(0)).unwrap();
        let heard = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let ear = heard.clone();
        log.listen(Box::new(move |line, events| ear.borrow_mut().push((line.to_owned(), events.len()))));
        for event in [student(1), student(1), student(2)] {
            log.emit(event).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(*heard.borrow(), [(lines[1].to_owned(), 2), (lines[2].to_owned(), 3)]);
    }

    #[test]
    fn event_that_could_not_be_read_back_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let (mut log, _) = EventLog::open(&path).unwrap();
        let error = log.emit(distilling(f32::NAN)).unwrap_err();
        assert!(matches!(error, Error::Unstorable { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn every_line_has_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        EventLog::open(&path).unwrap().0.emit(started()).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(line["at"].as_f64().unwrap() > 1.7e9, "{line}");
        assert_eq!(line["event"], "started");
    }
}
