//! The last events of the host, for `plugsocket events`.
//!
//! Owns a bounded list of the host's own tracing events at `INFO` and above, each as one line of
//! JSON. Lines of plugins do not belong to it. It does not depend on the filter of the log, and an
//! event that is not kept costs nothing. Recording never waits for a reader.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// The most events that are kept, and the most bytes of them.
const MAX_EVENTS: usize = 1_000;
const MAX_BYTES: usize = 1 << 20;
/// The longest value of a field, in bytes; the rest of it is cut off.
const MAX_VALUE: usize = 4_096;
/// The most bytes of one batch for a reader, beside one event.
const BATCH_BYTES: usize = 64 * 1024;

/// The events of this process.
pub(crate) static EVENTS: LazyLock<EventList> = LazyLock::new(EventList::default);

/// The last events.
#[derive(Default)]
pub(crate) struct EventList {
    kept: Mutex<Kept>,
    /// Wakes readers.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
    /// Number of events so far.
    count: u64,
    has_ended: bool,
}

/// The events from a position.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// One JSON object per line.
    pub(crate) lines: String,
    /// The position after them.
    pub(crate) next: u64,
    /// Events after the position that are not kept any more.
    pub(crate) missed: u64,
    /// Whether no further event follows them.
    pub(crate) is_last: bool,
}

impl EventList {
    /// Returns a receiver that changes when there may be more.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the position before the last `count` events that are kept.
    pub(crate) fn before_last(&self, count: usize) -> u64 {
        let kept = self.lock();
        kept.count - kept.lines.len().min(count) as u64
    }

    /// Returns events from a position, a bounded number of bytes.
    pub(crate) fn read(&self, from: u64) -> Batch {
        let kept = self.lock();
        let first = kept.count - kept.lines.len() as u64;
        let start = from.max(first);
        let mut batch = Batch { next: start, missed: start - from, ..Batch::default() };
        // Never more than `MAX_EVENTS`.
        for line in kept.lines.iter().skip((start - first) as usize) {
            if batch.lines.len() > BATCH_BYTES {
                break;
            }
            batch.lines.push_str(line);
            batch.lines.push('\n');
            batch.next += 1;
        }
        batch.is_last = kept.has_ended && batch.next == kept.count;
        batch
    }

    /// Ends the list: readers stop after the events so far.
    pub(crate) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.send_replace(());
    }

    fn record(&self, event: &Event<'_>) {
        self.push(to_json(event).into());
    }

    fn push(&self, line: Arc<str>) {
        let mut kept = self.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        kept.count += 1;
        while kept.lines.len() > MAX_EVENTS || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
        drop(kept);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Formats an event as one JSON object without a line feed.
fn to_json(event: &Event<'_>) -> String {
    let mut time = String::new();
    // Writing to a String never fails.
    let _infallible = SystemTime.format_time(&mut Writer::new(&mut time));
    let level = event.metadata().level();
    let mut fields = Fields { event: String::new(), others: String::new() };
    event.record(&mut fields);
    let Fields { event, others } = fields;
    let event = Value::from(event);
    format!(r#"{{"time":"{time}","level":"{level}","event":{event}{others}}}"#)
}

/// The fields of an event.
struct Fields {
    event: String,
    /// `,"name":value` for each field.
    others: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let (name, value) = (field.name(), value.into());
        // Writing to a String never fails.
        let _infallible = write!(self.others, ",{}:{value}", Value::from(name));
    }

    fn add_text(&mut self, field: &Field, text: &str) {
        let text = beginning(text);
        match field.name() {
            "message" => self.event = text,
            _ => self.add(field, text),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// Returns the text, or the beginning of a long one.
fn beginning(text: &str) -> String {
    if text.len() <= MAX_VALUE {
        return text.to_owned();
    }
    let end = (0..=MAX_VALUE).rev().find(|end| text.is_char_boundary(*end));
    format!("{}…", &text[..end.unwrap_or_default()])
}

/// The log, and beside it the events. Only the log has a filter.
pub(super) struct WithEvents<S>(pub(super) S);

/// Returns whether an event belongs to the list.
fn is_kept(metadata: &Metadata<'_>) -> bool {
    let is_host = metadata.target().starts_with("plugsocket");
    metadata.is_event() && *metadata.level() <= Level::INFO && is_host
}

impl<S: Subscriber> Subscriber for WithEvents<S> {
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        self.0.on_register_dispatch(subscriber);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let log = self.0.register_callsite(metadata);
        if is_kept(metadata) { Interest::always() } else { log }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint().map(|log| log.max(LevelFilter::INFO))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_kept(metadata) || self.0.enabled(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        if is_kept(metadata) {
            EVENTS.record(event);
            if !self.0.enabled(metadata) {
                return;
            }
        }
        if self.0.event_enabled(event) {
            self.0.event(event);
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.0.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.0.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.0.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.0.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.0.try_close(id)
    }

    fn current_span(&self) -> Current {
        self.0.current_span()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_in_number_and_in_bytes() {
        let list = EventList::default();
        for number in 0..1_500 {
            list.push(number.to_string().into());
        }
        let batch = list.read(0);
        assert_eq!((batch.missed, batch.next), (500, 1_500));
        assert!(batch.lines.starts_with("500\n") && batch.lines.ends_with("\n1499\n"));
        let large: Arc<str> = "x".repeat(MAX_BYTES / 3).into();
        for _ in 0..4 {
            list.push(large.clone());
        }
        assert_eq!(list.read(1_500).missed, 1);
        assert_eq!(list.before_last(2), 1_502);
        assert_eq!(list.before_last(9_999), 1_501);
    }

    #[test]
    fn a_reader_gets_every_event_once_and_then_the_end() {
        let list = EventList::default();
        let large: Arc<str> = "x".repeat(BATCH_BYTES).into();
        for _ in 0..5 {
            list.push(large.clone());
        }
        list.end();
        let (mut from, mut lines, mut batches) = (1, 0, 0);
        loop {
            let batch = list.read(from);
            (from, lines, batches) = (batch.next, lines + batch.lines.lines().count(), batches + 1);
            assert_eq!(batch.missed, 0);
            if batch.is_last {
                break;
            }
        }
        assert_eq!((from, lines), (5, 4));
        assert!(batches > 1, "a batch is bounded");
    }

    #[test]
    fn an_event_is_one_object_with_its_fields_and_others_are_not_kept() {
        let sink = tracing_subscriber::fmt().with_max_level(LevelFilter::OFF);
        let before = EVENTS.lock().count;
        tracing::subscriber::with_default(WithEvents(sink.finish()), || {
            tracing::info!(
                resource = "/a\n\"b\"",
                number = 7,
                is_last = true,
                share = 0.5,
                pause = ?std::time::Duration::from_micros(43),
                "something {} happened", "good"
            );
            tracing::info!(target: "plugin", "a line of a plugin");
            tracing::debug!("a detail");
            tracing::warn!(long = "ä".repeat(3_000), "long");
        });
        let batch = EVENTS.read(before);
        let lines: Vec<Value> =
            batch.lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
        let time = first["time"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
        assert_eq!(
            (&first["level"], &first["event"]),
            (&"INFO".into(), &"something good happened".into())
        );
        assert_eq!(first["resource"], "/a\n\"b\"");
        assert_eq!((&first["number"], &first["is_last"]), (&7.into(), &true.into()));
        assert_eq!((&first["share"], &first["pause"]), (&0.5.into(), &"43µs".into()));
        assert_eq!(second["long"].as_str().unwrap(), format!("{}…", "ä".repeat(2_048)));
    }
}
