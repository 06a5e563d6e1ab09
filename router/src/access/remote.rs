//! Where a request comes from: the other end of its connection. No header counts, since anybody may
//! say anything there.

use std::io;
use std::net::SocketAddr;

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::serve::{IncomingStream, Listener};

/// A listener that tells the router where connections come from.
pub struct Door<L>(pub L);

impl<L: Listener<Addr = SocketAddr>> Listener for Door<L> {
    type Io = L::Io;
    type Addr = SocketAddr;

    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send {
        self.0.accept()
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// The other end of a connection, as the listener has it.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

impl<L: Listener<Addr = SocketAddr>> Connected<IncomingStream<'_, Door<L>>> for Remote {
    fn connect_info(stream: IncomingStream<'_, Door<L>>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// The other end of a request's connection; none where there is no connection.
pub(crate) fn remote_of(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<Remote>>().map(|ConnectInfo(Remote(addr))| *addr)
}
