//! The paper's rows for `skeg evaluate study`: vectors of all and of pruned activations, unsupervised and guided, against
//! matched and generic harmless prompts; and beside them vectors of contrast texts, at either site.

use std::collections::BTreeMap;
use std::path::PathBuf;

use skeg_lab::calibrate::Candidate;
use skeg_lab::evaluate::Answerer;
use skeg_lab::extract::{
    CategoryExtraction, CategoryInputs, ExtractSpec, Extraction, Form, GuidedJudges, GuidedOptions,
    GuidedReport, OnFew, Pairing, PromptForm, PruneCriterion, Pruning, Variant, guided_inputs,
    inputs_of,
};
use skeg_lab::judge::Judges;
use skeg_lab::study::Method;
use skeg_lab::{Item, least_to_most};
use skeg_model::LoadedModel;
use skeg_model::steering::Site;
use skeg_vector_store::Category;

use super::extractions::kept_extractions;
use super::progress::Bar;
use super::recipe::{RecipeName, contrast};

/// What the rows are made from.
pub(super) struct Sources<'a> {
    /// Harmful prompts of the extraction part.
    pub(super) harmful: BTreeMap<Category, Vec<&'a Item>>,
    /// Their harmless twins; may be empty.
    pub(super) twins: Vec<&'a Item>,
    /// Harmless prompts of no category; may be empty.
    pub(super) generic: Vec<&'a Item>,
    pub(super) data_sha256: Vec<String>,
    /// Where finished work is kept.
    pub(super) work_dir: Option<PathBuf>,
}

/// The rows, and what there is to say about how each was made.
#[derive(Default)]
pub(super) struct Made {
    pub(super) methods: Vec<Method>,
    /// One row a method; the first is the header.
    pub(super) table: Vec<Vec<String>>,
    pub(super) remarks: Vec<String>,
}

/// The pruning of the paper: differences above the median norm.
const PRUNED: Pruning = Pruning { criterion: PruneCriterion::Norm, keep: 0.5 };

/// Makes all rows that the data allows.
pub(super) fn methods(
    model: &LoadedModel,
    answerer: &mut dyn Answerer,
    judges: &mut Judges,
    sources: &Sources<'_>,
    bar: &mut Bar,
) -> anyhow::Result<Made> {
    let mut made = Made { table: vec![header()], ..Made::default() };
    let sides = [
        ("matched", Pairing::Matched, &sources.twins),
        ("generic", Pairing::SafeMean, &sources.generic),
    ];
    for (side, pairing, harmless) in sides {
        if harmless.is_empty() {
            made.remarks
                .push(format!("No rows against {side} harmless prompts: no data for them."));
            continue;
        }
        let harmful = sources.harmful.values().flatten();
        let items: Vec<&Item> = harmful.chain(harmless).copied().collect();
        let inputs = inputs_of(&items, Form::Prompts, pairing)?;
        let all = Variant { pairing, ..Variant::default() };
        let variants = [all, Variant { pruning: Some(PRUNED), ..all }];
        let pass = |inputs: Vec<CategoryInputs>, bar: &mut Bar| {
            let recipe = (Site::AttnOut, RecipeName::Prompts);
            pass(model, inputs, (recipe, &variants), sources, bar)
        };
        made.add_two(&format!("unsupervised, {side}"), &pass(inputs.clone(), bar)?)?;
        match guided(answerer, judges, inputs, pairing, bar)? {
            Some((inputs, report)) if !inputs.is_empty() => {
                let name = format!("guided, {side}");
                made.add_two(&name, &pass(inputs, bar)?)?;
                made.remarks.push(format!("{name}: {}", report.summary()));
            }
            Some(_) => made.remarks.push(format!(
                "No guided rows against {side} harmless prompts: in no category did the judge confirm two answers a side."
            )),
            None => made.remarks.push(
                "No guided rows: there is no judge of harm (--heads with --embedder, or --judge-url).".to_owned(),
            ),
        }
    }
    made.remarks.dedup();
    made.add_contrast(model, sources, bar)?;
    Ok(made)
}

/// The vectors by `variants` at a site, from one pass.
fn pass(
    model: &LoadedModel,
    inputs: Vec<CategoryInputs>,
    ((site, recipe), variants): ((Site, RecipeName), &[Variant]),
    sources: &Sources<'_>,
    bar: &mut Bar,
) -> anyhow::Result<Vec<Extraction>> {
    let count = model.identity.num_hidden_layers;
    let (tokens, max_response_tokens) = recipe.tokens();
    let spec = ExtractSpec {
        site,
        layers: (count / 5..count - count / 5).collect(),
        tokens,
        max_response_tokens,
        prompt_form: PromptForm::ChatTemplate,
        variant: variants.first().copied().unwrap_or_default(),
        categories: inputs,
        data_sha256: sources.data_sha256.clone(),
    };
    kept_extractions(model, &spec, variants, sources.work_dir.as_deref(), bar)
}

/// What judges confirm of the model's own answers; `None` without a judge of harm.
fn guided(
    answerer: &mut dyn Answerer,
    judges: &mut Judges,
    inputs: Vec<CategoryInputs>,
    pairing: Pairing,
    bar: &mut Bar,
) -> anyhow::Result<Option<(Vec<CategoryInputs>, GuidedReport)>> {
    let Some(harm) = judges.harm.as_mut() else { return Ok(None) };
    let mut judges = GuidedJudges {
        harm: &mut **harm,
        refusal: &mut *judges.refusal,
        degenerate: &mut *judges.degenerate,
    };
    let options = GuidedOptions { pairing, on_few: OnFew::Drop, ..GuidedOptions::default() };
    match guided_inputs(answerer, &mut judges, inputs, &options, bar) {
        Ok(guided) => Ok(Some((guided.inputs, guided.report))),
        // Too few in every category.
        Err(skeg_lab::Error::Data(_)) => Ok(Some((Vec::new(), GuidedReport::default()))),
        Err(error) => Err(error.into()),
    }
}

fn header() -> Vec<String> {
    ["vectors", "categories", "safe inputs", "unsafe inputs", "relative norm", "split-half cosine"]
        .map(str::to_owned)
        .to_vec()
}

impl Made {
    fn add(
        &mut self,
        name: String,
        is_pruned: bool,
        extraction: &Extraction,
    ) -> anyhow::Result<()> {
        self.table.push(row(&name, extraction));
        let candidate = Candidate::new(name.clone(), extraction)?;
        self.methods.push(Method { name, is_pruned, candidate });
        Ok(())
    }

    /// All activations and pruned ones.
    fn add_two(&mut self, name: &str, extractions: &[Extraction]) -> anyhow::Result<()> {
        for (extraction, is_pruned) in extractions.iter().zip([false, true]) {
            let part = if is_pruned { "pruned" } else { "all activations" };
            self.add(format!("{name}, {part}"), is_pruned, extraction)?;
        }
        Ok(())
    }

    /// Safe answers against compliant openings behind the same prompts: no row of the paper's, at its site and at the
    /// layer's output.
    fn add_contrast(
        &mut self,
        model: &LoadedModel,
        sources: &Sources<'_>,
        bar: &mut Bar,
    ) -> anyhow::Result<()> {
        let variants = [Variant::default()];
        let inputs = contrast(None)?.pair_with(&sources.harmful)?;
        for site in [Site::AttnOut, Site::ResidPost] {
            let how = ((site, RecipeName::Contrast), variants.as_slice());
            for extraction in pass(model, inputs.clone(), how, sources, bar)? {
                self.add(format!("contrast texts, {}", site.as_str()), false, &extraction)?;
            }
        }
        Ok(())
    }
}

fn row(name: &str, extraction: &Extraction) -> Vec<String> {
    let layers = || extraction.categories.values().flat_map(|one| &one.layers);
    let sum = |of: fn(&CategoryExtraction) -> u64| -> u64 {
        extraction.categories.values().map(of).sum()
    };
    vec![
        name.to_owned(),
        extraction.categories.len().to_string(),
        sum(|one| one.num_safe).to_string(),
        sum(|one| one.num_unsafe).to_string(),
        least_to_most(layers().map(|layer| layer.relative_norm)),
        least_to_most(layers().filter_map(|layer| layer.split_half_cosine)),
    ]
}

/// Categories that some row has no vector for stay unsteered there: which, by row.
pub(super) fn missing(
    methods: &[Method],
    categories: &[Category],
) -> BTreeMap<String, Vec<String>> {
    let of = |method: &Method| -> Vec<String> {
        let missing = categories.iter().filter(|one| !method.candidate.rows.contains_key(*one));
        missing.map(ToString::to_string).collect()
    };
    let rows = methods.iter().map(|method| (method.name.clone(), of(method)));
    rows.filter(|(_, missing)| !missing.is_empty()).collect()
}
