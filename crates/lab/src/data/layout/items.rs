//! What each layout makes of a row.

use skeg_model::ChatMessage;

use super::fields::Fields;
use crate::data::item::Item;
use crate::data::options::FieldNames;
use crate::data::rows::Row;

/// One row, and what ids are made of.
pub(super) struct Source<'a> {
    stem: &'a str,
    row: usize,
    fields: Fields<'a>,
}

impl<'a> Source<'a> {
    pub(super) fn new(stem: &'a str, row: &'a Row) -> Self {
        Self { stem, row: row.number, fields: Fields(&row.fields) }
    }

    /// A prompt with a made id and nothing said about it.
    fn prompt(&self, text: String) -> Item {
        Item::new(format!("{}-{}", self.stem, self.row), text, self.stem)
    }

    pub(super) fn skeg(&self) -> Result<Item, String> {
        let fields = self.fields;
        let messages = fields.optional_messages("messages")?;
        Ok(Item {
            id: fields.text("id")?,
            text: match &messages {
                Some(messages) => joined(messages),
                None => fields.text("text")?,
            },
            messages,
            category: fields.optional_text("category")?,
            subcategory: fields.optional_text("subcategory")?,
            harmful: fields.optional_flag("harmful")?,
            response: fields.optional_text("response")?,
            response_label: fields.optional_text("response_label")?,
            source: fields.text("source")?,
            twin_of: fields.optional_text("twin_of")?,
        })
    }

    pub(super) fn catqa(&self) -> Result<Item, String> {
        let fields = self.fields;
        Ok(Item {
            category: Some(fields.text("Category")?),
            subcategory: fields.optional_text("Subcategory")?,
            harmful: Some(true),
            ..self.prompt(fields.text("Question")?)
        })
    }

    /// `is_safe` speaks of the answer, so the prompt stays unlabelled.
    pub(super) fn beavertails(&self) -> Result<Item, String> {
        let fields = self.fields;
        let (category, subcategory) = fields.categories("category")?;
        Ok(Item {
            category,
            subcategory,
            response: Some(fields.text("response")?),
            response_label: Some(label(fields.flag("is_safe")?)),
            ..self.prompt(fields.text("prompt")?)
        })
    }

    pub(super) fn pku_saferlhf(&self) -> Result<[Item; 2], String> {
        Ok([self.pku_answer(0)?, self.pku_answer(1)?])
    }

    fn pku_answer(&self, number: usize) -> Result<Item, String> {
        let fields = self.fields;
        let (category, subcategory) =
            fields.categories(&format!("response_{number}_harm_category"))?;
        Ok(Item {
            id: format!("{}-{}-{number}", self.stem, self.row),
            category,
            subcategory,
            response: Some(fields.text(&format!("response_{number}"))?),
            response_label: Some(label(fields.flag(&format!("is_response_{number}_safe"))?)),
            ..self.prompt(fields.text("prompt")?)
        })
    }

    /// The input follows the instruction after a blank line, as one prompt.
    pub(super) fn alpaca(&self) -> Result<Item, String> {
        let fields = self.fields;
        let mut text = fields.text("instruction")?;
        let input = fields.optional_text("input")?.filter(|input| !input.trim().is_empty());
        // An empty instruction stays one, so that it is found.
        if let Some(input) = input.filter(|_| !text.trim().is_empty()) {
            text = format!("{text}\n\n{input}");
        }
        let response = fields.optional_text("output")?.filter(|output| !output.trim().is_empty());
        Ok(Item { harmful: Some(false), response, ..self.prompt(text) })
    }

    pub(super) fn generic(&self, names: &FieldNames) -> Result<Item, String> {
        let fields = self.fields;
        let text = fields.first(&names.text).ok_or_else(|| {
            format!("no prompt; expected text in {}; {}", names.text.join(", "), fields.found())
        })?;
        let text_of = |names: &[String]| match fields.first(names) {
            Some(name) => fields.optional_text(name),
            None => Ok(None),
        };
        let mut item = self.prompt(fields.text(text)?);
        if let Some(name) = fields.first(&names.id)
            && let Some(id) = fields.optional_id(name)?
        {
            item.id = id;
        }
        if let Some(name) = fields.first(&names.category) {
            (item.category, item.subcategory) = fields.categories(name)?;
        }
        if let Some(name) = fields.first(&names.harmful) {
            item.harmful = fields.optional_flag(name)?;
        }
        item.response = text_of(&names.response)?;
        item.response_label = text_of(&names.label)?;
        Ok(item)
    }
}

/// The contents of messages, a line break between them.
fn joined(messages: &[ChatMessage]) -> String {
    let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    contents.join("\n")
}

fn label(is_safe: bool) -> String {
    if is_safe { "safe" } else { "unsafe" }.to_owned()
}
