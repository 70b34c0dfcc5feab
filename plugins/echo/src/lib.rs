//! **echo** sends back what it gets, text and binary, byte for byte. With a configuration it talks a little.
//!
//! ```toml
//! [resources."/echo"]             # for test suites: plain WebSocket
//! plugin = "echo"
//! dialog = false
//!
//! [resources."/talk"]             # the same library once more
//! plugin = "echo"
//!
//! [resources."/talk".config]
//! prefix = "You have entered: "   # put before a text that is sent back; default: nothing
//!
//! [resources."/talk".config.commands]
//! hello = "Hello, human"          # the whole message, in any letter case = the answer
//! date  = "Today is {date}"       # {date} and {time} are UTC
//! bye   = "{close}Goodbye"        # answers, then closes
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
    /// In lower case, with the answers.
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
                return Err(StartError::new("`commands`: an empty message cannot be a command"));
            }
            if commands.iter().any(|(known, _)| *known == lower) {
                return Err(StartError::new(format!(
                    "`commands`: `{command}` is there twice; letter case makes no difference"
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
    /// The answer to a command. Compared character by character: most messages differ in the first one.
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
            // A peer that is gone is as good as closed.
            let _ = self.host.close(id, CloseCode::NORMAL, "");
        }
    }

    fn send(&self, id: ConnectionId, message: Message<'_>) {
        // Fails when the peer is gone or this instance replaced; nothing is left to do then.
        let _ = self.host.send(id, message);
    }
}

/// Puts date and time of day (UTC) into an answer.
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

/// Year, month and day of a day since 1970-01-01. A year begins on the 1st of March here, so that a leap day is its last
/// (Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `civil_from_days`).
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
    fn without_configuration_every_message_comes_back_byte_for_byte() {
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
    fn commands_are_answered_in_any_letter_case_and_the_rest_is_prefixed() {
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
        assert_eq!(app.received(ann), ["hello"], "binary is sent back as it is");
        app.message(ann, "date").unwrap();
        assert_eq!(app.received(ann)[0].len(), "Today is 2026-01-31".len());
    }

    #[test]
    fn a_closing_answer_is_sent_and_then_the_connection_closed() {
        for (command, expected) in [("Bye", &["Goodbye"][..]), ("off", &[])] {
            let mut app = Harness::<Echo>::start(TALK).unwrap();
            let ann = app.open(Peer::websocket()).unwrap();
            app.message(ann, command).unwrap();
            assert_eq!(app.received(ann), expected);
            assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, String::new())));
        }
    }

    #[test]
    fn date_and_time_are_right_also_on_a_leap_day() {
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
    fn a_mistake_in_the_configuration_is_named() {
        for (config, expected) in [
            (r#"{"prefx":""}"#, "unknown field `prefx`, expected `prefix` or `commands`"),
            (r#"{"prefix":1}"#, "`prefix`: invalid type: integer `1`, expected a string"),
            (r#"{"commands":{" ":"x"}}"#, "`commands`: an empty message cannot be a command"),
            (
                r#"{"commands":{"HI":"x","hi":"y"}}"#,
                "`commands`: `hi` is there twice; letter case makes no difference",
            ),
        ] {
            assert_eq!(Harness::<Echo>::start(config).err().unwrap().0, expected);
        }
    }

    #[test]
    fn a_reload_changes_nothing_for_those_who_are_connected() {
        let mut app = Harness::<Echo>::start("{}").unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        let mut app = app.reload::<Echo>(r#"{"prefix":"now: "}"#).unwrap();
        app.message(ann, "hello").unwrap();
        assert_eq!(app.received(ann), ["now: hello"]);
    }
}
