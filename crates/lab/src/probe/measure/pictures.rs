//! A report's pictures: confusions, calibration, and recall against false alarms.

use std::path::Path;

use super::report::{Against, NO_ALARM, ProbeReport, SetOperating, row_name};
use crate::error::{Error, Result};
use crate::figures::{ConfusionMatrix, Curve, CurvePoint, Curves, Figure, ValueAxis};

/// False alarms at which curves of recall are drawn, in per cent: close where a gate works.
const FALSE_ALARM_PERCENTS: [f64; 13] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0];

/// What categories are taken for; `None` of a report without categories.
#[must_use]
pub fn confusion(report: &ProbeReport) -> Option<ConfusionMatrix> {
    let found = report.categories.as_ref()?;
    let columns = found.categories.iter().map(|one| one.category.to_string());
    let counts = found.confusion.iter().map(|row| {
        let mut counts = row.predicted.clone();
        counts.push(row.none);
        counts
    });
    Some(ConfusionMatrix {
        title: format!("Categories of alarms, from a probability of {}", report.threshold),
        row_name: "true category".to_owned(),
        column_name: "predicted category".to_owned(),
        rows: found.confusion.iter().map(|row| row_name(row.category.as_ref())).collect(),
        columns: columns.chain([NO_ALARM.to_owned()]).collect(),
        counts: counts.collect(),
    })
}

/// The harmful share over the mean probability of harm, bin by bin, with Wilson's interval, and the diagonal that a calibrated
/// probe is on.
#[must_use]
pub fn reliability(report: &ProbeReport) -> Curves {
    let points = report.calibration.bins.iter().filter_map(|bin| {
        let interval = Some((bin.harmful.low, bin.harmful.high));
        Some(CurvePoint { x: bin.mean_harm?, value: bin.harmful.share, interval })
    });
    let diagonal = [0.0, 1.0].map(|end| CurvePoint { x: end, value: end, interval: None });
    let curve = |name: &str, points| Curve { name: name.to_owned(), points };
    Curves {
        title: "Calibration".to_owned(),
        x_name: "mean probability of harm".to_owned(),
        y_name: "harmful prompts".to_owned(),
        value_axis: ValueAxis::Share,
        curves: vec![curve("the probe", points.collect()), curve("calibrated", diagonal.to_vec())],
        safe_window: None,
        default_x: None,
    }
}

/// The most recall at no more false alarms than 0 to 20 %: one line for each set with harmless prompts, against the pooled harmful
/// prompts, or its own where there is no pool.
#[must_use]
pub fn recall_curves(report: &ProbeReport) -> Curves {
    let wanted = if report.pooled.is_empty() { Against::Own } else { Against::Pooled };
    let curve = |set: &SetOperating| {
        let point = |percent: f64| CurvePoint {
            x: percent,
            value: set.operating.recall_within(percent / 100.0),
            interval: None,
        };
        Curve { name: set.set.clone(), points: FALSE_ALARM_PERCENTS.map(point).to_vec() }
    };
    let title = match wanted {
        Against::Pooled => "Recall and false alarms, by the set of the harmless prompts",
        Against::Own => "Recall and false alarms of each set's own prompts",
    };
    Curves {
        title: title.to_owned(),
        x_name: "harmless prompts that alarm, at most (%)".to_owned(),
        y_name: "harmful prompts that alarm".to_owned(),
        value_axis: ValueAxis::Share,
        curves: report.sets.iter().filter(|set| set.against == wanted).map(curve).collect(),
        safe_window: None,
        default_x: None,
    }
}

/// Writes all of them into `folder`, which is there already, as SVG and PNG; the names of the SVG files and what each shows.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written.
pub fn write_pictures(
    report: &ProbeReport,
    folder: &Path,
) -> Result<Vec<(&'static str, &'static str)>> {
    let write = |name: &'static str, figure: &dyn Figure| -> Result<()> {
        for path in [folder.join(name), folder.join(name).with_extension("png")] {
            figure.write(&path)?;
        }
        Ok::<(), Error>(())
    };
    let mut written = Vec::new();
    if !report.sets.is_empty() {
        write("recall.svg", &recall_curves(report))?;
        written.push(("recall.svg", "Recall against false alarms"));
    }
    write("reliability.svg", &reliability(report))?;
    written.push(("reliability.svg", "Harmful prompts by probability of harm"));
    if let Some(matrix) = confusion(report) {
        write("confusion.svg", &matrix)?;
        written.push(("confusion.svg", "True and predicted categories"));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{measured, three_sets};
    use super::*;

    fn three() -> ProbeReport {
        let (corpus, verdicts) = three_sets();
        ProbeReport::new(&corpus, &verdicts).unwrap()
    }

    fn names(curves: &Curves) -> Vec<&str> {
        curves.curves.iter().map(|curve| curve.name.as_str()).collect()
    }

    #[test]
    fn confusions_have_their_names_and_counts() {
        let matrix = confusion(&three()).unwrap();
        assert_eq!(matrix.rows, ["fraud", "privacy", "harmless"]);
        assert_eq!(matrix.columns, ["fraud", "privacy", "none"]);
        assert_eq!(matrix.counts, [[1, 0, 0], [1, 1, 0], [0, 1, 3]]);
    }

    #[test]
    fn bins_without_prompts_are_no_points() {
        let curves = reliability(&three());
        let places: Vec<f64> = curves.curves[0].points.iter().map(|point| point.x).collect();
        // 0 and two of 0.125, 0.25, 0.5, two of 0.75, 0.9 (as f32, above it).
        let expected = [0.0, 0.125, 0.25, 0.5, 0.75, f64::from(0.9_f32)];
        assert_eq!(places.len(), expected.len());
        assert!(
            places.iter().zip(expected).all(|(one, two)| (one - two).abs() < 1e-9),
            "{places:?}"
        );
        assert!((curves.curves[0].points[4].value - 0.5).abs() < 1e-9);
    }

    #[test]
    fn each_harmless_set_has_one_line() {
        assert_eq!(names(&recall_curves(&three())), ["mixed", "everyday"]);
        let (corpus, verdicts) =
            measured(&["own"], &[(0, true, Some(0), 0.75, 0), (0, false, None, 0.25, 0)]);
        let report = ProbeReport::new(&corpus, &verdicts).unwrap();
        let curves = recall_curves(&report);
        assert_eq!(names(&curves), ["own"]);
        assert!(curves.curves[0].points.iter().all(|point| (point.value - 1.0).abs() < 1e-12));
    }

    #[test]
    fn pictures_are_written_as_svg_and_png_whatever_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let start = |name: &str| std::fs::read(folder.path().join(name)).unwrap()[..4].to_vec();
        let written = write_pictures(&three(), folder.path()).unwrap();
        let files: Vec<&str> = written.iter().map(|(name, _)| *name).collect();
        assert_eq!(files, ["recall.svg", "reliability.svg", "confusion.svg"]);
        for name in files {
            assert_eq!(start(name), b"<svg");
            assert_eq!(start(&name.replace("svg", "png")), b"\x89PNG");
        }
        let (mut corpus, verdicts) = measured(&[], &[]);
        corpus.categories.clear();
        let empty = ProbeReport::new(&corpus, &verdicts).unwrap();
        let written = write_pictures(&empty, folder.path()).unwrap();
        assert_eq!(written.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["reliability.svg"]);
        assert!(matches!(
            write_pictures(&empty, &folder.path().join("missing")),
            Err(Error::Io { .. })
        ));
    }
}
