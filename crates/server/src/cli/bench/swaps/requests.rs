//! What is asked for and what is published: requests of every category, variants of one generation, and damaged ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;
use skeg_vector_store::{
    Action, Category, Generation, GenerationId, NewGeneration, Operator, Policy, WhenMissing,
    set_current, write_generation,
};

/// Prompts of different lengths, so that prompts and answers of different requests mix.
const QUESTIONS: [&str; 3] = [
    "Hello!",
    "Name three rivers in Europe and say where each of them ends.",
    "Write two sentences about a lighthouse keeper who collects old maps.",
];

/// One kind of request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) category: String,
    /// JSON.
    pub(super) body: String,
    pub(super) is_streamed: bool,
}

impl Request {
    fn new(category: &str, nth: usize, max_tokens: usize, is_streamed: bool) -> Self {
        let body = json!({
            "model": "default", "temperature": 0, "max_tokens": max_tokens, "stream": is_streamed,
            "messages": [{"role": "user", "content": QUESTIONS[nth % QUESTIONS.len()]}],
            "logprobs": true, "top_logprobs": 1,
        });
        Self { category: category.to_owned(), body: body.to_string(), is_streamed }
    }
}

/// Generations made of one, in a store of their own, and requests for them.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) root: PathBuf,
    /// The first is live at the start.
    pub(super) variants: Vec<GenerationId>,
    /// Every category, none, and two at once; each streamed and not.
    pub(super) requests: Vec<Request>,
    /// A request that every variant refuses by policy, so that the answer tells at once which one is live.
    pub(super) probe: Request,
    damaged: GenerationId,
}

impl Material {
    /// Writes so many variants of `generation` into the empty folder `root`.
    pub(super) fn write(
        root: &Path,
        generation: &Generation,
        num_variants: usize,
        max_tokens: usize,
    ) -> anyhow::Result<Self> {
        let categories: Vec<&str> =
            generation.manifest.categories.iter().map(Category::as_str).collect();
        let Some((refused, steered @ [_, ..])) = categories.split_last() else {
            bail!("generation {} has too few categories; expected two at least", generation.id);
        };
        let pair = match steered {
            [.., first, second] if generation.manifest.operator == Operator::Add => {
                Some(format!("{first},{second}"))
            }
            _ => None,
        };
        let write = |nth| write_generation(root, &variant(generation, refused, nth));
        let variants = (0..num_variants).map(write).collect::<Result<Vec<_>, _>>()?;
        let damaged = write(num_variants)?;
        damage(&generation_dir(root, &damaged).join("vectors.safetensors"))?;
        set_current(root, &variants[0], None)?;
        let named = categories.iter().copied().chain(["none"]).chain(pair.as_deref());
        let requests = named.enumerate().flat_map(|(nth, category)| {
            [false, true].map(|streamed| Request::new(category, nth, max_tokens, streamed))
        });
        let requests = requests.collect();
        let probe = Request::new(refused, 0, 1, false);
        Ok(Self { root: root.to_owned(), variants, requests, probe, damaged })
    }

    /// Publishes something bad, one of three kinds in turn; what was there before comes back.
    pub(super) fn publish_bad(&self, nth: usize) -> anyhow::Result<Vec<u8>> {
        let path = self.root.join("CURRENT");
        let before = fs::read(&path).with_context(|| path.display().to_string())?;
        let sequence = skeg_vector_store::read_current(&self.root)?.sequence + 1;
        let line = |id: &str| format!("{{\"sequence\": {sequence}, \"generation\": \"{id}\"}}\n");
        let text = match nth % 3 {
            0 => line(self.damaged.as_str()),
            1 => line("0123456789abcdef"),
            _ => format!("{{\"sequence\": {sequence}, \"gen"),
        };
        self.replace_current(text.as_bytes())?;
        Ok(before)
    }

    /// Puts bytes in the place of `CURRENT`, as a program would that does not check what it publishes.
    pub(super) fn replace_current(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let beside = self.root.join("CURRENT.beside");
        fs::write(&beside, bytes).with_context(|| beside.display().to_string())?;
        fs::rename(&beside, self.root.join("CURRENT")).context("cannot replace CURRENT")
    }
}

fn generation_dir(root: &Path, id: &GenerationId) -> PathBuf {
    root.join("generations").join(id.as_str())
}

/// Changes the last bit of a file.
fn damage(path: &Path) -> anyhow::Result<()> {
    let mut bytes = fs::read(path).with_context(|| path.display().to_string())?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// The generation with vectors a little shorter, one category refused, and callers without a key free to ask.
fn variant(generation: &Generation, refused: &str, nth: usize) -> NewGeneration {
    let mut made = NewGeneration::from(generation.clone());
    let scale = 64.0 / (64 + nth) as f32;
    for vectors in made.vectors.values_mut() {
        vectors.values.iter_mut().for_each(|value| *value *= scale);
    }
    made.policy.when_missing = WhenMissing::None;
    made.policy.groups = Policy::open(made.policy.categories.clone()).groups;
    for (category, rule) in &mut made.policy.categories {
        if category.as_str() == refused {
            rule.action = Action::Refuse;
            rule.refusal = format!("Variant {nth} refuses this.");
        }
    }
    let card = format!("# Variant {nth} of {} for a measurement\n", generation.id);
    NewGeneration { card, figures: None, ..made }
}
