//! **echo** returns each text or binary message byte for byte. Its configuration can define
//! answers.
//!
//! ```toml
//! [resources."/echo"]             # plain WebSocket, for test suites
//! plugin = "echo"
//! dialog = false
//!
//! [resources."/talk"]             # the same library with a configuration
//! plugin = "echo"
//!
//! [resources."/talk".config]
//! prefix = "You have entered: "   # precedes a text that is sent back; default: empty
//!
//! [resources."/talk".config.commands]
//! hello = "Hello, human"          # complete message, compared without case = answer
//! date  = "Today is {date}"       # {date} and {time} are UTC
//! bye   = "{close}Goodbye"        # answers, then closes the connection
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use plugsocket_plugin::{
    CloseCode, ConnectionId, Host, Message, Plugin, Refused, Session, StartError, export_plugin,
    read_config,
};
use serde::Deserialize;

struct Echo {
    host: Host,
    prefix: String,
    /// Commands in lower case, with their answers.
    commands: Vec<(String, String)>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    prefix: String,
    commands: BTreeMap<String, String>,
}

impl Plugin for Echo {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        let mut commands: Vec<(String, String)> = Vec::new();
        for (command, answer) in config.commands {
            let lower = command.trim().to_lowercase();
            if lower.is_empty() {
                return Err(StartError::new("`commands`: a command must not be empty"));
            }
            if commands.iter().any(|(known, _)| *known == lower) {
                return Err(StartError::new(format!(
                    "`commands`: `{command}` occurs twice; case is ignored"
                )));
            }
            commands.push((lower, answer));
        }
        Ok(Self { host, prefix: config.prefix, commands })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let id = session.id();
        match message {
            Message::Text(text) => match self.command(text) {
                Some(answer) => self.answer(id, answer),
                None if self.prefix.is_empty() => self.send(id, message),
                None => self.send(id, Message::Text(&format!("{}{text}", self.prefix))),
            },
            Message::Binary(_) => self.send(id, message),
        }
        Ok(())
    }
}

export_plugin!(Echo);

impl Echo {
    /// Returns the answer to a command. Compares without allocating a lower-case copy of the
    /// message.
    fn command(&self, text: &str) -> Option<&str> {
        let lower = text.trim().chars().flat_map(char::to_lowercase);
        let found = self.commands.iter().find(|(command, _)| lower.clone().eq(command.chars()));
        found.map(|(_, answer)| answer.as_str())
    }

    fn answer(&self, id: ConnectionId, answer: &str) {
        let closing = answer.strip_prefix("{close}");
        let text = fill_in(closing.unwrap_or(answer), SystemTime::now());
        if closing.is_none() || !text.is_empty() {
            self.send(id, Message::Text(&text));
        }
        if closing.is_some() {
            // Fails only if the connection has ended already.
            let _ = self.host.close(id, CloseCode::NORMAL, "");
        }
    }

    fn send(&self, id: ConnectionId, message: Message<'_>) {
        // Fails only if the client is gone or this instance has been replaced.
        let _ = self.host.send(id, message);
    }
}

/// Replaces `{date}` and `{time}` in an answer by the UTC date and time.
fn fill_in(answer: &str, now: SystemTime) -> String {
    if !answer.contains('{') {
        return answer.to_owned();
    }
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    answer
        .replace("{date}", &format!("{year:04}-{month:02}-{day:02}"))
        .replace("{time}", &format!("{hour:02}:{minute:02}:{second:02}"))
}

/// Converts days since 1970-01-01 to year, month and day. Internally a year begins on March 1,
/// which makes the leap day its last (Howard Hinnant, *chrono-Compatible Low-Level Date
/// Algorithms*, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};
    use std::time::Duration;

    const TALK: &str = r#"{"prefix":"You said: ","commands":{
        "Hello":"Hello, human","straße":"Weg","date":"Today is {date}","bye":"{close}Goodbye","off":"{close}"}}"#;

    #[test]
    fn without_configuration_every_message_returns_byte_for_byte() {
        let mut app = Harness::<Echo>::start("{}").unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        for text in ["", " hello ", "{close}{date}", "\u{0}\u{1f600}", "bufferOFF"] {
            app.message(ann, text).unwrap();
            assert_eq!(app.received(ann), [text]);
        }
        app.message(ann, &[0, 0xff, 0xfe][..]).unwrap();
        assert_eq!(app.received_bytes(ann), [[0, 0xff, 0xfe]]);
    }

    #[test]
    fn commands_match_without_case_and_other_messages_are_prefixed() {
        let mut app = Harness::<Echo>::start(TALK).unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        for (text, expected) in [
            ("hello", "Hello, human"),
            ("  HeLLo\n", "Hello, human"),
            ("STRAßE", "Weg"),
            ("hello you", "You said: hello you"),
            ("hell", "You said: hell"),
            (" x ", "You said:  x "),
            ("", "You said: "),
        ] {
            app.message(ann, text).unwrap();
            assert_eq!(app.received(ann), [expected], "{text:?}");
        }
        app.message(ann, "hello".as_bytes()).unwrap();
        assert_eq!(app.received(ann), ["hello"], "binary messages are returned unchanged");
        app.message(ann, "date").unwrap();
        assert_eq!(app.received(ann)[0].len(), "Today is 2026-01-31".len());
    }

    #[test]
    fn a_closing_answer_is_sent_before_the_connection_is_closed() {
        for (command, expected) in [("Bye", &["Goodbye"][..]), ("off", &[])] {
            let mut app = Harness::<Echo>::start(TALK).unwrap();
            let ann = app.open(Peer::websocket()).unwrap();
            app.message(ann, command).unwrap();
            assert_eq!(app.received(ann), expected);
            assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, String::new())));
        }
    }

    #[test]
    fn dates_are_correct_on_leap_days() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_709_251_200, "2024-03-01 00:00:00"),
            (1_769_864_759, "2026-01-31 13:05:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(fill_in("{date} {time}", now), expected);
        }
        assert_eq!(fill_in("{else}", SystemTime::now()), "{else}");
    }

    #[test]
    fn a_configuration_error_names_its_key() {
        for (config, expected) in [
            (r#"{"prefx":""}"#, "unknown field `prefx`, expected `prefix` or `commands`"),
            (r#"{"prefix":1}"#, "`prefix`: invalid type: integer `1`, expected a string"),
            (r#"{"commands":{" ":"x"}}"#, "`commands`: a command must not be empty"),
            (
                r#"{"commands":{"HI":"x","hi":"y"}}"#,
                "`commands`: `hi` occurs twice; case is ignored",
            ),
        ] {
            assert_eq!(Harness::<Echo>::start(config).err().unwrap().0, expected);
        }
    }

    #[test]
    fn connections_survive_a_reload() {
        let mut app = Harness::<Echo>::start("{}").unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        let mut app = app.reload::<Echo>(r#"{"prefix":"now: "}"#).unwrap();
        app.message(ann, "hello").unwrap();
        assert_eq!(app.received(ann), ["now: hello"]);
    }
}
