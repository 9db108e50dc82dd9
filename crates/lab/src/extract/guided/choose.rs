//! Which exchanges of a category stay, by what the judges found.

use super::GuidedOptions;
use super::findings::Finding;
use super::report::{GuidedCounts, SideCounts};
use crate::extract::spec::{CategoryInputs, Text};
use crate::extract::variant::Pairing;

/// The exchanges of one category that stay; `findings` gives its own first.
pub(super) fn choose(
    inputs: CategoryInputs,
    findings: &mut impl Iterator<Item = Finding>,
    options: &GuidedOptions,
) -> (CategoryInputs, GuidedCounts) {
    let CategoryInputs { category, unsafe_side, safe_side } = inputs;
    let mut judged = |texts: Vec<Text>| -> (Vec<(Text, Finding)>, SideCounts) {
        let texts: Vec<_> = texts.into_iter().zip(findings.by_ref()).collect();
        let mut counts = SideCounts::default();
        texts.iter().for_each(|(_, finding)| counts.add(finding.standing, finding.is_refusal));
        (texts, counts)
    };
    let (not_safe, unsafe_counts) = judged(unsafe_side);
    let (safe, safe_counts) = judged(safe_side);
    let mut chosen = CategoryInputs { category, unsafe_side: Vec::new(), safe_side: Vec::new() };
    let mut refusals = Vec::new();
    match options.pairing {
        Pairing::Matched => {
            for ((not_safe, unsafe_finding), (safe, safe_finding)) in not_safe.into_iter().zip(safe)
            {
                if unsafe_finding.is_unsafe() && safe_finding.is_safe() {
                    chosen.unsafe_side.push(not_safe);
                    chosen.safe_side.push(safe);
                }
            }
        }
        Pairing::SafeMean => {
            for (text, finding) in not_safe {
                if finding.is_unsafe() {
                    chosen.unsafe_side.push(text);
                } else if options.keep_refusals && finding.is_refusal && finding.is_safe() {
                    refusals.push(text);
                }
            }
            let is_safe = |(text, finding): (Text, Finding)| finding.is_safe().then_some(text);
            chosen.safe_side.extend(safe.into_iter().filter_map(is_safe));
        }
    }
    let counts = GuidedCounts {
        unsafe_side: SideCounts { kept: chosen.unsafe_side.len(), ..unsafe_counts },
        safe_side: SideCounts { kept: chosen.safe_side.len(), ..safe_counts },
        refusals_as_safe: refusals.len(),
        dropped: false,
    };
    chosen.safe_side.extend(refusals);
    (chosen, counts)
}

/// Why a category has no vector, where a side has fewer than `least` inputs.
pub(super) fn too_few(
    inputs: &CategoryInputs,
    counts: &GuidedCounts,
    least: usize,
) -> Option<String> {
    let sides = [
        ("unsafe", inputs.unsafe_side.len(), counts.unsafe_side),
        ("safe", inputs.safe_side.len(), counts.safe_side),
    ];
    sides.into_iter().find(|(_, num_kept, _)| *num_kept < least).map(|(side, num_kept, counts)| {
        format!(
            "category `{}` has {num_kept} confirmed inputs on its {side} side, fewer than {least}: {counts}",
            inputs.category
        )
    })
}
