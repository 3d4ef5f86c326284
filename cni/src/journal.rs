//! A line in the journal for every pod that is connected or disconnected: the runtime says nothing of
//! what succeeded, and its own output goes elsewhere.

use std::os::unix::net::UnixDatagram;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Says it, if there is a journal, and without waiting for it.
pub(crate) fn say(priority: Priority, message: &str, container: &str, ifname: &str) {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    if socket.set_nonblocking(true).is_ok() {
        let _ = socket.send_to(datagram(priority, message, container, ifname).as_bytes(), SOCKET);
    }
}

/// As syslog(3) has them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    Error = 3,
    Info = 6,
}

/// The journal's native protocol. A value must not have lines: what follows would be a field.
fn datagram(priority: Priority, message: &str, container: &str, ifname: &str) -> String {
    let line = |text: &str| text.replace('\n', " ");
    format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER=calico-cni\nMESSAGE={}\nCALICO_CONTAINER={}\nCALICO_INTERFACE={}\n",
        priority as u8,
        line(message),
        line(container),
        line(ifname)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_forge_a_field() {
        let sent = datagram(Priority::Info, "a\nPRIORITY=0", "c1", "eth0");
        let expected = "PRIORITY=6\nSYSLOG_IDENTIFIER=calico-cni\nMESSAGE=a PRIORITY=0\n\
                        CALICO_CONTAINER=c1\nCALICO_INTERFACE=eth0\n";
        assert_eq!(sent, expected);
    }
}
