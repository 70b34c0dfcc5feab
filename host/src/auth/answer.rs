//! What an HTTP endpoint's answer means. Pure.

use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{Denial, Login, MAX_USER, is_user, number};

/// The parts of an answer that count.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// Of `Content-Type`; empty if there was none.
    pub(super) content_type: &'a str,
    /// The headers `X-User`.
    pub(super) users: &'a [&'a [u8]],
    pub(super) body: &'a [u8],
}

/// Who it is, or why not; else what is wrong with the answer, for the operator.
///
/// 2xx lets in, 401 and 403 refuse, and nothing else is an answer: an endpoint that fails must not let anybody in, nor
/// tell them that they are unknown.
///
/// # Errors
/// It is no answer.
pub(super) fn judge(answer: &Answer<'_>) -> Result<Result<Login, Denial>, String> {
    match answer.status.as_u16() {
        200..=299 => login(answer).map(Ok),
        401 => Ok(Err(Denial::unauthorized(reason(answer, "not signed in"), None))),
        403 => Ok(Err(Denial::forbidden(reason(answer, "not allowed")))),
        status @ 300..=399 => Err(format!(
            "it answered {status}: a redirection leads nowhere here, let it answer 401 instead"
        )),
        status => Err(format!("it answered {status}; 2xx lets in, 401 and 403 refuse")),
    }
}

/// A program that fails often says so with 200 and a page of its own, so a body that is not understood lets nobody in.
fn login(answer: &Answer<'_>) -> Result<Login, String> {
    let header = named(answer.users)?;
    let body = answer.body.trim_ascii();
    let is_json = answer.content_type.contains("json")
        || [&b"{"[..], BYTE_ORDER_MARK].iter().any(|begin| body.starts_with(begin));
    if body.is_empty() || (header.is_some() && !is_json) {
        return checked(header, None);
    }
    let mut body: Map<String, Value> = serde_json::from_slice(body).map_err(no_object)?;
    let user = match body.get("user") {
        None | Some(Value::Null) => header,
        Some(Value::String(user)) => Some(user.clone()),
        Some(Value::Number(user)) => Some(number(user).ok_or_else(|| {
            "the user of its answer is no whole number of up to 64 bits; give it as a text"
                .to_owned()
        })?),
        Some(_) => return Err("the user of its answer is neither a text nor a number".to_owned()),
    };
    let user = user.filter(|user| !user.is_empty());
    if user.is_none() && body.get("error").is_some_and(|error| !error.is_null()) {
        return Err("it answered 2xx, and its body has an error and no user; let it refuse by 401"
            .to_owned());
    }
    let claims = match body.get_mut("claims").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(claims) => Some(claims.to_string().into()),
    };
    checked(user, claims)
}

/// The one `X-User`; an empty one is none.
fn named(users: &[&[u8]]) -> Result<Option<String>, String> {
    match users {
        [] => Ok(None),
        [user] => match str::from_utf8(user) {
            Ok(user) => Ok(Some(user.to_owned()).filter(|user| !user.is_empty())),
            Err(_) => Err("the header X-User of its answer is no UTF-8".to_owned()),
        },
        several => {
            Err(format!("its answer has {} headers X-User; one says who it is", several.len()))
        }
    }
}

/// Where it is wrong, and nothing of what it says: it may be anything.
fn no_object(error: serde_json::Error) -> String {
    format!(
        "the body of its answer is no JSON object ({:?} at line {}, column {}); let it be empty, or {{\"user\":\"…\"}}",
        error.classify(),
        error.line(),
        error.column()
    )
}

fn checked(user: Option<String>, claims: Option<Box<str>>) -> Result<Login, String> {
    match user.as_deref().is_none_or(is_user) {
        true => Ok(Login { user: user.map(Into::into), claims }),
        false => {
            Err(format!("the user of its answer has over {MAX_USER} bytes or control characters"))
        }
    }
}

/// What the endpoint says to the one it refuses: `error` or `reason` of a JSON object, or the first line of a plain text.
fn reason(answer: &Answer<'_>, otherwise: &str) -> String {
    let said = match serde_json::from_slice::<Value>(answer.body) {
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
    let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    if said.is_empty() { otherwise.to_owned() } else { said }
}

/// Editors put it before a text; JSON has none (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Characters of a reason; a close frame has room for 123 bytes.
const MAX_REASON: usize = 120;
