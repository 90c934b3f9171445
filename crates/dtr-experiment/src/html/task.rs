//! One task on the page: what was replaced when and why the rest was not, scores, score against cost, answers that differ.

use dtr_search::{Decision, Layout, Operator, Trace, Verdict};
use minijinja::{Value, context};

use super::{front, speed};
use crate::charts::{Cell, Dots, Frame, Mark, Row, Series, picture, plot};
use crate::events::Event;
use crate::explain;
use crate::report::{Answer, Hybrid, Report, Task, interval::wilson};
use crate::rounds::{choosing, scored, trace};
use crate::terminal::confirmed;
use crate::words::{duration, floor, guessing, interval, percent};

/// Rounds that are drawn; of more, the last ones.
const ROUNDS: usize = 64;

/// Everything the template says of a task.
pub fn context(name: &str, task: &Task, report: &Report, events: &[Event]) -> Value {
    let trace = trace(events, name);
    let trace = trace.as_ref();
    let ended = !task.search.strategy.is_empty();
    let rows = trace.map_or_else(Vec::new, |trace| rows(trace, ended));
    let title = format!("{name}: layers from left to right, rounds of the search from top to bottom");
    let picture = picture(&title, &rows[rows.len().saturating_sub(ROUNDS)..]);
    context! {
        name,
        metric => task.metric.clone(),
        lead => lead(task, report, name),
        guessing => task.guessing.as_ref().map(guessing),
        picture => Value::from_safe_string(picture),
        left_out => rows.len().saturating_sub(ROUNDS),
        rounds => trace.map_or_else(Vec::new, words),
        stayed => trace.filter(|_| ended).map_or_else(Vec::new, stayed),
        chart => trace.map(|trace| Value::from_safe_string(score_chart(name, task, trace, events))),
        rows => if task.tested() { table(task) } else { vec![] },
        refitted => trace.is_some_and(|trace| trace.decisions.iter().any(|decision| decision.refitted.is_some())),
        examples => context! { validation => task.examples.validation, test => task.examples.test },
        strategy => task.search.strategy.clone(),
        evaluations => task.search.evaluations,
        equivalents => format!("{:.1}", task.search.full_evaluation_equivalents),
        seconds => duration(task.search.seconds),
        front => front::context(name, report, events),
        speed => speed::context(name, report),
        answers => task.differing.iter().map(answer).collect::<Vec<_>>(),
    }
}

/// The result in a few words, once there is one.
fn lead(task: &Task, report: &Report, name: &str) -> Option<Value> {
    task.tested().then(|| {
        let share = task.standing(&task.m_opt);
        let short = share.map_or(0.0, |share| task.search.floor - share);
        context! {
            replaced => task.m_opt.replaced,
            layers => task.m_opt.layout.chars().count(),
            test => percent(task.m_opt.test),
            test_interval => interval(task.m_opt.test_interval),
            parent_test => percent(task.parent.test),
            share => share.map(percent),
            of => if task.search.floor_is_score { "" } else { " of it" },
            floor => floor(task),
            broken => short > 0.0,
            short => format!("{:.1}", 100.0 * short),
            confirmed => confirmed(task),
            gains => speed::gains(name, report),
        }
    })
}

/// Rows of the picture: the parent, and one for every decision.
fn rows(trace: &Trace, ended: bool) -> Vec<Row> {
    let full = |layer| (Cell::Full, 'S', format!("layer {layer}: full attention"));
    let first = Row {
        name: "0".into(),
        cells: (0..trace.parent.layers()).map(full).collect(),
        result: format!("{} parent", percent(parent_score(trace).unwrap_or(f64::NAN))),
        kept: true,
    };
    let mut rows = vec![first];
    rows.extend(trace.decisions.iter().map(|decision| row(trace, decision)));
    let last = trace.decisions.last().map_or(0, |decision| decision.round);
    let under_way = trace.evaluations.iter().map(|step| step.round).max().filter(|&round| round > last && !ended);
    if let Some(round) = under_way {
        let kept = |decision: &&Decision| matches!(decision.verdict, Verdict::Kept | Verdict::GoneOn);
        let base = trace.decisions.iter().rev().find(kept).map_or(&trace.parent, |decision| &decision.layout);
        let cells = (0..base.layers()).map(|layer| tried(trace, round, base, layer)).collect();
        rows.push(Row { name: round.to_string(), cells, result: "under way".into(), kept: true });
    }
    rows
}

fn row(trace: &Trace, decision: &Decision) -> Row {
    let kept = matches!(decision.verdict, Verdict::Kept | Verdict::GoneOn);
    let cell = |layer: usize| {
        let [before, after] = [&decision.from, &decision.layout].map(|layout| layout.operators()[layer]);
        if before == after {
            return tried(trace, decision.round, &decision.from, layer);
        }
        let kind = if kept { Cell::New } else { Cell::Refused };
        let (from, to) = (before.letter(), after.letter());
        (kind, to, format!("layer {layer}: {from} to {to}, {} with it: {}", percent(decision.score), verdict(decision.verdict)))
    };
    let cells = (0..decision.layout.layers().min(decision.from.layers())).map(cell).collect();
    let result = format!("{} {}", percent(decision.score), verdict(decision.verdict));
    Row { name: decision.round.to_string(), cells, result, kept }
}

/// A layer that a round left as it was: replaced before, or what its best candidate came to.
fn tried(trace: &Trace, round: usize, base: &Layout, layer: usize) -> (Cell, char, String) {
    let operator = base.operators()[layer];
    if operator != Operator::PARENT {
        return (Cell::Linear, operator.letter(), format!("layer {layer}: replaced by {} before", operator.letter()));
    }
    let own = |layout: &Layout| layout.distance(base) == 1 && layout.operators().get(layer).is_some_and(|other| *other != operator);
    let steps = trace.evaluations.iter().filter(|step| step.round == round && own(&step.layout));
    // The one that came furthest; its parts lie one behind the other.
    let Some(best) = steps.clone().max_by(|a, b| a.to.cmp(&b.to).then(a.score.total_cmp(&b.score))) else {
        return (Cell::Full, 'S', format!("layer {layer}: full attention, not tried in this round"));
    };
    let parts = || steps.clone().filter(|step| step.layout == best.layout);
    let examples: usize = parts().map(|step| step.to - step.from).sum();
    let score = parts().map(|step| step.score * (step.to - step.from) as f64).sum::<f64>() / examples.max(1) as f64;
    let letter = best.layout.operators()[layer].letter();
    let on = format!("layer {layer}: {letter} scores {} on {examples} examples", percent(score));
    if score < trace.minimum {
        (Cell::Below, letter, on + ", below the floor")
    } else {
        (Cell::Passed, letter, on + "; another did better")
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Kept => "kept",
        Verdict::GoneOn => "on the way",
        Verdict::BelowFloor => "refused",
        Verdict::Unconfirmed => "not confirmed",
    }
}

/// The picture in words.
fn words(trace: &Trace) -> Vec<Value> {
    let row = |decision: &Decision| {
        context! {
            round => decision.round,
            layout => decision.layout.to_string(),
            change => explain::change(decision),
            verdict => explain::verdict(decision),
            candidates => explain::candidates(trace, decision),
        }
    };
    trace.decisions.iter().map(row).collect()
}

/// Why each layer that is full in the end is.
fn stayed(trace: &Trace) -> Vec<Value> {
    let result = trace.m_opt();
    let full = (0..result.layers()).filter(|&layer| result.operators()[layer] == Operator::PARENT);
    full.map(|layer| context! { layer, why => explain::stayed(trace, result, layer) }).collect()
}

/// Rows of the table of scores.
fn table(task: &Task) -> Vec<Value> {
    let row = |name: &str, hybrid: &Hybrid| {
        context! {
            name,
            layout => hybrid.layout.clone(),
            replaced => hybrid.replaced,
            validation => percent(hybrid.validation),
            validation_interval => interval(hybrid.validation_interval),
            test => percent(hybrid.test),
            test_interval => interval(hybrid.test_interval),
            share => task.kept(hybrid).map_or_else(|| "–".to_owned(), percent),
        }
    };
    let parent = Hybrid {
        layout: "S".repeat(task.m_opt.layout.chars().count()),
        replaced: 0,
        validation: task.parent.validation,
        test: task.parent.test,
        validation_interval: task.parent.validation_interval,
        test_interval: task.parent.test_interval,
    };
    let mut rows = vec![row("parent", &parent), row("m_best", &task.m_best), row("m_opt", &task.m_opt)];
    rows.extend(task.baselines.iter().map(|baseline| row(&baseline.name, &baseline.hybrid)));
    let random: Vec<&Hybrid> =
        task.baselines.iter().filter(|baseline| baseline.name.starts_with("random-")).map(|baseline| &baseline.hybrid).collect();
    if let Some(first) = random.first() {
        let mean = |of: fn(&Hybrid) -> f64| random.iter().map(|hybrid| of(hybrid)).sum::<f64>() / random.len() as f64;
        let (validation, test) = (mean(|hybrid| hybrid.validation), mean(|hybrid| hybrid.test));
        rows.push(row("random, mean", &Hybrid { replaced: first.replaced, validation, test, ..Hybrid::default() }));
    }
    rows
}

/// A layout among others of its size, its score in percent.
fn mark(replaced: usize, score: f64, examples: Option<usize>, name: &str) -> Mark {
    let range = examples.and_then(|examples| wilson(score, examples)).map(|range| range.map(|end| 100.0 * end));
    Mark { x: replaced as f64, y: 100.0 * score, range, title: format!("{name} {}", percent(score)) }
}

fn decided(trace: &Trace, kept: bool) -> Vec<Mark> {
    let of = |decision: &&Decision| matches!(decision.verdict, Verdict::Kept | Verdict::GoneOn) == kept;
    let examples = Some(choosing(trace));
    let mark = |found: &Decision| mark(found.layout.replaced(), found.score, examples, &found.layout.to_string());
    trace.decisions.iter().filter(of).map(mark).collect()
}

/// The parent, and the best that was kept of each size.
pub(super) fn kept(trace: &Trace) -> Vec<Mark> {
    let examples = Some(choosing(trace));
    let mut kept: Vec<Mark> = parent_score(trace).map(|score| mark(0, score, examples, "parent")).into_iter().collect();
    kept.extend(decided(trace, true));
    kept.sort_by(|a, b| a.x.total_cmp(&b.x).then(b.y.total_cmp(&a.y)));
    kept.dedup_by_key(|mark| mark.x);
    kept
}

fn parent_score(trace: &Trace) -> Option<f64> {
    trace.evaluations.iter().find(|step| step.round == 0 && step.from == 0).map(|step| step.score)
}

/// Score against the number of layers replaced: what was kept with its interval, what was refused, and all that was scored beside it.
fn score_chart(name: &str, task: &Task, trace: &Trace, events: &[Event]) -> String {
    let known = |layout: &str| trace.decisions.iter().any(|decision| decision.layout.to_string() == layout);
    let others = scored(events, name).into_iter().filter(|scored| !known(&scored.layout));
    let others = others.map(|found| mark(crate::report::replaced(&found.layout), found.score, None, &found.layout));
    let series = |style, line, dots, marks| Series { name: String::new(), style, line, dots, marks };
    let all = [
        series(7, false, Dots::Filled, others.filter(|mark| mark.x > 0.0).collect()),
        series(1, false, Dots::Hollow, decided(trace, false)),
        series(2, true, Dots::Filled, kept(trace)),
    ];
    let floor = Some(100.0 * trace.minimum).filter(|floor| floor.is_finite());
    let parent = parent_score(trace).map(|score| 100.0 * score);
    let levels: Vec<(f64, &str)> = [(parent, "parent"), (floor, "floor")].into_iter().filter_map(|(at, name)| Some((at?, name))).collect();
    let title = format!("{name}: score on the examples that choose against the number of layers replaced");
    let y = format!("{}, % (examples that choose)", if task.metric.is_empty() { "score" } else { &task.metric });
    plot(&Frame { title: &title, x: "layers replaced", y: &y, levels: &levels, doublings: false, decades: false }, &all)
}

fn answer(answer: &Answer) -> Value {
    context! {
        example => answer.example,
        prompt => answer.prompt.clone(),
        expected => answer.expected.clone(),
        parent => answer.parent.clone(),
        hybrid => answer.hybrid.clone(),
        parent_score => percent(answer.parent_score),
        hybrid_score => percent(answer.hybrid_score),
        better => answer.hybrid_score > answer.parent_score,
    }
}
