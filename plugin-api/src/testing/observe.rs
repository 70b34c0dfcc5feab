//! What a test observes: messages, acknowledgements, rooms, metrics.

use super::Harness;
use super::simulated_host::{Client, Handled, lock};
use crate::Plugin;
use crate::types::{CloseCode, ClosedBy, ConnectionId, Level};

/// A message that a client has received: see [`Harness::received_messages`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

impl Received {
    /// Returns the bytes of the payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// The value of a series of [`Harness::metric`].
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// A number that only grows.
    Counter(f64),
    /// A number that rises and falls.
    Gauge(f64),
    /// A distribution of values.
    Histogram {
        /// Upper bounds, each with the number of values that are at most the bound.
        buckets: Vec<(f64, u64)>,
        /// Number of values.
        count: u64,
        /// Sum of the values.
        sum: f64,
    },
}

impl Metric {
    /// Returns whether both can belong to one name: the same kind and the same buckets.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(_), Self::Counter(_)) | (Self::Gauge(_), Self::Gauge(_)) => true,
            (Self::Histogram { buckets: mine, .. }, Self::Histogram { buckets: other, .. }) => {
                mine.iter().map(|(bound, _)| bound).eq(other.iter().map(|(bound, _)| bound))
            }
            _ => false,
        }
    }
}

impl<P: Plugin> Harness<P> {
    /// Returns the messages sent to a client since the last call, as text. Invalid UTF-8 in a
    /// binary message is replaced by U+FFFD.
    #[must_use]
    pub fn received(&self, id: ConnectionId) -> Vec<String> {
        self.received_bytes(id).iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
    }

    /// Returns the messages sent to a client since the last call, as bytes.
    #[must_use]
    pub fn received_bytes(&self, id: ConnectionId) -> Vec<Vec<u8>> {
        let received = self.received_messages(id).into_iter();
        received
            .map(|message| match message {
                Received::Text(text) => text.into_bytes(),
                Received::Binary(bytes) => bytes,
            })
            .collect()
    }

    /// Returns the messages sent to a client since the last call, each as text or binary.
    #[must_use]
    pub fn received_messages(&self, id: ConnectionId) -> Vec<Received> {
        self.find(id, |client| std::mem::take(&mut client.outbox.received)).unwrap_or_default()
    }

    /// Returns the acknowledgements sent to a client since the last call: the `fyi` of each `next`,
    /// in the order of its messages.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct App { host: Host, tickets: Vec<Ticket> }
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> {
    /// #       Ok(Self { host, tickets: Vec::new() })
    /// #   }
    /// #   fn message(&mut self, s: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
    /// #       self.tickets.push(self.host.defer(s)?);
    /// #       Ok(())
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// app.message(ann, "a").unwrap();
    /// app.message(ann, "b").unwrap();
    /// let [a, b] = std::mem::take(&mut app.plugin().tickets).try_into().unwrap();
    /// b.complete_with("second").unwrap();
    /// assert!(app.acknowledged(ann).is_empty());
    /// a.complete_with("first").unwrap();
    /// assert_eq!(app.acknowledged(ann), ["first", "second"]);
    /// ```
    #[must_use]
    pub fn acknowledged(&self, id: ConnectionId) -> Vec<String> {
        self.find(id, |client| std::mem::take(&mut client.outbox.acknowledged)).unwrap_or_default()
    }

    /// Returns the number of messages of an open connection that are
    /// [deferred](crate::Host::defer) at present.
    #[must_use]
    pub fn deferred(&self, id: ConnectionId) -> usize {
        let is_deferred = |handled: &&Handled| matches!(handled, Handled::Deferred(_));
        self.find(id, |client| match client.end {
            Some(_) => 0,
            None => client.handled.iter().filter(is_deferred).count(),
        })
        .unwrap_or_default()
    }

    /// Returns the number of messages and acknowledgements that wait for a
    /// [slow](Self::slow) client.
    #[must_use]
    pub fn waiting(&self, id: ConnectionId) -> usize {
        self.find(id, |client| client.outbox.waiting()).unwrap_or_default()
    }

    /// Returns code and reason with which the application or the host closed a connection; `None`
    /// while it is open, and if the client has left.
    #[must_use]
    pub fn closed(&self, id: ConnectionId) -> Option<(CloseCode, String)> {
        let end = self.find(id, |client| client.end.clone())??;
        (end.by != ClosedBy::Peer).then_some((end.code, end.text))
    }

    /// Returns the `fyi` that the client's `next` packets contain.
    #[must_use]
    pub fn fyi(&self, id: ConnectionId) -> String {
        self.find(id, |client| client.fyi.clone()).unwrap_or_default()
    }

    /// Returns the uuid of a client.
    #[must_use]
    pub fn uuid(&self, id: ConnectionId) -> String {
        self.find(id, |client| client.record.peer.uuid.clone()).unwrap_or_default()
    }

    /// Returns the rooms of a connection, in the order in which it joined them.
    #[must_use]
    pub fn rooms(&self, id: ConnectionId) -> Vec<String> {
        self.find(id, |client| client.rooms.clone()).unwrap_or_default()
    }

    /// Returns the members of a room, in the order in which they joined it.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct Chat(Host);
    /// # impl Plugin for Chat {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn open(&mut self, s: &Session<'_>) -> Result<(), Refused> {
    /// #       self.0.join(s.id(), "lobby")?;
    /// #       Ok(self.0.set_room_data("lobby", b"topic: rust")?)
    /// #   }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    ///
    /// let mut app = Harness::<Chat>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// assert_eq!(app.members("lobby"), [ann]);
    /// assert_eq!(app.room_data("lobby").as_deref(), Some(&b"topic: rust"[..]));
    /// app.close(ann);
    /// assert_eq!((app.members("lobby"), app.room_data("lobby")), (vec![], None));
    /// ```
    #[must_use]
    pub fn members(&self, room: &str) -> Vec<ConnectionId> {
        self.lease.host.lock().members_of(room).into_iter().map(ConnectionId).collect()
    }

    /// Returns the data of a room, or `None` if it has none.
    #[must_use]
    pub fn room_data(&self, room: &str) -> Option<Vec<u8>> {
        let data = self.lease.host.lock().data_of(room);
        (!data.is_empty()).then_some(data)
    }

    /// Returns the data that is stored with a connection, or `None` if it has none; also after its
    /// end.
    #[must_use]
    pub fn data(&self, id: ConnectionId) -> Option<Vec<u8>> {
        let data = self.find(id, |client| lock(&client.record.data).clone())?;
        (!data.is_empty()).then_some(data)
    }

    /// Returns the value of a series, or `None` if it is not registered.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Metric};
    /// # use plugsocket_plugin::*;
    /// # struct App(Counter);
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> {
    /// #       let bids = host.counter("bids", "Accepted bids.", &[("lot", "clock")]);
    /// #       bids.add(2.0);
    /// #       Ok(Self(bids))
    /// #   }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    ///
    /// let app = Harness::<App>::start("{}").unwrap();
    /// assert_eq!(app.metric("bids", &[("lot", "clock")]), Some(Metric::Counter(2.0)));
    /// assert_eq!(app.metric("bids", &[]), None);
    /// ```
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<Metric> {
        self.lease.host.lock().metrics.value(name, labels)
    }

    /// Returns the lines of [`Host::log`](crate::Host::log) since the last call, and why the host
    /// did not register a series.
    #[must_use]
    pub fn logged(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lease.host.lock().log)
    }

    /// Returns what `read` reads of a connection, or `None` if this harness did not open it.
    fn find<T>(&self, id: ConnectionId, read: impl FnOnce(&mut Client) -> T) -> Option<T> {
        self.lease.host.lock().clients.get_mut(&id.0).map(read)
    }

    /// Returns what `read` reads of a connection that this harness opened.
    #[track_caller]
    pub(super) fn client<T>(&self, id: u64, read: impl FnOnce(&mut Client) -> T) -> T {
        self.find(ConnectionId(id), read).expect("a connection that this harness opened")
    }
}
