//! plugsocket

pub mod config;
