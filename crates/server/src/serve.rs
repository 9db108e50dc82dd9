//! The listener's life: accept until asked to stop, let what is running finish, then close what is open, all of it
//! within a grace period.
//!
//! Between being asked and having finished it still accepts: whoever asks then is told that this server is not
//! ready, and is not left with a connection that nobody takes.
//!
//! Not `axum::serve`, which bounds neither the times a client may take nor the number of connections.

use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// Pause after the system refused to give a connection, by lack of file descriptors for example: they come back
/// as connections end, and without a pause the loop would spin until then.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bounds on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Time for a request's head, from the connection's start or the end of the answer before. So a connection may
    /// not be idle for longer either.
    pub header_read_timeout: Duration,
    /// Time in which a client that is sent something must take a part of it, or its connection ends.
    pub write_timeout: Duration,
    /// Connections open at once, at least 1; more wait in the kernel's backlog.
    pub max_connections: usize,
}

impl Default for ConnectionLimits {
    /// 10 s: a head is one packet or two. 60 s: longer than networks lose their way for. 1024: eight times what a default engine admits, since most connections
    /// of a client's pool are idle.
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            max_connections: 1024,
        }
    }
}

/// When to stop.
#[derive(Debug)]
pub struct Stop<A, F> {
    /// Ready when the server is to end; by then no new work is taken ([`EngineHandle::drain`]).
    ///
    /// [`EngineHandle::drain`]: skeg_model::engine::EngineHandle::drain
    pub asked: A,
    /// Ready when nothing runs any more.
    pub finished: F,
    /// Time from being asked until connections are cut.
    pub grace: Duration,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every connection was finished.
    Complete,
    /// The grace period ended first; connections were cut.
    GraceExpired,
}

/// Serves until it is asked to stop and nothing runs any more, then accepts no more and waits for open
/// connections. None is open when it returns.
pub async fn serve<A, F>(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: Stop<A, F>,
) -> Drained
where
    A: Future<Output = ()>,
    F: Future<Output = ()>,
{
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    let mut accepting = Box::pin(accept(listener, router, limits, &graceful, &mut connections));
    tokio::select! {
        never = &mut accepting => match never {},
        () = stop.asked => {}
    }
    let mut grace = pin!(tokio::time::sleep(stop.grace));
    let finished = tokio::select! {
        biased;
        never = &mut accepting => match never {},
        () = stop.finished => true,
        () = &mut grace => false,
    };
    // And with it the listener: nobody comes any more.
    drop(accepting);
    let complete = finished
        && tokio::select! {
            biased;
            () = graceful.shutdown() => true,
            () = &mut grace => false,
        };
    connections.shutdown().await;
    if complete { Drained::Complete } else { Drained::GraceExpired }
}

/// Gives each connection a task of its own, never more at once than the limit.
async fn accept(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
) -> Infallible {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_read_timeout);
    loop {
        while connections.try_join_next().is_some() {}
        while connections.len() >= limits.max_connections.max(1) {
            connections.join_next().await;
        }
        let mut stream = TimeoutStream::new(next_connection(&listener).await);
        stream.set_write_timeout(Some(limits.write_timeout));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended before its time");
            }
        });
    }
}

async fn next_connection(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A token leaves when it is there, and does not wait for the next one to fill a packet.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY could not be set");
                }
                return stream;
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client was gone before it was accepted: that says nothing about the next one.
fn is_of_the_client(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
