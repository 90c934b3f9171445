//! A search in words: what was proposed, what became of it and why, and why each layer that stayed full did.

use std::fmt::Write;

use dtr_search::{Decision, Layout, Operator, Step, Trace, Verdict};

/// All of it, one decision a line with its evidence below.
pub fn explain(task: &str, strategy: &str, trace: &Trace, whole: bool) -> String {
    let mut text = String::new();
    let parent = trace.evaluations.first().map_or(f64::NAN, |step| step.score);
    let _ = writeln!(text, "{task}: {strategy}, the parent scores {parent:.4}, the floor is {:.4}", trace.minimum);
    for decision in &trace.decisions {
        let _ = writeln!(text, "round {:>2}  {}  {}: {}", decision.round, decision.layout, change(decision), verdict(decision));
        let _ = writeln!(text, "          {}", candidates(trace, decision));
    }
    if !whole {
        let _ = writeln!(text, "the search has come no further than this");
        return text;
    }
    let result = trace.m_opt();
    let _ = writeln!(text, "result    {result}, {} of {} layers replaced", result.replaced(), result.layers());
    for layer in (0..result.layers()).filter(|&layer| result.operators()[layer] == Operator::PARENT) {
        let _ = writeln!(text, "          layer {layer} stayed full: {}", stayed(trace, result, layer));
    }
    let (layouts, work) = (trace.layouts(), trace.full_evaluation_equivalents());
    let _ = writeln!(text, "cost      {layouts} layouts, the work of {work:.1} full evaluations, {:.1} s", trace.seconds());
    text
}

/// Which layers change, and to what.
pub(crate) fn change(decision: &Decision) -> String {
    let pairs = decision.from.operators().iter().zip(decision.layout.operators()).enumerate();
    let changed = pairs.filter(|(_, (before, after))| before != after);
    let words: Vec<String> =
        changed.map(|(layer, (before, after))| format!("layer {layer} {} to {}", before.letter(), after.letter())).collect();
    if words.is_empty() { "as it stands".into() } else { words.join(", ") }
}

pub(crate) fn verdict(decision: &Decision) -> String {
    let scored = format!("score {:.4} {} {:.4}", decision.score, compared(decision.score, decision.minimum), decision.minimum);
    let sure = decision.confirmation.map(|found| {
        let sign = compared(found.lower, found.minimum);
        let sure = 100.0 * (1.0 - found.error);
        format!(
            ", lower bound {:.4} {sign} {:.4} with {sure:.1} % confidence on {} other examples",
            found.lower, found.minimum, found.examples
        )
    });
    let word = match decision.verdict {
        Verdict::Kept => "kept",
        Verdict::GoneOn => "gone on from, the best of its size",
        Verdict::BelowFloor => "refused",
        Verdict::Unconfirmed => "not confirmed",
    };
    let refitted = decision.refitted.map(|found| {
        let used = if found.kept() { "" } else { ", left out" };
        format!(", students made anew: loss {:.4} to {:.4}{used}", found.before, found.after)
    });
    format!("{word}, {scored}{}{}", sure.unwrap_or_default(), refitted.unwrap_or_default())
}

fn compared(a: f64, b: f64) -> &'static str {
    if a >= b { ">=" } else { "<" }
}

/// How many were compared in the round, how many of them were left early, and which came next.
pub(crate) fn candidates(trace: &Trace, decision: &Decision) -> String {
    let furthest = trace.evaluations.iter().filter(|step| step.from == 0 || step.round > 0).map(|step| step.to).max().unwrap_or(0);
    let choosing = decision.confirmation.map_or(furthest, |found| furthest - found.examples);
    let mut seen: Vec<(&Layout, usize, f64, f64)> = Vec::new();
    let of_round = trace.evaluations.iter().filter(|step| step.round == decision.round && step.to <= choosing);
    for Step { layout, from, to, score, .. } in of_round {
        let (examples, sum) = (*to - *from, score * (*to - *from) as f64);
        match seen.iter_mut().find(|(other, ..)| *other == layout) {
            // New students begin again.
            Some(entry) if *from == 0 => (entry.1, entry.2, entry.3) = (*to, sum, examples as f64),
            Some(entry) => (entry.1, entry.2, entry.3) = (*to, entry.2 + sum, entry.3 + examples as f64),
            None => seen.push((layout, *to, sum, examples as f64)),
        }
    }
    let early = seen.iter().filter(|(_, to, ..)| *to < choosing).count();
    let others = seen.iter().filter(|(layout, ..)| **layout != decision.layout && **layout != decision.from);
    let next =
        others.map(|(layout, to, sum, examples)| (*layout, *to, sum / examples)).max_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)));
    let next = next.map_or(String::new(), |(layout, to, score)| format!("; next {layout} with {score:.4} on {to} examples"));
    format!("{} layouts scored in this round, {early} of them left early{next}", seen.len())
}

/// Why the layer is not replaced in the result.
pub(crate) fn stayed(trace: &Trace, result: &Layout, layer: usize) -> String {
    let beside = |layout: &Layout| result.distance(layout) == 1 && layout.shared_prefix(result) == layer;
    if let Some(decision) = trace.decisions.iter().rev().find(|decision| beside(&decision.layout) && decision.verdict != Verdict::Kept) {
        return match decision.confirmation {
            Some(found) => format!("lower bound {:.4} < {:.4}", found.lower, found.minimum),
            None => format!("score {:.4} < {:.4}", decision.score, decision.minimum),
        };
    }
    let Some(last) = trace.evaluations.iter().rev().find(|step| beside(&step.layout)) else {
        return "it was not tried beside this layout".into();
    };
    let parts = trace.evaluations.iter().filter(|step| (step.round, &step.layout) == (last.round, &last.layout));
    let (examples, sum) = parts.fold((0, 0.0), |(examples, sum), step| {
        let count = step.to - step.from;
        let (examples, sum) = if step.from == 0 { (0, 0.0) } else { (examples, sum) };
        (examples + count, sum + step.score * count as f64)
    });
    let score = sum / examples as f64;
    let better = if score >= trace.minimum { ", another was better" } else { "" };
    format!("score {score:.4} {} {:.4} on {examples} examples{better}", compared(score, trace.minimum), trace.minimum)
}
