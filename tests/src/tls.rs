//! Certificates for tests, and TLS addresses.

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

use crate::stream::{Address, TlsClient};

/// A certificate authority for tests.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, without a chain.
    pub certificate: String,
    /// The unencrypted private key.
    pub key: String,
}

impl Issued {
    /// Returns the certificate in DER.
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
    /// Creates an authority whose certificate expires at `until`.
    pub fn until(until: SystemTime) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = until.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Returns the authority's certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a server certificate that is valid for a year.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, SystemTime::now() + 365 * DAY)
    }

    /// Issues a server certificate that expires at `until`.
    pub fn issue_until(&self, names: &[&str], until: SystemTime) -> Issued {
        let names: Vec<String> = names.iter().copied().map(ToOwned::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = until.into();
        self.sign(params)
    }

    /// Issues a client certificate that is valid for a year.
    pub fn issue_client(&self) -> Issued {
        self.issue_client_until(SystemTime::now() + 365 * DAY)
    }

    /// Issues a client certificate that expires at `until`.
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

    /// Returns the TLS address for a client that trusts this authority and sends `name` as SNI.
    pub fn tls_address(&self, address: &Address, name: &str) -> Address {
        self.with_options(
            address,
            name,
            ClientOptions { certificate: None, versions: &[&TLS12, &TLS13] },
        )
    }

    /// Like [`tls_address`](Self::tls_address), with a client certificate.
    pub fn tls_address_with_certificate(
        &self,
        address: &Address,
        name: &str,
        client: &Issued,
    ) -> Address {
        let certificate = Some(client);
        self.with_options(address, name, ClientOptions { certificate, versions: &[&TLS12, &TLS13] })
    }

    /// Like [`tls_address`](Self::tls_address), limited to TLS 1.2.
    pub fn tls12_address(&self, address: &Address, name: &str) -> Address {
        self.with_options(address, name, ClientOptions { certificate: None, versions: &[&TLS12] })
    }

    /// Like [`tls_address_with_certificate`](Self::tls_address_with_certificate), limited to TLS
    /// 1.2.
    pub fn tls12_address_with_certificate(
        &self,
        address: &Address,
        name: &str,
        client: &Issued,
    ) -> Address {
        self.with_options(
            address,
            name,
            ClientOptions { certificate: Some(client), versions: &[&TLS12] },
        )
    }

    fn with_options(&self, address: &Address, name: &str, options: ClientOptions<'_>) -> Address {
        let Address::Tcp(address) = address else { panic!("not a TCP address: {address:?}") };
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_protocol_versions(options.versions).unwrap().with_root_certificates(roots);
        let config = match options.certificate {
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![issued.der().into()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = name.to_owned().try_into().unwrap();
        Address::Tls(*address, TlsClient { config: Arc::new(config), name, proxy_header: "" })
    }
}

/// The certificate and TLS versions of a client.
struct ClientOptions<'a> {
    certificate: Option<&'a Issued>,
    versions: &'a [&'static SupportedProtocolVersion],
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
