//! Certificate chain and private key: reads both files and checks that they can be served.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};
use webpki::EndEntityCert;

use super::validity::{Validity, date};
use crate::config::{Certificate, FileSetting};
use crate::fs;

/// File that cannot be used, and why, as one line for the operator.
#[derive(Debug)]
pub(super) struct FileProblem<'a> {
    pub(super) file: &'a FileSetting,
    /// What the key of the file appends to the key of its table.
    pub(super) member: &'static str,
    pub(super) text: String,
}

/// Certificate and key that can be served.
#[derive(Clone, Debug)]
pub(crate) struct CertifiedPair {
    /// DNS names in lower case, including wildcards (`*.`).
    pub(crate) names: Vec<String>,
    pub(crate) validity: Validity,
    pub(crate) key: Arc<CertifiedKey>,
}

impl CertifiedPair {
    /// Reads both files; `now` is seconds since 1970.
    ///
    /// # Errors
    /// One of the files cannot be served now.
    pub(super) fn read<'a>(
        entry: &'a Certificate,
        now: u64,
        provider: &CryptoProvider,
    ) -> Result<Self, FileProblem<'a>> {
        let (certificate, key) = (&entry.certificate.path, &entry.key.path);
        let of_certificate =
            |text| FileProblem { file: &entry.certificate, member: ".certificate", text };
        let of_key = |text| FileProblem { file: &entry.key, member: ".key", text };
        let chain = certificates(certificate, "the server's own first").map_err(of_certificate)?;
        let (names, validity) = check_chain(&chain, certificate, now).map_err(of_certificate)?;
        let secret = read_key(key).map_err(of_key)?;
        let certified = CertifiedKey::from_der(chain, secret, provider)
            .map_err(|error| of_key(mismatch(&error, certificate, key)))?;
        Ok(Self { names, validity, key: Arc::new(certified) })
    }
}

/// Returns the names and the validity of the first certificate. The others must be well-formed and
/// valid too, as clients need them.
fn check_chain(
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
            // Old authorities have such a certificate; clients do not check its version.
            Err(webpki::Error::UnsupportedCertVersion) if n > 0 => Vec::new(),
            Err(webpki::Error::UnsupportedCertVersion) => return Err(outdated(&what)),
            Err(_) => return Err(malformed(&what)),
        };
        let validity = Validity::of(link).ok_or_else(|| malformed(&what))?;
        check_validity(validity, &what, now)?;
        own.get_or_insert((names, validity));
    }
    own.ok_or_else(|| malformed(&path.display().to_string()))
}

fn malformed(what: &str) -> String {
    format!(
        "{what} is not a well-formed certificate; use the PEM file from the authority, complete"
    )
}

fn outdated(what: &str) -> String {
    format!(
        "{what} is an X.509 certificate of version 1; version 3 is required: with `openssl x509 -req`, add \
         -extfile <(printf 'basicConstraints=CA:FALSE\\n')"
    )
}

/// Reads at least one certificate; `which` describes the expected ones.
///
/// # Errors
/// The sentence for the operator.
pub(super) fn certificates(
    path: &Path,
    which: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!(
            "{} contains no certificate; use a PEM file with -----BEGIN CERTIFICATE-----, {which}",
            path.display()
        )),
        Err(_) => Err(format!("{} is damaged PEM; write the whole file again", path.display())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    fs::owner_only::warn_if_open(path);
    let path = path.display();
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // PKCS #8 has a label for it, older formats a header (RFC 1421 section 4.6.1.1).
        let marks = [&b"-----BEGIN ENCRYPTED "[..], b"Proc-Type: 4,ENCRYPTED"];
        if bytes.split(|byte| *byte == b'\n').any(|line| marks.iter().any(|mark| line.starts_with(mark))) {
            return format!(
                "{path} is encrypted, and the host has no passphrase; decrypt it: openssl pkey -in OLD -out NEW"
            );
        }
        format!("{path} contains no private key; use a PEM file with -----BEGIN PRIVATE KEY-----")
    })
}

const MAX_FILE: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read::read(path, MAX_FILE).map_err(|error| {
        format!(
            "{} cannot be read: {error}; use a PEM file that the host's user may read",
            path.display()
        )
    })?;
    Ok(fs::read::without_byte_order_mark(&bytes).to_vec())
}

fn check_validity(validity: Validity, what: &str, now: u64) -> Result<(), String> {
    if now > validity.until {
        return Err(format!("{what} expired on {}; renew it", date(validity.until)));
    }
    if now < validity.from {
        let from = date(validity.from);
        return Err(format!(
            "{what} is not valid before {from}; check the clock, or install it later"
        ));
    }
    Ok(())
}

fn mismatch(error: &Error, certificate: &Path, key: &Path) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "{} is not the key of {}; use a pair that was created together",
            key.display(),
            certificate.display()
        ),
        _ => format!(
            "{} has an unsupported key type; use ECDSA (P-256, P-384), Ed25519 or RSA (2048 to 4096 bits)",
            key.display()
        ),
    }
}
