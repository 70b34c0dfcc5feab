//! The table `[server.tls]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::convert::{ALL, CERTIFICATE, TLS, addresses};
use super::raw::{Mistakes, Section};
use super::value::{self, Seconds, Wrong, wrong, wrong_kind};
use super::{Certificate, Listen, Place, Tls, address};

/// Whether it names an address, right or wrong.
pub(super) fn listens(table: &DeTable<'_>) -> bool {
    let list = table.get("listen").and_then(|value| value.get_ref().as_array());
    list.is_some_and(|list| !list.is_empty())
}

pub(super) fn tls(
    (table, at): (&DeTable<'_>, usize),
    base: &Path,
    mistakes: &mut Mistakes,
) -> Option<Tls> {
    const HANDSHAKE: Seconds =
        Seconds { least: Duration::from_millis(1), less: "would refuse every client" };
    let mut s = Section::new(("server.tls".to_owned(), at), table, &TLS, &ALL, mistakes);
    let absent = r#"this key is missing; write e.g. listen = ["0.0.0.0:8443"], or [] where systemd opens the sockets"#;
    s.required("listen", absent, |_| Ok(()));
    let listen = addresses(&mut s, r#"["0.0.0.0:8443"]"#, |text| listen(text, base));
    let client_ca = place(&mut s, "client_ca", None, (base, "\"ca.pem\""));
    let timeout = s.seconds("tls_timeout", &HANDSHAKE, DEFAULT_TIMEOUT);
    let proxy_protocol = s.value("proxy_protocol", value::switch).unwrap_or(false);
    let example = format!("certificates = [{EXAMPLE}]");
    s.required("certificates", &format!("this key is missing; write e.g. {example}"), |_| Ok(()));
    let tables = s.tables("certificates", &example);
    let certificates = tables.into_iter().flatten().enumerate().map(|(n, (table, at))| {
        let place = (format!("server.tls.certificates[{n}]"), at);
        certificate(place, table, base, mistakes)
    });
    // With a mistake in one of them there is no configuration.
    let certificates: Vec<_> = certificates.collect::<Vec<_>>().into_iter().flatten().collect();
    Some(Tls { listen: listen?, certificates, client_ca, timeout, proxy_protocol })
}

fn listen(text: &str, base: &Path) -> Result<Listen, Wrong> {
    match address::listen(text, base)? {
        Listen::Unix(_) => wrong!(
            "a Unix socket never leaves the machine and needs no TLS; move it to listen under [server]"
        ),
        tcp => Ok(tcp),
    }
}

fn certificate(
    at: (String, usize),
    table: &DeTable<'_>,
    base: &Path,
    mistakes: &mut Mistakes,
) -> Option<Certificate> {
    let mut s = Section::new(at, table, &CERTIFICATE, &ALL, mistakes);
    let absent = |key: &str| format!("this key is missing; write {EXAMPLE}, with {key} in it");
    let certificate =
        place(&mut s, "certificate", Some(&absent("certificate")), (base, "\"fullchain.pem\""));
    let key = place(&mut s, "key", Some(&absent("key")), (base, "\"key.pem\""));
    Some(Certificate { certificate: certificate?, key: key? })
}

/// A file; `absent` is what is said where it must be there and is not.
fn place(
    s: &mut Section<'_, '_>,
    key: &str,
    absent: Option<&str>,
    (base, example): (&Path, &str),
) -> Option<Place> {
    let read = |value: &DeValue<'_>| match value {
        DeValue::String(text) => value::file(text, base, example),
        other => Err(wrong_kind(other, &format!("give a path in quotes, e.g. {example}"))),
    };
    let path: Option<PathBuf> = match absent {
        Some(absent) => s.required(key, absent, read),
        None => s.value(key, read),
    };
    let line = s.line(key);
    path.map(|path| Place { path, line })
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const EXAMPLE: &str = r#"{ certificate = "fullchain.pem", key = "key.pem" }"#;
