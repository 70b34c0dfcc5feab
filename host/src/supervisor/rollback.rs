//! Rollback to a library that served before.

use std::sync::Arc;

use tracing::{info, warn};

use super::Supervisor;
use super::commands::CommandResult;
use super::load::{Purpose, Refusal, stage};
use crate::config::Config;
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::hub::status::Active;
use crate::plugin::archive::{Archive, ArchivedGeneration};
use crate::plugin::dylib::Generation;
use crate::plugin::lane::handover::Succession;
use crate::plugin::staging::{self, Hash, StageError};
use crate::plugin::watch;

impl Supervisor {
    /// Replaces the library by an archived generation: `wanted`, or the one before the active one.
    pub(super) async fn roll_back(
        &mut self,
        name: &str,
        wanted: Option<u64>,
        succession: Succession,
    ) -> CommandResult {
        let config = self.config_of_enabled(name)?;
        self.read_archive(name).await;
        let archived = self.choose(name, wanted)?;
        let purpose = match succession {
            Succession::Update => Purpose::Update,
            Succession::Replacement | Succession::Restored => Purpose::Fresh,
        };
        let loaded = match self.load_archived(name, &archived, purpose, &config).await {
            Ok(loaded) => loaded,
            Err(refusal) => return Err(self.report(name, &refusal)),
        };
        let done = self.replace(name, loaded, &config, succession).await?;
        // It has passed its probation.
        self.probations.remove(name);
        let file = watch::library(&config.server.folders.plugin_dir, name);
        let library = file.clone();
        let content = run_blocking(move || staging::hash_of(&library)).await.flatten();
        // Without a file, nothing could be loaded again.
        let content = content.ok().map(|hash| staging::hex(&hash));
        self.plugin(name).seen = FileStamp::of(&file);
        self.record_rollback(name, content.as_deref().filter(|hash| *hash != archived.hash));
        info!(plugin = name, kept = archived.number, "plugin rolled back");
        Ok(format!("{done}; it has the content of generation {}", archived.number))
    }

    fn choose(&self, name: &str, wanted: Option<u64>) -> Result<ArchivedGeneration, String> {
        let (list, rolled_back) = (self.archived(name), self.archive(name).rolled_back());
        let active = self.plugins.get(name).and_then(|plugin| plugin.status.active.as_ref());
        let active = active.map(|active| staging::hex(&active.hash));
        let is_wanted = |archived: &&ArchivedGeneration| match wanted {
            Some(number) => archived.number == number,
            None => ![&active, &rolled_back].contains(&&Some(archived.hash.clone())),
        };
        list.iter().find(is_wanted).cloned().ok_or_else(|| match (wanted, list) {
            (None, _) => format!("no earlier generation of {name} is kept"),
            (Some(number), []) => format!("generation {number} of {name} is not kept; none is"),
            (Some(number), list) => {
                let numbers: Vec<String> = list.iter().map(|it| it.number.to_string()).collect();
                let numbers = numbers.join(", ");
                format!("generation {number} of {name} is not kept; kept are {numbers}")
            }
        })
    }

    /// Returns the newest archived generation that was not rolled back.
    pub(super) fn newest_good(&self, name: &str) -> Option<ArchivedGeneration> {
        let rolled_back = self.archive(name).rolled_back();
        self.archived(name).iter().find(|it| Some(&it.hash) != rolled_back.as_ref()).cloned()
    }

    /// Loads an archived library as a new generation.
    pub(super) async fn load_archived(
        &mut self,
        name: &str,
        archived: &ArchivedGeneration,
        purpose: Purpose,
        config: &Config,
    ) -> Result<Active, Refusal> {
        let staged = stage(name, archived.path.clone(), config).await?;
        if staging::hex(&staged.hash) != archived.hash {
            let (found, archived) = (staged.hash, archived.hash.clone());
            staged.remove();
            return Err(StageError::OtherThanArchived { found, archived }.into());
        }
        self.open(name, staged, purpose, config).await
    }

    /// Archives a serving generation. A failure only prevents a later rollback.
    pub(super) async fn keep(&mut self, name: &str, generation: Arc<Generation>, hash: Hash) {
        let earlier = self.hub.config.load().server.reload.keep_generations;
        if earlier == 0 {
            return;
        }
        let archive = self.archive(name);
        let keep = move || {
            let Generation { path, number, facts, .. } = &*generation;
            archive.keep(path, *number, (&hash, &facts.version), earlier)
        };
        if let Err(error) = run_blocking(keep).await.flatten() {
            warn!(plugin = name, %error, "cannot archive the generation for rollback");
        }
        self.read_archive(name).await;
    }

    /// Reads the archive, if not done yet.
    pub(super) async fn know_archive(&mut self, name: &str) {
        if !self.plugin(name).is_archive_read {
            self.read_archive(name).await;
        }
    }

    /// Reads the list of archived generations of a plugin.
    pub(super) async fn read_archive(&mut self, name: &str) {
        let archive = self.archive(name);
        match run_blocking(move || archive.list()).await {
            Ok(list) => {
                let plugin = self.plugin(name);
                (plugin.status.archived, plugin.is_archive_read) = (list, true);
            }
            Err(error) => warn!(plugin = name, %error, "cannot read the archive"),
        }
    }

    fn archived(&self, name: &str) -> &[ArchivedGeneration] {
        self.plugins.get(name).map_or(&[], |plugin| &plugin.status.archived)
    }

    pub(super) fn record_rollback(&self, name: &str, hash: Option<&str>) {
        if let Err(error) = self.archive(name).set_rolled_back(hash) {
            warn!(plugin = name, %error, "cannot record the rollback; a restart loads the library again");
        }
    }

    pub(super) fn archive(&self, name: &str) -> Archive {
        Archive::new(&self.hub.config.load().server.folders.state_dir, name)
    }

    /// Returns the number of a generation that is about to be opened. It counts libraries that
    /// served: a refused one leaves its number to the next, and a restart continues with the number
    /// of the library that served last.
    pub(super) async fn number_of(&mut self, name: &str, hash: &Hash) -> u64 {
        self.know_archive(name).await;
        let last = self.plugin(name).last_number;
        match self.archived(name).first() {
            Some(newest) if last == 0 && newest.hash == staging::hex(hash) => newest.number,
            newest => last.max(newest.map_or(0, |newest| newest.number)) + 1,
        }
    }
}
