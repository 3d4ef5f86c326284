//! The graph in the language of Graphviz. Pure.

use std::fmt::Write as _;

use super::{Graph, GroupKind, svg};

/// The graph as DOT. The same graph gives the same text.
pub fn render(graph: &Graph) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "digraph reachability {{");
    let title = format!("{}, revision {}", graph.host, graph.revision);
    let _ = writeln!(out, "  label={};", quoted(&[title]));
    let _ = writeln!(out, "  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];");
    let _ = writeln!(out, "  edge [fontname=\"sans-serif\", fontsize=10];");
    for note in &graph.notes {
        let note: String = note.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(out, "  // {note}");
    }
    for (at, group) in graph.groups.iter().enumerate() {
        let style = match group.kind {
            GroupKind::Pods => "",
            GroupKind::Host | GroupKind::Outside => ", style=rounded",
        };
        let _ =
            writeln!(out, "  g{at} [label={}{style}];", quoted(&svg::lines(group, &graph.host)));
    }
    for edge in &graph.edges {
        let label = quoted(&[edge.label()]);
        let _ = writeln!(out, "  g{} -> g{} [label={label}];", edge.from, edge.to);
    }
    out.push_str("}\n");
    out
}

/// Lines as one quoted string. A backslash begins an escape there.
fn quoted(lines: &[String]) -> String {
    let escaped = lines.iter().map(|line| {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        line.replace('\\', "\\\\").replace('"', "\\\"")
    });
    format!("\"{}\"", escaped.collect::<Vec<_>>().join("\\n"))
}
