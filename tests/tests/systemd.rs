//! The systemd protocols: sd_notify, watchdog and socket activation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};

use plugsocket_tests::{Address, Authority, Client, Request, Setup, skip, within};
use tokio::net::UnixDatagram;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

/// The service manager's side of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// Creates an abstract socket, as systemd does in containers; the variable begins with `@`.
    fn attach(setup: Setup, test: &str) -> (Self, Setup) {
        let name = format!("plugsocket-test-{test}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = Self::new(StdDatagram::bind_addr(&address).unwrap());
        (socket, setup.environment("NOTIFY_SOCKET", &format!("@{name}")))
    }

    fn new(socket: StdDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { socket: UnixDatagram::from_std(socket).unwrap() }
    }

    /// Returns the lines of the next notification.
    async fn receive(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = within("a notification", self.socket.recv(&mut bytes)).await.unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// Expects a notification that begins with this line; returns all lines.
    async fn expect(&self, line: &str) -> Vec<String> {
        let lines = self.receive().await;
        assert_eq!(lines[0], line, "{lines:?}");
        lines
    }

    /// Waits for a notification that begins with this line; returns the number of others before it.
    async fn until(&self, line: &str) -> usize {
        let mut others = 0;
        while self.receive().await[0] != line {
            others += 1;
        }
        others
    }
}

#[tokio::test]
async fn startup_reload_and_shutdown_are_notified() {
    let (manager, setup) = Manager::attach(setup(), "states");
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
    assert!(manager.expect("STOPPING=1").await[1].contains("1 connection"));
    drop(_client);
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_host_that_serves_nothing_is_not_ready_until_a_resource_is_served() {
    let (manager, setup) = Manager::attach(setup().without_library("counter"), "nothing");
    let mut host = setup.start().await;
    let line = host.wait_for_log("a warning", |line| line.starts_with("no resource")).await;
    assert_eq!((line.level(), &*line.field("resources")), ("WARN", "1"));
    manager.expect("STATUS=0 of 1 resources are served; see the log").await;
    // A reload does not make it ready.
    let more = host.setup().server("max_head", "999");
    host.apply(more).await;
    manager.expect("STATUS=configuration applied").await;
    host.replace_library("counter", "counter_v1");
    assert_eq!(manager.expect("READY=1").await[1], "STATUS=serving");
    host.connect("/count").await;
}

#[tokio::test]
async fn a_host_that_serves_some_resources_is_ready_with_a_warning() {
    let (manager, setup) = Manager::attach(setup().file("broken", b"no library"), "some");
    let host = setup.resource("/broken", "broken").start().await;
    let line = host.wait_for_log("a warning", |line| line.starts_with("some resources")).await;
    let counts = [line.field("served"), line.field("resources")];
    assert_eq!((line.level(), counts), ("WARN", ["1", "2"].map(ToOwned::to_owned)));
    manager.expect("READY=1").await;
}

#[tokio::test]
async fn a_notification_socket_may_be_a_path_and_a_missing_one_is_only_logged() {
    let path = std::env::temp_dir().join(format!("plugsocket-notify-{}", std::process::id()));
    let manager = Manager::new(StdDatagram::bind(&path).unwrap());
    let setup = setup().environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let host = setup.clone().start().await;
    manager.expect("READY=1").await;
    drop(host);
    std::fs::remove_file(path).unwrap();
    let host = setup.start().await;
    host.connect("/count").await;
    host.wait_for_log("a warning", |line| line.starts_with("sd_notify failed")).await;
}

#[tokio::test]
async fn the_heartbeat_stops_while_the_supervisor_does_not_answer() {
    let (manager, setup) = Manager::attach(setup(), "heartbeat");
    let mut host = setup.environment("WATCHDOG_USEC", "200000").start().await;
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await;
    }
    // The supervisor waits for this start, for a time in which 15 heartbeats would be due.
    let slow = host.setup().config("/count", "start_delay_ms", "1500");
    host.write_setup(slow);
    manager.until("RELOADING=1").await;
    // One heartbeat may have been sent just before.
    assert!(manager.until("READY=1").await <= 1, "the heartbeat did not stop");
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await;
    }
}

/// A Python script that opens two sockets and executes the host, as systemd does.
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
async fn activated_sockets_replace_listen() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        skip("activated_sockets_replace_listen", "python3 is missing", "apt-get install python3");
        return;
    }
    let path = std::env::temp_dir().join(format!("plugsocket-activate-{}", std::process::id()));
    let launcher = ["python3", "-c", ACTIVATE, path.to_str().unwrap(), "web:local"];
    // The host could not bind this address.
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
    // The preflight child must not use the sockets.
    host.reload("counter", "counter_v2").await;
    host.connect("/count").await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn an_activated_socket_named_tls_serves_tls() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        skip(
            "an_activated_socket_named_tls_serves_tls",
            "python3 is missing",
            "apt-get install python3",
        );
        return;
    }
    let path = std::env::temp_dir().join(format!("plugsocket-tls-{}", std::process::id()));
    let launcher = ["python3", "-c", ACTIVATE, path.to_str().unwrap(), "tls:local"];
    let authority = Authority::default();
    let setup = setup().with_tls(&authority.issue(&["localhost"])).tls("listen", "[]");
    let host = setup.launcher(&launcher).start().await;
    let [tls, local] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let secure = authority.tls_address(tls, "localhost");
    Client::open(&secure, Request::to("/count")).await.ready().await;
    Client::open(local, Request::to("/count")).await.ready().await;
    std::fs::remove_file(path).unwrap();
}
