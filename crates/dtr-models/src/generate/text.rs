//! Tokens to text as they come: never half a character, never a part of a stop string.

use crate::error::CheckpointError;
use crate::tokenizer::{TextDecoder, Tokenizer};

/// The text of one sequence while it is generated.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    decoder: TextDecoder<'a>,
    skip_special: bool,
    stops: StopStrings,
    tokens: Vec<u32>,
    /// Bytes of text that the decoder has let go.
    decoded: usize,
}

impl<'a> TextStream<'a> {
    /// Text that ends in front of the first of `stops`. Special tokens are left out if `skip_special`.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>, skip_special: bool) -> Self {
        let (decoder, stops) = (tokenizer.stream(skip_special), StopStrings::new(stops));
        Self { tokenizer, decoder, skip_special, stops, tokens: Vec::new(), decoded: 0 }
    }

    /// Text that is certain after one more token: whole characters that cannot be the beginning of a stop string.
    ///
    /// # Errors
    /// If the token is unknown.
    pub fn push(&mut self, token: u32) -> Result<String, CheckpointError> {
        self.tokens.push(token);
        let text = self.decoder.push(token)?;
        self.decoded += text.len();
        Ok(self.stops.push(&text))
    }

    /// Whether a stop string was found: there will be no more text.
    pub fn stopped(&self) -> bool {
        self.stops.found
    }

    /// What was held back, at the end of the sequence. A character that was left half is shown as the replacement character.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn finish(mut self) -> Result<String, CheckpointError> {
        if self.stopped() {
            return Ok(String::new());
        }
        let all = self.tokenizer.decode_with(&self.tokens, self.skip_special)?;
        let last = self.stops.push(all.get(self.decoded..).unwrap_or(""));
        Ok(last + &std::mem::take(&mut self.stops.held))
    }
}

/// Finds the first of some strings in text that comes in pieces.
#[derive(Debug)]
struct StopStrings {
    stops: Vec<String>,
    /// Text that may turn out to be the beginning of a stop string.
    held: String,
    found: bool,
}

impl StopStrings {
    /// An empty string stops nothing.
    fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new(), found: false }
    }

    /// The text that is certain: everything in front of a stop string, or of what may become one.
    fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(place) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.found = true;
            self.held.truncate(place);
            return std::mem::take(&mut self.held);
        }
        let begins = |place: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*place..]));
        let place = self.held.char_indices().map(|(place, _)| place).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(place);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is shown of `pieces`, and whether a stop string was found.
    fn shown(pieces: &[&str], stops: &[&str]) -> (Vec<String>, bool) {
        let mut strings = StopStrings::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut shown: Vec<String> = pieces.iter().map(|piece| strings.push(piece)).collect();
        if !strings.found {
            shown.push(strings.held);
        }
        (shown, strings.found)
    }

    #[test]
    fn a_beginning_is_held_back_until_it_is_none() {
        assert_eq!(shown(&["a\n", "\n", "b"], &["\n\n"]), (vec!["a".into(), String::new(), String::new()], true));
        assert_eq!(shown(&["a\n", "b"], &["\n\n"]), (vec!["a".into(), "\nb".into(), String::new()], false));
        assert_eq!(shown(&["xEN", "EN", "D."], &["END"]), (vec!["x".into(), "EN".into(), String::new()], true));
        assert_eq!(shown(&["ü", "é"], &["é!"]), (vec!["ü".into(), String::new(), "é".into()], false));
        assert_eq!(shown(&["ab"], &[""]), (vec!["ab".into(), String::new()], false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(pieces in prop::collection::vec("[abé]{0,3}", 0..12), stops in prop::collection::vec("[abé]{1,4}", 0..3)) {
            let text = pieces.concat();
            let wanted = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (shown, found) = shown(&pieces, &stops);
            prop_assert_eq!(found, wanted.is_some());
            // Several stop strings may overlap: the first that is whole counts, which is no later in pieces than in one.
            if stops.len() <= 1 {
                prop_assert_eq!(shown.concat(), &text[..wanted.unwrap_or(text.len())]);
            }
        }
    }
}
