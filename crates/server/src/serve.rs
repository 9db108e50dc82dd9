//! The listener's life: accept until told to stop, then finish what is running within a grace period.

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

/// Serves until `shutdown` is ready, then accepts no more and waits for open connections, at most `grace`.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> std::io::Result<Drained> {
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        if stopping.send(()).is_err() {
            tracing::debug!("serving had ended before it was told to stop");
        }
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
