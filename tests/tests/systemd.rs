//! What the service manager is told, and the sockets that it hands over.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails loudly")]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};

use plugsocket_tests::{Address, Authority, Client, Request, Setup, within};
use tokio::net::UnixDatagram;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// On an abstract socket, as systemd has them in containers; `@` in the variable.
    fn of(setup: Setup, test: &str) -> (Self, Setup) {
        let name = format!("plugsocket-test-{test}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = Self::listening(StdDatagram::bind_addr(&address).unwrap());
        (socket, setup.environment("NOTIFY_SOCKET", &format!("@{name}")))
    }

    fn listening(socket: StdDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { socket: UnixDatagram::from_std(socket).unwrap() }
    }

    /// The lines of the next notification.
    async fn told(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = within("a notification", self.socket.recv(&mut bytes)).await.unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// The next notification begins with this word, and all lines of it.
    async fn expect(&self, word: &str) -> Vec<String> {
        let lines = self.told().await;
        assert_eq!(lines[0], word, "{lines:?}");
        lines
    }

    /// How many other notifications come before the one that begins with this word.
    async fn until(&self, word: &str) -> usize {
        let mut others = 0;
        while self.told().await[0] != word {
            others += 1;
        }
        others
    }
}

#[tokio::test]
async fn start_reload_and_end_are_told() {
    let (manager, setup) = Manager::of(setup(), "states");
    let mut host = setup.start().await;
    assert_eq!(manager.expect("READY=1").await[1], "STATUS=serving");

    let more = host.setup().resource("/echo", "echo");
    host.apply(more).await;
    let reloading = manager.expect("RELOADING=1").await;
    let since = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.expect("READY=1").await[1], "STATUS=configuration applied");

    host.write_config("[server]\ndrain = -1");
    manager.expect("RELOADING=1").await;
    let refused = manager.expect("READY=1").await;
    assert!(refused[1].contains("not applied"), "{refused:?}");

    let _client = host.connect("/count").await;
    host.signal("TERM");
    assert!(manager.expect("STOPPING=1").await[1].contains("1 connections"));
    drop(_client);
    assert_eq!(host.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_notification_socket_may_be_a_file_and_a_missing_one_harms_nobody() {
    let path = std::env::temp_dir().join(format!("plugsocket-notify-{}", std::process::id()));
    let manager = Manager::listening(StdDatagram::bind(&path).unwrap());
    let setup = setup().environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let host = setup.clone().start().await;
    manager.expect("READY=1").await;
    drop(host);
    std::fs::remove_file(path).unwrap();
    let host = setup.start().await;
    host.connect("/count").await;
    host.wait_for_log("a warning", |line| line.says("the service manager cannot be told")).await;
}

#[tokio::test]
async fn the_heartbeat_stops_while_the_supervisor_does_not_answer() {
    let (manager, setup) = Manager::of(setup(), "heartbeat");
    let mut host = setup.environment("WATCHDOG_USEC", "200000").start().await;
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await;
    }
    // It waits for this start; at 100 ms that is 15 beats.
    let slow = host.setup().config("/count", "start_delay_ms", "1500");
    host.offer(slow);
    manager.until("RELOADING=1").await;
    // One may have been under way.
    assert!(manager.until("READY=1").await <= 1, "the heart went on");
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await;
    }
}

/// Opens two sockets and becomes the host, as systemd does. The first line on standard output: the port of the TCP one.
const ACTIVATE: &str = r#"
import os, socket, sys
tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
tcp.bind(("127.0.0.1", 0)), tcp.listen()
unix.bind(sys.argv[1]), unix.listen()
copies = [os.dup2(os.dup(s.fileno()), 20 + i) for i, s in enumerate((tcp, unix))]
for fd in copies:
    os.dup2(fd, fd - 17, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"#;

#[tokio::test]
async fn sockets_that_were_handed_over_take_the_place_of_listen() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("skipped: python3 is missing");
        return;
    }
    let path = std::env::temp_dir().join(format!("plugsocket-activate-{}", std::process::id()));
    let launcher = ["python3", "-c", ACTIVATE, path.to_str().unwrap(), "web:local"];
    // If `listen` counted, the host would not start: nobody has this address.
    let setup = setup().server("listen", r#"["192.0.2.1:1"]"#).launcher(&launcher);
    let host = setup.start().await;
    let [web, local] = host.addresses() else { panic!("{:?}", host.addresses()) };
    assert!(matches!(web, Address::Tcp(_)), "{web:?}");
    assert!(matches!(local, Address::Unix(_)), "{local:?}");
    for address in [web, local] {
        let mut client = Client::open(address, Request::to("/count")).await.ready().await;
        client.send("one").await;
        assert_eq!(client.until_next().await.packets[0]["by"], "v1");
        client.close().await;
    }
    // Libraries are tried in a child process: it must not take the sockets for its own.
    host.reload("counter", "counter_v2").await;
    host.connect("/count").await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_socket_that_is_named_tls_speaks_it() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("skipped: python3 is missing");
        return;
    }
    let path = std::env::temp_dir().join(format!("plugsocket-tls-{}", std::process::id()));
    let launcher = ["python3", "-c", ACTIVATE, path.to_str().unwrap(), "tls:local"];
    let authority = Authority::default();
    let setup = setup().secured(&authority.issue(&["localhost"])).tls("listen", "[]");
    let host = setup.launcher(&launcher).start().await;
    let [tls, local] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let secure = authority.reach(tls, "localhost");
    Client::open(&secure, Request::to("/count")).await.ready().await;
    Client::open(local, Request::to("/count")).await.ready().await;
    std::fs::remove_file(path).unwrap();
}
