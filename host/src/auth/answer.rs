//! What an HTTP endpoint's answer means. Pure.

use hyper::StatusCode;
use serde_json::Value;

use super::{Denial, Login};

/// The parts of an answer that count.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// Of `Content-Type`; empty if there was none.
    pub(super) content_type: &'a str,
    /// The header `X-User`.
    pub(super) user: Option<&'a str>,
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

fn login(answer: &Answer<'_>) -> Result<Login, String> {
    let header = answer.user.map(str::to_owned);
    let is_json =
        answer.content_type.contains("json") || answer.body.trim_ascii().starts_with(b"{");
    if !is_json || answer.body.trim_ascii().is_empty() {
        return checked(Login { user: header.map(Into::into), claims: None });
    }
    let mut body: Value = serde_json::from_slice(answer.body)
        .map_err(|error| format!("the body of its answer is no JSON: {error}"))?;
    let user = match body.get("user") {
        None | Some(Value::Null) => header,
        Some(Value::String(user)) => Some(user.clone()),
        Some(Value::Number(user)) => Some(user.to_string()),
        Some(_) => return Err("the user of its answer is neither a text nor a number".to_owned()),
    };
    let claims = match body.get_mut("claims").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(claims) => Some(claims.to_string().into()),
    };
    checked(Login { user: user.map(Into::into), claims })
}

fn checked(login: Login) -> Result<Login, String> {
    match login.user.as_deref() {
        Some("") => Ok(Login { user: None, ..login }),
        Some(user) if user.len() > MAX_USER || user.contains(char::is_control) => {
            Err(format!("the user of its answer has over {MAX_USER} bytes or control characters"))
        }
        _ => Ok(login),
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

/// Bytes of a user's name.
const MAX_USER: usize = 1024;
/// Characters of a reason; a close frame has room for 123 bytes.
const MAX_REASON: usize = 120;
