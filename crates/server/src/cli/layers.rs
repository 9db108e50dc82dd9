//! Layers on the command line.

use anyhow::Context as _;

/// `8-19`, `4,8,12`, or both forms together.
pub(super) fn parse_layers(text: &str) -> anyhow::Result<Vec<usize>> {
    let number = |part: &str| {
        let parsed = part.trim().parse::<usize>();
        parsed.with_context(|| format!("--layers `{text}`: expected for example 8-19 or 4,8,12"))
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => layers.extend(number(first)?..=number(last)?),
            None => layers.push(number(part)?),
        }
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ranges_and_lists() {
        assert_eq!(parse_layers("2-4, 7").unwrap(), [2, 3, 4, 7]);
        assert!(parse_layers("2-").unwrap_err().to_string().contains("8-19"));
        assert!(parse_layers("").is_err());
    }
}
