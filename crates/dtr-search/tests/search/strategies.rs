//! What strategies, racing, joint swaps and goals find, beside what is known of made-up tasks.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ops::Range;

use crate::support::{Table, World, constant, scrambled, search, settings};
use dtr_search::{
    Acceptance, Confirm, Evaluation, Example, Goal, Layout, Objective, Operator, Racing, Ranking, Settings, Signal, Strategy, Trace,
    Verdict,
};
use proptest::prelude::*;

const ALL: [Strategy; 11] = [
    Strategy::Greedy,
    Strategy::Floating,
    Strategy::Beam { width: 3 },
    Strategy::Ranked(Ranking::LocalImportance),
    Strategy::Ranked(Ranking::SwapDivergence),
    Strategy::Ranked(Ranking::SwapLoss),
    Strategy::Ranked(Ranking::RestoreDivergence),
    Strategy::Uniform,
    Strategy::Random { layouts: 20, seed: 3 },
    Strategy::Exhaustive,
    Strategy::Front { layouts: 60 },
];

fn world(seed: u64, layers: usize) -> World {
    World { layers, seed, cost: 0.02 }
}

/// Searches a made-up task on `examples` of its validation examples.
fn run(world: &World, examples: usize, settings: &Settings) -> Trace {
    let mut truth = crate::support::remembered(|layout| world.truth(layout));
    let example = |layout: &Layout, index: usize| world.example(layout, truth(layout), 0, index);
    search(&mut Table { examples, example }, settings).expect("a search")
}

#[test]
fn no_strategy_finds_more_than_all_layouts_hold_and_each_keeps_the_floor() {
    for seed in 0..6 {
        let world = world(seed, 6);
        let with = |strategy| Settings { strategy, signal: Signal::Loss, ..settings(6, "GW", 0.9) };
        let ceiling = run(&world, 256, &with(Strategy::Exhaustive)).m_opt().replaced();
        for strategy in ALL {
            let trace = run(&world, 256, &with(strategy));
            assert!(trace.m_opt().replaced() <= ceiling, "{strategy:?}");
            for decision in trace.decisions.iter().filter(|decision| decision.verdict == Verdict::Kept) {
                assert!(decision.score >= trace.minimum, "{strategy:?}");
            }
            if strategy != Strategy::Floating {
                assert!(trace.layouts() <= strategy.layouts(6, 2), "{strategy:?}: {} layouts", trace.layouts());
            }
        }
    }
}

/// Layers 0 and 1 look best alone, and only without them three layers can go.
fn trap(layout: &Layout) -> f64 {
    match layout.to_string().as_str() {
        "SSSS" => 1.0,
        "GSSS" | "SGSS" => 0.99,
        "SSGS" | "SSSG" => 0.98,
        "GSGS" | "GSSG" | "SGGS" => 0.97,
        "SSGG" | "SGSG" => 0.965,
        "SGGG" => 0.96,
        _ => 0.1,
    }
}

#[test]
fn floating_and_beam_leave_a_trap_that_greedy_walks_into() {
    let with = |strategy| search(&mut constant(trap), &Settings { strategy, ..settings(4, "G", 0.95) }).expect("a search");
    assert_eq!(with(Strategy::Greedy).m_opt().to_string(), "GSGS");
    for strategy in [Strategy::Floating, Strategy::Beam { width: 4 }, Strategy::Front { layouts: 16 }, Strategy::Exhaustive] {
        assert_eq!(with(strategy).m_opt().to_string(), "SGGG", "{strategy:?}");
    }
}

#[test]
fn a_ranking_by_divergence_replaces_in_its_order() {
    // Layer 2 diverges least, then 0, then 1.
    let divergence = |layout: &Layout| -> f32 {
        let weight = [0.2, 0.3, 0.1];
        (0..3).filter(|&layer| layout.operators()[layer] != Operator::PARENT).map(|layer| weight[layer]).sum()
    };
    for ranking in [Ranking::SwapDivergence, Ranking::RestoreDivergence] {
        let example = |layout: &Layout, _| dtr_search::Example { score: 1.0, loss: 0.0, divergence: divergence(layout) };
        let settings = Settings { strategy: Strategy::Ranked(ranking), signal: Signal::Divergence, ..settings(3, "G", 0.9) };
        let trace = search(&mut Table { examples: 1, example }, &settings).expect("a search");
        let kept: Vec<String> = trace.decisions.iter().map(|decision| decision.layout.to_string()).collect();
        assert_eq!(kept, ["SSG", "GSG", "GGG"], "{ranking:?}");
    }
}

#[test]
fn goals_end_a_search_and_say_whether_they_were_reached() {
    let flat = |_: &Layout| 1.0;
    for strategy in ALL {
        let with = |goal| search(&mut constant(flat), &Settings { strategy, goal, ..settings(6, "G", 0.9) }).expect("a search");
        let three = with(Goal::Replaced(3));
        if !matches!(strategy, Strategy::Random { .. }) {
            assert_eq!((three.m_opt().replaced(), three.reached), (3, true), "{strategy:?}");
            // 18 for the parent, 2 less a layer.
            let cost = with(Goal::Cost(11.0));
            assert_eq!((cost.m_opt().replaced(), cost.reached), (4, true), "{strategy:?}");
        }
        assert!(!with(Goal::Cost(1.0)).reached, "{strategy:?}: no layout costs that little");
        let none = with(Goal::Cost(18.0));
        assert_eq!((none.m_opt().replaced(), none.reached), (0, true), "{strategy:?}: the parent is cheap enough");
    }
}

#[test]
fn swaps_that_add_up_are_committed_together_and_others_are_not() {
    let sum = |layout: &Layout| 1.0 - 0.01 * layout.replaced() as f64;
    let additive = Settings { swaps: 4, ..settings(8, "G", 0.93) };
    let trace = search(&mut constant(sum), &additive).expect("a search");
    assert_eq!(trace.m_opt().replaced(), 7);
    assert!(trace.decisions.len() <= 4, "{:?}", trace.decisions);
    // 0.5, 8 and 40 % for one, two and three layers: more together than twice what they cost one by one.
    let jealous = |layout: &Layout| 1.0 - 0.005 * (layout.replaced() as f64).powi(4);
    let trace = search(&mut constant(jealous), &Settings { swaps: 4, ..settings(8, "G", 0.5) }).expect("a search");
    let decided: Vec<usize> = trace.decisions.iter().map(|decision| decision.layout.replaced()).collect();
    assert_eq!(decided, [1, 2, 3, 4], "three layers, one after the other; a fourth costs too much");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exact_racing_decides_as_no_racing_does(seed in any::<u64>(), layers in 2_usize..7, two in any::<bool>(), swaps in 1_usize..3) {
        let world = world(seed, layers);
        let plain = Settings { swaps, ..settings(layers, if two { "GW" } else { "G" }, 0.9) };
        let racing = Settings { racing: Racing::Exact, ..plain.clone() };
        let (plain, racing) = (run(&world, 500, &plain), run(&world, 500, &racing));
        prop_assert_eq!(&plain.decisions, &racing.decisions);
        prop_assert!(racing.full_evaluation_equivalents() <= plain.full_evaluation_equivalents() + 1e-9);
    }

    #[test]
    fn every_strategy_is_deterministic_and_counts_what_it_does(seed in any::<u64>(), which in 0_usize..11, bound in any::<bool>()) {
        let world = world(seed, 5);
        let acceptance = if bound { Acceptance::Bound { confirm: Confirm::Share(0.5), confidence: 0.9, retries: 1 } } else { Acceptance::Point };
        let racing = Racing::Statistical { error: 0.05 };
        let settings = Settings { strategy: ALL[which], signal: Signal::Loss, racing, acceptance, ..settings(5, "GW", 0.9) };
        let trace = run(&world, 300, &settings);
        prop_assert_eq!(&trace, &run(&world, 300, &settings));
        let (select, confirm) = settings.split(300);
        let work: usize = trace.evaluations.iter().map(|step| step.to - step.from).sum();
        prop_assert!((trace.full_evaluation_equivalents() - work as f64 / 300.0).abs() < 1e-9);
        for (index, step) in trace.evaluations.iter().enumerate() {
            prop_assert!(step.to <= select.end || (step.from == confirm.start && step.to == confirm.end));
            let again = trace.evaluations[..index].iter().any(|other| other.layout == step.layout && other.from < step.to && step.from < other.to);
            prop_assert!(!again || step.round > 1, "an example was scored twice within a round");
        }
        let refused = trace.decisions.iter().filter(|decision| decision.verdict == Verdict::Unconfirmed).count();
        prop_assert!(refused <= 2);
    }
}

#[test]
fn statistical_racing_finds_the_winner_as_often_as_it_says() {
    let (searches, error) = (300, 0.1);
    let (mut lost, mut work, mut plain_work) = (0, 0.0, 0.0);
    for seed in 0..searches {
        let world = World { layers: 8, seed, cost: 0.08 };
        let plain = Settings { goal: Goal::Replaced(1), ..settings(8, "G", 0.5) };
        let racing = Settings { racing: Racing::Statistical { error }, ..plain.clone() };
        let (plain, racing) = (run(&world, 1024, &plain), run(&world, 1024, &racing));
        lost += usize::from(plain.m_opt() != racing.m_opt());
        work += racing.full_evaluation_equivalents();
        plain_work += plain.full_evaluation_equivalents();
    }
    assert!(lost as f64 / searches as f64 <= error, "{lost} of {searches} rounds lost their winner");
    assert!(work < 0.75 * plain_work, "{work} of {plain_work}");
}

/// Examples that a layout gets wrong from a difficulty on; that of each is looked up.
struct Difficulties {
    of: Vec<f32>,
    /// What each operator loses in each layer, by its letter.
    lost: Vec<[f32; 128]>,
}

impl Objective for Difficulties {
    type Error = Infallible;

    fn examples(&self) -> usize {
        self.of.len()
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Infallible> {
        let lost: f32 = layout.operators().iter().zip(&self.lost).map(|(operator, lost)| lost[operator.letter() as usize]).sum();
        let work = examples.len() as f64 / self.of.len() as f64;
        let example = |difficulty: &f32| Example { score: f32::from(u8::from(*difficulty >= lost)), loss: lost, divergence: 0.0 };
        let examples = self.of[examples].iter().map(example).collect();
        Ok(Evaluation { examples, full_evaluation_equivalents: work, seconds: 0.0 })
    }

    fn cost(&mut self, layout: &Layout) -> Result<f64, Infallible> {
        Ok((layout.layers() - layout.replaced()) as f64)
    }
}

#[test]
fn sixty_four_layers_three_operators_and_ten_thousand_examples() {
    const EXAMPLES: usize = 10_000;
    // Scores of their own for every layer and operator, so that greedy replaces half of the layers.
    let mut lost = vec![[0.0; 128]; 64];
    for (layer, lost) in lost.iter_mut().enumerate() {
        "GWH".chars().for_each(|letter| lost[letter as usize] = 0.01 * scrambled(&[layer as u64, u64::from(letter)]) as f32);
    }
    let of = (0..EXAMPLES).map(|index| (index * 7919 % EXAMPLES) as f32 / EXAMPLES as f32).collect();
    let settings = Settings { racing: Racing::Exact, ..settings(64, "GWH", 0.9) };
    let trace = dtr_search::search(&mut Difficulties { of, lost }, &settings, &mut |_| {}).expect("a search");
    assert!(trace.m_opt().replaced() > 20);
}

/// Every replaced layer loses a tenth; what is refitted loses `after` in all.
struct Refits {
    after: f32,
    refitted: HashSet<Layout>,
    taken_back: Vec<Layout>,
}

impl Objective for Refits {
    type Error = Infallible;

    fn examples(&self) -> usize {
        10
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Infallible> {
        let lost = if self.refitted.contains(layout) { self.after } else { 0.1 * layout.replaced() as f32 };
        let example = Example { score: 1.0 - lost, loss: lost, divergence: lost };
        Ok(Evaluation { examples: vec![example; examples.len()], full_evaluation_equivalents: 0.0, seconds: 0.5 })
    }

    fn cost(&mut self, _: &Layout) -> Result<f64, Infallible> {
        Ok(0.0)
    }

    fn refit(&mut self, layout: &Layout) -> Result<Option<f64>, Infallible> {
        self.refitted.insert(layout.clone());
        Ok(Some(1.0))
    }

    fn unfit(&mut self, layout: &Layout) {
        self.refitted.remove(layout);
        self.taken_back.push(layout.clone());
    }
}

#[test]
fn what_is_proposed_is_judged_with_its_new_students_where_they_are_better() {
    for (strategy, racing) in
        [(Strategy::Greedy, Racing::Off), (Strategy::Greedy, Racing::Exact), (Strategy::Ranked(Ranking::SwapLoss), Racing::Off)]
    {
        let settings = Settings { strategy, racing, ..settings(4, "G", 0.75) };
        let search = |after: f32| {
            let mut objective = Refits { after, refitted: HashSet::new(), taken_back: Vec::new() };
            let trace = dtr_search::search(&mut objective, &settings, &mut |_| {}).expect("a search");
            (trace, objective.taken_back)
        };
        // Three layers lose 0.3 as they are, more than the floor allows, and 0.05 refitted.
        let (trace, taken_back) = search(0.05);
        assert_eq!(trace.m_opt().replaced(), 4);
        assert!(taken_back.is_empty());
        for (place, decision) in trace.decisions.iter().enumerate() {
            let refitted = decision.refitted.expect("a refit");
            let before = 0.1 * (place + 1) as f64;
            assert!(refitted.kept() && (refitted.before - before).abs() < 1e-6 && (refitted.after - 0.05).abs() < 1e-6);
            assert!((decision.score - 0.95).abs() < 1e-6, "what was judged is what was refitted");
        }
        let evaluated: f64 = trace.evaluations.iter().map(|step| step.seconds).sum();
        assert!((trace.seconds() - evaluated - 4.0).abs() < 1e-9, "refits take time");
        // New students that are worse are taken back, and change nothing.
        let (trace, taken_back) = search(0.5);
        assert_eq!(trace.m_opt().replaced(), 2);
        assert_eq!(taken_back.len(), trace.decisions.len());
        assert!(trace.decisions.iter().all(|decision| !decision.refitted.expect("a refit").kept()));
        assert!((trace.decisions[1].score - 0.8).abs() < 1e-6);
    }
}
