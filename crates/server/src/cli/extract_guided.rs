//! Flags of guided extraction: the model answers first, and judges say which answers count.

use std::path::Path;

use anyhow::{Context, bail};
use clap::ArgGroup;
use skeg_lab::evaluate::EngineAnswerer;
use skeg_lab::extract::{
    ExtractSpec, Guided, GuidedJudges, GuidedOptions, GuidedReport, OnFew, guided_inputs,
};
use skeg_lab::judge::{Judge, Judges};
use skeg_model::LoadedModel;
use skeg_model::engine::EngineConfig;

use super::judge_flags::JudgeFlags;
use super::progress::Bar;

/// The group of flags of which a guided selection needs one.
const HARM_JUDGE: &str = "harm_judge";

/// Without a judge of harm nothing can be confirmed.
pub(super) fn harm_judge() -> ArgGroup {
    ArgGroup::new(HARM_JUDGE).args(["heads", "judge_url"]).multiple(true)
}

/// Judges are asked by the guided selection alone, so their flags mean nothing without it.
pub(super) fn only_guided() -> ArgGroup {
    let judges = ["embedder", "heads", "judge_url", "reward_url"];
    ArgGroup::new("only_guided").args(judges).multiple(true).requires("guided")
}

/// The guided selection.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guided selection")]
pub(super) struct GuidedFlags {
    /// Have the model answer the prompts unsteered, and extract only from answers that a judge confirms: harmful ones of
    /// the unsafe side, harmless ones of the safe side, no broken ones. Answers that the data has are judged as they are
    #[arg(long, requires = HARM_JUDGE)]
    pub(super) guided: bool,
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
    /// The judges, where a guided extraction is asked for. What an endpoint answers is kept below `cache_dir`.
    pub(super) fn judges(
        &self,
        flags: &JudgeFlags,
        cache_dir: &Path,
    ) -> anyhow::Result<Option<OwnedJudges>> {
        if !self.guided {
            return Ok(None);
        }
        let Judges { harm, refusal, degenerate, .. } = flags.judges(Some(cache_dir))?;
        let Some(harm) = harm else {
            let file = flags.heads_file().context("--heads FILE or --judge-url URL is missing")?;
            bail!(
                "{} has no head that judges harm; make one by `skeg evaluate judges --train-harm FILE --save FILE`",
                file.display()
            );
        };
        Ok(Some(OwnedJudges { harm, refusal, degenerate }))
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
