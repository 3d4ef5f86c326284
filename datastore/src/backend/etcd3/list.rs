//! Listings in pages, all of one revision.

use etcd_client::{GetOptions, GetResponse, KeyValue};

use super::client::Etcd3;
use super::config::PAGE_KEYS;
use super::error::EtcdError;

/// As of when, and of which store, an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) cluster_id: u64,
    pub(super) revision: i64,
}

impl Stamp {
    pub(super) fn of(
        header: Option<&etcd_client::ResponseHeader>,
        op: &'static str,
        key: &str,
    ) -> Result<Self, EtcdError> {
        let header = header.ok_or_else(|| EtcdError::NoHeader { op, key: key.to_owned() })?;
        Ok(Self { cluster_id: header.cluster_id(), revision: header.revision() })
    }
}

/// Visits every key and value below the prefixes as of one revision, which it returns.
///
/// Every page is a linearizable read: should the member change in between, the next one answers
/// only when it has caught up with the revision. A revision compacted meanwhile is an error.
pub(super) async fn snapshot(
    client: &Etcd3,
    prefixes: &[&str],
    mut visit: impl FnMut(&KeyValue),
) -> Result<Stamp, EtcdError> {
    let mut stamp = None;
    for prefix in prefixes {
        walk(client, prefix, false, &mut stamp, &mut visit).await?;
    }
    stamp.ok_or(EtcdError::NoHeader { op: "list", key: prefixes.join(", ") })
}

/// Visits every key below a prefix, without values.
pub(super) async fn keys(
    client: &Etcd3,
    prefix: &str,
    mut visit: impl FnMut(&str),
) -> Result<(), EtcdError> {
    let mut name = |kv: &KeyValue| visit(&String::from_utf8_lossy(kv.key()));
    walk(client, prefix, true, &mut None, &mut name).await
}

async fn walk(
    client: &Etcd3,
    prefix: &str,
    keys_only: bool,
    stamp: &mut Option<Stamp>,
    visit: &mut impl FnMut(&KeyValue),
) -> Result<(), EtcdError> {
    let end = end_of(prefix);
    let mut from = prefix.as_bytes().to_vec();
    let mut limit = PAGE_KEYS;
    loop {
        let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
        if keys_only {
            options = options.with_keys_only();
        }
        if let Some(stamp) = stamp {
            options = options.with_revision(stamp.revision);
        }
        let start = from.clone();
        let page =
            client
                .call("list", prefix, |session| async move {
                    session.kv().get(start, Some(options)).await
                })
                .await;
        let page: GetResponse = match page {
            Err(error) if error.is_too_large() && limit > 1 => {
                limit = (limit / 2).max(1);
                continue;
            }
            page => page?,
        };
        let this = Stamp::of(page.header(), "list", prefix)?;
        let first = *stamp.get_or_insert(this);
        if first.cluster_id != this.cluster_id {
            return Err(EtcdError::WatchEnded {
                key: prefix.to_owned(),
                reason: "another cluster answers".to_owned(),
            });
        }
        page.kvs().iter().for_each(&mut *visit);
        let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok(()) };
        from = last.key().to_vec();
        from.push(0);
    }
}

/// The first key after every key that begins with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // etcd: no end at all.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(end_of("/calico/ipam/v2/"), b"/calico/ipam/v20");
        assert_eq!(end_of("a"), b"b");
        assert_eq!(end_of(""), [0]);
        assert!(b"/calico/ipam/v2/zzz".as_slice() < end_of("/calico/ipam/v2/").as_slice());
        assert!(b"/calico/ipam/v20".as_slice() >= end_of("/calico/ipam/v2/").as_slice());
    }
}
