//! The listener's life: accept until asked to stop, let what is running finish, then close what is open, all of it
//! within a grace period.
//!
//! Between being asked and having finished it still accepts: whoever asks then is told that this server is not
//! ready, and is not left with a connection that nobody takes.

use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every connection was finished.
    Complete,
    /// The grace period ended first; connections were cut.
    GraceExpired,
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

/// Serves until it is asked to stop and nothing runs any more, then accepts no more and waits for open connections.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve<A, F>(
    listener: TcpListener,
    router: Router,
    stop: Stop<A, F>,
) -> std::io::Result<Drained>
where
    A: Future<Output = ()> + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let Stop { asked, finished, grace } = stop;
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        asked.await;
        if stopping.send(()).is_err() {
            tracing::debug!("serving had ended before it was told to stop");
        }
        finished.await;
    });
    let grace_expired = async {
        // An error means that the server has ended by itself; the other branch has its result.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = server.into_future() => served.map(|()| Drained::Complete),
        () = grace_expired => Ok(Drained::GraceExpired),
    }
}
