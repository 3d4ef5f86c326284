//! Where agents report, which depends on the layout. What they report is the same in both.

use super::{v1, v3};
use crate::model::{HostEndpointId, Name, WorkloadEndpointId};

/// The keys of reports in one of the layouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reports {
    /// `/calico/felix/v2/`.
    #[default]
    V3,
    /// `/calico/felix/v1/`.
    V1,
}

impl Reports {
    /// Where a host says that it is alive; it vanishes when the host does not write it again.
    pub fn host_status(self, host: &Name) -> String {
        match self {
            Self::V3 => v3::keys::host_status(host),
            Self::V1 => v1::keys::host_status(host),
        }
    }

    /// Where a host's last report stays when the host does not.
    pub fn host_last_status(self, host: &Name) -> String {
        match self {
            Self::V3 => v3::keys::host_last_status(host),
            Self::V1 => v1::keys::host_last_status(host),
        }
    }

    /// The prefix of a host's workload endpoint statuses.
    pub fn workload_statuses_of(self, host: &Name) -> String {
        match self {
            Self::V3 => v3::keys::workload_statuses_of(host),
            Self::V1 => v1::keys::workload_statuses_of(host),
        }
    }

    /// Where the status of a workload endpoint is written.
    pub fn workload_status(self, id: &WorkloadEndpointId) -> String {
        match self {
            Self::V3 => v3::keys::workload_status(id),
            Self::V1 => v1::keys::workload_status(id),
        }
    }

    /// The prefix of a host's host endpoint statuses.
    pub fn host_endpoint_statuses_of(self, host: &Name) -> String {
        match self {
            Self::V3 => v3::keys::host_endpoint_statuses_of(host),
            Self::V1 => v1::keys::host_endpoint_statuses_of(host),
        }
    }

    /// Where the status of a host endpoint of `host` is written.
    pub fn host_endpoint_status(self, host: &Name, id: &HostEndpointId) -> String {
        match self {
            Self::V3 => v3::keys::host_endpoint_status(host, id),
            Self::V1 => v1::keys::host_endpoint_status(host, id),
        }
    }
}
