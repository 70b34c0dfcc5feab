//! Does the worst that safe code in a plugin can do, on command. Other messages are sent back.
//!
//! | message | effect |
//! |---|---|
//! | `exit` | ends the process with code 7 |
//! | `abort` | ends the process by SIGABRT |
//! | `overflow` | recurses until the stack overflows |
//! | `double panic` | panics while unwinding |
//! | `allocate` | allocates until memory is exhausted |
//! | `flood N` | broadcasts N messages of 1,000 bytes |
//! | `threads N` | starts N threads that never end |

use plugsocket_plugin::{
    Audience, Host, Message, Plugin, Refused, Session, StartError, export_plugin,
};

struct Rogue {
    host: Host,
    hoard: Vec<Vec<u8>>,
}

impl Plugin for Rogue {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self { host, hoard: Vec::new() })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let text = message.to_text().unwrap_or_default();
        let (command, number) = text.rsplit_once(' ').unwrap_or((text, "0"));
        let number = number.parse::<u32>().unwrap_or_default();
        match (text, command) {
            ("exit", _) => exit(),
            ("abort", _) => std::process::abort(),
            ("overflow", _) => drop(recurse(&[1; 1000])),
            ("double panic", _) => panic_twice(),
            ("allocate", _) => loop {
                self.hoard.push(vec![1; 16 << 20]);
            },
            (_, "flood") => {
                let text = format!("\"{}\"", "x".repeat(1000));
                for _ in 0..number {
                    let _ = self.host.broadcast(Audience::resource(), &text);
                }
                return Ok(());
            }
            (_, "threads") => {
                for _ in 0..number {
                    drop(std::thread::spawn(std::thread::park));
                }
            }
            _ => {}
        }
        let _ = self.host.send(session.id(), message);
        Ok(())
    }
}

export_plugin!(Rogue);

#[expect(clippy::exit, reason = "the purpose of this plugin")]
fn exit() {
    std::process::exit(7);
}

#[expect(unconditional_recursion, reason = "the purpose of this plugin")]
fn recurse(on_the_stack: &[u64; 1000]) -> u64 {
    let mut next = *on_the_stack;
    next[0] += 1;
    std::hint::black_box(recurse(std::hint::black_box(&next))) + next[0]
}

#[expect(clippy::panic, reason = "the purpose of this plugin")]
fn panic_twice() {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            panic!("panic requested while unwinding");
        }
    }
    let _again = Again;
    panic!("panic requested");
}
