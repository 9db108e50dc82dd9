//! A classifier's endpoint on loopback: it answers by script and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// A status line's end and a body.
pub(crate) type Reply = (&'static str, String);

/// A moderation with these scores, which flags nothing.
pub(crate) fn scores(scores: &Value) -> Reply {
    let result = json!({"flagged": false, "category_scores": scores});
    ("200 OK", json!({"id": "modr-1", "results": [result]}).to_string())
}

/// What answers the n-th request, from 0.
type Script = dyn Fn(usize) -> Reply + Send + Sync;

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Value>>,
    heads: Mutex<String>,
    num_under_way: AtomicUsize,
    max_under_way: AtomicUsize,
    is_closed: AtomicBool,
}

/// The endpoint; it ends when it is dropped.
pub(crate) struct Endpoint {
    address: SocketAddr,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(crate) fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, script): (_, Arc<Script>) = (Arc::new(Seen::default()), Arc::new(script));
        let shared = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_closed.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, script) = (Arc::clone(&shared), Arc::clone(&script));
                std::thread::spawn(move || answer(&stream.unwrap(), &shared, &*script));
            }
        });
        Self { address, seen, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The bodies of the requests so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Request lines and headers so far.
    pub(crate) fn heads(&self) -> String {
        self.seen.heads.lock().unwrap().clone()
    }

    /// The most requests that were under way at one moment.
    pub(crate) fn max_under_way(&self) -> usize {
        self.seen.max_under_way.load(Ordering::SeqCst)
    }

    /// Waits until this many requests have come.
    pub(crate) async fn until_asked(&self, times: usize) {
        while self.seen.requests.lock().unwrap().len() < times {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.seen.is_closed.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().map(JoinHandle::join);
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: &TcpStream, seen: &Seen, script: &Script) {
    let under_way = seen.num_under_way.fetch_add(1, Ordering::SeqCst) + 1;
    seen.max_under_way.fetch_max(under_way, Ordering::SeqCst);
    let request = read(stream, seen);
    let number = {
        let mut requests = seen.requests.lock().unwrap();
        requests.push(request);
        requests.len() - 1
    };
    let (status, body) = script(number);
    // Before the answer, after which the client may send the next one.
    seen.num_under_way.fetch_sub(1, Ordering::SeqCst);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // A client that did not wait is gone.
    drop(stream.write_all((head + &body).as_bytes()));
}

fn read(stream: &TcpStream, seen: &Seen) -> Value {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "cut after {head:?}");
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    seen.heads.lock().unwrap().push_str(&head);
    serde_json::from_slice(&body).unwrap()
}
