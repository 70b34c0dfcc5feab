//! Watches the sources of a plugin. A change counts once all of them are quiet.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::build::{Project, Tool};
use crate::fs::stamp::FileStamp;
use crate::plugin::watch::{self, Survey};

/// The sources of a plugin, and how they were when they were last built.
pub(super) struct Sources {
    folder: PathBuf,
    tool: Tool,
    /// One entry for any number of file events.
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    built: Survey,
}

/// Debounce: files are quiet that are the same after this time.
const QUIET: Duration = Duration::from_millis(50);
/// Time between scans that do not rely on file events.
const RESCAN: Duration = Duration::from_secs(2);

impl Sources {
    pub(super) fn watch(project: &Project) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| watch::is_change(event.kind)) {
                // Full: the scan is yet to come.
                sender.try_send(()).ok();
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| warn!(%error, "file events are not available; only rescans find changes"),
            )
            .ok();
        let (folder, tool) = (project.folder.clone(), project.tool);
        let mut sources = Self { folder, tool, events, watcher, built: Survey::new() };
        sources.watch_folders();
        sources
    }

    /// Called at each scan, because a folder may have been created anew. Not the whole folder of the
    /// project: a build writes thousands of files there.
    fn watch_folders(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for (folder, mode) in [
            (self.folder.clone(), RecursiveMode::NonRecursive),
            (self.folder.join("src"), RecursiveMode::Recursive),
        ] {
            // A project may have no such folder; the rescan finds changes in any case.
            drop(watcher.watch(&folder, mode));
        }
    }

    /// Records that the present sources are being built: any later change is a new one.
    pub(super) fn mark_built(&mut self) {
        self.built = self.survey();
    }

    /// Waits until the sources differ from those that were built and are quiet.
    pub(super) async fn changed(&mut self) {
        let mut last = None;
        loop {
            let found = self.survey();
            if found == self.built {
                last = None;
                self.watch_folders();
                tokio::select! {
                    _ = self.events.recv() => {}
                    () = sleep(RESCAN) => {}
                }
            } else if last.replace(found) == last {
                return;
            } else {
                sleep(QUIET).await;
            }
        }
    }

    fn survey(&self) -> Survey {
        let mut found = Survey::new();
        let in_root = |name: &str| match self.tool {
            Tool::Cargo => ["Cargo.toml", "build.rs"].contains(&name),
            Tool::Make => name == "Makefile" || is_c(name),
        };
        let in_src = |name: &str| self.tool == Tool::Cargo || is_c(name);
        for (name, entry) in entries(&self.folder) {
            if in_root(&name) {
                add(&entry.path(), &mut found);
            }
        }
        collect(&self.folder.join("src"), DEPTH, &in_src, &mut found);
        found
    }
}

/// Levels of folders below `src`.
const DEPTH: usize = 16;

fn collect(folder: &Path, depth: usize, is_source: &dyn Fn(&str) -> bool, found: &mut Survey) {
    for (name, entry) in entries(folder) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                collect(&entry.path(), depth - 1, is_source, found);
            }
        } else if is_source(&name) {
            add(&entry.path(), found);
        }
    }
}

fn add(path: &Path, found: &mut Survey) {
    found.extend(FileStamp::of(path).map(|stamp| (path.to_owned(), stamp)));
}

/// Returns the entries of a folder without temporary files of editors; none if it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = (String, DirEntry)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry)));
    named.filter(|(name, _)| !name.starts_with(['.', '#']) && !name.ends_with('~'))
}

fn is_c(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["c", "h", "cc", "cpp", "cxx", "hh", "hpp"].contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_saved_source_is_a_change_and_what_a_build_or_an_editor_writes_is_not() {
        let folder =
            std::env::temp_dir().join(format!("plugsocket-sources-{}", std::process::id()));
        fs::create_dir_all(folder.join("src/inner")).unwrap();
        fs::create_dir_all(folder.join("target")).unwrap();
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        let mut sources = Sources::watch(&Project::at(&folder).unwrap());
        for file in ["Cargo.toml", "src/lib.rs", "src/inner/new.rs", "src/page.html"] {
            sources.mark_built();
            fs::write(folder.join(file), "changed").unwrap();
            tokio::time::timeout(Duration::from_secs(20), sources.changed()).await.unwrap();
        }
        sources.mark_built();
        fs::remove_file(folder.join("src/page.html")).unwrap();
        tokio::time::timeout(Duration::from_secs(20), sources.changed()).await.unwrap();
        sources.mark_built();
        for file in ["Cargo.lock", "target/lib.so", "src/.lib.rs.swp", "src/lib.rs~", "notes.txt"] {
            fs::write(folder.join(file), "changed").unwrap();
        }
        assert_eq!(sources.built, sources.survey());
        fs::remove_dir_all(&folder).unwrap();
    }
}
