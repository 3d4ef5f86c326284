//! What a cluster is waited for, and measured for.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{CONVERGENCE, Cluster};
use crate::host::Host;
use crate::matrix::{Expected, Family, Measured};
use crate::tutorial::{self, HOSTS, SERVICES};
use crate::{kernel, wait};

impl Cluster {
    /// Waits for the files that tell the CNI plugin that a pod may start.
    ///
    /// # Errors
    /// When one is missing; carries the agents' logs.
    pub fn wait_until_programmed(&self) -> Result<()> {
        for pod in self.pods.values().map(|pod| pod.spec) {
            let host = self.hosts.iter().find(|host| host.spec.name == pod.host);
            let host = host.context("no such host")?;
            let what = format!("endpoint-status file of {}", pod.name);
            wait::until_true(&what, CONVERGENCE, || host.has_status_file(&pod.status_file()))
                .with_context(|| self.logs())?;
            host.read_back()?;
        }
        Ok(())
    }

    /// Waits until a host's agent has brought everything up to a revision into the kernel.
    ///
    /// # Errors
    /// When it has not within [`CONVERGENCE`]; carries the agents' logs.
    pub fn wait_for_revision(&self, host: &Host, revision: i64) -> Result<()> {
        let what = format!("revision {revision} on {}", host.spec.name);
        wait::until(&what, CONVERGENCE, || {
            Ok((host.status()?.applied_revision() >= revision).then_some(()))
        })
        .with_context(|| self.logs())?;
        host.read_back()
    }

    /// Waits until every agent says that all is in force and nothing is wrong. Status files alone
    /// do not say so of an agent that was killed before: they were left by it.
    ///
    /// # Errors
    /// When it is not so within [`CONVERGENCE`]; carries the agents' logs.
    pub fn wait_until_ready(&self) -> Result<()> {
        wait::until("status `ready` of all agents", CONVERGENCE, || {
            for host in &self.hosts {
                if !host.status()?.is_ready() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| self.logs())?;
        self.hosts.iter().try_for_each(Host::read_back)
    }

    /// Waits until every host has learned the way to the other's pods.
    ///
    /// # Errors
    /// When BIRD has not brought it within [`CONVERGENCE`].
    pub fn wait_for_routes(&self) -> Result<()> {
        for host in &self.hosts {
            for other in HOSTS.iter().filter(|other| other.name != host.spec.name) {
                let wanted = [
                    ("-4", format!("{}/26 ", other.block4)),
                    ("-6", format!("{}/122 ", other.block6)),
                ];
                for (family, block) in wanted {
                    wait::until(
                        &format!("route to {block}on {}", host.spec.name),
                        CONVERGENCE,
                        || {
                            let routes = kernel::routes(host.ns(), family)?;
                            Ok(routes.iter().any(|route| route.starts_with(&block)).then_some(()))
                        },
                    )
                    .with_context(|| self.logs())?;
                }
            }
        }
        Ok(())
    }

    /// Writes keys and waits until every agent has them in force.
    ///
    /// # Errors
    /// When etcd does not take them, or an agent needs more than [`CONVERGENCE`].
    pub fn put_and_wait(&self, pairs: &[(String, String)]) -> Result<()> {
        let revision = self.etcd.put_all(pairs)?;
        self.hosts.iter().try_for_each(|host| self.wait_for_revision(host, revision))
    }

    /// Measures until it is as expected, at most [`CONVERGENCE`]; the last measurement otherwise.
    ///
    /// # Errors
    /// When a question cannot be asked.
    pub fn measure(&self, expected: &Expected, family: Family) -> Result<Measured> {
        let end = Instant::now() + CONVERGENCE;
        let sites = self.sites();
        loop {
            let measured = Measured::take(expected, &sites, &SERVICES, family)?;
            if measured.differences().is_empty() || Instant::now() >= end {
                return Ok(measured);
            }
        }
    }

    /// Fails unless the tutorial's table is measured, over both families.
    ///
    /// # Errors
    /// With the table and the agents' logs when it is not.
    pub fn check(&self, policy: bool) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            let measured = self.measure(&tutorial::expected(policy, family)?, family)?;
            let differences = measured.differences();
            if !differences.is_empty() {
                let logs = self.logs();
                bail!("{family:?}\n{measured}\n{}\n{logs}", differences.join("\n"));
            }
        }
        Ok(())
    }
}
