//! FelixConfiguration: fields of the resource to parameters of Felix's configuration file.
//!
//! A field's parameter has the field's name with a capital first letter, except those in
//! [`RENAMED`]. Values are written as that file has them: durations as a number in the unit of the
//! parameter, lists with commas, an empty list of fail-safe ports as `none`. Words (`Return`,
//! `Info`) stay as written: the file takes them in any case.
//!
//! Nothing is refused here. A value of an unexpected form is handed on as it is, so that the
//! settings' parser can name the parameter and fall back to its default without losing the rest;
//! structures that have no form in the file are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::FieldError;
use super::wire::resource;
use crate::model::FelixConfiguration;

/// An annotation with this prefix sets the parameter it goes on with, whatever the spec says.
pub(super) const ANNOTATION_PREFIX: &str = "config.projectcalico.org/";

/// Fields whose parameter is called differently, beyond the case of its letters.
const RENAMED: [(&str, &str); 13] = [
    ("endpointReportingDelay", "EndpointReportingDelaySecs"),
    ("externalNodesList", "ExternalNodesCIDRList"),
    ("ipipEnabled", "IpInIpEnabled"),
    ("ipipMTU", "IpInIpMtu"),
    ("ipv6Support", "Ipv6Support"),
    ("iptablesLockProbeInterval", "IptablesLockProbeIntervalMillis"),
    ("iptablesLockTimeout", "IptablesLockTimeoutSecs"),
    ("iptablesPostWriteCheckInterval", "IptablesPostWriteCheckIntervalSecs"),
    ("netlinkTimeout", "NetlinkTimeoutSecs"),
    ("reportingInterval", "ReportingIntervalSecs"),
    ("reportingTTL", "ReportingTTLSecs"),
    ("usageReportingInitialDelay", "UsageReportingInitialDelaySecs"),
    ("usageReportingInterval", "UsageReportingIntervalSecs"),
];

/// Beginnings that the parameters write in capitals throughout.
const ACRONYMS: [(&str, &str); 7] = [
    ("aws", "AWS"),
    ("bpf", "BPF"),
    ("mtu", "MTU"),
    ("nat", "NAT"),
    ("vxlan", "VXLAN"),
    ("xdp", "XDP"),
    ("ipForwarding", "IPForwarding"),
];

/// Fields that hold a duration in Go's notation.
const DURATIONS: [&str; 18] = [
    "bpfKubeProxyMinSyncPeriod",
    "debugSimulateCalcGraphHangAfter",
    "debugSimulateDataplaneHangAfter",
    "endpointReportingDelay",
    "ipsetsRefreshInterval",
    "iptablesLockProbeInterval",
    "iptablesLockTimeout",
    "iptablesPostWriteCheckInterval",
    "iptablesRefreshInterval",
    "netlinkTimeout",
    "nftablesRefreshInterval",
    "reportingInterval",
    "reportingTTL",
    "routeRefreshInterval",
    "usageReportingInitialDelay",
    "usageReportingInterval",
    "wireguardPersistentKeepAlive",
    "xdpRefreshInterval",
];

#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct FelixSpec(Map<String, Value>);

pub(super) fn decode(value: &[u8]) -> Result<FelixConfiguration, FieldError> {
    let (metadata, spec) = resource::<FelixSpec>(value)?;
    let mut parameters: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
    for (field, value) in &spec.0 {
        let name = parameter_name(field);
        if let Some(text) = parameter_value(field, &name, value) {
            parameters.insert(name.into(), text.into());
        }
    }
    for (key, value) in metadata.annotations() {
        if let Some(name) = key.strip_prefix(ANNOTATION_PREFIX).filter(|name| !name.is_empty()) {
            // Names are told apart without case: two spellings would leave open which one counts.
            parameters.retain(|given, _| !given.eq_ignore_ascii_case(name));
            parameters.insert(name.into(), value.into());
        }
    }
    Ok(FelixConfiguration { parameters })
}

/// The parameter that a field of the spec sets.
pub(super) fn parameter_name(field: &str) -> String {
    if let Some((_, name)) = RENAMED.iter().find(|(from, _)| *from == field) {
        return (*name).to_owned();
    }
    if let Some((from, to)) = ACRONYMS.iter().find(|(from, _)| field.starts_with(from)) {
        return format!("{to}{}", &field[from.len()..]);
    }
    let mut letters = field.chars();
    letters.next().map_or_else(String::new, |c| c.to_ascii_uppercase().to_string())
        + letters.as_str()
}

/// `None`: the field is not set. Go writers store unset strings as `""`.
fn parameter_value(field: &str, name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if text.is_empty() => None,
        Value::String(text) if DURATIONS.contains(&field) => {
            let per_unit = if name.ends_with("Millis") { 1e6 } else { 1e9 };
            let converted = nanoseconds(text).map(|ns| (ns / per_unit).to_string());
            Some(converted.unwrap_or_else(|| text.clone()))
        }
        Value::String(text) => Some(text.clone()),
        Value::Array(list) if field.starts_with("failsafe") => Some(failsafe_ports(list)),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => Some(list.iter().map(element).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Object(_) => element(value),
    }
}

/// A word, a number, or a range `{"min": 1, "max": 250}` as `1-250`.
fn element(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(range) => {
            Some(format!("{}-{}", range.get("min")?.as_i64()?, range.get("max")?.as_i64()?))
        }
        _ => None,
    }
}

/// `tcp:22,udp:10.0.0.0/8:68,tcp:[fd00::/8]:22`. A list that is there and empty means that there
/// are no fail-safe ports; a list that is not there means the default ones.
fn failsafe_ports(list: &[Value]) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    let one = |entry: &Value| failsafe_port(entry).unwrap_or_else(|| entry.to_string());
    list.iter().map(one).collect::<Vec<_>>().join(",")
}

fn failsafe_port(entry: &Value) -> Option<String> {
    let protocol = entry.get("protocol")?.as_str()?.to_ascii_lowercase();
    let port = entry.get("port")?.as_i64()?;
    Some(match entry.get("net").and_then(Value::as_str) {
        None | Some("") => format!("{protocol}:{port}"),
        Some(net) if net.contains(':') => format!("{protocol}:[{net}]:{port}"),
        Some(net) => format!("{protocol}:{net}:{port}"),
    })
}

/// Go's notation: a sign, then numbers with units (`1h30m`, `1.5s`, `300ms`), or plain `0`.
fn nanoseconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let per_unit = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * per_unit;
        rest = after;
    }
    // Whole nanoseconds, so that 0.1 s does not come out as 0.1000…01.
    Some(sign * total.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        for (text, expected) in [
            ("1m30s", Some(90e9)),
            ("0s", Some(0.0)),
            ("0", Some(0.0)),
            ("1.5h", Some(5400e9)),
            ("300ms", Some(3e8)),
            ("1µs", Some(1e3)),
            ("-2s", Some(-2e9)),
            (".5s", Some(5e8)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            ("1x", None),
            ("1s2", None),
            ("1..2s", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn names_of_parameters() {
        for (field, name) in [
            ("defaultEndpointToHostAction", "DefaultEndpointToHostAction"),
            ("ipv6Support", "Ipv6Support"),
            ("ipipMTU", "IpInIpMtu"),
            ("vxlanMTUV6", "VXLANMTUV6"),
            ("bpfEnabled", "BPFEnabled"),
            ("natPortRange", "NATPortRange"),
            ("xdpRefreshInterval", "XDPRefreshInterval"),
            ("iptablesLockProbeInterval", "IptablesLockProbeIntervalMillis"),
            ("someFutureOption", "SomeFutureOption"),
        ] {
            assert_eq!(parameter_name(field), name);
        }
    }
}
