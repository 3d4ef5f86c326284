//! What a first run would write, not carried out.

use calico_datastore::model::InterfaceName;

use super::dispatch::Dispatch;
use super::places;
use super::sockets::apart;
use crate::felix::counters::Counters;
use crate::felix::nftables::TABLE;
use crate::felix::nftables::compare::{Difference, compare};
use crate::felix::nftables::groups::Groups;
use crate::felix::nftables::read::Found;
use crate::felix::nftables::render::{Options, Renderer};
use crate::felix::nftables::table::Table;
use crate::felix::scene::Scene;
use crate::telemetry::chain;

/// What a first run would do.
#[derive(Debug, Default)]
pub(in crate::felix) struct Preview {
    /// The first transaction, as commands of nft.
    pub(in crate::felix) now: Vec<String>,
    /// Interfaces, the groups that they are in, and those that they would get.
    pub(in crate::felix) groups: Vec<(InterfaceName, u32, u32)>,
    /// The second transaction.
    pub(in crate::felix) after: Vec<String>,
}

/// Looks. `None` when the mask of the mark has no bit.
///
/// # Errors
/// In words, when the kernel cannot be read.
pub(in crate::felix) async fn preview(scene: &Scene<'_>) -> Result<Option<Preview>, String> {
    let options = Options { groups: true, random_fully: true };
    let Some(mut renderer) = Renderer::new(&scene.state.settings, options) else {
        return Ok(None);
    };
    let mut table = Table::open(TABLE, Counters::default()).map_err(|error| chain(&error))?;
    let groups = Groups::open();
    let read = move || {
        let found = table.read();
        (table, found, groups.and_then(|mut groups| groups.read()))
    };
    let (mut table, found, links) = apart(read).await.map_err(|error| error.to_string())?;
    let found = found.map_err(|error| chain(&error))?;
    let links = links.map_err(|error| format!("cannot list interfaces: {error}"))?;
    let mut dispatch = Dispatch::new(scene.state.settings.nftables_dispatch);
    dispatch.look(found.as_ref(), links.values(), scene);
    renderer.use_groups(dispatch.by_groups());
    let held = found.as_ref().map(Found::contents).unwrap_or_default();
    let owned = links.values().map(|link| {
        let owner = scene.interfaces.endpoint(&link.name);
        (link.group, owner.map(|owner| &owner.class))
    });
    renderer.take_over(scene, &held, owned);
    let wanted = renderer.all(scene);
    if let Some(found) = &found {
        table.agree(found, &wanted);
    }
    let Difference { mut now, mut after, .. } = compare(found.as_ref(), &wanted);
    let group_of = |class: &_| renderer.group_of(class);
    let moves = places::all(&links, scene, group_of, renderer.uses_groups(), false);
    if moves.is_empty() {
        now.append(&mut after);
        // The kernel does not like hooks to come and go while it wakes a table.
        if table.is_asleep() {
            std::mem::swap(&mut now, &mut after);
        }
    }
    let mut commands = table.commands(&[&now, &after]).into_iter();
    let groups = moves.into_iter().map(|one| {
        let from = links.get(&one.name).map_or(0, |link| link.group);
        (one.name, from, one.to)
    });
    let (now, after) = (commands.next().unwrap_or_default(), commands.next().unwrap_or_default());
    Ok(Some(Preview { now, groups: groups.collect(), after }))
}
