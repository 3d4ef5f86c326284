//! How packets of pools travel between hosts.

/// What packets between hosts are wrapped into, for some of the hosts or all. Not programmed yet;
/// other hosts, or a later agent, may wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// IP in IP.
    IpInIp,
    /// VXLAN, also where a pool asks for both.
    Vxlan,
}
