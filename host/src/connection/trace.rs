//! What a traced connection records. Called only where [`Peer::is_traced`] says so.

use plugsocket_plugin::ClosedBy;

use crate::protocol::chunk::{Form, Step};
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::payload::Outgoing;
use crate::routing::peer::Peer;
use crate::routing::trace::Direction::{In, Out};

fn kind_of(form: Form) -> &'static str {
    if form == Form::Binary { "binary" } else { "text" }
}

/// Records a message from the client. `step`: what follows it; a part of a message in chunks is
/// not delivered as it is.
#[cold]
pub(super) fn received(peer: &Peer, form: Form, bytes: &[u8], step: &Step) {
    let kind = match step {
        Step::Deliver(whole) if whole.len() != bytes.len() => "chunk",
        Step::Acknowledge => "chunk",
        _ => kind_of(form),
    };
    peer.trace(In, kind, form, bytes);
}

/// Records pings of the client, which the host answers, and pongs.
#[cold]
pub(super) fn received_control(peer: &Peer, pings: u16, pongs: u16) {
    for _ in 0..pings {
        peer.trace(In, "ping", Form::Binary, &[]);
        peer.trace(Out, "pong", Form::Binary, &[]);
    }
    (0..pongs).for_each(|_| peer.trace(In, "pong", Form::Binary, &[]));
}

/// Records what is written to the client.
#[cold]
pub(super) fn written<'a>(peer: &Peer, queue: impl IntoIterator<Item = &'a Outgoing>) {
    for item in queue {
        match item {
            Outgoing::Ready => {
                let packet = dialog::ready(peer.identity.as_str());
                // Its uuid contains a signature, which is a secret of the client.
                peer.trace_redacted(Out, "ready", packet.len());
            }
            Outgoing::Message(payload) => {
                peer.trace(Out, kind_of(payload.form), payload.form, payload.as_bytes());
            }
            Outgoing::Next(packet) => {
                let packet = packet.as_deref().unwrap_or(dialog::NEXT);
                peer.trace(Out, "next", Form::Text, packet.as_bytes());
            }
            Outgoing::Ping => peer.trace(Out, "ping", Form::Binary, &[]),
        }
    }
}

/// Records why the connection ends.
#[cold]
pub(super) fn closed(peer: &Peer, reason: &CloseReason) {
    let direction = if reason.by == ClosedBy::Peer { In } else { Out };
    peer.trace_close(direction, reason.code.0, &reason.text);
}
