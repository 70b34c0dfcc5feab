//! A certificate with its key: read, found to belong together, and the sentence for the operator where they are not fit.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};
use webpki::EndEntityCert;

use super::validity::{Validity, date};

/// What is wrong with a file, and what would be right; one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PairError {
    Certificate(String),
    Key(String),
}

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub(crate) struct CertifiedPair {
    /// DNS names, in lower case; `*.` for all that are one label longer.
    pub(crate) names: Vec<String>,
    pub(crate) validity: Validity,
    pub(crate) key: Arc<CertifiedKey>,
}

impl CertifiedPair {
    /// Reads both files; `now` is seconds since 1970.
    ///
    /// # Errors
    /// One of them is not fit to be served now.
    pub(crate) fn read(
        certificate: &Path,
        key: &Path,
        now: u64,
        provider: &CryptoProvider,
    ) -> Result<Self, PairError> {
        let chain =
            certificates(certificate, "the server's own first").map_err(PairError::Certificate)?;
        let judged = judge(&chain, certificate, now).map_err(PairError::Certificate)?;
        let (names, validity) = judged;
        let secret = read_key(key).map_err(PairError::Key)?;
        let certified = CertifiedKey::from_der(chain, secret, provider);
        let certified =
            certified.map_err(|error| PairError::Key(mismatch(&error, certificate, key)))?;
        Ok(Self { names, validity, key: Arc::new(certified) })
    }

    /// How well it suits a name in lower case: exactly, or by a wildcard.
    pub(crate) fn suits(&self, name: &str) -> Option<Suits> {
        if self.names.iter().any(|own| own == name) {
            return Some(Suits::Exactly);
        }
        let (_, behind) = name.split_once('.')?;
        let wildcard = |own: &String| own.strip_prefix("*.").is_some_and(|own| own == behind);
        self.names.iter().any(wildcard).then_some(Suits::ByWildcard)
    }
}

/// The names and the validity of the first; the others must be whole and valid, too: clients need them.
fn judge(
    chain: &[CertificateDer<'_>],
    path: &Path,
    now: u64,
) -> Result<(Vec<String>, Validity), String> {
    let mut own = None;
    for (n, link) in chain.iter().enumerate() {
        let what = match n {
            0 => path.display().to_string(),
            _ => format!("certificate {} of {}", n + 1, path.display()),
        };
        let names = match EndEntityCert::try_from(link) {
            Ok(parsed) => parsed.valid_dns_names().map(str::to_ascii_lowercase).collect(),
            // Old authorities sign with such a certificate of their own; clients do not look at that.
            Err(webpki::Error::UnsupportedCertVersion) if n > 0 => Vec::new(),
            Err(webpki::Error::UnsupportedCertVersion) => return Err(old(&what)),
            Err(_) => return Err(unsound(&what)),
        };
        let validity = Validity::of(link).ok_or_else(|| unsound(&what))?;
        is_valid(validity, &what, now)?;
        own.get_or_insert((names, validity));
    }
    own.ok_or_else(|| unsound(&path.display().to_string()))
}

fn unsound(what: &str) -> String {
    format!("{what} cannot be understood; give what the authority issued, whole and in PEM")
}

fn old(what: &str) -> String {
    format!(
        "{what} is an X.509 certificate of version 1, and version 3 is needed; with `openssl x509 -req`, add \
         -extfile <(printf 'basicConstraints=CA:FALSE\\n')"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Suits {
    Exactly,
    ByWildcard,
}

/// At least one. `which` says which are meant.
///
/// # Errors
/// A sentence.
pub(super) fn certificates(
    path: &Path,
    which: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!(
            "{} has no certificate in it; give a PEM file with -----BEGIN CERTIFICATE-----, {which}",
            path.display()
        )),
        Err(_) => Err(format!("{} is damaged PEM; write the whole file anew", path.display())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    let path = path.display();
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // PKCS #8 says so in its label, older forms in a header (RFC 1421 section 4.6.1.1).
        let marks = [&b"-----BEGIN ENCRYPTED "[..], b"Proc-Type: 4,ENCRYPTED"];
        if bytes.split(|byte| *byte == b'\n').any(|line| marks.iter().any(|mark| line.starts_with(mark))) {
            return format!(
                "{path} is encrypted, and nobody is there to give the passphrase; write it without one: openssl pkey -in OLD -out NEW"
            );
        }
        format!("{path} has no private key in it; give a PEM file with -----BEGIN PRIVATE KEY-----")
    })
}

/// More is no certificate.
const MOST_BYTES: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let right = "give a PEM file that the host's user may read";
    let unreadable = |why: &dyn std::fmt::Display| {
        Err(format!("{} cannot be read: {why}; {right}", path.display()))
    };
    // Of anything else, such as a pipe, there might be no end.
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return unreadable(&"it is no file"),
        Ok(meta) if meta.len() > MOST_BYTES => return unreadable(&"it is larger than 1 MiB"),
        Ok(_) => {}
        Err(error) => return unreadable(&error),
    }
    fs::read(path).or_else(|error| unreadable(&error))
}

fn is_valid(validity: Validity, what: &str, now: u64) -> Result<(), String> {
    if now > validity.until {
        return Err(format!("{what} expired on {}; renew it", date(validity.until)));
    }
    if now < validity.from {
        let from = date(validity.from);
        return Err(format!("{what} is not valid before {from}; set the clock, or wait with it"));
    }
    Ok(())
}

fn mismatch(error: &Error, certificate: &Path, key: &Path) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "{} is not the key of {}; give the two that were made together",
            key.display(),
            certificate.display()
        ),
        _ => format!(
            "{} is a key of a kind that is not served; give an ECDSA (P-256, P-384), Ed25519 or RSA (2048 to 4096 bits) key",
            key.display()
        ),
    }
}
