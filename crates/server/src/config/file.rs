//! `skeg.toml`.

use std::path::Path;

use super::{ConfigError, RawConfig};

/// Read from the working directory when no file is named.
const DEFAULT_FILE: &str = "skeg.toml";

/// Reads the file at `path`; without one, `skeg.toml` here if there is one.
pub(crate) fn read(path: Option<&Path>) -> Result<RawConfig, ConfigError> {
    let named = path.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(named) {
        Ok(text) => parse(named, &text),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(RawConfig::default())
        }
        Err(source) => Err(ConfigError::Unreadable { path: named.to_owned(), source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<RawConfig, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
        // Not the error's own form: it quotes the line, which may hold a secret.
        ConfigError::Malformed { path: path.to_owned(), line, reason: error.message().to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        parse(Path::new("skeg.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_are_errors_that_name_key_and_line() {
        let message = check("port = 1\nprot = 2\n");
        assert!(message.contains("line 2") && message.contains("`prot`"), "{message}");
        let message = check("[[principal]]\nname = \"a\"\nkey = \"hunter2\"\n");
        assert!(message.contains("`key`") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_an_error_with_its_line() {
        let message = check("host = \"::1\"\nport = \"http\"\n");
        assert!(message.contains("line 2") && message.contains("u16"), "{message}");
        assert!(check("port = 70000").contains("line 1"));
    }

    #[test]
    fn a_served_name_is_one_or_many() {
        let names = |text| parse(Path::new("skeg.toml"), text).unwrap().served_model_name.unwrap();
        assert_eq!(names("served_model_name = \"a\""), ["a"]);
        assert_eq!(names("served_model_name = [\"a\", \"b\"]"), ["a", "b"]);
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert!(read(Some(Path::new("no-such-folder/skeg.toml"))).is_err());
    }
}
