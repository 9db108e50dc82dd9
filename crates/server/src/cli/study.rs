//! `skeg evaluate study`: the paper's experiment for a model, with what improves on it, controls and costs, as one report.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use skeg_lab::data::{CategoryMap, Fit, refuse_overlap};
use skeg_lab::evaluate::Answerer;
use skeg_lab::experiment::{Arm, Prompt, harmful_prompts, harmless_prompts, spread};
use skeg_lab::extract::Text;
use skeg_lab::judge::Judges;
use skeg_lab::study::{
    About, Chosen, ImproveData, PromptSet, StudyFigures, StudySpec, budget, improved_arms, study,
};
use skeg_lab::{DataSet, Divided, Item, Shares};
use skeg_model::{LoadOptions, LoadedModel, WeightForm};
use skeg_vector_store::{Category, load_generation, read_current};

use super::ModelFlags;
use super::data_flags::DataFlags;
use super::judge_flags::JudgeFlags;
use super::laboratory::{AnswerFlags, answering, model_name};
use super::progress::Bar;
use super::running::{binding, model_path};
use super::study_methods::{Made, Sources, methods, missing};
use crate::config::Config;
use crate::output;

/// Compare every variant of the paper, the calibrated vectors, improvements and controls on the same prompts, and write a
/// report with figures.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Harmful prompts by category, and harmless twins of them (`twin_of`): divided into extraction, tuning and test
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Harmless prompts for the generic safe side
    #[arg(long, value_name = "FILE")]
    generic: Option<PathBuf>,
    /// More sets of harmful prompts to report on, in their own taxonomies
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "map")]
    also: Vec<PathBuf>,
    /// Which categories theirs are: JSON by set, field, value
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Harmless prompts that are steered all the same
    #[arg(long, value_name = "FILE", num_args = 1..)]
    harmless: Vec<PathBuf>,
    /// Prompts with constraints that a rule can check, in the form of `IFEval`
    #[arg(long, value_name = "FILE")]
    constraints: Option<PathBuf>,
    /// Plain texts whose perplexity says what steering costs
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Calibrated vectors: a store [default: without]
    #[arg(long, value_name = "DIR")]
    vectors: Option<PathBuf>,
    /// Folder for report.html, report.md, figures.json and the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Prompts a category and set, at most
    #[arg(long, value_name = "NUM", default_value_t = 20)]
    per_category: usize,
    /// Harmless prompts a set, and prompts with constraints, at most
    #[arg(long, value_name = "NUM", default_value_t = 60)]
    num_harmless: usize,
    /// Every prompt there is, and answers of 256 tokens
    #[arg(long, conflicts_with_all = ["per_category", "num_harmless", "max_tokens"])]
    full: bool,
    #[command(flatten)]
    answers: AnswerFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    judges: JudgeFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate study --data catqa.jsonl vectors/data/catqa_twins.jsonl --generic alpaca.jsonl --out report
  skeg evaluate study --data catqa.jsonl vectors/data/catqa_twins.jsonl --generic alpaca.jsonl \\
      --also beavertails_eval.jsonl --map mapping.json --harmless xstest.jsonl --constraints ifeval.jsonl \\
      --texts text_pd.jsonl --vectors my-vectors --embedder all-MiniLM-L6-v2 --heads heads.json --out report

The budget in tokens is printed before it starts. Answers are kept: a second run is quick, and one that broke off goes on.
The report holds figures only.";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = args.model.config(args.vectors.clone())?;
    let inputs = Inputs::read(args)?;
    let divided = inputs.divided()?;
    let mut judges = args.judges.judges(args.answers.work_dir(&config).as_deref())?;
    let mut answering = answering(&config, &args.model, &args.answers)?;
    let mut bar = Bar::new()?;
    let rows = Rows::make(
        args,
        &config,
        (&inputs, &divided),
        (&mut *answering.answerer, &mut judges),
        &mut bar,
    )?;
    let Rows { made, chosen, more_arms, sets, remarks, num_hidden_layers } = rows;
    let spec = StudySpec {
        methods: &made.methods,
        chosen,
        more_arms,
        tuning: &sets.tuning,
        harmful: &sets.harmful,
        harmless: &sets.harmless,
        constraints: &sets.constraints,
        texts: &sets.texts,
        max_new_tokens: args.answers.max_tokens,
        seed: args.answers.seed,
    };
    let cost = budget(&spec);
    output::note(&format!(
        "at most {} answers, {} tokens; what is kept from earlier runs is not made again",
        cost.num_answers, cost.num_tokens
    ));
    let mut laboratory = answering.laboratory(&mut judges);
    let figures = study(&mut laboratory, &spec, num_hidden_layers, &mut bar)?;
    let about = About {
        model: model_name(&config),
        facts: facts(args, &inputs, &sets, started),
        methods: made.table,
        judges: judges.agreement_table(),
        remarks,
    };
    write(&args.out, &figures, &about)
}

/// What is compared, and on which prompts.
struct Rows {
    made: Made,
    chosen: Option<Chosen>,
    more_arms: Vec<Arm>,
    sets: Sets,
    remarks: Vec<String>,
    num_hidden_layers: usize,
}

impl Rows {
    /// Makes the vectors, from weights in f32, which are dropped afterwards.
    fn make(
        args: &Args,
        config: &Config,
        (inputs, divided): (&Inputs, &ByCategory<'_>),
        (answerer, judges): (&mut dyn Answerer, &mut Judges),
        bar: &mut Bar,
    ) -> anyhow::Result<Self> {
        let path = model_path(&config.model, args.model.fetch)?;
        let options = LoadOptions { weights: WeightForm::F32, ..config.model.load_options() };
        let model = LoadedModel::load(&path, &options)?;
        let chosen = args.vectors.is_some().then(|| chosen(config, &model)).transpose()?;
        let work_dir = args.answers.work_dir(config);
        let sources = Sources { work_dir, ..inputs.sources(divided) };
        let made = methods(&model, answerer, judges, &sources, bar)?;
        let sets = inputs.sets(args, divided, &made)?;
        let mut remarks = made.remarks.clone();
        let mut more_arms = Vec::new();
        if let Some(chosen) = &chosen {
            let data = inputs.improve_data(divided);
            for (arm, about) in improved_arms(&model, chosen, &data, &sets.all_prompts(), bar)? {
                more_arms.push(arm);
                remarks.push(about);
            }
        }
        for (row, categories) in missing(&made.methods, &sets.categories) {
            let categories = categories.join(", ");
            remarks.push(format!("{row}: no vector for {categories}, which stay unsteered there."));
        }
        let num_hidden_layers = model.identity.num_hidden_layers;
        Ok(Self { made, chosen, more_arms, sets, remarks, num_hidden_layers })
    }
}

/// The vectors of the store, as its policy applies them.
fn chosen(config: &Config, model: &LoadedModel) -> anyhow::Result<Chosen> {
    let root = config.model.vectors_root()?;
    let current = read_current(&root)?;
    let generation = load_generation(&root, &current.generation, Some(&binding(&model.identity)))?;
    Ok(Chosen::of_generation(&generation)?)
}

/// Everything that was read.
struct Inputs {
    data: Vec<DataSet>,
    generic: Option<DataSet>,
    also: Vec<(String, DataSet)>,
    map: CategoryMap,
    harmless: Vec<(String, DataSet)>,
    constraints: Vec<Item>,
    texts: Vec<String>,
}

/// Prompts of the study.
struct Sets {
    categories: Vec<Category>,
    tuning: Vec<Prompt>,
    harmful: Vec<PromptSet>,
    harmless: Vec<PromptSet>,
    constraints: Vec<Item>,
    texts: Vec<String>,
}

/// Plain texts whose perplexity is taken under every row: each costs as much as ten answers.
const MAX_TEXTS: usize = 20;

type ByCategory<'a> = BTreeMap<Category, Divided<'a>>;

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl Inputs {
    fn read(args: &Args) -> anyhow::Result<Self> {
        let one = |path: &PathBuf| args.data_flags.read(path);
        let named = |paths: &[PathBuf]| -> anyhow::Result<Vec<(String, DataSet)>> {
            paths.iter().map(|path| Ok((stem(path), one(path)?))).collect()
        };
        let items = |path: &Option<PathBuf>| -> anyhow::Result<Vec<Item>> {
            Ok(path.as_ref().map(one).transpose()?.map(|set| set.items).unwrap_or_default())
        };
        let inputs = Self {
            data: args.data.iter().map(one).collect::<Result<_, _>>()?,
            generic: args.generic.as_ref().map(one).transpose()?,
            also: named(&args.also)?,
            map: args.map.as_deref().map(CategoryMap::read).transpose()?.unwrap_or_default(),
            harmless: named(&args.harmless)?,
            constraints: items(&args.constraints)?,
            texts: items(&args.texts)?.into_iter().map(|item| item.text).collect(),
        };
        for (name, set) in inputs.also.iter().chain(&inputs.harmless) {
            for data in &inputs.data {
                refuse_overlap(data, set).with_context(|| format!("{name} and --data"))?;
            }
        }
        Ok(inputs)
    }

    fn divided(&self) -> anyhow::Result<ByCategory<'_>> {
        let items = self.data.iter().flat_map(|set| &set.items);
        Ok(Shares::default().divide(items.filter(|item| item.harmful == Some(true)))?)
    }

    fn sources<'a>(&'a self, divided: &ByCategory<'a>) -> Sources<'a> {
        let parts = divided.iter();
        let harmful: BTreeMap<Category, Vec<&Item>> =
            parts.map(|(category, parts)| (category.clone(), parts.extraction.clone())).collect();
        let ids: HashSet<&str> = harmful.values().flatten().map(|item| item.id.as_str()).collect();
        let all = self.data.iter().flat_map(|set| &set.items);
        let twins = all.filter(|item| item.twin_of.as_deref().is_some_and(|id| ids.contains(id)));
        let mut data_sha256: Vec<String> = self.data.iter().map(|set| set.sha256.clone()).collect();
        data_sha256.extend(self.generic.iter().map(|set| set.sha256.clone()));
        let generic = self.generic_part(0);
        Sources { twins: twins.collect(), harmful, generic, data_sha256, work_dir: None }
    }

    /// Generic harmless prompts: even ones to extract from, odd ones to fit improvements to.
    fn generic_part(&self, first: usize) -> Vec<&Item> {
        const NUM_GENERIC: usize = 110;
        let items: Vec<&Item> = self.generic.iter().flat_map(|set| &set.items).collect();
        let part: Vec<&Item> = items.into_iter().skip(first).step_by(2).collect();
        spread(&part, NUM_GENERIC)
    }

    /// Harmful prompts of the extraction part, and as many harmless ones: twins, and generic ones that no row was made
    /// from.
    fn improve_data(&self, divided: &ByCategory<'_>) -> ImproveData {
        let text = |item: &&Item| Text::prompt(&item.id, &item.text);
        let sources = self.sources(divided);
        let generic = self.generic_part(1);
        let benign = sources.twins.iter().chain(&generic).map(text).collect();
        ImproveData { benign, harmful: sources.harmful.values().flatten().map(text).collect() }
    }

    fn sets(&self, args: &Args, divided: &ByCategory<'_>, made: &Made) -> anyhow::Result<Sets> {
        let (per_category, num_harmless) = if args.full {
            (usize::MAX, usize::MAX)
        } else {
            (args.per_category, args.num_harmless)
        };
        let categories: Vec<Category> = divided.keys().cloned().collect();
        if made.methods.is_empty() {
            bail!("no row can be made: give twins in --data, or --generic FILE");
        }
        let part = |of: for<'p, 'd> fn(&'p Divided<'d>) -> &'p Vec<&'d Item>| {
            let parts = divided
                .iter()
                .map(|(category, parts)| (category.clone(), spread(of(parts), per_category)));
            harmful_prompts(&parts.collect())
        };
        let mut harmful =
            vec![PromptSet { name: stem(&args.data[0]), prompts: part(|parts| &parts.test) }];
        for (name, set) in &self.also {
            harmful.push(self.mapped(name, set, &categories, per_category)?);
        }
        let harmless = self.harmless.iter().map(|(name, set)| {
            let items: Vec<&Item> =
                set.items.iter().filter(|item| item.harmful != Some(true)).collect();
            let prompts = harmless_prompts(spread(&items, num_harmless), &categories);
            PromptSet { name: name.clone(), prompts }
        });
        let constraints: Vec<&Item> = self.constraints.iter().collect();
        let texts: Vec<&String> = self.texts.iter().collect();
        let max_texts = if args.full { usize::MAX } else { num_harmless.min(MAX_TEXTS) };
        Ok(Sets {
            tuning: part(|parts| &parts.calibration),
            harmful,
            harmless: harmless.collect(),
            constraints: spread(&constraints, num_harmless).into_iter().cloned().collect(),
            texts: spread(&texts, max_texts).into_iter().cloned().collect(),
            categories,
        })
    }

    /// A set of another taxonomy under our categories.
    fn mapped(
        &self,
        name: &str,
        set: &DataSet,
        categories: &[Category],
        per_category: usize,
    ) -> anyhow::Result<PromptSet> {
        if !self.map.has(name) {
            bail!("--map says nothing about the set `{name}`");
        }
        let mut by_category: BTreeMap<Category, Vec<&Item>> = BTreeMap::new();
        for item in set.items.iter().filter(|item| item.harmful != Some(false)) {
            let category = self.map.category_of(name, item, Fit::Medium);
            if let Some(category) = category.filter(|one| categories.contains(one)) {
                by_category.entry(category).or_default().push(item);
            }
        }
        for items in by_category.values_mut() {
            *items = spread(items, per_category);
        }
        if by_category.is_empty() {
            bail!("no prompt of `{name}` has a category that --map leads to one of --data");
        }
        Ok(PromptSet { name: name.to_owned(), prompts: harmful_prompts(&by_category) })
    }
}

impl Sets {
    /// All that are asked, those with constraints among them.
    fn all_prompts(&self) -> Vec<Prompt> {
        let sets = self.harmful.iter().chain(&self.harmless);
        let mut prompts: Vec<Prompt> = sets.flat_map(|set| set.prompts.iter().cloned()).collect();
        prompts.extend(harmless_prompts(&self.constraints, &self.categories));
        prompts
    }
}

fn facts(args: &Args, inputs: &Inputs, sets: &Sets, started: Instant) -> Vec<(String, String)> {
    let count = |sets: &[PromptSet]| {
        let of = |set: &PromptSet| format!("{} ({})", set.name, set.prompts.len());
        sets.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    let files = args.data.iter().chain(&args.generic).map(|path| stem(path));
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("Extraction data", files.collect::<Vec<_>>().join(", ")),
        fact("Harmful prompts asked", count(&sets.harmful)),
        fact("Harmless prompts asked", count(&sets.harmless)),
        fact(
            "Prompts with constraints",
            format!("{} of {}", sets.constraints.len(), inputs.constraints.len()),
        ),
        fact("Time", format!("{:.0} minutes", started.elapsed().as_secs_f64() / 60.0)),
    ]
}

fn write(folder: &Path, figures: &StudyFigures, about: &About) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let save = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let json = serde_json::to_string_pretty(figures)?;
    save("figures.json", (json + "\n").as_bytes())?;
    let made = figures.report(about)?;
    for (name, bytes) in &made.files {
        save(name, bytes)?;
    }
    let markdown = made.report.to_markdown();
    save("report.md", markdown.as_bytes())?;
    save("report.html", made.report.to_html().as_bytes())?;
    output::line(&markdown)?;
    output::note(&format!("the report is {}", folder.join("report.html").display()));
    Ok(())
}
