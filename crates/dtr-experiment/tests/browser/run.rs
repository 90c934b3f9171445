//! Events of a run that never was: as many as a real one of so many layers has, every name in them hostile.

use dtr_experiment::events::{Answer, Efficiency, Event, Model};
use dtr_search::{Floor, Verdict};

/// A name that tries to get out of every place a name can stand in.
pub const HOSTILE: &str =
    "<script>hostile=1</script>\"'><img src=x onerror=hostile=1></title></style>{{7*7}}javascript:hostile=1 \u{202e}&lt;";

const EXAMPLES: usize = 512;

/// A greedy search by racing over 28 layers and two operators for two tasks; broken off in the middle of the second search unless
/// `complete`.
pub fn events(layers: usize, complete: bool, seed: u64) -> Vec<Event> {
    let mut events = vec![
        Event::Started { experiment: HOSTILE.into(), device: HOSTILE.into(), seed },
        Event::Parent { model_type: HOSTILE.into(), layers, parameters: 596_000_000 },
    ];
    distilled(&mut events, layers, seed);
    let tasks = [format!("recall {HOSTILE}"), format!("origin {HOSTILE}")];
    for (index, task) in tasks.iter().enumerate() {
        let ends = complete || index == 0;
        searched(&mut events, task, layers, if ends { layers } else { layers / 2 }, ends, seed);
    }
    if complete {
        for task in &tasks {
            measured(&mut events, task, layers);
        }
        events.push(Event::Finished { seconds: 4_000.0 });
    }
    events
}

fn letters(layers: usize, linear: &[usize]) -> String {
    (0..layers)
        .map(|layer| {
            if !linear.contains(&layer) {
                'S'
            } else if layer % 5 == 0 {
                'W'
            } else {
                'G'
            }
        })
        .collect()
}

/// How much a task needs a layer, between 0 and 1, in an order without a pattern.
fn need(layer: usize, layers: usize, seed: u64) -> f64 {
    let place = (layer * 11 + 3 + seed as usize) % layers;
    (place as f64 / layers as f64).powi(4)
}

fn distilled(events: &mut Vec<Event>, layers: usize, seed: u64) {
    for operator in [format!("gated-delta {HOSTILE}"), format!("sliding-window {HOSTILE}")] {
        let at = |layer: usize, share: f64| (0.04 + 0.4 * need(layer, layers, seed)) as f32 + 0.9 * (-9.0 * share).exp() as f32;
        for step in 1..=300 {
            let losses = (0..layers).map(|layer| at(layer, f64::from(step) / 300.0)).collect();
            events.push(Event::Distilling { operator: operator.clone(), tokens: step as usize * 25_600, normalised_mse: losses });
        }
        events.extend((0..layers).map(|layer| Event::Student {
            layer,
            operator: operator.clone(),
            normalised_mse: f64::from(at(layer, 1.0)),
        }));
    }
    events.push(Event::Distilled { tokens: 7_680_000, tokens_per_second: 12_345.6 });
}

fn searched(events: &mut Vec<Event>, task: &str, layers: usize, rounds: usize, ends: bool, seed: u64) {
    let name = || task.to_owned();
    let score = |linear: &[usize]| 0.98 * linear.iter().map(|&layer| 1.0 - 0.3 * need(layer, layers, seed)).product::<f64>();
    let evaluated = |round, linear: &[usize], from, to| Event::Evaluated {
        task: name(),
        round,
        layout: letters(layers, linear),
        from,
        to,
        score: score(linear),
        loss: 0.1,
        divergence: 0.01,
        full_evaluation_equivalents: 0.06,
        seconds: 1.5,
    };
    events.push(Event::Searching { task: name(), metric: HOSTILE.into(), validation: EXAMPLES, test: 2 * EXAMPLES });
    events.push(evaluated(0, &[], 0, EXAMPLES));
    let (minimum, mut linear, mut best) = (0.95 * score(&[]), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut candidates: Vec<Vec<usize>> =
            (0..layers).filter(|layer| !linear.contains(layer)).map(|layer| [&linear[..], &[layer]].concat()).collect();
        candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
        for (place, candidate) in candidates.iter().enumerate() {
            let legs = if place < 3 { EXAMPLES / 32 } else { 1 };
            events.extend((0..legs).map(|leg| evaluated(round, candidate, 32 * leg, 32 * (leg + 1))));
        }
        let kept = score(&candidates[0]) >= minimum;
        events.push(Event::Decided {
            task: name(),
            round,
            before: letters(layers, &linear),
            layout: letters(layers, &candidates[0]),
            score: score(&candidates[0]),
            minimum,
            verdict: if kept { Verdict::Kept } else { Verdict::BelowFloor },
            best: round == 1,
            confirmation: None,
            refitted: None,
        });
        if !kept {
            break;
        }
        linear.clone_from(&candidates[0]);
        if round == 1 {
            best.clone_from(&linear);
        }
    }
    if !ends {
        // In the middle of a round.
        events.truncate(events.len() - 3);
        return;
    }
    events.push(Event::Searched {
        task: name(),
        metric: HOSTILE.into(),
        strategy: HOSTILE.into(),
        floor: Floor::Share(0.95),
        reached: false,
        evaluations: 400,
        full_evaluation_equivalents: 60.0,
        seconds: 600.0,
    });
    for (model, linear) in [(Model::Parent, &[][..]), (Model::MBest, &best), (Model::MOpt, &linear)] {
        let (layout, validation) = (letters(layers, linear), score(linear));
        events.push(Event::Tested { task: name(), model, layout, validation, test: validation - 0.01 });
    }
    for baseline in ["uniform", "random-0", "random-1", HOSTILE] {
        let chosen: Vec<usize> = (0..linear.len()).map(|place| (place * 3 + baseline.len()) % layers).collect();
        let (layout, validation) = (letters(layers, &chosen), score(&chosen));
        events.push(Event::Baseline { task: name(), name: baseline.into(), layout, validation, test: validation });
    }
    for example in 0..6 {
        let [expected, parent, hybrid] = ["4821", "4821", "4871"].map(|answer| format!("{answer} {HOSTILE}"));
        let prompt = format!("{HOSTILE}\n{}", "Alice Baker: 4821\n".repeat(20));
        events.push(Event::Answered(Answer {
            task: name(),
            example,
            prompt,
            expected,
            parent,
            hybrid,
            parent_score: 1.0,
            hybrid_score: 0.0,
        }));
    }
}

fn measured(events: &mut Vec<Event>, task: &str, layers: usize) {
    let tested = |wanted: Model| {
        events.iter().find_map(|event| match event {
            Event::Tested { task: name, model, layout, .. } if name == task && *model == wanted => Some(layout.clone()),
            _ => None,
        })
    };
    let mut models: Vec<(Model, String)> =
        [Model::Parent, Model::MBest, Model::MOpt].into_iter().map(|model| (model, tested(model).expect("tested"))).collect();
    models.extend(["G", "W"].map(|letter| (Model::AllLinear, letter.repeat(layers))));
    for context in [512, 1024, 2048, 4096, 8192, 16_384, 32_768] {
        for (model, layout) in &models {
            let linear = layout.chars().filter(|&letter| letter != 'S').count() as f64 / layers as f64;
            let seconds = (1.0 - linear) * context as f64 * 1e-6 + linear * 9e-4 + 1e-4;
            let (prefill, decode) = (0.3 / seconds, 1.0 / seconds);
            let range = |value: f64| Some([0.94 * value, 1.05 * value]);
            if context == 32_768 && *model == Model::Parent {
                events.push(Event::TooLong { task: task.into(), model: *model, layout: layout.clone(), context, needed_bytes: 97 << 30 });
                continue;
            }
            events.push(Event::Efficiency(Efficiency {
                context,
                model: *model,
                task: task.into(),
                layout: layout.clone(),
                prefill_tokens_per_second: prefill,
                prefill_tokens_per_second_range: range(prefill),
                decode_tokens_per_second: Some(decode),
                decode_tokens_per_second_range: range(decode),
                first_token_seconds: Some(context as f64 / prefill),
                first_token_seconds_range: range(context as f64 / prefill),
                peak_bytes: Some(2_400_000_000 + context * 90_000),
                cache_bytes: ((1.0 - linear) * context as f64 * 114_688.0) as usize + 1_000_000,
            }));
        }
    }
}
