//! Garbage collection: removes generations that nobody goes back to, and what writers left that died.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::place::{Leftover, Listed, Place};
use crate::{Current, GenerationId, files};

/// What is kept beside the generation that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepRules {
    /// Generations that the last so many changes went to or came from; default 10.
    pub changes: usize,
    /// Generations that were written less long ago, by the place's clock; default a day. It is what a publisher has between
    /// writing a generation and publishing it.
    pub grace: Duration,
}

impl Default for KeepRules {
    fn default() -> Self {
        Self { changes: 10, grace: Duration::from_secs(24 * 3600) }
    }
}

/// A generation, and what garbage collection makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The generation.
    pub id: GenerationId,
    /// How long ago it was last written, by the place's clock.
    pub age: Duration,
    /// Whether it has its manifest; what has none was never published.
    pub is_whole: bool,
    /// Why it is kept; `None` = it goes.
    pub kept: Option<Kept>,
}

/// Why a generation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// `CURRENT` names it.
    Serves,
    /// One of the last changes went to it or came from it.
    InHistory,
    /// It was written a short while ago.
    Young,
}

impl Kept {
    /// The reason in a word or two.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serves => "serves",
            Self::InHistory => "in the history",
            Self::Young => "young",
        }
    }
}

/// Says which generations of a place would go, and removes nothing.
///
/// # Errors
/// [`Error::Layout`] where nothing was published, since then nothing says what is needed; what the place refuses.
pub fn judge(place: &dyn Place, rules: KeepRules) -> Result<Vec<Judged>> {
    let current = place.current()?;
    let used = used(place, &current, rules.changes)?;
    let listed = place.generations()?;
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let now = place.now()?;
    let judged = |Listed { id, modified, is_whole }: Listed| {
        // What is from the future is young.
        let age = now.duration_since(modified).unwrap_or_default();
        let kept = if id == current.generation {
            Some(Kept::Serves)
        } else if used.contains(&id) {
            Some(Kept::InHistory)
        } else if age < rules.grace {
            Some(Kept::Young)
        } else {
            None
        };
        Judged { id, age, is_whole, kept }
    };
    Ok(listed.into_iter().map(judged).collect())
}

/// Removes the generations that [`judge`] lets go, and says what was judged.
///
/// It may run beside publishers. In a folder it takes their lock. In an object store it looks after each removal whether
/// `CURRENT` came to name what was removed, and puts it back then.
///
/// # Errors
/// As [`judge`]. What was removed before an error is gone.
pub fn collect(place: &dyn Place, rules: KeepRules) -> Result<Vec<Judged>> {
    let judged = judge(place, rules)?;
    for gone in judged.iter().filter(|judged| judged.kept.is_none()) {
        remove(place, &gone.id)?;
    }
    Ok(judged)
}

/// What a writer left beside the generations, and what garbage collection makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedLeftover {
    /// What it is.
    pub leftover: Leftover,
    /// How long ago it was last written, by the place's clock.
    pub age: Duration,
    /// Whether it goes: it was written as long ago as `grace` says. Something younger may be a living writer's.
    pub goes: bool,
}

/// Says which leftovers of a place would go, and removes nothing.
///
/// # Errors
/// What the place refuses.
pub fn judge_leftovers(place: &dyn Place, grace: Duration) -> Result<Vec<JudgedLeftover>> {
    let leftovers = place.leftovers()?;
    if leftovers.is_empty() {
        return Ok(Vec::new());
    }
    let now = place.now()?;
    let judged = |leftover: Leftover| {
        let age = now.duration_since(leftover.modified).unwrap_or_default();
        JudgedLeftover { leftover, age, goes: age >= grace }
    };
    Ok(leftovers.into_iter().map(judged).collect())
}

/// Removes the leftovers that [`judge_leftovers`] lets go, and says what was judged. It may run beside publishers.
///
/// # Errors
/// As [`judge_leftovers`]. What was removed before an error is gone.
pub fn collect_leftovers(place: &dyn Place, grace: Duration) -> Result<Vec<JudgedLeftover>> {
    let judged = judge_leftovers(place, grace)?;
    for gone in judged.iter().filter(|judged| judged.goes) {
        place.remove_leftover(&gone.leftover)?;
    }
    Ok(judged)
}

fn remove(place: &dyn Place, id: &GenerationId) -> Result<()> {
    // What cannot be read cannot be published either.
    let contents = place.read_files(id).ok();
    place.remove(id)?;
    if place.find_current()?.is_none_or(|current| current.generation != *id) {
        return Ok(());
    }
    if let Some(contents) = contents {
        place.add_files(&contents)?;
    }
    let path = place.path_of(&format!("{}/{id}", files::GENERATIONS));
    Err(Error::layout(
        path,
        "it was published while it was removed, and was put back; nothing is wrong",
    ))
}

/// The generations that the last changes went to or came from.
fn used(place: &dyn Place, current: &Current, changes: usize) -> Result<BTreeSet<GenerationId>> {
    let mut used = BTreeSet::from([current.generation.clone()]);
    for entry in place.history(changes)? {
        used.insert(entry.generation);
        used.extend(entry.previous);
    }
    Ok(used)
}
