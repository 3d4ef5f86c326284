//! Where the host's default routes lead, asked from the kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Error, Handle, new_connection_with_strict_check};

/// What a list may take.
const LIMIT: Duration = Duration::from_secs(10);

const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// The kernel did not say.
#[derive(Debug, thiserror::Error)]
pub enum DefaultsError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The list could not be read.
    #[error("cannot list the default routes")]
    Dump(#[source] Error),
    /// It took too long.
    #[error("the kernel did not list its routes within {LIMIT:?}")]
    TimedOut,
}

/// The indexes of the interfaces that carry a default route of the main table, of either family.
/// Costs as much as there are routes.
///
/// # Errors
/// When netlink does not work.
pub async fn interfaces() -> Result<BTreeSet<u32>, DefaultsError> {
    let (connection, handle, _) =
        new_connection_with_strict_check().map_err(DefaultsError::Socket)?;
    let driver = tokio::spawn(connection);
    let found = tokio::time::timeout(LIMIT, list(&handle)).await;
    driver.abort();
    found.map_err(|_| DefaultsError::TimedOut)?.map_err(DefaultsError::Dump)
}

async fn list(handle: &Handle) -> Result<BTreeSet<u32>, Error> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let mut answers = handle.route().get(request).execute().boxed();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(route) => found.extend(devices(&route)),
                // A kernel without the family, or a table that is empty.
                Err(error) if is_empty(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn is_empty(error: &Error) -> bool {
    let Error::NetlinkError(message) = error else { return false };
    let errno = message.code.map_or(0, |code| code.get().wrapping_neg());
    [ENOENT, EOPNOTSUPP, EAFNOSUPPORT].contains(&errno)
}

/// The interfaces of a route, when it is a default route of the main table that leads anywhere: a
/// kernel that ignores the filter sends all routes.
fn devices(route: &RouteMessage) -> BTreeSet<u32> {
    let mut table = u32::from(route.header.table);
    let mut found = BTreeSet::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Oif(index) => {
                found.insert(*index);
            }
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let leads = route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if leads { found } else { BTreeSet::new() }
}
