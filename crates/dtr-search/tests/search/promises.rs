//! Floors kept and floors broken, counted over many searches of tasks whose truth is known.

use crate::support::{Table, World, search, settings};
use dtr_search::{Acceptance, Confirm, Layout, Racing, Settings, Signal, Strategy};

const SEARCHES: u64 = 200;
const FLOOR: f64 = 0.95;
const CONFIDENCE: f64 = 0.9;

/// Share of searches whose result is truly below the floor, and layers replaced in the mean.
fn broken(settings: &Settings, examples: usize) -> (f64, f64) {
    let (mut broken, mut replaced) = (0, 0);
    for seed in 0..SEARCHES {
        let world = World { layers: 8, seed: 1000 + seed, cost: 0.012 };
        let mut truth = crate::support::remembered(|layout| world.truth(layout));
        // Hybrids look better on what their students saw.
        let training = settings.acceptance.training();
        let example = |layout: &Layout, index: usize| {
            let (flattery, split) = if index < training { (0.02 * layout.replaced() as f64 / 8.0, 1) } else { (0.0, 0) };
            world.example(layout, truth(layout) + flattery, split, index)
        };
        let trace = search(&mut Table { examples, example }, settings).expect("a search");
        let kept = world.truth(trace.m_opt()) / world.truth(&trace.parent);
        broken += u32::from(kept < FLOOR);
        replaced += trace.m_opt().replaced();
    }
    (f64::from(broken) / SEARCHES as f64, replaced as f64 / SEARCHES as f64)
}

#[test]
fn the_papers_rule_breaks_floors_and_a_bound_does_not() {
    let plain = settings(8, "G", FLOOR);
    let (paper, paper_replaced) = broken(&plain, 512);
    assert!(paper > 0.3, "the winner's curse: {paper}");
    let half = Confirm::Share(0.5);
    for (strategy, confirm, retries) in [
        (Strategy::Greedy, half, 0),
        (Strategy::Greedy, half, 2),
        (Strategy::Greedy, Confirm::AllBut { training: 512 }, 0),
        (Strategy::Floating, half, 0),
        (Strategy::Floating, Confirm::AllBut { training: 256 }, 1),
        (Strategy::Beam { width: 3 }, half, 0),
        (Strategy::Exhaustive, half, 2),
        (Strategy::Front { layouts: 120 }, half, 1),
    ] {
        let bound = Settings {
            strategy,
            signal: Signal::Loss,
            racing: Racing::Statistical { error: 0.05 },
            acceptance: Acceptance::Bound { confirm, confidence: CONFIDENCE, retries },
            ..plain.clone()
        };
        let (rate, replaced) = broken(&bound, 1024);
        println!(
            "{strategy:?}, {confirm:?}, {retries} retries: {:.1} % of floors broken, {replaced:.2} layers; the paper's rule: {:.1} %, {paper_replaced:.2} layers",
            100.0 * rate,
            100.0 * paper
        );
        assert!(rate <= 1.0 - CONFIDENCE, "{strategy:?} with {confirm:?} and {retries} retries broke {rate}");
        assert!(replaced > 1.0, "{strategy:?} replaced nothing");
    }
}
