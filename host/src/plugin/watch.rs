//! Reports each watched file that may have changed and is quiet again. Loads nothing.
//!
//! Watches folders rather than files, because a file's watch ends with its inode. Also rescans
//! every few seconds, because some changes cause no event: the target of a symbolic link, a folder
//! that was created anew. A file is quiet after a time without events; the supervisor compares its
//! content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;

/// The watched files.
#[derive(Clone, Debug)]
pub(crate) struct WatchedPaths {
    /// Every `lib*.so` in it.
    pub(crate) plugin_dir: PathBuf,
    /// The configuration file.
    pub(crate) file: PathBuf,
    pub(crate) quiet: Duration,
    pub(crate) rescan: Duration,
}

/// The stamps of all watched files at one moment.
pub(crate) type Survey = HashMap<PathBuf, FileStamp>;

/// Sends the path of each file that changed, appeared or disappeared since `seen` and is quiet
/// again. Ends when the receiver is dropped. Calls `scope` each time, because its durations may
/// change.
pub(crate) async fn watch(
    scope: impl Fn() -> WatchedPaths + Send,
    mut seen: Survey,
    changed: mpsc::Sender<PathBuf>,
) {
    let (sender, mut events) = mpsc::channel(EVENTS);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An event that does not fit is found by the next rescan.
        drop(event.map(|event| sender.try_send(event)));
    })
    .inspect_err(|error| warn!(%error, "file events are not available; only rescans find changes"))
    .ok();
    let mut next_scan = Instant::now();
    let mut unsettled: HashMap<PathBuf, Instant> = HashMap::new();
    loop {
        let next_quiet = unsettled.values().min().copied();
        let scope = scope();
        tokio::select! {
            Some(event) = events.recv() => {
                for path in event.paths.into_iter().filter(|_| is_change(event.kind)) {
                    if scope.covers(&path) {
                        unsettled.insert(path, Instant::now() + scope.quiet);
                    }
                }
            }
            () = sleep_until(next_scan) => {
                next_scan = Instant::now() + scope.rescan;
                scope.watch_folders(watcher.as_mut());
                let scanned = scope.clone();
                // Without a thread, the next rescan finds the changes.
                let Ok(found) = run_blocking(move || survey(&scanned)).await else { continue };
                let paths = seen.keys().chain(found.keys());
                for path in paths.filter(|path| seen.get(*path) != found.get(*path)) {
                    unsettled.entry(path.clone()).or_insert_with(|| Instant::now() + scope.quiet);
                }
                seen = found;
            }
            () = sleep_until(next_quiet.unwrap_or_else(Instant::now)), if next_quiet.is_some() => {
                let now = Instant::now();
                for (path, _) in unsettled.extract_if(|_, quiet| *quiet <= now) {
                    match FileStamp::of(&path) {
                        Some(stamp) => seen.insert(path.clone(), stamp),
                        None => seen.remove(&path),
                    };
                    if changed.send(path).await.is_err() {
                        return;
                    }
                }
            }
            () = changed.closed() => return,
        }
    }
}

/// Capacity of the queue of events; each has one or two paths.
const EVENTS: usize = 1024;

impl WatchedPaths {
    fn covers(&self, path: &Path) -> bool {
        path == self.file || path.parent() == Some(&self.plugin_dir) && plugin_name(path).is_some()
    }

    /// Called at each rescan, because a folder may have been created anew.
    fn watch_folders(&self, watcher: Option<&mut RecommendedWatcher>) {
        let Some(watcher) = watcher else { return };
        for folder in [Some(&*self.plugin_dir), self.file.parent()].into_iter().flatten() {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                debug!(folder = %folder.display(), %error, "cannot watch folder");
            }
        }
    }
}

/// Returns whether an event may have changed a file.
pub(crate) fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Returns the present stamps. Taken before the files are first read, so that [`watch`] finds later
/// changes.
pub(crate) fn survey(scope: &WatchedPaths) -> Survey {
    libraries(&scope.plugin_dir)
        .into_iter()
        .chain([scope.file.clone()])
        .filter_map(|path| FileStamp::of(&path).map(|stamp| (path, stamp)))
        .collect()
}

/// Returns the paths of the libraries in a folder; none if it cannot be read.
pub(crate) fn libraries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| plugin_name(path).is_some()).collect();
    paths.sort();
    paths
}

/// Returns `feedback` for `…/libfeedback.so`.
pub(crate) fn plugin_name(path: &Path) -> Option<&str> {
    path.file_name()?
        .to_str()?
        .strip_prefix("lib")?
        .strip_suffix(".so")
        .filter(|name| !name.is_empty())
}

/// Returns `…/libfeedback.so` for `feedback`.
pub(crate) fn library(folder: &Path, plugin: &str) -> PathBuf {
    folder.join(format!("lib{plugin}.so"))
}
