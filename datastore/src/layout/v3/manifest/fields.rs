//! The fields that there are. etcd's decoder ignores what it does not know, since a newer writer
//! may have written it. A person who writes `soruce` means `source`, and without that criterion
//! the rule would match everything.

use serde_json::{Map, Value};

use super::kinds::Kind;

/// The fields of an object.
struct Shape {
    /// What it is, for people.
    what: &'static str,
    fields: &'static [(&'static str, Field)],
}

/// What a field holds.
enum Field {
    /// Whatever it is, its keys are not looked at.
    Any,
    /// An object.
    One(&'static Shape),
    /// A list of objects.
    Each(&'static Shape),
}

use Field::{Any, Each, One};

static POLICY: Shape = Shape {
    what: "NetworkPolicy",
    fields: &[
        ("tier", Any),
        ("order", Any),
        ("ingress", Each(&RULE)),
        ("egress", Each(&RULE)),
        ("selector", Any),
        ("types", Any),
        ("serviceAccountSelector", Any),
        ("performanceHints", Any),
    ],
};

static GLOBAL_POLICY: Shape = Shape {
    what: "GlobalNetworkPolicy",
    fields: &[
        ("tier", Any),
        ("order", Any),
        ("ingress", Each(&RULE)),
        ("egress", Each(&RULE)),
        ("selector", Any),
        ("types", Any),
        ("doNotTrack", Any),
        ("preDNAT", Any),
        ("applyOnForward", Any),
        ("serviceAccountSelector", Any),
        ("namespaceSelector", Any),
        ("performanceHints", Any),
    ],
};

static PROFILE: Shape = Shape {
    what: "Profile",
    fields: &[("ingress", Each(&RULE)), ("egress", Each(&RULE)), ("labelsToApply", Any)],
};

static TIER: Shape = Shape { what: "Tier", fields: &[("order", Any), ("defaultAction", Any)] };

static NETWORK_SET: Shape = Shape { what: "network set", fields: &[("nets", Any)] };

static POOL: Shape = Shape {
    what: "IPPool",
    fields: &[
        ("cidr", Any),
        ("vxlanMode", Any),
        ("ipipMode", Any),
        ("natOutgoing", Any),
        ("disabled", Any),
        ("disableBGPExport", Any),
        ("blockSize", Any),
        ("nodeSelector", Any),
        ("namespaceSelector", Any),
        ("allowedUses", Any),
        ("assignmentMode", Any),
        // Of the API before v3; `calicoctl` still takes them.
        ("ipip", Any),
        ("nat-outgoing", Any),
    ],
};

static RULE: Shape = Shape {
    what: "rule",
    fields: &[
        ("action", Any),
        ("ipVersion", Any),
        ("protocol", Any),
        ("notProtocol", Any),
        ("icmp", One(&ICMP)),
        ("notICMP", One(&ICMP)),
        ("source", One(&ENTITY)),
        ("destination", One(&ENTITY)),
        ("http", One(&HTTP)),
        ("metadata", Any),
    ],
};

static ICMP: Shape = Shape { what: "ICMP match", fields: &[("type", Any), ("code", Any)] };

static ENTITY: Shape = Shape {
    what: "source or destination",
    fields: &[
        ("nets", Any),
        ("notNets", Any),
        ("selector", Any),
        ("notSelector", Any),
        ("namespaceSelector", Any),
        ("ports", Any),
        ("notPorts", Any),
        ("services", One(&SERVICES)),
        ("serviceAccounts", One(&ACCOUNTS)),
    ],
};

static SERVICES: Shape =
    Shape { what: "service match", fields: &[("name", Any), ("namespace", Any)] };

static ACCOUNTS: Shape =
    Shape { what: "service account match", fields: &[("names", Any), ("selector", Any)] };

static HTTP: Shape =
    Shape { what: "HTTP match", fields: &[("methods", Any), ("paths", Each(&HTTP_PATH))] };

static HTTP_PATH: Shape = Shape { what: "HTTP path", fields: &[("exact", Any), ("prefix", Any)] };

/// Of every resource; `status` is in what `calicoctl get` prints.
const RESOURCE: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// Looks for fields that there are not, in a resource of a kind that is looked at: those that
/// decide what is let through, and pools.
///
/// # Errors
/// The first one, with its path: `spec.ingress[0].soruce is no field of a rule`.
pub(super) fn check(kind: &Kind, resource: &Map<String, Value>) -> Result<(), String> {
    let shape = match kind.plural {
        "networkpolicies" => &POLICY,
        "globalnetworkpolicies" => &GLOBAL_POLICY,
        "profiles" => &PROFILE,
        "tiers" => &TIER,
        "networksets" | "globalnetworksets" => &NETWORK_SET,
        "ippools" => &POOL,
        _ => return Ok(()),
    };
    if let Some(key) = resource.keys().find(|key| !RESOURCE.contains(&key.as_str())) {
        return Err(format!("{key} is no field of a resource"));
    }
    resource.get("spec").map_or(Ok(()), |spec| check_object("spec", shape, spec))
}

/// What is no object is the decoder's to refuse.
fn check_object(path: &str, shape: &Shape, value: &Value) -> Result<(), String> {
    let Value::Object(fields) = value else { return Ok(()) };
    for (key, value) in fields {
        let path = format!("{path}.{key}");
        match shape.fields.iter().find(|(name, _)| name == key) {
            None => return Err(format!("{path} is no field of {}", with_article(shape.what))),
            Some((_, Any)) => {}
            Some((_, One(shape))) => check_object(&path, shape, value)?,
            Some((_, Each(shape))) => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check_object(&format!("{path}[{index}]"), shape, item)?;
                }
            }
        }
    }
    Ok(())
}

fn with_article(what: &str) -> String {
    let article = if what.starts_with(['I', 'H']) { "an" } else { "a" };
    format!("{article} {what}")
}
