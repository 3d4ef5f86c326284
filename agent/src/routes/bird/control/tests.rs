use super::*;

const REPLY: &str = "2002-Name       Proto      Table      State  Since         Info\n\
    1002-device1    Device     ---        up     00:25:58.989  \n\
    1006-\n\
    1002-Mesh_10_0_0_2 BGP        ---        up     00:26:03.001  Established   \n\
    1006-  Description:    Mesh: calico-02\n\
    \x20  BGP state:          Established\n\
    \x20    Neighbor address: 10.0.0.2\n\
    \x20    Neighbor AS:      65001\n\
    \x20  Channel ipv4\n\
    \n\
    1002-Node_fd00__2_port_1790 BGP        ---        start  2026-11-20  Active        Socket: Connection refused\n\
    1006-  BGP state:          Active\n\
    \x20    Neighbor AS:      64512\n\
    \x20\n\
    1002-mine       BGP        ---        up     00:26:03.001  Established\n\
    1006-  BGP state:          Established\n\
    \x20    Neighbor address: 10.0.0.9\n\
    0000 \n";

fn lines(reply: &str) -> Vec<Line> {
    // An empty line is in none of BIRD's answers; this makes the text above easy to read.
    let reply = reply.replace("\n\n", "\n");
    Reply::default().feed(reply.as_bytes()).unwrap().expect("a last line")
}

#[test]
fn an_answer_comes_in_any_portions() {
    let reply = REPLY.replace("\n\n", "\n");
    let whole = lines(&reply);
    for size in [1, 2, 7, 100] {
        let mut answer = Reply::default();
        let portions: Vec<&[u8]> = reply.as_bytes().chunks(size).collect();
        let (last, others) = portions.split_last().unwrap();
        for portion in others {
            assert!(answer.feed(portion).unwrap().is_none());
        }
        assert_eq!(answer.feed(last).unwrap().as_ref(), Some(&whole), "by {size}");
    }
}

#[test]
fn an_answer_without_end_is_given_up() {
    let mut answer = Reply::default();
    let portion = vec![b'x'; 1 << 20];
    let refused = (0..32).find(|_| answer.feed(&portion).is_err());
    assert_eq!(refused, Some(MAX_REPLY >> 20));
}

#[test]
fn sessions_are_read_and_others_left_out() {
    let sessions = parse_sessions(&lines(REPLY));
    assert_eq!(sessions.len(), 2);
    let [mesh, node] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!(mesh.name, "Mesh_10_0_0_2");
    assert_eq!((mesh.peer_type, mesh.as_number), (PeerType::Mesh, Some(65001)));
    assert_eq!((mesh.state.as_str(), mesh.since.as_str()), ("up", "00:26:03.001"));
    assert!(mesh.is_established());
    assert_eq!(node.peer_type, PeerType::Node);
    assert_eq!(node.address, "fd00::2".parse::<IpAddr>().unwrap());
    assert_eq!(node.info, "Active Socket: Connection refused");
    assert!(!node.is_established());
}

#[test]
fn names_are_those_of_the_original() {
    assert_eq!(protocol_name("Mesh", "10.0.0.2".parse().unwrap()), "Mesh_10_0_0_2");
    assert_eq!(protocol_name("Mesh", "fd00::2".parse().unwrap()), "Mesh_fd00__2");
}

#[test]
fn what_is_not_bird_is_refused() {
    for line in ["", "abc", "12", "0001xBIRD", " continues nothing", "\u{e9}\u{e9}\u{e9}"] {
        assert!(parse_line(line, &mut Vec::new()).is_err(), "{line:?} was accepted");
    }
}

#[tokio::test]
async fn nobody_listening_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let error = ask(&dir.path().join("bird.ctl"), "show status").await.unwrap_err();
    assert!(matches!(error, ControlError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_silent_peer_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bird.ctl");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let limit = Duration::from_millis(50);
    let error = ask_within(limit, &path, "show status").await.unwrap_err();
    assert!(matches!(error, ControlError::TimedOut(_)), "{error:?}");
}
