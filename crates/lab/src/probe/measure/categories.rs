//! Which category a probe takes a prompt for, where it alarms.

use serde::Serialize;
use skeg_vector_store::Category;

use crate::error::{Error, Result};
use crate::evaluate::Share;

/// One category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryFigures {
    /// Its name.
    pub category: Category,
    /// Of the prompts that alarm as this category those that are of it; harmless ones count as wrong.
    pub precision: Share,
    /// Of its prompts those that alarm as this category.
    pub recall: Share,
    /// `2 TP / (2 TP + FP + FN)`; `None` where that is 0 / 0.
    pub f1: Option<f64>,
}

/// A row of the confusion matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfusionRow {
    /// What the prompts are; `None`: harmless.
    pub category: Option<Category>,
    /// Its prompts that alarm, by the category that they are taken for, in the categories' order.
    pub predicted: Vec<usize>,
    /// Its prompts that do not alarm: missed where they are harmful, rightly passed where they are not.
    pub none: usize,
}

/// Precision, recall and confusions of categories.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryReport {
    /// One a category.
    pub categories: Vec<CategoryFigures>,
    /// Mean F1 of the categories that have prompts; `None` where none has.
    pub macro_f1: Option<f64>,
    /// One row a category, and the last for harmless prompts.
    pub confusion: Vec<ConfusionRow>,
}

impl CategoryReport {
    /// The figures of pairs `(true, predicted)` of indices into `categories`: a harmless prompt is truly `None`, and a prompt
    /// that does not alarm is predicted `None`.
    ///
    /// # Errors
    /// [`Error::Data`] for an index that is no category's.
    pub fn new(categories: &[Category], pairs: &[(Option<usize>, Option<usize>)]) -> Result<Self> {
        let num = categories.len();
        // The last row is of harmless prompts, the last column of those that do not alarm.
        let mut counts = vec![vec![0_usize; num + 1]; num + 1];
        for (prompt_idx, &(truth, predicted)) in pairs.iter().enumerate() {
            if let Some(idx) = [truth, predicted].into_iter().flatten().find(|&idx| idx >= num) {
                return Err(Error::Data(format!(
                    "prompt {prompt_idx} has category {idx}; expected one of the {num} categories"
                )));
            }
            counts[truth.unwrap_or(num)][predicted.unwrap_or(num)] += 1;
        }
        let figures: Vec<CategoryFigures> =
            categories.iter().enumerate().map(|(idx, one)| figures(one, idx, &counts)).collect();
        let f1s: Vec<f64> = figures
            .iter()
            .filter(|figures| figures.recall.total > 0)
            .filter_map(|figures| figures.f1)
            .collect();
        let macro_f1 = (!f1s.is_empty()).then(|| f1s.iter().sum::<f64>() / f1s.len() as f64);
        let names = categories.iter().cloned().map(Some).chain([None]);
        let confusion = names
            .zip(counts)
            .map(|(category, mut row)| {
                let none = row.pop().unwrap_or_default();
                ConfusionRow { category, predicted: row, none }
            })
            .collect();
        Ok(Self { categories: figures, macro_f1, confusion })
    }
}

fn figures(category: &Category, idx: usize, counts: &[Vec<usize>]) -> CategoryFigures {
    let right = counts[idx][idx];
    let num_predicted: usize = counts.iter().map(|row| row[idx]).sum();
    let num_true: usize = counts[idx].iter().sum();
    let of = num_predicted + num_true;
    CategoryFigures {
        category: category.clone(),
        precision: Share::new(right, num_predicted),
        recall: Share::new(right, num_true),
        f1: (of > 0).then(|| (2 * right) as f64 / of as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn categories() -> Vec<Category> {
        ["fraud", "privacy", "malware"].map(|slug| Category::parse(slug).unwrap()).to_vec()
    }

    fn close(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn figures_are_those_of_a_count_by_hand() {
        let pairs = [
            (Some(0), Some(0)),
            (Some(0), Some(0)),
            (Some(0), Some(1)),
            (Some(0), None),
            (Some(1), Some(1)),
            (None, Some(0)),
            (None, None),
            (None, None),
        ];
        let found = CategoryReport::new(&categories(), &pairs).unwrap();
        let rows: Vec<_> =
            found.confusion.iter().map(|row| (row.predicted.clone(), row.none)).collect();
        assert_eq!(
            rows,
            [(vec![2, 1, 0], 1), (vec![0, 1, 0], 0), (vec![0, 0, 0], 0), (vec![1, 0, 0], 2)]
        );
        assert_eq!(found.confusion[1].category.as_ref().map(Category::as_str), Some("privacy"));
        assert_eq!(found.confusion[3].category, None);
        let [fraud, privacy, malware] = found.categories.as_slice() else { panic!("{found:?}") };
        assert_eq!((fraud.precision, fraud.recall), (Share::new(2, 3), Share::new(2, 4)));
        close(fraud.f1, 4.0 / 7.0);
        assert_eq!((privacy.precision, privacy.recall), (Share::new(1, 2), Share::new(1, 1)));
        close(privacy.f1, 2.0 / 3.0);
        assert_eq!((malware.precision.total, malware.recall.total, malware.f1), (0, 0, None));
        close(found.macro_f1, (4.0 / 7.0 + 2.0 / 3.0) / 2.0);
    }

    #[test]
    fn a_category_without_prompts_is_no_part_of_the_mean() {
        let found =
            CategoryReport::new(&categories(), &[(Some(0), Some(0)), (None, Some(2))]).unwrap();
        close(found.categories[2].f1, 0.0);
        close(found.macro_f1, 1.0);
    }

    #[test]
    fn no_prompts_and_no_categories_have_no_figures() {
        let empty = CategoryReport::new(&categories(), &[]).unwrap();
        assert_eq!((empty.macro_f1, empty.confusion.len()), (None, 4));
        let none = CategoryReport::new(&[], &[(None, None)]).unwrap();
        assert!(none.categories.is_empty());
        assert_eq!((none.confusion.len(), none.confusion[0].none), (1, 1));
    }

    #[test]
    fn an_unknown_category_is_refused() {
        let error = CategoryReport::new(&categories(), &[(None, Some(3))]).unwrap_err();
        assert!(error.to_string().contains("prompt 0 has category 3; expected one of the 3"));
    }
}
