//! What values of parameters look like: one reader per kind, and the words that say what it takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::model::{CalicoVersion, PortRange};

use super::failsafe::{self, Failsafe};
use super::pattern::InterfacePattern;
use super::settings::Settings;

/// The place in the settings that a parameter fills.
pub type Field<T> = fn(&mut Settings) -> &mut T;

/// A word and what it does to the settings.
pub type Word = (&'static str, fn(&mut Settings));

/// A kind of value, and where it lands.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Yes or no.
    Bool(Field<bool>),
    /// A time in seconds.
    Seconds(Field<Duration>),
    /// A whole number from 1.
    Count(Field<u32>),
    /// Packets a second.
    PacketRate(Field<u32>),
    /// A group of the kernel's packet log.
    LogGroup(Field<u16>),
    /// A 32-bit mask.
    MarkMask(Field<u32>),
    /// The number of a routing protocol.
    RouteProtocol(Field<u8>),
    /// One word of a list, in any case, with what it does.
    Choice(&'static [Word]),
    /// Beginnings of interface names.
    Prefixes(Field<Vec<String>>),
    /// An interface, or with a `+` at its end all whose names begin so; or nothing.
    Interface(Field<Option<String>>),
    /// A regular expression for names of interfaces; or nothing.
    Pattern(Field<Option<InterfacePattern>>),
    /// Patterns of interface names: names, and regular expressions between slashes.
    Patterns(Field<Vec<InterfacePattern>>),
    /// Ports of the host, each with its protocol and the network of the peer.
    Failsafes(Field<Vec<Failsafe>>),
    /// An IPv4 address or nothing.
    Ipv4(Field<Option<IpAddr>>),
    /// An IPv6 address or nothing.
    Ipv6(Field<Option<IpAddr>>),
    /// Addresses, at most one of each family.
    Addresses(Field<Vec<IpAddr>>),
    /// A port.
    Port(Field<u16>),
    /// A range of ports, or nothing.
    Ports(Field<Option<PortRange>>),
    /// An absolute path or nothing.
    Directory(Field<Option<PathBuf>>),
    /// A version of Calico or nothing.
    Version(Field<Option<CalicoVersion>>),
    /// A text for the kernel's log.
    LogPrefix(Field<String>),
}

/// The kernel takes 29 characters (`struct xt_log_info`: 30 with the NUL); two are the `: ` that
/// is put behind ours.
const LOG_PREFIX_MAX: usize = 27;

/// The kernel's match `limit` counts up to 10,000 a second; nobody reads that many lines.
const PACKET_RATE_MAX: u32 = 1_000;

/// The longest time: some 31 years. Deadlines are reckoned as now and a time, which the clock of the
/// system cannot carry for every number of seconds.
const SECONDS_MAX: f64 = 1e9;

/// `RTPROT_BIRD`: the protocol number of the routes that BIRD writes.
pub const BIRD_PROTOCOL: u8 = 12;

/// Marks are needed for "accepted", "pass", "on to the next tier" and one to compute with.
const MARK_BITS_MIN: u32 = 4;

impl Kind {
    /// Puts `text` where it belongs. `None`: it is not of this kind; nothing was changed.
    pub(super) fn apply(&self, text: &str, settings: &mut Settings) -> Option<()> {
        match self {
            Self::Bool(field) => *field(settings) = parse_bool(text)?,
            Self::Seconds(field) => *field(settings) = parse_duration(text)?,
            Self::Count(field) => *field(settings) = text.parse().ok().filter(|n| *n > 0)?,
            Self::PacketRate(field) => {
                let most = 1..=PACKET_RATE_MAX;
                *field(settings) = text.parse().ok().filter(|n| most.contains(n))?;
            }
            Self::LogGroup(field) => *field(settings) = text.parse().ok()?,
            Self::MarkMask(field) => *field(settings) = parse_mark_mask(text)?,
            Self::RouteProtocol(field) => {
                // 1 and 2 are the kernel's own routes (redirects, connected networks). What has
                // BIRD's number BIRD takes for its own: it deletes it, or at the least never learns it.
                let free = |n: &u8| *n >= 3 && *n != BIRD_PROTOCOL;
                *field(settings) = text.parse().ok().filter(free)?;
            }
            Self::Choice(words) => {
                let (_, set) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text))?;
                set(settings);
            }
            Self::Prefixes(field) => *field(settings) = parse_prefixes(text)?,
            Self::Interface(field) => {
                *field(settings) = optional(text, |t| is_interface(t).then(|| t.to_owned()))?;
            }
            Self::Pattern(field) => *field(settings) = optional(text, |t| t.parse().ok())?,
            Self::Patterns(field) => *field(settings) = InterfacePattern::list(text)?,
            Self::Failsafes(field) => *field(settings) = failsafe::parse(text)?,
            Self::Ipv4(field) => {
                let parse = |t: &str| t.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
                *field(settings) = optional(text, parse)?;
            }
            Self::Ipv6(field) => {
                let parse = |t: &str| t.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
                *field(settings) = optional(text, parse)?;
            }
            Self::Addresses(field) => *field(settings) = parse_addresses(text)?,
            Self::Port(field) => *field(settings) = text.parse().ok().filter(|port| *port > 0)?,
            Self::Ports(field) => *field(settings) = optional(text, parse_ports)?,
            Self::Directory(field) => {
                *field(settings) = optional(text, |t| t.starts_with('/').then(|| t.into()))?;
            }
            Self::Version(field) => *field(settings) = optional(text, |t| t.parse().ok())?,
            Self::LogPrefix(field) => {
                let fits = text.len() <= LOG_PREFIX_MAX
                    && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\');
                *field(settings) = fits.then(|| text.to_owned())?;
            }
        }
        Some(())
    }

    /// What it takes, for people.
    pub fn allowed(&self) -> String {
        match self {
            Self::Bool(_) => "true or false".to_owned(),
            Self::Seconds(_) => {
                format!("seconds (90, 1.5) or a time with a unit (1m30s), at most {SECONDS_MAX} s")
            }
            Self::Count(_) => "a whole number from 1 to 4294967295".to_owned(),
            Self::PacketRate(_) => format!("a whole number from 1 to {PACKET_RATE_MAX}"),
            Self::LogGroup(_) => "a number from 0 to 65535".to_owned(),
            Self::MarkMask(_) => {
                format!("a 32-bit mask with at least {MARK_BITS_MIN} bits (0xffff0000)")
            }
            Self::RouteProtocol(_) => {
                format!("a number from 3 to 255, but not BIRD's, {BIRD_PROTOCOL}")
            }
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                match words.split_last() {
                    Some((last, [])) => (*last).to_owned(),
                    Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                    None => String::new(),
                }
            }
            Self::Prefixes(_) => {
                "beginnings of interface names (1 to 15 of A-Z a-z 0-9 _ -) with commas between"
                    .to_owned()
            }
            Self::Interface(_) => "an interface (1 to 15 of A-Z a-z 0-9 : . _ + -)".to_owned(),
            Self::Pattern(_) => "a regular expression for names of interfaces (^eth)".to_owned(),
            Self::Patterns(_) => {
                "names of interfaces, or regular expressions between slashes (eth1,/^dummy/), with \
                 commas between"
                    .to_owned()
            }
            Self::Failsafes(_) => "ports with commas between: 22, udp:68, tcp:10.0.0.0/8:22, \
                                   tcp:[fd00::/8]:22"
                .to_owned(),
            Self::Ipv4(_) => "an IPv4 address".to_owned(),
            Self::Version(_) => "a version of Calico (3.29, v3.29.1)".to_owned(),
            Self::Ipv6(_) => "an IPv6 address".to_owned(),
            Self::Addresses(_) => {
                "an IPv4 or an IPv6 address, or one of each with a comma between".to_owned()
            }
            Self::Port(_) => "a port from 1 to 65535".to_owned(),
            Self::Ports(_) => "a port or a range of ports from 1 to 65535 (32768:60999)".to_owned(),
            Self::Directory(_) => "an absolute path".to_owned(),
            Self::LogPrefix(_) => {
                format!("at most {LOG_PREFIX_MAX} printable characters without \" and \\")
            }
        }
    }
}

/// Nothing when the text is empty, else what `parse` makes of it.
fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { parse(text).map(Some) }
}

/// Felix's words for yes and no.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// A time as people type it: `90`, `1.5` (seconds), `1m30s`.
pub fn duration(text: &str) -> Option<Duration> {
    parse_duration(text)
}

/// `90`, `1.5` (seconds, as Felix reads them) or Go's form with units, `1m30s`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        plain.then(|| text.parse::<f64>().ok()).flatten()
    };
    let bounded = |seconds: f64| {
        (0.0..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
    };
    if let Some(seconds) = number(text) {
        return bounded(seconds);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(unit_at);
        // `ms` before `m`: the longest unit wins.
        let (unit, scale) =
            [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
                .into_iter()
                .find(|(unit, _)| tail.starts_with(unit))?;
        total += number(value)? * scale;
        rest = &tail[unit.len()..];
    }
    if text.is_empty() { None } else { bounded(total) }
}

/// A number as Go reads it: `0x` hexadecimal, a leading 0 octal, else decimal.
fn parse_mark_mask(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = if let Some(hex) = lower.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(octal) = lower.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (octal, 8)
    } else {
        (lower.as_str(), 10)
    };
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let mask = plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()?;
    (mask.count_ones() >= MARK_BITS_MIN).then_some(mask)
}

/// `cali` or `tap,cali`.
fn parse_prefixes(text: &str) -> Option<Vec<String>> {
    let fits = |part: &str| {
        (1..=15).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    text.split(',').map(str::trim).map(|part| fits(part).then(|| part.to_owned())).collect()
}

/// `192.0.2.1` or `192.0.2.1,2001:db8::1`.
fn parse_addresses(text: &str) -> Option<Vec<IpAddr>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let fits = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let all: Vec<IpAddr> =
        text.split(',').map(|part| part.trim().parse().ok().filter(fits)).collect::<Option<_>>()?;
    let twice = all
        .iter()
        .enumerate()
        .any(|(i, one)| all[..i].iter().any(|other| other.is_ipv4() == one.is_ipv4()));
    (!twice).then_some(all)
}

/// `1024` or `32768:60999`.
fn parse_ports(text: &str) -> Option<PortRange> {
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port: &u16| plain && *port > 0)
    };
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    PortRange::new(port(first)?, port(last)?)
}

/// What iptables takes behind `-o`.
fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'_' | b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("0", ms(0)),
            ("90", ms(90_000)),
            ("1.5", ms(1_500)),
            ("90s", ms(90_000)),
            ("1m30s", ms(90_000)),
            ("1h0m0.5s", ms(3_600_500)),
            ("250ms", ms(250)),
            ("0s", ms(0)),
            ("", None),
            ("-1", None),
            ("-1s", None),
            ("inf", None),
            ("NaN", None),
            ("1e3", None),
            ("1 s", None),
            ("s", None),
            ("5 minutes", None),
            ("99999999999999999999999999", None),
            ("1000000000", ms(1_000_000_000_000)),
            // A Duration can hold it, but now and this long is past the end of the clock.
            ("10000000000000000000", None),
            ("1000000000.1", None),
            ("277778h", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn masks_need_bits_and_fit_into_32() {
        for (text, expected) in [
            ("0xffff0000", Some(0xffff_0000)),
            ("0XFF000000", Some(0xff00_0000)),
            ("240", Some(0xf0)),
            ("0360", Some(0xf0)),
            ("0x7", None),
            ("0", None),
            ("", None),
            ("0x1ffffffff", None),
            ("+0xff", None),
            ("0x+ff", None),
            ("garbage", None),
        ] {
            assert_eq!(parse_mark_mask(text), expected, "{text:?}");
        }
    }

    #[test]
    fn one_address_of_each_family() {
        let list = |texts: &[&str]| Some(texts.iter().map(|t| t.parse().unwrap()).collect());
        for (text, expected) in [
            ("", list(&[])),
            ("192.0.2.1", list(&["192.0.2.1"])),
            ("2001:db8::1", list(&["2001:db8::1"])),
            ("192.0.2.1, 2001:db8::1", list(&["192.0.2.1", "2001:db8::1"])),
            ("192.0.2.1,192.0.2.2", None),
            ("2001:db8::1,192.0.2.1,2001:db8::2", None),
            ("192.0.2.1,", None),
            ("192.0.2.0/24", None),
            ("0.0.0.0", None),
            ("ff02::1", None),
            ("host", None),
        ] {
            assert_eq!(parse_addresses(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_of_ports() {
        for (text, expected) in [
            ("32768:60999", PortRange::new(32_768, 60_999)),
            ("1024", Some(PortRange::single(1024))),
            ("1:65535", PortRange::new(1, 65_535)),
            ("2000:1000", None),
            ("0:10", None),
            ("0", None),
            ("1:65536", None),
            ("1-2", None),
            ("+1:2", None),
            ("1:", None),
            (":", None),
            ("1:2:3", None),
        ] {
            assert_eq!(parse_ports(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_log_prefix_cannot_leave_its_quotes() {
        let mut settings = Settings::default();
        let kind = Kind::LogPrefix(|s| &mut s.log_prefix);
        for text in ["a\" -j ACCEPT", "a\nb", "back\\slash", "x".repeat(28).as_str(), "caf\u{e9}"] {
            assert_eq!(kind.apply(text, &mut settings), None, "{text:?} was taken");
        }
        assert_eq!(kind.apply("my pods", &mut settings), Some(()));
        assert_eq!(settings.log_prefix, "my pods");
    }

    #[test]
    fn routes_of_the_kernel_are_never_ours() {
        let mut settings = Settings::default();
        let kind = Kind::RouteProtocol(|s| &mut s.route_protocol);
        for text in ["0", "1", "2", "12", "256", "-3", "boot"] {
            assert_eq!(kind.apply(text, &mut settings), None, "{text:?} was taken");
        }
        assert_eq!((kind.apply("3", &mut settings), settings.route_protocol), (Some(()), 3));
    }
}
