//! A plan as `dtr check` prints it.

use std::fmt::Write;

use crate::schema::Experiment;
use crate::stages::Plan;
use crate::words::{bytes, duration};

/// What a run will do, need and take.
pub fn plan(experiment: &Experiment, plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |name: &str, words: String| {
        let _ = writeln!(text, "{name:12} {words}");
    };
    let Plan { memory, seconds, .. } = plan;
    let size = |size: usize| bytes(size as f64);
    line("experiment", format!("{} on {}, seed {}", experiment.name(), experiment.compute(), experiment.seed()));
    line("parent", format!("{}, {} parameters", plan.parent, plan.parameters));
    if !plan.has_weights {
        line("", "its weights are not here: sizes are those of its config.json".into());
    }
    if !plan.has_tokenizer {
        line("", "its tokenizer is not here: tasks and files were not checked, questions are taken to be as long as distill.length".into());
    }
    line("distillation", format!("{} students, {} parameters, {} tokens", plan.students, plan.student_parameters, plan.tokens));
    for name in &experiment.search().tasks {
        let task = &experiment.tasks()[name];
        line("search", format!("{name}: at most {} layouts on {} examples, tested on {}", plan.evaluations, task.validation, task.test));
        if plan.retrained > 0 {
            line("", format!("students made anew on at most {} of its tokens", plan.retrained));
        }
    }
    line("memory", format!("about {}", size(memory.most())));
    line("", format!("parent {}, students {}; besides", size(memory.weights), size(memory.students)));
    line("", format!("distillation {} for optimiser and gradients, {} for passes", size(memory.optimiser), size(memory.training)));
    line("", format!("search {}, longest context {}", size(memory.shared), size(memory.longest)));
    line("time", format!("about {}, searches at most", duration(seconds.distill + seconds.search + seconds.efficiency)));
    let parts = [("distillation", seconds.distill), ("search", seconds.search), ("speed", seconds.efficiency)];
    line("", parts.map(|(name, seconds)| format!("{name} {}", duration(seconds))).join(", "));
    line("", format!("at {:.1} G multiply-adds a second in products of its shape, measured now", plan.products_per_second / 1e9));
    text
}
