//! plugsocket
pub mod chunk;
pub mod dialog;
pub mod http;
pub mod identity;
pub mod lines;
