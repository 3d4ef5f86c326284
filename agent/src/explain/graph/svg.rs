//! The graph as a picture: nodes on a circle, what passes as arrows between them. Pure; nothing
//! outside of the text is needed to see it.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::{Graph, Group, GroupKind};

/// How many members, policies or profiles of a group are named.
const NAMED: usize = 3;
/// Width of a character, height of a line, the room around a text; in pixels.
const CHARACTER: f64 = 6.6;
const LINE: f64 = 15.0;
const ROOM: f64 = 8.0;
/// How far an arrow bends away from the straight line, as a part of its length.
const BEND: f64 = 0.12;

/// What stands in a node.
pub(super) fn lines(group: &Group, host: &str) -> Vec<String> {
    let few = |list: &[String]| match list.len().saturating_sub(NAMED) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list[..NAMED].join(", ")),
    };
    match group.kind {
        GroupKind::Host => return vec![format!("host {host}")],
        GroupKind::Outside => return vec!["outside".to_owned()],
        GroupKind::Pods => {}
    }
    let mut lines: Vec<String> = group.members.iter().take(NAMED).cloned().collect();
    match group.members.len().saturating_sub(NAMED) {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    match (group.policies.is_empty(), group.profiles.is_empty()) {
        (true, true) => lines.push("(drops all)".to_owned()),
        (false, _) => lines.push(few(&group.policies)),
        (true, false) => {}
    }
    if !group.profiles.is_empty() {
        lines.push(format!("profile {}", few(&group.profiles)));
    }
    lines
}

struct Shape {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    lines: Vec<String>,
}

/// The graph as SVG. The same graph gives the same text.
pub fn render(graph: &Graph) -> String {
    let shapes = placed(graph);
    let right = shapes.iter().map(|s| s.x + s.width / 2.0).fold(0.0, f64::max) + 60.0;
    let bottom = shapes.iter().map(|s| s.y + s.height / 2.0).fold(0.0, f64::max) + 60.0;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right:.0}\" height=\"{bottom:.0}\" \
         viewBox=\"0 0 {right:.0} {bottom:.0}\" font-family=\"sans-serif\" font-size=\"11\">"
    );
    let title = format!("{}, revision {}", graph.host, graph.revision);
    let _ = writeln!(out, "<title>{}</title>", escaped(&title));
    if !graph.notes.is_empty() {
        let _ = writeln!(out, "<desc>{}</desc>", escaped(&graph.notes.join("; ")));
    }
    out.push_str(
        "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
    );
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (shapes.get(edge.from), shapes.get(edge.to)) {
            arrow(&mut out, from, to, edge.from == edge.to, &edge.label());
        }
    }
    for (group, shape) in graph.groups.iter().zip(&shapes) {
        node(&mut out, group, shape);
    }
    out.push_str("</svg>\n");
    out
}

/// The nodes on a circle that is large enough for all of them, the first at the top.
fn placed(graph: &Graph) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = graph
        .groups
        .iter()
        .map(|group| {
            let lines = lines(group, &graph.host);
            let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            let (width, height) =
                (count(longest) * CHARACTER + 2.0 * ROOM, count(lines.len()) * LINE + 2.0 * ROOM);
            Shape { x: 0.0, y: 0.0, width, height, lines }
        })
        .collect();
    let widest = shapes.iter().map(|shape| shape.width).fold(0.0, f64::max);
    let highest = shapes.iter().map(|shape| shape.height).fold(0.0, f64::max);
    let many = count(shapes.len()).max(1.0);
    let radius = (many * (widest + 40.0) / TAU).max(180.0);
    let flat = (radius * 0.75).max(many * (highest + 40.0) / TAU);
    let (centre_x, centre_y) = (radius + widest / 2.0 + 60.0, flat + highest / 2.0 + 60.0);
    for (at, shape) in shapes.iter_mut().enumerate() {
        let angle = TAU * count(at) / many - TAU / 4.0;
        shape.x = centre_x + radius * angle.cos();
        shape.y = centre_y + flat * angle.sin();
    }
    shapes
}

#[expect(clippy::cast_precision_loss, reason = "counts of what is drawn")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Where the line from the middle of a shape towards a point leaves it.
fn border(shape: &Shape, x: f64, y: f64) -> (f64, f64) {
    let (dx, dy) = (x - shape.x, y - shape.y);
    let steps = |half: f64, d: f64| if d.abs() < 0.001 { f64::INFINITY } else { half / d.abs() };
    let step = steps(shape.width / 2.0, dx).min(steps(shape.height / 2.0, dy)).min(1.0);
    (shape.x + dx * step, shape.y + dy * step)
}

fn arrow(out: &mut String, from: &Shape, to: &Shape, same: bool, label: &str) {
    let (path, x, y) = if same {
        // A loop over the upper right corner.
        let (x, y) = (from.x + from.width / 2.0, from.y - from.height / 2.0);
        let path = format!(
            "M{:.1} {y:.1}C{:.1} {:.1} {:.1} {:.1} {x:.1} {:.1}",
            x - 24.0,
            x - 24.0,
            y - 34.0,
            x + 34.0,
            y - 10.0,
            y + 12.0
        );
        (path, x + 8.0, y - 20.0)
    } else {
        let (dx, dy) = (to.x - from.x, to.y - from.y);
        // The way back bends to the other side.
        let (bend_x, bend_y) =
            ((from.x + to.x) / 2.0 - dy * BEND, (from.y + to.y) / 2.0 + dx * BEND);
        let (x1, y1) = border(from, bend_x, bend_y);
        let (x2, y2) = border(to, bend_x, bend_y);
        let path = format!("M{x1:.1} {y1:.1}Q{bend_x:.1} {bend_y:.1} {x2:.1} {y2:.1}");
        (path, (x1 + 2.0 * bend_x + x2) / 4.0, (y1 + 2.0 * bend_y + y2) / 4.0)
    };
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"#555\" marker-end=\"url(#arrow)\"/>\
         <text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"#205090\" stroke=\"#fff\" \
         stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
        escaped(label)
    );
}

fn node(out: &mut String, group: &Group, shape: &Shape) {
    let Shape { x, y, width, height, lines } = shape;
    let (left, top) = (x - width / 2.0, y - height / 2.0);
    let (fill, round) = match group.kind {
        GroupKind::Pods => ("#eef4fb", 3),
        GroupKind::Host | GroupKind::Outside => ("#f4f4f4", 12),
    };
    let all = escaped(&group.members.join(", "));
    let _ = writeln!(
        out,
        "<g><title>{all}</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"#555\"/>"
    );
    for (at, line) in lines.iter().enumerate() {
        let base = top + ROOM + LINE * (count(at) + 0.75);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{base:.1}\" text-anchor=\"middle\">{}</text>",
            escaped(line)
        );
    }
    out.push_str("</g>\n");
}

/// Text for XML 1.0: what it cannot say is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}
