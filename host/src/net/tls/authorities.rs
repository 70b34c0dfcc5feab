//! Client authorities (`client_ca`): they verify client certificates, whose clients are backends.
//!
//! rustls does not verify a certificate again when a session resumes; this module does.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{Error, HandshakeKind, RootCertStore, ServerConnection};

use super::pair;
use super::validity::Validity;

/// Content of the file `client_ca`.
#[derive(Clone, Debug)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    /// When the first authority expires, in seconds since 1970. rustls does not check that.
    pub(super) until: u64,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    /// Reads the file `client_ca`.
    ///
    /// # Errors
    /// The sentence for the operator: the file cannot be read, or is not a list of authorities.
    pub(super) fn read(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut until = u64::MAX;
        for certificate in pair::certificates(path, "one of each authority")? {
            until = Validity::of(&certificate).map_or(until, |own| own.until.min(until));
            roots.add(certificate).map_err(|error| {
                format!("{} has a certificate that is not an authority: {error}", path.display())
            })?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.allow_unauthenticated().build();
        let verifier =
            verifier.map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
        Ok(Self { roots, until, verifier })
    }

    pub(super) fn differs_from(&self, other: &Self) -> bool {
        self.roots.roots != other.roots.roots
    }

    /// Verifies the client certificate of a resumed session, which may have expired meanwhile.
    ///
    /// # Errors
    /// A full handshake would refuse the certificate now.
    pub(super) fn verify_resumed(&self, session: &ServerConnection) -> Result<(), Error> {
        match (session.handshake_kind(), session.peer_certificates()) {
            (Some(HandshakeKind::Resumed), Some([own, others @ ..])) => {
                self.verifier.verify_client_cert(own, others, UnixTime::now()).map(drop)
            }
            _ => Ok(()),
        }
    }
}
