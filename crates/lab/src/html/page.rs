//! The HTML file. It is well-formed XML as well, so that any parser reads it.

use std::collections::HashSet;

use super::text::{escape, inline};
use super::{Block, Report, Section, numeric_columns};

const STYLE: &str = include_str!("style.css");

/// What is counted while the page is written.
#[derive(Default)]
struct Page {
    html: String,
    num_figures: usize,
}

/// The whole file.
pub(super) fn html(report: &Report) -> String {
    let anchors = anchors(&report.sections);
    let mut page = Page::default();
    page.open(report);
    page.contents(&report.sections, &anchors);
    for (section, anchor) in report.sections.iter().zip(&anchors) {
        page.push(&format!("<section id=\"{anchor}\">\n<h2>{}</h2>\n", escape(&section.heading)));
        page.blocks(&section.blocks);
        page.push("</section>\n");
    }
    page.push("</main>\n</body>\n</html>\n");
    page.html
}

/// A name for each section: its heading's letters and digits, numbered where two are alike.
fn anchors(sections: &[Section]) -> Vec<String> {
    let mut taken = HashSet::new();
    sections
        .iter()
        .map(|section| {
            let words: Vec<String> = section
                .heading
                .split(|character: char| !character.is_ascii_alphanumeric())
                .filter(|word| !word.is_empty())
                .map(str::to_ascii_lowercase)
                .collect();
            let name = if words.is_empty() { "section".to_owned() } else { words.join("-") };
            let numbered = (2..).map(|number| format!("{name}-{number}"));
            let free =
                std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name));
            let free = free.unwrap_or(name);
            taken.insert(free.clone());
            free
        })
        .collect()
}

impl Page {
    fn push(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn open(&mut self, report: &Report) {
        let title = escape(&report.title);
        self.push(&format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>{title}</h1>\n"
        ));
        if !report.subtitle.is_empty() {
            self.push(&format!("<p class=\"subtitle\">{}</p>\n", inline(&report.subtitle)));
        }
        self.push("</header>\n");
    }

    fn contents(&mut self, sections: &[Section], anchors: &[String]) {
        if sections.len() < 2 {
            return;
        }
        self.push("<nav aria-label=\"Contents\">\n<ol>\n");
        for (section, anchor) in sections.iter().zip(anchors) {
            let heading = escape(&section.heading);
            self.push(&format!("<li><a href=\"#{anchor}\">{heading}</a></li>\n"));
        }
        self.push("</ol>\n</nav>\n");
    }

    fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            self.block(block);
        }
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::Paragraph(text) => self.push(&format!("<p>{}</p>\n", inline(text))),
            Block::Note(text) => self.push(&format!("<p class=\"note\">{}</p>\n", inline(text))),
            Block::Table { caption, rows, highlight } => self.table(caption, rows, *highlight),
            Block::Figure { svg, caption, .. } => self.figure(svg, caption),
            Block::Facts(facts) => {
                self.push("<dl>\n");
                for (name, value) in facts {
                    let (name, value) = (escape(name), inline(value));
                    self.push(&format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n"));
                }
                self.push("</dl>\n");
            }
            Block::Details { summary, blocks } => {
                self.push(&format!("<details>\n<summary>{}</summary>\n", inline(summary)));
                self.blocks(blocks);
                self.push("</details>\n");
            }
        }
    }

    /// In a region of its own, which scrolls sideways and can be reached by keyboard.
    fn table(&mut self, caption: &str, rows: &[Vec<String>], highlight: Option<usize>) {
        let numeric = numeric_columns(rows);
        let name = escape(caption);
        self.push(&format!(
            "<div class=\"scroll\" role=\"region\" aria-label=\"{name}\" tabindex=\"0\">\n<table>\n"
        ));
        if !caption.is_empty() {
            self.push(&format!("<caption>{}</caption>\n", inline(caption)));
        }
        for (idx, row) in rows.iter().enumerate() {
            let is_header = idx == 0;
            match idx {
                0 => self.push("<thead>\n"),
                1 => self.push("<tbody>\n"),
                _ => {}
            }
            let chosen = !is_header && highlight == Some(idx);
            self.push(if chosen { "<tr class=\"chosen\">" } else { "<tr>" });
            for (column, is_number) in numeric.iter().enumerate() {
                let class = if *is_number { " class=\"number\"" } else { "" };
                let (tag, scope) = match (is_header, column) {
                    (true, _) => ("th", " scope=\"col\""),
                    (false, 0) => ("th", " scope=\"row\""),
                    (false, _) => ("td", ""),
                };
                let mut cell = inline(row.get(column).map_or("", String::as_str));
                if column == 0 {
                    // Where a long name may break on a narrow screen.
                    cell = cell.replace('_', "_<wbr/>");
                }
                self.push(&format!("<{tag}{scope}{class}>{cell}</{tag}>"));
            }
            self.push("</tr>\n");
            if is_header {
                self.push("</thead>\n");
            }
        }
        self.push(if rows.len() > 1 { "</tbody>\n" } else { "" });
        self.push("</table>\n</div>\n");
    }

    fn figure(&mut self, svg: &str, caption: &str) {
        self.num_figures += 1;
        let prefix = format!("figure-{}", self.num_figures);
        // Without an XML declaration, which HTML has no place for; a text that is no SVG is shown as text.
        let picture = svg.find("<svg").map_or_else(
            || format!("<p>{}</p>", escape(svg)),
            |start| own_ids(&svg[start..], &prefix),
        );
        self.push(&format!(
            "<figure id=\"{prefix}\">\n<div class=\"picture\" tabindex=\"0\" role=\"group\" \
             aria-label=\"Figure {}\">\n{picture}</div>\n",
            self.num_figures
        ));
        self.push(&format!(
            "<figcaption><b>Figure {}.</b> {}</figcaption>\n</figure>\n",
            self.num_figures,
            inline(caption)
        ));
    }
}

/// The figure's ids, and what refers to them, made its own: two figures in one page may not share any.
fn own_ids(svg: &str, prefix: &str) -> String {
    svg.replace(" id=\"", &format!(" id=\"{prefix}-"))
        .replace("url(#", &format!("url(#{prefix}-"))
        .replace("href=\"#", &format!("href=\"#{prefix}-"))
        .replace("aria-labelledby=\"", &format!("aria-labelledby=\"{prefix}-"))
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node, ParsingOptions};

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn table(highlight: Option<usize>) -> Block {
        let rows =
            [["category", "n", "verdict"], ["<my_fraud>", "12", "better"], ["harm", "7", "`x`"]];
        let rows = rows.iter().map(|row| strings(row)).collect();
        Block::Table { caption: "A & B".to_owned(), rows, highlight }
    }

    fn figure() -> Block {
        let svg = "<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"><defs><path id=\"a\"/></defs>\
                   <use href=\"#a\"/><rect fill=\"url(#a)\"/></svg>";
        Block::Figure { svg: svg.to_owned(), file: "f.svg".to_owned(), caption: "c < d".to_owned() }
    }

    fn report(blocks: Vec<Block>) -> String {
        let section = |heading: &str, blocks| Section { heading: heading.to_owned(), blocks };
        let sections = vec![section("What <we> did", blocks), section("What we did", vec![])];
        Report { title: "T & U".to_owned(), subtitle: "\"s\"".to_owned(), sections }.to_html()
    }

    fn parse(html: &str) -> Document<'_> {
        Document::parse_with_options(html, ParsingOptions { allow_dtd: true, ..Default::default() })
            .unwrap()
    }

    fn all<'a, 'b>(document: &'a Document<'b>, tag: &str) -> Vec<Node<'a, 'b>> {
        document.descendants().filter(|node| node.tag_name().name() == tag).collect()
    }

    fn words(node: Node<'_, '_>) -> String {
        node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect()
    }

    #[test]
    fn every_text_is_there_as_text() {
        let hostile = "</p><script>alert(1)</script> & 'q' \"r\"";
        let own = || hostile.to_owned();
        let html = report(vec![
            Block::Paragraph(own()),
            Block::Note(own()),
            Block::Facts(vec![(own(), own())]),
            Block::Table { caption: own(), rows: vec![vec![own()], vec![own()]], highlight: None },
            Block::Details { summary: own(), blocks: vec![Block::Paragraph(own())] },
            Block::Figure { svg: own(), file: own(), caption: own() },
        ]);
        let document = parse(&html);
        assert!(all(&document, "script").is_empty());
        let times = words(document.root_element()).matches(hostile).count();
        assert_eq!(times, 11, "{html}");
        assert_eq!(words(all(&document, "h1")[0]), "T & U");
    }

    #[test]
    fn contents_lead_to_sections_and_ids_are_unique() {
        let html = report(vec![figure(), figure()]);
        let document = parse(&html);
        let ids: Vec<&str> =
            document.descendants().filter_map(|node| node.attribute("id")).collect();
        let unique: HashSet<&&str> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        let links: Vec<&str> =
            all(&document, "a").iter().filter_map(|link| link.attribute("href")).collect();
        assert_eq!(links, ["#what-we-did", "#what-we-did-2"]);
        assert!(links.iter().all(|link| ids.contains(&&link[1..])));
        let uses = all(&document, "use");
        assert_eq!(uses[1].attribute("href"), Some("#figure-2-a"));
        assert!(ids.contains(&"figure-2-a") && html.contains("url(#figure-2-a)"));
    }

    #[test]
    fn nothing_is_fetched() {
        let html = report(vec![
            figure(),
            table(None),
            Block::Details { summary: String::new(), blocks: vec![figure()] },
        ]);
        let document = parse(&html);
        for tag in ["script", "link", "img", "iframe", "object", "embed"] {
            assert!(all(&document, tag).is_empty(), "{tag}");
        }
        assert!(!STYLE.contains("@import") && !STYLE.contains("url("));
        assert!(document.descendants().all(|node| node.attribute("src").is_none()));
    }

    #[test]
    fn tables_have_heads_numbers_and_the_chosen_row() {
        let html = report(vec![table(Some(2))]);
        let document = parse(&html);
        let rows = all(&document, "tr");
        assert_eq!(
            rows.iter().map(|row| row.attribute("class")).collect::<Vec<_>>(),
            [None, None, Some("chosen")]
        );
        let cells = |row: usize, attribute: &str| -> Vec<Option<String>> {
            let cells = rows[row].children().filter(Node::is_element);
            cells.map(|cell| cell.attribute(attribute).map(str::to_owned)).collect()
        };
        let number = Some("number".to_owned());
        assert_eq!(cells(0, "class"), [None, number.clone(), None]);
        assert_eq!(cells(1, "class"), [None, number, None]);
        assert_eq!(cells(1, "scope"), [Some("row".to_owned()), None, None]);
        assert_eq!(words(rows[1]), "<my_fraud>12better");
        assert_eq!(all(&document, "wbr").len(), 1);
        assert_eq!(words(all(&document, "code")[0]), "x");
    }

    #[test]
    fn an_empty_report_and_empty_blocks_are_pages() {
        let html = Report::default().to_html();
        assert!(all(&parse(&html), "nav").is_empty());
        let html = report(vec![
            Block::Table { caption: String::new(), rows: Vec::new(), highlight: Some(1) },
            Block::Table {
                caption: String::new(),
                rows: vec![strings(&["only"])],
                highlight: None,
            },
            Block::Table {
                caption: String::new(),
                rows: vec![strings(&["a"]), strings(&["b", "c"])],
                highlight: None,
            },
            Block::Facts(Vec::new()),
        ]);
        let document = parse(&html);
        let rows = all(&document, "tr");
        assert_eq!(rows.iter().map(|row| row.children().count()).collect::<Vec<_>>(), [1, 2, 2]);
    }
}
