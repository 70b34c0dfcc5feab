//! From when until when a certificate is valid, as its DER says (RFC 5280 section 4.1). Pure.
//!
//! Looks no further than to that: whether the certificate is sound is for others to judge.

/// Seconds since 1970; the first and the last at which it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Validity {
    /// None for what is no certificate.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let mut outer = certificate;
        let mut whole = inside(&mut outer, SEQUENCE)?;
        let mut signed = inside(&mut whole, SEQUENCE)?;
        // The version is left out in version 1. Then serial number, algorithm and issuer.
        if signed.first() == Some(&VERSION) {
            element(&mut signed)?;
        }
        for _ in 0..3 {
            element(&mut signed)?;
        }
        let mut validity = inside(&mut signed, SEQUENCE)?;
        let from = time(element(&mut validity)?)?;
        let until = time(element(&mut validity)?)?;
        Some(Self { from, until })
    }
}

/// `2027-01-31` for seconds since 1970.
pub(crate) fn date(seconds: u64) -> String {
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, eras are 400 years.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

fn inside<'a>(der: &mut &'a [u8], expected: u8) -> Option<&'a [u8]> {
    element(der).filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
}

/// Takes one element off the front: its tag and its content.
fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut rest) = der.split_first_chunk::<2>()?;
    let length = match first {
        ..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    *der = behind;
    Some((tag, content))
}

/// `YYMMDDHHMMSSZ` or, from 2050 on, `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Option<u64> {
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = text.split_at(2);
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = text.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_since_1970(year, month, day);
    Some(days * 86_400 + two(4)? * 3600 + two(6)? * 60 + two(8)?)
}

/// Zero for what was before.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year.saturating_sub(1) } else { year };
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_dates_written() {
        // `date -u -d 2024-02-29T12:34:56Z +%s`
        for (tag, text, expected, written) in [
            (UTC_TIME, "700101000000Z", 0, "1970-01-01"),
            (UTC_TIME, "240229123456Z", 1_709_210_096, "2024-02-29"),
            (UTC_TIME, "491231235959Z", 2_524_607_999, "2049-12-31"),
            (UTC_TIME, "500101000000Z", 0, "1970-01-01"),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000, "2050-01-01"),
            (GENERALIZED_TIME, "21000301000000Z", 4_107_542_400, "2100-03-01"),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(time((tag, text.as_bytes())), Some(expected), "{text}");
            assert_eq!(date(expected), written);
        }
        for (tag, text) in [
            (UTC_TIME, "240229123456"),
            (UTC_TIME, "20240229123456Z"),
            (UTC_TIME, "2402291234+6Z"),
            (UTC_TIME, "241329123456Z"),
            (GENERALIZED_TIME, "240229123456Z"),
            (0x16, "240229123456Z"),
            (UTC_TIME, "Z"),
        ] {
            assert_eq!(time((tag, text.as_bytes())), None, "{text}");
        }
    }

    /// A certificate as far as it is looked at.
    fn certificate(version: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82][..], &length, content].concat()
        };
        let times = [wrap(UTC_TIME, b"240229123456Z"), wrap(GENERALIZED_TIME, b"20500101000000Z")];
        let validity = wrap(SEQUENCE, &times.concat());
        let before = [&[2, 1, 7][..], &[0x30, 0], &[0x30, 2, 5, 0]].concat();
        wrap(SEQUENCE, &wrap(SEQUENCE, &[version, &before, &validity, &[0x30, 0]].concat()))
    }

    #[test]
    fn the_validity_is_found_and_nothing_makes_it_panic() {
        let expected = Some(Validity { from: 1_709_210_096, until: 2_524_608_000 });
        assert_eq!(Validity::of(&certificate(&[])), expected);
        let whole = certificate(&[0xa0, 3, 2, 1, 2]);
        assert_eq!(Validity::of(&whole), expected);
        for at in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..at]), None, "{at}");
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut other = whole.clone();
                other[at] = byte;
                Validity::of(&other);
            }
        }
    }
}
