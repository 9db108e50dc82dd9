//! One streamed request, with the time of each of its tokens.

use std::io::Read;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderName, HeaderValue};

use super::prompt::RequestShape;
use super::sse::EventParser;

/// Bytes of a refusal's body that are kept to show: enough for an error object.
const MAX_REASON_BYTES: u64 = 300;
/// Bytes taken from the connection at once.
const READ_BYTES: usize = 16 * 1024;

/// Sends requests of one shape to one address.
#[derive(Debug)]
pub(in crate::cli::bench) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    shape: RequestShape,
}

/// A complete answer. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Answer {
    /// From when the request was due to the first text; `None` where no text came.
    pub(super) time_to_first_token: Option<f64>,
    /// Between chunks of text that follow each other.
    pub(super) inter_token: Vec<f64>,
    /// From when the request was due to its end.
    pub(super) end_to_end: f64,
    pub(super) num_chunks: usize,
    /// What the server says.
    pub(super) usage: Option<Usage>,
}

/// How many tokens a server says it read and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
}

/// A request that got no complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::bench) struct Failure {
    /// The HTTP status, or where it failed: `timeout`, `connection`, `stream`.
    pub(in crate::cli::bench) kind: String,
    pub(in crate::cli::bench) reason: String,
}

/// What the program reads of a chunk, in either interface.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Delta,
    text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<String>,
}

impl Client {
    /// No proxy and no redirect: what is measured is the address that was given. `max_connections` is how
    /// many are kept open between requests.
    pub(in crate::cli::bench) fn new(
        endpoint: String,
        headers: Vec<(HeaderName, HeaderValue)>,
        shape: RequestShape,
        timeout: Duration,
        max_connections: usize,
    ) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout))
            .max_idle_connections(max_connections)
            .max_idle_connections_per_host(max_connections)
            .build();
        Self { agent: agent.into(), endpoint, headers, shape }
    }

    /// Sends request `index` and reads its answer to the end. Latencies count from `due`.
    pub(super) fn send(&self, index: u64, due: Instant) -> Result<Answer, Failure> {
        let mut request = self.agent.post(&self.endpoint).header("accept", "text/event-stream");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response =
            request.send_json(self.shape.body(index)).map_err(|error| Failure::of(&error))?;
        let status = response.status().as_u16();
        let body = response.body_mut().as_reader();
        if status == 200 { read_answer(body, due) } else { Err(Failure::refused(status, body)) }
    }
}

/// Reads a stream of chunks up to its end.
fn read_answer(mut body: impl Read, due: Instant) -> Result<Answer, Failure> {
    let mut parser = EventParser::default();
    let mut answer = Answer::default();
    let mut last_text: Option<Instant> = None;
    let mut is_done = false;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let num_read = body.read(&mut buffer).map_err(|error| Failure::of(&error.into()))?;
        if num_read == 0 {
            return if is_done {
                Ok(answer)
            } else {
                Err(Failure::stream(&"it ended without [DONE]"))
            };
        }
        let now = Instant::now();
        for event in parser.push(&buffer[..num_read]).map_err(|error| Failure::stream(&error))? {
            answer.end_to_end = now.duration_since(due).as_secs_f64();
            if event == "[DONE]" {
                is_done = true;
                continue;
            }
            let chunk: Chunk =
                serde_json::from_str(&event).map_err(|error| Failure::stream(&error))?;
            if let Some(error) = chunk.error {
                return Err(Failure::stream(&error));
            }
            answer.usage = chunk.usage.or(answer.usage);
            if chunk.choices.iter().any(Choice::has_text) {
                answer.num_chunks += 1;
                match last_text.replace(now) {
                    Some(before) => {
                        answer.inter_token.push(now.duration_since(before).as_secs_f64());
                    }
                    None => answer.time_to_first_token = Some(answer.end_to_end),
                }
            }
        }
    }
}

impl Choice {
    fn has_text(&self) -> bool {
        [&self.delta.content, &self.text].into_iter().flatten().any(|text| !text.is_empty())
    }
}

impl Answer {
    /// Generated tokens: the server's count, else one a chunk.
    pub(super) fn output_tokens(&self) -> usize {
        self.usage.map_or(self.num_chunks, |usage| usage.completion_tokens)
    }
}

impl Failure {
    /// A failed exchange.
    fn of(error: &ureq::Error) -> Self {
        let kind = if matches!(error, ureq::Error::Timeout(_)) { "timeout" } else { "connection" };
        Self { kind: kind.to_owned(), reason: error.to_string() }
    }

    fn refused(status: u16, body: impl Read) -> Self {
        let mut reason = Vec::new();
        if let Err(error) = body.take(MAX_REASON_BYTES).read_to_end(&mut reason) {
            reason = error.to_string().into_bytes();
        }
        Self { kind: status.to_string(), reason: String::from_utf8_lossy(&reason).into_owned() }
    }

    fn stream(reason: &impl ToString) -> Self {
        Self { kind: "stream".to_owned(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &str) -> Result<Answer, Failure> {
        read_answer(stream.as_bytes(), Instant::now())
    }

    #[test]
    fn a_chunk_with_text_is_a_token_and_the_servers_count_goes_before() {
        let role =
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}"#;
        let text = r#"data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
        let end = r#"data: {"choices":[{"delta":{},"finish_reason":"length"}]}"#;
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
        let stream = [role, text, text, text, end, "data: [DONE]", ""].join("\n\n");
        let answer = read(&stream).unwrap();
        assert_eq!((answer.num_chunks, answer.output_tokens()), (3, 3));
        assert!(answer.inter_token.len() == 2 && answer.time_to_first_token.is_some());
        let answer = read(&[text, end, usage, "data: [DONE]", ""].join("\n\n")).unwrap();
        assert_eq!(answer.output_tokens(), 5);
        assert_eq!(answer.usage.unwrap().prompt_tokens, 7);
    }

    #[test]
    fn plain_completions_are_read_as_well() {
        let text = r#"data: {"choices":[{"text":"ab","index":0}]}"#;
        assert_eq!(read(&format!("{text}\r\n\r\ndata: [DONE]\r\n\r\n")).unwrap().num_chunks, 1);
    }

    #[test]
    fn an_answer_that_breaks_off_or_says_so_is_a_failure() {
        let text = "data: {\"choices\":[{\"text\":\"ab\"}]}\n\n";
        assert_eq!(read(text).unwrap_err().kind, "stream");
        let error = read(&format!("{text}data: {{\"error\":{{\"code\":\"engine\"}}}}\n\n"));
        assert!(error.unwrap_err().reason.contains("engine"));
        assert_eq!(read("<html>\n\n").unwrap_err().kind, "stream");
        assert_eq!(read("data: {oops\n\n").unwrap_err().kind, "stream");
    }
}
