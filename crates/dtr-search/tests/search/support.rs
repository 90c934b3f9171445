//! Objectives made of numbers, for tests of searches.

use std::convert::Infallible;
use std::ops::Range;

use dtr_search::{
    Acceptance, Evaluation, Example, Floor, Goal, Layout, Objective, Operator, Racing, SearchError, Settings, Signal, Strategy, Trace,
};

pub fn operator(letter: char) -> Operator {
    Operator::new(letter).expect("a letter")
}

/// What the paper's algorithm is told.
pub fn settings(layers: usize, menu: &str, floor: f64) -> Settings {
    let menu: Vec<Operator> = menu.chars().map(operator).collect();
    Settings {
        strategy: Strategy::Greedy,
        layers,
        prior: (0..layers).map(|layer| (menu.first().copied().unwrap_or(operator('G')), (layer * 7 % 5) as f64)).collect(),
        menu,
        floor: Floor::Share(floor),
        signal: Signal::Score,
        racing: Racing::Off,
        acceptance: Acceptance::Point,
        swaps: 1,
        goal: Goal::Floor,
    }
}

/// One function says how each example goes under a layout.
pub struct Table<F: FnMut(&Layout, usize) -> Example> {
    pub examples: usize,
    pub example: F,
}

impl<F: FnMut(&Layout, usize) -> Example> Objective for Table<F> {
    type Error = Infallible;

    fn examples(&self) -> usize {
        self.examples
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Infallible> {
        let work = examples.len() as f64 / self.examples as f64;
        let examples = examples.map(|index| (self.example)(layout, index)).collect();
        Ok(Evaluation { examples, full_evaluation_equivalents: work, seconds: 0.0 })
    }

    /// A full layer costs three, a replaced one costs one.
    fn cost(&mut self, layout: &Layout) -> Result<f64, Infallible> {
        Ok((3 * layout.layers() - 2 * layout.replaced()) as f64)
    }
}

/// A table in which every example of a layout goes the same.
pub fn constant(score: impl Fn(&Layout) -> f64) -> Table<impl FnMut(&Layout, usize) -> Example> {
    Table {
        examples: 1,
        example: move |layout: &Layout, _| Example { score: score(layout) as f32, loss: -score(layout) as f32, divergence: 0.0 },
    }
}

pub fn search<F: FnMut(&Layout, usize) -> Example>(table: &mut Table<F>, settings: &Settings) -> Result<Trace, SearchError<Infallible>> {
    dtr_search::search(table, settings, &mut |_| {})
}

/// A number in `[0, 1)` that depends on the parts in no simple way, but always in the same.
pub fn scrambled(parts: &[u64]) -> f64 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let hash =
        parts.iter().fold(0x9E37_79B9_7F4A_7C15, |hash: u64, &part| mix(hash.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15)));
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// A layout as a number.
pub fn number(layout: &Layout) -> u64 {
    layout.operators().iter().fold(0, |number, operator| number * 27 + u64::from(operator.letter() as u8 - b'A'))
}

/// The same function, which does not work twice for one layout in a row.
pub fn remembered(of: impl Fn(&Layout) -> f64) -> impl FnMut(&Layout) -> f64 {
    let mut last: Option<(Layout, f64)> = None;
    move |layout| match &last {
        Some((known, value)) if known == layout => *value,
        _ => last.insert((layout.clone(), of(layout))).1,
    }
}

/// A made-up task with known truth: every replaced layer takes something from the chance to answer right, pairs of layers
/// together a little more or less; each example has a difficulty of its own, so that layouts go right and wrong together.
pub struct World {
    pub layers: usize,
    pub seed: u64,
    /// Mean loss of score by a layer.
    pub cost: f64,
}

impl World {
    /// Probability that the layout answers right.
    pub fn truth(&self, layout: &Layout) -> f64 {
        let gone: Vec<usize> = (0..self.layers).filter(|&layer| layout.operators()[layer] != Operator::PARENT).collect();
        let mut lost = 0.0;
        for (place, &a) in gone.iter().enumerate() {
            let own = scrambled(&[self.seed, a as u64]);
            lost += 2.0 * self.cost * own * own;
            lost += gone[..place].iter().map(|&b| self.cost * (scrambled(&[self.seed, a as u64, b as u64]) - 0.4) / 4.0).sum::<f64>();
        }
        (0.8 - lost).clamp(0.0, 1.0)
    }

    /// How example `index` of split `split` goes: nine parts in ten of the luck are the example's own.
    pub fn example(&self, layout: &Layout, truth: f64, split: u64, index: usize) -> Example {
        let shared = scrambled(&[self.seed, split, index as u64]);
        let own = scrambled(&[self.seed, split, index as u64, number(layout)]);
        let luck = if scrambled(&[self.seed, split, index as u64, number(layout), 1]) < 0.9 { shared } else { own };
        let right = luck < truth;
        Example { score: f32::from(u8::from(right)), loss: (shared - truth).exp() as f32, divergence: (0.8 - truth).max(0.0) as f32 }
    }
}
