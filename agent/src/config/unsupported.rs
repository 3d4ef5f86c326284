//! Felix's parameters that this agent does not know, each with the reason. Names that exist in
//! neither table are typing mistakes.

use super::params::folded;

const KUBERNETES: &str = "for Kubernetes; this agent reads etcd";
const TYPHA: &str = "there is no Typha; the agent reads etcd itself";
const OVERLAY: &str = "overlays are not programmed yet";
const WRAPPED: &str = "what a pod wraps for a tunnel is always dropped";
const BPF: &str = "there is no eBPF dataplane";
const WIREGUARD: &str = "WireGuard is not supported";
const METRICS: &str = "there are no metrics over HTTP yet";
const HEALTH: &str = "systemd's watchdog and `calico-agent status` replace the health port";
const LOGS: &str = "logs go to the journal or to standard error, at one level";
const USAGE: &str = "the agent reports no usage to anybody";
const OPENSTACK: &str = "for OpenStack";
const PROCESS: &str = "about Felix's own process or its runtime";
const FIXED: &str = "the agent decides this by itself";
const FLOW_LOGS: &str = "there are no flow logs";
const ROUTE_TABLES: &str = "needs routing tables of our own, which nothing here uses";
const NOT_YET: &str = "not supported yet";

/// (name, reason).
pub static UNSUPPORTED: &[(&str, &str)] = &[
    ("AllowIPIPPacketsFromWorkloads", WRAPPED),
    ("AllowVXLANPacketsFromWorkloads", WRAPPED),
    ("AWSSrcDstCheck", "for Amazon's cloud"),
    ("BPFEnabled", BPF),
    ("BPFForceTrackPacketsFromIfaces", BPF),
    ("BPFLogLevel", BPF),
    ("ClusterGUID", USAGE),
    ("ClusterType", "taken from CLUSTER_TYPE when the agent registers"),
    ("DataplaneDriver", FIXED),
    ("DataplaneWatchdogTimeout", HEALTH),
    ("DatastoreType", "`type` in [datastore] says which store; of etcd always API version 3"),
    ("DebugMemoryProfilePath", PROCESS),
    ("DebugPort", PROCESS),
    ("EtcdDriverType", "`type` in [datastore] says which store; of etcd always API version 3"),
    ("ExternalNodesCIDRList", OVERLAY),
    ("FeatureDetectOverride", FIXED),
    ("GenericXDPEnabled", BPF),
    ("GoGCThreshold", PROCESS),
    ("GoMaxProcs", PROCESS),
    ("HealthEnabled", HEALTH),
    ("HealthHost", HEALTH),
    ("HealthPort", HEALTH),
    ("HealthTimeoutOverrides", HEALTH),
    ("IgnoreLooseRPF", "removed from Felix; anti-spoofing is done by rules, not by rp_filter"),
    ("InterfaceRefreshInterval", "interfaces are followed by events"),
    ("IpInIpEnabled", OVERLAY),
    ("IpInIpMtu", OVERLAY),
    ("IpInIpTunnelAddr", OVERLAY),
    ("IPv4NormalRoutePriority", OVERLAY),
    ("IptablesLockFilePath", "iptables takes its lock by itself (--wait)"),
    ("IptablesLockProbeIntervalMillis", "iptables takes its lock by itself (--wait)"),
    ("IptablesLockTimeoutSecs", "iptables takes its lock by itself (--wait)"),
    ("KubeNodePortRanges", KUBERNETES),
    ("LogActionRateLimit", NOT_YET),
    ("LogActionRateLimitBurst", NOT_YET),
    ("LogDebugFilenameRegex", LOGS),
    ("LogFilePath", LOGS),
    ("LogSeverityFile", LOGS),
    ("LogSeveritySys", LOGS),
    ("NetlinkTimeoutSecs", "every call to the kernel has a bound of its own"),
    ("OpenstackRegion", OPENSTACK),
    ("PolicySyncPathPrefix", "there is no application layer policy"),
    ("ProgramClusterRoutes", OVERLAY),
    ("PrometheusGoMetricsEnabled", METRICS),
    ("PrometheusMetricsEnabled", METRICS),
    ("PrometheusMetricsHost", METRICS),
    ("PrometheusMetricsPort", METRICS),
    ("PrometheusProcessMetricsEnabled", METRICS),
    ("RequireMTUFile", OVERLAY),
    ("RouteSource", OVERLAY),
    ("RouteSyncDisabled", NOT_YET),
    ("RouteTableRange", ROUTE_TABLES),
    ("RouteTableRanges", ROUTE_TABLES),
    ("ServiceLoopPrevention", KUBERNETES),
    ("SidecarAccelerationEnabled", BPF),
    ("StartupCleanupDelay", "leftovers go after the first complete apply"),
    ("FlowLogsGoldmaneServer", FLOW_LOGS),
    ("FlowLogsFlushInterval", FLOW_LOGS),
    ("TyphaAddr", TYPHA),
    ("TyphaCAFile", TYPHA),
    ("TyphaCertFile", TYPHA),
    ("TyphaCN", TYPHA),
    ("TyphaK8sNamespace", TYPHA),
    ("TyphaK8sServiceName", TYPHA),
    ("TyphaKeyFile", TYPHA),
    ("TyphaReadTimeout", TYPHA),
    ("TyphaURISAN", TYPHA),
    ("TyphaWriteTimeout", TYPHA),
    ("UsageReportingEnabled", USAGE),
    ("UsageReportingInitialDelaySecs", USAGE),
    ("UsageReportingIntervalSecs", USAGE),
    ("UseInternalDataplaneDriver", FIXED),
    ("VXLANEnabled", OVERLAY),
    ("VXLANMTU", OVERLAY),
    ("VXLANPort", OVERLAY),
    ("VXLANVNI", OVERLAY),
    ("WireguardEnabled", WIREGUARD),
    ("WireguardMTU", WIREGUARD),
    ("XDPEnabled", BPF),
];

/// Why a parameter that Felix knows has no effect here. `None`: Felix does not know it either.
pub fn why_unsupported(name: &str) -> Option<&'static str> {
    let wanted = folded(name);
    UNSUPPORTED.iter().find(|(known, _)| folded(known) == wanted).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::params::Param;

    #[test]
    fn no_name_is_in_both_tables_or_twice_in_this_one() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, _) in UNSUPPORTED {
            assert!(Param::find(name).is_none(), "{name} is supported");
            assert!(seen.insert(folded(name)), "{name} stands here twice");
        }
    }
}
