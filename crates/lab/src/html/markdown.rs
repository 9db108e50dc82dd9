//! The same report as GitHub's Markdown.

use super::text::parts;
use super::{Block, Report};
use crate::table;

/// The whole file.
pub(super) fn markdown(report: &Report) -> String {
    let mut blocks = vec![format!("# {}", line(&report.title))];
    if !report.subtitle.is_empty() {
        blocks.push(line(&report.subtitle));
    }
    for section in &report.sections {
        blocks.push(format!("## {}", line(&section.heading)));
        blocks.extend(section.blocks.iter().map(block));
    }
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n\n") + "\n"
}

fn block(block: &Block) -> String {
    match block {
        Block::Paragraph(text) => paragraph(text),
        Block::Note(text) => format!("> {}", paragraph(text)),
        Block::Table { caption, rows, highlight } => table(caption, rows, *highlight),
        Block::Figure { file, caption, .. } => {
            // The caption twice: as what is read out in the figure's place, and for all to see.
            let caption = line(caption);
            format!("![{caption}](<{}>)\n\n*{caption}*", file.replace(['<', '>', '\n'], ""))
        }
        Block::Facts(facts) => {
            let fact =
                |(name, value): &(String, String)| format!("- **{}**: {}", line(name), line(value));
            facts.iter().map(fact).collect::<Vec<_>>().join("\n")
        }
        Block::Details { summary, blocks } => {
            let inner: Vec<String> = blocks.iter().map(self::block).collect();
            let summary = super::text::inline(&one_line(summary));
            format!(
                "<details>\n<summary>{summary}</summary>\n\n{}\n\n</details>",
                inner.join("\n\n")
            )
        }
    }
}

fn table(caption: &str, rows: &[Vec<String>], highlight: Option<usize>) -> String {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |idx: usize, text: &str| {
        let text = line(text).replace('|', "\\|");
        let chosen = idx > 0 && highlight == Some(idx) && !text.is_empty();
        if chosen { format!("**{text}**") } else { text }
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .enumerate()
        .map(|(idx, row)| {
            let cells = (0..num_columns).map(|column| row.get(column).map_or("", String::as_str));
            cells.map(|text| cell(idx, text)).collect()
        })
        .collect();
    let caption =
        if caption.is_empty() { String::new() } else { format!("*{}*\n\n", line(caption)) };
    caption + table::markdown(&rows).trim_end()
}

/// One line, and what begins a list, a quotation or a heading in Markdown is text.
fn paragraph(text: &str) -> String {
    let text = line(text);
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let is_item = text.starts_with("- ") || text.starts_with("+ ");
    if is_item || text.starts_with(['#', '>', '=', '~', '|']) {
        format!("\\{text}")
    } else if digits > 0 && (text[digits..].starts_with(". ") || text[digits..].starts_with(") ")) {
        format!("{}\\{}", &text[..digits], &text[digits..])
    } else {
        text
    }
}

/// One line in which nothing is markup but code between backticks.
fn line(text: &str) -> String {
    let text = one_line(text);
    let part = |(is_code, part): (bool, &str)| {
        if is_code { format!("`{part}`") } else { escape(part) }
    };
    parts(&text).into_iter().map(part).collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Underscores within a word are no markup, and are left as they are.
fn escape(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let letter = |idx: Option<usize>| {
        idx.and_then(|idx| characters.get(idx)).is_some_and(|character| character.is_alphanumeric())
    };
    characters.iter().enumerate().fold(String::new(), |mut escaped, (idx, &character)| {
        let is_markup = match character {
            '\\' | '`' | '*' | '[' | ']' | '<' => true,
            '_' => !(letter(idx.checked_sub(1)) && letter(Some(idx + 1))),
            // An entity: `&lt;`, `&#60;`.
            '&' => letter(Some(idx + 1)) || characters.get(idx + 1) == Some(&'#'),
            _ => false,
        };
        if is_markup {
            escaped.push('\\');
        }
        escaped.push(character);
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::super::Section;
    use super::*;

    fn report(blocks: Vec<Block>) -> String {
        let sections = vec![Section { heading: "Results".to_owned(), blocks }];
        Report { title: "A *b*".to_owned(), subtitle: String::new(), sections }.to_markdown()
    }

    #[test]
    fn every_block_has_its_form() {
        let own = str::to_owned;
        let rows = vec![vec![own("name"), own("n")], vec![own("a|b"), own("12")], vec![own("`c`")]];
        let text = report(vec![
            Block::Paragraph(own("tailored_financial_advice is `x_y*` <b>")),
            Block::Note(own("read\nthis")),
            Block::Table { caption: own("Cap"), rows, highlight: Some(1) },
            Block::Figure { svg: own("<svg/>"), file: own("a b.svg"), caption: own("Fig [1]") },
            Block::Facts(vec![(own("model"), own("SmolLM2"))]),
            Block::Details {
                summary: own("more & less"),
                blocks: vec![Block::Paragraph(own("inside"))],
            },
        ]);
        let expected = "# A \\*b\\*\n\n## Results\n\n\
            tailored_financial_advice is `x_y*` \\<b>\n\n\
            > read this\n\n\
            *Cap*\n\n| name | n |\n|---|---|\n| **a\\|b** | **12** |\n| `c` |  |\n\n\
            ![Fig \\[1\\]](<a b.svg>)\n\n*Fig \\[1\\]*\n\n\
            - **model**: SmolLM2\n\n\
            <details>\n<summary>more &amp; less</summary>\n\ninside\n\n</details>\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn text_that_looks_like_markup_is_text() {
        for (text, expected) in [
            ("# no heading", "\\# no heading"),
            ("12. no list", "12\\. no list"),
            ("- 3 %", "\\- 3 %"),
            ("-3 % & more, &lt;", "-3 % & more, \\&lt;"),
            ("_no_ emphasis", "\\_no\\_ emphasis"),
            ("1.5 times", "1.5 times"),
        ] {
            assert_eq!(paragraph(text), expected);
        }
    }

    #[test]
    fn empty_blocks_leave_no_gap() {
        let empty = Block::Table { caption: String::new(), rows: Vec::new(), highlight: None };
        assert_eq!(report(vec![empty, Block::Facts(Vec::new())]), "# A \\*b\\*\n\n## Results\n");
    }
}
