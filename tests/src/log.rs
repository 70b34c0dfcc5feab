//! The host's log: collected from standard error, searchable, awaitable.

use std::fmt;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    text: String,
    json: Value,
}

impl Line {
    fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { text, json }
    }

    /// Returns the message without fields, or the whole line if it is not JSON.
    pub fn message(&self) -> &str {
        self.json["fields"]["message"].as_str().unwrap_or(&self.text)
    }

    /// Returns whether the message starts with `beginning`.
    pub fn starts_with(&self, beginning: &str) -> bool {
        self.message().starts_with(beginning)
    }

    /// Returns a field as a string; empty if it is missing.
    pub fn field(&self, name: &str) -> String {
        match &self.json["fields"][name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Returns `ERROR`, `WARN`, `INFO` or a lower level.
    pub fn level(&self) -> &str {
        self.json["level"].as_str().unwrap_or_default()
    }

    /// Returns the unparsed line.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All log lines so far.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Mutex<Vec<Line>>,
    /// The number of lines, and whether more may follow.
    state: watch::Sender<(usize, bool)>,
    is_paused: Mutex<bool>,
    resumed: Condvar,
}

impl Log {
    /// Reads lines on a thread until the write end is closed.
    pub(crate) fn read(pipe: PipeReader) -> Arc<Self> {
        let log = Arc::new(Self {
            lines: Mutex::default(),
            state: watch::Sender::new((0, true)),
            is_paused: Mutex::new(false),
            resumed: Condvar::new(),
        });
        let reader = log.clone();
        std::thread::spawn(move || {
            for text in BufReader::new(pipe).lines().map_while(Result::ok) {
                let count = {
                    let mut lines = reader.lines.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.push(Line::new(text));
                    lines.len()
                };
                reader.state.send_replace((count, true));
                let paused = reader.is_paused.lock().unwrap_or_else(PoisonError::into_inner);
                drop(reader.resumed.wait_while(paused, |paused| *paused));
            }
            reader.state.send_modify(|(_, more)| *more = false);
        });
        log
    }

    /// Stops reading after the next line, or continues.
    pub(crate) fn pause(&self, is_paused: bool) {
        *self.is_paused.lock().unwrap_or_else(PoisonError::into_inner) = is_paused;
        self.resumed.notify_all();
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for the first matching line at or after `from`; None if the host ends without it.
    pub(crate) async fn wait(&self, from: usize, is_match: impl Fn(&Line) -> bool) -> Option<Line> {
        let mut state = self.state.subscribe();
        let mut at = from;
        loop {
            let (count, more) = *state.borrow_and_update();
            {
                let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = lines.iter().take(count).skip(at).find(|line| is_match(line)) {
                    return Some(line.clone());
                }
            }
            if !more {
                return None;
            }
            at = at.max(count);
            state.changed().await.ok()?;
        }
    }
}
