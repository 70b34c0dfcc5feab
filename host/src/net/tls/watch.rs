//! Rereads certificate files that changed, and logs certificates that expire.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{CurrentTls, Role, ServedCertificates, file_stamps};
use crate::config::{Config, ConfigError, Problem};
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::{FileStamps, FileState};

/// Replaces certificates whose files changed, and warns of expiry once a day. Never returns.
pub(crate) async fn watch_certificates(config: &ArcSwap<Config>, tls: &CurrentTls) {
    // When expiry was last logged, and how many certificates had expired by then.
    let mut last_warning: Option<(Instant, usize)> = None;
    loop {
        let config = config.load_full();
        if let Some(served) = tls.load_full() {
            let expired = served.statuses().filter(|status| status.is_expired()).count();
            let is_due = last_warning.is_none_or(|(at, of)| at.elapsed() >= DAY || of != expired);
            if is_due && log_expiry(&served) {
                last_warning = Some((Instant::now(), expired));
            }
            reload_changed(tls, &config, &served).await;
        }
        sleep(config.server.reload.rescan).await;
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WARN_DAYS: u64 = 14;

/// Reads the files once they are settled, as a certificate and its key are rarely replaced at the
/// same moment. Files with a problem are always read.
async fn reload_changed(tls: &CurrentTls, config: &Arc<Config>, served: &Arc<ServedCertificates>) {
    let has_new_settings = config.server.tls.as_ref().is_some_and(|tls| *tls != served.settings);
    let mut files = served.files.clone();
    let mut state = files.poll(poll_files(served).await);
    if state == FileState::Unchanged && !has_new_settings && served.problems.is_empty() {
        return;
    }
    while state == FileState::Changing {
        sleep(config.server.reload.quiet).await;
        state = files.poll(poll_files(served).await);
    }
    let (settings, previous) = (config.clone(), served.clone());
    let read = run_blocking(move || ServedCertificates::load(&settings, Some(&previous))).await;
    let problems = match read {
        Ok(Ok(Some(next))) => {
            let problems = next.problems.clone();
            let differs = next.differs_from(served);
            let next = Arc::new(next);
            tls.store(Some(next.clone()));
            if differs {
                next.log_certificates();
            }
            problems
        }
        Ok(Err(ConfigError::Invalid { problems, .. })) => problems,
        Err(error) => return error!(%error, "certificate files cannot be checked"),
        Ok(_) => return,
    };
    log_problems(problems.iter().filter(|problem| !served.problems.contains(problem)));
}

async fn poll_files(served: &Arc<ServedCertificates>) -> FileStamps {
    let served = served.clone();
    // Without a thread the files count as changed; the next poll decides.
    run_blocking(move || file_stamps(&served.settings)).await.unwrap_or_default()
}

fn log_problems<'a>(problems: impl Iterator<Item = &'a Problem>) {
    for Problem { key, problem, .. } in problems {
        error!(key, problem, "certificate file rejected; the previous one stays in service");
    }
}

impl ServedCertificates {
    /// Logs the certificates in service and the files that are not.
    pub(crate) fn log_status(&self) {
        log_problems(self.problems.iter());
        self.log_certificates();
    }

    fn log_certificates(&self) {
        for status in self.statuses() {
            let (file, expires) = (status.file.display(), status.expiry_date());
            match status.role {
                Role::Server(_) => {
                    info!(%file, names = status.names.join(" "), expires, "certificate in service");
                }
                Role::ClientAuthority => info!(%file, expires, "client authority in service"),
            }
        }
    }
}

/// Logs certificates that have expired or expire soon. Returns whether there was one.
fn log_expiry(served: &ServedCertificates) -> bool {
    let mut is_any = false;
    for status in served.statuses() {
        let (file, expires) = (status.file.display(), status.expiry_date());
        let (is_expired, days_left) = (status.is_expired(), status.days_left());
        is_any |= days_left < WARN_DAYS;
        if is_expired && status.role == Role::ClientAuthority {
            warn!(%file, expires, "client authority expired, its clients are still backends; renew or remove it");
        } else if is_expired {
            error!(%file, expires, "certificate expired, clients refuse it; renew it");
        } else if days_left < WARN_DAYS {
            warn!(%file, expires, days_left, "certificate expires soon; renew it");
        }
    }
    is_any
}
