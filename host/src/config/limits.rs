//! Limits of `[server]`: connections, sizes, queues and times.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::keys::settings;
use super::policies::{RateSettings, outbox_bytes, outbox_messages};
use super::raw::Node;
use super::rules::{count, limit, seconds, seconds_or_none, table};

settings! {
    /// Limits of the whole host and of each connection.
    pub struct Limits: Default in "", checked by holds_a_message {}
    and {
        /// Number of connections.
        connections: ConnectionSettings;
        /// Sizes of requests and messages.
        messages: MessageLimits;
        /// Queues and rates.
        flow: FlowLimits;
    }
}

fn holds_a_message(limits: Limits, section: &mut Node<'_, '_>) -> Limits {
    let (message, buffered) = (limits.messages.max_message, limits.flow.max_buffered_bytes);
    if section.has_right("max_buffered_bytes") && buffered.is_some_and(|all| all.get() < message) {
        let problem = format!(
            "the host could not take one message of max_message ({message} bytes); give at least \
             as much, or 0 for no limit"
        );
        section.wrong("max_buffered_bytes", problem);
    }
    limits
}

settings! {
    /// Connection limits. 0: no limit.
    pub struct ConnectionSettings in "" {
        /// Connections of the whole host.
        "max_connections" => max_connections: Option<NonZeroUsize> =
            limit("connections", 10_000_000, 0);
        /// WebSocket clients from one IPv4 address or IPv6 /64 network.
        "max_per_ip" => max_per_ip: Option<NonZeroUsize> = limit("connections", 10_000_000, 0);
        /// Connections of the whole host whose request is not complete, or that wait for another
        /// request. Backends are exempt. Beyond it: 503 with `Retry-After`.
        "max_handshakes" => max_handshakes: Option<NonZeroUsize> =
            limit("connections", 10_000_000, 10_000);
        /// New connections per second from one IPv4 address or IPv6 /64 network; at least five may
        /// come at once. Backends are exempt. Beyond it: 503 with `Retry-After`.
        "max_handshakes_per_ip" => max_handshakes_per_ip: Option<NonZeroUsize> =
            limit("connections per second", 1_000_000, 0);
    }
}

settings! {
    /// Size limits of requests and messages.
    pub struct MessageLimits: Default in "" {
        /// Size of a request line and its headers.
        "max_head" => max_head: usize =
            count("bytes", 256..=1 << 20, 16 << 10, "would refuse every request");
        /// Size of a message, also of one joined from chunks.
        // At least what a frame without an extended length holds (RFC 6455 section 5.2).
        "max_message" => max_message: usize =
            count("bytes", 125..=1 << 30, 16 << 20, "would refuse every message");
        /// Chunks of one message.
        "max_chunks" => max_chunks: usize =
            count("chunks", 1..=1_000_000, 100, "would refuse every chunk");
        /// WebSocket frames of one message, without control frames.
        "max_frames" => max_frames: usize =
            count("frames", 1..=1 << 30, 131_072, "would refuse every message");
        /// Rooms that one connection may be in.
        "max_rooms" => max_rooms: usize =
            count("rooms", 1..=1_000_000, 100, "would refuse every room");
    }
}

settings! {
    /// Flow control: queues and the rate limit.
    pub struct FlowLimits: Default in "" {
        /// Messages that may wait for one client; a resource can override it.
        "outbox_messages" => outbox_messages: usize = outbox_messages();
        /// Bytes that may wait for one client, with one larger message beside them; a resource can
        /// override it.
        "outbox_bytes" => outbox_bytes: usize = outbox_bytes();
        /// Bytes that may wait for all clients together: messages that are not complete, not handled
        /// or not written. Beyond it the host closes the connections that hold most (1013). 0: no
        /// limit.
        "max_buffered_bytes" => max_buffered_bytes: Option<NonZeroUsize> =
            limit("bytes", 1 << 40, 1 << 29);
        /// Messages that may wait for the application of one resource. When the queue is full, the
        /// host stops reading from the clients of the resource.
        "inbox_messages" [restart] => inbox_messages: usize =
            count("messages", 1..=1_000_000, 256, "would refuse every message");
        /// Rate limit of each client; a resource can override it.
        "rate" => rate: RateSettings = table::<RateSettings>();
    }
}

settings! {
    /// Time limits.
    pub struct Timeouts in "" {
        /// Time from accepting a connection to the end of its request head; also the time that a
        /// connection waits for another request.
        "head_timeout" => head: Duration = seconds(5.0, 0.001, "would refuse every request");
        /// Time from the first byte of a message, or from `bufferON`, to its end.
        "message_timeout" => message: Duration = seconds(25.0, 0.001, "would refuse every message");
        /// Time for a client to take 64 KiB of what the host writes, or all of it, on average: more
        /// that it takes at once extends the time, to at most eight times.
        "write_timeout" => write: Duration = seconds(10.0, 0.001, "would close every connection");
        /// Time for a client to answer a close frame. 0: the host does not wait.
        "close_timeout" => close: Duration = seconds(3.0, 0.0, "");
        /// Time between two pings; the host closes a client that does not answer one before the
        /// next. 0: no pings.
        "ping_interval" => ping_interval: Option<Duration> =
            seconds_or_none(30.0, 0.01, "would send nothing but pings", 30.0);
        /// Idle timeout: the host closes a client (1001) after this time without a message in
        /// either direction. 0: never.
        "idle_timeout" => idle: Option<Duration> =
            seconds_or_none(0.0, 0.001, "would close every connection", 600.0);
        /// Time between the handshake and `ready` for clients with `Client-Type: php` or `backend`;
        /// some of their libraries lose data that arrives with the handshake.
        "ready_delay" => ready_delay: Duration = seconds(0.01, 0.0, "");
        /// Time for connections to finish at a graceful shutdown; the host closes them over the
        /// first half. 0: it does not wait.
        "drain" => drain: Duration = seconds(10.0, 0.0, "");
        /// Time over which clients reconnect after a shutdown: each gets its own `retry_after`, in
        /// whole seconds. 0: none.
        "retry_spread" => retry_spread: Duration = seconds(10.0, 0.0, "");
    }
}
