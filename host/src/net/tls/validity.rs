//! Validity period of a certificate (RFC 5280 section 4.1.2.5). Pure.
//!
//! Does not check whether a certificate is sound otherwise.

use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// First and last second of validity, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Validity {
    /// Returns `None` for bytes that are not a certificate.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        Some(Self { from: seconds(validity.not_before), until: seconds(validity.not_after) })
    }
}

/// Formats seconds since 1970 as `2027-01-31`.
pub(crate) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|at| ASN1Time::from_timestamp(at).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_datetime().date().to_string())
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn dates_are_written_with_year_month_and_day() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            // `date -u -d 2024-02-29T12:34:56Z +%s`
            (1_709_210_096, "2024-02-29"),
            (2_524_607_999, "2049-12-31"),
            (2_524_608_000, "2050-01-01"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(date(seconds), expected);
        }
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }

    /// Valid from a UTCTime (2024-02-29T12:34:56Z) until a GeneralizedTime (2050-01-01T00:00:00Z).
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIH3MIGqoAMCAQICAQEwBQYDK2VwMAwxCjAIBgNVBAMMAWEwIBcNMjQwMjI5MTIz
NDU2WhgPMjA1MDAxMDEwMDAwMDBaMAwxCjAIBgNVBAMMAWEwKjAFBgMrZXADIQA/
zLf9UI9Lng9vWtPKTtU9SJItKW1PvkKXcgplOIO1y6MvMC0wDAYDVR0RBAUwA4IB
YTAdBgNVHQ4EFgQU9YDaumrVDUel2gU163acJ4QI4RMwBQYDK2VwA0EA9q5cx/+Y
jHSDvYkOD/0eS/vwD2mN1eTcsECsBAJfUeWWU/GlY62NDtH012DBQIdm0B1Owfn0
yaKc5qXgMaE2Cw==
-----END CERTIFICATE-----\n";

    #[test]
    fn the_validity_is_read_and_damaged_certificates_do_not_panic() {
        let whole = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let expected = Some(Validity { from: 1_709_210_096, until: 2_524_608_000 });
        assert_eq!(Validity::of(&whole), expected);
        for at in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..at]), None, "{at}");
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut other = whole.to_vec();
                other[at] = byte;
                Validity::of(&other);
            }
        }
    }
}
