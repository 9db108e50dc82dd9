//! `skeg probe train|evaluate --answers`: the part of a probe that looks at answers.

use anyhow::{Context as _, bail};
use skeg_lab::evaluate::SharedModel;
use skeg_lab::probe::{
    AnswerPart, AnswerReport, AnswerRows, AnswerSpec, AnswerTable, Corpus, Penalties, Probe,
    Thresholds, Verdict, measure_answers, read_answers, train_answers,
};
use skeg_model::LoadedModel;

use super::progress::Bar;

/// Chooses the prompts that are answered.
const SEED: u64 = 6;

/// Whether answers are read, and which.
#[derive(Debug, clap::Args)]
pub(super) struct AnswerFlags {
    /// Have the model answer prompts, unsteered, and read its answers up to so many tokens
    #[arg(long, value_name = "NUM")]
    answers: Option<usize>,
    /// Tokens between two rows of an answer that are read
    #[arg(long, value_name = "NUM", default_value_t = 8, requires = "answers")]
    answer_every: usize,
    /// The most prompts of a source and a label that are answered
    #[arg(long, value_name = "NUM", default_value_t = 150, requires = "answers")]
    answer_prompts: usize,
}

/// What alarms, for the figures of looks at answers.
#[derive(Debug, clap::Args)]
pub(super) struct ThresholdFlags {
    /// The probability of harm from which a prompt alarms; looks at answers are measured on those that do not
    #[arg(long, value_name = "NUM", default_value_t = 0.5, requires = "answers")]
    threshold: f32,
    /// The probability of harm from which a look at an answer alarms [default: --threshold]
    #[arg(long, value_name = "NUM", requires = "answers")]
    recheck_threshold: Option<f32>,
}

impl ThresholdFlags {
    fn thresholds(&self) -> Thresholds {
        let prompt = self.threshold;
        Thresholds { prompt, answer: self.recheck_threshold.unwrap_or(prompt) }
    }
}

impl AnswerFlags {
    fn spec(&self) -> Option<AnswerSpec> {
        let (every, max_prompts) = (self.answer_every, self.answer_prompts);
        let spec = |num_tokens| AnswerSpec { num_tokens, every, max_prompts, seed: SEED };
        self.answers.map(spec)
    }

    /// Refuses, before long work, what has no member on activations.
    pub(super) fn check(&self, reads_activations: bool) -> anyhow::Result<()> {
        if self.answers.is_some() && !reads_activations {
            bail!("--answers reads where the member `activations` does, and the probe has none");
        }
        Ok(())
    }

    /// The answer part of a probe and what it makes of sources that it did not see; `None` without `--answers`.
    pub(super) fn train(
        &self,
        probe: &Probe,
        corpus: &Corpus,
        model: Option<LoadedModel>,
        penalties: Penalties,
    ) -> anyhow::Result<Option<(AnswerPart, AnswerTable)>> {
        let Some(rows) = self.read(probe, corpus, model)? else { return Ok(None) };
        Ok(Some(train_answers(probe, corpus, &rows, penalties)?))
    }

    /// What looks at answers add; `None` without `--answers`.
    pub(super) fn measure(
        &self,
        probe: &Probe,
        (corpus, verdicts): (&Corpus, &[Verdict]),
        model: Option<LoadedModel>,
        thresholds: &ThresholdFlags,
    ) -> anyhow::Result<Option<AnswerReport>> {
        let Some(rows) = self.read(probe, corpus, model)? else { return Ok(None) };
        let thresholds = thresholds.thresholds();
        Ok(Some(measure_answers(probe, corpus, verdicts, &rows, thresholds)?))
    }

    fn read(
        &self,
        probe: &Probe,
        corpus: &Corpus,
        model: Option<LoadedModel>,
    ) -> anyhow::Result<Option<AnswerRows>> {
        let Some(spec) = self.spec() else { return Ok(None) };
        let needed = "--answers reads the model's activations, and the probe does not";
        let input = probe.activation_input().context(needed)?;
        let model = SharedModel::from(model.context(needed)?);
        Ok(Some(read_answers(&model, corpus, &input, &spec, &mut Bar::new()?)?))
    }
}
