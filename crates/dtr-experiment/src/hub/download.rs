//! Repositories of a hub, file by file into the local cache. Which is asked first: what is there whole is never asked for again, so that a
//! run that goes on finds the parent it began with, also where its branch has moved.

use std::env;
use std::path::{Path, PathBuf};

use dtr_models::checkpoint::{self, COMPANIONS, CONFIGURATION, INDEX, WEIGHTS};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::Wanted;
use crate::error::Error;

/// What is read from the environment, under the names that other programs use.
struct Settings {
    cache: Cache,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl Settings {
    fn from_environment() -> Self {
        let variable = |name| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let cache = variable("HF_HUB_CACHE").map_or_else(Cache::from_env, |path| Cache::new(path.into()));
        Self {
            // Where there is no token in the environment, the one that `hf auth login` left.
            token: variable("HF_TOKEN").or_else(|| Cache::from_env().token()),
            cache,
            endpoint: variable("HF_ENDPOINT"),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())),
        }
    }
}

/// One repository at one revision.
struct Remote<'a> {
    repository: &'a str,
    revision: &'a str,
    settings: Settings,
}

pub(super) fn directory(repository: &str, revision: &str, wanted: Wanted) -> Result<PathBuf, Error> {
    let remote = Remote { repository, revision, settings: Settings::from_environment() };
    let repo = || Repo::with_revision(repository.into(), RepoType::Model, revision.into());
    let cached = remote.settings.cache.repo(repo());
    if let Some(directory) = whole(&cached, wanted) {
        return Ok(directory);
    }
    if remote.settings.offline {
        let reason = format!("not whole in {}, and HF_HUB_OFFLINE is set", remote.settings.cache.path().display());
        return Err(remote.error(reason, "unset HF_HUB_OFFLINE once, or put the model into a directory and name it as parent.path"));
    }
    let mut builder = ApiBuilder::from_cache(remote.settings.cache.clone()).with_token(remote.settings.token.clone());
    if let Some(endpoint) = &remote.settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let api = builder.build().map_err(|error| remote.refused(&error, "the hub"))?;
    remote.download(&api.repo(repo()), wanted)?;
    whole(&cached, wanted).ok_or_else(|| {
        remote.error("it changed while it was downloaded".into(), "run the same command again; a commit as revision cannot change")
    })
}

/// The cached snapshot, if all that is wanted is in it. Weights come last, so that where they are, the rest is.
fn whole(cached: &CacheRepo, wanted: Wanted) -> Option<PathBuf> {
    let directory = cached.get(CONFIGURATION)?.parent()?.to_owned();
    let there = wanted == Wanted::Configuration || checkpoint::has_weights(&directory);
    there.then_some(directory)
}

impl Remote<'_> {
    fn download(&self, repo: &ApiRepo, wanted: Wanted) -> Result<(), Error> {
        let get = |name: &str| repo.get(name).map_err(|error| self.refused(&error, name));
        let configuration = get(CONFIGURATION)?;
        if wanted == Wanted::Configuration {
            return Ok(());
        }
        let info = repo.info().map_err(|error| self.refused(&error, "its list of files"))?;
        let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        for name in COMPANIONS.into_iter().filter(|name| names.contains(name)) {
            get(name)?;
        }
        let shards = if names.contains(&INDEX) {
            get(INDEX)?;
            let listed = checkpoint::shards(configuration.parent().unwrap_or(Path::new("")))?;
            listed.into_iter().filter(|name| names.contains(&name.as_str())).collect()
        } else if names.contains(&WEIGHTS) {
            vec![WEIGHTS.to_owned()]
        } else {
            let reason = format!("it has neither {WEIGHTS} nor {INDEX}; pickles are never read");
            return Err(self.error(reason, "choose a revision with safetensors, or convert the model with transformers' save_pretrained"));
        };
        shards.iter().try_for_each(|name| get(name).map(drop))
    }

    /// What became of a request for `what`.
    fn refused(&self, error: &ApiError, what: &str) -> Error {
        let status = match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => Some(status),
                _ => None,
            },
            _ => None,
        };
        match status {
            Some(401 | 403) if self.settings.token.is_some() => self.error(
                format!("access to {what} is denied: the repository is gated or private, or there is none, and the token in HF_TOKEN does not open it"),
                "accept the model's terms on its page with the account of the token, or correct the name or the token",
            ),
            Some(401 | 403) => self.error(
                format!("access to {what} is denied: the repository is gated or private, or there is none"),
                "correct the name; or accept the model's terms on its page and set the environment variable HF_TOKEN to a token of that account",
            ),
            Some(404) => self.error(format!("the hub has no {what} there"), "correct parent.hub or parent.revision"),
            _ => self.error(
                format!("{what} could not be downloaded: {error}"),
                "run the same command again: what was downloaded is kept. With HF_HUB_OFFLINE=1 only the cache is used",
            ),
        }
    }

    fn error(&self, reason: String, remedy: &'static str) -> Error {
        // No message of the client has it; should one ever, it ends here.
        let reason = self.settings.token.as_ref().map_or(reason.clone(), |token| reason.replace(token, "***"));
        Error::Hub { repository: self.repository.into(), revision: self.revision.into(), reason, remedy }
    }
}
