//! Flags of guided extraction: the model answers first, and judges say which answers count.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use skeg_lab::evaluate::EngineAnswerer;
use skeg_lab::extract::{
    ExtractSpec, Guided, GuidedJudges, GuidedOptions, GuidedReport, OnFew, guided_inputs,
};
use skeg_lab::judge::{
    DegenerateJudge, Embed, EmbeddingCache, HeadJudge, Judge, PhraseJudge, Property,
    SentenceEmbedder, load_heads,
};
use skeg_model::LoadedModel;
use skeg_model::engine::EngineConfig;

use super::progress::Bar;

/// The guided selection.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guided selection")]
pub(super) struct GuidedFlags {
    /// Have the model answer the prompts unsteered, and extract only from answers that a judge confirms: harmful ones of
    /// the unsafe side, harmless ones of the safe side, no broken ones. Answers that the data has are judged as they are
    #[arg(long, requires_all = ["embedder", "heads"])]
    pub(super) guided: bool,
    /// Folder of the sentence embedder that the heads were trained with
    #[arg(long, value_name = "DIR", requires = "guided")]
    embedder: Option<PathBuf>,
    /// Heads that judge, as `skeg evaluate judges --save` writes them: one for harm, and one for refusals [default for
    /// refusals: phrases]
    #[arg(long, value_name = "FILE", requires = "guided")]
    heads: Option<PathBuf>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "NUM", default_value_t = 48, requires = "guided")]
    guided_tokens: usize,
    /// Count only verdicts of this certainty, 0 to 1 [default: every verdict]
    #[arg(long, value_name = "SCORE", requires = "guided")]
    guided_min_score: Option<f64>,
    /// Count refusals of harmful prompts as safe, instead of leaving them out
    #[arg(long, requires = "guided", conflicts_with = "matched")]
    keep_refusals: bool,
    /// A category that keeps fewer than 2 inputs on a side: error, or drop it
    #[arg(long, value_enum, value_name = "error|drop", hide_possible_values = true, default_value_t = OnFewFlag::Error, requires = "guided")]
    guided_on_few: OnFewFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnFewFlag {
    Error,
    Drop,
}

/// The judges of one run.
pub(super) struct OwnedJudges {
    harm: Box<dyn Judge>,
    refusal: Box<dyn Judge>,
    degenerate: Box<dyn Judge>,
}

impl GuidedFlags {
    /// The judges, where a guided extraction is asked for.
    pub(super) fn judges(&self) -> anyhow::Result<Option<OwnedJudges>> {
        if !self.guided {
            return Ok(None);
        }
        let embedder = self.embedder.as_deref().context("--embedder DIR is missing")?;
        let file = self.heads.as_deref().context("--heads FILE is missing")?;
        let mut heads = load_heads(file)?;
        let embedder: Arc<dyn Embed> = Arc::new(SentenceEmbedder::load(embedder)?);
        let embedder: Arc<dyn Embed> = Arc::new(EmbeddingCache::new(embedder));
        let mut take = |property| -> anyhow::Result<Option<Box<dyn Judge>>> {
            let found = heads.iter().position(|head| head.features.property() == property);
            let Some(head) = found.map(|idx| heads.swap_remove(idx)) else { return Ok(None) };
            Ok(Some(Box::new(HeadJudge::new(head, Arc::clone(&embedder))?)))
        };
        let Some(harm) = take(Property::Harm)? else {
            bail!(
                "{} has no head that judges harm; make one by `skeg evaluate judges --train-harm FILE --save FILE`",
                file.display()
            );
        };
        let refusal = take(Property::Refusal)?.unwrap_or_else(|| Box::new(PhraseJudge));
        Ok(Some(OwnedJudges { harm, refusal, degenerate: Box::new(DegenerateJudge) }))
    }

    /// Replaces the inputs of the spec by what the judges confirm.
    pub(super) fn select(
        &self,
        judges: &mut OwnedJudges,
        model: LoadedModel,
        engine_config: &EngineConfig,
        spec: &mut ExtractSpec,
        bar: &mut Bar,
    ) -> anyhow::Result<GuidedReport> {
        let mut answerer = EngineAnswerer::new(model, engine_config, self.guided_tokens)?;
        let options = GuidedOptions {
            pairing: spec.variant.pairing,
            keep_refusals: self.keep_refusals,
            min_score: self.guided_min_score,
            on_few: match self.guided_on_few {
                OnFewFlag::Error => OnFew::Error,
                OnFewFlag::Drop => OnFew::Drop,
            },
            ..GuidedOptions::default()
        };
        let mut judges = GuidedJudges {
            harm: &mut *judges.harm,
            refusal: &mut *judges.refusal,
            degenerate: &mut *judges.degenerate,
        };
        let inputs = std::mem::take(&mut spec.categories);
        let Guided { inputs, report } =
            guided_inputs(&mut answerer, &mut judges, inputs, &options, bar)?;
        spec.categories = inputs;
        Ok(report)
    }
}
