use super::*;
use crate::explain::tests::world::{MANIFESTS, frontend, running_of, updates, whole_of};
use calico_datastore::model::Update;

fn of(updates: &[Update], question: &Question) -> Graph {
    let world = whole_of(updates);
    let host = Name::from("calico-01");
    graph(question, &host, &world.places[&host], &world.directory).unwrap()
}

fn of_port(port: &str) -> Question {
    Question { port: Some(port.to_owned()), ..Question::default() }
}

/// The same pods once more, and one whose profile is not there.
fn crowded() -> Vec<Update> {
    let mut all = updates(MANIFESTS);
    all.push(frontend("pod5", "192.168.1.5/32", "frontend", ("n", "5")));
    all.push(frontend("pod6", "192.168.1.6/32", "frontend", ("n", "6")));
    all.push(frontend("pod7", "192.168.1.7/32", "gone", ("role", "x")));
    all
}

#[test]
fn what_passes_is_drawn() {
    insta::assert_snapshot!("dot", dot::render(&of(&crowded(), &Question::default())));
    insta::assert_snapshot!("svg", svg::render(&of(&crowded(), &of_port("http"))));
}

#[test]
fn pods_that_policy_cannot_tell_apart_are_one() {
    let graph = of(&crowded(), &of_port("9090"));
    let members: Vec<usize> = graph.groups.iter().map(|group| group.members.len()).collect();
    assert_eq!(members, [1, 3, 1, 0, 0], "{graph:#?}");
    assert_eq!(graph.services, ["tcp 9090"]);
    // Among themselves frontends may do it; nobody reaches the backend or the one without profile.
    let edges: Vec<_> = graph.edges.iter().map(|edge| (edge.from, edge.to)).collect();
    let [backend, frontends, closed, host, outside] = [0, 1, 2, 3, 4];
    assert_eq!(
        edges,
        [
            (backend, host),
            (backend, outside),
            (frontends, frontends),
            (frontends, host),
            (frontends, outside)
        ]
    );
    assert_eq!(graph.groups[closed].members, ["default/pod7/eth0"]);
    assert_eq!(graph, of(&crowded(), &of_port("9090")));
}

/// The graph says what `explain` says, for every pod of a group.
#[test]
fn a_group_speaks_for_all_its_members() {
    let world = running_of(&crowded());
    let graph = of(&crowded(), &of_port("8080"));
    for (from, a) in graph.groups.iter().enumerate() {
        for (to, b) in graph.groups.iter().enumerate() {
            for (source, destination) in
                a.members.iter().flat_map(|a| b.members.iter().map(move |b| (a, b)))
            {
                if source == destination {
                    continue;
                }
                let asked =
                    Question { from: source.clone(), to: destination.clone(), ..of_port("8080") };
                let said = crate::explain::explain(&asked, &world).unwrap();
                let first = said.answers.first().unwrap();
                let drawn = graph.edges.iter().any(|edge| (edge.from, edge.to) == (from, to));
                assert_eq!(
                    first.outcome == crate::explain::document::Outcome::Allowed,
                    drawn,
                    "{source} {destination}"
                );
            }
        }
    }
}

fn hostile() -> Graph {
    let text = "</text><script>\"&'\\\n\u{1}\u{ffff}ü".to_owned();
    let group = Group {
        kind: GroupKind::Pods,
        members: vec![text.clone(); 9],
        policies: vec![text.clone()],
        profiles: vec![text.clone(); 5],
    };
    let edge = |from, to| Edge { from, to, passes: vec![text.clone()], all: false };
    Graph {
        host: text.clone(),
        groups: vec![group.clone(), group],
        edges: vec![edge(0, 1), edge(1, 0), edge(0, 0), edge(7, 9)],
        notes: vec![text.clone()],
        ..Graph::default()
    }
}

/// Elements nest, attributes are quoted, and nothing stands there that XML 1.0 does not know.
fn check_xml(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        for part in before.split('&').skip(1) {
            let entity = part.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot"].contains(&entity), "{part}");
        }
        let (tag, behind) = tag[1..].split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains('<'), "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "{tag}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = behind;
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{ffff}')), "{text:?}");
}

#[test]
fn names_cannot_break_out() {
    let svg = svg::render(&hostile());
    check_xml(&svg);
    assert!(!svg.contains("<script"), "{svg}");
    check_xml(&svg::render(&of(&crowded(), &Question::default())));
    check_xml(&svg::render(&Graph::default()));
    let dot = dot::render(&hostile());
    for line in dot.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let unescaped = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(unescaped.matches('"').count() % 2, 0, "{line}");
    }
    assert!(dot.lines().all(|line| !line.chars().any(char::is_control)), "{dot}");
}

#[test]
fn a_crowd_is_cut_and_said() {
    let mut all = updates(MANIFESTS);
    for n in 0..MOST_GROUPS {
        let (name, address) = (format!("crowd{n}"), format!("192.168.2.{n}/32"));
        all.push(frontend(&name, &address, &format!("p{n}"), ("n", &n.to_string())));
    }
    let graph = of(&all, &of_port("80"));
    assert_eq!(graph.groups.len(), MOST_GROUPS + 2);
    assert_eq!(graph.notes, ["2 groups of few pods are left out"]);
}

#[test]
fn endpoints_that_are_not_policed_are_no_group_of_pods_that_are() {
    let mut all = crowded();
    for update in &mut all {
        if let Update::WorkloadEndpoint(id, Some(endpoint)) = update
            && id.workload.as_str() == "default/pod6"
        {
            let endpoint = std::sync::Arc::make_mut(endpoint);
            endpoint.interface = "eth7".parse().unwrap();
        }
    }
    let graph = of(&all, &of_port("9090"));
    let stray = graph.groups.iter().position(|one| one.members == ["default/pod6/eth0"]).unwrap();
    assert_eq!((&graph.groups[stray].policies, &graph.groups[stray].profiles), (&vec![], &vec![]));
    // Everybody who may send reaches it; before, only other frontends did.
    let outside = graph.groups.len() - 1;
    assert!(graph.edges.iter().any(|edge| (edge.from, edge.to) == (outside, stray)));
    let said =
        "1 endpoints are not policed: their interfaces do not begin with InterfacePrefix (cali)";
    assert_eq!(graph.notes, [said]);
}

#[test]
fn what_a_host_endpoint_decides_is_not_drawn() {
    let mut all = crowded();
    for update in &mut all {
        if let Update::WorkloadEndpoint(id, Some(endpoint)) = update
            && id.workload.as_str() == "default/pod6"
        {
            std::sync::Arc::make_mut(endpoint).interface = "eth7".parse().unwrap();
        }
    }
    let hosts = include_str!("../tests/hosts.yaml");
    let by_others = |graph: &Graph| {
        let stray = graph.groups.iter().position(|one| one.members == ["default/pod6/eth0"]);
        graph.edges.iter().filter(|edge| [edge.from, edge.to].contains(&stray.unwrap())).count()
    };
    // On eth0 and eth1 only.
    let with = |hosts: &str| [all.clone(), updates(hosts)].concat();
    let none = of(&with(hosts), &of_port("9090"));
    assert!(by_others(&none) > 0 && none.notes[0].contains("are not policed:"), "{none:?}");
    let everywhere = hosts.replace("interfaceName: eth0", "interfaceName: \"*\"");
    let graph = of(&with(&everywhere), &of_port("9090"));
    assert_eq!((by_others(&graph), graph.notes.len()), (0, 1));
    let said = "1 endpoints are not policed as pods, and what a host endpoint lets pass there is not \
                drawn (explain tells): their interfaces do not begin with InterfacePrefix (cali)";
    assert_eq!(graph.notes[0], said);
}
