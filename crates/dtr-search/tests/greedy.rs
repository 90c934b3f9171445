//! Algorithm 1 on tables of numbers, and the properties every search has.

use std::collections::HashMap;
use std::convert::Infallible;

use dtr_search::{Evaluation, Floor, Layout, Objective, Operator, SearchError, Trace, baselines, greedy};
use proptest::prelude::*;

/// Scores by layout; what the table lacks scores 0.
struct Table<F: Fn(&Layout) -> f64>(F);

impl<F: Fn(&Layout) -> f64> Objective for Table<F> {
    type Error = Infallible;

    fn evaluate(&mut self, layout: &Layout) -> Result<Evaluation, Infallible> {
        Ok(Evaluation { score: (self.0)(layout), loss: 0.0, examples: vec![], full_evaluation_equivalents: 1.0, seconds: 0.0 })
    }
}

fn operator(letter: char) -> Operator {
    Operator::new(letter).expect("a letter")
}

fn search(scores: impl Fn(&Layout) -> f64, layers: usize, menu: &str, floor: f64) -> Result<Trace, SearchError<Infallible>> {
    let menu: Vec<_> = menu.chars().map(operator).collect();
    greedy(&mut Table(scores), layers, &menu, Floor::share(floor)?, &mut |_| {})
}

/// Runs the search on a table and compares `M_best`, `M_opt` and the order of decisions.
fn check(table: &[(&str, f64)], menu: &str, floor: f64, m_best: &str, m_opt: &str, decided: &[&str]) {
    let table: HashMap<&str, f64> = table.iter().copied().collect();
    let layers = table.keys().next().map_or(0, |layout| layout.len());
    let trace = search(|layout| table.get(layout.to_string().as_str()).copied().unwrap_or(0.0), layers, menu, floor).expect("a search");
    assert_eq!(trace.m_best().to_string(), m_best, "m_best");
    assert_eq!(trace.m_opt().to_string(), m_opt, "m_opt");
    assert_eq!(trace.decisions.iter().map(|decision| decision.layout.to_string()).collect::<Vec<_>>(), decided, "decisions");
}

#[test]
fn a_swap_below_the_best_but_above_the_floor_is_kept() {
    let table = [("SSS", 100.0), ("GSS", 40.0), ("SGS", 101.0), ("SSG", 99.0), ("GGS", 30.0), ("SGG", 96.0), ("GGG", 94.0)];
    check(&table, "G", 0.95, "SGS", "SGG", &["SGS", "SGG", "GGG"]);
}

#[test]
fn the_first_index_wins_a_tie_and_a_tie_with_the_best_goes_to_the_more_linear() {
    let table = [("SS", 10.0), ("GS", 10.0), ("SG", 10.0), ("GG", 10.0)];
    check(&table, "G", 1.0, "GG", "GG", &["GS", "GG"]);
}

#[test]
fn nothing_is_replaced_where_every_swap_breaks_the_floor() {
    check(&[("SS", 10.0), ("GS", 9.0), ("SG", 8.0)], "G", 0.95, "SS", "SS", &["GS"]);
}

#[test]
fn operators_compete_and_the_menu_orders_ties() {
    let table = [("SS", 10.0), ("WS", 10.0), ("GS", 10.0), ("SW", 9.9), ("SG", 9.0), ("WW", 9.0), ("WG", 9.6)];
    check(&table, "WG", 0.95, "WS", "WG", &["WS", "WG"]);
}

#[test]
fn scores_that_are_no_numbers_never_win() {
    check(&[("SS", 10.0), ("GS", f64::NAN), ("SG", 9.9), ("GG", f64::NAN)], "G", 0.5, "SS", "SG", &["SG"]);
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let fails = |result: Result<Trace, SearchError<Infallible>>, part: &str| {
        let message = result.expect_err("an error").to_string();
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    };
    fails(search(|_| 1.0, 0, "G", 0.9), "no layers");
    fails(search(|_| 1.0, 2, "", 0.9), "no operator");
    fails(search(|_| 1.0, 2, "GS", 0.9), "holds S");
    fails(search(|_| 1.0, 2, "GG", 0.9), "G twice");
    fails(search(|_| 1.0, 2, "G", 1.5), "floor is 1.5");
    fails(search(|_| 1.0, 2, "G", f64::NAN), "floor is NaN");
    fails(search(|_| f64::NAN, 2, "G", 0.9), "score is NaN");
    fails(search(|_| -3.0, 2, "G", 0.9), "score is -3");
}

/// A score that depends on the layout in no simple way, but always in the same.
fn scrambled(layout: &Layout, seed: u64) -> f64 {
    let hash =
        layout.to_string().bytes().fold(seed ^ 0x9E37_79B9_7F4A_7C15, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    ((hash >> 20) % 1000) as f64
}

proptest! {
    #[test]
    fn every_search_keeps_its_word(layers in 1_usize..7, two in any::<bool>(), seed in any::<u64>(), floor in 0.01_f64..1.0) {
        let menu = if two { "GW" } else { "G" };
        let run = || search(|layout| scrambled(layout, seed), layers, menu, floor).expect("a search");
        let trace = run();
        let parent = trace.evaluations[0].score;
        let score = |layout: &Layout| scrambled(layout, seed);
        prop_assert_eq!(&trace, &run());
        prop_assert!(trace.evaluations.len() <= 1 + menu.len() * layers * (layers + 1) / 2);
        prop_assert!(score(trace.m_opt()) >= floor * parent);
        prop_assert!(score(trace.m_best()) >= parent);
        for decision in &trace.decisions {
            let round = trace.evaluations.iter().filter(|step| step.round == decision.round);
            let highest = round.clone().map(|step| step.score).fold(f64::MIN, f64::max);
            let first = round.clone().find(|step| step.score >= highest).expect("a candidate");
            prop_assert_eq!(&first.layout, &decision.layout);
        }
        for pair in trace.pareto_front().windows(2) {
            prop_assert!(pair[0].score > pair[1].score && pair[0].layout.replaced() < pair[1].layout.replaced());
        }
    }

    #[test]
    fn a_floor_that_nothing_breaks_takes_every_layer(layers in 1_usize..8) {
        let trace = search(|_| 1.0, layers, "G", 0.5).expect("a search");
        prop_assert_eq!(trace.evaluations.len(), 1 + layers * (layers + 1) / 2);
        prop_assert_eq!(trace.m_opt().replaced(), layers);
    }

    #[test]
    fn baselines_replace_as_many_layers_as_asked(layers in 1_usize..30, share in 0.0_f64..1.0, seed in any::<u64>()) {
        let replaced = (share * (layers + 1) as f64) as usize;
        let operators = vec![operator('G'); layers];
        let losses: Vec<f64> = (0..layers).map(|layer| (layer * 7 % 5) as f64).collect();
        let random = baselines::random(&operators, replaced, seed);
        prop_assert_eq!(&random, &baselines::random(&operators, replaced, seed));
        for layout in [random, baselines::uniform(&operators, replaced), baselines::local_importance(&operators, replaced, &losses)] {
            prop_assert_eq!((layout.layers(), layout.replaced()), (layers, replaced));
        }
    }
}

#[test]
fn baselines_by_hand() {
    let operators = vec![operator('G'); 8];
    assert_eq!(baselines::uniform(&operators, 6).to_string(), "GGSGGGSG");
    assert_eq!(baselines::uniform(&operators, 4).to_string(), "GSGSGSGS");
    let losses = [0.5, 0.1, 0.4, 0.1, 0.9, 0.9, 0.9, 0.9];
    assert_eq!(baselines::local_importance(&operators, 3, &losses).to_string(), "SGGGSSSS");
}
