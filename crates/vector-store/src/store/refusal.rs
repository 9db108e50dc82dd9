//! What a program refused to serve, and when it is worth trying again.

use std::time::{Duration, Instant};

use crate::GenerationId;

/// Pause after the first refusal of a generation; it doubles with each one after.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A generation that was sound and could not be served. Whoever looks again and again tries it again after a pause that grows:
/// what is missing may come, a free place in the engine for example, and trying may cost.
#[derive(Debug)]
pub(crate) struct Refusal {
    id: GenerationId,
    pause: Duration,
    next: Instant,
}

impl Refusal {
    /// Notes that a generation was refused at `now`.
    pub(crate) fn note(before: Option<&Self>, id: &GenerationId, now: Instant) -> Self {
        let pause = match before {
            Some(before) if before.id == *id => (before.pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        Self { id: id.clone(), pause, next: now + pause }
    }

    /// Whether it is too early to try a generation again.
    pub(crate) fn holds(&self, id: &GenerationId, now: Instant) -> bool {
        self.id == *id && now < self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_five_minutes_and_is_of_one_generation() {
        let id = |text| GenerationId::parse(text).unwrap();
        let (one, other) = (id("0000000000000001"), id("0000000000000002"));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut refusal = Refusal::note(None, &one, start);
        assert!(refusal.holds(&one, after(0)) && !refusal.holds(&one, after(1)));
        assert!(!refusal.holds(&other, start));
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            refusal = Refusal::note(Some(&refusal), &one, start);
            assert!(refusal.holds(&one, after(pause - 1)) && !refusal.holds(&one, after(pause)));
        }
        let refusal = Refusal::note(Some(&refusal), &other, start);
        assert!(!refusal.holds(&other, after(1)));
    }
}
