//! An object with one field of another: the smallest change that an object can have. Two objects
//! made by chance differ in everything, and hide who looks at too few fields.

use std::sync::Arc;

use calico_datastore::model::Update;

/// `old` with one field of `new`; `pick` says which. `new` itself when they are not two objects of a
/// kind with several fields.
pub(super) fn graft(old: &Update, new: &Update, pick: usize) -> Update {
    macro_rules! one_of {
        ($old:expr, $new:expr, [$($field:ident),+]) => {{
            let mut object = (**$old).clone();
            let fields = [$(stringify!($field)),+];
            match fields[pick % fields.len()] {
                $(stringify!($field) => object.$field = $new.$field.clone(),)+
                _ => unreachable!(),
            }
            Some(Arc::new(object))
        }};
    }
    match (old, new) {
        (Update::Policy(id, Some(old)), Update::Policy(_, Some(new))) => {
            let object = one_of!(
                old,
                new,
                [
                    tier,
                    tier_label,
                    order,
                    selector,
                    ingress,
                    egress,
                    governs_ingress,
                    governs_egress,
                    kind,
                    apply_on_forward,
                    needed_everywhere
                ]
            );
            Update::Policy(id.clone(), object)
        }
        (Update::WorkloadEndpoint(id, Some(old)), Update::WorkloadEndpoint(_, Some(new))) => {
            let object = one_of!(
                old,
                new,
                [interface, active, mac, addresses, nat, spoof, profiles, labels, ports]
            );
            Update::WorkloadEndpoint(id.clone(), object)
        }
        (Update::HostEndpoint(id, Some(old)), Update::HostEndpoint(_, Some(new))) => {
            let object =
                one_of!(old, new, [node, interface, expected_addresses, profiles, labels, ports]);
            Update::HostEndpoint(id.clone(), object)
        }
        (Update::Profile(id, Some(old)), Update::Profile(_, Some(new))) => {
            Update::Profile(id.clone(), one_of!(old, new, [ingress, egress, labels]))
        }
        (Update::NetworkSet(id, Some(old)), Update::NetworkSet(_, Some(new))) => {
            Update::NetworkSet(id.clone(), one_of!(old, new, [nets, labels, profiles]))
        }
        (Update::Tier(id, Some(old)), Update::Tier(_, Some(new))) => {
            Update::Tier(id.clone(), one_of!(old, new, [order, default_action]))
        }
        (Update::Pool(id, Some(old)), Update::Pool(_, Some(new))) => {
            let object = one_of!(old, new, [cidr, ipip, vxlan, nat_outgoing, disable_bgp_export]);
            Update::Pool(id.clone(), object)
        }
        _ => new.clone(),
    }
}
