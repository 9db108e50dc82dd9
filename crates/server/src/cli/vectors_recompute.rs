//! `skeg vectors verify --recompute`: a sample of a generation's figures, measured again.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use serde_json::{Value, json};
use skeg_lab::calibrate::{Recomputation, Recomputed};
use skeg_lab::experiment::Laboratory;
use skeg_vector_store::Generation;

use super::ModelFlags;
use super::data_flags::DataFlags;
use super::judge_flags::JudgeFlags;
use super::laboratory::{AnswerFlags, Answering, answering};
use super::progress::Bar;
use crate::config::Config;
use crate::output::{self, Table};

/// Whether figures are measured again, and from what.
#[derive(Debug, clap::Args)]
pub(super) struct RecomputeFlags {
    /// Also ask so many of the recorded harmful test prompts again, unsteered and steered, and compare the outcomes with
    /// figures.json; exits with 1 if one differs (on the CPU)
    #[arg(long, value_name = "NUM", requires = "data")]
    recompute: Option<NonZeroUsize>,
    /// Data that the generation was calibrated with: its prompts are found by their ids
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "recompute")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Longest answer, in tokens; must be the recorded one [default: the recorded one]
    #[arg(long, value_name = "TOKENS", requires = "recompute")]
    max_tokens: Option<usize>,
    /// Seed of the choice of prompts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    judges: JudgeFlags,
}

/// Figures that were measured again, and whether a difference is a fault.
pub(super) struct Report {
    recomputed: Recomputed,
    is_on_cpu: bool,
}

impl RecomputeFlags {
    /// Whether figures are to be measured again.
    pub(super) fn is_wanted(&self) -> bool {
        self.recompute.is_some()
    }

    /// Measures a sample again. No kept answer and no kept judgement is read. `None` = not wanted.
    pub(super) fn run(
        &self,
        generation: &Generation,
        (config, model_flags): (&Config, &ModelFlags),
    ) -> anyhow::Result<Option<Report>> {
        let Some(num) = self.recompute else { return Ok(None) };
        let data = self.data.iter().map(|path| self.data_flags.read(path));
        let data = data.collect::<Result<Vec<_>, _>>()?;
        let recomputation = Recomputation::new(generation, &data, num, self.seed)?;
        let mut judges = self.judges.judges(None)?;
        let max_tokens = self.max_tokens.unwrap_or(recomputation.calibration().max_new_tokens);
        // Before the model is loaded, which may take a while.
        recomputation.check_means(&judges, max_tokens)?;
        let flags = AnswerFlags::uncached(max_tokens, self.seed);
        let Answering { mut answerer, model, .. } = answering(config, model_flags, &flags)?;
        let mut laboratory =
            Laboratory { answerer: &mut *answerer, judges: &mut judges, likelihood: None };
        let with = (&model.identity, max_tokens);
        let recomputed = recomputation.run(&mut laboratory, with, &mut Bar::new()?)?;
        Ok(Some(Report { recomputed, is_on_cpu: model.llama.device().is_cpu() }))
    }
}

impl Report {
    /// All of it, for programs.
    pub(super) fn json(&self) -> Value {
        json!(self.recomputed)
    }

    /// A table by arm, and what differs.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let Recomputed { num_asked, num_missing_in_data, different, .. } = &self.recomputed;
        let mut table = Table::new(&["CONDITION", "ASKED", "SAME", "DIFFERENT"]);
        for arm in Recomputation::ARMS {
            let num_different = self.recomputed.num_different(arm);
            let counts = [*num_asked, num_asked - num_different, num_different];
            let counts = counts.map(|count| count.to_string());
            table.row([vec![arm.name().to_owned()], counts.to_vec()].concat());
        }
        output::line("")?;
        table.print()?;
        if !different.is_empty() {
            let mut table = Table::new(&["PROMPT", "CONDITION", "RECORDED", "FOUND"]);
            for one in different {
                let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
                let outcomes = [word(json!(one.recorded)), word(json!(one.found))];
                let names = vec![one.id.clone(), one.arm.name().to_owned()];
                table.row([names, outcomes.to_vec()].concat());
            }
            output::line("")?;
            table.print()?;
        }
        if *num_missing_in_data > 0 {
            output::note(&format!("{num_missing_in_data} recorded prompts are not in the data"));
        }
        Ok(())
    }

    /// Fails where outcomes differ that must not.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Recomputed { num_same, different, is_recorded_data, .. } = &self.recomputed;
        if different.is_empty() {
            return Ok(());
        }
        if !is_recorded_data {
            output::note(
                "a data file is not one that the manifest names by its SHA-256: its prompts may be others under the same ids",
            );
        }
        let (num_different, total) = (different.len(), num_same + different.len());
        if !self.is_on_cpu {
            output::note(&format!(
                "{num_different} of {total} outcomes differ from the record; on this device answers depend on what is \
                 answered beside them, so that alone is no fault"
            ));
            return Ok(());
        }
        bail!(
            "{num_different} of {total} outcomes differ from the record; expected none on the CPU with the recorded model, \
             weights form and judges"
        )
    }
}
