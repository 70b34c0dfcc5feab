//! Typed messages: JSON read into, and written from, the author's own types.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{Audience, CloseCode, ConnectionId, HostError, Message, Refused};
use crate::{Host, Packet, Session};

/// Reads a message into a type that derives `serde::Deserialize`.
///
/// ```
/// use plugsocket_plugin::{CloseCode, Message, read_message};
///
/// #[derive(serde::Deserialize)]
/// struct Bid {
///     lot: String,
///     amounts: Vec<u32>,
/// }
///
/// let bid: Bid = read_message(Message::Text(r#"{"lot":"clock","amounts":[5,8]}"#)).unwrap();
/// assert_eq!((bid.lot.as_str(), bid.amounts.len()), ("clock", 2));
/// let refused = read_message::<Bid>(Message::Text(r#"{"lot":"clock","amounts":[5,"8"]}"#));
/// let refused = refused.err().unwrap();
/// assert_eq!(refused.code, CloseCode::INVALID);
/// assert_eq!(refused.reason, r#"`amounts[1]`: invalid type: string "8", expected u32"#);
/// ```
///
/// # Errors
/// A refusal with [`CloseCode::INVALID`] and one sentence: the path of the value, and what was
/// expected.
pub fn read_message<T: DeserializeOwned>(message: Message<'_>) -> Result<T, Refused> {
    let text = message.to_text().ok_or_else(|| invalid("a message must be UTF-8 JSON"))?;
    read_json(text).map_err(|text| invalid(&text))
}

/// Reads JSON into a type.
///
/// # Errors
/// One sentence: the path of the value, and what was expected.
pub fn read_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut source = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        sentence(&path, error.inner())
    })?;
    source.end().map_err(|error| sentence(".", &error))?;
    Ok(value)
}

/// Returns serde's text with the path in front, and without the position in a single line.
fn sentence(path: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let is_syntax = error.is_syntax() || error.is_eof();
    let text = match text.rsplit_once(" at line ") {
        Some((text, _)) if !is_syntax => text,
        _ => &text,
    };
    match path {
        _ if is_syntax => format!("not valid JSON: {text}"),
        "." => text.to_owned(),
        _ => format!("`{path}`: {text}"),
    }
}

fn invalid(reason: &str) -> Refused {
    Refused::with_code(CloseCode::INVALID, reason)
}

/// A request of a client that expects an answer with the same `id`.
///
/// The client sends `{"id":7, …}`, where the other keys are the body, and
/// [`Host::answer`] sends `{"id":7,"result":…}`. The id is a string or a number of the client's
/// choice and returns exactly as it was written.
///
/// ```
/// use plugsocket_plugin::*;
///
/// #[derive(serde::Deserialize)]
/// struct Query {
///     lot: String,
/// }
///
/// fn message(host: &Host, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
///     let call: Call<Query> = Call::read(message)?;
///     match call.body.lot.as_str() {
///         "clock" => host.answer(session.id(), &call.id, &serde_json::json!({"price": 8}))?,
///         _ => host.answer_error(session.id(), &call.id, "unknown lot")?,
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Call<T> {
    /// The client's id.
    pub id: CallId,
    /// The other keys of the message.
    pub body: T,
}

/// The id of a [`Call`], as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallId(String);

impl CallId {
    /// Returns the id as JSON: a number, or a string with its quotes.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

impl<T: DeserializeOwned> Call<T> {
    /// Reads a message. `T` may deny unknown fields: it does not see `id`.
    ///
    /// # Errors
    /// As [`read_message`]; also without an `id` that is a string or a number of at most 256 bytes.
    pub fn read(message: Message<'_>) -> Result<Self, Refused> {
        let packet = Packet::read(message)?;
        let [id] = packet.fields(["id"]);
        let id = id.filter(|id| id.to_text().is_some() && id.as_source().len() <= 256);
        let id = id.ok_or_else(|| invalid("`id`: expected a string or a number"))?;
        let members: Vec<String> = packet
            .members()
            .filter(|(key, _)| key.to_text().as_deref() != Some("id"))
            .map(|(key, value)| format!("{}:{}", key.as_source(), value.as_source()))
            .collect();
        let body = read_json(&format!("{{{}}}", members.join(","))).map_err(|e| invalid(&e))?;
        Ok(Self { id: CallId(id.as_source().to_owned()), body })
    }
}

impl Host {
    /// Sends a value as JSON text, as [`send`](Self::send) does.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// #[derive(serde::Serialize)]
    /// struct Price<'a> {
    ///     lot: &'a str,
    ///     amount: u32,
    /// }
    ///
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.send_json(session.id(), &Price { lot: "clock", amount: 8 })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`send`](Self::send); [`HostError::Invalid`] if the value cannot be JSON.
    pub fn send_json<T: Serialize + ?Sized>(
        &self,
        to: ConnectionId,
        value: &T,
    ) -> Result<(), HostError> {
        self.send(to, &to_json(value)?)
    }

    /// Broadcasts a value as JSON text, as [`broadcast`](Self::broadcast) does.
    ///
    /// # Errors
    /// Those of [`broadcast`](Self::broadcast); [`HostError::Invalid`].
    pub fn broadcast_json<T: Serialize + ?Sized>(
        &self,
        to: Audience<'_>,
        value: &T,
    ) -> Result<usize, HostError> {
        self.broadcast(to, &to_json(value)?)
    }

    /// Publishes a value as JSON text, as [`publish`](Self::publish) does.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish); [`HostError::Invalid`].
    pub fn publish_json<T: Serialize + ?Sized>(
        &self,
        room: &str,
        except: &[ConnectionId],
        value: &T,
    ) -> Result<usize, HostError> {
        self.publish(room, except, &to_json(value)?)
    }

    /// Answers a [`Call`]: sends `{"id":…,"result":…}`.
    ///
    /// # Errors
    /// Those of [`send_json`](Self::send_json).
    pub fn answer<T: Serialize + ?Sized>(
        &self,
        to: ConnectionId,
        id: &CallId,
        result: &T,
    ) -> Result<(), HostError> {
        self.send(to, &format!(r#"{{"id":{},"result":{}}}"#, id.0, to_json(result)?))
    }

    /// Answers a [`Call`] that failed: sends `{"id":…,"error":"…"}`. The connection stays open.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn answer_error(
        &self,
        to: ConnectionId,
        id: &CallId,
        error: &str,
    ) -> Result<(), HostError> {
        self.send(to, &format!(r#"{{"id":{},"error":{}}}"#, id.0, to_json(error)?))
    }
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, HostError> {
    serde_json::to_string(value).map_err(|_| HostError::Invalid)
}

/// Values of a type, stored with connections by [`Host::set_data`] as JSON.
///
/// ```
/// use plugsocket_plugin::*;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Seat {
///     row: u32,
/// }
///
/// struct Theatre {
///     seats: SessionData<Seat>,
/// }
///
/// impl Plugin for Theatre {
///     fn start(host: Host, _: &str) -> Result<Self, StartError> {
///         Ok(Self { seats: SessionData::new(&host) })
///     }
///
///     fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
///         self.seats.set(session.id(), &Seat { row: 3 })?;
///         Ok(())
///     }
///
///     fn message(&mut self, session: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
///         let row = self.seats.get(session).map_or(0, |seat| seat.row);
///         tracing::info!(row, "a message");
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct SessionData<T> {
    host: Host,
    values: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> SessionData<T> {
    /// Stores values through this host.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        Self { host: host.clone(), values: PhantomData }
    }

    /// Returns the value of a connection: `None` if it has none, or one of a type that this one
    /// cannot be read from, which an older version of the application may have stored.
    #[must_use]
    pub fn get(&self, session: &Session<'_>) -> Option<T> {
        serde_json::from_slice(&session.data()?).ok()
    }

    /// Stores the value of a connection, at most 65,536 bytes as JSON.
    ///
    /// # Errors
    /// Those of [`Host::set_data`]; [`HostError::Invalid`] if the value cannot be JSON.
    pub fn set(&self, id: ConnectionId, value: &T) -> Result<(), HostError> {
        self.host.set_data(id, to_json(value)?.as_bytes())
    }

    /// Removes the value of a connection.
    ///
    /// # Errors
    /// Those of [`Host::set_data`].
    pub fn remove(&self, id: ConnectionId) -> Result<(), HostError> {
        self.host.set_data(id, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bid {
        lot: String,
        #[serde(default)]
        amounts: Vec<u32>,
    }

    #[test]
    fn a_mistake_is_one_sentence_with_its_path() {
        for (text, expected) in [
            (r#"{"lot":1}"#, "`lot`: invalid type: integer `1`, expected a string"),
            (r#"{}"#, "missing field `lot`"),
            (r#"{"lot":"a","x":1}"#, "`x`: unknown field `x`, expected `lot` or `amounts`"),
            (
                r#"{"lot":"a","amounts":[1,-1]}"#,
                "`amounts[1]`: invalid value: integer `-1`, expected u32",
            ),
            (r#"{"lot":"a"#, "not valid JSON: EOF while parsing a string at line 1 column 9"),
            (r#"{"lot":"a"} x"#, "not valid JSON: trailing characters at line 1 column 13"),
            ("[]", "invalid length 0, expected struct Bid with 2 elements"),
        ] {
            assert_eq!(read_message::<Bid>(Message::Text(text)).unwrap_err().reason, expected);
        }
        let bid = read_message::<Bid>(Message::Text(r#"{"lot":"a"}"#)).unwrap();
        assert_eq!((bid.lot.as_str(), bid.amounts.len()), ("a", 0));
        assert!(read_message::<Bid>(Message::Binary(&[0xff])).is_err());
    }

    #[test]
    fn the_id_of_a_call_returns_as_it_was_written() {
        for (text, expected) in [
            (r#"{"id":18446744073709551617,"lot":"a"}"#, Some("18446744073709551617")),
            (r#"{"lot":"a","id":"x\u0041"}"#, Some(r#""x\u0041""#)),
            (r#"{"id":null,"lot":"a"}"#, None),
            (r#"{"id":[1],"lot":"a"}"#, None),
            (r#"{"lot":"a"}"#, None),
        ] {
            let call = Call::<Bid>::read(Message::Text(text));
            assert_eq!(call.ok().map(|call| call.id.0), expected.map(str::to_owned), "{text}");
        }
    }
}
