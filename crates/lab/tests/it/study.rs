//! The study with a scripted model whose answers follow a known dose-response.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use skeg_lab::calibrate::Candidate;
use skeg_lab::evaluate::{AppliedVector, SharedModel};
use skeg_lab::experiment::{Arm, Laboratory, Prompt, Scorers};
use skeg_lab::judge::Judges;
use skeg_lab::likelihood::{Likelihood as _, ModelLikelihood, SteeredText};
use skeg_lab::study::{
    About, ArmFigures, ArmKind, Chosen, ChosenRule, Method, PromptSet, StudyFigures, StudySpec,
    budget, study,
};
use skeg_lab::{Item, NoProgress, catqa_categories};
use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::Category;

use crate::calibrate::{SURE, Surface, extraction_at, prompts};
use crate::tiny_model::{CONTEXT, model, rows};

/// Stands in every prompt and every prompt's id.
const MARK: &str = "zanzibar";

/// Vectors too short to act at strength 1; for the first categories only, if so asked.
fn method(name: &str, num_categories: usize) -> Method {
    let mut extraction = extraction_at(Site::AttnOut, 0.4);
    // The last layer's are relatively longer, so that a dose is less strength there.
    for category in extraction.categories.values_mut() {
        category.layers[1].relative_norm = 0.4;
    }
    while extraction.categories.len() > num_categories {
        extraction.categories.pop_last();
    }
    let candidate = Candidate::new(name, &extraction).unwrap();
    Method { name: name.to_owned(), is_pruned: false, candidate }
}

/// Rows that differ by category in the second coordinate, so that no two are parallel.
fn chosen_rows() -> BTreeMap<Category, Vec<LayerVector>> {
    let rows = |idx: usize| {
        let row = |layer| LayerVector { layer, values: vec![1.0, 0.1 * idx as f32, 0.0, 0.0] };
        [0, 2].map(row).to_vec()
    };
    catqa_categories().into_iter().enumerate().map(|(idx, one)| (one, rows(idx))).collect()
}

fn rule(strength: f32) -> ChosenRule {
    ChosenRule { strength, positions: Positions::All }
}

fn chosen(rows: BTreeMap<Category, Vec<LayerVector>>) -> Chosen {
    Chosen {
        name: "generation".to_owned(),
        site: Site::AttnOut,
        operator: Operator::Add,
        rules: rows.keys().cloned().map(|category| (category, rule(1.5))).collect(),
        rows,
    }
}

/// What a spec borrows.
struct Data {
    methods: Vec<Method>,
    tuning: Vec<Prompt>,
    harmful: Vec<PromptSet>,
    harmless: Vec<PromptSet>,
    constraints: Vec<Item>,
    texts: Vec<String>,
}

fn set(name: &str, per_category: usize, is_harmful: bool) -> PromptSet {
    let part = format!("{MARK} {name}");
    PromptSet { name: name.to_owned(), prompts: prompts(&part, per_category, is_harmful) }
}

fn data(methods: Vec<Method>) -> Data {
    let constraint = |number: usize| Item {
        subcategory: Some("punctuation:no_comma".to_owned()),
        ..Item::new(format!("{MARK}-{number}"), format!("{MARK} without commas"), "own")
    };
    Data {
        methods,
        tuning: prompts(&format!("{MARK} tuning"), 4, true),
        harmful: vec![set("first", 3, true), set("second", 1, true)],
        harmless: vec![set("meek", 2, false)],
        constraints: (0..5).map(constraint).collect(),
        texts: vec!["a plain text".to_owned(), "and one more of them".to_owned()],
    }
}

impl Data {
    fn spec(&self, chosen: Option<Chosen>, more_arms: Vec<Arm>) -> StudySpec<'_> {
        StudySpec {
            methods: &self.methods,
            chosen,
            more_arms,
            tuning: &self.tuning,
            harmful: &self.harmful,
            harmless: &self.harmless,
            constraints: &self.constraints,
            texts: &self.texts,
            max_new_tokens: 24,
            seed: 5,
        }
    }
}

/// The study, and how many answers it took; within its budget.
fn run(spec: &StudySpec<'_>, likelihood: Option<&mut ModelLikelihood>) -> (StudyFigures, usize) {
    let (figures, num_answers) = try_run(spec, likelihood);
    let budget = budget(spec);
    assert!(num_answers <= budget.num_answers, "{num_answers} of {budget:?}");
    assert_eq!(budget.num_tokens, budget.num_answers * spec.max_new_tokens);
    (figures.unwrap(), num_answers)
}

fn try_run(
    spec: &StudySpec<'_>,
    likelihood: Option<&mut ModelLikelihood>,
) -> (skeg_lab::Result<StudyFigures>, usize) {
    let (mut surface, mut judges) = (Surface::default(), Judges::rules());
    let likelihood = likelihood.map(|own| Scorers { own, second: None });
    let mut laboratory = Laboratory { answerer: &mut surface, judges: &mut judges, likelihood };
    let figures = study(&mut laboratory, spec, 3, &mut NoProgress);
    (figures, surface.num_answers)
}

fn whole_study() -> StudyFigures {
    let data = data(vec![method("unsupervised", 11), method("pruned", 11)]);
    let chosen = chosen(chosen_rows());
    let halved = |prompt: &Prompt| (prompt.id.clone(), 0.1);
    let factors: HashMap<String, f32> = data.harmful[1].prompts.iter().map(halved).collect();
    let mut extra = Arm { factors, ..chosen.arm("by condition") };
    let constrained = data.constraints.iter().map(|item| (item.id.clone(), 0.1));
    extra.factors.extend(constrained);
    run(&data.spec(Some(chosen), vec![extra]), None).0
}

fn arm<'a>(figures: &'a StudyFigures, name: &str, kind: ArmKind) -> &'a ArmFigures {
    let mut arms = figures.arms.iter().filter(|arm| arm.name == name && arm.kind == kind);
    arms.next().unwrap()
}

/// Unsafe and refused answers to a set of harmful prompts.
fn unsafe_and_refused(arm: &ArmFigures, set: &str) -> (usize, usize) {
    let total = &arm.harmful[set].total;
    (total.is_unsafe, total.refused)
}

#[test]
fn every_row_is_there_in_order_with_its_kind_and_setting() {
    let figures = whole_study();
    let rows: Vec<(&str, ArmKind, &str)> = figures
        .arms
        .iter()
        .map(|arm| (arm.name.as_str(), arm.kind, arm.setting.as_str()))
        .collect();
    // The tuned push is strength times 0.4 times the number of layers: declines from 1 on.
    let expected = [
        ("naive", ArmKind::Naive, "-"),
        ("unsupervised", ArmKind::PaperSetting, "attn_out 0, 1"),
        ("pruned", ArmKind::PaperSetting, "attn_out 0, 1"),
        ("unsupervised", ArmKind::Tuned, "attn_out 0 2, 1.3"),
        ("pruned", ArmKind::Tuned, "attn_out 0 2, 1.3"),
        ("calibrated", ArmKind::Chosen, "attn_out 0 2, 1.5"),
        ("calibrated, norm restored", ArmKind::Improved, "attn_out 0 2, 1.5, norm restored"),
        ("random, equal norm", ArmKind::Control, "attn_out 0 2, 1.5"),
        ("unrelated category", ArmKind::Control, "attn_out 0 2, 1.5"),
        ("pooled", ArmKind::Control, "attn_out 0 2, 1.5"),
        ("by condition", ArmKind::Improved, "as calibrated"),
        ("safety system prompt", ArmKind::Baseline, "-"),
    ];
    assert_eq!(rows, expected);
    assert_eq!((figures.max_new_tokens, figures.seed), (24, 5));
    assert_eq!(figures.judges, ["refusal phrases", "repetition measure"]);
}

#[test]
fn each_row_s_counts_are_those_of_its_own_answers() {
    let figures = whole_study();
    // 11 categories, one of which cannot be moved.
    let at = |name, kind, set| unsafe_and_refused(arm(&figures, name, kind), set);
    assert_eq!(at("naive", ArmKind::Naive, "first"), (33, 0));
    assert_eq!(at("unsupervised", ArmKind::PaperSetting, "first"), (33, 0));
    assert_eq!(at("unsupervised", ArmKind::Tuned, "first"), (3, 30));
    assert_eq!(at("calibrated", ArmKind::Chosen, "first"), (3, 30));
    assert_eq!(at("calibrated", ArmKind::Chosen, "second"), (1, 10));
    // The condition holds for the second set alone.
    assert_eq!(at("by condition", ArmKind::Improved, "first"), (3, 30));
    assert_eq!(at("by condition", ArmKind::Improved, "second"), (11, 0));
    assert_eq!(at("safety system prompt", ArmKind::Baseline, "first"), (33, 0));
    let own = arm(&figures, "calibrated", ArmKind::Chosen);
    let stubborn: Category = "political_campaigning".parse().unwrap();
    for (category, counts) in &own.harmful["first"].by_category {
        let expected = if *category == stubborn { 3 } else { 0 };
        assert_eq!((counts.total, counts.is_unsafe), (3, expected), "{category}");
    }
    let difference = own.harmful["first"].against_naive.unwrap();
    assert!((difference.value + 30.0 / 33.0).abs() < 1e-12 && difference.high < -0.7);
    assert_eq!(arm(&figures, "naive", ArmKind::Naive).harmful["first"].against_naive, None);
    // Harmless prompts are steered all the same.
    assert_eq!((own.harmless["meek"].refused, own.harmless["meek"].total), (22, 22));
    assert_eq!(arm(&figures, "naive", ArmKind::Naive).harmless["meek"].refused, 0);
    // The answer that complies has a comma, the refusal has none.
    let followed = |name, kind| {
        let followed = arm(&figures, name, kind).constraints.unwrap();
        (followed.count, followed.total)
    };
    assert_eq!(followed("naive", ArmKind::Naive), (0, 5));
    assert_eq!(followed("calibrated", ArmKind::Chosen), (5, 5));
    assert_eq!(followed("by condition", ArmKind::Improved), (0, 5));
    assert!(figures.arms.iter().all(|arm| arm.perplexity.is_none()));
}

#[test]
fn the_dose_is_measured_by_layers_and_through_zero() {
    let figures = whole_study();
    let heat = figures.heat.as_ref().unwrap();
    // Both rows fail alike when tuned: the first.
    assert_eq!(heat.vectors, "unsupervised");
    assert_eq!(heat.layers, ["0", "2", "0-2"]);
    assert_eq!(heat.doses, [0.1, 0.2, 0.4, 0.8, 1.6]);
    // Pushes are 2 and 1 times the dose in a layer, 2.7 times in both: declines from 1 to 4, broken beyond.
    let cell = |layer: usize, dose: usize| {
        let counts = &heat.cells[layer][dose];
        assert_eq!(counts.total, 22);
        (counts.refused, counts.degenerate)
    };
    let row = |layer| [0, 1, 2, 3, 4].map(|dose| cell(layer, dose));
    assert_eq!(row(0), [(0, 0), (0, 0), (0, 0), (20, 0), (20, 0)]);
    assert_eq!(row(1), [(0, 0), (0, 0), (0, 0), (0, 0), (20, 0)]);
    assert_eq!(row(2), [(0, 0), (0, 0), (20, 0), (20, 0), (0, 22)]);

    let strengths: Vec<f32> = figures.ladder.iter().map(|rung| rung.strength).collect();
    assert!(strengths.is_sorted_by(|a, b| a < b), "{strengths:?}");
    assert!(strengths[0] < 0.0 && strengths.contains(&0.0) && strengths.contains(&1.0));
    for rung in &figures.ladder {
        let push = 3.0 * rung.strength;
        let expected = if push.abs() > 4.0 {
            (0, 44)
        } else if push >= 1.0 {
            (40, 0)
        } else {
            (0, 0)
        };
        assert_eq!((rung.harmful.refused, rung.harmful.degenerate), expected, "{push}");
        assert_eq!(rung.by_category.len(), 11);
        assert_eq!(rung.harmful.max_relative_norm.is_some(), rung.strength != 0.0);
    }
    let window = figures.window.unwrap();
    assert_eq!((window.min, window.max), (0.0, 1.25));
}

#[test]
fn cosines_are_symmetric_with_1_on_the_diagonal() {
    let figures = whole_study();
    assert_eq!(figures.categories, chosen_rows().into_keys().collect::<Vec<_>>());
    let place = |wanted: &Category| {
        figures.categories.iter().position(|category| category == wanted).unwrap()
    };
    for (idx, row) in figures.cosines.iter().enumerate() {
        assert!((row[idx] - 1.0).abs() < 1e-12);
        for (other, value) in row.iter().enumerate() {
            assert!((value - figures.cosines[other][idx]).abs() < 1e-12);
            assert!(idx == other || *value < 0.999);
        }
    }
    // Of (1, 0) and (1, 0.1 n).
    for (n, category) in catqa_categories().iter().enumerate() {
        let found = figures.cosines[place(&catqa_categories()[0])][place(category)];
        let expected = 1.0 / (1.0 + 0.01 * (n * n) as f64).sqrt();
        assert!((found - expected).abs() < 1e-6, "{category}: {found}");
    }
}

#[test]
fn the_report_names_every_row_and_holds_no_text() {
    let figures = whole_study();
    let about = About {
        model: "tiny".to_owned(),
        facts: vec![("seed".to_owned(), "5".to_owned())],
        methods: vec![vec!["vectors".to_owned()], vec!["unsupervised".to_owned()]],
        judges: vec![vec!["judge".to_owned()], vec!["phrases".to_owned()]],
        remarks: vec!["Nothing else was run.".to_owned()],
    };
    let study = figures.report(&about).unwrap();
    let (html, markdown) = (study.report.to_html(), study.report.to_markdown());
    let json = serde_json::to_string(&figures).unwrap();
    for text in [&html, &markdown, &json] {
        for arm in &figures.arms {
            assert!(text.contains(&arm.name), "{}", arm.name);
        }
        for secret in [MARK, SURE, "no no no", "I can't help with that"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
    for text in [&html, &markdown] {
        for part in
            ["tiny", "Nothing else was run.", "political_campaigning", "%UR first", "phrases"]
        {
            assert!(text.contains(part), "{part}");
        }
        // Each set stands in one of the two tables.
        assert_eq!(["%UR first", "%UR second"].map(|name| text.matches(name).count()), [1, 1]);
    }
    assert!(html.starts_with("<!") && !html.contains("<script"));
    let read: StudyFigures = serde_json::from_str(&json).unwrap();
    assert_eq!((read.arms.len(), read.ladder.len(), read.heat), (12, 12, figures.heat.clone()));
    // Pictures in pairs, and Markdown that finds them.
    let names: BTreeSet<&str> = study.files.iter().map(|(name, _)| name.as_str()).collect();
    let stems = ["categories-first", "categories-second", "cosines", "dose-response", "layers"];
    let expected: Vec<String> =
        stems.iter().flat_map(|stem| [format!("{stem}.png"), format!("{stem}.svg")]).collect();
    assert!(names.iter().eq(expected.iter()), "{names:?}");
    assert_eq!(names.len(), study.files.len());
    for (name, bytes) in &study.files {
        let start: &[u8] = if name.ends_with(".png") { b"\x89PNG" } else { b"<svg" };
        assert!(bytes.starts_with(start), "{name}");
        assert!(name.ends_with(".png") || markdown.contains(name.as_str()), "{name}");
    }
}

/// Guided rows lack the categories in which a judge confirmed too little.
#[test]
fn categories_without_a_vector_stay_unsteered_and_few_of_them_keep_the_budget() {
    let mut data = data(vec![method("guided", 2)]);
    let mut chosen = chosen(chosen_rows());
    while chosen.rows.len() > 2 {
        chosen.rows.pop_last();
    }
    let steered: Vec<Category> = chosen.rows.keys().cloned().collect();
    let (figures, _) = run(&data.spec(Some(chosen), Vec::new()), None);
    for (name, kind) in [("guided", ArmKind::Tuned), ("calibrated", ArmKind::Chosen)] {
        for (category, counts) in &arm(&figures, name, kind).harmful["first"].by_category {
            let expected = if steered.contains(category) { 0 } else { 3 };
            assert_eq!(counts.is_unsafe, expected, "{name} {category}");
        }
        // Constraints are asked under the vectors there are.
        assert_eq!(arm(&figures, name, kind).constraints.unwrap().count, 5);
    }
    assert_eq!(figures.ladder.last().unwrap().harmful.degenerate, 8);
    assert_eq!(figures.heat.unwrap().cells[2][3].refused, 4);
    // Few categories have more prompts each in a search.
    data.tuning.retain(|prompt| steered.contains(&prompt.category));
    data.constraints.clear();
    run(&data.spec(None, Vec::new()), None);
    // Without a prompt to tune on, the paper's setting remains.
    data.tuning.clear();
    let (figures, num_answers) = run(&data.spec(None, Vec::new()), None);
    assert_eq!(figures.report(&About::default()).unwrap().files.len(), 4, "the bars of two sets");
    let kinds: Vec<ArmKind> = figures.arms.iter().map(|arm| arm.kind).collect();
    assert_eq!(kinds, [ArmKind::Naive, ArmKind::PaperSetting, ArmKind::Baseline]);
    assert_eq!(num_answers, 3 * 11 * (3 + 1 + 2));
    assert_eq!((figures.heat, figures.window), (None, None));
}

#[test]
fn no_prompt_is_an_error() {
    let data = Data { harmful: Vec::new(), harmless: Vec::new(), ..data(Vec::new()) };
    let error = try_run(&data.spec(None, Vec::new()), None).0.unwrap_err();
    assert!(error.to_string().contains("no harmful prompt to study"), "{error}");
}

#[test]
fn each_text_meets_the_vector_of_some_category() {
    let mut likelihood = ModelLikelihood::new(&SharedModel::from(model()), CONTEXT).unwrap();
    let data = data(Vec::new());
    let mut chosen = chosen(BTreeMap::new());
    for (category, (seed, strength)) in
        catqa_categories().into_iter().zip([(0.3, 0.5), (0.7, -2.0)])
    {
        chosen.rules.insert(category.clone(), rule(strength));
        chosen.rows.insert(category, rows(&[0, 2], seed));
    }
    let conditional =
        Arm { factors: HashMap::from([("id".to_owned(), 0.5)]), ..chosen.arm("by condition") };
    let vectors: Vec<AppliedVector> = chosen.arm("own").vectors.into_values().collect();
    let spec = data.spec(Some(chosen), vec![conditional]);
    let (figures, _) = run(&spec, Some(&mut likelihood));
    let mut expected = |vectors: [Option<&AppliedVector>; 2]| {
        let pairs = data.texts.iter().zip(vectors);
        let texts: Vec<_> = pairs.map(|(text, vector)| SteeredText { text, vector }).collect();
        likelihood.perplexity(&texts, &mut NoProgress).unwrap()
    };
    let plain = expected([None, None]);
    // Eleven categories of prompts, two vectors: those that are left unsteered have no turn.
    let steered = expected([Some(&vectors[0]), Some(&vectors[1])]);
    let turned = expected([Some(&vectors[1]), Some(&vectors[0])]);
    assert!([plain, turned].iter().all(|other| (steered.ln() - other.ln()).abs() > 1e-2));
    let found = |name, kind| arm(&figures, name, kind).perplexity;
    for (name, kind) in [("naive", ArmKind::Naive), ("safety system prompt", ArmKind::Baseline)] {
        assert_eq!(found(name, kind), Some(plain));
    }
    assert_eq!(found("calibrated", ArmKind::Chosen), Some(steered));
    // A text has no prompt that could decide the strength.
    assert_eq!(found("by condition", ArmKind::Improved), None);
    assert_eq!(arm(&figures, "by condition", ArmKind::Improved).constraints, None);
}
