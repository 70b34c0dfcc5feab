//! Answers plain HTTP requests as their query parameter `do` says, and messages with a description
//! of their connection.
//!
//! | `do` | other parameters | answer |
//! |---|---|---|
//! | | | the request as JSON |
//! | `status` | `status`, `body` | this status and body |
//! | `header` | `name`, `value` | a header |
//! | `headers` | | several headers, some of which the host drops |
//! | `big` | `bytes`, `body` | a body or a header of this size |
//! | `thread` | | an answer from a thread |
//! | `retired` | | an answer from a thread, after the instance has been replaced |
//! | `hold` | `id` | none until `release`, which gets what the host returned to the holder |
//! | `is-held` | `id` | 200 or 404 |
//! | `twice` | | the answer of a responder; another one is returned |
//! | `drop`, `forget`, `panic`, `unhandled`, `hang` | | none |
//! | `wait` | `file` | the request as JSON, once the file exists |

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use plugsocket_plugin::{
    Host, Level, Message, Plugin, Refused, Request, Responder, Response, RestoreError, Session,
    Snapshot, StartError, export_plugin,
};
use serde_json::{Value, json};

struct Web {
    host: Host,
    /// Distinguishes instances.
    instance: String,
    held: BTreeMap<String, Responder>,
}

impl Plugin for Web {
    const HTTP: bool = true;

    fn start(host: Host, _config: &str) -> Result<Self, StartError> {
        host.log(Level::Info, "web starts");
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Ok(Self { host, instance: since.as_nanos().to_string(), held: BTreeMap::new() })
    }

    fn restore(&mut self, _snapshot: Snapshot) -> Result<(), RestoreError> {
        // Replaces other applications in tests, and has no state.
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let text = message.to_text().unwrap_or_default();
        let command: Value = serde_json::from_str(text).unwrap_or_default();
        let description = json!({
            "kind": session.kind().as_str(),
            "path": session.path(),
            "resource": session.resource(),
            "query": session.query(),
            "user": session.user(),
            "parameters": parameters(session.resource(), |name| session.parameter(name)),
        });
        let answer = json!({"do": command["do"], "result": description});
        // Fails only if the connection is gone.
        self.host.send(session.id(), &answer.to_string()).ok();
        Ok(())
    }

    fn request(&mut self, request: &Request<'_>) -> Response {
        let value = |name| request.query_value(name).unwrap_or_default();
        let number = |name| value(name).parse::<usize>().unwrap_or_default();
        match value("do").as_str() {
            "status" => Response::new(u16::try_from(number("status")).unwrap_or_default())
                .body(value("body")),
            "header" => Response::text(200, "").header(&value("name"), &value("value")),
            "headers" => Response::new(200)
                .header("X-One", "1")
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=ü")
                .header("Content-Length", "99")
                .header("Transfer-Encoding", "chunked")
                .header("Connection", "close")
                .header("Date", "yesterday")
                .header("Bad Name", "x")
                .header("X-Split", "a\r\nX-Injected: 1"),
            "big" if value("body") == "header" => {
                Response::new(200).header("X-Big", &"x".repeat(number("bytes")))
            }
            "big" => Response::new(200).body(vec![b'x'; number("bytes")]),
            "thread" => answer_later(request.responder(), || {}),
            "retired" => {
                let host = self.host.clone();
                answer_later(request.responder(), move || {
                    while host.sessions(|_| {}).is_ok() {
                        pause();
                    }
                })
            }
            "panic" => panics(),
            "unhandled" => Response::unhandled(),
            "hang" => loop {
                pause();
            },
            "wait" => {
                while !std::path::Path::new(&value("file")).exists() {
                    pause();
                }
                self.describe(request)
            }
            _ => self.answer_with_responder(request),
        }
    }
}

impl Web {
    fn answer_with_responder(&mut self, request: &Request<'_>) -> Response {
        let value = |name| request.query_value(name).unwrap_or_default();
        match value("do").as_str() {
            "hold" => {
                self.held.insert(value("id"), request.responder());
                Response::later()
            }
            "is-held" => {
                Response::new(if self.held.contains_key(&value("id")) { 200 } else { 404 })
            }
            "release" => match self.held.remove(&value("id")) {
                Some(held) => {
                    let returned = held.respond(&Response::text(200, "released"));
                    Response::text(200, &format!("{returned:?}"))
                }
                None => Response::text(404, "not held"),
            },
            "twice" => {
                let first = request.responder().respond(&Response::text(200, "first"));
                Response::text(200, &format!("{first:?}"))
            }
            "drop" => {
                drop(request.responder());
                Response::later()
            }
            "forget" => Response::later(),
            _ => self.describe(request),
        }
    }

    fn describe(&self, request: &Request<'_>) -> Response {
        let description = json!({
            "instance": self.instance,
            "method": request.method(),
            "path": request.path(),
            "resource": request.resource(),
            "query": request.query(),
            "host": request.header("HOST"),
            "headers": request.headers(),
            "body": String::from_utf8_lossy(request.body()),
            "address": request.address(),
            "kind": request.kind().as_str(),
            "user": request.user(),
            "claims": request.claims(),
            "parameters": parameters(request.resource(), |name| request.parameter(name)),
        });
        Response::new(200)
            .header("Content-Type", "application/json")
            .header("X-Method", request.method())
            .body(description.to_string())
    }
}

/// Returns the parameters that the key of the resource names.
fn parameters<'a>(resource: &str, value: impl Fn(&str) -> Option<&'a str>) -> Value {
    let names = resource.split('/').map(|segment| segment.trim_matches(['{', '}']));
    names.filter_map(|name| Some((name.to_owned(), Value::from(value(name)?)))).collect()
}

fn answer_later(responder: Responder, wait: impl FnOnce() + Send + 'static) -> Response {
    std::thread::spawn(move || {
        wait();
        // Fails only if the client has left.
        responder.respond(&Response::text(200, "from a thread")).ok();
    });
    Response::later()
}

#[expect(clippy::panic, reason = "tests what the host does then")]
fn panics() -> Response {
    panic!("on request")
}

#[expect(clippy::disallowed_methods, reason = "runs on a thread that may block")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

export_plugin!(Web);
