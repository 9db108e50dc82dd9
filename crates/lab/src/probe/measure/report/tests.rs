//! Reports of a few made-up verdicts.

use super::*;
use crate::probe::Prompt;

fn categories() -> Vec<Category> {
    ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap()).to_vec()
}

/// A corpus and verdicts of `(set, harmful, category, harm, first category)`.
pub(in crate::probe::measure) fn measured(
    sets: &[&str],
    rows: &[(usize, bool, Option<usize>, f32, usize)],
) -> (Corpus, Vec<Verdict>) {
    let prompts =
        rows.iter().enumerate().map(|(idx, &(set_idx, harmful, category_idx, ..))| Prompt {
            set_idx,
            id: format!("p{idx}"),
            conversation: Vec::new(),
            harmful,
            category_idx,
            twin_of: None,
            copied_as: None,
        });
    let corpus = Corpus {
        sets: sets.iter().map(|name| ((*name).to_owned(), Vec::new())).collect(),
        categories: categories(),
        prompts: prompts.collect(),
    };
    let verdict = |&(_, _, _, harm, first): &(usize, bool, Option<usize>, f32, usize)| {
        let [fraud, privacy] = [0, 1].map(|idx| if idx == first { 0.75_f32 } else { 0.25 });
        let mut shares: Vec<_> = categories().into_iter().zip([fraud, privacy]).collect();
        shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Verdict { harm, categories: shares }
    };
    (corpus, rows.iter().map(verdict).collect())
}

/// Harmful only, both kinds, harmless only.
pub(in crate::probe::measure) fn three_sets() -> (Corpus, Vec<Verdict>) {
    measured(
        &["attacks", "mixed", "everyday"],
        &[
            (0, true, Some(0), 0.9, 0),
            (0, true, Some(1), 0.75, 0),
            (0, true, None, 0.25, 1),
            (1, true, Some(1), 0.5, 1),
            (1, false, None, 0.75, 1),
            (1, false, None, 0.125, 0),
            (2, false, None, 0.125, 0),
            (2, false, None, 0.0, 0),
        ],
    )
}

#[test]
fn sets_with_harmless_prompts_are_rows_against_the_pool_and_their_own() {
    let (corpus, verdicts) = three_sets();
    let report = ProbeReport::new(&corpus, &verdicts).unwrap();
    assert_eq!(report.pooled, ["attacks"]);
    let rows: Vec<_> = report
        .sets
        .iter()
        .map(|row| {
            let Operating { num_harmful, num_harmless, auc, at_limits, .. } = &row.operating;
            let auc = auc.unwrap().value;
            let recall = at_limits[0].recall.count;
            (row.set.as_str(), row.against, *num_harmful, *num_harmless, auc, recall)
        })
        .collect();
    // Pairs won of `mixed` against the pool: 2 + 1.5 + 1 of 6, and against its own: 1 of 2.
    let expected = [
        ("mixed", Against::Pooled, 3, 2, 0.75, 1),
        ("mixed", Against::Own, 1, 2, 0.5, 0),
        ("everyday", Against::Pooled, 3, 2, 1.0, 3),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn categories_leave_out_harmful_prompts_without_one() {
    let (corpus, verdicts) = three_sets();
    let report = ProbeReport::new(&corpus, &verdicts).unwrap();
    assert_eq!(report.num_without_category, 1);
    let rows: Vec<_> = report
        .categories
        .unwrap()
        .confusion
        .into_iter()
        .map(|row| (row.predicted, row.none))
        .collect();
    // One half alarms.
    assert_eq!(rows, [(vec![1, 0], 0), (vec![1, 1], 0), (vec![0, 1], 3)]);
    assert_eq!(report.calibration.total, 8);
}

#[test]
fn tables_have_the_figures() {
    let (corpus, verdicts) = three_sets();
    let report = ProbeReport::new(&corpus, &verdicts).unwrap();
    let (plain, markdown) = (report.to_plain(), report.to_markdown());
    let titles: Vec<&str> = markdown.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(
        titles,
        [
            "Recall and false alarms",
            "Calibration",
            "Calibration by probability",
            "Categories, alarms from a probability of 0.5",
            "Confusions, alarms from a probability of 0.5"
        ]
    );
    for title in titles {
        assert!(plain.lines().any(|line| line == title), "{title} is not in {plain}");
    }
    for row in [
        "| harmless prompts of | against | harmless | harmful | AUC | recall at 1 % false alarms | \
         recall at 2 % false alarms | recall at 5 % false alarms | false alarms at 80 % recall |",
        "| privacy | 1 | 1 | 0 |",
        "| harmless | 0 | 1 | 3 |",
        "| category not known | 1 | - | - | - |",
        "| 0.1 to 0.2 | 2 | 0.125 | 0.00 [0.00, 0.66] |",
        "| 0.3 to 0.4 | 0 | - | - |",
    ] {
        assert!(markdown.lines().any(|line| line == row), "{row} is not in {markdown}");
    }
    assert!(markdown.contains("| everyday | attacks | 2 | 3 | 1.00 [1.00, 1.00] |"), "{markdown}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["sets"][1]["against"], "own");
    assert_eq!(json["categories"]["confusion"][2]["category"], serde_json::Value::Null);
}

#[test]
fn one_kind_and_nothing_still_make_a_report() {
    let (corpus, verdicts) = measured(&["attacks"], &[(0, true, Some(0), 0.5, 0)]);
    let only_harmful = ProbeReport::new(&corpus, &verdicts).unwrap();
    assert!(only_harmful.sets.is_empty());
    assert!(only_harmful.to_plain().starts_with("Calibration\n"));
    let (corpus, verdicts) = measured(&["everyday"], &[(0, false, None, 0.5, 0)]);
    let only_harmless = ProbeReport::new(&corpus, &verdicts).unwrap();
    assert!(only_harmless.sets.is_empty() && only_harmless.pooled.is_empty());
    let (mut corpus, verdicts) = measured(&[], &[]);
    assert!(ProbeReport::new(&corpus, &verdicts).unwrap().to_markdown().contains("| 0 | - | - |"));
    corpus.categories.clear();
    assert_eq!(ProbeReport::new(&corpus, &verdicts).unwrap().categories, None);
}

#[test]
fn verdicts_that_do_not_fit_are_refused() {
    let (corpus, mut verdicts) = three_sets();
    let refused =
        |verdicts: &[Verdict]| ProbeReport::new(&corpus, verdicts).unwrap_err().to_string();
    assert!(refused(&verdicts[1..]).contains("7 verdicts for 8 prompts"));
    verdicts[0].categories = vec![(Category::parse("malware").unwrap(), 1.0)];
    assert!(refused(&verdicts).contains("prompt `p0` alarms as `malware`; expected one of"));
    verdicts[0].categories.clear();
    assert!(refused(&verdicts).contains("alarms as `nothing`"));
    verdicts[0].harm = f32::NAN;
    assert!(refused(&verdicts).contains("prompt 0 is NaN"));
}
