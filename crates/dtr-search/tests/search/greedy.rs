//! Algorithm 1 on tables of numbers, and what every search refuses.

use std::collections::HashMap;

use crate::support::{constant, number, operator, scrambled, search, settings};
use dtr_search::{Acceptance, Confirm, Floor, Layout, Racing, Signal, Strategy, Trace, baselines};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Runs the search on a table and compares `M_best`, `M_opt` and the order of decisions.
fn check(table: &[(&str, f64)], menu: &str, floor: f64, m_best: &str, m_opt: &str, decided: &[&str]) {
    let table: HashMap<&str, f64> = table.iter().copied().collect();
    let layers = table.keys().next().map_or(0, |layout| layout.len());
    let score = |layout: &Layout| table.get(layout.to_string().as_str()).copied().unwrap_or(0.0);
    let trace = search(&mut constant(score), &settings(layers, menu, floor)).expect("a search");
    assert_eq!(trace.m_best().to_string(), m_best, "m_best");
    assert_eq!(trace.m_opt().to_string(), m_opt, "m_opt");
    assert_eq!(trace.decisions.iter().map(|decision| decision.layout.to_string()).collect::<Vec<_>>(), decided, "decisions");
}

#[test]
fn a_swap_below_the_best_but_above_the_floor_is_kept() {
    let table = [("SSS", 0.80), ("GSS", 0.4), ("SGS", 0.81), ("SSG", 0.79), ("GGS", 0.3), ("SGG", 0.77), ("GGG", 0.75)];
    check(&table, "G", 0.95, "SGS", "SGG", &["SGS", "SGG", "GGG"]);
}

#[test]
fn the_first_index_wins_a_tie_and_a_tie_with_the_best_goes_to_the_more_linear() {
    let table = [("SS", 0.5), ("GS", 0.5), ("SG", 0.5), ("GG", 0.5)];
    check(&table, "G", 1.0, "GG", "GG", &["GS", "GG"]);
}

#[test]
fn nothing_is_replaced_where_every_swap_breaks_the_floor() {
    check(&[("SS", 1.0), ("GS", 0.9), ("SG", 0.8)], "G", 0.95, "SS", "SS", &["GS"]);
}

#[test]
fn operators_compete_and_the_menu_orders_ties() {
    let table = [("SS", 1.0), ("WS", 1.0), ("GS", 1.0), ("SW", 0.99), ("SG", 0.9), ("WW", 0.9), ("WG", 0.96)];
    check(&table, "WG", 0.95, "WS", "WG", &["WS", "WG"]);
}

#[test]
fn scores_that_are_no_numbers_never_win() {
    check(&[("SS", 1.0), ("GS", f64::NAN), ("SG", 0.99), ("GG", f64::INFINITY)], "G", 0.5, "SS", "SG", &["SG"]);
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let fails = |score: f64, change: &dyn Fn(&mut dtr_search::Settings), part: &str| {
        let mut settings = settings(2, "G", 0.9);
        change(&mut settings);
        let message = search(&mut constant(|_| score), &settings).expect_err("an error").to_string();
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    };
    fails(1.0, &|s| (s.layers, s.prior) = (0, vec![]), "no layers");
    fails(1.0, &|s| s.menu.clear(), "no operator");
    fails(1.0, &|s| s.menu.push(operator('S')), "holds S");
    fails(1.0, &|s| s.menu.push(operator('G')), "G twice");
    fails(1.0, &|s| s.floor = Floor::Share(1.5), "floor is 1.5");
    fails(1.0, &|s| s.floor = Floor::Share(f64::NAN), "floor is NaN");
    fails(1.0, &|s| s.floor = Floor::Share(0.0), "floor is 0");
    fails(1.0, &|s| s.swaps = 0, "0 swaps");
    fails(1.0, &|s| s.racing = Racing::Statistical { error: 0.0 }, "error of racing is 0");
    fails(1.0, &|s| (s.racing, s.signal) = (Racing::Exact, Signal::Loss), "signal with bounds");
    fails(1.0, &|s| s.acceptance = Acceptance::Bound { confirm: Confirm::Share(0.5), confidence: 1.0, retries: 0 }, "confidence is 1");
    fails(
        1.0,
        &|s| s.acceptance = Acceptance::Bound { confirm: Confirm::Share(0.5), confidence: 0.9, retries: 0 },
        "0 choose and 1 confirm",
    );
    fails(1.0, &|s| s.strategy = Strategy::Beam { width: 0 }, "width 0");
    fails(1.0, &|s| (s.strategy, s.layers, s.prior) = (Strategy::Exhaustive, 40, vec![(operator('G'), 0.0); 40]), "more than 65536");
    fails(f64::NAN, &|_| (), "score is NaN");
    fails(-0.3, &|_| (), "score is -0.3");
    fails(0.0, &|_| (), "score is 0");
    fails(0.7, &|s| s.floor = Floor::Score { score: 0.75 }, "own score 0.7000 is below the floor 0.7500");
}

proptest! {
    #[test]
    fn every_search_keeps_its_word(layers in 1_usize..7, two in any::<bool>(), seed in any::<u64>(), floor in 0.01_f64..1.0) {
        let menu = if two { "GW" } else { "G" };
        let score = |layout: &Layout| (1.0 + 999.0 * scrambled(&[seed, number(layout)])).round() / 1000.0;
        let run = || -> Trace { search(&mut constant(score), &settings(layers, menu, floor)).expect("a search") };
        let trace = run();
        let parent = trace.evaluations[0].score;
        prop_assert_eq!(&trace, &run());
        prop_assert!(trace.evaluations.len() <= 1 + menu.len() * layers * (layers + 1) / 2);
        prop_assert!(f64::from(score(trace.m_opt()) as f32) >= floor * parent);
        prop_assert!(f64::from(score(trace.m_best()) as f32) >= parent);
        for decision in &trace.decisions {
            let round = trace.evaluations.iter().filter(|step| step.round == decision.round);
            let highest = round.clone().map(|step| step.score).fold(f64::MIN, f64::max);
            let first = round.clone().find(|step| step.score >= highest).expect("a candidate");
            prop_assert_eq!(&first.layout, &decision.layout);
        }
    }

    #[test]
    fn a_floor_that_nothing_breaks_takes_every_layer(layers in 1_usize..8) {
        let trace = search(&mut constant(|_| 1.0), &settings(layers, "G", 0.5)).expect("a search");
        prop_assert_eq!(trace.evaluations.len(), 1 + layers * (layers + 1) / 2);
        prop_assert_eq!(trace.m_opt().replaced(), layers);
    }

    #[test]
    fn baselines_replace_as_many_layers_as_asked(layers in 1_usize..30, share in 0.0_f64..1.0, seed in any::<u64>()) {
        let replaced = (share * (layers + 1) as f64) as usize;
        let prior = settings(layers, "G", 0.9).prior;
        let random = || baselines::random(&prior, replaced, &mut ChaCha8Rng::seed_from_u64(seed));
        prop_assert_eq!(&random(), &random());
        for layout in [random(), baselines::uniform(&prior, replaced), baselines::local_importance(&prior, replaced)] {
            prop_assert_eq!((layout.layers(), layout.replaced()), (layers, replaced));
        }
    }
}

#[test]
fn baselines_by_hand() {
    let prior: Vec<_> = [0.5, 0.1, 0.4, 0.1, 0.9, 0.9, 0.9, 0.9].map(|loss| (operator('G'), loss)).to_vec();
    assert_eq!(baselines::uniform(&prior, 6).to_string(), "GGSGGGSG");
    assert_eq!(baselines::uniform(&prior, 4).to_string(), "GSGSGSGS");
    assert_eq!(baselines::local_importance(&prior, 3).to_string(), "SGGGSSSS");
}
