//! Rows of every text format from a file in a scratch folder.

use serde_json::json;

use super::*;

fn rows(name: &str, content: &[u8]) -> Result<(Vec<Row>, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let mut rows = Vec::new();
    let sha256 = for_each(&path, &mut |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok((rows, sha256))
}

fn error(name: &str, content: &[u8]) -> String {
    rows(name, content).unwrap_err().to_string()
}

fn values(name: &str, content: &str) -> Vec<Value> {
    let (rows, _) = rows(name, content.as_bytes()).unwrap();
    rows.into_iter().map(|row| row.fields.into()).collect()
}

fn places(name: &str, content: &str) -> Vec<(usize, Place)> {
    let (rows, _) = rows(name, content.as_bytes()).unwrap();
    rows.iter().map(|row| (row.number, row.place)).collect()
}

#[test]
fn the_same_rows_come_from_every_text_format() {
    let expected = [json!({"a": "x, y", "b": null}), json!({"a": "two\nlines", "b": "\"z\""})];
    let lines = "{\"a\":\"x, y\",\"b\":null}\n\n{\"a\":\"two\\nlines\",\"b\":\"\\\"z\\\"\"}";
    let array =
        "\n [{\"a\": \"x, y\", \"b\": null},\n {\"a\": \"two\\nlines\", \"b\": \"\\\"z\\\"\"}]\n";
    let csv = "a, b\n\"x, y\",\n\"two\nlines\",\"\"\"z\"\"\"\n";
    let tsv = "a\tb\nx, y\t\n\"two\nlines\"\t\"\"\"z\"\"\"";
    for (name, content) in [
        ("rows.jsonl", lines),
        ("rows.NDJSON", lines),
        ("rows.json", lines),
        ("rows.json", array),
        ("rows.csv", csv),
        ("rows.tsv", tsv),
    ] {
        assert_eq!(values(name, content), expected, "{name}");
        assert_eq!(values(name, &format!("\u{feff}{content}")), expected, "{name} with a mark");
    }
}

#[test]
fn a_row_has_its_number_and_the_line_where_it_starts() {
    let lines = places("a.jsonl", "{}\n\n{}");
    assert_eq!(lines, [(1, Place::Line(1)), (2, Place::Line(3))]);
    assert_eq!(places("a.json", "[\n{},\n\n{}]"), [(1, Place::Row(1)), (2, Place::Row(2))]);
    for end in ["\n", "\r\n"] {
        let csv = ["a,b", "1,\"x", "y\"", "2,z", "", "3,z", ""].join(end);
        let expected = [(1, Place::Line(2)), (2, Place::Line(4)), (3, Place::Line(6))];
        for csv in [csv.as_str(), csv.trim_end(), &format!("\u{feff}{csv}")] {
            assert_eq!(places("a.csv", csv), expected, "{csv:?}");
        }
    }
}

#[test]
fn the_hash_is_that_of_the_whole_file() {
    // Of no bytes, and of `{}` with two line ends.
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let object = encode_string(&Sha256::digest(b"{}\n\n"));
    for name in ["a.jsonl", "a.json", "a.csv", "a.tsv"] {
        assert_eq!(rows(name, b"").unwrap().1, empty, "{name}");
        assert_eq!(rows(name, b"{}\n\n").unwrap().1, object, "{name}");
    }
}

#[test]
fn a_row_of_exactly_the_bound_passes_and_a_longer_one_does_not() {
    let text = |length: usize| "x".repeat(length);
    let bound = MAX_ROW_BYTES;
    let too_long = |name, content: String, place: &str| {
        let error = error(name, content.as_bytes());
        assert!(error.contains(place) && error.contains("longer than 1048576 bytes"), "{error}");
    };
    assert_eq!(values("a.jsonl", &format!("{{\"a\":\"{}\"}}\n", text(bound - 9))).len(), 1);
    too_long("a.jsonl", format!("{{}}\n{{\"a\":\"{}\"}}", text(bound - 7)), ":2: ");
    assert_eq!(values("a.json", &format!("[{{}},{{\"a\":\"{}\"}}]", text(bound - 9))).len(), 2);
    too_long("a.json", format!("[{{}},{{\"a\":\"{}\"}}]", text(bound)), ", row 2: ");
    assert_eq!(values("a.csv", &format!("a,b\n1,{}\n", text(bound - 1))).len(), 1);
    too_long("a.csv", format!("a,b\n1,2\n1,{}\n", text(bound)), ":3: ");
    // The quote never closes: reading ends long before the file does.
    too_long("a.csv", format!("a\n\"{}", text(3 * bound)), ":2: ");
    too_long("a.csv", text(3 * bound), ":1: ");
}

#[test]
fn errors_say_where_and_quote_no_text() {
    for (name, content, expected) in [
        ("a.jsonl", "{}\n\"secret\"\n", "a.jsonl:2: expected a JSON object, found text"),
        (
            "a.jsonl",
            "{}\n{\"secret\" 1}\n",
            "a.jsonl:2: the line is not JSON: it is wrong at column 11",
        ),
        ("a.jsonl", "{\"secret\": 1\n", "a.jsonl:1: the line is not JSON: it ends before"),
        ("a.json", "[{}, \"secret\"]", "a.json, row 2: expected a JSON object, found text"),
        (
            "a.json",
            "[{},\n{\"secret\" 1}]",
            "a.json, row 2: the file is not JSON: it is wrong at line 2",
        ),
        ("a.json", "[{}, {\"secret\": 1}", "a.json, row 3: the file ends before"),
        ("a.json", "[{}] {}", "a.json, row 2: the file is not JSON"),
        ("a.csv", "a,b\n1,2\nsecret\n", "a.csv:3: the number of cells is 1; expected 2"),
        ("a.csv", "secret,secret\n", "a.csv:1: column 2 of the header"),
        ("secret.txt", "", "expected one that ends in .jsonl"),
        ("a.parquet", "secret", "cannot be read as Parquet"),
    ] {
        let error = error(name, content.as_bytes());
        assert!(error.contains(expected), "{error}");
        assert!(name.contains("secret") || !error.contains("secret"), "{error}");
    }
    let error_of_bytes = |name, before: &str| error(name, &[before.as_bytes(), b"\xff\n"].concat());
    assert!(error_of_bytes("a.jsonl", "{}\n").contains(":2: the line is not UTF-8"));
    assert!(error_of_bytes("a.json", "[\"").contains(", row 1: the file is not JSON"));
    assert!(error_of_bytes("a.csv", "a,b\n1,").contains(":2: cell 2 of the row is not UTF-8"));
}

#[test]
fn a_column_without_a_name_is_passed_over() {
    assert_eq!(values("a.csv", ",a\n0,x\n1,y\n"), [json!({"a": "x"}), json!({"a": "y"})]);
}

#[test]
fn an_error_of_the_taker_ends_the_reading() {
    for (name, content) in
        [("a.jsonl", "{}\n{}\nnot json"), ("a.json", "[{},{},"), ("a.csv", "a\n1\n2\n3,3")]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let result = for_each(&path, &mut |row| match row.number {
            2 => Err(Error::Data("enough".to_owned())),
            _ => Ok(()),
        });
        assert_eq!(result.unwrap_err().to_string(), "data: enough", "{name}");
    }
}
