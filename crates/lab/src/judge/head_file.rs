//! The file of heads: weights, hashes of what they were trained on, and how far the judges agree with people.
//!
//! JSON, `{"format_version": 2, "heads": [...], "agreement": [...]}`, no text of any set. Version 1 had neither the
//! field `rows` of [`super::TrainingSet`] nor `agreement`; it is read as well.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::agreement::JudgeAgreement;
use super::head::LinearHead;
use crate::error::{Error, Result};

/// Heads, and how far they and the rules agree with people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeasuredHeads {
    /// The heads.
    pub heads: Vec<LinearHead>,
    /// Rows of [`super::JudgesReport`] for these heads, the rules and the cosine with the heads' embedder; empty where that was not
    /// measured, or not kept. With folds, a head's rows are those of the heads that were trained without a prompt.
    pub agreement: Vec<JudgeAgreement>,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format_version: u32,
    heads: Vec<LinearHead>,
    #[serde(default)]
    agreement: Vec<JudgeAgreement>,
}

/// What any version has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

const FORMAT_VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;

/// Writes heads to a JSON file: weights, hashes and figures, no text they were trained on.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn save_heads(path: &Path, measured: &MeasuredHeads) -> Result<()> {
    let MeasuredHeads { heads, agreement } = measured.clone();
    let file = Written { format_version: FORMAT_VERSION, heads, agreement };
    let json = serde_json::to_string(&file).map_err(|error| Error::io(path, error.into()))?;
    std::fs::write(path, json + "\n").map_err(|source| Error::io(path, source))
}

/// Reads heads that [`save_heads`] wrote, also those of format version 1.
///
/// # Errors
/// [`Error::Io`], or [`Error::Data`] when it is no such file, of another version, or a head holds a number that is not
/// finite.
pub fn load_heads(path: &Path) -> Result<MeasuredHeads> {
    let bad = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
    let no_heads = |error| bad(format!("{error}; expected heads as `--save` writes them"));
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    let Version { format_version } = serde_json::from_str(&text).map_err(no_heads)?;
    if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&format_version) {
        return Err(bad(format!(
            "format_version is {format_version}; this build reads {OLDEST_VERSION} to {FORMAT_VERSION}"
        )));
    }
    let Written { heads, agreement, .. } = serde_json::from_str(&text).map_err(no_heads)?;
    let is_finite = |head: &LinearHead| head.weights.iter().all(|weight| weight.is_finite());
    match heads.iter().position(|head| !is_finite(head) || !head.bias.is_finite()) {
        Some(idx) => Err(bad(format!("head {idx} holds a weight that is not a finite number"))),
        None => Ok(MeasuredHeads { heads, agreement }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::LabelSource;
    use super::super::features::{FeatureRows, Features};
    use super::super::head::TrainingSet;
    use super::super::metrics::Figures;
    use super::super::row_hashes::RowHashes;
    use super::super::{Exchange, Property, Verdict};
    use super::*;

    fn head() -> LinearHead {
        let rows = FeatureRows::new(vec![0.0, 1.0, 1.0, 0.5, 2.0, 0.25, 3.0, 0.0], 2);
        let exchange = Exchange { prompt: "secret-prompt", response: "secret-answer" };
        let set = TrainingSet {
            name: "own".to_owned(),
            sha256: "ab".repeat(32),
            num_answers: 4,
            rows: Some(RowHashes::of([exchange])),
        };
        let labels = [false, false, true, true];
        LinearHead::fit(Features::Opening, "letters", vec![set], (&rows, &labels), 0.5).unwrap()
    }

    fn agreement() -> JudgeAgreement {
        let verdicts = [0.9, 0.4, 0.2].map(|score| Verdict { score, positive: score > 0.5 });
        JudgeAgreement {
            judge: "refusal head".to_owned(),
            property: Property::Refusal,
            set: "other".to_owned(),
            labels: LabelSource::Swapped,
            num_partial: 1,
            num_shared_prompts: 2,
            num_shared_answers: 3,
            figures: Figures::new(&verdicts, &[true, true, false]).unwrap(),
        }
    }

    #[test]
    fn heads_are_read_as_they_were_written_with_their_agreement_and_without_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads.json");
        let measured = MeasuredHeads { heads: vec![head()], agreement: vec![agreement()] };
        save_heads(&path, &measured).unwrap();
        let read = load_heads(&path).unwrap();
        assert_eq!(read.heads[0].trained_on, head().trained_on);
        assert!((read.heads[0].score(&[2.0, 0.1]) - head().score(&[2.0, 0.1])).abs() < 1e-12);
        let row = &read.agreement[0];
        assert_eq!((row.property, row.labels), (Property::Refusal, LabelSource::Swapped));
        assert_eq!((row.num_partial, row.num_shared_prompts, row.num_shared_answers), (1, 2, 3));
        let table = super::super::report::table(&measured.agreement);
        assert_eq!(super::super::report::table(&read.agreement), table);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"format_version\":2,") && !text.contains("secret"), "{text}");
    }

    /// A file as version 1 was written.
    #[test]
    fn a_file_of_version_1_is_read_without_hashes_and_agreement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads.json");
        let text = "{\"format_version\":1,\"heads\":[{\"features\":\"opening\",\"embedder\":\"letters\",\
                    \"classes\":[\"compliance\",\"refusal\"],\"trained_on\":[{\"name\":\"own\",\"sha256\":\"abab\",\
                    \"num_answers\":4}],\"l2\":0.5,\"weights\":[0.5,-0.25],\"bias\":0.125}]}\n";
        std::fs::write(&path, text).unwrap();
        let MeasuredHeads { heads, agreement } = load_heads(&path).unwrap();
        assert_eq!((heads.len(), agreement.len()), (1, 0));
        let set = &heads[0].trained_on[0];
        assert_eq!((set.name.as_str(), set.num_answers, &set.rows), ("own", 4, &None));
        assert!((heads[0].score(&[1.0, 2.0]) - 1.0 / (1.0 + (-0.125_f64).exp())).abs() < 1e-12);
    }

    #[test]
    fn a_file_that_is_no_file_of_heads_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads.json");
        for (text, expected) in [
            ("[]", "expected heads as `--save` writes them"),
            ("{\"format_version\": 2}", "expected heads as `--save` writes them"),
            ("{\"format_version\": 3, \"new\": 1}", "format_version is 3; this build reads 1 to 2"),
            ("{\"format_version\": 0, \"heads\": []}", "format_version is 0; this build"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load_heads(&path).unwrap_err().to_string();
            assert!(error.contains("heads.json: ") && error.contains(expected), "{error}");
        }
        assert!(matches!(load_heads(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
