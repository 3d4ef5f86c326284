//! Who talks to whom, and what the tutorial's tables say of it with and without policies.

use calico_e2e::flow::Flow;
use calico_e2e::matrix::Family;
use calico_e2e::probe::Service;
use calico_e2e::tutorial::{DNS, HTTP, OTHER};

/// From, to, service (`u`: UDP, `h`: the port that backends call `http`, `t`: another TCP port), and
/// whether it should arrive without policies and with them. Every one crosses `calico-01`.
const TABLE: &str = "
    frontend-1 frontend-2 u yes no
    frontend-2 frontend-1 u yes no
    frontend-1 frontend-2 t yes yes
    frontend-2 frontend-1 t yes yes
    frontend-1 calico-01  u yes yes
    frontend-1 calico-02  t yes yes
    backend-1  calico-01  t yes yes
    calico-01  backend-1  u yes yes
    calico-01  frontend-1 t yes yes
    frontend-1 backend-1  u no  no
    frontend-1 backend-1  t no  no
    frontend-1 backend-1  h no  yes
    frontend-2 backend-1  t no  no
    backend-1  frontend-1 t no  no
    backend-2  frontend-1 u no  no
    calico-02  backend-1  t no  no
";
/// Over IPv4 only: masqueraded; over IPv6 there is no way back.
const MASQUERADED: &str = "
    frontend-1 outside    u yes yes
    backend-1  outside    t yes yes
";

/// All flows, with or without the tutorial's policies.
pub(crate) fn all(policy: bool) -> Vec<Flow> {
    let both = [Family::V4, Family::V6];
    let mut all = Vec::new();
    for (table, families) in [(TABLE, &both[..]), (MASQUERADED, &both[..1])] {
        for line in table.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [from, to, service, without, with] = words[..] else { continue };
            let service = match service {
                "u" => Service::Udp(DNS),
                "h" => Service::Tcp(HTTP),
                _ => Service::Tcp(OTHER),
            };
            all.extend(families.iter().map(|family| Flow {
                from: from.to_owned(),
                to: to.to_owned(),
                family: *family,
                service,
                spoofed: None,
                allowed: if policy { with } else { without } == "yes",
            }));
        }
    }
    all
}
