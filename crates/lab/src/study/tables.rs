//! A study as tables and as one report, which becomes HTML and Markdown.
