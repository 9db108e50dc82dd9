//! A sample of a calibrated generation's figures, measured again: the same prompts, vectors and judges must give the same
//! outcomes.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use skeg_model::ModelIdentity;
use skeg_model::steering::LayerVector;
use skeg_vector_store::Generation;

use super::Calibration;
use super::sample::{recorded_prompts, sample};
use super::steering::Steering;
use super::trial::{ArmReport, TestArm, arm_of};
use crate::data::DataSet;
use crate::error::{Error, Result};
use crate::experiment::{Arm, Laboratory, Outcome, Prompt};
use crate::judge::Judges;
use crate::model_words;
use crate::progress::Progress;

/// What is asked again: a seeded sample of the harmful test prompts, with what the record says of each.
#[derive(Debug, Clone)]
pub struct Recomputation {
    calibration: Calibration,
    /// The settings of the record with the generation's rows as they are stored; rows of zeros are left out.
    steering: Steering,
    architecture_id: String,
    weights_id: String,
    prompts: Vec<Prompt>,
    num_missing_in_data: usize,
    is_recorded_data: bool,
}

/// What came out: figures only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recomputed {
    /// Prompts that were asked again, each under every arm of [`Recomputation::ARMS`].
    pub num_asked: usize,
    /// Harmful test prompts of the record whose ids are not in the data.
    pub num_missing_in_data: usize,
    /// Whether every data set is one that the manifest names by its SHA-256. Where it is not, an id may stand for another
    /// text than the one that was measured.
    pub is_recorded_data: bool,
    /// Outcomes, over all arms, that are as recorded.
    pub num_same: usize,
    /// Those that are not.
    pub different: Vec<Difference>,
}

/// An outcome that is not as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The prompt's id.
    pub id: String,
    /// What it was asked under.
    pub arm: TestArm,
    /// What the record says.
    pub recorded: Outcome,
    /// What was found.
    pub found: Outcome,
}

impl Recomputed {
    /// Outcomes under one arm that are not as recorded.
    #[must_use]
    pub fn num_different(&self, arm: TestArm) -> usize {
        self.different.iter().filter(|one| one.arm == arm).count()
    }
}

impl Calibration {
    /// The calibration that a generation carries in its `figures.json`.
    ///
    /// # Errors
    /// [`Error::Data`] when it has no figures, or others than those of a calibration.
    pub fn of_generation(generation: &Generation) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            calibration: Calibration,
        }
        let id = &generation.id;
        let Some(text) = &generation.figures else {
            return Err(Error::Data(format!(
                "generation {id} has no figures.json, so nothing of it can be recomputed; `skeg calibrate` writes one"
            )));
        };
        let file: File = serde_json::from_str(text).map_err(|error| {
            Error::Data(format!(
                "generation {id}: figures.json holds no calibration in the form of this version ({error}); expected \
                 {{\"format_version\": 1, \"calibration\": ...}} as `skeg calibrate` writes it"
            ))
        })?;
        Ok(file.calibration)
    }
}

impl Recomputation {
    /// The arms that prompts are asked again under: no steering, and the category's own vector.
    pub const ARMS: [TestArm; 2] = [TestArm::Unsteered, TestArm::Own];

    /// Chooses at most `num` of the recorded harmful test prompts that stand in the data, by their ids: in turn one of each
    /// category, in an order that `seed` decides. The same record, prompts and seed give the same choice.
    ///
    /// # Errors
    /// [`Error::Data`] when the generation has no figures of a calibration, when they are not about its vectors, when ids
    /// are ambiguous, or when no recorded prompt is in the data.
    pub fn new(
        generation: &Generation,
        data: &[DataSet],
        num: NonZeroUsize,
        seed: u64,
    ) -> Result<Self> {
        let calibration = Calibration::of_generation(generation)?;
        check_record(generation, &calibration)?;
        let records = Self::ARMS.map(|arm| calibration.test.arm(arm));
        let [Some(unsteered), Some(own)] = records else {
            return Err(Error::Data(format!(
                "generation {}: its figures lack the test without steering or with the own vectors",
                generation.id
            )));
        };
        check_ids(generation, unsteered)?;
        let found = recorded_prompts(data, [unsteered, own])?;
        let num_found: usize = found.values().map(Vec::len).sum();
        let num_recorded = unsteered.harmful.total;
        if num_found == 0 {
            return Err(Error::Data(format!(
                "none of the {num_recorded} harmful test prompts of generation {} is in the data, by its id and with a \
                 category of the generation; give the files that it was calibrated with, in the same layout",
                generation.id
            )));
        }
        let num_missing_in_data = num_recorded.saturating_sub(num_found);
        let prompts = sample(found, num.get(), seed);
        let manifest = &generation.manifest;
        let known = &manifest.provenance.data_sha256;
        Ok(Self {
            steering: steering_of(generation, &calibration),
            architecture_id: manifest.architecture_id.clone(),
            weights_id: manifest.weights_id.clone(),
            prompts,
            num_missing_in_data,
            is_recorded_data: data.iter().all(|set| known.contains(&set.sha256)),
            calibration,
        })
    }

    /// The record that outcomes are compared with.
    #[must_use]
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Checks that the judges and the longest answer, in tokens, are those of the record, since both decide outcomes.
    ///
    /// # Errors
    /// [`Error::Spec`] that names what was found and what is on record.
    pub fn check_means(&self, judges: &Judges, max_new_tokens: usize) -> Result<()> {
        let names = judges.names();
        if names != self.calibration.judges {
            return Err(Error::Spec(format!(
                "the judges are {}, on record are {}; outcomes are what judges say, so give the recorded ones",
                names.join(", "),
                self.calibration.judges.join(", ")
            )));
        }
        if max_new_tokens != self.calibration.max_new_tokens {
            return Err(Error::Spec(format!(
                "answers have at most {max_new_tokens} tokens, on record are {}; longer or shorter answers may amount to \
                 something else, so give the recorded length",
                self.calibration.max_new_tokens
            )));
        }
        Ok(())
    }

    /// Asks the prompts again and compares. The answerer must read no kept answers, or nothing is recomputed; `model` is
    /// what it answers with, and `max_new_tokens` its longest answer. A likelihood is not needed.
    ///
    /// On the CPU the outcomes of an unchanged generation are the recorded ones. Elsewhere, or with a record that was made
    /// elsewhere, answers depend on what is answered beside them, and some may differ.
    ///
    /// # Errors
    /// As [`Self::check_means`]; [`Error::Spec`] when the model is not the manifest's; what answering and judging return.
    pub fn run(
        &self,
        laboratory: &mut Laboratory<'_>,
        (model, max_new_tokens): (&ModelIdentity, usize),
        progress: &mut dyn Progress,
    ) -> Result<Recomputed> {
        self.check_means(laboratory.judges, max_new_tokens)?;
        self.check_model(model)?;
        let arms = Self::ARMS.map(|arm| self.arm(arm));
        let asked: Vec<(&Arm, &[Prompt])> =
            arms.iter().map(|arm| (arm, self.prompts.as_slice())).collect();
        progress.start("answers of the recomputation", asked.len() * self.prompts.len());
        let judged = laboratory.run(&asked, progress)?;
        progress.finish();
        let (mut num_same, mut different) = (0, Vec::new());
        for (arm, judged) in Self::ARMS.into_iter().zip(judged) {
            let record = self.calibration.test.arm(arm).map(|report| &report.outcomes);
            for (prompt, one) in self.prompts.iter().zip(judged) {
                let (id, found) = (prompt.id.clone(), one.outcome);
                match record.and_then(|outcomes| outcomes.get(&id)).copied() {
                    Some(recorded) if recorded != found => {
                        different.push(Difference { id, arm, recorded, found });
                    }
                    Some(_) => num_same += 1,
                    // Only prompts with an outcome under every arm were chosen.
                    None => {}
                }
            }
        }
        Ok(Recomputed {
            num_asked: self.prompts.len(),
            num_missing_in_data: self.num_missing_in_data,
            is_recorded_data: self.is_recorded_data,
            num_same,
            different,
        })
    }

    fn check_model(&self, model: &ModelIdentity) -> Result<()> {
        for (what, found, expected) in [
            ("weights", &model.weights_id, &self.weights_id),
            ("architecture", &model.architecture_id, &self.architecture_id),
        ] {
            if found != expected {
                return Err(Error::Spec(format!(
                    "the model's {what} are {found}, the generation was measured on {expected}; load that model"
                )));
            }
        }
        Ok(())
    }

    /// As the test made it: each category at its default strength, and at none where none is safe.
    fn arm(&self, arm: TestArm) -> Arm {
        let strengths = &self.calibration.strengths;
        let defaults = strengths.iter().map(|(category, one)| (category.clone(), one.default));
        arm_of(arm, &self.steering, &defaults.collect(), self.calibration.seed)
    }
}

/// Figures and vectors of one generation, which could have been put together by hand.
fn check_record(generation: &Generation, calibration: &Calibration) -> Result<()> {
    let manifest = &generation.manifest;
    let site = model_words::site(manifest.site);
    let operator = model_words::operator(manifest.operator);
    let layers = calibration.layers();
    let own = calibration.own.values().map(|own| &own.setting);
    let mut settings = own.chain([&calibration.setting]);
    let is_about_vectors = calibration.site == site
        && settings.all(|setting| setting.operator == operator)
        && layers.iter().all(|layer| manifest.layers.contains(layer))
        && calibration.gates.keys().eq(generation.vectors.keys());
    if !is_about_vectors {
        return Err(Error::Data(format!(
            "generation {}: its figures are of {:?} at {:?} in layers {layers:?} for {} categories, its vectors of \
             {operator:?} at {site:?} in layers {:?} for {}; expected figures of these vectors, calibrate again",
            generation.id,
            calibration.setting.operator,
            calibration.site,
            calibration.gates.len(),
            manifest.layers,
            generation.vectors.len()
        )));
    }
    for (category, vectors) in &generation.vectors {
        let measured = &calibration.setting_of(category).layers;
        let mut acting = vectors.acting_rows().map(|(layer, _)| layer);
        if let Some(layer) = acting.find(|layer| !measured.contains(layer)) {
            return Err(Error::Data(format!(
                "generation {}: category `{category}` acts in layer {layer}, its figures are of layers {measured:?}; \
                 expected figures of these vectors, calibrate again",
                generation.id
            )));
        }
    }
    Ok(())
}

/// Outcomes are kept by id, so an id must be one prompt's.
fn check_ids(generation: &Generation, report: &ArmReport) -> Result<()> {
    let (num_ids, num_prompts) =
        (report.outcomes.len(), report.harmful.total + report.harmless.total);
    if num_ids == num_prompts {
        return Ok(());
    }
    Err(Error::Data(format!(
        "generation {}: its figures have {num_ids} outcomes of {num_prompts} test prompts, so prompts share ids and an \
         outcome may be another prompt's; give the data files different ids and calibrate again",
        generation.id
    )))
}

/// The settings of the record with the generation's vectors. A turned-round vector is stored turned round, so strengths
/// are positive.
fn steering_of(generation: &Generation, calibration: &Calibration) -> Steering {
    let rows = generation.vectors.iter().map(|(category, vectors)| {
        let rows = vectors.acting_rows();
        let rows = rows.map(|(layer, row)| LayerVector { layer, values: row.to_vec() });
        (category.clone(), rows.collect())
    });
    let own = calibration.own.iter();
    let own = own.map(|(category, own)| (category.clone(), own.setting.clone()));
    let setting = (calibration.site, calibration.setting.clone());
    Steering::new(setting, own.collect(), rows.collect())
}
