//! From rows to items, by what a layout says the fields mean.

mod detect;
mod fields;
mod items;

use std::collections::BTreeSet;

use super::item::Item;
use super::options::{FieldNames, Layout, ReadOptions};
use super::rows::Row;
use items::Source;

/// Makes items of rows, and remembers what is known only when the file ends.
pub(super) struct LayoutReader<'a> {
    stem: &'a str,
    names: &'a FieldNames,
    layout: Layout,
    num_several_categories: usize,
    /// Fields that some row had; kept for [`Layout::Generic`] alone.
    seen: BTreeSet<String>,
}

impl<'a> LayoutReader<'a> {
    pub(super) fn new(stem: &'a str, options: &'a ReadOptions) -> Self {
        Self {
            stem,
            names: &options.fields,
            layout: options.layout,
            num_several_categories: 0,
            seen: BTreeSet::new(),
        }
    }

    /// The layout that is read; what [`Layout::Auto`] found from the first row on.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn num_several_categories(&self) -> usize {
        self.num_several_categories
    }

    /// The items of one row. The reason of a refusal names fields and never quotes what is in them.
    pub(super) fn items(&mut self, row: &Row) -> Result<Vec<Item>, String> {
        if self.layout == Layout::Auto {
            self.layout = detect::detect(&row.fields, self.names)?;
            tracing::info!(file = self.stem, layout = self.layout.as_str(), "data layout found");
        }
        let source = Source::new(self.stem, row);
        let items = match self.layout {
            Layout::Skeg => vec![source.skeg()?],
            Layout::CatQa => vec![source.catqa()?],
            Layout::BeaverTails => vec![source.beavertails()?],
            Layout::PkuSafeRlhf => source.pku_saferlhf()?.into(),
            Layout::Alpaca => vec![source.alpaca()?],
            // `auto` has become another one above.
            Layout::Generic | Layout::Auto => {
                self.remember(row);
                vec![source.generic(self.names)?]
            }
        };
        if matches!(self.layout, Layout::BeaverTails | Layout::PkuSafeRlhf | Layout::Generic) {
            let several = |item: &&Item| item.category.is_none() && item.subcategory.is_some();
            self.num_several_categories += items.iter().filter(several).count();
        }
        Ok(items)
    }

    fn remember(&mut self, row: &Row) {
        for name in row.fields.keys() {
            if !self.seen.contains(name) {
                self.seen.insert(name.clone());
            }
        }
    }

    /// A name that the caller gave and no row has is a slip of the pen, not a set without that field.
    pub(super) fn check_given_names(&self) -> Result<(), String> {
        if self.seen.is_empty() {
            return Ok(());
        }
        let default = FieldNames::default();
        for ((what, given), (_, default)) in self.names.lists().into_iter().zip(default.lists()) {
            if given != default
                && !given.is_empty()
                && !given.iter().any(|name| self.seen.contains(name))
            {
                return Err(format!(
                    "no row has the field given for `{what}` ({}); the rows have {}",
                    given.join(", "),
                    fields::listed(self.seen.iter().map(String::as_str))
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
