//! plugsocket
