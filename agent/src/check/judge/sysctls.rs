//! Parameters of the kernel that matter, and what their values mean for us.

use calico_datastore::model::Family;

use crate::check::finding::{Finding, Findings, Group};

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct SysctlFacts {
    /// Forwarding by family; absent: this kernel has not got the family.
    pub forwarding: Vec<(Family, Option<String>)>,
    /// `IPForwarding`: the agent switches it on.
    pub switches_on: bool,
    /// IPv6 is wanted by the settings.
    pub ipv6_wanted: bool,
    /// This kernel knows IPv6.
    pub ipv6_known: bool,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_all: Option<u32>,
    /// `net.ipv4.conf.default.rp_filter`.
    pub rp_filter_default: Option<u32>,
    /// Connections that are tracked.
    pub conntrack_count: Option<u64>,
    /// The most that can be.
    pub conntrack_max: Option<u64>,
}

/// From here on (per cent) the table of connections is about to overflow.
const NEARLY_FULL: u64 = 80;

/// Judges them.
pub fn judge(facts: &SysctlFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Sysctls);
    if facts.ipv6_wanted && !facts.ipv6_known {
        out.warn(
            "IPv6",
            "this kernel has none; nothing of it is programmed",
            "set FELIX_IPV6SUPPORT=false to say that it is meant",
        );
    }
    for (family, value) in &facts.forwarding {
        let what = format!("{family} forwarding");
        match (value.as_deref(), facts.switches_on) {
            (Some("0"), true) => out.ok(what, "off; the agent switches it on"),
            (Some("0"), false) => out.fail(
                what,
                "off, and the settings tell the agent to leave it so: no pod reaches another host",
                "switch it on (sysctl.d), or leave out FELIX_IPFORWARDING=Disabled",
            ),
            (Some(_), _) => out.ok(what, "on"),
            (None, _) => out.warn(what, "cannot be read", "is /proc/sys there?"),
        }
    }
    match facts.rp_filter_all {
        Some(2) => out.warn(
            "net.ipv4.conf.all.rp_filter",
            "2 (loose) for every interface: the kernel takes the larger of this and the interface's own, so its check of pods' source addresses by routes does nothing; the check by rules stays",
            "set it to 0, and what the host's own interfaces need on each of them (sysctl.d)",
        ),
        Some(value) => out.ok(
            "net.ipv4.conf.all.rp_filter",
            format!("{value}; interfaces of pods are strict, their addresses are checked by rules as well"),
        ),
        None => {}
    }
    if let Some(value) = facts.rp_filter_default {
        let said = "new interfaces begin with it, the agent sets those of pods to 1";
        out.ok("net.ipv4.conf.default.rp_filter", format!("{value}; {said}"));
    }
    if let (Some(count), Some(max)) = (facts.conntrack_count, facts.conntrack_max) {
        let said = format!("{count} of {max} connections");
        if max > 0 && count * 100 / max >= NEARLY_FULL {
            out.warn(
                "net.netfilter.nf_conntrack_max",
                format!("{said}: when it is full, new ones are dropped"),
                "raise it (sysctl.d)",
            );
        } else {
            out.ok("net.netfilter.nf_conntrack_max", said);
        }
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    #[test]
    fn a_usual_host_has_no_alarm() {
        let facts = SysctlFacts {
            forwarding: vec![(Family::V4, Some("0".into())), (Family::V6, Some("1".into()))],
            switches_on: true,
            ipv6_wanted: true,
            ipv6_known: true,
            rp_filter_all: Some(0),
            rp_filter_default: Some(2),
            conntrack_count: Some(10),
            conntrack_max: Some(65_536),
        };
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        let off = SysctlFacts { switches_on: false, ..facts.clone() };
        assert_eq!(worst(&judge(&off)), Level::Fail);
        for bad in [
            SysctlFacts { rp_filter_all: Some(2), ..facts.clone() },
            SysctlFacts { conntrack_count: Some(60_000), ..facts.clone() },
            SysctlFacts { ipv6_known: false, ..facts.clone() },
        ] {
            assert_eq!(worst(&judge(&bad)), Level::Warn, "{bad:?}");
        }
        let strict = SysctlFacts { rp_filter_all: Some(1), ..facts };
        assert_eq!(worst(&judge(&strict)), Level::Ok);
    }
}
