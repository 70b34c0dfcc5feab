//! What waits for one client, and what it has received.

use std::collections::VecDeque;

use crate::testing::Received;
use crate::testing::limits::{Limits, OutboxPolicy};

/// The outbox of a connection. A client that is not slow receives everything at once.
#[derive(Debug, Default)]
pub(in crate::testing) struct Outbox {
    pub(in crate::testing) is_slow: bool,
    waiting: VecDeque<Item>,
    pub(in crate::testing) received: Vec<Received>,
    pub(in crate::testing) acknowledged: Vec<String>,
}

#[derive(Debug)]
struct Item {
    content: Outgoing,
    /// Whether it counts towards `outbox_bytes`; one large message does not.
    is_counted: bool,
}

/// What a client receives.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message {
        message: Received,
        key: Option<String>,
    },
    /// The packet `next` with this `fyi`.
    Next(String),
}

/// The client is too slow: it has to be closed.
pub(super) struct Overflow;

impl Outgoing {
    /// Counted for each item, as on the host.
    const OVERHEAD: usize = 64;

    fn bytes(&self) -> usize {
        match self {
            Self::Message { message, .. } => message.as_bytes().len() + Self::OVERHEAD,
            Self::Next(_) => Self::OVERHEAD,
        }
    }
}

impl Outbox {
    pub(super) fn new(is_slow: bool) -> Self {
        Self { is_slow, ..Self::default() }
    }

    pub(super) fn push(&mut self, content: Outgoing, limits: &Limits) -> Result<(), Overflow> {
        if !self.is_slow {
            self.deliver(content);
            return Ok(());
        }
        if limits.outbox_policy == OutboxPolicy::Conflate
            && let Some(index) = self.index_of_key(&content)
        {
            let old = &self.waiting[index];
            let counted = self.counted() - if old.is_counted { old.content.bytes() } else { 0 };
            let has_large = old.is_counted && self.has_large();
            let is_counted = fits(content.bytes(), counted, has_large, limits).ok_or(Overflow)?;
            self.waiting[index] = Item { content, is_counted };
            return Ok(());
        }
        let is_counted = match self.place(content.bytes(), limits) {
            Some(is_counted) => is_counted,
            None if limits.outbox_policy == OutboxPolicy::DropOldest => {
                self.drop_oldest(limits);
                self.place(content.bytes(), limits).ok_or(Overflow)?
            }
            None => return Err(Overflow),
        };
        self.waiting.push_back(Item { content, is_counted });
        Ok(())
    }

    /// Delivers everything that waits.
    pub(in crate::testing) fn drain(&mut self) {
        for item in std::mem::take(&mut self.waiting) {
            self.deliver(item.content);
        }
    }

    /// Drops everything that waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(in crate::testing) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn deliver(&mut self, content: Outgoing) {
        match content {
            Outgoing::Message { message, .. } => self.received.push(message),
            Outgoing::Next(fyi) => self.acknowledged.push(fyi),
        }
    }

    fn index_of_key(&self, content: &Outgoing) -> Option<usize> {
        let Outgoing::Message { key: Some(key), .. } = content else { return None };
        self.waiting.iter().position(|item| match &item.content {
            Outgoing::Message { key: Some(waiting), .. } => waiting == key,
            _ => false,
        })
    }

    /// Returns whether an entry of this size would count, or `None` if it does not fit.
    fn place(&self, bytes: usize, limits: &Limits) -> Option<bool> {
        let has_room = self.waiting.len() < limits.outbox_messages;
        has_room.then(|| fits(bytes, self.counted(), self.has_large(), limits)).flatten()
    }

    fn counted(&self) -> usize {
        self.waiting.iter().filter(|item| item.is_counted).map(|item| item.content.bytes()).sum()
    }

    fn has_large(&self) -> bool {
        self.waiting.iter().any(|item| !item.is_counted)
    }

    fn drop_oldest(&mut self, limits: &Limits) {
        let messages = limits.outbox_messages - limits.outbox_messages.div_ceil(8);
        let bytes = limits.outbox_bytes - limits.outbox_bytes / 8;
        while self.waiting.len() > messages || self.counted() > bytes || self.has_large() {
            let is_message = |item: &Item| matches!(item.content, Outgoing::Message { .. });
            let Some(oldest) = self.waiting.iter().position(is_message) else { break };
            self.waiting.remove(oldest);
        }
    }
}

/// Returns whether an entry counts, or `None` if it does not fit. One entry may wait uncounted.
fn fits(bytes: usize, counted: usize, has_large: bool, limits: &Limits) -> Option<bool> {
    let limit = limits.outbox_bytes;
    let has_place = counted + bytes <= limit;
    if has_place && (bytes <= limit / 2 || has_large) {
        return Some(true);
    }
    (!has_large).then_some(false)
}
