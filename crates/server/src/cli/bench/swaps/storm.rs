//! Clients that ask and a publisher that publishes, at the same time and at one pace.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use skeg_vector_store::set_current;

use super::requests::Material;
use super::server::{Answer, Server};

/// A publication that the server has not noticed by then is an error.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(2);
/// Times at which the server's memory is looked at, over the whole run.
const MEMORY_LOOKS: usize = 5;
/// The metric that counts publications that the server did not take.
const FAILED: &str = "skeg_swap_total result=\"failed\"";

/// The answers that each kind of request must get, by generation.
pub(super) type References = BTreeMap<String, Vec<Answer>>;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) requests: usize,
    pub(super) publications: usize,
    pub(super) clients: usize,
    /// One publication in so many is bad.
    pub(super) bad_every: usize,
}

/// Keeps clients and publisher together. Publication number n follows the answers that are due before it, and while it is made
/// every client may have one more request under way.
#[derive(Debug)]
struct Pace {
    sizes: Sizes,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    begun: usize,
    answered: usize,
    published: usize,
    /// The publisher has ended, by success or failure: nobody waits for it.
    ended: bool,
}

impl Pace {
    /// Answers that are due before so many publications.
    fn due(&self, publications: usize) -> usize {
        self.sizes.requests * publications / self.sizes.publications
    }

    /// The number of the next request, once it may begin; `None` when there is none left.
    fn begin(&self) -> Option<usize> {
        let mut progress = self.lock();
        loop {
            if progress.begun == self.sizes.requests {
                return None;
            }
            let allowed = self.due(progress.published) + self.sizes.clients;
            if progress.ended || progress.begun < allowed {
                progress.begun += 1;
                return Some(progress.begun - 1);
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until_due(&self, publications: usize) {
        let due = self.due(publications);
        let waits = |progress: &mut Progress| progress.answered < due;
        drop(self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner));
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a client.
#[derive(Debug)]
struct Asked {
    began: Instant,
    ended: Instant,
    /// Not refused by policy, but answered by the model.
    by_model: bool,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// As alone, under this generation.
    Same(String),
    /// An answer that no generation gives alone.
    Different(String),
    Failed(String),
}

/// One good publication.
#[derive(Debug)]
struct Published {
    generation: String,
    began: Instant,
}

/// What a run measured; times in seconds.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) num_same: usize,
    /// The first lines of what is not as it should be.
    pub(super) different: Vec<String>,
    pub(super) failed: Vec<String>,
    pub(super) num_bad: usize,
    /// To write, check and name a generation in `CURRENT`.
    pub(super) publishing: Vec<f64>,
    /// From the start of that to the first request that was begun and answered under it, without a forward pass.
    pub(super) to_first_request: Vec<f64>,
    /// The same to the end of the first answer of the model.
    pub(super) to_first_answer: Vec<f64>,
    pub(super) resident_bytes: Vec<u64>,
}

/// Runs it to its end.
///
/// # Errors
/// When a publication fails, or is not noticed, or a bad one takes effect.
pub(super) fn run(
    server: &Server,
    material: &Material,
    references: &References,
    sizes: Sizes,
) -> anyhow::Result<Measured> {
    let pace = Pace { sizes, progress: Mutex::default(), changed: Condvar::new() };
    let (published, asked) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..sizes.clients)
            .map(|_| scope.spawn(|| client(server, material, references, &pace)))
            .collect();
        let published = publish_all(server, material, &pace);
        pace.note(|progress| progress.ended = true);
        let asked: Vec<Asked> =
            clients.into_iter().filter_map(|client| client.join().ok()).flatten().collect();
        (published, asked)
    });
    let (publications, mut measured) = published?;
    if asked.len() != sizes.requests {
        bail!("{} of {} requests were made; a client died", asked.len(), sizes.requests);
    }
    measured.to_first_answer = first_answers(&publications, &asked);
    for one in asked {
        match one.outcome {
            Outcome::Same(_) => measured.num_same += 1,
            Outcome::Different(what) => measured.different.push(what),
            Outcome::Failed(what) => measured.failed.push(what),
        }
    }
    Ok(measured)
}

fn client(
    server: &Server,
    material: &Material,
    references: &References,
    pace: &Pace,
) -> Vec<Asked> {
    let mut asked = Vec::new();
    while let Some(nth) = pace.begin() {
        let kind = nth % material.requests.len();
        let request = &material.requests[kind];
        let began = Instant::now();
        let answer = server.ask(request);
        let ended = Instant::now();
        let outcome = match answer {
            Err(error) => Outcome::Failed(format!("{}: {error:#}", request.category)),
            Ok(answer)
                if references.get(&answer.generation).map(|of| &of[kind]) == Some(&answer) =>
            {
                Outcome::Same(answer.generation)
            }
            Ok(answer) => Outcome::Different(format!(
                "{} (kind {kind}) under `{}`",
                request.category, answer.generation
            )),
        };
        let by_model = request.category != material.probe.category;
        asked.push(Asked { began, ended, by_model, outcome });
        pace.note(|progress| progress.answered += 1);
    }
    asked
}

fn publish_all(
    server: &Server,
    material: &Material,
    pace: &Pace,
) -> anyhow::Result<(Vec<Published>, Measured)> {
    let sizes = pace.sizes;
    let (mut measured, mut publications) = (Measured::default(), Vec::new());
    let mut looks = 0;
    for nth in 0..sizes.publications {
        pace.wait_until_due(nth);
        if nth * (MEMORY_LOOKS - 1) >= looks * sizes.publications {
            measured.resident_bytes.extend(server.resident_bytes());
            looks += 1;
        }
        if nth % sizes.bad_every == sizes.bad_every - 1 {
            publish_bad(server, material, measured.num_bad)?;
            measured.num_bad += 1;
        } else {
            let began = Instant::now();
            let generation = &material.variants[(publications.len() + 1) % material.variants.len()];
            set_current(&material.root, generation, None)?;
            measured.publishing.push(began.elapsed().as_secs_f64());
            until(&format!("generation {generation} answers"), || {
                Ok(server.ask(&material.probe)?.generation == generation.as_str())
            })?;
            measured.to_first_request.push(began.elapsed().as_secs_f64());
            publications.push(Published { generation: generation.to_string(), began });
        }
        pace.note(|progress| progress.published += 1);
    }
    pace.wait_until_due(sizes.publications);
    measured.resident_bytes.extend(server.resident_bytes());
    Ok((publications, measured))
}

/// Publishes what must not take effect, and what was there before when the server has refused it.
fn publish_bad(server: &Server, material: &Material, nth: usize) -> anyhow::Result<()> {
    let live = server.ask(&material.probe)?.generation;
    let failed_before = server.metric(FAILED)?;
    let before = material.publish_bad(nth)?;
    until("a bad publication is refused", || Ok(server.metric(FAILED)? > failed_before))?;
    let now = server.ask(&material.probe)?.generation;
    if now != live {
        bail!("a bad publication replaced generation {live} by `{now}`");
    }
    material.replace_current(&before)
}

fn until(what: &str, is_so: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so().context(what.to_owned())? {
        if began.elapsed() > PATIENCE {
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// From each publication to the end of the model's first answer under it, in seconds, of the requests that were begun after it and
/// before the next. A publication without one is left out.
fn first_answers(publications: &[Published], asked: &[Asked]) -> Vec<f64> {
    let first = |(nth, published): (usize, &Published)| {
        let next = publications.get(nth + 1).map(|next| next.began);
        let is_under = |one: &&Asked| {
            one.by_model
                && one.began >= published.began
                && next.is_none_or(|next| one.began < next)
                && matches!(&one.outcome, Outcome::Same(id) if *id == published.generation)
        };
        let ended = asked.iter().filter(is_under).map(|one| one.ended).min()?;
        Some(ended.duration_since(published.began).as_secs_f64())
    };
    publications.iter().enumerate().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_under_a_publication_was_begun_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let published = |generation: &str, began| Published {
            generation: generation.to_owned(),
            began: at(began),
        };
        let asked = |generation: &str, began, ended| Asked {
            began: at(began),
            ended: at(ended),
            by_model: true,
            outcome: Outcome::Same(generation.to_owned()),
        };
        // `a` again at the end: the answers before belong to its first publication; `b` has none.
        let publications = [published("a", 10), published("b", 20), published("a", 30)];
        let asked = [
            asked("a", 9, 12),
            asked("a", 12, 19),
            asked("a", 13, 17),
            asked("a", 19, 25),
            asked("a", 22, 26),
            asked("a", 31, 36),
            Asked { by_model: false, ..asked("a", 31, 31) },
        ];
        assert_eq!(first_answers(&publications, &asked), [7.0, 6.0]);
    }

    #[test]
    fn nobody_runs_ahead_and_all_requests_are_made() {
        let sizes = Sizes { requests: 10, publications: 4, clients: 3, bad_every: 10 };
        let pace = Pace { sizes, progress: Mutex::default(), changed: Condvar::new() };
        assert_eq!([0, 1, 2, 3, 4].map(|number| pace.due(number)), [0, 2, 5, 7, 10]);
        assert_eq!([0, 1, 2].map(|_| pace.begin()), [Some(0), Some(1), Some(2)]);
        pace.note(|progress| progress.published = 1);
        assert_eq!([3, 4].map(|_| pace.begin()), [Some(3), Some(4)]);
        pace.note(|progress| progress.ended = true);
        let rest: Vec<usize> = std::iter::from_fn(|| pace.begin()).collect();
        assert_eq!(rest, [5, 6, 7, 8, 9]);
    }
}
