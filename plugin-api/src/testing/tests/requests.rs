use super::*;
use crate::{Request, Responder, Response};

/// Answers what the path says.
struct Web {
    host: Host,
    responders: Vec<Responder>,
}

impl Plugin for Web {
    const HTTP: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self { host, responders: Vec::new() })
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn event(&mut self, _: Event) {
        let responder = self.responders.pop().unwrap();
        responder.respond(&Response::text(200, "from an event")).unwrap();
    }

    fn request(&mut self, request: &Request<'_>) -> Response {
        match request.path() {
            "/facts" => {
                let (body, length) = (request.body(), request.header("X-LENGTH"));
                let text = format!(
                    "{} {} {} {:?} {:?} {:?} {} {body:?} {length:?} {:?}",
                    request.method(),
                    request.resource(),
                    request.address(),
                    request.query_value("x"),
                    request.parameter("n"),
                    request.user(),
                    request.kind().as_str(),
                    request.headers(),
                );
                Response::text(200, &text).header("Content-Length", "1").header("bad name", "1")
            }
            "/later" => {
                self.responders.push(request.responder());
                Response::later()
            }
            "/dropped" => {
                drop(request.responder());
                Response::later()
            }
            "/forgotten" => Response::later(),
            "/large" => Response::new(200).body(vec![0; (4 << 20) + 11]),
            "/panic" => panic!("a bad request"),
            _ => Response::unhandled(),
        }
    }
}

fn web() -> Harness<Web> {
    Harness::start_with(Limits { max_message: 10, ..Limits::default() }, "{}").unwrap()
}

fn status(app: &mut Harness<Web>, target: &str) -> Option<u16> {
    app.request(TestRequest::get(target)).response().map(|response| response.status)
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    let request = TestRequest::post("/facts?x=a+b").header("X-Length", "3").body("abc");
    let request = request.resource("/{n}").parameter("n", "7").user("ann").backend();
    let response = web().request(request).response().unwrap();
    let expected = "POST /{n} 127.0.0.1 Some(\"a b\") Some(\"7\") Some(\"ann\") backend \
                    [97, 98, 99] Some(\"3\") [(\"x-length\", \"3\")]";
    assert_eq!(response.text(), expected);
    assert_eq!(response.headers.len(), 1);
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn mistakes_are_answered_as_the_host_does() {
    let mut app = web();
    app.expect_panics(true);
    for (target, expected) in [
        ("/dropped", Some(500)),
        ("/forgotten", Some(500)),
        ("/large", Some(500)),
        ("/panic", Some(500)),
        ("/other", None),
    ] {
        assert_eq!(status(&mut app, target), expected, "{target}");
    }
    let long = app.request(TestRequest::post("/facts").body("x".repeat(11)));
    assert_eq!(long.response().unwrap().status, 413);
    let mut app = Harness::<Web>::start_on_step(2, "{}").unwrap();
    assert!(app.request(TestRequest::get("/facts")).is_unhandled());
}

#[test]
fn a_later_answer_comes_from_a_thread_or_an_event_or_expires() {
    let mut app = web();
    let [answer, other, left, late] = [(); 4].map(|()| app.request(TestRequest::get("/later")));
    assert_eq!(answer.response(), None);
    let mut responders = std::mem::take(&mut app.plugin().responders).into_iter();
    let responder = responders.next().unwrap();
    let thread = std::thread::spawn(move || responder.respond(&Response::new(204)));
    assert_eq!(answer.wait(SOON).unwrap().status, 204);
    thread.join().unwrap().unwrap();

    app.plugin().responders.push(responders.next().unwrap());
    app.plugin().host.post(b"now").unwrap();
    app.run();
    assert_eq!(other.response().unwrap().text(), "from an event");

    left.leave();
    let gone = responders.next().unwrap().respond(&Response::new(200));
    assert_eq!(gone, Err(HostError::Gone));
    app.advance(Duration::from_secs(30));
    assert_eq!(late.response().unwrap().status, 503);
    assert_eq!(responders.next().unwrap().respond(&Response::new(200)), Err(HostError::Gone));
}
