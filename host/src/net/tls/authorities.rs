//! The authorities of clients: whose certificates make a backend, and until when they should.
//!
//! Owns the judgement of what a client shows. A session that goes on shows nothing anew, so what it showed once is judged again here.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{Error, HandshakeKind, RootCertStore, ServerConnection};

use super::pair;
use super::validity::Validity;

/// What is in the file `client_ca`.
#[derive(Clone, Debug)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    /// When the first of them ends, in seconds since 1970. The library that judges looks at clients only.
    pub(super) until: u64,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    /// # Errors
    /// A sentence: the file holds something else than authorities.
    pub(super) fn read(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut until = u64::MAX;
        for certificate in pair::certificates(path, "one of each authority")? {
            until = Validity::of(&certificate).map_or(until, |own| own.until.min(until));
            roots.add(certificate).map_err(|error| {
                format!("{} has a certificate that is no authority's: {error}", path.display())
            })?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.allow_unauthenticated().build();
        let verifier =
            verifier.map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
        Ok(Self { roots, until, verifier })
    }

    pub(super) fn differs(&self, other: &Self) -> bool {
        self.roots.roots != other.roots.roots
    }

    /// Judges the certificate of a client again whose handshake went on with a session: it may have expired since.
    ///
    /// # Errors
    /// A whole handshake would refuse it now.
    pub(super) fn judge_again(&self, session: &ServerConnection) -> Result<(), Error> {
        match (session.handshake_kind(), session.peer_certificates()) {
            (Some(HandshakeKind::Resumed), Some([own, others @ ..])) => {
                self.verifier.verify_client_cert(own, others, UnixTime::now()).map(drop)
            }
            _ => Ok(()),
        }
    }
}
