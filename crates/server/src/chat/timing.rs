//! The timing headers of an answer that is not streamed, as text-generation-inference names them.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// When the request came, and when it was valid and ready for the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) started: Instant,
    pub(super) validated: Instant,
}

impl Timing {
    /// Times in whole milliseconds, and the tokens they were spent on. What a request waited for the engine is a
    /// part of its `x-inference-time`: there is no `x-queue-time`, since the engine does not say when it begins.
    pub(super) fn add_headers(
        self,
        headers: &mut HeaderMap,
        prompt_tokens: usize,
        completion_tokens: usize,
    ) {
        let now = Instant::now();
        let inference = now.duration_since(self.validated);
        let per_token = inference / u32::try_from(completion_tokens.max(1)).unwrap_or(u32::MAX);
        let ms = |time: Duration| time.as_millis().to_string();
        let values = [
            ("x-total-time", ms(now.duration_since(self.started))),
            ("x-validation-time", ms(self.validated.duration_since(self.started))),
            ("x-inference-time", ms(inference)),
            ("x-time-per-token", ms(per_token)),
            ("x-prompt-tokens", prompt_tokens.to_string()),
            ("x-generated-tokens", completion_tokens.to_string()),
        ];
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}
