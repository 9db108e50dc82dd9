//! A probe that reads the mean of the prompt's rows, on a real engine whose prefix cache has some of them.

use serde_json::{Value, json};
use skeg_lab::probe::{Probe, TextScores};
use skeg_model::engine::{EngineConfig, PromptActivations};
use skeg_model::steering::Site;
use skeg_model::{Capture, ChatMessage, Hooks, KvCache, KvCacheDtype, PackedBatch};

use crate::harness::Setup;
use crate::projection::{llama, server, value};
use crate::store::{self, TestPolicy};

/// The confidence that the probe has in a prompt whose rows it sees all at once.
fn confidence(prompt: &str, conversation: &[ChatMessage]) -> String {
    let llama = llama();
    let token_ids: Vec<u32> = prompt.bytes().map(u32::from).collect();
    let count = token_ids.len();
    let mut cache = KvCache::new(&llama, 1, 256, KvCacheDtype::default()).unwrap();
    let batch = PackedBatch {
        token_ids,
        positions: (0..count).collect(),
        cu_seqlens: vec![0, count],
        block_tables: vec![vec![0]],
        logit_rows: Vec::new(),
    };
    let mut capture = Capture::new(Site::ResidPost, vec![1, 2], (0..count).collect());
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let layers = capture.take();
    let row = |row: usize| -> Vec<f32> {
        layers.iter().flat_map(|(_, values)| &values[row * 4..][..4]).copied().collect()
    };
    let counted = "<user>".len()..count;
    let mean = |idx: usize| {
        let sum = counted.clone().map(|position| row(position)[idx]).sum::<f32>();
        sum / counted.len() as f32
    };
    let mean: Vec<f32> = (0..8).map(mean).collect();
    let probe = Probe::from_bytes(&store::probe_on_mean()).unwrap();
    let text: TextScores = probe.text_scores(conversation, None).unwrap();
    let read = PromptActivations { last: &row(count - 1), mean: &mean };
    format!("{:.4}", probe.verdict(&text, Some(read)).unwrap().harm)
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: content.to_owned() }
}

#[tokio::test]
async fn every_turn_of_a_conversation_is_judged_by_all_of_its_rows_and_computes_what_is_new() {
    let policy = TestPolicy {
        when_missing: "auto",
        probe: true,
        mean: true,
        // Whatever is found, nothing is steered, so that the answer's blocks are of use to the next turn.
        more: "[auto]\nthreshold = 1.0\n",
        ..TestPolicy::default()
    };
    let config = EngineConfig { block_size: 4, ..EngineConfig::default() };
    let server = server(&config, Setup { policy, ..Setup::default() });
    let mut conversation = vec![message("user", "hi")];
    let mut prompt = "<user>hi<assistant>".to_owned();
    let mut known = 0;
    let mut confidences = Vec::new();
    for turn in 0..3 {
        let messages: Vec<Value> = conversation
            .iter()
            .map(|message| json!({"role": message.role, "content": message.content}))
            .collect();
        let before = value(&server.get("/metrics").await.text, "vllm:prefix_cache_hits_total");
        let extra = json!({"messages": messages, "max_tokens": 8, "logit_bias": {"97": 100}});
        let answer = server.chat(&[], extra).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "aaaaaaaa");
        assert_eq!(answer.header("x-safety-category-source"), "auto");
        let expected = confidence(&prompt, &conversation);
        assert_eq!(answer.header("x-safety-confidence"), expected, "turn {turn}");
        confidences.push(expected);
        let after = value(&server.get("/metrics").await.text, "vllm:prefix_cache_hits_total");
        assert_eq!(after - before, known / 4 * 4, "turn {turn}");
        // The answer's last token was sampled and not computed.
        known = prompt.len() as u64 + 7;
        conversation.extend([message("assistant", "aaaaaaaa"), message("user", "and then?")]);
        prompt += "aaaaaaaa<user>and then?<assistant>";
    }
    confidences.dedup();
    assert_eq!(confidences.len(), 3, "{confidences:?}");
}
