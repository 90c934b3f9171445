//! What all strategies have in common: candidates are scored and raced, layouts kept or refused, and all of it is written down.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use crate::layout::{Layout, Operator};
use crate::objective::{Evaluation, Example, Objective, Summary};
use crate::settings::{Acceptance, Goal, Racing, SearchError, Settings};
use crate::statistics::{is_negative, lower_bound};
use crate::trace::{Confirmation, Decision, Refitted, Step, Trace, Verdict};

/// Examples between two looks at a race.
const FIRST_LEG: usize = 32;

/// Looks at a candidate in an exact race, about.
const MOST_LEGS: usize = 64;

/// Examples of all layouts together that are remembered from one round to the next.
const REMEMBERED: usize = 1 << 22;

/// What happens during a search, as it happens.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A layout was scored.
    Evaluated(&'a Step),
    /// A layout was kept or refused.
    Decided(&'a Decision),
}

/// Searches a layout.
///
/// # Errors
/// If the settings make no sense, the parent's score bears no floor, or the objective fails.
pub fn search<O: Objective>(
    objective: &mut O,
    settings: &Settings,
    observe: &mut dyn FnMut(Observation<'_>),
) -> Result<Trace, SearchError<O::Error>> {
    let examples = objective.examples();
    settings.check(examples)?;
    let (select, confirm) = settings.split(examples);
    let parent = Layout::parent(settings.layers);
    let mut search = Search {
        objective,
        settings,
        observe,
        select,
        confirm,
        current: parent.clone(),
        trace: Trace { parent: parent.clone(), minimum: 0.0, evaluations: Vec::new(), decisions: Vec::new(), reached: false },
        known: HashMap::new(),
        seen: HashMap::new(),
        costs: HashMap::new(),
        parent_confirmed: Vec::new(),
        best: 0.0,
        round: 0,
    };
    search.begin(&parent)?;
    settings.strategy.run(&mut search)?;
    search.trace.reached = search.done()?;
    Ok(search.trace)
}

/// A search at work.
pub(crate) struct Search<'a, O: Objective> {
    objective: &'a mut O,
    pub(crate) settings: &'a Settings,
    observe: &'a mut dyn FnMut(Observation<'_>),
    /// Examples that choose.
    select: Range<usize>,
    /// Examples that confirm.
    confirm: Range<usize>,
    /// Where the search stands.
    current: Layout,
    trace: Trace,
    /// Layouts scored on all examples that choose.
    known: HashMap<Layout, Summary>,
    /// Layouts scored lately, example by example, perhaps not on all of them.
    seen: HashMap<Layout, Vec<Example>>,
    costs: HashMap<Layout, f64>,
    parent_confirmed: Vec<Example>,
    /// Highest score of a layout kept.
    best: f64,
    round: usize,
}

impl<O: Objective> Search<'_, O> {
    fn begin(&mut self, parent: &Layout) -> Result<(), SearchError<O::Error>> {
        let score = self.summary(parent)?.score();
        if !score.is_finite() || score <= 0.0 {
            return Err(SearchError::ParentScore { score });
        }
        let minimum = self.settings.floor.minimum(score);
        if score < minimum {
            return Err(SearchError::ParentBelowFloor { score, floor: minimum });
        }
        (self.trace.minimum, self.best) = (minimum, score);
        if !self.confirm.is_empty() {
            self.parent_confirmed = self.evaluate(parent, self.confirm.clone())?;
        }
        self.round = 1;
        Ok(())
    }

    /// Where the search stands.
    pub(crate) fn current(&self) -> &Layout {
        &self.current
    }

    /// Layouts with one layer more replaced, layer by layer, each by every operator of the menu.
    pub(crate) fn replacements(&self, layout: &Layout) -> Vec<Layout> {
        let full = (0..layout.layers()).filter(|&layer| layout.operators()[layer] == Operator::PARENT);
        full.flat_map(|layer| self.settings.menu.iter().map(move |&operator| layout.with(layer, operator))).collect()
    }

    /// Score, loss and divergence on all examples that choose.
    pub(crate) fn summary(&mut self, layout: &Layout) -> Result<Summary, SearchError<O::Error>> {
        if let Some(summary) = self.known.get(layout) {
            return Ok(*summary);
        }
        self.extend(layout, self.select.end)?;
        let summary: Summary = self.seen[layout].iter().collect();
        self.known.insert(layout.clone(), summary);
        Ok(summary)
    }

    /// How good a layout is; never better than anything where it is no number.
    pub(crate) fn value(&mut self, layout: &Layout) -> Result<f64, SearchError<O::Error>> {
        let value = self.summary(layout)?.value(self.settings.signal);
        Ok(if value.is_finite() { value } else { f64::NEG_INFINITY })
    }

    /// Whether its score on the examples that choose is at or above the floor.
    pub(crate) fn holds(&mut self, layout: &Layout) -> Result<bool, SearchError<O::Error>> {
        Ok(self.summary(layout)?.score() >= self.trace.minimum)
    }

    /// Has `layout` scored on the first `count` examples that choose.
    fn extend(&mut self, layout: &Layout, count: usize) -> Result<(), SearchError<O::Error>> {
        let before = self.seen.get(layout).map_or(0, Vec::len);
        if before < count {
            let examples = self.evaluate(layout, before..count)?;
            self.seen.entry(layout.clone()).or_default().extend(examples);
        }
        Ok(())
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Vec<Example>, SearchError<O::Error>> {
        let found = self.objective.evaluate(layout, examples.clone()).map_err(SearchError::Objective)?;
        let Evaluation { examples: scores, full_evaluation_equivalents, seconds } = found;
        let summary: Summary = scores.iter().collect();
        let step = Step {
            round: self.round,
            layout: layout.clone(),
            from: examples.start,
            to: examples.end,
            score: summary.score(),
            loss: summary.loss(),
            divergence: summary.divergence(),
            full_evaluation_equivalents,
            seconds,
        };
        (self.observe)(Observation::Evaluated(&step));
        self.trace.evaluations.push(step);
        Ok(scores)
    }

    /// The best candidates, at most `count` of them, best first: those at or above the floor in front of all others, then by the
    /// signal, then in the order given.
    pub(crate) fn best(&mut self, candidates: &[Layout], count: usize) -> Result<Vec<Layout>, SearchError<O::Error>> {
        let finalists = match self.settings.racing {
            Racing::Off => candidates.to_vec(),
            Racing::Exact => self.bounded(candidates, count)?,
            Racing::Statistical { error } => self.raced(candidates, count, error)?,
        };
        let mut ranked = Vec::with_capacity(finalists.len());
        for layout in finalists {
            let (holds, value) = (self.holds(&layout)?, self.value(&layout)?);
            if value > f64::NEG_INFINITY {
                ranked.push((holds, value, layout));
            }
        }
        ranked.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
        Ok(ranked.into_iter().take(count).map(|(_, _, layout)| layout).collect())
    }

    /// The `count` best candidates, as no racing would find them: always the one that can still become the best is scored further,
    /// until it is the best even if all that others have not seen went well. So none is scored beyond the example at which it has
    /// lost more than the winner does in all.
    fn bounded(&mut self, candidates: &[Layout], count: usize) -> Result<Vec<Layout>, SearchError<O::Error>> {
        let all = self.select.end;
        // Looks cost time of their own: of many examples, more between two.
        let step = FIRST_LEG * (all / MOST_LEGS).div_ceil(FIRST_LEG).max(1);
        let mut won = Vec::new();
        // What a candidate reaches at most; the earlier one wins a tie.
        let mut open: BinaryHeap<Bound> =
            (0..candidates.len()).map(|index| Bound { highest: all as f64, index, seen: 0, sum: 0.0 }).collect();
        while won.len() < count {
            let Some(Bound { index, seen, sum, .. }) = open.pop() else { break };
            let layout = &candidates[index];
            if seen == all {
                won.push(layout.clone());
                continue;
            }
            let next = (seen + step).min(all);
            self.extend(layout, next)?;
            // One by one, so that what is complete compares as the sums of all examples do.
            let sum = self.seen[layout][seen..next].iter().fold(sum, |sum, example| sum + f64::from(example.score));
            let highest = if sum.is_finite() { sum + (all - next) as f64 } else { f64::NEG_INFINITY };
            open.push(Bound { highest, index, seen: next, sum });
        }
        Ok(won)
    }

    /// Candidates that may be among the `count` best: the others fell behind the best `count` beyond chance.
    fn raced(&mut self, candidates: &[Layout], count: usize, error: f64) -> Result<Vec<Layout>, SearchError<O::Error>> {
        let all = self.select.end;
        let legs = usize::BITS - (all / FIRST_LEG).leading_zeros() + 1;
        let error = error / (candidates.len() as f64 * f64::from(legs));
        let signal = self.settings.signal;
        let mut running: Vec<&Layout> = candidates.iter().collect();
        let mut leg = FIRST_LEG;
        loop {
            let leg_end = leg.min(all);
            let mut ranked = Vec::new();
            for layout in running {
                self.extend(layout, leg_end)?;
                let mean = self.seen[layout][..leg_end].iter().map(|example| f64::from(signal.of(example))).sum::<f64>();
                if mean.is_finite() {
                    ranked.push((mean, layout));
                }
            }
            // Stable: the earlier candidate stays in front on a tie.
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            if leg_end == all {
                return Ok(candidates.iter().filter(|layout| ranked.iter().any(|(_, other)| other == layout)).cloned().collect());
            }
            if let Some((_, last)) = ranked.get(count - 1) {
                let bar = &self.seen[*last][..leg_end];
                let behind = |layout: &Layout| {
                    let own = self.seen[layout][..leg_end].iter();
                    is_negative(own.zip(bar).map(|(own, bar)| f64::from(signal.of(own)) - f64::from(signal.of(bar))), all, error)
                };
                running =
                    ranked.iter().enumerate().filter(|(place, (_, layout))| *place < count || !behind(layout)).map(|(_, r)| r.1).collect();
            } else {
                running = ranked.into_iter().map(|(_, layout)| layout).collect();
            }
            leg *= 2;
        }
    }

    /// Keeps `layout` if the evidence allows.
    pub(crate) fn accept(&mut self, layout: &Layout) -> Result<Verdict, SearchError<O::Error>> {
        let refitted = self.refit(layout)?;
        if !self.holds(layout)? {
            return self.decide(layout, Verdict::BelowFloor, None, refitted);
        }
        let Acceptance::Bound { confidence, retries, .. } = self.settings.acceptance else {
            return self.decide(layout, Verdict::Kept, None, refitted);
        };
        let found = self.confirmation(layout, (1.0 - confidence) / (retries + 1) as f64)?;
        let verdict = if found.lower >= found.minimum { Verdict::Kept } else { Verdict::Unconfirmed };
        self.decide(layout, verdict, Some(found), refitted)
    }

    /// Has the students of `layout` made anew, if they may be, and keeps them if they are better on the examples that choose.
    fn refit(&mut self, layout: &Layout) -> Result<Option<Refitted>, SearchError<O::Error>> {
        let before = self.summary(layout)?;
        let Some(seconds) = self.objective.refit(layout).map_err(SearchError::Objective)? else { return Ok(None) };
        self.known.remove(layout);
        let examples = self.seen.remove(layout);
        let after = self.summary(layout)?;
        // Neither a score, which is too coarse, nor the divergence from a parent that may have seen these examples.
        let refitted = Refitted { before: before.loss(), after: after.loss(), seconds };
        if !refitted.kept() {
            self.objective.unfit(layout);
            self.known.insert(layout.clone(), before);
            self.seen.remove(layout);
            self.seen.extend(examples.map(|examples| (layout.clone(), examples)));
        }
        Ok(Some(refitted))
    }

    /// Goes on from `layout`, which is above the floor on the examples that choose, without a claim that it holds.
    pub(crate) fn go_on_from(&mut self, layout: &Layout) -> Result<(), SearchError<O::Error>> {
        self.decide(layout, Verdict::GoneOn, None, None).map(drop)
    }

    /// Whether `layout` is a result already; the parent always is.
    pub(crate) fn is_kept(&self, layout: &Layout) -> bool {
        let kept = |decision: &Decision| decision.verdict == Verdict::Kept && decision.layout == *layout;
        *layout == self.trace.parent || self.trace.decisions.iter().any(kept)
    }

    /// Whether another layout may be looked at: after more refusals than were allowed for, the stated confidence would not hold.
    pub(crate) fn may_look(&self) -> bool {
        let refusals = self.trace.decisions.iter().filter(|decision| decision.verdict == Verdict::Unconfirmed).count();
        match self.settings.acceptance {
            Acceptance::Point => true,
            Acceptance::Bound { retries, .. } => refusals <= retries,
        }
    }

    fn confirmation(&mut self, layout: &Layout, error: f64) -> Result<Confirmation, SearchError<O::Error>> {
        let own = self.evaluate(layout, self.confirm.clone())?;
        let of = |example: &Example| match self.settings.floor {
            crate::settings::Floor::Share(_) => example.score,
            crate::settings::Floor::Score { .. } => 1.0,
        };
        let pairs: Vec<(f32, f32)> = own.iter().zip(&self.parent_confirmed).map(|(own, parent)| (own.score, of(parent))).collect();
        let (sum, whole) = pairs.iter().fold((0.0, 0.0), |(a, b), pair| (a + f64::from(pair.0), b + f64::from(pair.1)));
        Ok(Confirmation {
            examples: pairs.len(),
            estimate: sum / whole,
            lower: lower_bound(&pairs, error),
            minimum: self.settings.floor.value(),
            error,
        })
    }

    fn decide(
        &mut self,
        layout: &Layout,
        verdict: Verdict,
        confirmation: Option<Confirmation>,
        refitted: Option<Refitted>,
    ) -> Result<Verdict, SearchError<O::Error>> {
        let score = self.summary(layout)?.score();
        let best = verdict == Verdict::Kept && score >= self.best;
        if best {
            self.best = score;
        }
        let (round, from, minimum) = (self.round, self.current.clone(), self.trace.minimum);
        let decision = Decision { round, from, layout: layout.clone(), score, minimum, verdict, best, confirmation, refitted };
        (self.observe)(Observation::Decided(&decision));
        self.trace.decisions.push(decision);
        if matches!(verdict, Verdict::Kept | Verdict::GoneOn) {
            self.round += 1;
            self.current = layout.clone();
            let changed = self.objective.committed(layout).map_err(SearchError::Objective)?;
            if changed {
                self.known.retain(|known, _| known == layout);
                self.seen.retain(|seen, _| seen == layout);
            }
            if self.seen.values().map(Vec::len).sum::<usize>() > REMEMBERED {
                self.seen.clear();
            }
        }
        Ok(verdict)
    }

    /// Whether the goal is reached.
    pub(crate) fn done(&mut self) -> Result<bool, SearchError<O::Error>> {
        let layout = self.current.clone();
        self.is_goal(&layout)
    }

    /// Whether `layout` is what was asked for.
    pub(crate) fn is_goal(&mut self, layout: &Layout) -> Result<bool, SearchError<O::Error>> {
        Ok(match self.settings.goal {
            Goal::Floor => layout.replaced() == layout.layers(),
            Goal::Replaced(count) => layout.replaced() >= count,
            Goal::Cost(limit) => self.cost(layout)? <= limit,
        })
    }

    /// What running `layout` costs: as measured where the goal is a cost, else the number of layers that are still full.
    pub(crate) fn cost(&mut self, layout: &Layout) -> Result<f64, SearchError<O::Error>> {
        if !matches!(self.settings.goal, Goal::Cost(_)) {
            return Ok((layout.layers() - layout.replaced()) as f64);
        }
        if let Some(cost) = self.costs.get(layout) {
            return Ok(*cost);
        }
        let cost = self.objective.cost(layout).map_err(SearchError::Objective)?;
        self.costs.insert(layout.clone(), cost);
        Ok(cost)
    }

    /// Keeps, of all layouts scored so far, the best of each size, fewest layers first, until one is refused or the goal is reached.
    pub(crate) fn climb(&mut self) -> Result<(), SearchError<O::Error>> {
        let mut ladder: Vec<Option<Layout>> = vec![None; self.settings.layers + 1];
        // In the order of evaluation, so that ties have the same winner in every run.
        let layouts: Vec<Layout> = self.trace.evaluations.iter().map(|step| step.layout.clone()).collect();
        for layout in layouts {
            if !self.known.contains_key(&layout) || !self.holds(&layout)? {
                continue;
            }
            let better = match &ladder[layout.replaced()] {
                Some(other) => self.value(&layout)? > self.value(&other.clone())?,
                None => true,
            };
            if better {
                let size = layout.replaced();
                ladder[size] = Some(layout);
            }
        }
        for layout in ladder.into_iter().skip(1).flatten() {
            if self.done()? || !self.may_look() {
                break;
            }
            self.accept(&layout)?;
        }
        Ok(())
    }
}

/// What a candidate can still reach: the greatest is the best, of equals the earliest.
#[derive(Debug)]
struct Bound {
    highest: f64,
    index: usize,
    seen: usize,
    sum: f64,
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.highest.total_cmp(&other.highest).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bound {}
