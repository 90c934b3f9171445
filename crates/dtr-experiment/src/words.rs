//! Numbers as people read them, the same in terminal and page.

use crate::report::{Crossing, Guessing, Task};

/// A share in percent, or a dash for what is no number.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { "–".into() }
}

/// Ends of an interval of shares, in percent.
pub fn interval(interval: Option<[f64; 2]>) -> Option<String> {
    interval.map(|[low, high]| format!("{:.1}–{:.1}", 100.0 * low, 100.0 * high))
}

/// How many times one number is another.
pub fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}×") } else { format!("{ratio:.2}×") }
}

/// Bytes in the unit that fits.
pub fn bytes(count: f64) -> String {
    let (value, unit) = match count {
        small if small < 1024.0 * 1024.0 => (count / 1024.0, "KiB"),
        medium if medium < 1024.0 * 1024.0 * 1024.0 => (count / (1024.0 * 1024.0), "MiB"),
        _ => (count / (1024.0 * 1024.0 * 1024.0), "GiB"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A duration in the unit that fits.
pub fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 1.0 => format!("{:.1} ms", 1000.0 * seconds),
        few if few < 100.0 => format!("{seconds:.1} s"),
        minutes if minutes < 6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A count with its thousands apart.
pub fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let grouped = |(place, digit): (usize, char)| {
        let gap = place > 0 && (digits.len() - place).is_multiple_of(3) && digits.len() > 4;
        gap.then_some('\u{202f}').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(grouped).collect()
}

/// Words as one line that a shell takes apart into the same words.
pub fn shell(words: &[String]) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=+:,./@%".contains(letter);
    let quoted = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// The floor in words.
pub fn floor(task: &Task) -> String {
    let of = if task.search.floor_is_score { "" } else { " of the parent" };
    format!("{:.0} %{of}", 100.0 * task.search.floor)
}

/// What it means that a parent guesses.
pub fn guessing(found: &Guessing) -> String {
    let Guessing { score, chance, examples, .. } = *found;
    let range = interval(Some(found.interval)).unwrap_or_default();
    format!(
        "the parent scores {} ({range}) on the {examples} examples that choose, and guessing scores {}: no better, as far as they tell, so \
         that what a hybrid keeps of it says nothing. Check the task's prompt and answers, give it more examples, or take a parent that \
         knows the task",
        percent(score),
        percent(chance)
    )
}

/// From where something is faster, as the end of a sentence.
pub fn crossing(crossing: Crossing, [shortest, longest]: [usize; 2]) -> String {
    match crossing {
        Crossing::Everywhere => format!("at every length measured ({shortest} to {longest})"),
        Crossing::From(tokens) => format!("from about {} tokens of context on", rounded(tokens)),
        Crossing::Nowhere => format!("at no length measured up to the longest ({longest})"),
    }
}

/// Two digits: more were not measured.
fn rounded(tokens: f64) -> String {
    let unit = 10_f64.powf((tokens.log10().floor() - 1.0).max(0.0));
    format!("{:.0}", (tokens / unit).round() * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_shell_takes_a_command_apart_again() {
        let words = ["plain=1e-3", "", "a b", "it's", "search.tasks=[\"x\"]", "$HOME `id` \\ * ~ #", "line\nbreak"].map(str::to_owned);
        let script = format!("printf '%s\\0' {}", shell(&words));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
        let found = String::from_utf8(output.stdout).expect("text");
        assert_eq!(found.split_terminator('\0').collect::<Vec<_>>(), words);
    }

    #[test]
    fn numbers_have_few_digits_and_a_unit() {
        let shown = [
            bytes(8.1 * 1_048_576.0),
            bytes(2e6),
            bytes(900.0),
            bytes(3.0 * 1_073_741_824.0),
            duration(0.0123),
            duration(12.0),
            duration(7e4),
        ];
        assert_eq!(shown, ["8.1 MiB", "1.9 MiB", "0.9 KiB", "3.0 GiB", "12.3 ms", "12.0 s", "19.4 h"]);
        assert_eq!([percent(f64::NAN), percent(0.5), times(3.456), times(12.3)], ["–", "50.0 %", "3.46×", "12×"]);
        assert_eq!([count(1234.0), count(12345.0), count(1_234_567.0)], ["1234", "12\u{202f}345", "1\u{202f}234\u{202f}567"]);
        assert_eq!(crossing(Crossing::From(768.3), [512, 8192]), "from about 770 tokens of context on");
    }
}
