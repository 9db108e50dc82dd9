//! A server on a port of its own, and a client that writes HTTP by hand.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use skeg_server::{ConnectionLimits, Drained, Stop};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::{Server, Setup};

/// A server that listens.
pub(crate) struct Listening {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) serving: JoinHandle<Drained>,
}

impl Listening {
    /// A server that waits a minute for what runs when it is asked to stop.
    pub(crate) async fn start(setup: Setup, limits: ConnectionLimits) -> Self {
        Self::with_grace(setup, limits, Duration::from_secs(60)).await
    }

    pub(crate) async fn with_grace(
        setup: Setup,
        limits: ConnectionLimits,
        grace: Duration,
    ) -> Self {
        let server = setup.start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (engine, mut ended) = (server.engine.clone(), server.engine_ended.clone());
        let asked = async move {
            stopped.await.unwrap();
            engine.drain();
        };
        let finished = async move {
            ended.changed().await.unwrap_err();
        };
        let stop_when = Stop { asked, finished, grace };
        let serving = skeg_server::serve(listener, server.router.clone(), limits, stop_when);
        let serving = tokio::spawn(serving);
        Self { server, address, stop: Some(stop), serving }
    }

    /// Asks it to stop, and waits until it drains.
    pub(crate) async fn ask_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        while self.server.engine.is_accepting() {
            tokio::task::yield_now().await;
        }
    }

    /// How serving ended.
    pub(crate) async fn end(self) -> Drained {
        self.serving.await.unwrap()
    }
}

/// One connection.
pub(crate) struct Client(BufReader<TcpStream>);

/// One response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self(BufReader::new(TcpStream::connect(address).await?)))
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.write(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        self.response().await
    }

    pub(crate) async fn send_chat(&mut self, body: &Value) {
        let body = body.to_string();
        self.write(&format!("{}{body}", chat_head(body.len()))).await;
    }

    /// Reads one response whose length is known.
    pub(crate) async fn response(&mut self) -> Response {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).await.unwrap() > 0, "cut after {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let field = |name: &str| head.split(name).nth(1)?.split_whitespace().next()?.parse().ok();
        let length: usize = field("\r\ncontent-length:").unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        let status = field("http/1.1 ").unwrap().try_into().unwrap();
        Response { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Whether a byte of the server's has come.
    pub(crate) fn has_something_to_read(&self) -> bool {
        let mut byte = [0];
        let read = self.0.get_ref().try_read(&mut byte);
        assert!(!matches!(read, Ok(0)), "the server closed the connection");
        read.is_ok()
    }

    /// All that comes until the server closes the connection.
    pub(crate) async fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

/// The head of a chat request with a body of `length` bytes.
pub(crate) fn chat_head(length: usize) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}
