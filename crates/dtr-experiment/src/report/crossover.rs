//! From which context length a hybrid is faster than its parent.

use serde::{Deserialize, Serialize};

use crate::events::{Efficiency, Model};

/// Where one of two models becomes the faster one and stays it, as far as was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crossing {
    /// It is faster at every length measured.
    Everywhere,
    /// It is faster from about so many tokens on: between two lengths measured, where the line through the logarithms of speed ratio
    /// and length is zero.
    From(f64),
    /// It is not faster at the longest context measured.
    Nowhere,
}

/// How a hybrid compares with its parent over context length, by medians.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Crossover {
    /// Task whose hybrid this is.
    pub task: String,
    /// Which hybrid.
    pub model: Model,
    /// Its layout.
    pub layout: String,
    /// When reading the context.
    pub prefill: Crossing,
    /// When generating after it; an encoder does not.
    pub decode: Option<Crossing>,
    /// Shortest and longest context measured of both.
    pub contexts: [usize; 2],
}

impl Crossover {
    /// The model's name; that of one operator everywhere is the operator's.
    pub fn name(&self) -> String {
        match (self.model, self.layout.chars().next()) {
            (Model::AllLinear, Some(letter)) => format!("all {letter}"),
            (model, _) => model.name().into(),
        }
    }
}

/// Without `m_best` where it is `m_opt`.
pub fn distinct(all: &[Crossover]) -> impl Iterator<Item = &Crossover> {
    all.iter().filter(|found| {
        let same = |other: &Crossover| other.model == Model::MOpt && (&other.task, &other.layout) == (&found.task, &found.layout);
        found.model != Model::MBest || found.layout.is_empty() || !all.iter().any(same)
    })
}

/// One of each hybrid that was measured beside its parent.
pub fn all(rows: &[Efficiency]) -> Vec<Crossover> {
    let mut found: Vec<Crossover> = Vec::new();
    for row in rows.iter().filter(|row| row.model != Model::Parent) {
        if found.iter().any(|other| (&other.task, other.model, &other.layout) == (&row.task, row.model, &row.layout)) {
            continue;
        }
        let pairs = pairs(rows, row);
        let ratios = |of: fn(&Efficiency) -> f64| pairs.iter().map(|(parent, hybrid)| (hybrid.context, of(hybrid) / of(parent))).collect();
        let prefill: Vec<(usize, f64)> = ratios(|row| row.prefill_tokens_per_second);
        let decode: Vec<(usize, f64)> = pairs
            .iter()
            .filter_map(|(parent, hybrid)| Some((hybrid.context, hybrid.decode_tokens_per_second? / parent.decode_tokens_per_second?)))
            .collect();
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { continue };
        found.push(Crossover {
            task: row.task.clone(),
            model: row.model,
            layout: row.layout.clone(),
            prefill: crossing(&prefill),
            decode: (!decode.is_empty()).then(|| crossing(&decode)),
            contexts: [first.1.context, last.1.context],
        });
    }
    found
}

/// Parent and the hybrid of `like` where both were measured, by rising context.
pub(crate) fn pairs<'a>(rows: &'a [Efficiency], like: &Efficiency) -> Vec<(&'a Efficiency, &'a Efficiency)> {
    let parent = |context| rows.iter().find(|row| row.model == Model::Parent && row.task == like.task && row.context == context);
    let same = |row: &&Efficiency| (&row.task, row.model, &row.layout) == (&like.task, like.model, &like.layout);
    let mut pairs: Vec<_> = rows.iter().filter(same).filter_map(|row| Some((parent(row.context)?, row))).collect();
    pairs.sort_by_key(|(_, hybrid)| hybrid.context);
    pairs
}

/// From ratios of speed by rising context.
fn crossing(ratios: &[(usize, f64)]) -> Crossing {
    let Some(slower) = ratios.iter().rposition(|&(_, ratio)| ratio.is_nan() || ratio <= 1.0) else { return Crossing::Everywhere };
    let (Some(&(below, low)), Some(&(above, high))) = (ratios.get(slower), ratios.get(slower + 1)) else { return Crossing::Nowhere };
    let [x0, x1] = [below, above].map(|context| (context as f64).ln());
    let [y0, y1] = [low, high].map(f64::ln);
    Crossing::From(if y0.is_finite() { (x0 - y0 * (x1 - x0) / (y1 - y0)).exp() } else { above as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossings_are_where_the_line_says() {
        assert_eq!(crossing(&[(512, 1.1), (1024, 2.0)]), Crossing::Everywhere);
        assert_eq!(crossing(&[(512, 0.8), (1024, 0.9)]), Crossing::Nowhere);
        // Faster at first, slower at the end: nothing is promised.
        assert_eq!(crossing(&[(512, 1.5), (1024, 0.9)]), Crossing::Nowhere);
        let Crossing::From(at) = crossing(&[(256, 1.3), (512, 0.5), (2048, 2.0)]) else { panic!("there is one") };
        assert!((at - 1024.0).abs() < 1e-6, "{at}");
    }
}
