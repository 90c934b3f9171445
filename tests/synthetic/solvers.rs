//! Answers found from what a model reads, and from nothing else.

use std::collections::{BTreeMap, BTreeSet};

/// A pair of a key and its value.
type Pair = (Vec<u32>, Vec<u32>);

/// Value of the key at `at`, from the first `pairs` pairs.
pub fn mqar(tokens: &[u32], pairs: usize, at: usize) -> Option<u32> {
    tokens[..2 * pairs].chunks(2).find(|pair| pair[0] == tokens[at]).map(|pair| pair[1])
}

/// Places and tokens of all values whose keys have come before, where keys and values are told apart by their tokens.
pub fn recall(tokens: &[u32], is_key: impl Fn(u32) -> bool, is_value: impl Fn(u32) -> bool) -> Vec<(usize, u32)> {
    let mut answers = Vec::new();
    let mut known: Vec<Pair> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let key: Vec<u32> = tokens[at..].iter().copied().take_while(|&token| is_key(token)).collect();
        let start = at + key.len();
        let value: Vec<u32> = tokens[start..].iter().copied().take_while(|&token| is_value(token)).collect();
        at = (start + value.len()).max(at + 1);
        if key.is_empty() {
            continue;
        }
        match known.iter().find(|pair| pair.0 == key) {
            Some((_, value)) => answers.extend((start..).zip(value.iter().copied())),
            None => known.push((key, value)),
        }
    }
    answers
}

/// What followed the last token but one when it came first.
pub fn induction(tokens: &[u32]) -> u32 {
    let special = tokens[tokens.len() - 2];
    let first = tokens.iter().position(|&token| token == special).expect("it is there");
    tokens[first + 1]
}

/// All that is not blank in front of the mark; the blank is what comes most often.
pub fn selective_copying(context: &[u32]) -> Vec<u32> {
    let mut counts = BTreeMap::new();
    for token in context {
        *counts.entry(*token).or_insert(0) += 1;
    }
    let blank = counts.into_iter().max_by_key(|(_, count)| *count).map(|(token, _)| token).expect("a context");
    context.iter().copied().filter(|&token| token != blank).collect()
}

/// Value of the key that the end of the text asks for; it must stand there once.
pub fn needle(text: &str) -> String {
    let question = text.rsplit("for ").next().expect("a question");
    let key = question.strip_suffix(" mentioned in the provided text is").expect("the end of a question");
    let place = format!(" for {key} is: ");
    let found: Vec<&str> = text.split(&place).skip(1).map(|rest| rest.split(['.', '\n']).next().expect("a value")).collect();
    assert_eq!(found.len(), 1, "{key} in {text}");
    found[0].to_owned()
}

/// Variables that hold the value of the last question, those first that others depend on.
pub fn variable_tracking(text: &str) -> Vec<String> {
    let value = text.rsplit("assigned the value ").find_map(|rest| rest.split_once(" in the text above")).expect("a question").0;
    let words: Vec<&str> = text.split_whitespace().collect();
    let assignments: Vec<(&str, &str)> = words
        .windows(5)
        .filter(|words| words[0] == "VAR" && words[2] == "=")
        .map(|words| (words[1], if words[3] == "VAR" { words[4] } else { words[3] }))
        .collect();
    let mut holders = vec![value];
    let mut seen = BTreeSet::from([value]);
    loop {
        let next: Vec<&str> =
            assignments.iter().filter(|(to, from)| seen.contains(from) && !seen.contains(to)).map(|(to, _)| *to).collect();
        if next.is_empty() {
            return holders[1..].iter().map(|name| (*name).to_owned()).collect();
        }
        seen.extend(&next);
        holders.extend(next);
    }
}

/// Value of the last expression of a text that ends with ` =`.
pub fn list_ops(text: &str) -> u32 {
    let expression = text.rsplit('\n').next().and_then(|line| line.strip_suffix(" =")).expect("an expression");
    let mut stack: Vec<(&str, Vec<u32>)> = vec![("", Vec::new())];
    for word in expression.split(' ') {
        if let Some(operation) = word.strip_prefix('[') {
            stack.push((operation, Vec::new()));
            continue;
        }
        let digit = if word == "]" {
            let (operation, mut digits) = stack.pop().expect("an open bracket");
            digits.sort_unstable();
            match operation {
                "MIN" => digits[0],
                "MAX" => digits[digits.len() - 1],
                "SM" => digits.iter().fold(0, |sum, digit| (sum + digit) % 10),
                "MED" => {
                    // Half the sum of the middle elements, of which an odd number has the same one twice.
                    while digits.len() > 2 {
                        digits.remove(digits.len() - 1);
                        digits.remove(0);
                    }
                    digits.iter().sum::<u32>() / digits.len() as u32
                }
                other => panic!("operation {other}"),
            }
        } else {
            word.parse().expect("a digit")
        };
        stack.last_mut().expect("the outermost list").1.push(digit);
    }
    stack[0].1[0]
}
