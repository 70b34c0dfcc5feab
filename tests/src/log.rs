//! What the host writes on standard error, kept whole and waited for.

use std::fmt;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

/// One line of the log.
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

    /// The fixed phrase; the whole line if it is not of the log.
    pub fn message(&self) -> &str {
        self.json["fields"]["message"].as_str().unwrap_or(&self.text)
    }

    /// Whether the phrase begins so.
    pub fn says(&self, beginning: &str) -> bool {
        self.message().starts_with(beginning)
    }

    /// A field as text; empty if it is not there.
    pub fn field(&self, name: &str) -> String {
        match &self.json["fields"][name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// `ERROR`, `WARN`, `INFO`, …
    pub fn level(&self) -> &str {
        self.json["level"].as_str().unwrap_or_default()
    }

    /// The line as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All lines so far.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Mutex<Vec<Line>>,
    /// How many there are, and whether more can come.
    state: watch::Sender<(usize, bool)>,
}

impl Log {
    /// Reads on a thread until the writer has gone.
    pub(crate) fn read(pipe: PipeReader) -> Arc<Self> {
        let log = Arc::new(Self { lines: Mutex::default(), state: watch::Sender::new((0, true)) });
        let reader = log.clone();
        std::thread::spawn(move || {
            for text in BufReader::new(pipe).lines().map_while(Result::ok) {
                let count = {
                    let mut lines = reader.lines.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.push(Line::new(text));
                    lines.len()
                };
                reader.state.send_replace((count, true));
            }
            reader.state.send_modify(|(_, more)| *more = false);
        });
        log
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The first line from number `from` on that is meant; None if the host has ended without it.
    pub(crate) async fn wait(&self, from: usize, is_meant: impl Fn(&Line) -> bool) -> Option<Line> {
        let mut state = self.state.subscribe();
        let mut at = from;
        loop {
            let (count, more) = *state.borrow_and_update();
            {
                let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = lines.iter().take(count).skip(at).find(|line| is_meant(line)) {
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
