//! `dtr export`: a model for stock runtimes.

use std::path::Path;

use dtr_attention::TrainBackend;
use dtr_experiment::Error;
use dtr_models::Format;
use dtr_models::export::export as write;

use crate::backend::{Work, default_device, dispatch};

/// `dtr export`.
pub fn export(directory: &Path, format: &str, output: &Path) -> Result<(), Error> {
    struct ExportWork<'a>(&'a Path, Format, &'a Path);
    impl Work for ExportWork<'_> {
        type Output = Result<(), Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            Ok(write::<B::InnerBackend>(self.0, self.1, self.2, &device)?)
        }
    }

    let format: Format = format.parse()?;
    dispatch(default_device()?, ExportWork(directory, format, output))??;
    println!("{}: {}", output.display(), format.loader());
    Ok(())
}
