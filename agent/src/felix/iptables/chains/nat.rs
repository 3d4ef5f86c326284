//! The chains of the table `nat`.

use calico_datastore::model::Family;

use crate::config::Settings;
use crate::felix::iptables::names;

/// The chains of the table `nat`, when packets of any pool are translated on their way out.
pub fn nat(
    settings: &Settings,
    family: Family,
    any_masquerade: bool,
    random_fully: bool,
) -> Vec<(String, Vec<String>)> {
    if !any_masquerade {
        return Vec::new();
    }
    let out = settings.nat_outgoing_interface.as_ref().map(|i| format!(" -o {i}"));
    let target = match settings.nat_outgoing_address {
        Some(address) if Family::of(address) == family => {
            format!("--jump SNAT --to-source {address}")
        }
        _ if random_fully => "--jump MASQUERADE --random-fully".to_owned(),
        _ => "--jump MASQUERADE".to_owned(),
    };
    let rule = format!(
        "-m set --match-set {} src -m set ! --match-set {} dst{} {target}",
        names::masq_pools(family),
        names::all_pools(family),
        out.unwrap_or_default(),
    );
    vec![
        ("cali-POSTROUTING".to_owned(), vec!["--jump cali-nat-outgoing".to_owned()]),
        ("cali-nat-outgoing".to_owned(), vec![rule]),
    ]
}
