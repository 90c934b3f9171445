//! The hybrids as directories that load again.

use burn::prelude::Backend;
use dtr_models::checkpoint;

use super::prepare::Parent;
use super::{Found, Run};
use crate::error::Error;
use crate::events::{Event, Model};

impl Run<'_> {
    pub(super) fn export<B: Backend>(&mut self, parent: &Parent<B>, found: &[Found<B>]) -> Result<(), Error> {
        for found in found {
            for (model, (layout, generation)) in found.models().into_iter().filter(|(model, _)| *model != Model::Parent) {
                let directory = self.directory.hybrid(&found.task, model);
                let (config, hybrid) = parent.hybrid(&layout, &found.banks[generation]);
                let hybrid = found.recovered.clone().filter(|_| model == Model::MOpt).unwrap_or(hybrid);
                checkpoint::save(&directory, &config, &hybrid, &parent.directory)?;
                let path = directory.strip_prefix(self.directory.path()).unwrap_or(&directory).display().to_string();
                self.log.emit(Event::Exported { task: found.task.clone(), model, path })?;
            }
        }
        Ok(())
    }
}
