//! The status document as text for a terminal.

use std::fmt::Write as _;

use crate::reconcile::EndpointState;
use crate::status::document::{Overall, StatusDocument};

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
    let store = &status.datastore;
    match (&store.waiting, store.in_sync) {
        (Some(reason), _) => writeln!(out, "Datastore   waiting: {reason}")?,
        (None, true) => writeln!(out, "Datastore   in sync at revision {}", store.revision)?,
        (None, false) => writeln!(out, "Datastore   reading")?,
    }
    if let Some(stored) = &status.stored {
        let age = stored.age_seconds.map(|age| format!(" ({} old)", duration(age)));
        let (since, age) = (&stored.since, age.unwrap_or_default());
        writeln!(out, "Policy      of {since}{age} from disk, until the datastore answers")?;
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

    writeln!(out)?;
    let rows = status.endpoints.iter().map(|endpoint| {
        let (state, reason) = match &endpoint.state {
            EndpointState::Up => ("up", String::new()),
            EndpointState::Down(reason) => ("down", reason.clone()),
            EndpointState::Error(reason) => ("error", reason.clone()),
        };
        let mut acl = endpoint.policies.clone();
        acl.extend(endpoint.profiles.iter().map(|profile| format!("profile {profile}")));
        [
            endpoint.interface.clone(),
            endpoint.addresses.join(" "),
            state.to_owned(),
            if acl.is_empty() { "(drop all)".to_owned() } else { acl.join(", ") },
            endpoint.endpoint.clone(),
            reason,
        ]
    });
    table(out, ["INTERFACE", "ADDRESSES", "STATE", "POLICY", "ENDPOINT", ""], rows)?;

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

    let repairs = status.parts.iter().flat_map(|part| &part.repairs);
    let rows: Vec<_> = repairs
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

    let problems = status.parts.iter().flat_map(|part| {
        part.problems.iter().map(move |problem| {
            (part.name.as_str(), problem.subject.as_str(), problem.message.as_str())
        })
    });
    let notices = status
        .notices
        .iter()
        .map(|notice| ("notice", notice.subject.as_str(), notice.message.as_str()));
    let rejected = store
        .rejected
        .iter()
        .map(|rejected| ("rejected", rejected.key.as_str(), rejected.reason.as_str()));
    let lines = problems.chain(rejected).chain(notices).collect::<Vec<_>>();
    if !lines.is_empty() {
        writeln!(out)?;
        for (kind, subject, message) in lines {
            writeln!(out, "{kind:<11} {subject}: {message}")?;
        }
    }
    for (kind, count) in &store.unsupported {
        writeln!(out, "{:<11} {kind}: {count} in the store, not supported yet", "ignored")?;
    }
    Ok(())
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
