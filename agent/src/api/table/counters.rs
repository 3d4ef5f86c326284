//! How many packets of each endpoint passed and did not.

use std::fmt::Write as _;

use super::table;
use crate::felix::tally::Counts;
use crate::status::document::StatusDocument;

/// Those of the endpoints whose packets are counted.
pub(super) fn write(out: &mut String, status: &StatusDocument) -> std::fmt::Result {
    if let Some(error) = &status.counters_error {
        writeln!(out)?;
        return writeln!(out, "{:<11} {error}", "packets");
    }
    let counted = status.endpoints.iter().filter_map(|one| Some((one, one.counters?)));
    let rows: Vec<_> = counted
        .map(|(one, counters)| {
            let (ingress, egress) = (counters.ingress, counters.egress);
            [
                one.interface.clone(),
                told(ingress.allowed),
                told(ingress.denied),
                told(egress.allowed),
                told(egress.denied),
                one.endpoint.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let heading = ["PACKETS OF", "IN", "DENIED", "OUT", "DENIED", "ENDPOINT"];
    table(out, heading, rows.into_iter())
}

/// `12 (1.5 KiB)`, `0`.
fn told(Counts { packets, bytes }: Counts) -> String {
    match packets {
        0 => "0".to_owned(),
        _ => format!("{packets} ({})", size(bytes)),
    }
}

/// Bytes in a unit that leaves at most four digits, rounded down.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut unit, mut rest) = (0, bytes);
    while rest >= 1024 * 1024 {
        rest /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", rest / 1024, rest % 1024 * 10 / 1024, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
