//! From events to a report: of what was said twice, the later counts.

use dtr_search::{Floor, Verdict};

use super::interval::wilson;
use super::{Baseline, Efficiency, Examples, Hybrid, Parent, Recovered, Report, Scores, Search, Student, Task, TooLong};
use super::{crossover, front, replaced};
use crate::events::{Event, Model};

impl Report {
    /// What is known after these events, of a run that is done, goes on, or broke off. Where a thing was said twice, the later counts.
    pub fn from_events(events: &[Event]) -> Self {
        let mut report = Self::default();
        for event in events {
            report.add(event);
        }
        report.crossovers = crossover::all(&report.efficiency);
        for name in report.tasks.keys().cloned().collect::<Vec<_>>() {
            let pareto = front::points(&name, &report, events).into_iter().filter(|point| point.front).collect();
            let task = report.task(name);
            task.pareto = pareto;
            task.add_intervals();
        }
        report
    }

    fn add(&mut self, event: &Event) {
        match event.clone() {
            Event::Started { experiment, device, seed } => (self.experiment, self.device, self.seed) = (experiment, device, seed),
            Event::Parent { model_type, layers, parameters } => self.parent = Parent { model_type, layers, parameters },
            Event::Student { layer, operator, normalised_mse } => {
                let students = &mut self.distillation.students;
                students.retain(|student| (student.layer, &student.operator) != (layer, &operator));
                students.push(Student { layer, operator, normalised_mse });
            }
            Event::Distilled { tokens, tokens_per_second } => {
                (self.distillation.tokens, self.distillation.tokens_per_second) = (tokens, tokens_per_second);
            }
            Event::Searched { task, metric, strategy, floor, reached, evaluations, full_evaluation_equivalents, seconds } => {
                let task = self.task(task);
                task.metric = metric;
                let (floor, floor_is_score) = (floor.value(), matches!(floor, Floor::Score { .. }));
                task.search = Search { strategy, floor, floor_is_score, reached, evaluations, full_evaluation_equivalents, seconds };
            }
            Event::Decided { task, verdict: Verdict::Kept, confirmation, .. } => self.task(task).confirmation = confirmation,
            Event::Recovered { task, before, after, test_before, test_after } => {
                self.task(task).recovery = Some(Recovered { before, after, test_before, test_after });
            }
            Event::Tested { task, model, layout, validation, test } => {
                let task = self.task(task);
                match model {
                    Model::Parent => task.parent = Scores { validation, test, ..Scores::default() },
                    Model::MBest => task.m_best = Hybrid::new(layout, validation, test),
                    Model::MOpt => {
                        task.m_opt = Hybrid::new(layout, validation, test);
                        // They are told behind this, and of this hybrid.
                        task.differing.clear();
                    }
                    Model::AllLinear => {}
                }
            }
            Event::Baseline { task, name, layout, validation, test } => {
                let baselines = &mut self.task(task).baselines;
                baselines.retain(|baseline| baseline.name != name);
                baselines.push(Baseline { name, hybrid: Hybrid::new(layout, validation, test) });
            }
            Event::Answered(answer) => self.task(answer.task.clone()).differing.push(answer),
            Event::Efficiency(new) => {
                let same =
                    |row: &Efficiency| (row.context, row.model, &row.task, &row.layout) == (new.context, new.model, &new.task, &new.layout);
                self.efficiency.retain(|row| !same(row));
                self.efficiency.push(new);
            }
            Event::TooLong { task, model, layout, context, needed_bytes } => {
                self.too_long.retain(|row| (&row.task, &row.layout, row.context) != (&task, &layout, context));
                self.too_long.push(TooLong { task, model, layout, context, needed_bytes });
            }
            Event::Finished { seconds } => (self.complete, self.seconds) = (true, seconds),
            Event::Searching { task, metric, validation, test } => {
                let task = self.task(task);
                (task.metric, task.examples) = (metric, Examples { validation, test });
            }
            Event::Guessing { task, found } => self.task(task).guessing = Some(found),
            Event::Evaluated { task, .. } => {
                self.task(task);
            }
            Event::Distilling { .. } | Event::Decided { .. } | Event::Exported { .. } => {}
        }
    }

    fn task(&mut self, name: String) -> &mut Task {
        self.tasks.entry(name).or_default()
    }
}

impl Hybrid {
    fn new(layout: String, validation: f64, test: f64) -> Self {
        Self { replaced: replaced(&layout), layout, validation, test, ..Self::default() }
    }
}

impl Task {
    fn add_intervals(&mut self) {
        let Examples { validation, test } = self.examples;
        (self.parent.validation_interval, self.parent.test_interval) =
            (wilson(self.parent.validation, validation), wilson(self.parent.test, test));
        let baselines = self.baselines.iter_mut().map(|baseline| &mut baseline.hybrid);
        for hybrid in [&mut self.m_best, &mut self.m_opt].into_iter().chain(baselines).filter(|hybrid| !hybrid.layout.is_empty()) {
            (hybrid.validation_interval, hybrid.test_interval) = (wilson(hybrid.validation, validation), wilson(hybrid.test, test));
        }
    }
}
