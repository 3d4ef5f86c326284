//! The table of parameters: the one definition of every name that can be set. Parsing, defaults,
//! `packaging/agent.toml.example` and `docs/configuration.md` follow from it. Names are Felix's.

use super::OnBad::{KeepLast, NextSource};
use super::{Kind, Param};
use crate::config::failsafe::{INBOUND, OUTBOUND};
use crate::config::pattern::HOST_INTERFACES;
use crate::config::settings::{
    AllowAction, DataplaneSetting, DenyAction, HostAction, InsertMode, InvalidPolicy,
    IptablesBackend, NftablesDispatch, NftablesMode,
};

/// Every parameter, in the order of the documentation.
pub static PARAMS: &[Param] = &[
    Param {
        name: "InterfacePrefix",
        kind: Kind::Prefixes(|s| &mut s.interface_prefixes),
        default: "cali",
        none: None,
        on_bad: KeepLast,
        doc: "Host-side interfaces of pods begin with one of these.",
    },
    Param {
        name: "Ipv6Support",
        kind: Kind::Bool(|s| &mut s.ipv6),
        default: "true",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Program IPv6 as well as IPv4. Off: every IPv6 packet from or to a pod is dropped.",
    },
    Param {
        name: "DefaultEndpointToHostAction",
        kind: Kind::Choice(&[
            ("Drop", |s| s.endpoint_to_host = HostAction::Drop),
            ("Return", |s| s.endpoint_to_host = HostAction::Return),
            ("Accept", |s| s.endpoint_to_host = HostAction::Accept),
        ]),
        default: "Drop",
        none: None,
        on_bad: KeepLast,
        doc: "What packets from a pod to its own host get after the pod's policy. Return leaves \
              them to the host's own rules; the agent writes Return for its own node when it \
              registers, as calico/node does.",
    },
    Param {
        name: "RktMetadataService",
        kind: Kind::Bool(|s| &mut s.rkt_metadata_service),
        default: "false",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Accept what pods send to their own host on TCP port 18112 (IPv4), where `rkt \
              metadata-service` listens, whatever DefaultEndpointToHostAction says. The pod's \
              policy is asked before. Felix has no such parameter.",
    },
    Param {
        name: "DeniedLog",
        kind: Kind::Bool(|s| &mut s.denied_log),
        default: "false",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Report packets that policy denies: `calico-agent denied`, and the journal. Felix has no \
              such parameter.",
    },
    Param {
        name: "DeniedLogRate",
        kind: Kind::PacketRate(|s| &mut s.denied_log_rate),
        default: "10",
        none: None,
        on_bad: NextSource,
        doc: "With DeniedLog: how many packets a second are reported of each policy, profile and end \
              of a tier; the others are dropped all the same.",
    },
    Param {
        name: "DeniedLogGroup",
        kind: Kind::LogGroup(|s| &mut s.denied_log_group),
        default: "5",
        none: None,
        on_bad: NextSource,
        doc: "With DeniedLog: the group of the kernel's packet log (NFLOG). One that no other program \
              reads.",
    },
    Param {
        name: "EndpointCounters",
        kind: Kind::Bool(|s| &mut s.endpoint_counters),
        default: "true",
        none: Some("true"),
        on_bad: NextSource,
        doc: "Count the packets and bytes of each endpoint that are allowed and denied: `calico-agent \
              status`. Felix has no such parameter.",
    },
    Param {
        name: "CalicoVersion",
        kind: Kind::Version(|s| &mut s.calico_version),
        default: "",
        none: Some(""),
        on_bad: KeepLast,
        doc: "The version of Calico whose hosts this one agrees with about the tier of a policy and \
              about the order of two policies with equal `order`: to 3.28 there is one tier, to 3.31 \
              it is in the policy's name, then in its spec. Unset: the version in \
              ClusterInformation. Where hosts of several versions are in one cluster, set it on \
              all agents to that of the hosts that enforce. Felix only reports it.",
    },
    Param {
        name: "DeniedConnections",
        kind: Kind::Choice(&[
            ("keep", |s| s.cut_denied_connections = false),
            ("cut", |s| s.cut_denied_connections = true),
        ]),
        default: "keep",
        none: Some("keep"),
        on_bad: NextSource,
        doc: "What becomes of connections of pods that policy allowed when they began, and denies \
              since it changed. keep: they go on, as with Felix; only new ones are asked. cut: each \
              change of policy, of labels or of what a selector chooses is asked about all of them, \
              at most once a second, and those that it denies are cut. Felix has no such parameter.",
    },
    Param {
        name: "InvalidPolicy",
        kind: Kind::Choice(&[
            ("absent", |s| s.invalid_policy = InvalidPolicy::Absent),
            ("keep-last", |s| s.invalid_policy = InvalidPolicy::KeepLast),
        ]),
        default: "absent",
        none: None,
        on_bad: KeepLast,
        doc: "What counts when the stored value of a policy, tier, profile or network set cannot be \
              read (any more). absent: nothing. What is in force then follows from the store alone: \
              all hosts, one that was just started and those of Felix, decide alike. keep-last: \
              its last good version, so that no slip opens or closes anything; of a HostEndpoint \
              that names its interface the policing alone: its addresses are in no selector and no \
              named port any more. But an agent that starts later knows no such version, takes the \
              object for absent, and decides otherwise than its neighbours. status names the keys \
              and what counts for each. A file of the directory store with a mistake is another \
              thing: it never becomes values, and what it said before holds. Felix has no such \
              parameter.",
    },
    Param {
        name: "Dataplane",
        kind: Kind::Choice(&[
            ("auto", |s| s.dataplane = DataplaneSetting::Auto),
            ("nftables", |s| s.dataplane = DataplaneSetting::Nftables),
            ("iptables-nft", |s| s.dataplane = DataplaneSetting::IptablesNft),
            ("iptables-legacy", |s| s.dataplane = DataplaneSetting::IptablesLegacy),
        ]),
        default: "auto",
        none: Some("auto"),
        on_bad: NextSource,
        doc: "How policy gets into the kernel. nftables: a table of our own, written over netlink; \
              iptables is not needed, but kernel 5.7 or later. iptables-nft, \
              iptables-legacy: that iptables, and address sets. auto: what NFTablesMode and \
              IptablesBackend say, and where these say nothing iptables, or nftables on a host \
              without iptables. A change takes effect at once: the new one is complete \
              before the old one goes. Felix has no such parameter.",
    },
    Param {
        name: "NFTablesMode",
        kind: Kind::Choice(&[
            ("Auto", |s| s.nftables_mode = NftablesMode::Auto),
            ("Enabled", |s| s.nftables_mode = NftablesMode::Enabled),
            ("Disabled", |s| s.nftables_mode = NftablesMode::Disabled),
        ]),
        default: "Auto",
        none: Some("Auto"),
        on_bad: NextSource,
        doc: "Felix's name for the choice of nftables. Enabled: nftables. Disabled: iptables, also on \
              a host that has none. Dataplane decides over it.",
    },
    Param {
        name: "IptablesBackend",
        kind: Kind::Choice(&[
            ("Auto", |s| s.iptables_backend = IptablesBackend::Auto),
            ("Legacy", |s| s.iptables_backend = IptablesBackend::Legacy),
            ("NFT", |s| s.iptables_backend = IptablesBackend::Nft),
        ]),
        default: "Auto",
        none: Some("Auto"),
        on_bad: NextSource,
        doc: "Which iptables is used. Auto takes what the host can do and already uses. Dataplane and \
              NFTablesMode decide over it.",
    },
    Param {
        name: "ChainInsertMode",
        kind: Kind::Choice(&[
            ("Insert", |s| s.insert_mode = InsertMode::Insert),
            ("Append", |s| s.insert_mode = InsertMode::Append),
        ]),
        default: "Insert",
        none: None,
        on_bad: KeepLast,
        doc: "Where our jumps go in the kernel's chains: before all other rules or behind them. \
              With Append a rule of the host that accepts decides before any policy.",
    },
    Param {
        name: "IptablesFilterAllowAction",
        kind: Kind::Choice(&[
            ("Accept", |s| s.filter_allow = AllowAction::Accept),
            ("Return", |s| s.filter_allow = AllowAction::Return),
        ]),
        default: "Accept",
        none: None,
        on_bad: KeepLast,
        doc: "What an allowed packet does: accepted at once, or on to the rules behind ours.",
    },
    Param {
        name: "IptablesMangleAllowAction",
        kind: Kind::Choice(&[
            ("Accept", |s| s.mangle_allow = AllowAction::Accept),
            ("Return", |s| s.mangle_allow = AllowAction::Return),
        ]),
        default: "Accept",
        none: None,
        on_bad: KeepLast,
        doc: "What a packet does in the table mangle that a preDNAT policy allowed: on to the next \
              table at once, or to the rules behind ours.",
    },
    Param {
        name: "IptablesFilterDenyAction",
        kind: Kind::Choice(&[
            ("Drop", |s| s.filter_deny = DenyAction::Drop),
            ("Reject", |s| s.filter_deny = DenyAction::Reject),
        ]),
        default: "Drop",
        none: None,
        on_bad: KeepLast,
        doc: "What a denied packet gets: silence or an ICMP error.",
    },
    Param {
        name: "IptablesMarkMask",
        kind: Kind::MarkMask(|s| &mut s.mark_mask),
        default: "0xffff0000",
        none: None,
        on_bad: KeepLast,
        doc: "The only bits of the packet mark that are ever touched.",
    },
    Param {
        name: "IptablesRefreshInterval",
        kind: Kind::Seconds(|s| &mut s.iptables_refresh),
        default: "180",
        none: Some("0"),
        on_bad: NextSource,
        doc: "Read our rules back and repair them this often. 0 = never.",
    },
    Param {
        name: "NftablesRefreshInterval",
        kind: Kind::Seconds(|s| &mut s.nftables_refresh),
        default: "180",
        none: Some("0"),
        on_bad: NextSource,
        doc: "The same where the dataplane is nftables. 0 = never.",
    },
    Param {
        name: "NftablesDispatch",
        kind: Kind::Choice(&[
            ("Auto", |s| s.nftables_dispatch = NftablesDispatch::Auto),
            ("Groups", |s| s.nftables_dispatch = NftablesDispatch::Groups),
            ("Interfaces", |s| s.nftables_dispatch = NftablesDispatch::Interfaces),
        ]),
        default: "Auto",
        none: Some("Auto"),
        on_bad: NextSource,
        doc: "How nftables finds the policy of a pod: by the group of its interface, which is ours \
              then, or by its name, which costs more with each pod on old kernels. Auto: by group, \
              unless interfaces of pods are in groups of somebody else. Felix has no such parameter.",
    },
    Param {
        name: "IptablesPostWriteCheckIntervalSecs",
        kind: Kind::Seconds(|s| &mut s.iptables_post_write_check),
        default: "5",
        none: Some("0"),
        on_bad: NextSource,
        doc: "Read our rules back this long after a write, in case another program overwrote \
              them. 0 = never. Only legacy tables need it: of others the kernel tells.",
    },
    Param {
        name: "IpsetsRefreshInterval",
        kind: Kind::Seconds(|s| &mut s.ipsets_refresh),
        default: "90",
        none: Some("0"),
        on_bad: NextSource,
        doc: "Read our address sets back and repair them this often. 0 = never.",
    },
    Param {
        name: "MaxIpsetSize",
        kind: Kind::Count(|s| &mut s.max_ipset_size),
        default: "1048576",
        none: None,
        on_bad: NextSource,
        doc: "How many members an address set may have.",
    },
    Param {
        name: "RouteRefreshInterval",
        kind: Kind::Seconds(|s| &mut s.route_refresh),
        default: "90",
        none: Some("0"),
        on_bad: NextSource,
        doc: "Read our routes back and repair them this often. 0 = never.",
    },
    Param {
        name: "DeviceRouteProtocol",
        kind: Kind::RouteProtocol(|s| &mut s.route_protocol),
        default: "80",
        none: None,
        on_bad: NextSource,
        doc: "The protocol number of our routes. Felix uses 3 (boot), which it shares with \
              `ip route add`; a number of our own tells them apart.",
    },
    Param {
        name: "DeviceRouteSourceAddress",
        kind: Kind::Ipv4(|s| &mut s.route_source),
        default: "",
        none: Some(""),
        on_bad: NextSource,
        doc: "The source address of the host's own packets to pods. Unset: the kernel chooses.",
    },
    Param {
        name: "DeviceRouteSourceAddressIPv6",
        kind: Kind::Ipv6(|s| &mut s.route_source_v6),
        default: "",
        none: Some(""),
        on_bad: NextSource,
        doc: "The same for IPv6.",
    },
    Param {
        name: "RemoveExternalRoutes",
        kind: Kind::Bool(|s| &mut s.remove_external_routes),
        default: "true",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Also remove routes of others on the interfaces of pods, after a grace of 10 s.",
    },
    Param {
        name: "DisableConntrackInvalidCheck",
        kind: Kind::Bool(|s| &mut s.allow_conntrack_invalid),
        default: "false",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Do not drop packets that connection tracking calls invalid.",
    },
    Param {
        name: "IPForwarding",
        kind: Kind::Choice(&[
            ("Enabled", |s| s.ip_forwarding = true),
            ("Disabled", |s| s.ip_forwarding = false),
        ]),
        default: "Enabled",
        none: Some("Disabled"),
        on_bad: NextSource,
        doc: "Switch the kernel's forwarding on. Disabled leaves it as it is.",
    },
    Param {
        name: "WorkloadSourceSpoofing",
        kind: Kind::Choice(&[
            ("Any", |s| s.source_spoofing = true),
            ("Disabled", |s| s.source_spoofing = false),
        ]),
        default: "Disabled",
        none: Some("Disabled"),
        on_bad: NextSource,
        doc: "Whether endpoints may send from the prefixes that they list as \
              `allowSpoofedSourcePrefixes`. Disabled: from their own addresses only, and one that \
              lists any is named by `status`.",
    },
    Param {
        name: "FloatingIPs",
        kind: Kind::Choice(&[
            ("Enabled", |s| s.floating_ips = true),
            ("Disabled", |s| s.floating_ips = false),
        ]),
        default: "Disabled",
        none: Some("Disabled"),
        on_bad: NextSource,
        doc: "Lead packets for the external addresses of endpoints (`ipNATs`) to them. Endpoints of \
              OpenStack have theirs in any case.",
    },
    Param {
        name: "NATOutgoingAddress",
        kind: Kind::Addresses(|s| &mut s.nat_outgoing_addresses),
        default: "",
        none: Some(""),
        on_bad: NextSource,
        doc: "The address that outgoing traffic of pools with natOutgoing gets. Unset: that of \
              the interface it leaves by. Felix knows IPv4 only.",
    },
    Param {
        name: "NATPortRange",
        kind: Kind::Ports(|s| &mut s.nat_port_range),
        default: "",
        none: Some(""),
        on_bad: NextSource,
        doc: "The source ports that outgoing TCP and UDP of pools with natOutgoing gets. Unset: the \
              kernel chooses, where it can the port that the pod uses.",
    },
    Param {
        name: "IptablesNATOutgoingInterfaceFilter",
        kind: Kind::Interface(|s| &mut s.nat_outgoing_interface),
        default: "",
        none: Some(""),
        on_bad: NextSource,
        doc: "Masquerade only what leaves by this interface (`eth+` = all that begin with eth).",
    },
    Param {
        name: "FailsafeInboundHostPorts",
        kind: Kind::Failsafes(|s| &mut s.failsafe_inbound),
        default: INBOUND,
        none: Some(""),
        on_bad: KeepLast,
        doc: "Ports of this host that are always reached, whatever its host endpoints say: SSH, \
              DHCP, BGP and etcd are among the default ones. None: no port, and who makes a mistake \
              in a policy is shut out.",
    },
    Param {
        name: "FailsafeOutboundHostPorts",
        kind: Kind::Failsafes(|s| &mut s.failsafe_outbound),
        default: OUTBOUND,
        none: Some(""),
        on_bad: KeepLast,
        doc: "Ports that this host always reaches, whatever its host endpoints say: DNS, DHCP, BGP \
              and etcd are among the default ones. None: no port, and the agent may lose its \
              datastore.",
    },
    Param {
        name: "InterfaceExclude",
        kind: Kind::Patterns(|s| &mut s.interface_exclude),
        default: "kube-ipvs0",
        none: Some(""),
        on_bad: NextSource,
        doc: "Interfaces that no host endpoint is about: names, or regular expressions between \
              slashes (`/^dummy/`).",
    },
    Param {
        name: "MetadataAddr",
        kind: Kind::Ipv4(|s| &mut s.metadata_address),
        default: "127.0.0.1",
        none: Some(""),
        on_bad: NextSource,
        doc: "Where OpenStack's metadata service answers: what its guests send to 169.254.169.254 port \
              80 is led there. Only with the prefix `tap` among InterfacePrefix, and only for \
              interfaces with it; these may also ask their host for DHCP and DNS before any policy.",
    },
    Param {
        name: "MetadataPort",
        kind: Kind::Port(|s| &mut s.metadata_port),
        default: "8775",
        none: None,
        on_bad: NextSource,
        doc: "The TCP port of OpenStack's metadata service.",
    },
    Param {
        name: "MTUIfacePattern",
        kind: Kind::Pattern(|s| &mut s.mtu_interfaces),
        default: HOST_INTERFACES,
        none: Some(""),
        on_bad: NextSource,
        doc: "The interfaces by which other hosts are reached. The lowest MTU among them, less what \
              the overlays of pools add to a packet, is written to `mtu` in the state directory: \
              the CNI plugin gives it to pods whose network does not say another. None or no match: \
              the interfaces with default routes.",
    },
    Param {
        name: "LogPrefix",
        kind: Kind::LogPrefix(|s| &mut s.log_prefix),
        default: "calico-packet",
        none: Some(""),
        on_bad: NextSource,
        doc: "What the kernel's log lines of rules with the action Log begin with.",
    },
    Param {
        name: "LogSeverityScreen",
        kind: Kind::Choice(&[
            ("Info", |s| "info".clone_into(&mut s.log_level)),
            ("Trace", |s| "trace".clone_into(&mut s.log_level)),
            ("Debug", |s| "debug".clone_into(&mut s.log_level)),
            ("Warning", |s| "warn".clone_into(&mut s.log_level)),
            ("Error", |s| "error".clone_into(&mut s.log_level)),
            ("Fatal", |s| "error".clone_into(&mut s.log_level)),
            ("Off", |s| "off".clone_into(&mut s.log_level)),
        ]),
        default: "Info",
        none: Some("Off"),
        on_bad: NextSource,
        doc: "The least severe messages that are logged (RUST_LOG goes before it).",
    },
    Param {
        name: "ReportingIntervalSecs",
        kind: Kind::Seconds(|s| &mut s.reporting_interval),
        default: "30",
        none: Some("0"),
        on_bad: NextSource,
        doc: "Write this host's status to the datastore this often. 0 = never: calico/node writes 0 \
              into FelixConfiguration default when it initialises a cluster, and that counts here.",
    },
    Param {
        name: "ReportingTTLSecs",
        kind: Kind::Seconds(|s| &mut s.reporting_ttl),
        default: "90",
        none: Some("0"),
        on_bad: NextSource,
        doc: "This host's status vanishes when it was not written for this long. 0 = stays.",
    },
    Param {
        name: "EndpointReportingEnabled",
        kind: Kind::Bool(|s| &mut s.endpoint_reporting),
        default: "false",
        none: Some("false"),
        on_bad: NextSource,
        doc: "Write the status of each endpoint to the datastore.",
    },
    Param {
        name: "EndpointReportingDelaySecs",
        kind: Kind::Seconds(|s| &mut s.endpoint_reporting_delay),
        default: "1",
        none: Some("0"),
        on_bad: NextSource,
        doc: "At most one endpoint's status is written in this time.",
    },
    Param {
        name: "EndpointStatusPathPrefix",
        kind: Kind::Directory(|s| &mut s.endpoint_status_prefix),
        default: "/run/calico",
        none: Some(""),
        on_bad: NextSource,
        doc: "Directory of `endpoint-status`, one file per programmed endpoint, which the CNI \
              plugin can wait for. Its default is the run directory.",
    },
];
