//! Libraries that are written against `plugsocket.h`: C, and what can export a C structure.
//!
//! They export a table of functions, and receive one ([`table`]), whose functions call those for
//! Rust.

mod instance;
mod layout;
mod open;
mod table;
mod types;

pub(super) use self::instance::CInstance;
pub(super) use self::open::{C_SYMBOL, CModule, TableError};
