//! Which addresses a pod asks Calico's own address management for.

use std::net::IpAddr;
use std::time::SystemTime;

use calico_datastore::ipam::{Ipam, Owner, PoolChoice, Request};
use calico_datastore::model::{Cidr, Family, Name};
use calico_datastore::store::Store;
use calico_datastore::timestamp;

use crate::attachment::Attachment;
use crate::failure;
use crate::protocol::{CniError, Code, IpamConf};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// These, and no others.
    pub(crate) exactly: Vec<IpAddr>,
    /// Any.
    pub(crate) any: Request,
}

/// Decides. Addresses that were asked for by name take the place of one of their family that nobody
/// chose; the other family then only comes with them if the configuration says so in so many words.
/// `pool`: that of `ipam.subnet`; pools that are named go before it.
///
/// # Errors
/// When nothing at all is wanted.
pub(crate) fn wanted(
    conf: &IpamConf,
    requested: &[IpAddr],
    pool: Option<Cidr>,
) -> Result<Wanted, CniError> {
    let count = |family, said: Option<bool>, usual: bool| {
        let named = requested.iter().any(|address| Family::of(*address) == family);
        let usual = usual && requested.is_empty();
        usize::from(!named && said.unwrap_or(usual))
    };
    let pools = |family, named: &[String]| {
        let named: Vec<_> = named.iter().map(|text| choice(text)).collect();
        let subnet = pool.filter(|pool| named.is_empty() && pool.family() == family);
        named.into_iter().chain(subnet.map(PoolChoice::Cidr)).collect()
    };
    // A subnet says which family is meant.
    let v6_subnet = pool.is_some_and(|pool| pool.family() == Family::V6);
    let any = Request {
        v4: count(Family::V4, conf.assign_ipv4, !v6_subnet),
        v6: count(Family::V6, conf.assign_ipv6, v6_subnet),
        pools_v4: pools(Family::V4, &conf.ipv4_pools),
        pools_v6: pools(Family::V6, &conf.ipv6_pools),
    };
    if requested.is_empty() && any.v4 + any.v6 == 0 {
        return Err(CniError::new(
            Code::InvalidConfig,
            "the pod would have no address",
            "ipam.assign_ipv4 and ipam.assign_ipv6 are both off, and nobody asks for an address",
        ));
    }
    Ok(Wanted { exactly: requested.to_vec(), any })
}

/// A pool that was named: by its addresses, else by its name.
fn choice(text: &str) -> PoolChoice {
    text.parse().map_or_else(|_| PoolChoice::Name(Name::from(text)), PoolChoice::Cidr)
}

/// Refuses an address that another interface of the same container has: to the address management
/// both are one owner. `records`: those of the container.
///
/// # Errors
/// Code 101, naming the interface.
pub(crate) fn must_be_free(
    wanted: &Wanted,
    records: &[Attachment],
    ifname: &str,
) -> Result<(), CniError> {
    for other in records.iter().filter(|a| a.ifname != ifname) {
        if let Some(address) = wanted.exactly.iter().find(|a| other.addresses.contains(a)) {
            return Err(CniError::new(
                Code::AddressUnavailable,
                format!("the pod cannot have the address {address}"),
                format!("its interface {} has it; ask for another one", other.ifname),
            ));
        }
    }
    Ok(())
}

/// Gives them to the handle, or none. IPv4 first.
///
/// # Errors
/// When there are not enough, one is taken or outside every pool, or the store does not answer.
/// What could not be given back then is found by the handle.
pub(crate) async fn assign<S: Store>(
    ipam: &Ipam<S>,
    node: &str,
    handle: &str,
    wanted: &Wanted,
) -> Result<Vec<IpAddr>, CniError> {
    let attributes = [
        ("node".to_owned(), node.to_owned()),
        ("timestamp".to_owned(), timestamp::go(SystemTime::now())),
    ];
    let owner = Owner { handle: handle.to_owned(), attributes: attributes.into() };
    let mut given = vec![];
    if !wanted.exactly.is_empty() {
        let exact = ipam.assign_exactly(&owner, &wanted.exactly).await;
        let listed: Vec<_> = wanted.exactly.iter().map(IpAddr::to_string).collect();
        let msg = format!("the pod cannot have the address {}", listed.join(", "));
        given.extend(exact.map_err(|error| failure::ipam(msg, &error))?);
    }
    if wanted.any.v4 + wanted.any.v6 > 0 {
        let any = ipam.assign(&owner, &wanted.any).await;
        given.extend(any.map_err(|error| failure::ipam("the pod gets no address", &error))?);
    }
    let mut addresses: Vec<_> = given.into_iter().map(|assigned| assigned.address).collect();
    addresses.sort_by_key(|address| Family::of(*address));
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_an_address_gets_that_and_no_other() {
        let conf = |v4: Option<bool>, v6: Option<bool>| IpamConf {
            assign_ipv4: v4,
            assign_ipv6: v6,
            ..IpamConf::default()
        };
        let (four, six) = ("10.0.0.1", "fd80::1");
        for (v4, v6, requested, expected) in [
            (None, None, vec![], Some((1, 0))),
            (None, Some(true), vec![], Some((1, 1))),
            (Some(false), Some(true), vec![], Some((0, 1))),
            (Some(false), None, vec![], None),
            (None, None, vec![four], Some((0, 0))),
            (None, Some(true), vec![four], Some((0, 1))),
            (Some(true), None, vec![six], Some((1, 0))),
            (None, None, vec![six], Some((0, 0))),
            (Some(false), Some(false), vec![four], Some((0, 0))),
            (Some(true), Some(true), vec![four, six], Some((0, 0))),
        ] {
            let requested: Vec<IpAddr> = requested.iter().map(|a| a.parse().unwrap()).collect();
            let wanted = wanted(&conf(v4, v6), &requested, None).ok();
            let counts = wanted.as_ref().map(|wanted| (wanted.any.v4, wanted.any.v6));
            assert_eq!(counts, expected, "{v4:?} {v6:?} {requested:?}");
            assert!(wanted.is_none_or(|wanted| wanted.exactly == requested));
        }
    }

    #[test]
    fn an_address_of_another_interface_of_the_pod_is_refused() {
        let record = Attachment {
            container_id: "c".to_owned(),
            ifname: "eth0".to_owned(),
            network: "n".to_owned(),
            netns: None,
            host_name: None,
            handle: "n.c".to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            node: "n".to_owned(),
            boot: String::new(),
            stage: crate::attachment::Stage::Added,
            delegated: None,
        };
        let asked = |address: &str| Wanted {
            exactly: vec![address.parse().unwrap()],
            any: Request::default(),
        };
        let all = [record];
        let refused = must_be_free(&asked("10.0.0.1"), &all, "eth1").unwrap_err();
        assert_eq!(refused.code, 101);
        assert!(refused.details.contains("eth0"), "{refused:?}");
        // Its own, and one that nobody has.
        must_be_free(&asked("10.0.0.1"), &all, "eth0").unwrap();
        must_be_free(&asked("10.0.0.2"), &all, "eth1").unwrap();
    }

    #[test]
    fn pools_that_are_named_and_the_one_of_the_subnet() {
        let subnet: Cidr = "10.1.0.0/16".parse().unwrap();
        let any = |conf: &IpamConf, pool| wanted(conf, &[], pool).unwrap().any;
        let plain = any(&IpamConf::default(), Some(subnet));
        assert_eq!(plain.pools_v4, [PoolChoice::Cidr(subnet)]);
        let conf = IpamConf {
            ipv4_pools: vec!["blue".to_owned(), "10.2.0.0/16".to_owned()],
            ..IpamConf::default()
        };
        let other = PoolChoice::Cidr("10.2.0.0/16".parse().unwrap());
        let named = [PoolChoice::Name(Name::from("blue")), other];
        assert_eq!(any(&conf, Some(subnet)).pools_v4, named);
        let six = any(&IpamConf::default(), Some("fd80::/64".parse().unwrap()));
        assert_eq!((six.v4, six.v6, six.pools_v6.len()), (0, 1, 1));
    }
}
