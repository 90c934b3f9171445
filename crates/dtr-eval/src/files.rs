//! Text of one's own to distil on, in files of any size: read where a random number points, never as a whole.
//!
//! Documents are drawn with replacement and each depends on its random numbers alone, so that a training run can go on at any step without
//! having read what came before.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use dtr_models::Tokenizer;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::task::{Documents, Example};

/// Bytes read at once for a token that is wanted: most tokens are shorter.
const BYTES_A_TOKEN: usize = 6;

/// A beginning of a line is looked for in so many bytes; text without lines is entered anywhere.
const LINE: u64 = 1 << 16;

/// What files hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Format {
    /// UTF-8.
    Text,
    /// A JSON object a line, with text in one field.
    JsonLines {
        /// Its name.
        field: String,
    },
    /// Token ids, unsigned, of two or four bytes, lowest byte first.
    Tokens {
        /// 2 or 4.
        bytes: usize,
    },
}

/// Files to draw documents from.
#[derive(Debug)]
pub struct Files {
    /// Each with its bytes.
    sized: Vec<(PathBuf, u64)>,
    format: Format,
    tokenizer: Tokenizer,
    vocabulary: usize,
    /// Between documents.
    separator: Vec<u32>,
}

impl Files {
    /// Files of one format. `separator` is put between documents, as the tokenizer reads it; files of tokens have their own.
    ///
    /// # Errors
    /// If a file cannot be opened, or all of them are empty.
    pub fn open(paths: &[PathBuf], format: Format, separator: &str, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self, EvalError> {
        let mut files = Vec::new();
        for path in paths {
            let found = File::open(path).and_then(|file| file.metadata());
            let found = found.map_err(|source| EvalError::Io { path: path.clone(), source })?;
            if let Format::Tokens { bytes } = format
                && found.len() % bytes as u64 != 0
            {
                return Err(wrong(path, format!("has {} bytes, which is no multiple of {bytes}: no token ids of that size", found.len())));
            }
            files.push((path.clone(), found.len()));
        }
        files.retain(|(_, length)| *length > 0);
        if files.is_empty() {
            return Err(EvalError::NoText { paths: paths.to_vec() });
        }
        Ok(Self { sized: files, format, separator: tokenizer.encode(separator)?, tokenizer: tokenizer.clone(), vocabulary })
    }

    /// Checks that there are `tokens` tokens, reading no more than it takes to know.
    ///
    /// # Errors
    /// If there are fewer, or files cannot be read.
    pub fn require(&self, tokens: usize) -> Result<(), EvalError> {
        let mut found = 0;
        for file in 0..self.sized.len() {
            let mut place = 0;
            while found < tokens && place < self.sized[file].1 {
                let mut part = Vec::new();
                place = self.read(file, place, tokens - found, &mut part)?;
                found += part.len();
            }
        }
        if found < tokens {
            return Err(EvalError::TooShort { paths: self.sized.iter().map(|(path, _)| path.clone()).collect(), found, needed: tokens });
        }
        Ok(())
    }

    /// Adds tokens from byte `place` on until there are `count` more or the file ends; where it stopped.
    fn read(&self, file: usize, place: u64, count: usize, tokens: &mut Vec<u32>) -> Result<u64, EvalError> {
        let (path, length) = &self.sized[file];
        let io = |source| EvalError::Io { path: path.clone(), source };
        let wanted = tokens.len() + count;
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut place = place;
        reader.seek(SeekFrom::Start(place)).map_err(io)?;
        if let Format::Tokens { bytes } = self.format {
            let mut buffer = vec![0; count.min(((length - place) / bytes as u64) as usize) * bytes];
            reader.read_exact(&mut buffer).map_err(io)?;
            for (index, id) in buffer.chunks_exact(bytes).enumerate() {
                let id = id.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
                if id as usize >= self.vocabulary {
                    let at = place / bytes as u64 + index as u64;
                    return Err(wrong(path, format!("has token {id} at index {at}, the vocabulary ends at {}", self.vocabulary - 1)));
                }
                tokens.push(id);
            }
            return Ok(place + buffer.len() as u64);
        }
        if place > 0 {
            // Somewhere in a line, perhaps within a character: the next line is the first whole one.
            let mut rest = Vec::new();
            let skipped = reader.by_ref().take(LINE).read_until(b'\n', &mut rest).map_err(io)?;
            if rest.ends_with(b"\n") || matches!(self.format, Format::JsonLines { .. }) {
                place += skipped as u64;
            } else {
                // No lines: at the next beginning of a character.
                place += rest.iter().take_while(|&&byte| byte & 0xC0 == 0x80).count() as u64;
                reader.seek(SeekFrom::Start(place)).map_err(io)?;
            }
        }
        while tokens.len() < wanted && place < *length {
            let mut bytes = Vec::new();
            if let Format::JsonLines { field } = &self.format {
                reader.read_until(b'\n', &mut bytes).map_err(io)?;
                let text = text_of(&bytes, field).map_err(|reason| self.wrong_line(file, place, &reason))?;
                if let Some(text) = text {
                    tokens.extend(self.tokenizer.encode(&text)?);
                    tokens.extend(&self.separator);
                }
            } else {
                let room = ((wanted - tokens.len()) * BYTES_A_TOKEN) as u64;
                reader.by_ref().take(room).read_to_end(&mut bytes).map_err(io)?;
                // To the end of the last character.
                while bytes.last().is_some_and(|byte| byte & 0x80 != 0) && std::str::from_utf8(&bytes).is_err() {
                    let mut next = [0];
                    if bytes.len() as u64 >= room + 4 || reader.read(&mut next).map_err(io)? == 0 {
                        break;
                    }
                    bytes.push(next[0]);
                }
                let text = std::str::from_utf8(&bytes)
                    .map_err(|error| wrong(path, format!("is no UTF-8 text at byte {}", place + error.valid_up_to() as u64)))?;
                tokens.extend(self.tokenizer.encode(text)?);
            }
            place += bytes.len() as u64;
        }
        tokens.truncate(wanted);
        Ok(place)
    }

    fn wrong_line(&self, file: usize, place: u64, reason: &str) -> EvalError {
        let path = &self.sized[file].0;
        let lines = File::open(path).map(|file| BufReader::new(file.take(place)).split(b'\n').count());
        wrong(path, format!("line {}: {reason}", lines.unwrap_or(0) + 1))
    }
}

impl Documents for Files {
    /// Tokens from a random place on, running on into the files that follow.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let total: u64 = self.sized.iter().map(|(_, length)| length).sum();
        let mut place = random.random_range(0..total);
        let mut file = 0;
        while place >= self.sized[file].1 {
            place -= self.sized[file].1;
            file += 1;
        }
        if let Format::Tokens { bytes } = self.format {
            place -= place % bytes as u64;
        }
        let mut tokens = Vec::new();
        for visits in 0.. {
            self.read(file, place, length - tokens.len(), &mut tokens)?;
            if tokens.len() >= length {
                break;
            }
            if tokens.is_empty() && visits > self.sized.len() {
                return Err(EvalError::NoText { paths: self.sized.iter().map(|(path, _)| path.clone()).collect() });
            }
            (file, place) = ((file + 1) % self.sized.len(), 0);
            // Of lines, each has brought its own.
            if self.format == Format::Text && !tokens.is_empty() {
                tokens.extend(&self.separator);
                tokens.truncate(length);
            }
        }
        Ok(Example { tokens, ..Example::default() })
    }
}

/// The text in a line of JSON; nothing in an empty line.
fn text_of(line: &[u8], field: &str) -> Result<Option<String>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|error| format!("is no JSON: {error}"))?;
    match value.get(field).and_then(serde_json::Value::as_str) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(format!("has no text in the field \"{field}\"")),
    }
}

fn wrong(path: &Path, reason: String) -> EvalError {
    EvalError::File { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3"), 2048).expect("a tokenizer")
    }

    fn files(contents: &[&[u8]], format: Format) -> Result<(tempfile::TempDir, Files), EvalError> {
        let directory = tempfile::tempdir().expect("a directory");
        let paths: Vec<PathBuf> = (0..contents.len()).map(|index| directory.path().join(format!("{index}"))).collect();
        for (path, content) in paths.iter().zip(contents) {
            std::fs::write(path, content).expect("written");
        }
        Files::open(&paths, format, "<|eos|>", &tokenizer(), 2048).map(|files| (directory, files))
    }

    fn draw(files: &Files, length: usize, seed: u64) -> Result<Vec<u32>, String> {
        let found = files.document(length, &mut ChaCha8Rng::seed_from_u64(seed));
        found.map(|found| found.tokens).map_err(|error| error.to_string())
    }

    fn json(field: &str) -> Format {
        Format::JsonLines { field: field.into() }
    }

    #[test]
    fn text_is_entered_at_lines_and_runs_on() {
        let lines = (0..200).map(|line| format!("let grüße_{line} = {line};")).collect::<Vec<_>>().join("\n");
        let (_directory, files) = files(&[lines.as_bytes(), b"fn main() {}\n"], Format::Text).expect("files");
        let tokenizer = tokenizer();
        for seed in 0..40 {
            let tokens = draw(&files, 50, seed).expect("a document");
            assert_eq!((tokens.len(), &tokens), (50, &draw(&files, 50, seed).expect("the same")));
            let text = tokenizer.decode(&tokens).expect("text");
            assert!(["let", "fn", "<|eos|>"].iter().any(|start| text.starts_with(start)), "{text}");
        }
    }

    #[test]
    fn text_without_lines_is_entered_between_characters() {
        let (_directory, files) = files(&["äöü€".repeat(400).as_bytes()], Format::Text).expect("files");
        for seed in 0..40 {
            draw(&files, 30, seed).expect("whole characters");
        }
    }

    #[test]
    fn json_lines_and_tokens_give_what_they_hold() {
        let (_directory, lines) = files(&[b"{\"text\": \"let x = 1;\"}\n\n{\"text\": \"let x = 1;\"}\n"], json("text")).expect("files");
        let tokenizer = tokenizer();
        let mut once = tokenizer.encode("let x = 1;").expect("tokens");
        once.extend(tokenizer.encode("<|eos|>").expect("a token"));
        let expected: Vec<u32> = once.iter().cycle().take(40).copied().collect();
        for seed in 0..20 {
            let found = draw(&lines, 40, seed).expect("a document");
            assert_eq!(found, expected);
        }
        let numbers: Vec<u8> = (0..1000_u16).flat_map(u16::to_le_bytes).collect();
        let (_directory, tokens) = files(&[&numbers], Format::Tokens { bytes: 2 }).expect("files");
        let found = draw(&tokens, 300, 3).expect("a document");
        assert!(found.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 1000), "in order, around the end");
        tokens.require(1000).expect("as many");
        let error = tokens.require(1001).expect_err("too few").to_string();
        assert!(error.contains("1000") && error.contains("1001"), "{error}");
    }

    #[test]
    fn bad_files_are_named_with_the_place() {
        let check = |contents: &[u8], format: Format, parts: &[&str]| {
            let error = match files(&[contents], format) {
                Ok((_directory, files)) => (0..50).find_map(|seed| draw(&files, 20, seed).err()).expect("an error"),
                Err(error) => error.to_string(),
            };
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check(b"{\"text\": \"a\"}\nnonsense\n", json("text"), &["line 2", "no JSON"]);
        check(b"{\"text\": \"a\"}\n{\"other\": 1}\n", json("text"), &["line 2", "no text", "\"text\""]);
        check(b"abc\n\xff\xfe\n", Format::Text, &["no UTF-8", "byte 4"]);
        check(b"\x01\x00\x00\xff", Format::Tokens { bytes: 2 }, &["token 65280", "index 1", "2047"]);
        check(b"\x01\x00\x00", Format::Tokens { bytes: 2 }, &["3 bytes", "multiple of 2"]);
        check(b"", Format::Text, &["empty"]);
    }
}
