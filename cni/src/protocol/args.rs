//! `CNI_ARGS`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{CniError, Code, address};

/// What `CNI_ARGS` says: `KEY=value` with `;` between. Unknown keys (`K8S_…`) are kept and tolerated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `IP=`: addresses that the pod is to have, with commas between.
    pub ips: Vec<IpAddr>,
    /// `label.<name>=<value>`: labels of its endpoint.
    pub labels: BTreeMap<String, String>,
    /// Everything else.
    pub others: BTreeMap<String, String>,
}

impl Args {
    /// Reads the variable. Of a key that comes twice the last value counts, but addresses add up.
    /// An address may have a length, which says nothing: a pod's addresses are /32 or /128.
    ///
    /// # Errors
    /// Code 4, naming the pair or the address: a pair without `=` or without a key, a bad address.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let bad = |what: String, details: &str| {
            CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: {what}"), details)
        };
        let mut args = Self::default();
        for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let form = "pairs are KEY=value with ; between";
            let Some((key, value)) = pair.split_once('=') else {
                return Err(bad(format!("{pair:?} is not a pair"), form));
            };
            let (key, value) = (key.trim(), value.trim());
            match key.strip_prefix("label.") {
                _ if key.is_empty() => return Err(bad(format!("{pair:?} has no key"), form)),
                Some("") => {
                    let form = "labels are label.<name>=<value>";
                    return Err(bad(format!("{pair:?} names no label"), form));
                }
                Some(label) => {
                    args.labels.insert(label.to_owned(), value.to_owned());
                }
                None if key == "IP" => {
                    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
                    for text in texts {
                        let (ip, _) = address::parse(text).ok_or_else(|| {
                            bad(format!("{text:?} is not an address"), "it is asked for by IP=")
                        })?;
                        if !args.ips.contains(&ip) {
                            args.ips.push(ip);
                        }
                    }
                }
                None => {
                    args.others.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_kind_of_pair_is_understood() {
        let args = Args::parse(
            "IgnoreUnknown=1;IP=10.0.0.1/24, fd80::1,10.0.0.1;K8S_POD_NAME=web;label.role=a=b; \
             IP=10.0.0.2;label.empty=;",
        )
        .unwrap();
        let ips: Vec<IpAddr> =
            ["10.0.0.1", "fd80::1", "10.0.0.2"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(args.ips, ips);
        assert_eq!(args.labels, map(&[("role", "a=b"), ("empty", "")]));
        assert_eq!(args.others, map(&[("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")]));
    }

    #[test]
    fn nothing_says_nothing() {
        for text in ["", ";", " ; ;", "IP=", "IP= , "] {
            assert_eq!(Args::parse(text), Ok(Args::default()), "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("IP=10.0.0.1;FOO", "\"FOO\""),
            ("=x", "\"=x\""),
            ("label.=x", "\"label.=x\""),
            ("IP=10.0.0.300", "\"10.0.0.300\""),
            ("IP=10.0.0.1,10.0.0.0/33", "\"10.0.0.0/33\""),
        ] {
            let error = Args::parse(text).unwrap_err();
            assert_eq!(error.code, 4, "{text:?}");
            assert!(error.msg.starts_with("CNI_ARGS: ") && error.msg.contains(named), "{error}");
            assert!(!error.details.is_empty());
        }
    }
}
