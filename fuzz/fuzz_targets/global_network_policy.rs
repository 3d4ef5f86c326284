//! GlobalNetworkPolicy, and what becomes of it in the calculation and in the chains of iptables.
#![no_main]

use calico_agent::felix::endpoints::Interfaces;
use calico_agent::felix::iptables::render::Renderer;
use calico_agent::felix::iptables::save::Table;
use calico_agent::felix::iptables::tables::FamilyTables;
use calico_datastore::layout::v3::RESOURCES_PREFIX;
use calico_datastore::model::{Family, PolicyKind, Update};

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let key = format!("{RESOURCES_PREFIX}globalnetworkpolicies/default.p");
    let Some(Update::Policy(_, Some(policy))) = calico_fuzz::resource(&key, value) else { return };
    let state = calico_fuzz::state_with(&policy);
    let governs = policy.governs_ingress || policy.governs_egress;
    assert_eq!(state.policies.len(), usize::from(policy.kind == PolicyKind::Normal && governs));
    for family in [Family::V4, Family::V6] {
        let renderer = Renderer::new(&state.settings, family, true).expect("a mask with bits");
        let mut tables = FamilyTables::new(family, Default::default());
        renderer.all(&state, &Interfaces::default(), &mut tables);
        for (chain, lines) in Table::ALL.into_iter().flat_map(|table| tables.desired(table)) {
            assert!((1..=28).contains(&chain.len()), "{chain}");
            for line in lines {
                // Each goes into iptables-restore as it is: one line, and no quote that is open.
                assert!(!line.contains(['\n', '\r', '\0']), "{line:?}");
                assert_eq!(line.matches('"').count() % 2, 0, "{line:?}");
                assert!(line.len() < 1024, "{line:?}");
            }
        }
    }
});
