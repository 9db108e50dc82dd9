//! Flags that say how a report is printed.

use serde::Serialize;

use crate::output;

/// Aligned text, unless asked otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct PrintFlags {
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

impl PrintFlags {
    /// Prints a report, given also as plain text and as Markdown.
    pub(super) fn print(
        &self,
        report: &impl Serialize,
        plain: impl FnOnce() -> String,
        markdown: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            return Ok(output::json(report)?);
        }
        Ok(output::line(&if self.markdown { markdown() } else { plain() })?)
    }
}
