//! The status document as text for a terminal.

mod counters;

use std::fmt::Write as _;

use crate::reconcile::EndpointState;
use crate::status::document::{EndpointStatus, ForwardedPortStatus, Overall, StatusDocument};

/// Renders the document.
pub fn render(status: &StatusDocument) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, status);
    out
}

fn write(out: &mut String, status: &StatusDocument) -> std::fmt::Result {
    let overall = match status.state {
        Overall::Starting => "starting",
        Overall::Ready => "ready",
        Overall::Degraded => "degraded",
    };
    writeln!(out, "Node        {}", status.node)?;
    writeln!(
        out,
        "State       {overall} (calico-agent {}, pid {}, up {})",
        status.version,
        status.pid,
        duration(status.uptime_seconds)
    )?;
    for hanging in &status.hanging {
        writeln!(out, "Hanging     {}: no sign of life for {} s", hanging.name, hanging.seconds)?;
    }
    let store = &status.datastore;
    match (&store.waiting, store.in_sync) {
        (Some(reason), _) => writeln!(out, "Datastore   waiting: {reason}")?,
        (None, true) => {
            let with = store.location.as_ref().map(|location| format!(" with {location}"));
            let with = with.unwrap_or_default();
            writeln!(out, "Datastore   in sync{with} at revision {}", store.revision)?;
        }
        (None, false) => writeln!(out, "Datastore   reading")?,
    }
    if let Some(stored) = &status.stored {
        let age = stored.age_seconds.map(|age| format!(" ({} old)", duration(age)));
        let (since, age) = (&stored.since, age.unwrap_or_default());
        writeln!(out, "Policy      of {since}{age} from disk, until the datastore answers")?;
    }
    if !store.policy_order.is_empty() {
        writeln!(out, "Order       {}", store.policy_order)?;
    }
    writeln!(out, "Node entry  {}", store.registration)?;
    for part in &status.parts {
        let applied = match part.applied {
            Some(generation) if generation == status.generation => "in force".to_owned(),
            Some(generation) => format!("{generation} of {} in force", status.generation),
            None if status.state == Overall::Starting => "not programmed yet".to_owned(),
            None => "not in force".to_owned(),
        };
        let facts = ["dataplane", "configuration"].map(|name| part.facts.get(name));
        let fact: String = facts.into_iter().flatten().map(|fact| format!(", {fact}")).collect();
        writeln!(out, "{:<11} {applied}{fact}", part.name)?;
    }

    if let Some(collector) = &status.collector {
        let unknown = if collector.rkt_pods.is_none() { ", rkt's pods are not known" } else { "" };
        let (left, gone) = (collector.suspected.len(), collector.collected);
        writeln!(out, "Collector   {left} suspected, {gone} collected{unknown}")?;
    }

    writeln!(out)?;
    let rows = status.endpoints.iter().map(|endpoint| {
        let (state, reason) = state(&endpoint.state);
        [
            endpoint.interface.clone(),
            addresses(endpoint),
            state,
            policy(&endpoint.policies, &endpoint.profiles),
            endpoint.endpoint.clone(),
            reason,
        ]
    });
    table(out, ["INTERFACE", "ADDRESSES", "STATE", "POLICY", "ENDPOINT", ""], rows)?;

    counters::write(out, status)?;

    host_endpoints(out, status)?;

    if let Some(error) = &status.forwarded_ports_error {
        writeln!(out)?;
        writeln!(out, "{:<11} {error}", "forwarded")?;
    } else if !status.forwarded_ports.is_empty() {
        writeln!(out)?;
        for port in &status.forwarded_ports {
            forwarded(out, port)?;
        }
    }

    writeln!(out)?;
    match &status.bgp_error {
        Some(error) => writeln!(out, "BGP         {error}")?,
        None => {
            let rows = status.bgp.iter().map(|session| {
                [
                    session.name.clone(),
                    session.state.clone(),
                    session.since.clone(),
                    session.info.clone(),
                ]
            });
            table(out, ["BGP SESSION", "STATE", "SINCE", "INFO"], rows)?;
        }
    }

    let mut repairs: Vec<_> = status.parts.iter().flat_map(|part| &part.repairs).collect();
    // The newest first, whatever part it is of: what somebody is at just now. Times are written so
    // that they sort as text.
    repairs.sort_by(|a, b| (&b.last, &a.subject).cmp(&(&a.last, &b.subject)));
    let rows: Vec<_> = repairs
        .into_iter()
        .map(|repair| {
            [
                repair.subject.clone(),
                repair.change.to_string(),
                repair.count.to_string(),
                repair.last.clone(),
                repair.detail.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        writeln!(out)?;
        table(out, ["CHANGED BY OTHERS, REPAIRED", "", "TIMES", "LAST", ""], rows.into_iter())?;
    }

    let suspected = status.collector.iter().flat_map(|collector| &collector.suspected);
    let rows: Vec<_> = suspected
        .map(|one| [one.subject.clone(), duration(one.seconds), one.reason.clone()])
        .collect();
    if !rows.is_empty() {
        writeln!(out)?;
        table(out, ["LEFT BEHIND?", "FOR", ""], rows.into_iter())?;
    }

    let problems = status.parts.iter().flat_map(|part| {
        part.problems.iter().map(move |problem| {
            (part.name.as_str(), problem.subject.as_str(), problem.message.as_str())
        })
    });
    let notices = status
        .notices
        .iter()
        .map(|notice| ("notice", notice.subject.as_str(), notice.message.as_str()));
    let reasons: Vec<String> = store
        .rejected
        .iter()
        .map(|rejected| {
            let instead = rejected.instead.said().map(|said| format!(" ({said})"));
            format!("{}{}", rejected.reason, instead.unwrap_or_default())
        })
        .collect();
    let rejected = store.rejected.iter().zip(&reasons);
    let rejected = rejected.map(|(one, reason)| ("rejected", one.key.as_str(), reason.as_str()));
    let lines = problems.chain(rejected).chain(notices).collect::<Vec<_>>();
    if !lines.is_empty() {
        writeln!(out)?;
        for (kind, subject, message) in lines {
            writeln!(out, "{kind:<11} {subject}: {message}")?;
        }
    }
    for (kind, count) in &store.unsupported {
        // Staged policies are there to be looked at; the others are missed.
        let why = if kind.starts_with("staged") { "never enforced" } else { "not supported yet" };
        writeln!(out, "{:<11} {kind}: {count} in the store, {why}", "ignored")?;
    }
    Ok(())
}

/// How an endpoint is, and why.
fn state(state: &EndpointState) -> (String, String) {
    let (word, reason) = match state {
        EndpointState::Up => ("up", ""),
        EndpointState::Down(reason) => ("down", reason.as_str()),
        EndpointState::Error(reason) => ("error", reason.as_str()),
    };
    (word.to_owned(), reason.to_owned())
}

/// What decides for an endpoint, in the order in which it is asked.
fn policy(policies: &[String], profiles: &[String]) -> String {
    let profiles = profiles.iter().map(|profile| format!("profile {profile}"));
    let all: Vec<_> = policies.iter().cloned().chain(profiles).collect();
    if all.is_empty() { "(drop all)".to_owned() } else { all.join(", ") }
}

/// Its own, and by which others it is reached.
fn addresses(endpoint: &EndpointStatus) -> String {
    let own = endpoint.addresses.join(" ");
    if endpoint.external_addresses.is_empty() {
        return own;
    }
    let external: Vec<_> =
        endpoint.external_addresses.iter().map(|one| one.address.to_string()).collect();
    format!("{own} (external {})", external.join(" "))
}

/// Those of this host, when it has any.
fn host_endpoints(out: &mut String, status: &StatusDocument) -> std::fmt::Result {
    if status.host_endpoints.is_empty() {
        return Ok(());
    }
    let rows = status.host_endpoints.iter().map(|endpoint| {
        let (state, reason) = state(&endpoint.state);
        [
            endpoint.endpoint.clone(),
            endpoint.about.clone(),
            endpoint.interfaces.join(" "),
            state,
            policy(&endpoint.policies, &endpoint.profiles),
            reason,
        ]
    });
    writeln!(out)?;
    table(out, ["HOST ENDPOINT", "ABOUT", "INTERFACES", "STATE", "POLICY", ""], rows)
}

/// `port 8080 (tcp) of this host leads to … port 80: from outside denied, …`.
fn forwarded(out: &mut String, port: &ForwardedPortStatus) -> std::fmt::Result {
    let at = port.host_address.as_ref().map(|net| format!(" at {net}")).unwrap_or_default();
    let verdict = if port.from_outside { "allowed" } else { "denied" };
    write!(
        out,
        "{:<11} port {} ({}) of this host{at} leads to {} port {}: from outside {verdict}, {}",
        "forwarded", port.port, port.protocol, port.endpoint, port.endpoint_port, port.reason
    )?;
    if !port.also_from.is_empty() {
        write!(out, "; allowed from {}", port.also_from.join(", "))?;
    }
    writeln!(out)
}

/// Writes rows under a heading, each column as wide as its widest cell.
fn table<const N: usize>(
    out: &mut String,
    heading: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> std::fmt::Result {
    let mut cells = vec![heading.map(str::to_owned)];
    cells.extend(rows);
    let mut widths = [0; N];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &cells {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            write!(line, "{cell:<width$}  ")?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `3 d 4 h`, `12 min`, `5 s`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests;
