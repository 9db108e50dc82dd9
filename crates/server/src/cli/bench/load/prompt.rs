//! Synthetic requests.

use serde_json::{Map, Value, json};

use super::super::draw::Draw;
use super::target::Api;

const NUM_WORDS: u32 = 32;
/// Short common words; most tokenizers have each of them as one token.
const WORDS: [&str; NUM_WORDS as usize] = [
    "time", "day", "man", "world", "life", "hand", "part", "place", "week", "case", "point",
    "home", "water", "room", "area", "story", "fact", "month", "lot", "right", "study", "book",
    "eye", "job", "word", "side", "kind", "head", "house", "page", "night", "line",
];

/// What each request asks for.
#[derive(Debug, Clone)]
pub(in crate::cli::bench) struct RequestShape {
    pub(in crate::cli::bench) api: Api,
    pub(in crate::cli::bench) model: String,
    /// Words of the prompt, before any chat template.
    pub(in crate::cli::bench) prompt_words: usize,
    pub(in crate::cli::bench) max_tokens: usize,
    pub(in crate::cli::bench) temperature: f64,
    /// Whether vLLM's `ignore_eos` goes with it, so that every answer has `max_tokens` tokens.
    pub(in crate::cli::bench) ignore_eos: bool,
    pub(in crate::cli::bench) seed: u64,
}

impl RequestShape {
    /// The body of request `index`. Each has a prompt of its own, so that no prefix cache serves it.
    pub(super) fn body(&self, index: u64) -> Value {
        let prompt = self.prompt(index);
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(self.model));
        match self.api {
            Api::Chat => {
                body.insert("messages".to_owned(), json!([{"role": "user", "content": prompt}]))
            }
            Api::Completions => body.insert("prompt".to_owned(), json!(prompt)),
        };
        body.insert("max_tokens".to_owned(), json!(self.max_tokens));
        body.insert("temperature".to_owned(), json!(self.temperature));
        body.insert("stream".to_owned(), json!(true));
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        if self.ignore_eos {
            body.insert("ignore_eos".to_owned(), json!(true));
        }
        Value::Object(body)
    }

    fn prompt(&self, index: u64) -> String {
        drawn_words(&mut Draw::nth(self.seed, index), self.prompt_words)
    }
}

/// So many words, drawn from `seed`.
pub(in crate::cli::bench) fn words(seed: u64, number: usize) -> String {
    drawn_words(&mut Draw::new(seed), number)
}

fn drawn_words(draw: &mut Draw, number: usize) -> String {
    let mut word = || WORDS[draw.below(NUM_WORDS) as usize];
    (0..number).map(|_| word()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(api: Api, ignore_eos: bool) -> RequestShape {
        RequestShape {
            api,
            model: "m".to_owned(),
            prompt_words: 12,
            max_tokens: 5,
            temperature: 0.0,
            ignore_eos,
            seed: 9,
        }
    }

    #[test]
    fn prompts_have_their_length_and_differ() {
        let shape = shape(Api::Completions, true);
        let prompts: Vec<String> = (0..50).map(|index| shape.prompt(index)).collect();
        assert!(prompts.iter().all(|prompt| prompt.split(' ').count() == 12));
        let different: std::collections::HashSet<_> = prompts.iter().collect();
        assert_eq!(different.len(), 50);
        assert_eq!(shape.prompt(7), prompts[7]);
    }

    #[test]
    fn fields_of_vllm_are_left_out_when_asked() {
        let body = shape(Api::Chat, false).body(0);
        assert!(body.get("ignore_eos").is_none());
        assert_eq!(body["messages"][0]["role"], "user");
        assert_eq!(body["stream_options"]["include_usage"], true);
        let body = shape(Api::Completions, true).body(0);
        assert_eq!(body["ignore_eos"], true);
        assert!(body["prompt"].is_string() && body.get("messages").is_none());
    }
}
