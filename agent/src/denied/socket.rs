//! The netlink socket that the kernel's packet log is read from.

use std::fmt;
use std::future::poll_fn;
use std::io;

use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use super::message;

/// The kernel drops what does not fit; some thousand packets do.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The kernel collects packets up to a page (`NFULNL_NLBUFSIZ_DEFAULT`), and ours are small.
const DATAGRAM: usize = 1 << 16;

/// A socket that is the reader of a group.
pub(super) struct Socket {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// Becomes the reader of a group, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `EPERM` when another program is, or without `CAP_NET_ADMIN`; `EINVAL` where the kernel has no
    /// packet log.
    pub(super) async fn open(group: u16) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        if let Err(error) = setsockopt(inner, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
            // Not fatal: a small buffer loses packets sooner, and that is told.
            tracing::debug!(%error, "cannot enlarge the receive buffer");
        }
        let mut socket = Self { socket, buffer: Vec::with_capacity(DATAGRAM) };
        for request in message::subscribe(group) {
            socket.socket.socket_ref().send_to(&request, &SocketAddr::new(0, 0), 0)?;
            loop {
                let datagram = match socket.receive().await {
                    // Packets come from the first answer on, perhaps too many of them.
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
                    other => other?,
                };
                // Packets may come before the answer to the second request.
                if let Some(answer) = message::answer(datagram) {
                    answer?;
                    break;
                }
            }
        }
        Ok(socket)
    }

    /// The next datagram. Cancel-safe. `ENOBUFS` says that some were lost.
    pub(super) async fn receive(&mut self) -> io::Result<&[u8]> {
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        poll_fn(|context| {
            buffer.clear();
            socket.poll_recv(context, buffer)
        })
        .await?;
        Ok(&self.buffer)
    }
}
