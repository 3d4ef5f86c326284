//! The settings as typed values: what is left when every source has been asked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::model::{CalicoVersion, InterfaceName, PortRange};

use super::failsafe::{self, Failsafe};
use super::pattern::InterfacePattern;

/// Where our jumps go in the kernel's chains (`ChainInsertMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertMode {
    /// At the top: nothing decides before us.
    Insert,
    /// At the end: an administrator's rules decide first.
    Append,
}

/// What an allowed packet does at the end of our filter chains (`IptablesFilterAllowAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowAction {
    /// It is accepted.
    Accept,
    /// It goes on to the rules behind ours.
    Return,
}

/// What a denied packet gets (`IptablesFilterDenyAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyAction {
    /// Silence.
    Drop,
    /// An ICMP error.
    Reject,
}

/// What happens, after policy, to packets from a pod to its own host
/// (`DefaultEndpointToHostAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Dropped.
    Drop,
    /// Left to the host's own rules.
    Return,
    /// Accepted.
    Accept,
}

/// Which iptables is used (`IptablesBackend`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IptablesBackend {
    /// What the host can do and already uses.
    Auto,
    /// The legacy kernel interface.
    Legacy,
    /// iptables on top of nf_tables.
    Nft,
}

/// Which dataplane is asked for (`Dataplane`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataplaneSetting {
    /// What `NFTablesMode` and `IptablesBackend` say.
    #[default]
    Auto,
    /// A table of our own of nf_tables.
    Nftables,
    /// iptables on top of nf_tables.
    IptablesNft,
    /// The legacy kernel interface.
    IptablesLegacy,
}

/// By what the class of a pod is found in nf_tables (`NftablesDispatch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NftablesDispatch {
    /// By the group of its interface, unless somebody else uses groups.
    #[default]
    Auto,
    /// By the group of its interface, whoever else uses it.
    Groups,
    /// By the name of its interface.
    Interfaces,
}

/// Whether a table of our own of nf_tables is used (`NFTablesMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NftablesMode {
    /// Where there is no iptables.
    #[default]
    Auto,
    /// Yes.
    Enabled,
    /// No.
    Disabled,
}

/// Which dataplane the settings want, all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// iptables, as it is there, and where it is not a table of our own.
    Auto,
    /// A table of our own of nf_tables, and nothing else.
    Nftables,
    /// iptables, and nothing else.
    Iptables(IptablesBackend),
}

/// What a value counts as that is stored for a policy, a tier, a profile or a network set and cannot
/// be read (`InvalidPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvalidPolicy {
    /// As no object.
    #[default]
    Absent,
    /// As the last version that could be read since the agent started; as no object without one.
    KeepLast,
}

impl fmt::Display for InvalidPolicy {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::KeepLast => "keep-last",
        })
    }
}

/// The TCP port of `rkt metadata-service`. Pods learn its address as a URL of IPv4.
pub const RKT_METADATA_PORT: u16 = 18112;

/// The interfaces of OpenStack's guests begin with this.
pub const OPENSTACK_PREFIX: &str = "tap";

/// Where OpenStack's guests look for their metadata.
pub const METADATA_SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);

/// Everything the dataplane and the reports can be told. Field docs name Felix's parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `InterfacePrefix`: host-side interfaces of pods begin with one of these. `cali`.
    pub interface_prefixes: Vec<String>,
    /// `Ipv6Support`. True. Off: every IPv6 packet from or to a pod is dropped.
    pub ipv6: bool,
    /// `DefaultEndpointToHostAction`. Drop; calico/node and we write Return per node.
    pub endpoint_to_host: HostAction,
    /// `RktMetadataService`: accept what pods send to their host on the port of rkt's metadata
    /// service, after their policy. False.
    pub rkt_metadata_service: bool,
    /// `DeniedLog`: report packets that policy denies. False.
    pub denied_log: bool,
    /// `DeniedLogRate`: packets a second of each place that drops. 10.
    pub denied_log_rate: u32,
    /// `DeniedLogGroup`: the NFLOG group. 5.
    pub denied_log_group: u16,
    /// `EndpointCounters`: count the packets of each endpoint that are allowed and denied. True.
    pub endpoint_counters: bool,
    /// `CalicoVersion`: the version of Calico whose names and order of policies hold. None = the one
    /// in ClusterInformation.
    pub calico_version: Option<CalicoVersion>,
    /// `DeniedConnections`: connections that policy allowed once and denies now are cut. False: they go on.
    pub cut_denied_connections: bool,
    /// `InvalidPolicy`: what a policy counts as whose value cannot be read. Absent.
    pub invalid_policy: InvalidPolicy,
    /// `Dataplane`. Auto.
    pub dataplane: DataplaneSetting,
    /// `NFTablesMode`. Auto.
    pub nftables_mode: NftablesMode,
    /// `IptablesBackend`. Auto.
    pub iptables_backend: IptablesBackend,
    /// `ChainInsertMode`. Insert.
    pub insert_mode: InsertMode,
    /// `IptablesFilterAllowAction`. Accept.
    pub filter_allow: AllowAction,
    /// `IptablesMangleAllowAction`: what a packet does that a preDNAT policy allowed. Accept.
    pub mangle_allow: AllowAction,
    /// `IptablesFilterDenyAction`. Drop.
    pub filter_deny: DenyAction,
    /// `IptablesMarkMask`: the only mark bits that may be touched. 0xffff0000.
    pub mark_mask: u32,
    /// `IptablesRefreshInterval`: read everything back this often. 180 s; zero = never.
    pub iptables_refresh: Duration,
    /// `NftablesRefreshInterval`: the same of our table of nf_tables. 180 s; zero = never.
    pub nftables_refresh: Duration,
    /// `NftablesDispatch`. Auto.
    pub nftables_dispatch: NftablesDispatch,
    /// `IptablesPostWriteCheckIntervalSecs`: read back this long after a write. 5 s.
    pub iptables_post_write_check: Duration,
    /// `IpsetsRefreshInterval`. 90 s; zero = never.
    pub ipsets_refresh: Duration,
    /// `MaxIpsetSize`. 1048576 members.
    pub max_ipset_size: u32,
    /// `RouteRefreshInterval`. 90 s; zero = never.
    pub route_refresh: Duration,
    /// `DeviceRouteProtocol`: the protocol number of our routes. 80 (the original: 3).
    pub route_protocol: u8,
    /// `DeviceRouteSourceAddress`: `src` of the routes to pods. None = the kernel's choice.
    pub route_source: Option<IpAddr>,
    /// `DeviceRouteSourceAddressIPv6`: the same for IPv6.
    pub route_source_v6: Option<IpAddr>,
    /// `RemoveExternalRoutes`: also remove foreign routes on pod interfaces, after a grace of
    /// 10 s. True.
    pub remove_external_routes: bool,
    /// `DisableConntrackInvalidCheck`. False.
    pub allow_conntrack_invalid: bool,
    /// `IPForwarding`: switch forwarding on. True.
    pub ip_forwarding: bool,
    /// `WorkloadSourceSpoofing`: endpoints may send from the prefixes that they list
    /// (`allowSpoofedSourcePrefixes`). False.
    pub source_spoofing: bool,
    /// `FloatingIPs`: endpoints have their external addresses (`ipNATs`). False.
    pub floating_ips: bool,
    /// `NATOutgoingAddress`: SNAT to this address instead of masquerade; at most one of each family.
    pub nat_outgoing_addresses: Vec<IpAddr>,
    /// `NATPortRange`: the source ports that outgoing TCP and UDP gets. None = the kernel's choice.
    pub nat_port_range: Option<PortRange>,
    /// `IptablesNATOutgoingInterfaceFilter`: masquerade only what leaves by these interfaces.
    pub nat_outgoing_interface: Option<String>,
    /// `FailsafeInboundHostPorts`: what always reaches the host.
    pub failsafe_inbound: Vec<Failsafe>,
    /// `FailsafeOutboundHostPorts`: what the host can always reach.
    pub failsafe_outbound: Vec<Failsafe>,
    /// `InterfaceExclude`: interfaces that no host endpoint is about. `kube-ipvs0`.
    pub interface_exclude: Vec<InterfacePattern>,
    /// `MetadataAddr`: where OpenStack's metadata service answers; `None` = there is none. 127.0.0.1.
    pub metadata_address: Option<IpAddr>,
    /// `MetadataPort`: its TCP port. 8775.
    pub metadata_port: u16,
    /// `MTUIfacePattern`: interfaces of the host whose MTU bounds that of pods. `None`: those with
    /// default routes.
    pub mtu_interfaces: Option<InterfacePattern>,
    /// `LogPrefix` of rules with the action Log, without the colon. `calico-packet`.
    pub log_prefix: String,
    /// `LogSeverityScreen` as a level of `tracing`. `info`.
    pub log_level: String,
    /// `ReportingIntervalSecs`. 30 s; zero = no status keys (calico/node writes zero).
    pub reporting_interval: Duration,
    /// `ReportingTTLSecs`. 90 s.
    pub reporting_ttl: Duration,
    /// `EndpointReportingEnabled`. False.
    pub endpoint_reporting: bool,
    /// `EndpointReportingDelaySecs`: at most one endpoint's status is written in this time. 1 s.
    pub endpoint_reporting_delay: Duration,
    /// `EndpointStatusPathPrefix`: directory of `endpoint-status`; `None` when switched off. Its
    /// default is the run directory.
    pub endpoint_status_prefix: Option<PathBuf>,
}

impl Settings {
    /// Which dataplane is wanted: `Dataplane` decides, then `NFTablesMode`, then `IptablesBackend`.
    pub fn wanted_dataplane(&self) -> Wanted {
        match (self.dataplane, self.nftables_mode, self.iptables_backend) {
            (DataplaneSetting::Nftables, ..) => Wanted::Nftables,
            (DataplaneSetting::IptablesNft, ..) => Wanted::Iptables(IptablesBackend::Nft),
            (DataplaneSetting::IptablesLegacy, ..) => Wanted::Iptables(IptablesBackend::Legacy),
            (DataplaneSetting::Auto, NftablesMode::Enabled, _) => Wanted::Nftables,
            (DataplaneSetting::Auto, NftablesMode::Auto, IptablesBackend::Auto) => Wanted::Auto,
            (DataplaneSetting::Auto, _, backend) => Wanted::Iptables(backend),
        }
    }

    /// True for an interface of a pod, by its name.
    pub fn is_of_pods(&self, interface: &InterfaceName) -> bool {
        self.interface_prefixes.iter().any(|prefix| interface.as_str().starts_with(prefix.as_str()))
    }

    /// Why nothing is programmed for an endpoint on an interface that is none of pods.
    pub fn not_of_pods(&self, interface: &InterfaceName) -> String {
        let prefixes = self.interface_prefixes.join(",");
        format!("interface {interface} does not begin with InterfacePrefix ({prefixes})")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interface_prefixes: vec!["cali".to_owned()],
            ipv6: true,
            endpoint_to_host: HostAction::Drop,
            rkt_metadata_service: false,
            denied_log: false,
            denied_log_rate: 10,
            denied_log_group: 5,
            endpoint_counters: true,
            calico_version: None,
            cut_denied_connections: false,
            invalid_policy: InvalidPolicy::Absent,
            dataplane: DataplaneSetting::Auto,
            nftables_mode: NftablesMode::Auto,
            iptables_backend: IptablesBackend::Auto,
            insert_mode: InsertMode::Insert,
            filter_allow: AllowAction::Accept,
            mangle_allow: AllowAction::Accept,
            filter_deny: DenyAction::Drop,
            mark_mask: 0xffff_0000,
            iptables_refresh: Duration::from_secs(180),
            nftables_refresh: Duration::from_secs(180),
            nftables_dispatch: NftablesDispatch::Auto,
            iptables_post_write_check: Duration::from_secs(5),
            ipsets_refresh: Duration::from_secs(90),
            max_ipset_size: 1_048_576,
            route_refresh: Duration::from_secs(90),
            route_protocol: 80,
            route_source: None,
            route_source_v6: None,
            remove_external_routes: true,
            allow_conntrack_invalid: false,
            ip_forwarding: true,
            source_spoofing: false,
            floating_ips: false,
            nat_outgoing_addresses: Vec::new(),
            nat_port_range: None,
            nat_outgoing_interface: None,
            failsafe_inbound: failsafe::parse(failsafe::INBOUND).unwrap_or_default(),
            failsafe_outbound: failsafe::parse(failsafe::OUTBOUND).unwrap_or_default(),
            interface_exclude: InterfacePattern::list("kube-ipvs0").unwrap_or_default(),
            metadata_address: Some(Ipv4Addr::LOCALHOST.into()),
            metadata_port: 8775,
            mtu_interfaces: Some(InterfacePattern::host_interfaces()),
            log_prefix: "calico-packet".to_owned(),
            log_level: "info".to_owned(),
            reporting_interval: Duration::from_secs(30),
            reporting_ttl: Duration::from_secs(90),
            endpoint_reporting: false,
            endpoint_reporting_delay: Duration::from_secs(1),
            endpoint_status_prefix: None,
        }
    }
}

impl Settings {
    /// True when interfaces of OpenStack's guests are among those of pods: only for these there are
    /// exceptions from policy.
    pub fn has_openstack(&self) -> bool {
        self.interface_prefixes.iter().any(|prefix| prefix == OPENSTACK_PREFIX)
    }

    /// Where the metadata service answers that OpenStack's guests ask.
    pub fn metadata_service(&self) -> Option<SocketAddrV4> {
        match self.metadata_address.filter(|_| self.has_openstack())? {
            IpAddr::V4(address) => Some(SocketAddrV4::new(address, self.metadata_port)),
            IpAddr::V6(_) => None,
        }
    }
}
