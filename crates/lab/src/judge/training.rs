//! From labelled sets to heads.

use std::collections::HashSet;

use super::agreement::{Labelled, LabelledSet};
use super::cache::Embed;
use super::features::Features;
use super::head::{LinearHead, TrainingSet};
use super::row_hashes::RowHashes;
use super::{Exchange, Property};
use crate::data::DataSet;
use crate::error::{Error, Result};

/// The default L2 penalty on standardised weights, for each training answer. Best of 0.01 to 3 by the log-loss or the AUC of
/// five folds within the training sets, for 444 refusals and for 3,000 pairs of safe and unsafe answers alike.
pub const L2: f64 = 0.3;

/// A data file under the name that reports give it.
#[derive(Debug, Clone)]
pub struct NamedSet {
    /// The name.
    pub name: String,
    /// The file.
    pub data: DataSet,
}

/// Labelled answers of one or more sets for a head to be trained on.
#[derive(Debug, Clone)]
pub struct Training<'a> {
    property: Property,
    sets: Vec<TrainingSet>,
    rows: Vec<Labelled<'a>>,
}

impl<'a> Training<'a> {
    /// The answers of `sets` that are labelled for a property, each once.
    ///
    /// # Errors
    /// [`Error::Data`] when a set has no answer with such a label.
    pub fn new(property: Property, sets: &'a [NamedSet]) -> Result<Self> {
        let mut training = Self { property, sets: Vec::new(), rows: Vec::new() };
        let mut seen: HashSet<Exchange<'a>> = HashSet::new();
        for set in sets {
            let mut rows = LabelledSet::new(property, &set.data.items).rows;
            if rows.is_empty() {
                let [negative, positive] = property.labels();
                return Err(Error::Data(format!(
                    "training set {} has no answer labelled `{positive}` or `{negative}` in `response_label`",
                    set.name
                )));
            }
            rows.retain(|row| seen.insert(row.exchange));
            training.sets.push(TrainingSet {
                name: set.name.clone(),
                sha256: set.data.sha256.clone(),
                num_answers: rows.len(),
                rows: Some(RowHashes::of(rows.iter().map(|row| row.exchange))),
            });
            training.rows.append(&mut rows);
        }
        Ok(training)
    }

    /// What the labels are about.
    #[must_use]
    pub fn property(&self) -> Property {
        self.property
    }

    /// The sets, with how many answers of each are used.
    #[must_use]
    pub fn sets(&self) -> &[TrainingSet] {
        &self.sets
    }

    /// The answers.
    #[must_use]
    pub fn rows(&self) -> &[Labelled<'a>] {
        &self.rows
    }

    /// Trains a head on the answers for which `uses` holds.
    ///
    /// # Errors
    /// [`Error::Spec`] when the features are not for this property, what the embedder returns, and [`Error::Data`] when
    /// one of the two labels does not occur.
    pub fn head(
        &self,
        features: Features,
        embedder: &dyn Embed,
        l2: f64,
        uses: &dyn Fn(&Labelled<'_>) -> bool,
    ) -> Result<LinearHead> {
        if features.property() != self.property {
            return Err(Error::Spec(format!(
                "features {features:?} are for {:?}, the training labels for {:?}",
                features.property(),
                self.property
            )));
        }
        let used: Vec<&Labelled<'_>> = self.rows.iter().filter(|row| uses(row)).collect();
        let answers: Vec<Exchange<'_>> = used.iter().map(|row| row.exchange).collect();
        let positives: Vec<bool> = used.iter().map(|row| row.positive).collect();
        let rows = features.rows(&answers, embedder)?;
        LinearHead::fit(features, embedder.id(), self.sets.clone(), (&rows, &positives), l2)
    }
}
