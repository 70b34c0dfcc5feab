//! Opens the sockets on which the host accepts: those of `listen`, or those that systemd passed.

use std::io;
use std::net::Ipv6Addr;

use tracing::{debug, info};

use super::AppError;
use crate::config::{Config, Listen};
use crate::connection::page;
use crate::net::listener::{Families, Layer, Listener};
use crate::ops::systemd::Inherited;

/// Opens all listening sockets. Sockets that systemd passed replace `listen`.
///
/// # Errors
/// An address cannot be bound, or a passed socket does not fit the configuration.
pub(super) async fn open(config: &Config, inherited: Inherited) -> Result<Vec<Listener>, AppError> {
    let listeners = inherited.listeners().map_err(AppError::Inherited)?;
    if listeners.is_empty() {
        return listen(config).await;
    }
    for listener in &listeners {
        let address = listener.address().map_err(AppError::Inherited)?;
        if listener.is_tls() && config.server.tls.is_none() {
            let text = format!(
                "socket {address} has the name tls, but plugins.toml has no [server.tls] with certificates"
            );
            return Err(AppError::Inherited(io::Error::other(text)));
        }
        info!(address, tls = listener.is_tls(), "listening");
        debug!("systemd opened the socket; the key listen is not used");
    }
    Ok(listeners)
}

/// Opens the listener of `[server.metrics]`, if there is that table.
///
/// # Errors
/// The address cannot be bound.
pub(super) async fn open_metrics(config: &Config) -> Result<Option<Listener>, AppError> {
    let Some(settings) = &config.server.metrics else { return Ok(None) };
    let (address, key) = (&settings.listen, "server.metrics.listen");
    let failed = |source| AppError::Listen { address: address.clone(), key, source };
    let listener = bind(address, Layer::Plain, Families::Both).await.map_err(failed)?;
    let local = listener.address().map_err(failed)?;
    info!(address = %local, "listening for metrics");
    Ok(Some(listener))
}

async fn bind(address: &Listen, layer: Layer, families: Families) -> io::Result<Listener> {
    match address {
        Listen::Tcp { host, port } => Listener::bind_tcp(host, *port, layer, families).await,
        Listen::Unix(path) => Listener::bind_unix(path).await,
    }
}

async fn listen(config: &Config) -> Result<Vec<Listener>, AppError> {
    let mut listeners = Vec::new();
    let plain = config.server.listen.iter().map(|address| (address, Layer::Plain));
    let plain_key =
        if config.overrides.listen.is_empty() { "server.listen" } else { "option --listen" };
    let secured = config.server.tls.iter().flat_map(|tls| &tls.listen);
    for (address, layer) in plain.chain(secured.map(|address| (address, Layer::Tls))) {
        let key = if layer == Layer::Tls { "server.tls.listen" } else { plain_key };
        let failed = |source| AppError::Listen { address: address.clone(), key, source };
        let families = match address {
            Listen::Tcp { port, .. } => families(config, *port),
            Listen::Unix(_) => Families::Both,
        };
        let listener = bind(address, layer, families).await.map_err(failed)?;
        let local = listener.address().map_err(failed)?;
        info!(address = %local, tls = listener.is_tls(), "listening");
        if config.server.page
            && listeners.is_empty()
            && let Listener::Tcp(_, layer) = listener
        {
            let scheme = if layer == Layer::Tls { "https" } else { "http" };
            info!("try it at {scheme}://{local}{}", page::FOLDER);
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Returns whether an IPv6 socket on `port` leaves IPv4 to another address of the configuration, which
/// could not be bound otherwise.
fn families(config: &Config, port: u16) -> Families {
    let secured = config.server.tls.iter().flat_map(|tls| &tls.listen);
    // A name may have an IPv4 address.
    let may_be_ipv4 = |host: &str| host.parse::<Ipv6Addr>().is_err();
    let is_ipv4 = |address: &Listen| matches!(address, Listen::Tcp { host, port: its } if *its == port && may_be_ipv4(host));
    if port != 0 && config.server.listen.iter().chain(secured).any(is_ipv4) {
        Families::Ipv6Only
    } else {
        Families::Both
    }
}
