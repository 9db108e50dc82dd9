//! When an override ends: seconds from now, or a time by the wall clock, which is looked at once.

use std::time::Duration;

use serde::Deserialize;
use toml::value::{Datetime, Offset};

/// The longest override: a day. Who needs more says so again, so that none is forgotten.
const MAX: Duration = Duration::from_secs(24 * 60 * 60);

const EXPECTED: &str = "give seconds from now, 1 to 86400, or a time within a day in the form of RFC 3339 with its offset, for \
                        example \"2030-01-31T12:00:00Z\"";

/// `expires` as it was given.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Expiry {
    Seconds(u64),
    Time(String),
}

impl Expiry {
    /// Time from `now` (since 1970) until then.
    pub(super) fn lasts(&self, now: Duration) -> Result<Duration, String> {
        let lasts = match self {
            Self::Seconds(seconds) => Duration::from_secs(*seconds),
            Self::Time(text) => {
                let time = unix_time(text).ok_or_else(|| format!("is not a time; {EXPECTED}"))?;
                time.saturating_sub(now)
            }
        };
        if lasts.is_zero() || lasts > MAX {
            let seconds = lasts.as_secs();
            return Err(format!("is {seconds} seconds from now; {EXPECTED}"));
        }
        Ok(lasts)
    }
}

/// A date, a time and an offset, as the time since 1970.
fn unix_time(text: &str) -> Option<Duration> {
    const DAY: i64 = 24 * 60 * 60;
    let Datetime { date, time, offset } = text.parse().ok()?;
    let (date, time) = (date?, time?);
    let offset_minutes = match offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let (hour, minute) = (i64::from(time.hour), i64::from(time.minute));
    let seconds = days * DAY + hour * 3600 + (minute - offset_minutes) * 60;
    let seconds = seconds + i64::from(time.second.unwrap_or(0));
    let nanoseconds = u64::from(time.nanosecond.unwrap_or(0));
    Some(Duration::from_secs(u64::try_from(seconds).ok()?) + Duration::from_nanos(nanoseconds))
}

/// Days of the Gregorian calendar, in years that begin in March so that the leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    /// Days from 0000-03-01 to 1970-01-01.
    const TO_1970: i64 = 719_468;
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // (153 m + 2) / 5 days lie before the m-th month from March.
    let days_of_months = (153 * month + 2) / 5;
    year * 365 + year / 4 - year / 100 + year / 400 + days_of_months + day - 1 - TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -d TIME +%s`
    #[test]
    fn times_are_those_of_other_tools() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2024-12-31T23:00:00-01:00", 1_735_689_600),
            ("2026-11-25T12:30:00+05:30", 1_795_590_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(unix_time(text), Some(Duration::from_secs(expected)), "{text}");
        }
        for text in
            ["", "soon", "2026-11-25", "12:00:00", "2026-11-25T12:00:00", "2026-13-01T00:00:00Z"]
        {
            assert_eq!(unix_time(text), None, "{text}");
        }
    }

    #[test]
    fn an_override_lasts_from_a_moment_to_a_day() {
        let now = Duration::from_secs(951_868_800);
        let lasts = |expiry: Expiry| expiry.lasts(now).ok().map(|lasts| lasts.as_secs());
        let time = |text: &str| lasts(Expiry::Time(text.to_owned()));
        assert_eq!(lasts(Expiry::Seconds(1)), Some(1));
        assert_eq!(lasts(Expiry::Seconds(86_400)), Some(86_400));
        assert_eq!((lasts(Expiry::Seconds(0)), lasts(Expiry::Seconds(86_401))), (None, None));
        assert_eq!(lasts(Expiry::Seconds(u64::MAX)), None);
        assert_eq!(time("2000-03-01T00:10:00Z"), Some(600));
        assert_eq!(time("2000-03-01T00:00:00Z"), None, "it is over");
        assert_eq!(time("1999-03-01T00:00:00Z"), None);
        assert_eq!(time("2000-03-02T00:00:01Z"), None, "it is too far");
    }
}
