//! `skeg vectors history|diff|gc`: what served when and why, what differs, and what is not needed any more.

use std::time::Duration;

use serde_json::json;
use skeg_vector_store::diff::LayerChange;
use skeg_vector_store::gc::{self, Judged, JudgedLeftover, KeepRules};
use skeg_vector_store::{Difference, GenerationId, place};

use super::vectors_publish::PlaceFlags;
use crate::output::{self, Table};

const SECONDS_AN_HOUR: u64 = 3600;
const SECONDS_A_DAY: u64 = 24 * SECONDS_AN_HOUR;

/// Print the last changes of what serves, newest first: when, by whom and why.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// How many
    #[arg(long, value_name = "NUM", default_value_t = 20)]
    last: usize,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Print in plain words how two generations differ in policy and vectors, and each layer's cosine and norm.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The generation after; with two ids, the one before [default: with --from the one that serves there]
    #[arg(required_unless_present = "from")]
    generation: Option<String>,
    /// The generation after [default: the first id is the one after, and what serves is the one before]
    to: Option<String>,
    /// Store of the generation after, where it is another: a folder or an address, as --store
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Print which generations nobody goes back to and what dead writers left, and with --delete remove it. What serves is never
/// removed.
#[derive(Debug, clap::Args)]
pub(super) struct GcArgs {
    /// Keep the generations of the last so many changes
    #[arg(long, value_name = "NUM", default_value_t = KeepRules::default().changes)]
    keep: usize,
    /// Keep what was written within so many hours, by the store's clock
    #[arg(long, value_name = "HOURS", default_value_t = KeepRules::default().grace.as_secs() / SECONDS_AN_HOUR)]
    grace_hours: u64,
    /// Remove them, instead of printing what would go
    #[arg(long, conflicts_with = "dry_run")]
    delete: bool,
    /// Remove nothing: the default
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn history(args: &HistoryArgs) -> anyhow::Result<()> {
    let place = args.place.open()?;
    let entries = place.history(args.last)?;
    if args.place.flags.json {
        return Ok(output::json(&entries)?);
    }
    let columns = ["SEQUENCE", "WHEN (UTC)", "KIND", "GENERATION", "BEFORE", "WHO", "WHY"];
    let mut table = Table::new(&columns);
    for entry in entries {
        let before = entry.previous.map_or_else(|| "-".to_owned(), |id| id.to_string());
        table.row(vec![
            entry.sequence.to_string(),
            utc(entry.unix_time),
            format!("{:?}", entry.kind).to_lowercase(),
            entry.generation.to_string(),
            before,
            one_line(&entry.actor),
            one_line(&entry.reason),
        ]);
    }
    Ok(table.print()?)
}

pub(super) fn diff(args: &DiffArgs) -> anyhow::Result<()> {
    let place = args.place.open()?;
    let other = args.from.as_deref().map(place::open).transpose()?;
    let source = other.as_deref().unwrap_or(place.as_ref());
    let (before, after) = match (&args.generation, &args.to) {
        (Some(before), Some(after)) => (GenerationId::parse(before)?, GenerationId::parse(after)?),
        (Some(after), None) => (place.current()?.generation, GenerationId::parse(after)?),
        (None, _) => (place.current()?.generation, source.current()?.generation),
    };
    let (before, after) = (place.load(&before)?, source.load(&after)?);
    let difference = Difference::between(&before, &after);
    let words = difference.words();
    if args.place.flags.json {
        return Ok(output::json(&json!({"difference": difference, "words": words}))?);
    }
    output::line(&format!("{} -> {}", difference.from, difference.to))?;
    for words in words {
        output::line(&format!("  {words}"))?;
    }
    let mut table = Table::new(&["CATEGORY", "LAYER", "COSINE", "NORM", "CHANGE"]);
    let mut has_rows = false;
    for vectors in &difference.vectors {
        for layer in vectors.layers.iter().filter(|layer| !layer.is_same) {
            table.row(layer_cells(vectors.category.as_str(), layer));
            has_rows = true;
        }
    }
    if has_rows {
        output::line("")?;
        table.print()?;
    }
    Ok(())
}

fn layer_cells(category: &str, layer: &LayerChange) -> Vec<String> {
    let change = layer.norm_change();
    vec![
        category.to_owned(),
        layer.layer.to_string(),
        layer.cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.4}")),
        format!("{:.3} -> {:.3}", layer.norm_from, layer.norm_to),
        change.map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", 100.0 * change)),
    ]
}

pub(super) fn gc(args: &GcArgs) -> anyhow::Result<()> {
    let place = args.place.open()?;
    let grace = Duration::from_secs(args.grace_hours.saturating_mul(SECONDS_AN_HOUR));
    let rules = KeepRules { changes: args.keep, grace };
    let (judged, leftovers) = {
        let place = place.as_ref();
        if args.delete {
            (gc::collect(place, rules)?, gc::collect_leftovers(place, grace)?)
        } else {
            (gc::judge(place, rules)?, gc::judge_leftovers(place, grace)?)
        }
    };
    if args.place.flags.json {
        let rows = judged.iter().map(|judged| {
            json!({
                "generation": judged.id,
                "age_seconds": judged.age.as_secs(),
                "whole": judged.is_whole,
                "goes": judged.kept.is_none(),
                "kept": judged.kept.map(|kept| kept.as_str()),
                "removed": judged.kept.is_none() && args.delete,
            })
        });
        let leftovers = leftovers.iter().map(|judged| {
            json!({
                "leftover": judged.leftover.name,
                "age_seconds": judged.age.as_secs(),
                "goes": judged.goes,
                "removed": judged.goes && args.delete,
            })
        });
        return Ok(output::json(&rows.chain(leftovers).collect::<Vec<_>>())?);
    }
    print_gc(&judged, &leftovers, args.delete)
}

fn print_gc(judged: &[Judged], leftovers: &[JudgedLeftover], delete: bool) -> anyhow::Result<()> {
    let goes = if delete { "removed" } else { "would go" };
    let hours = |age: Duration| format!("{} h", age.as_secs() / SECONDS_AN_HOUR);
    let mut table = Table::new(&["GENERATION", "AGE", "WHOLE", "RESULT"]);
    for judged in judged {
        let fate = judged.kept.map(|kept| format!("kept: {}", kept.as_str()));
        table.row(vec![
            judged.id.to_string(),
            hours(judged.age),
            (if judged.is_whole { "yes" } else { "no" }).to_owned(),
            fate.unwrap_or_else(|| goes.to_owned()),
        ]);
    }
    for judged in leftovers {
        let fate = if judged.goes { goes } else { "kept: young" };
        let name = one_line(&judged.leftover.name);
        table.row(vec![name, hours(judged.age), "left over".to_owned(), fate.to_owned()]);
    }
    table.print()?;
    let num = judged.iter().filter(|judged| judged.kept.is_none()).count();
    let said = if delete { "removed" } else { "would go; --delete removes them" };
    output::line(&format!("{num} of {} generations {said}", judged.len()))?;
    if !leftovers.is_empty() {
        let num = leftovers.iter().filter(|judged| judged.goes).count();
        let all = leftovers.len();
        output::line(&format!("{num} of {all} leftovers of dead writers {goes}"))?;
    }
    Ok(())
}

/// Texts of the history are others': no line breaks and no control characters reach the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// Seconds since 1970 as date and time in UTC. The date by the algorithm of Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`: years begin in March, so that the leap day is a year's last.
fn utc(unix_time: u64) -> String {
    let (days, seconds) = (unix_time / SECONDS_A_DAY, unix_time % SECONDS_A_DAY);
    // Days since the 1st of March of year 0, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute, second) =
        (seconds / SECONDS_AN_HOUR, seconds % SECONDS_AN_HOUR / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_other_tools() {
        // date -u -d @N '+%F %T'
        for (unix_time, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_827_696, "2000-02-29 12:34:56"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(unix_time), expected);
        }
    }
}
