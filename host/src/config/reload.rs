//! The tables `[server.reload]` and `[server.watchdog]`: how the host replaces plugins, and handles
//! those that hang or panic.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::rules::{count, limit, seconds, switch};
use super::{keys::settings, raw::Node};

settings! {
    /// Replacement of plugins.
    pub struct ReloadSettings in "reload." {
        /// Debounce: the host reads a library once its file has not changed for this time.
        "quiet" => quiet: Duration = seconds(0.15, 0.0, "");
        /// Time between two scans of the plugin folder that do not rely on notifications.
        "rescan" => rescan: Duration = seconds(3.0, 0.01, "would do nothing but scan the folder");
        /// Earlier generations of each plugin that the host keeps for a rollback. 0: none.
        "keep_generations" => keep_generations: usize = count("generations", 0..=1000, 3, "");
        /// Refuse a library that another user can write.
        "check_owner" => check_owner: bool = switch(true);
    }
    and {
        /// Limits of a start and a handover.
        handover: HandoverSettings;
        /// Probation of a new generation.
        probation: ProbationSettings;
    }
}

settings! {
    /// Limits of a start and a handover. Beyond one, the host refuses the library.
    pub struct HandoverSettings in "reload." {
        /// Time for each step of the preflight without a limit of its own: to open the library in a
        /// child process, and to drop an instance.
        "preflight_timeout" => preflight: Duration =
            seconds(5.0, 0.001, "would refuse every plugin");
        /// Time for an instance to start.
        "start_timeout" => start: Duration = seconds(10.0, 0.001, "would refuse every plugin");
        /// Time for an instance to restore the state of the one before.
        "restore_timeout" => restore: Duration = seconds(10.0, 0.001, "would refuse every plugin");
        /// Size of a state that is handed over.
        "snapshot_limit" => snapshot_limit: usize = count("bytes", 0..=1 << 40, 256 << 20, "");
    }
}

settings! {
    /// Probation: the host rolls back a new generation that panics, hangs, or fails too often.
    pub struct ProbationSettings in "reload." {
        /// Duration of the probation. 0: no probation.
        "probation_time" => time: Duration = seconds(30.0, 0.0, "");
        /// Messages after which a generation has passed before that time.
        "probation_messages" => messages: usize = count("messages", 1..=1 << 40, 1000,
            "would watch nothing; probation_time = 0 turns the probation off");
        /// Share of refused messages or slow calls above which the host rolls back.
        "probation_share" => share: usize = count("percent", 0..=100, 20, "");
    }
}

settings! {
    /// Handling of applications that hang or panic.
    pub struct WatchdogSettings in "watchdog.", checked by limit_after_warning {
        /// Time after which the host reports a running callback and counts it as slow.
        "callback_warn" => callback_warn: Duration =
            seconds(1.0, 0.01, "would report every callback");
        /// Time after which the host abandons a running callback: it closes the clients of the
        /// resource (1013) and starts a new instance. At least `callback_warn`.
        "callback_limit" => callback_limit: Duration =
            seconds(30.0, 0.01, "would abandon every callback");
        /// Panics within a minute after which the host starts a new instance. 0: no limit.
        "max_panics" => max_panics: Option<NonZeroUsize> = limit("panics", 1_000_000, 5);
        /// Time before the host starts an application again (exponential backoff: it doubles each
        /// time, up to ten minutes).
        "restart_pause" => restart_pause: Duration = seconds(5.0, 0.0, "");
    }
}

fn limit_after_warning(
    mut settings: WatchdogSettings,
    section: &mut Node<'_, '_>,
) -> WatchdogSettings {
    let (warn, limit) = (settings.callback_warn, settings.callback_limit);
    if limit < warn && section.has_right("callback_limit") {
        let [limit, warn] = [limit, warn].map(|time| time.as_secs_f64());
        let problem = format!("{limit} seconds is less than callback_warn ({warn})");
        section.wrong("callback_limit", format!("{problem}; give at least as many"));
    }
    settings.callback_limit = limit.max(warn);
    settings
}
