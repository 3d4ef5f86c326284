//! Everything that a desired state is to the kernel, as text: what `iptables-save` and `ipset save`
//! would show of us if nobody else were there. Pure. What it *means* can be asked without a kernel.

use std::fmt::Write as _;

use calico_datastore::model::Family;

use super::counters::Counters;
use super::ipset::Command;
use super::iptables::render::Renderer;
use super::iptables::save::Table;
use super::iptables::sets;
use super::iptables::tables::FamilyTables;
use super::scene::Stage;
use crate::reconcile::World;

/// The ruleset of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The tables that hold anything, as `iptables-restore` takes them.
    pub tables: String,
    /// The sets with their members, as `ipset restore` takes them. None when the family is off.
    pub sets: String,
}

/// Renders a state on a host with these interfaces; `None` when the mark mask of its settings has too
/// few bits.
pub fn rendered(world: &World, family: Family) -> Option<Rendered> {
    let state = &world.desired;
    let renderer = Renderer::new(&state.settings, family, true)?;
    let stage = Stage::of(state, &world.links);
    let mut tables = FamilyTables::new(family, Counters::default());
    renderer.scene(&stage.scene(state), &mut tables);
    let text = Table::ALL.into_iter().map(|table| table_text(&tables, table)).collect();
    if renderer.is_off() {
        return Some(Rendered { tables: text, sets: String::new() });
    }
    let mut members = String::new();
    for (name, (spec, entries)) in sets::all(state, stage.interfaces(), &[family]) {
        // Writing to a string cannot fail.
        let _ = writeln!(members, "{}", Command::Create(name.clone(), spec));
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort();
        for entry in entries {
            let _ = writeln!(members, "{}", Command::Add(name.clone(), entry));
        }
    }
    Some(Rendered { tables: text, sets: members })
}

fn table_text(tables: &FamilyTables, table: Table) -> String {
    let (chains, jumps) = (tables.desired(table), tables.desired_jumps(table));
    let (mut names, mut rules) = (String::new(), String::new());
    for jump in jumps {
        let _ = writeln!(rules, "-A {} --jump {}", jump.from, jump.to);
    }
    for (name, lines) in chains {
        let _ = writeln!(names, ":{name} - [0:0]");
        for line in lines {
            let _ = writeln!(rules, "-A {name} {line}");
        }
    }
    if names.is_empty() {
        return String::new();
    }
    format!("*{}\n{names}{rules}COMMIT\n", table.name())
}
