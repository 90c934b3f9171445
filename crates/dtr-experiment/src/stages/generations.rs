//! Which students a layout is scored with: those the search began with, or some made anew since.

use std::collections::HashMap;

use dtr_search::Layout;

use crate::schema::Experiment;

/// Students are counted by generation: 0 are those that the search began with, and each refit makes one more.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// Of layouts proposed since their students were made anew; all others are of the one that the search stands at.
    of: HashMap<Layout, usize>,
    /// What the layout that the search stands at has.
    current: usize,
    made: usize,
    commits: usize,
}

impl Generations {
    /// Generation of the students that `layout` is scored with.
    pub fn of(&self, layout: &Layout) -> usize {
        if layout.replaced() == 0 { 0 } else { self.of.get(layout).copied().unwrap_or(self.current) }
    }

    /// Whether the students of `layout`, which is proposed, are to be made anew.
    pub fn due(&self, experiment: &Experiment, layout: &Layout) -> bool {
        let every = experiment.search().refit.as_ref().map(|refit| refit.every);
        layout.replaced() > 0 && every.is_some_and(|every| (self.commits + 1).is_multiple_of(every))
    }

    /// The number of the generation made next.
    pub fn next(&self) -> usize {
        self.made + 1
    }

    /// The next generation is made, of the students of `layout`.
    pub fn refitted(&mut self, layout: &Layout) {
        self.made += 1;
        self.of.insert(layout.clone(), self.made);
    }

    /// `layout` has the students of before again.
    pub fn unfit(&mut self, layout: &Layout) {
        self.of.insert(layout.clone(), self.current);
    }

    /// The search stands at `layout`; whether other layouts have other students now.
    pub fn committed(&mut self, layout: &Layout) -> bool {
        self.commits += 1;
        let before = self.current;
        self.current = self.of(layout);
        // What is a result keeps its students.
        self.of.insert(layout.clone(), self.current);
        self.current != before
    }
}
