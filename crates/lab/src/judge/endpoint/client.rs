//! One request to an endpoint, and when it is tried again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ureq::{Agent, Body};

use super::options::EndpointOptions;
use crate::error::Result;

/// The first wait before a request is tried again; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that an endpoint did not ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The longest wait that `Retry-After` is granted.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A completion of a few tokens is far below.
const MAX_BODY_BYTES: u64 = 1 << 20;
/// How often a wait looks whether the work is to stop.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// How a judge waits before it tries a request again; closures over the duration will do.
pub trait Wait: Send + Sync {
    /// Waits so long, or until `stop` is set.
    fn wait(&self, duration: Duration, stop: &AtomicBool);
}

impl<F: Fn(Duration) + Send + Sync> Wait for F {
    fn wait(&self, duration: Duration, _stop: &AtomicBool) {
        self(duration);
    }
}

/// Sleeps, in slices.
struct Sleep;

impl Wait for Sleep {
    fn wait(&self, duration: Duration, stop: &AtomicBool) {
        let mut left = duration;
        while !left.is_zero() && !stop.load(Ordering::Relaxed) {
            let slice = left.min(WAIT_SLICE);
            std::thread::sleep(slice);
            left -= slice;
        }
    }
}

/// Why an item got no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It lies with the item: others may go through.
    Item(String),
    /// It lies with the endpoint.
    Endpoint(String),
    /// The work is to stop.
    Stopped,
}

/// What came of one attempt that gave no answer.
struct Problem {
    is_timeout: bool,
    /// What the endpoint did, in words that follow its name; never a text that was sent or received.
    reason: String,
    is_of_item: bool,
    may_pass: bool,
    retry_after: Option<Duration>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// Why a request got no answer. No text that was sent or received, but for an error's code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// The endpoint said no.
    Refused {
        /// With what status.
        status: StatusCode,
        /// `error.code` of OpenAI's shape, where it is a plain word.
        code: Option<String>,
    },
    /// It could not be asked, in words that follow its name.
    Failed(String),
}

/// Asks one endpoint.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    key: Option<HeaderValue>,
    timeout: Duration,
    max_retries: u32,
    wait: Arc<dyn Wait>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// No redirect is followed: the key and the texts go to the address that was given, and past no proxy where that is
    /// this machine.
    pub(super) fn new(options: &EndpointOptions) -> Result<Self> {
        Self::at(options, "chat/completions")
    }

    /// As [`Self::new`], with another path after the base address.
    pub(crate) fn at(options: &EndpointOptions, path: &str) -> Result<Self> {
        let (base, is_local) = options.checked_url()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(options.timeout))
            .max_idle_connections(options.concurrency)
            .max_idle_connections_per_host(options.concurrency);
        let config = if is_local { config.proxy(None) } else { config };
        #[cfg(feature = "tls")]
        let config = config.tls_config(
            ureq::tls::TlsConfig::builder()
                .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                .build(),
        );
        Ok(Self {
            agent: config.build().into(),
            url: format!("{base}/{path}"),
            key: options.api_key.as_ref().map(|key| key.header().clone()),
            timeout: options.timeout,
            max_retries: options.max_retries,
            wait: Arc::new(Sleep),
        })
    }

    pub(super) fn set_wait(&mut self, wait: Arc<dyn Wait>) {
        self.wait = wait;
    }

    /// What `read` makes of the answer to `body`; `expected` says what it looks for.
    pub(super) fn ask<T>(
        &self,
        body: &Value,
        read: impl Fn(&str) -> Option<T>,
        expected: &str,
        stop: &AtomicBool,
    ) -> Result<T, Failure> {
        let mut num_retries = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = self.post(body).and_then(|text| {
                read(&text).ok_or_else(|| {
                    Problem::unreadable(format!("gave an answer without {expected}"))
                })
            });
            let problem = match answer {
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            if num_retries == self.max_retries || !problem.may_pass {
                return Err(problem.after(num_retries));
            }
            self.wait.wait(problem.delay(num_retries), stop);
            num_retries += 1;
        }
        Err(Failure::Stopped)
    }

    /// The address that is asked, with its path.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The body of the answer to one request, which takes no longer than `within` and is not tried again.
    ///
    /// # Errors
    /// What the endpoint did, in words that follow its name, and whether the time was up.
    pub(crate) fn ask_once(
        &self,
        body: &Value,
        within: Duration,
    ) -> Result<String, (String, bool)> {
        self.exchange(body, within).map_err(|problem| (problem.reason, problem.is_timeout))
    }

    /// The text of the completion.
    fn post(&self, body: &Value) -> Result<String, Problem> {
        completion(&self.exchange(body, self.timeout)?).ok_or_else(|| {
            Problem::unreadable("gave something else than a chat completion".to_owned())
        })
    }

    /// The answer to one request with further headers, which is not tried again.
    pub(crate) fn reply(&self, body: &Value, headers: &HeaderMap) -> Result<Reply, NoReply> {
        let failed = |problem: Problem| NoReply::Failed(problem.reason);
        let mut response = self.send(body, headers, self.timeout).map_err(failed)?;
        let text = self.text(&mut response);
        if response.status() != StatusCode::OK {
            // A refusal whose body does not arrive is one all the same.
            let code = text.ok().and_then(|text| error_code(&text));
            return Err(NoReply::Refused { status: response.status(), code });
        }
        let text = text.map_err(failed)?;
        Ok(Reply { headers: response.into_parts().0.headers, text })
    }

    /// The body of the answer.
    fn exchange(&self, body: &Value, within: Duration) -> Result<String, Problem> {
        let mut response = self.send(body, &HeaderMap::new(), within)?;
        if response.status() != StatusCode::OK {
            return Err(Problem::refused(response.status(), response.headers()));
        }
        self.text(&mut response)
    }

    fn send(
        &self,
        body: &Value,
        headers: &HeaderMap,
        within: Duration,
    ) -> Result<Response<Body>, Problem> {
        let request = self.agent.post(&self.url).config().timeout_global(Some(within)).build();
        let mut request = request.header(header::ACCEPT, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send_json(body).map_err(|error| Problem::of(&error, self.timeout))
    }

    fn text(&self, response: &mut Response<Body>) -> Result<String, Problem> {
        let text = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_string();
        text.map_err(|error| Problem::of(&error, self.timeout))
    }
}

/// The code of an error, if it is one word in lower case: nothing that a text could be.
fn error_code(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let code = body["error"]["code"].as_str()?;
    let is_word = code.len() <= 64 && code.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    is_word.then(|| code.to_owned())
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Option<Message>,
    /// In place of a message in the older form.
    text: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

fn completion(body: &str) -> Option<String> {
    let completion: Completion = serde_json::from_str(body).ok()?;
    let choice = completion.choices.into_iter().next()?;
    choice.message.and_then(|message| message.content).or(choice.text)
}

impl Problem {
    fn unreadable(reason: String) -> Self {
        Self { is_timeout: false, reason, is_of_item: true, may_pass: true, retry_after: None }
    }

    /// A failed exchange.
    fn of(error: &ureq::Error, timeout: Duration) -> Self {
        use ureq::Error as E;
        let (reason, may_pass) = match error {
            E::Timeout(_) => (format!("did not answer within {} s", timeout.as_secs_f64()), true),
            E::Io(error) => (format!("cannot be reached: {}", error.kind()), true),
            E::HostNotFound => ("cannot be reached: no such host".to_owned(), true),
            E::ConnectionFailed | E::Protocol(_) => (format!("cannot be reached: {error}"), true),
            other => (format!("cannot be asked: {other}"), false),
        };
        let is_timeout = matches!(error, E::Timeout(_));
        Self { is_timeout, reason, is_of_item: false, may_pass, retry_after: None }
    }

    fn refused(status: StatusCode, headers: &HeaderMap) -> Self {
        let code = status.as_u16();
        let may_pass = matches!(code, 408 | 409 | 429) || status.is_server_error();
        // One text may be too long or be refused where others are not.
        let is_of_item = matches!(code, 400 | 413 | 422);
        let meaning = match code {
            400 | 413 | 422 => {
                ": it does not take the request; is the model's name right, does the text fit?"
            }
            401 | 403 => ": it does not accept the key, or wants one",
            404 => ": no such path or model; the address usually ends in /v1",
            300..400 => ": redirects are not followed; give the address they lead to",
            _ => "",
        };
        let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Self {
            is_timeout: false,
            reason: format!("answered {status}{meaning}"),
            is_of_item,
            may_pass,
            retry_after: retry_after.and_then(seconds),
        }
    }

    /// The failure after the last attempt.
    fn after(self, num_retries: u32) -> Failure {
        let times = match num_retries {
            0 => String::new(),
            _ => format!(" (tried {} times)", num_retries + 1),
        };
        let reason = format!("{}{times}", self.reason);
        if self.is_of_item { Failure::Item(reason) } else { Failure::Endpoint(reason) }
    }

    /// Exponential backoff of which a random part up to a half is cut, so that waiting requests do not come back together;
    /// at least what the endpoint asks for, up to [`MAX_RETRY_AFTER`].
    fn delay(&self, num_retries: u32) -> Duration {
        let full = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(num_retries)).min(MAX_WAIT);
        // Each state has keys of its own.
        let random = RandomState::new().hash_one(num_retries) >> 32;
        let jittered = full.mul_f64(1.0 - random as f64 / f64::from(u32::MAX) / 2.0);
        jittered.max(self.retry_after.unwrap_or_default())
    }
}

/// `Retry-After` in seconds, bounded; its other form, a date, is not read: the backoff serves.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    Duration::try_from_secs_f64(seconds.min(MAX_RETRY_AFTER.as_secs_f64())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(retry_after: Option<Duration>) -> Problem {
        let reason = String::new();
        Problem { is_timeout: false, reason, is_of_item: false, may_pass: true, retry_after }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_vary_by_half() {
        for (num_retries, full) in [(0, 0.5), (1, 1.0), (4, 8.0), (9, 30.0), (40, 30.0)] {
            let waits: Vec<f64> =
                (0..50).map(|_| problem(None).delay(num_retries).as_secs_f64()).collect();
            assert!(waits.iter().all(|&wait| wait > full * 0.499 && wait <= full), "{waits:?}");
            assert!(waits.iter().any(|&wait| (wait - waits[0]).abs() > 1e-6), "no jitter");
        }
    }

    #[test]
    fn retry_after_is_granted_up_to_a_bound() {
        assert_eq!(problem(seconds("7")).delay(0), Duration::from_secs(7));
        assert_eq!(seconds("1e30"), Some(MAX_RETRY_AFTER));
        assert_eq!(seconds("86400"), Some(MAX_RETRY_AFTER));
        for bad in ["-1", "NaN", "soon", "Fri, 31 Dec 1999 23:59:59 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_code_is_a_word_and_never_a_text() {
        let body = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"a text"}}}}"#);
        assert_eq!(error_code(&body("auto_unavailable")).as_deref(), Some("auto_unavailable"));
        for other in ["A text.", "a text", &"a".repeat(65)] {
            assert_eq!(error_code(&body(other)), None, "{other}");
        }
        assert_eq!(error_code("<html>"), None);
    }

    #[test]
    fn completions_of_both_forms_are_read_and_nothing_else() {
        let chat = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"safe"}}]}"#;
        let plain = r#"{"choices":[{"text":"safe"}]}"#;
        for body in [chat, plain] {
            assert_eq!(completion(body).as_deref(), Some("safe"));
        }
        let empty = r#"{"choices":[{"message":{"content":null}}]}"#;
        for body in ["", "<html>", r#"{"choices":[]}"#, r#"{"error":{}}"#, empty] {
            assert_eq!(completion(body), None, "{body}");
        }
    }
}
