//! An endpoint on loopback that answers by script and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// Header lines in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Value,
}

impl Request {
    /// The last message's text.
    pub(crate) fn last_text(&self) -> &str {
        let messages = self.body["messages"].as_array().unwrap();
        messages.last().unwrap()["content"].as_str().unwrap()
    }
}

/// A status line's end, further header lines, and a body.
pub(crate) type Reply = (&'static str, &'static str, String);

/// A completion with that text.
pub(crate) fn says(text: &str) -> Reply {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}});
    ("200 OK", "", json!({"choices": [choice]}).to_string())
}

/// What answers the n-th request, from 0.
type Script = dyn Fn(usize, &Request) -> Reply + Send + Sync;

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
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
    pub(crate) fn start(script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
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

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The most requests that were under way at one moment.
    pub(crate) fn max_under_way(&self) -> usize {
        self.seen.max_under_way.load(Ordering::SeqCst)
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
    let request = read(stream);
    let number = {
        let mut requests = seen.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len() - 1
    };
    let (status, headers, body) = script(number, &request);
    // Before the answer, after which the client may send the next one.
    seen.num_under_way.fetch_sub(1, Ordering::SeqCst);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let path = lines.remove(0).split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Request { path, headers, body: serde_json::from_slice(&body).unwrap() }
}

/// An address at which nothing listens.
pub(crate) fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}
