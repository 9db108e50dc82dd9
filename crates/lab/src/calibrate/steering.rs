//! What each category is steered with: one site and operator, and layers and tokens that a category may have of its own.

use std::collections::{BTreeMap, BTreeSet};

use skeg_model::steering::{LayerVector, Site};
use skeg_vector_store::Category;

use super::candidate::{Setting, SharedRows, rows_in, share};
use crate::evaluate::{Condition, rows_of};
use crate::experiment::Arm;

/// The setting of all categories, the ones that some have of their own, and the rows.
#[derive(Debug, Clone)]
pub(super) struct Steering {
    site: Site,
    setting: Setting,
    own: BTreeMap<Category, Setting>,
    /// Every category's rows in every layer that is steered for any, pointing to the safer side.
    every_row: BTreeMap<Category, Vec<LayerVector>>,
    /// Each category's rows in its layers.
    rows: SharedRows,
}

impl Steering {
    /// `every_row` has the rows of all categories, at least in the layers of the settings.
    pub(super) fn new(
        (site, setting): (Site, Setting),
        own: BTreeMap<Category, Setting>,
        every_row: BTreeMap<Category, Vec<LayerVector>>,
    ) -> Self {
        let mut steering = Self { site, setting, own, every_row, rows: SharedRows::new() };
        steering.rows = steering.by_layer_set(|rows| rows);
        steering
    }

    /// The setting that categories without one of their own have.
    pub(super) fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The categories that have a setting of their own.
    pub(super) fn own(&self) -> &BTreeMap<Category, Setting> {
        &self.own
    }

    fn setting_of(&self, category: &Category) -> &Setting {
        self.own.get(category).unwrap_or(&self.setting)
    }

    /// All categories.
    pub(super) fn categories(&self) -> impl ExactSizeIterator<Item = &Category> {
        self.rows.keys()
    }

    /// Every category with its own rows, at the strength that `strength_of` says from its setting.
    pub(super) fn arm(&self, name: &str, strength_of: impl Fn(&Category, &Setting) -> f32) -> Arm {
        self.arm_with(name, &self.rows, strength_of)
    }

    /// Every category with a control's rows in the category's own layers: norms, where the control keeps them, are equal
    /// layer by layer.
    pub(super) fn control_arm(
        &self,
        name: &str,
        (condition, seed): (Condition, u64),
        strength_of: impl Fn(&Category, &Setting) -> f32,
    ) -> Arm {
        let rows = self.by_layer_set(|rows| rows_of(condition, &rows, seed));
        self.arm_with(name, &rows, strength_of)
    }

    fn arm_with(
        &self,
        name: &str,
        rows: &SharedRows,
        strength_of: impl Fn(&Category, &Setting) -> f32,
    ) -> Arm {
        let strengths = self
            .categories()
            .map(|category| (category.clone(), strength_of(category, self.setting_of(category))));
        let mut arm = self.setting.arm(name, self.site, rows, &strengths.collect());
        for (category, own) in &self.own {
            if let Some(vector) = arm.vectors.get_mut(category) {
                vector.positions = own.positions;
            }
        }
        arm
    }

    /// What `make` makes of all categories' rows in a set of layers, for the categories that have this set.
    fn by_layer_set(
        &self,
        make: impl Fn(BTreeMap<Category, Vec<LayerVector>>) -> BTreeMap<Category, Vec<LayerVector>>,
    ) -> SharedRows {
        let sets = self.every_row.keys().map(|category| &self.setting_of(category).layers);
        let sets: BTreeSet<&Vec<usize>> = sets.collect();
        let made = sets.into_iter().flat_map(|layers| {
            let mut made = make(rows_in(&self.every_row, layers));
            made.retain(|category, _| self.setting_of(category).layers == *layers);
            made
        });
        share(made.collect())
    }
}
