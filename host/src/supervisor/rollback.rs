//! Rollback to a library that served before.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::Supervisor;
use super::commands::CommandResult;
use super::load::{Active, Refusal, forget};
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::plugin::archive::{Archive, Kept};
use crate::plugin::dylib::Generation;
use crate::plugin::lane::handover::Succession;
use crate::plugin::staging::{self, Hash, StageError};
use crate::plugin::watch;

impl Supervisor {
    /// Replaces the library by a kept generation: `wanted`, or the one before the active one.
    pub(super) async fn roll_back(
        &mut self,
        name: &str,
        wanted: Option<u64>,
        succession: Succession,
    ) -> CommandResult {
        let config = self.hub.config.load_full();
        self.must_be_mapped(name, &config)?;
        if self.is_disabled(name) {
            return Err(format!("{name} is disabled; enable it"));
        }
        self.read_archive(name).await;
        let kept = self.choose(name, wanted)?;
        let loaded = match self.load_kept(name, &kept).await {
            Ok(loaded) => loaded,
            Err(refusal) => return Err(self.report(name, &refusal)),
        };
        let done = self.replace(name, loaded, &config, succession).await?;
        // It has passed its probation.
        self.probations.remove(name);
        let file = watch::library(&config.server.folders.plugin_dir, name);
        let content = run_blocking({
            let file = file.clone();
            move || staging::hash_of(&file)
        });
        // Without a file, nothing could be loaded again.
        let content = content.await.flatten().ok().map(|hash| staging::hex(&hash));
        self.plugins.entry(name.to_owned()).or_default().seen = FileStamp::of(&file);
        self.record_rollback(name, content.as_deref().filter(|hash| *hash != kept.hash));
        info!(plugin = name, kept = kept.number, "plugin rolled back");
        Ok(format!("{done}; it has the content of generation {}", kept.number))
    }

    fn choose(&self, name: &str, wanted: Option<u64>) -> Result<Kept, String> {
        let (list, rolled_back) = (self.kept(name), self.archive(name).rolled_back());
        let active = self.plugins.get(name).and_then(|plugin| plugin.active.as_ref());
        let active = active.map(|active| staging::hex(&active.hash));
        let numbers: Vec<String> = list.iter().map(|kept| kept.number.to_string()).collect();
        let is_meant = |kept: &Kept| match wanted {
            Some(number) => kept.number == number,
            None => ![&active, &rolled_back].contains(&&Some(kept.hash.clone())),
        };
        list.into_iter().find(is_meant).ok_or_else(|| match (wanted, numbers.as_slice()) {
            (None, _) => format!("no earlier generation of {name} is kept"),
            (Some(number), []) => format!("generation {number} of {name} is not kept; none is"),
            (Some(number), kept) => {
                format!("generation {number} of {name} is not kept; kept are {}", kept.join(", "))
            }
        })
    }

    /// Returns the newest kept generation that was not rolled back.
    pub(super) fn newest_good(&self, name: &str) -> Option<Kept> {
        let rolled_back = self.archive(name).rolled_back();
        self.kept(name).into_iter().find(|kept| Some(&kept.hash) != rolled_back.as_ref())
    }

    /// Loads a kept library as a new generation.
    pub(super) async fn load_kept(&mut self, name: &str, kept: &Kept) -> Result<Active, Refusal> {
        let number = self.next_number(name).await;
        let limit = self.hub.config.load().server.reload.handover.preflight;
        let (folder, plugin, path) = (self.staging.clone(), name.to_owned(), kept.path.clone());
        let demands = self.demands(name);
        let copied = move || staging::stage(&path, &folder, &plugin, number, &demands);
        let staged = run_blocking(copied).await.map_err(Refusal::Host)??;
        if staging::hex(&staged.hash) != kept.hash {
            forget(&staged.path);
            let (found, kept) = (staged.hash, kept.hash.clone());
            return Err(StageError::OtherThanKept { found, kept }.into());
        }
        match self.open(name, number, &staged, limit).await {
            Ok(generation) => {
                let generation = Arc::new(generation);
                Ok(Active { generation, hash: staged.hash, since: SystemTime::now() })
            }
            Err(refusal) => {
                forget(&staged.path);
                Err(refusal)
            }
        }
    }

    /// Archives a serving generation. A failure only prevents a later rollback.
    pub(super) async fn keep(&mut self, name: &str, generation: Arc<Generation>, hash: Hash) {
        let earlier = self.hub.config.load().server.reload.keep_generations;
        if earlier == 0 {
            return;
        }
        let archive = self.archive(name);
        let keep = move || archive.keep(&generation.path, generation.number, &hash, earlier);
        if let Err(error) = run_blocking(keep).await.flatten() {
            warn!(plugin = name, %error, "cannot archive the generation for rollback");
        }
        self.read_archive(name).await;
    }

    /// Reads the archive, if not done yet.
    pub(super) async fn know_archive(&mut self, name: &str) {
        if self.plugins.get(name).is_none_or(|plugin| plugin.kept.is_none()) {
            self.read_archive(name).await;
        }
    }

    /// Reads the kept generations of a plugin into memory.
    pub(super) async fn read_archive(&mut self, name: &str) {
        let archive = self.archive(name);
        match run_blocking(move || archive.list()).await {
            Ok(list) => self.plugins.entry(name.to_owned()).or_default().kept = Some(list),
            Err(error) => warn!(plugin = name, %error, "cannot read the archive"),
        }
    }

    fn kept(&self, name: &str) -> Vec<Kept> {
        self.plugins.get(name).and_then(|plugin| plugin.kept.clone()).unwrap_or_default()
    }

    pub(super) fn record_rollback(&self, name: &str, hash: Option<&str>) {
        if let Err(error) = self.archive(name).set_rolled_back(hash) {
            warn!(plugin = name, %error, "cannot record the rollback; a restart loads the library again");
        }
    }

    pub(super) fn archive(&self, name: &str) -> Archive {
        Archive::new(&self.hub.config.load().server.folders.state_dir, name)
    }

    /// Returns the number of a new generation; numbers continue across restarts.
    pub(super) async fn next_number(&mut self, name: &str) -> u64 {
        self.know_archive(name).await;
        let newest = self.kept(name).first().map_or(0, |kept| kept.number);
        let plugin = self.plugins.entry(name.to_owned()).or_default();
        plugin.last_number = plugin.last_number.max(newest) + 1;
        plugin.last_number
    }
}
