//! As much of S3 on loopback as a store of vectors needs: objects with tags, conditional writes, lists.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const CURRENT: &str = "fleet/vectors/CURRENT";

#[derive(Debug, Default)]
struct Objects {
    /// Bytes and tag, by key.
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    num_requests: u64,
    /// Whether another publisher comes just before the next write of `CURRENT`.
    is_stealing: bool,
    is_stopping: bool,
}

/// A bucket behind HTTP, gone when it is dropped.
pub(crate) struct BucketServer {
    address: SocketAddr,
    objects: Arc<Mutex<Objects>>,
    thread: Option<JoinHandle<()>>,
}

impl BucketServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let objects: Arc<Mutex<Objects>> = Arc::default();
        let shared = Arc::clone(&objects);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().is_stopping {
                    return;
                }
                // A client that hangs up has had what it wanted.
                answer(stream.unwrap(), &shared).ok();
            }
        });
        Self { address, objects, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn num_requests(&self) -> u64 {
        self.objects.lock().unwrap().num_requests
    }

    /// Another publisher replaces `CURRENT` just before the next write of it.
    pub(crate) fn steal_next_current(&self) {
        self.objects.lock().unwrap().is_stealing = true;
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        self.objects.lock().unwrap().is_stopping = true;
        TcpStream::connect(self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let num_bytes = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; num_bytes];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    Ok(Request { method, path, query: query.replace("%2F", "/"), headers, body })
}

fn answer(mut stream: TcpStream, objects: &Mutex<Objects>) -> std::io::Result<()> {
    let request = read(&stream)?;
    let mut objects = objects.lock().unwrap();
    objects.num_requests += 1;
    let (status, headers, body) = match request.method.as_str() {
        "PUT" => objects.put(&request),
        "GET" if request.query.contains("list-type=2") => objects.list(&request),
        "GET" => objects.get(&request),
        _ => (501, String::new(), Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Answer\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

type Answer = (u16, String, Vec<u8>);

impl Objects {
    fn insert(&mut self, key: &str, body: Vec<u8>) -> u64 {
        let tag = self.objects.values().map(|(_, tag)| tag + 1).max().unwrap_or(1);
        self.objects.insert(key.to_owned(), (body, tag));
        tag
    }

    fn put(&mut self, request: &Request) -> Answer {
        if request.path == CURRENT && std::mem::take(&mut self.is_stealing) {
            let there = String::from_utf8(self.objects[CURRENT].0.clone()).unwrap();
            self.insert(CURRENT, there.replace(": 3,", ": 4,").into_bytes());
        }
        let there = self.objects.get(&request.path).map(|(_, tag)| format!("\"{tag}\""));
        let is_refused =
            match (request.headers.get("if-match"), request.headers.get("if-none-match")) {
                (Some(tag), _) => there.as_ref() != Some(tag),
                (None, Some(_)) => there.is_some(),
                (None, None) => false,
            };
        if is_refused {
            return (
                412,
                String::new(),
                b"<Error><Code>PreconditionFailed</Code></Error>".to_vec(),
            );
        }
        let tag = self.insert(&request.path, request.body.clone());
        (200, format!("ETag: \"{tag}\"\r\n"), Vec::new())
    }

    fn get(&self, request: &Request) -> Answer {
        let Some((body, tag)) = self.objects.get(&request.path) else {
            return (404, String::new(), b"<Error><Code>NoSuchKey</Code></Error>".to_vec());
        };
        let headers = format!("ETag: \"{tag}\"\r\nLast-Modified: {DATE}\r\n");
        (200, headers, body.clone())
    }

    fn list(&self, request: &Request) -> Answer {
        let prefix = request.query.split('&').find_map(|part| part.strip_prefix("prefix="));
        let keys = self.objects.iter().filter(|(key, _)| key.starts_with(prefix.unwrap_or("")));
        let contents = keys.map(|(key, (body, tag))| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
                 <ETag>\"{tag}\"</ETag><Size>{}</Size></Contents>",
                body.len()
            )
        });
        let contents = contents.collect::<String>();
        let body = format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        );
        (200, String::new(), body.into_bytes())
    }
}
