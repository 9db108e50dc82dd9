//! Data files in every format and layout, through the one function that reads them.

mod mapping;
mod parquet_file;

use std::path::PathBuf;

use skeg_lab::data::{Layout, OnConflict, overlap, refuse_overlap};
use skeg_lab::{DataSet, Error, Item, ReadOptions, Result, read_data};
use tempfile::TempDir;

use parquet_file::{Column, write};

/// A scratch folder with one file, which lives as long as the folder.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(name: &str, content: &str, options: &ReadOptions) -> Result<DataSet> {
    let (_folder, path) = file(name, content);
    read_data(&path, options)
}

fn of(layout: Layout) -> ReadOptions {
    ReadOptions { layout, ..ReadOptions::default() }
}

const BEAVERTAILS_SCHEMA: &str = "message schema {
    optional binary prompt (UTF8); optional binary response (UTF8);
    required group category { required boolean animal_abuse; required boolean self_harm; }
    required boolean is_safe; required int64 annotator; }";

fn beavertails_parquet(texts: [&'static str; 2], num_groups: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beavertails.parquet");
    let columns = [
        Column::Texts(texts.map(Some).to_vec()),
        Column::Texts(vec![Some("yes"), Some("no")]),
        Column::Flags(vec![true, false]),
        Column::Flags(vec![false, false]),
        Column::Flags(vec![false, true]),
        Column::Numbers(vec![1, 2]),
    ];
    write(&path, BEAVERTAILS_SCHEMA, &columns, num_groups);
    (folder, path)
}

#[test]
fn one_set_reads_alike_from_every_format() {
    let lines = r#"{"prompt": "first", "response": "yes", "category": {"animal_abuse": true, "self_harm": false}, "is_safe": false}
{"prompt": "second, \"so\"", "response": "no", "category": {"animal_abuse": false, "self_harm": false}, "is_safe": true}
"#;
    let array = format!("[{}]", lines.trim().replace('\n', ","));
    let csv = "prompt,response,category,is_safe\r\n\
        first,yes,\"{\"\"animal_abuse\"\": true, \"\"self_harm\"\": false}\",False\r\n\
        \"second, \"\"so\"\"\",no,,True\r\n";
    let tsv = "prompt\tresponse\tcategory\tis_safe\nfirst\tyes\tanimal_abuse\t0\n\
        \"second, \"\"so\"\"\"\tno\t\t1\n";
    let expected = read("beavertails.jsonl", lines, &of(Layout::BeaverTails)).unwrap().items;
    let [first, second] = expected.as_slice() else { panic!("{expected:?}") };
    assert_eq!((first.id.as_str(), second.id.as_str()), ("beavertails-1", "beavertails-2"));
    assert_eq!(first.category_slug().unwrap().as_str(), "animal_abuse");
    assert_eq!(second.text, "second, \"so\"");
    for (name, content) in
        [("beavertails.json", array.as_str()), ("beavertails.csv", csv), ("beavertails.tsv", tsv)]
    {
        let set = read(name, content, &of(Layout::Auto)).unwrap();
        assert_eq!((set.layout, set.items), (Layout::BeaverTails, expected.clone()), "{name}");
    }
    let (_folder, path) = beavertails_parquet(["first", "second, \"so\""], 1);
    let set = read_data(&path, &of(Layout::Auto)).unwrap();
    assert_eq!((set.layout, set.items), (Layout::BeaverTails, expected));
}

#[test]
fn every_row_group_of_a_parquet_file_is_read() {
    let (_folder, path) = beavertails_parquet(["x", "y"], 3);
    let set = read_data(&path, &of(Layout::BeaverTails)).unwrap();
    assert_eq!((set.items.len(), set.num_repeats), (2, 4));
    let (_other_folder, other) = beavertails_parquet(["x", "z"], 3);
    let other = read_data(&other, &of(Layout::BeaverTails)).unwrap();
    assert_eq!(set.sha256.len(), 64);
    assert_ne!(set.sha256, other.sha256);
}

#[test]
fn errors_in_a_parquet_file_name_the_row_and_quote_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = "message schema { optional binary prompt (UTF8); required boolean flag; }";
    let texts = Column::Texts(vec![Some("secret"), None]);
    write(&path, schema, &[texts, Column::Flags(vec![true, true])], 1);
    let error = read_data(&path, &of(Layout::Generic)).unwrap_err().to_string();
    assert!(error.contains("a.parquet, row 2: no prompt"), "{error}");
    assert!(error.contains("the row has flag, prompt") && !error.contains("secret"), "{error}");

    let schema = "message schema { required binary prompt (UTF8); }";
    write(&path, schema, &[Column::Bytes(vec![b"fine", b"\x73\xff\xfe"])], 1);
    let error = read_data(&path, &of(Layout::Generic)).unwrap_err().to_string();
    assert!(error.contains("row 2: the row cannot be decoded"), "{error}");
    assert!(!error.contains("115") && !error.contains("255"), "{error}");
}

#[test]
fn parquet_text_without_the_mark_that_it_is_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = "message schema { required binary prompt; required int64 id; }";
    write(&path, schema, &[Column::Bytes(vec![b"fine"]), Column::Numbers(vec![40])], 1);
    let set = read_data(&path, &of(Layout::Auto)).unwrap();
    assert_eq!((set.items[0].text.as_str(), set.items[0].id.as_str()), ("fine", "40"));
}

#[test]
fn the_own_form_is_the_default_and_takes_csv_too() {
    let csv = "id,text,category,harmful,response,source\n\
        a,x,Malware Viruses,true,,own\n\
        b,x,Malware Viruses,true,,own\n\
        c,x,Malware Viruses,true,yes,own\n";
    let set = read("own.csv", csv, &ReadOptions::default()).unwrap();
    let ids: Vec<&str> = set.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!((ids, set.num_repeats), (vec!["a", "c"], 1));
    assert_eq!(set.items[0].catqa_category().unwrap().as_str(), "malware_viruses");
    assert_eq!((set.items[0].harmful, set.items[0].response.clone()), (Some(true), None));
    assert_eq!(set.layout, Layout::Skeg);
}

#[test]
fn the_checks_are_the_same_for_lines_and_cells() {
    for (name, content) in [
        ("a.jsonl", "{\"id\":\"a\",\"text\":\"x\",\"source\":\"own\"}\n"),
        ("a.csv", "id,text,source\na,x,own\n"),
    ] {
        let row = |id: &str, text: &str| match name {
            "a.csv" => format!("{id},{text},own\n"),
            _ => format!("{{\"id\":\"{id}\",\"text\":\"{text}\",\"source\":\"own\"}}\n"),
        };
        let line = content.lines().count() + 1;
        for (bad, expected) in [
            (row("b", " "), "item `b` has an empty `text`"),
            (row("a", "y"), "id `a` was used"),
            (row("b", &"y".repeat(1 << 20)), "longer than 1048576 bytes"),
        ] {
            let error = read(name, &(content.to_owned() + &bad), &ReadOptions::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(&format!("{name}:{line}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}

#[test]
fn labels_in_conflict_are_refused_or_dropped() {
    // Rows 1 and 3 agree in the first answer and not in the second.
    let csv = "prompt,response_0,response_1,is_response_0_safe,is_response_1_safe\n\
        x,r,s,true,false\ny,t,u,true,true\nx,r,s,true,true\n";
    let options = ReadOptions { on_conflict: OnConflict::Error, ..of(Layout::PkuSafeRlhf) };
    let error = read("pku.csv", csv, &options).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    let text = error.to_string();
    for part in ["pku.csv:4: ", "`pku-1-1`", "`pku-3-1`", "the answer's label"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let options = ReadOptions { on_conflict: OnConflict::Drop, ..of(Layout::PkuSafeRlhf) };
    let set = read("pku.csv", csv, &options).unwrap();
    let ids: Vec<&str> = set.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["pku-1-0", "pku-2-0", "pku-2-1"]);
    assert_eq!((set.num_repeats, set.num_conflicts), (1, 2));
}

#[test]
fn a_given_name_that_no_row_has_is_an_error_of_the_file() {
    let mut options = of(Layout::Generic);
    options.fields.label = vec!["verdict".to_owned()];
    let lines = "{\"prompt\":\"x\",\"response\":\"r\"}\n";
    let error = read("a.jsonl", lines, &options).unwrap_err().to_string();
    assert!(error.contains("a.jsonl") && error.contains("`label` (verdict)"), "{error}");
}

#[test]
fn an_empty_file_is_an_empty_set() {
    for name in ["a.jsonl", "a.json", "a.csv"] {
        let set = read(name, "", &of(Layout::Auto)).unwrap();
        assert!(set.items.is_empty() && set.layout == Layout::Auto, "{name}");
    }
}

#[test]
fn sets_in_two_layouts_that_share_a_prompt_are_refused() {
    let catqa = "{\"Question\":\"How  so?\",\"Category\":\"Child Abuse\",\"Subcategory\":\"s\"}\n";
    let train = read("catqa.jsonl", catqa, &of(Layout::CatQa)).unwrap();
    let alpaca = r#"[{"instruction":"other","input":"","output":"o"},{"instruction":"how so?","output":"o"}]"#;
    let test = read("alpaca.json", alpaca, &of(Layout::Alpaca)).unwrap();
    assert_eq!(overlap(&train, &test), [("catqa-1".to_owned(), "alpaca-2".to_owned())]);
    let error = refuse_overlap(&train, &test).unwrap_err();
    assert!(matches!(error, Error::Overlap { num_texts: 1, .. }), "{error}");
    assert!(error.to_string().contains("`catqa-1` = `alpaca-2`"), "{error}");
    let harmless: Vec<Item> = test.items.into_iter().take(1).collect();
    refuse_overlap(&train, &DataSet { items: harmless, ..train.clone() }).unwrap();
}
