//! What an administrator says with `calicoctl` our plugin and our agent obey, at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::rkt::{Refusal, Sandbox};
use calico_e2e::wait;
use serde_json::{Value, json};

use super::programs::{Lab, Maker, Originals, pool};

/// "No address is left", "the address cannot be given", "the datastore refuses".
const NO_ADDRESS: u32 = 100;
const NOT_THIS_ADDRESS: u32 = 101;
const LIMIT: Duration = Duration::from_secs(20);

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec })
}

fn say(lab: &Lab, words: &str) -> Result<String> {
    lab.originals.calicoctl(lab.host(0), words).run()
}

/// An ADD of ours that must fail: its code, and what it said.
fn refused(lab: &Lab, host: usize, args: &str) -> Result<(Option<u32>, String)> {
    let added = lab.add(host, Maker::Ours, ("network1", args));
    let error = added.err().context("a pod that should not be")?;
    let refusal = error.downcast::<Refusal>()?;
    Ok((refusal.code, refusal.to_string()))
}

fn add(lab: &Lab, host: usize, args: &str) -> Result<Sandbox> {
    lab.add(host, Maker::Ours, ("network1", args))
}

#[test]
fn strict_affinity_is_obeyed_from_the_next_pod_on() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    // Two blocks of two.
    let lab = Lab::new(originals, "origstrict", &[pool("v4", "10.65.0.0/30", 31)])?;
    let far = add(&lab, 1, "")?;
    let near = [add(&lab, 0, "")?, add(&lab, 0, "")?];
    say(&lab, "ipam configure --strictaffinity=true")?;
    let (code, text) = refused(&lab, 0, "")?;
    ensure!(code == Some(NO_ADDRESS), "{text}");
    // The very same on the original, so that we are not stricter than it is.
    lab.add(0, Maker::Theirs, ("network1", "")).err().context("the original borrows")?;
    say(&lab, "ipam configure --strictaffinity=false")?;
    let borrowed = add(&lab, 0, "")?;
    for pod in near.into_iter().chain([borrowed]) {
        lab.remove(0, Maker::Ours, pod)?;
    }
    lab.remove(1, Maker::Ours, far)
}

#[test]
fn a_limit_of_blocks_is_obeyed() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    if !originals.is_at_least(3, 30)? {
        println!("skipped: this calicoctl sets no limit of blocks");
        return Ok(());
    }
    let lab = Lab::new(originals, "origblocks", &[pool("v4", "10.65.0.0/30", 32)])?;
    say(&lab, "ipam configure --strictaffinity=true --max-blocks-per-host=2")?;
    let pods = [add(&lab, 0, "")?, add(&lab, 0, "")?];
    let (code, text) = refused(&lab, 0, "")?;
    ensure!(code == Some(NO_ADDRESS), "{text}");
    say(&lab, "ipam configure --max-blocks-per-host=3")?;
    let third = add(&lab, 0, "")?;
    for pod in pods.into_iter().chain([third]) {
        lab.remove(0, Maker::Ours, pod)?;
    }
    Ok(())
}

#[test]
fn reserved_addresses_are_kept_for_who_asks() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origreserve", &[pool("v4", "10.65.0.0/30", 30)])?;
    let spec = json!({ "reservedCIDRs": ["10.65.0.0/31", "10.65.0.3"] });
    lab.originals.apply(lab.host(0), &object("IPReservation", "kept", &spec))?;
    let only = add(&lab, 0, "")?;
    ensure!(only.v4(0)?.to_string() == "10.65.0.2", "{:?}", only.attached);
    let (code, text) = refused(&lab, 0, "")?;
    ensure!(code == Some(NO_ADDRESS), "{text}");
    let asked = add(&lab, 0, "IP=10.65.0.3")?;
    say(&lab, "delete ipreservation kept")?;
    let free = [add(&lab, 0, "")?, add(&lab, 0, "")?];
    for pod in free.into_iter().chain([only, asked]) {
        lab.remove(0, Maker::Ours, pod)?;
    }
    Ok(())
}

#[test]
fn pools_are_used_as_they_say() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origpools", &[])?;
    let pool = |name: &str, cidr: &str, more: Value| {
        let mut spec = json!({ "cidr": cidr, "blockSize": 28, "ipipMode": "Never" });
        if let Some((spec, more)) = spec.as_object_mut().zip(more.as_object()) {
            spec.extend(more.clone());
        }
        lab.originals.apply(lab.host(0), &object("IPPool", name, &spec))
    };
    let mut cases = 0;
    let mut gets = |host: usize, args: &str, wanted: Result<&str, u32>| -> Result<()> {
        cases += 1;
        match wanted {
            Ok(prefix) => {
                let pod = add(&lab, host, args)?;
                let address = pod.v4(0)?.to_string();
                ensure!(address.starts_with(prefix), "{address}, not {prefix}");
                lab.remove(host, Maker::Ours, pod)
            }
            Err(wanted) => {
                let (code, text) = refused(&lab, host, args)?;
                ensure!(code == Some(wanted), "{wanted}, not {text}");
                Ok(())
            }
        }
    };
    gets(0, "", Err(NO_ADDRESS))?;
    pool("blue", "10.65.0.0/24", json!({ "disabled": true }))?;
    gets(0, "", Err(NO_ADDRESS))?;
    gets(0, "IP=10.65.0.7", Err(NOT_THIS_ADDRESS))?;
    pool("blue", "10.65.0.0/24", json!({ "disabled": false, "nodeSelector": "rack == '1'" }))?;
    gets(0, "", Err(NO_ADDRESS))?;
    let mut node = lab.originals.get(lab.host(0), "node calico-01")?;
    node["metadata"]["labels"] = json!({ "rack": "1" });
    lab.originals.apply(lab.host(0), &node)?;
    gets(0, "", Ok("10.65.0."))?;
    gets(1, "", Err(NO_ADDRESS))?;
    let manual = lab.originals.is_at_least(3, 30)?;
    if manual {
        pool("green", "10.66.0.0/24", json!({ "assignmentMode": "Manual" }))?;
        gets(1, "", Err(NO_ADDRESS))?;
        gets(1, "IP=10.66.0.7", Ok("10.66.0.7"))?;
    }
    pool("green", "10.66.0.0/24", json!({ "allowedUses": ["Tunnel"] }))?;
    gets(1, "", Err(NO_ADDRESS))?;
    pool("green", "10.66.0.0/24", json!({ "allowedUses": ["Workload"] }))?;
    gets(1, "", Ok("10.66.0."))?;
    ensure!(cases == if manual { 10 } else { 8 }, "{cases} cases");
    println!("{cases} answers of pools");
    Ok(())
}

#[test]
fn a_locked_datastore_takes_no_pod() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origlock", &[pool("v4", "10.65.0.0/24", 28)])?;
    say(&lab, "datastore migrate lock")?;
    let (_, text) = refused(&lab, 0, "")?;
    ensure!(text.contains("ready"), "{text}");
    say(&lab, "datastore migrate unlock")?;
    let pod = wait::until("a pod", LIMIT, || add(&lab, 0, "").map(Some))?;
    lab.remove(0, Maker::Ours, pod)
}

#[test]
fn a_policy_of_calicoctl_is_enforced_and_its_end_too() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origpolicy", &[pool("v4", "10.65.0.0/24", 28)])?;
    let (near, far) = (add(&lab, 0, "")?, add(&lab, 1, "")?);
    let ask = |limit| ask_from(near.ns().name(), far.v4(0)?.into(), Service::Icmp, limit);
    let reached = || wait::until("echo", LIMIT, || Ok(ask(PATIENT)?.reached().then_some(())));
    reached()?;
    let rule = json!({ "action": "Deny", "protocol": "ICMP" });
    let allow = json!({ "action": "Allow" });
    let spec = json!({
        "selector": "projectcalico.org/orchestrator == 'cni'", "types": ["Ingress"],
        "ingress": [rule, allow],
    });
    lab.originals.apply(lab.host(0), &object("GlobalNetworkPolicy", "no-echo", &spec))?;
    let silent = || Ok((ask(BRIEF)? == Answer::Silence).then_some(()));
    wait::until("silence", LIMIT, silent)?;
    say(&lab, "delete globalnetworkpolicy no-echo")?;
    reached()?;
    lab.remove(0, Maker::Ours, near)?;
    lab.remove(1, Maker::Ours, far)
}
