//! Interprets the responses of an authentication endpoint. Pure.

use hyper::StatusCode;
use plugsocket_plugin::{Message, Packet};
use serde_json::{Map, Value};

use super::{Denial, Login, MAX_USER, integer_text, is_user};
use crate::fs::read::BYTE_ORDER_MARK;
use crate::protocol::http::Refusal;

/// The parts of a response that count.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// `Content-Type`, or empty.
    pub(super) content_type: &'a str,
    /// The headers `X-User`.
    pub(super) users: &'a [&'a [u8]],
    pub(super) body: &'a [u8],
}

/// Returns the login or the refusal that the endpoint decided on: 2xx accepts, 401 and 403 refuse.
///
/// # Errors
/// The sentence for the operator, for any other response: a failing endpoint must neither accept a
/// client nor tell it that it is unknown.
pub(super) fn interpret(answer: &Answer<'_>) -> Result<Result<Login, Denial>, String> {
    match answer.status.as_u16() {
        200..=299 => login(answer).map(Ok),
        401 => Ok(Err(Refusal::unauthorized(reason(answer, "not signed in"), None).into())),
        403 => Ok(Err(Refusal::forbidden(reason(answer, "not allowed")).into())),
        status @ 300..=399 => {
            Err(format!("status {status}: redirects are not followed; respond with 401 instead"))
        }
        status => Err(format!("status {status}; 2xx accepts, 401 and 403 refuse")),
    }
}

/// Programs often report a failure with 200 and an error page, so an unexpected body is an error.
fn login(answer: &Answer<'_>) -> Result<Login, String> {
    let header = named(answer.users)?;
    let body = answer.body.trim_ascii();
    let is_json = answer.content_type.contains("json")
        || [&b"{"[..], BYTE_ORDER_MARK].iter().any(|begin| body.starts_with(begin));
    if body.is_empty() || (header.is_some() && !is_json) {
        return checked(header, None);
    }
    if body.starts_with(BYTE_ORDER_MARK) {
        return Err("the response body starts with a byte order mark (U+FEFF); save the endpoint's source files without it".to_owned());
    }
    let body: Map<String, Value> = serde_json::from_slice(body).map_err(not_an_object)?;
    let user = match body.get("user") {
        None | Some(Value::Null) => header,
        Some(Value::String(user)) => Some(user.clone()),
        Some(Value::Number(user)) => Some(integer_text(user).ok_or_else(|| {
            "the user in the response is not an integer of up to 64 bits; send a string".to_owned()
        })?),
        Some(_) => return Err("the user in the response is neither string nor integer".to_owned()),
    };
    let user = user.filter(|user| !user.is_empty());
    if user.is_none() && body.get("error").is_some_and(|error| !error.is_null()) {
        return Err("status 2xx, but the body has an error and no user; refuse with 401".to_owned());
    }
    // As they were written, so that numbers keep their digits.
    let packet = Packet::read(Message::Binary(answer.body)).ok();
    let claims = packet.and_then(|packet| packet.fields(["claims"])[0]);
    checked(user, claims.map(|claims| claims.as_source().into()))
}

/// Returns the value of the one header `X-User`; an empty value counts as none.
fn named(users: &[&[u8]]) -> Result<Option<String>, String> {
    match users {
        [] => Ok(None),
        [user] => match str::from_utf8(user) {
            Ok(user) => Ok(Some(user.to_owned()).filter(|user| !user.is_empty())),
            Err(_) => Err("the header X-User of the response is not UTF-8".to_owned()),
        },
        several => Err(format!("the response has {} headers X-User; send one", several.len())),
    }
}

/// Gives the position only, as the body may hold secrets.
fn not_an_object(error: serde_json::Error) -> String {
    format!(
        "the response body is not a JSON object ({:?} error at line {}, column {}); send an empty body or {{\"user\":\"…\"}}",
        error.classify(),
        error.line(),
        error.column()
    )
}

fn checked(user: Option<String>, claims: Option<Box<str>>) -> Result<Login, String> {
    match user.as_deref().is_none_or(is_user) {
        true => Ok(Login { user: user.map(Into::into), claims }),
        false => Err(format!(
            "the user in the response has more than {MAX_USER} bytes or control characters"
        )),
    }
}

/// Returns the reason for the client: `error` or `reason` of a JSON object, or the first line of a
/// plain text.
fn reason(answer: &Answer<'_>, otherwise: &str) -> String {
    let text = match serde_json::from_slice::<Value>(answer.body) {
        Ok(body) => ["error", "reason"]
            .iter()
            .find_map(|key| body.get(key)?.as_str().map(str::to_owned))
            .unwrap_or_default(),
        Err(_) if answer.content_type.starts_with("text/plain") => {
            let text = String::from_utf8_lossy(answer.body);
            text.trim().lines().next().unwrap_or_default().to_owned()
        }
        Err(_) => String::new(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    if text.is_empty() { otherwise.to_owned() } else { text }
}

/// Characters of a reason; a close frame has room for 123 bytes.
const MAX_REASON: usize = 120;

#[cfg(test)]
mod tests;
