//! The rows of the table: which arms a study runs, and where each came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{LayerVector, Operator, Positions};
use skeg_vector_store::Category;

use super::spec::{Chosen, Method, StudySpec};
use crate::calibrate::{SAFETY_SYSTEM_PROMPT, Setting, words};
use crate::evaluate::{AppliedVector, Condition, rows_of};
use crate::experiment::{Arm, Prompt};

/// What kind of row an arm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmKind {
    /// Nothing is done: the paper's naive generation.
    Naive,
    /// A row of the paper at the paper's setting: one layer, strength 1.
    PaperSetting,
    /// A row of the paper at the best of a small search on the tuning prompts.
    Tuned,
    /// The calibrated vectors.
    Chosen,
    /// An improvement on the calibrated vectors.
    Improved,
    /// A control: what a push of that size does whatever its direction or category.
    Control,
    /// A system message instead of steering.
    Baseline,
}

/// An arm with what its row says of it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) arm: Arm,
    pub(super) kind: ArmKind,
    pub(super) setting: String,
}

impl Row {
    pub(super) fn naive() -> Self {
        let arm = Arm { name: "naive".to_owned(), ..Arm::default() };
        Self { arm, kind: ArmKind::Naive, setting: "-".to_owned() }
    }

    pub(super) fn system_prompt() -> Self {
        let system = Some(SAFETY_SYSTEM_PROMPT.to_owned());
        let arm = Arm { name: "safety system prompt".to_owned(), system, ..Arm::default() };
        Self { arm, kind: ArmKind::Baseline, setting: "-".to_owned() }
    }

    /// A row of the paper under a setting.
    pub(super) fn of_method(method: &Method, setting: &Setting, kind: ArmKind) -> Self {
        let Method { name, candidate, .. } = method;
        let rows = candidate.shared_rows_in(&setting.layers);
        let arm = setting.arm(name, candidate.site, &rows, &BTreeMap::new());
        let Setting { layers, positions, operator, strength, .. } = setting;
        let setting = words(candidate.site, layers, &strength.to_string(), *operator, *positions);
        Self { arm, kind, setting }
    }

    /// The paper's own setting: one layer, strength 1, every token.
    pub(super) fn at_papers_setting(method: &Method, num_hidden_layers: usize) -> Option<Self> {
        let layer = StudySpec::papers_layer(&method.candidate, num_hidden_layers)?;
        let setting = Setting {
            candidate_idx: 0,
            layers: vec![layer],
            positions: Positions::All,
            operator: Operator::Add,
            strength: 1.0,
        };
        Some(Self::of_method(method, &setting, ArmKind::PaperSetting))
    }

    /// The calibrated vectors, their controls, and the addition that restores norms.
    pub(super) fn of_chosen(chosen: &Chosen, seed: u64) -> Vec<Self> {
        let arms = [
            ("calibrated", ArmKind::Chosen, None, chosen.operator),
            ("calibrated, norm restored", ArmKind::Improved, None, Operator::AddNormRestored),
            ("random, equal norm", ArmKind::Control, Some(Condition::Random), chosen.operator),
            ("unrelated category", ArmKind::Control, Some(Condition::Unrelated), chosen.operator),
            ("pooled", ArmKind::Control, Some(Condition::Pooled), chosen.operator),
        ];
        let is_possible = |condition: &Option<Condition>| {
            chosen.rows.len() > 1
                || !matches!(condition, Some(Condition::Unrelated | Condition::Pooled))
        };
        arms.into_iter()
            .filter(|(_, kind, condition, operator)| {
                let is_new = *kind != ArmKind::Improved || *operator != chosen.operator;
                is_new && is_possible(condition)
            })
            .map(|(name, kind, condition, operator)| {
                let rows = condition.map(|one| rows_of(one, &chosen.rows, seed));
                let rows = rows.as_ref().unwrap_or(&chosen.rows);
                chosen.row(name, kind, rows, operator)
            })
            .collect()
    }
}

/// Prompts of a category that a steered arm has no vector for get one at strength 0, which does nothing.
pub(super) fn leave_others_unsteered<'a>(
    arm: &mut Arm,
    prompts: impl IntoIterator<Item = &'a Prompt>,
) {
    let Some(any) = arm.vectors.values().next().cloned() else { return };
    for prompt in prompts {
        let nothing = || AppliedVector { strength: 0.0, ..any.clone() };
        arm.vectors.entry(prompt.category.clone()).or_insert_with(nothing);
    }
}

impl Chosen {
    fn row(
        &self,
        name: &str,
        kind: ArmKind,
        rows: &BTreeMap<Category, Vec<LayerVector>>,
        operator: Operator,
    ) -> Row {
        let vectors = rows.iter().map(|(category, rows)| {
            (category.clone(), self.applied(category, rows.clone(), operator))
        });
        let arm = Arm { name: name.to_owned(), vectors: vectors.collect(), ..Arm::default() };
        let strengths = self.rules.values().map(|rule| rule.strength);
        let (least, most) = (
            strengths.clone().fold(f32::INFINITY, f32::min),
            strengths.fold(f32::NEG_INFINITY, f32::max),
        );
        let strength = if least < most { format!("{least} to {most}") } else { format!("{most}") };
        let mut positions: Vec<Positions> =
            self.rules.values().map(|rule| rule.positions).collect();
        positions.dedup();
        let setting = match positions[..] {
            [positions] => words(self.site, &self.layers(), &strength, operator, positions),
            _ => {
                let all = words(self.site, &self.layers(), &strength, operator, Positions::All);
                format!("{all}, positions by category")
            }
        };
        Row { arm, kind, setting }
    }

    /// One category's rows at its strength.
    pub(super) fn applied(
        &self,
        category: &Category,
        rows: Vec<LayerVector>,
        operator: Operator,
    ) -> AppliedVector {
        let rule = self.rules.get(category).copied();
        AppliedVector {
            site: self.site,
            operator,
            positions: rule.map_or(Positions::All, |rule| rule.positions),
            strength: rule.map_or(0.0, |rule| rule.strength),
            layers: Arc::new(rows),
        }
    }

    /// The calibrated arm itself, for callers that make improvements of it.
    #[must_use]
    pub fn arm(&self, name: &str) -> Arm {
        self.row(name, ArmKind::Chosen, &self.rows, self.operator).arm
    }
}
