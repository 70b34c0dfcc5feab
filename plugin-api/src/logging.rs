//! Forwards `tracing` events, `log` records and panics of a plugin to the host's log.
//!
//! A plugin has its own copies of these crates' statics, so the host's subscriber does not receive
//! them. Spans are not forwarded; the host adds the plugin's name and generation.

use std::fmt::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, LevelFilter, Metadata, Subscriber, dispatcher};

use crate::abi::LogSink;
use crate::types::Level;

/// The host's log. One per library: each generation is loaded separately, from its own path.
static SINK: OnceLock<LogSink> = OnceLock::new();

/// Installs the forwarding. The host calls this first; a second call has no effect.
pub(crate) fn attach(sink: LogSink) {
    if SINK.set(sink).is_err() {
        return;
    }
    // A plugin that installed its own subscribers keeps them.
    let _ = dispatcher::set_global_default(Dispatch::new(Forward));
    if log::set_logger(&Forward).is_ok() {
        log::set_max_level(match sink.max_level {
            0 => log::LevelFilter::Off,
            1 => log::LevelFilter::Error,
            2 => log::LevelFilter::Warn,
            3 => log::LevelFilter::Info,
            4 => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        });
    }
    // No backtrace: with RUST_BACKTRACE=1 it would cost each generation a symbol cache of
    // megabytes.
    std::panic::set_hook(Box::new(|info| write(Level::Error, "panic", &panic_line(info))));
}

fn panic_line(info: &PanicHookInfo<'_>) -> String {
    let place =
        info.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
    format!("the plugin panicked{place}: {}", crate::export::panic_text(info.payload()))
}

fn write(level: Level, target: &str, text: &str) {
    if let Some(sink) = SINK.get()
        && level as u32 <= sink.max_level
    {
        (sink.log)(sink.context, level as u32, target.into(), text.into());
    }
}

struct Forward;

impl Subscriber for Forward {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= max_level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(max_level())
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            tracing_core::Level::ERROR => Level::Error,
            tracing_core::Level::WARN => Level::Warn,
            tracing_core::Level::INFO => Level::Info,
            tracing_core::Level::DEBUG => Level::Debug,
            tracing_core::Level::TRACE => Level::Trace,
        };
        write(level, event.metadata().target(), &line.finish());
    }

    // Spans are never enabled; only code that ignores `enabled` calls these.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug => Level::Debug,
            log::Level::Trace => Level::Trace,
        };
        write(level, record.target(), &record.args().to_string());
    }

    fn flush(&self) {}
}

fn max_level() -> LevelFilter {
    match SINK.get().map_or(0, |sink| sink.max_level) {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// A log line `message key=value key=value`, the format of the host's text log.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Fails only if the plugin's `Debug` implementation does; the line is then incomplete.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::HostContext;
    use abi_stable::std_types::RStr;
    use std::sync::Mutex;

    static LINES: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

    extern "C" fn keep(_: HostContext, level: u32, _: RStr<'_>, text: RStr<'_>) {
        LINES.lock().unwrap().push((level, text.as_str().to_owned()));
    }

    #[test]
    fn tracing_log_and_panics_arrive_with_level_and_fields() {
        let before = std::panic::take_hook();
        attach(LogSink { context: HostContext(std::ptr::null()), max_level: 3, log: keep });
        tracing::info!(books = 3, "locked");
        tracing::debug!("not wanted");
        log::warn!("old {}", "style");
        std::panic::catch_unwind(|| panic!("dropped it")).unwrap_err();
        std::panic::set_hook(before);
        let lines = LINES.lock().unwrap().clone();
        assert_eq!(lines[0], (3, "locked books=3".to_owned()));
        assert_eq!(lines[1], (2, "old style".to_owned()));
        assert_eq!(lines[2].0, 1);
        assert!(
            lines[2].1.contains("logging.rs:") && lines[2].1.ends_with("dropped it"),
            "{lines:?}"
        );
        assert_eq!(lines.len(), 3);
    }
}
