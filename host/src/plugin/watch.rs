//! Tells when a file of the operator's may have changed and is quiet again. Loads nothing and judges nothing.
//!
//! Watches folders, not files (a file's watch dies with its inode), and looks itself every few seconds, because some changes make no
//! event: the target of a symbolic link elsewhere, a folder that was made anew. A file counts as quiet when nothing was heard of
//! it for a while; whether it really changed is for the supervisor to compare.

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

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct WatchedPaths {
    /// Every `lib*.so` in it.
    pub(crate) plugin_dir: PathBuf,
    /// The configuration.
    pub(crate) file: PathBuf,
    pub(crate) quiet: Duration,
    pub(crate) rescan: Duration,
}

/// The files of a scope at one moment.
pub(crate) type Survey = HashMap<PathBuf, FileStamp>;

/// Sends the path of each file that changed, appeared or disappeared since `seen` and has been quiet since. Ends when nobody
/// listens any more. `scope` is asked again each time, as its times may change.
pub(crate) async fn watch(
    scope: impl Fn() -> WatchedPaths + Send,
    mut seen: Survey,
    changed: mpsc::Sender<PathBuf>,
) {
    let (heard, mut events) = mpsc::channel(EVENTS);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // What does not fit is found by the next rescan.
        drop(event.map(|event| heard.try_send(event)));
    })
    .inspect_err(|error| warn!(%error, "no file events; changes are found every few seconds"))
    .ok();
    let mut next_look = Instant::now();
    let mut restless: HashMap<PathBuf, Instant> = HashMap::new();
    loop {
        let next_quiet = restless.values().min().copied();
        let scope = scope();
        tokio::select! {
            Some(event) = events.recv() => {
                for path in event.paths.into_iter().filter(|_| tells_of_change(event.kind)) {
                    if scope.covers(&path) {
                        restless.insert(path, Instant::now() + scope.quiet);
                    }
                }
            }
            () = sleep_until(next_look) => {
                next_look = Instant::now() + scope.rescan;
                scope.watch_folders(watcher.as_mut());
                let looked = scope.clone();
                // Without a thread for it the next look finds what this one would have.
                let Ok(found) = run_blocking(move || survey(&looked)).await else { continue };
                let paths = seen.keys().chain(found.keys());
                for path in paths.filter(|path| seen.get(*path) != found.get(*path)) {
                    restless.entry(path.clone()).or_insert_with(|| Instant::now() + scope.quiet);
                }
                seen = found;
            }
            () = sleep_until(next_quiet.unwrap_or_else(Instant::now)), if next_quiet.is_some() => {
                let now = Instant::now();
                for (path, _) in restless.extract_if(|_, quiet| *quiet <= now) {
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

/// Events that may wait; each is a path or two.
const EVENTS: usize = 1024;

impl WatchedPaths {
    fn covers(&self, path: &Path) -> bool {
        path == self.file || path.parent() == Some(&self.plugin_dir) && plugin_name(path).is_some()
    }

    /// Again at each rescan: a folder that was made anew is another folder.
    fn watch_folders(&self, watcher: Option<&mut RecommendedWatcher>) {
        let Some(watcher) = watcher else { return };
        for folder in [Some(&*self.plugin_dir), self.file.parent()].into_iter().flatten() {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                debug!(folder = %folder.display(), %error, "cannot be watched now");
            }
        }
    }
}

fn tells_of_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// What lies there now. Taken before the files are read for the first time, it lets [`watch`] find what changed meanwhile.
pub(crate) fn survey(scope: &WatchedPaths) -> Survey {
    libraries(&scope.plugin_dir)
        .into_iter()
        .chain([scope.file.clone()])
        .filter_map(|path| FileStamp::of(&path).map(|stamp| (path, stamp)))
        .collect()
}

/// The libraries in a folder; none if it cannot be read.
pub(crate) fn libraries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| plugin_name(path).is_some()).collect();
    paths.sort();
    paths
}

/// `feedback` for `…/libfeedback.so`.
pub(crate) fn plugin_name(path: &Path) -> Option<&str> {
    path.file_name()?
        .to_str()?
        .strip_prefix("lib")?
        .strip_suffix(".so")
        .filter(|name| !name.is_empty())
}

/// `…/libfeedback.so` for `feedback`.
pub(crate) fn library(folder: &Path, plugin: &str) -> PathBuf {
    folder.join(format!("lib{plugin}.so"))
}
