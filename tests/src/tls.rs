//! Certificates made for a test, and addresses that are reached by TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::stream::{Address, Secure};

/// An authority of the test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// One, without a chain.
    pub certificate: String,
    /// Not encrypted.
    pub key: String,
}

impl Issued {
    /// The certificate as it is on the wire.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap().to_vec()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::until(SystemTime::now() + 3650 * DAY)
    }
}

impl Authority {
    /// One whose own certificate ends then.
    pub fn until(until: SystemTime) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = until.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server, valid from yesterday for a year.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, SystemTime::now() + 365 * DAY)
    }

    /// A certificate for a server, valid from 30 days ago.
    pub fn issue_until(&self, names: &[&str], until: SystemTime) -> Issued {
        let names: Vec<String> = names.iter().copied().map(ToOwned::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = until.into();
        self.sign(params)
    }

    /// A certificate for a client.
    pub fn issue_client(&self) -> Issued {
        self.issue_client_until(SystemTime::now() + 365 * DAY)
    }

    /// A certificate for a client that ends then.
    pub fn issue_client_until(&self, until: SystemTime) -> Issued {
        let mut params = CertificateParams::new(vec!["backend".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = until.into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// The same address, reached by TLS: by a client that trusts this authority and asks for `name`.
    pub fn reach(&self, address: &Address, name: &str) -> Address {
        self.secure(address, name, Peer { certificate: None, versions: &[&TLS12, &TLS13] })
    }

    /// By a client with a certificate of its own.
    pub fn reach_as(&self, address: &Address, name: &str, client: &Issued) -> Address {
        let certificate = Some(client);
        self.secure(address, name, Peer { certificate, versions: &[&TLS12, &TLS13] })
    }

    /// By a client that speaks nothing newer than TLS 1.2.
    pub fn reach_by_1_2(&self, address: &Address, name: &str) -> Address {
        self.secure(address, name, Peer { certificate: None, versions: &[&TLS12] })
    }

    /// By a client with a certificate of its own that speaks nothing newer than TLS 1.2.
    pub fn reach_as_by_1_2(&self, address: &Address, name: &str, client: &Issued) -> Address {
        self.secure(address, name, Peer { certificate: Some(client), versions: &[&TLS12] })
    }

    fn secure(&self, address: &Address, name: &str, peer: Peer<'_>) -> Address {
        let Address::Tcp(address) = address else { panic!("TLS is for TCP: {address:?}") };
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_protocol_versions(peer.versions).unwrap().with_root_certificates(roots);
        let config = match peer.certificate {
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![issued.der().into()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = name.to_owned().try_into().unwrap();
        Address::Tls(*address, Secure { config: Arc::new(config), name })
    }
}

/// How a client speaks TLS.
struct Peer<'a> {
    certificate: Option<&'a Issued>,
    versions: &'a [&'static SupportedProtocolVersion],
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
