//! A command of the program that follows a host.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::within;

/// A running command. Dropping it kills the process.
#[derive(Debug)]
pub struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Returns the next line of its standard output; None at the end.
    pub async fn next_line(&mut self) -> Option<String> {
        within("a line of the command", self.lines.next_line()).await.unwrap()
    }

    /// Returns the next line that matches.
    ///
    /// # Panics
    /// If the command ends without it.
    pub async fn until(&mut self, what: &str, is_match: impl Fn(&str) -> bool) -> String {
        loop {
            match self.next_line().await {
                Some(line) if is_match(&line) => return line,
                Some(_) => {}
                None => panic!("the command ended without: {what}"),
            }
        }
    }

    /// Returns the next line, which is JSON, whose `key` is `value`.
    ///
    /// # Panics
    /// If the command ends without it, or a line is not JSON.
    pub async fn until_json(&mut self, key: &str, value: &str) -> Value {
        loop {
            let Some(line) = self.next_line().await else { panic!("no {key} {value:?}") };
            let json: Value = serde_json::from_str(&line).unwrap();
            if json[key] == value {
                return json;
            }
        }
    }

    /// Sends a signal by name, such as `INT`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id().unwrap());
        let status = std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// Waits until it ends; returns its exit code, what else it printed, and its standard error.
    pub async fn ended(mut self) -> (Option<i32>, String, String) {
        let mut rest = String::new();
        while let Some(line) = self.next_line().await {
            rest.push_str(&line);
            rest.push('\n');
        }
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        within("the errors of the command", stderr.read_to_string(&mut errors)).await.unwrap();
        let status = within("the command to end", self.child.wait()).await.unwrap();
        (status.code(), rest, errors)
    }
}
