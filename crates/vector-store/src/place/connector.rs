//! The HTTP of `object_store` over ureq, the program's blocking client. So there is one TLS stack, the platform's
//! certificates, and no second client with its own; requests of a place are made one after the other anyway.

use std::io::Read as _;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use object_store::ClientConfigKey;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use ureq::Agent;
use ureq::http::Response;

/// Time to find a host and reach it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time from a request to the head of its answer, sending not counted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for sending or taking a body: a gibibyte at ten megabytes a second.
const BODY_TIMEOUT: Duration = Duration::from_secs(100);
/// What is taken of a body at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Makes clients of ureq.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(allow_http.as_deref() != Some("true"))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_body(Some(BODY_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_recv_body(Some(BODY_TIMEOUT));
        #[cfg(feature = "object-store-tls")]
        let config = config.tls_config(
            ureq::tls::TlsConfig::builder()
                .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                .build(),
        );
        Ok(HttpClient::new(Client { agent: config.build().into() }))
    }
}

#[derive(Debug)]
struct Client {
    agent: Agent,
}

#[async_trait]
impl HttpService for Client {
    /// Blocks: the runtime that waits for it has nothing else to do.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        // ureq sends no body with a method that has none, and says a length of 0 with those that have one.
        let has_body = !body.is_empty() || matches!(parts.method.as_str(), "PUT" | "POST");
        let response = if has_body {
            self.agent.run(ureq::http::Request::from_parts(parts, &body[..]))
        } else {
            self.agent.run(ureq::http::Request::from_parts(parts, ()))
        };
        let (parts, body) = response.map_err(failure)?.into_parts();
        let reader = body.into_reader();
        let chunks = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            let mut chunk = vec![0; CHUNK_BYTES];
            match reader.read(&mut chunk) {
                Ok(0) => None,
                Ok(num_bytes) => {
                    chunk.truncate(num_bytes);
                    Some((Ok(Frame::data(Bytes::from(chunk))), Some(reader)))
                }
                Err(error) => Some((Err(HttpError::new(HttpErrorKind::Interrupted, error)), None)),
            }
        });
        Ok(Response::from_parts(parts, HttpResponseBody::new(StreamBody::new(chunks))))
    }
}

/// What `object_store` makes of a failure: whether it tries again.
fn failure(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            HttpErrorKind::Connect
        }
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            HttpErrorKind::Connect
        }
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
