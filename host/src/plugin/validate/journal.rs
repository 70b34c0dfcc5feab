//! Collects what the library logs about panics, also about those that have no other consequence.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use super::report::{Finding, fail, warn};

/// The log of a child process.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<String>>>);

/// Lines that are kept.
const MOST: usize = 100;

impl Journal {
    /// Becomes the log of this process.
    pub(super) fn install() -> Self {
        let journal = Self::default();
        // A second one is not installed.
        drop(registry().with(journal.clone().with_filter(LevelFilter::WARN)).try_init());
        journal
    }

    /// Returns where the library has panicked last.
    pub(super) fn last_panic(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find_map(|line| Some(line.strip_prefix(PANIC)?.to_owned()))
    }

    /// Returns a finding about a panic that no callback has returned.
    pub(super) fn finding(&self) -> Option<Finding> {
        let panic = self.last_panic()?;
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |text: &str| lines.iter().any(|line| line.starts_with(text));
        Some(if failed("dropping an instance failed") {
            fail(format!("the drop of its instance panicked{panic}"))
        } else if failed("callback `retiring` failed") {
            fail(format!("`retiring` panicked{panic}"))
        } else {
            warn(format!("it panicked{panic}, on a thread of its own or where it catches panics"))
        })
    }
}

/// How the line about a panic begins; place and text follow.
const PANIC: &str = "the plugin panicked";

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MOST {
            lines.push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            write!(self.0, "{value:?}").ok();
        }
    }
}
