//! The shapes of a result: one for 0.1.0 and 0.2.0, one for 0.3.0 to 0.4.0, one for 1.0.0 and later.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};
use serde_json::{Map, Value, json};

use super::{Dns, Interface, Ip, Route, Success};
use crate::protocol::object::{Field, InvalidField, Object};
use crate::protocol::{Version, address};

pub(super) fn write(success: &Success, version: Version) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("cniVersion", json!(version.as_str()));
    if version.has_one_address_per_family() {
        for (family, key) in FAMILIES {
            if let Some(ip) = success.ips.iter().find(|ip| ip.family() == family) {
                put(key, write_family(ip, success));
            }
        }
    } else {
        put_list(&mut put, "interfaces", &success.interfaces, |i| write_interface(i, version));
        put_list(&mut put, "ips", &success.ips, |ip| write_ip(ip, version));
        put_list(&mut put, "routes", &success.routes, write_route);
    }
    // The original library prints an empty object before 1.0.0, and nothing from then on.
    if !success.dns.is_empty() || version < Version::V1_0_0 {
        put("dns", write_dns(&success.dns));
    }
    Value::Object(object)
}

const FAMILIES: [(Family, &str); 2] = [(Family::V4, "ip4"), (Family::V6, "ip6")];

/// Empty lists are left out.
fn put_list<T, R>(
    mut put: impl FnMut(&str, Value) -> R,
    key: &str,
    items: &[T],
    write: impl FnMut(&T) -> Value,
) {
    if !items.is_empty() {
        put(key, items.iter().map(write).collect());
    }
}

fn write_family(ip: &Ip, success: &Success) -> Value {
    let (address, len) = ip.address;
    let mut object = json!({ "ip": format!("{address}/{len}") });
    if let Some(gateway) = ip.gateway {
        object["gateway"] = json!(gateway);
    }
    let routes = success.routes.iter().filter(|route| route.dst.family() == ip.family());
    let routes: Vec<_> = routes.map(write_route).collect();
    if !routes.is_empty() {
        object["routes"] = json!(routes);
    }
    object
}

fn write_interface(interface: &Interface, version: Version) -> Value {
    let mut object = json!({ "name": interface.name });
    if !interface.mac.is_empty() {
        object["mac"] = json!(interface.mac);
    }
    if let Some(mtu) = interface.mtu
        && version >= Version::V1_1_0
    {
        object["mtu"] = json!(mtu);
    }
    if let Some(sandbox) = &interface.sandbox {
        object["sandbox"] = json!(sandbox);
    }
    object
}

fn write_ip(ip: &Ip, version: Version) -> Value {
    let (address, len) = ip.address;
    let mut object = json!({});
    if version < Version::V1_0_0 {
        object["version"] = json!(ip.family().number().to_string());
    }
    if let Some(interface) = ip.interface {
        object["interface"] = json!(interface);
    }
    object["address"] = json!(format!("{address}/{len}"));
    if let Some(gateway) = ip.gateway {
        object["gateway"] = json!(gateway);
    }
    object
}

fn write_route(route: &Route) -> Value {
    let mut object = json!({ "dst": route.dst.to_string() });
    if let Some(gw) = route.gw {
        object["gw"] = json!(gw);
    }
    object
}

fn write_dns(dns: &Dns) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put_list(&mut put, "nameservers", &dns.nameservers, |text| json!(text));
    if let Some(domain) = &dns.domain {
        put("domain", json!(domain));
    }
    put_list(&mut put, "search", &dns.search, |text| json!(text));
    put_list(&mut put, "options", &dns.options, |text| json!(text));
    Value::Object(object)
}

pub(super) fn read(value: &Value, path: &str) -> Result<Success, InvalidField> {
    let object = Field { value, path: path.to_owned() }.object()?;
    let expected = format!("one of {}", Version::list());
    let version = object.parsed("cniVersion", &expected, |text| text.parse::<Version>().ok())?;
    let old = FAMILIES.iter().any(|(_, key)| object.get(key).is_some());
    let new = object.get("ips").is_some();
    let by_family = old && (!new || version.is_some_and(Version::has_one_address_per_family));
    let mut success = Success { dns: read_dns(&object)?, ..Success::default() };
    if by_family {
        for (family, key) in FAMILIES {
            if let Some(object) = object.object(key)? {
                success.ips.push(read_ip(&object, "ip", Some(family))?);
                success.routes.extend(read_routes(&object)?);
            }
        }
        return Ok(success);
    }
    for item in object.items("interfaces")? {
        success.interfaces.push(read_interface(&item.object()?)?);
    }
    for item in object.items("ips")? {
        let mut ip = read_ip(&item.object()?, "address", None)?;
        ip.interface = ip.interface.filter(|index| *index < success.interfaces.len());
        success.ips.push(ip);
    }
    success.routes = read_routes(&object)?;
    Ok(success)
}

fn read_interface(object: &Object<'_>) -> Result<Interface, InvalidField> {
    let mtu = object.number("mtu", 0, u64::from(u32::MAX))?.filter(|mtu| *mtu != 0);
    Ok(Interface {
        name: object.string("name")?.unwrap_or_default(),
        mac: object.string("mac")?.unwrap_or_default(),
        mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()),
        sandbox: object.string("sandbox")?,
    })
}

/// An address with its length, and what stands beside it.
fn read_ip(object: &Object<'_>, key: &str, family: Option<Family>) -> Result<Ip, InvalidField> {
    let expected = match family {
        None => "an address with its length".to_owned(),
        Some(family) => format!("an {family} address with its length"),
    };
    let address = object.parsed(key, &expected, |text| match address::parse(text)? {
        (address, Some(len)) if family.is_none_or(|family| Family::of(address) == family) => {
            Some((address, len))
        }
        _ => None,
    })?;
    let missing = || InvalidField::content(&object.path(key), &expected, "absent");
    Ok(Ip {
        address: address.ok_or_else(missing)?,
        gateway: read_address(object, "gateway")?,
        // A negative one is an old way of saying none.
        interface: object
            .get("interface")
            .and_then(|field| usize::try_from(field.value.as_u64()?).ok()),
    })
}

fn read_routes(object: &Object<'_>) -> Result<Vec<Route>, InvalidField> {
    let mut routes = vec![];
    for item in object.items("routes")? {
        let item = item.object()?;
        let expected = "an address or a CIDR";
        let dst = item.parsed("dst", expected, |text| text.parse::<Cidr>().ok())?;
        let missing = || InvalidField::content(&item.path("dst"), expected, "absent");
        routes.push(Route { dst: dst.ok_or_else(missing)?, gw: read_address(&item, "gw")? });
    }
    Ok(routes)
}

fn read_address(object: &Object<'_>, key: &str) -> Result<Option<IpAddr>, InvalidField> {
    object.parsed(key, "an address", |text| text.parse().ok())
}

/// `dns` of a result or of a configuration.
pub(crate) fn read_dns(object: &Object<'_>) -> Result<Dns, InvalidField> {
    let Some(dns) = object.object("dns")? else { return Ok(Dns::default()) };
    Ok(Dns {
        nameservers: dns.strings("nameservers")?,
        domain: dns.string("domain")?,
        search: dns.strings("search")?,
        options: dns.strings("options")?,
    })
}
