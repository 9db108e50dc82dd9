//! Text that is safe in HTML.

/// Text with everything that is markup in HTML and XML written as text.
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in XML, and nothing to see in HTML.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {}
            other => escaped.push(other),
        }
        escaped
    })
}

/// A text's parts: plain, and code between backticks. A backtick without its partner is plain.
pub(super) fn parts(text: &str) -> Vec<(bool, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('`') {
        let Some((code, after)) = after.split_once('`').filter(|(code, _)| !code.is_empty()) else {
            break;
        };
        parts.extend([(false, plain), (true, code)]);
        rest = after;
    }
    parts.push((false, rest));
    parts.retain(|(_, part)| !part.is_empty());
    parts
}

/// Escaped, with code as code.
pub(super) fn inline(text: &str) -> String {
    let part = |(is_code, part): (bool, &str)| {
        if is_code { format!("<code>{}</code>", escape(part)) } else { escape(part) }
    };
    parts(text).into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(escape("<a href='x'>&\"\u{1b}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }

    #[test]
    fn code_is_between_two_backticks() {
        assert_eq!(inline("run `a < b` now"), "run <code>a &lt; b</code> now");
        assert_eq!(inline("one `` nothing"), "one `` nothing");
        assert_eq!(inline("`a` and ` alone"), "<code>a</code> and ` alone");
        assert_eq!(inline(""), "");
    }
}
