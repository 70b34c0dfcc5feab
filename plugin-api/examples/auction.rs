//! An auction: clients watch lots, bid, and see them sold when their time is over.
//!
//! | a client sends | and receives |
//! |---|---|
//! | `{"do":"watch","lot":"clock"}` | the price of the lot now, and each time it changes |
//! | `{"do":"bid","lot":"clock","amount":12}` | as all who watch the lot: `{"lot":"clock","price":12,"by":"ann"}` |
//! | | when the time is over: `{"lot":"clock","sold":12,"to":"ann"}` |
//!
//! The first bid opens a lot for `seconds`. Users come from `auth`, or from `?name=` without it. Lots,
//! prices and remaining times survive a reload: the timers are the host's, the rest is the snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use plugsocket_plugin::{
    CloseCode, Counter, Host, Message, Plugin, Refused, RestoreError, Session, SessionData,
    Snapshot, StartError, export_plugin, read_config, read_message,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Packet {
    Watch { lot: String },
    Bid { lot: String, amount: u64 },
}

#[derive(Serialize, Deserialize)]
struct Bid {
    price: u64,
    by: String,
}

struct Auction {
    host: Host,
    seconds: u64,
    bids: BTreeMap<String, Bid>,
    users: SessionData<String>,
    accepted: Counter,
}

impl Plugin for Auction {
    const NEVER_BLOCKS: bool = true;
    const CONFIG_SCHEMA: &'static str = r#"{
        "properties": {"seconds": {"type": "integer", "minimum": 1, "maximum": 604800}},
        "required": ["seconds"]
    }"#;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { seconds } = read_config(config)?;
        let accepted = host.counter("bids", "Accepted bids.", &[]);
        let users = SessionData::new(&host);
        Ok(Self { host, seconds, bids: BTreeMap::new(), users, accepted })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let user = session.user().map(str::to_owned).or_else(|| session.query_value("name"));
        let user = user.ok_or_else(|| Refused::new("no ?name= in the address"))?;
        Ok(self.users.set(session.id(), &user)?)
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        match read_message(message)? {
            Packet::Watch { lot } => {
                self.host.join(session.id(), &lot)?;
                let price = self.bids.get(&lot).map(|bid| bid.price);
                self.host.send_json(session.id(), &json!({"lot": lot, "price": price}))?;
            }
            Packet::Bid { lot, amount } => {
                let by = self.users.get(session).unwrap_or_default();
                match self.bids.get(&lot) {
                    Some(bid) if bid.price >= amount => {
                        let reason = format!("{} is bid already", bid.price);
                        return Err(Refused::with_code(CloseCode(4000), reason));
                    }
                    Some(_) => {}
                    None => self.host.after(Duration::from_secs(self.seconds), &lot)?,
                }
                let packet = json!({"lot": lot, "price": amount, "by": by});
                self.host.publish_json(&lot, &[], &packet)?;
                self.bids.insert(lot, Bid { price: amount, by });
                self.accepted.add(1.0);
            }
        }
        Ok(())
    }

    fn timer(&mut self, lot: &str) {
        if let Some(Bid { price, by }) = self.bids.remove(lot) {
            let _ = self.host.publish_json(lot, &[], &json!({"lot": lot, "sold": price, "to": by}));
        }
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        Some(Snapshot { version: 1, bytes: serde_json::to_vec(&self.bids).ok()? })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != 1 {
            return Err(RestoreError::new(format!("unknown version {}", snapshot.version)));
        }
        self.bids = serde_json::from_slice(&snapshot.bytes)?;
        Ok(())
    }
}

export_plugin!(Auction);

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};

    #[test]
    fn a_lot_is_sold_to_the_highest_bid_across_a_reload() {
        let mut app = Harness::<Auction>::start(r#"{"seconds":60}"#).expect("it starts");
        let [ann, bob] = ["ann", "bob"].map(|name| app.open(Peer::websocket().user(name)).unwrap());
        for id in [ann, bob] {
            app.message(id, r#"{"do":"watch","lot":"clock"}"#).unwrap();
        }
        app.message(ann, r#"{"do":"bid","lot":"clock","amount":5}"#).unwrap();
        app.advance(Duration::from_secs(30));
        let mut app = app.reload::<Auction>(r#"{"seconds":60}"#).unwrap();
        app.message(bob, r#"{"do":"bid","lot":"clock","amount":8}"#).unwrap();
        let refused = app.message(ann, r#"{"do":"bid","lot":"clock","amount":8}"#).unwrap_err();
        assert_eq!(refused.reason, "8 is bid already");
        app.advance(Duration::from_secs(30));
        let sold = r#"{"lot":"clock","sold":8,"to":"bob"}"#;
        assert_eq!(app.received(bob).last().map(String::as_str), Some(sold));
    }
}
