//! Fails in the callback that a test chooses, in a way that nothing in the process can catch.
//!
//! Configuration: `at` is `start`, `thread` (the end of the thread of `start`), `restore` or `drop`;
//! `how` is `abort`, `exit` (with code 3) or `hang`. Before it, a shell runs the command `before`.
//! Each `start` appends a line to the file `starts`. Messages are sent back.

#[path = "../../ctor_fork/src/shell.rs"]
mod shell;

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use plugsocket_plugin::{
    Host, Message, Plugin, Refused, RestoreError, Session, Snapshot, StartError, export_plugin,
    read_config,
};
use serde::Deserialize;

struct Saboteur {
    host: Host,
    config: Config,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    at: String,
    how: String,
    before: Option<String>,
    starts: Option<PathBuf>,
}

impl Plugin for Saboteur {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        if let Some(path) = &config.starts {
            File::options().append(true).create(true).open(path)?.write_all(b"start\n")?;
        }
        AT_THREAD_END.set(Some(ThreadEnd(config.clone())));
        config.fail_at("start");
        Ok(Self { host, config })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let _ = self.host.send(session.id(), message);
        Ok(())
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        Some(Snapshot { version: 1, bytes: b"state".to_vec() })
    }

    fn restore(&mut self, _: Snapshot) -> Result<(), RestoreError> {
        self.config.fail_at("restore");
        Ok(())
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.config.fail_at("drop");
    }
}

export_plugin!(Saboteur);

thread_local! {
    static AT_THREAD_END: RefCell<Option<ThreadEnd>> = const { RefCell::new(None) };
}

struct ThreadEnd(Config);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        self.0.fail_at("thread");
    }
}

impl Config {
    fn fail_at(&self, place: &str) {
        if self.at != place {
            return;
        }
        if let Some(command) = &self.before {
            shell::run(command);
        }
        match self.how.as_str() {
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "hang" => loop {
                std::thread::park();
            },
            _ => {}
        }
    }
}
