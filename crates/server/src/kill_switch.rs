//! The kill switch: for a time every request is refused, or only the policy's default is served.
//!
//! It holds for requests admitted while it is on; answers that run go on. It ends by itself, by the monotonic clock, so that neither
//! a wrong wall clock nor a forgotten switch keeps a service down.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The switch; clones are one switch.
#[derive(Debug, Clone, Default)]
pub(crate) struct KillSwitch {
    engaged: Arc<RwLock<Option<Override>>>,
}

/// What is overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OverrideAction {
    /// Every request is answered as the action `refuse` answers.
    RefuseAll,
    /// A request gets what the policy gives to those that ask for nothing, and may not ask for anything else.
    DefaultOnly,
}

impl OverrideAction {
    pub(crate) const ALL: [Self; 2] = [Self::RefuseAll, Self::DefaultOnly];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RefuseAll => "refuse_all",
            Self::DefaultOnly => "default_only",
        }
    }
}

/// An override that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) action: OverrideAction,
    ends: Instant,
}

impl Override {
    /// Time until it ends.
    pub(crate) fn remaining(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }
}

impl KillSwitch {
    /// Overrides from now on for a time, in place of an override before.
    pub(crate) fn engage(&self, action: OverrideAction, lasts: Duration) {
        self.set(Some(Override { action, ends: Instant::now() + lasts }));
    }

    /// Ends the override, if there is one.
    pub(crate) fn clear(&self) {
        self.set(None);
    }

    /// The override in force; `None` once it has ended.
    pub(crate) fn engaged(&self) -> Option<Override> {
        let engaged = *self.engaged.read().unwrap_or_else(PoisonError::into_inner);
        engaged.filter(|engaged| !engaged.remaining().is_zero())
    }

    /// The override in force, as states show it; `null` without one.
    pub(crate) fn shown(&self) -> Value {
        self.engaged().map_or(Value::Null, |engaged| {
            let seconds = engaged.remaining().as_secs_f64();
            json!({"action": engaged.action, "expires_in_seconds": seconds})
        })
    }

    fn set(&self, to: Option<Override>) {
        *self.engaged.write().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_override_ends_by_itself_and_the_last_one_counts() {
        let switch = KillSwitch::default();
        let action = || switch.clone().engaged().map(|engaged| engaged.action);
        assert_eq!(action(), None);
        switch.engage(OverrideAction::RefuseAll, Duration::from_secs(60));
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert_eq!(action(), Some(OverrideAction::RefuseAll));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(action(), None);
        switch.engage(OverrideAction::RefuseAll, Duration::from_secs(60));
        switch.engage(OverrideAction::DefaultOnly, Duration::from_secs(1));
        assert_eq!(action(), Some(OverrideAction::DefaultOnly));
        switch.clear();
        assert_eq!(action(), None);
    }
}
