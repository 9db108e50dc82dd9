//! Generations are switched under load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use skeg_vector_store::{Category, Generation, GenerationId, NewGeneration};

use super::process::{Answer, Server, request, shipped_vectors};

const NUM_CLIENTS: usize = 8;
const NUM_SWITCHES: usize = 50;
const CATEGORY: &str = "malware_viruses";
/// A bound on waiting for a swap to be seen, far above what one takes.
const SWAP_TIMEOUT: Duration = Duration::from_secs(60);

/// Copies the shipped store into `root` and adds a twin of its generation with another default strength.
fn two_generations(root: &Path) -> [GenerationId; 2] {
    copy_folder(&shipped_vectors(), root);
    let shipped =
        skeg_vector_store::read_current(root).expect("the shipped CURRENT is valid").generation;
    let generation =
        skeg_vector_store::load_generation(root, &shipped, None).expect("the shipped set is valid");
    let twin =
        skeg_vector_store::write_generation(root, &twin_of(generation)).expect("the twin is valid");
    assert_ne!(twin, shipped);
    [shipped, twin]
}

/// The same generation with the weakest strength its policy allows for the category.
fn twin_of(generation: Generation) -> NewGeneration {
    let mut twin = NewGeneration::from(generation);
    let category: Category = CATEGORY.parse().expect("a slug");
    let rule = twin.policy.categories.get_mut(&category).expect("it is steered");
    rule.strength.default = rule.strength.floor;
    NewGeneration { figures: None, ..twin }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder can be made");
    for entry in std::fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("the entry is readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("the type is known").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}

/// As little prompt and answer as tells two strengths apart: what is tested is how often, not how long.
fn short_request() -> Value {
    let mut body = request("Hello", 3);
    let system = json!({"role": "system", "content": "Be brief."});
    body["messages"].as_array_mut().expect("messages are a list").insert(0, system);
    body
}

/// Asks until told to stop, and reports each answer.
fn client(server: &Server, body: &Value, stop: &AtomicBool, answers: &SyncSender<Answer>) {
    while !stop.load(Ordering::Acquire) {
        if answers.send(server.ask(CATEGORY, body)).is_err() {
            return;
        }
    }
}

/// Reads answers, checking each, until one names `generation`.
fn until_seen(
    answers: &Receiver<Answer>,
    generation: &GenerationId,
    expected: &mut BTreeMap<String, Value>,
) -> usize {
    let mut num_answers = 0;
    loop {
        let answer = answers.recv_timeout(SWAP_TIMEOUT).expect("the swap is seen in time");
        num_answers += 1;
        check(&answer, expected);
        if answer.generation.as_deref() == Some(generation.to_string().as_str()) {
            return num_answers;
        }
    }
}

/// One generation names, steers and words the whole answer: the choices of two answers under one
/// generation are the same to the last bit of the log-probabilities.
fn check(answer: &Answer, expected: &mut BTreeMap<String, Value>) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let named = answer.generation.clone().expect("the header names a generation");
    let choices = &answer.body["choices"];
    assert_eq!(choices[0]["steering"]["generation"].as_str(), Some(named.as_str()));
    let first = expected.entry(named).or_insert_with(|| choices.clone());
    assert_eq!(first, choices, "two answers of one generation differ");
}

#[test]
fn real_model_fifty_switches_under_load_lose_and_mix_nothing() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let generations = two_generations(root.path());
    let server = Server::start(root.path(), NUM_CLIENTS);
    let body = short_request();
    let stop = AtomicBool::new(false);
    let mut expected = BTreeMap::new();
    let mut num_answers = 0;
    thread::scope(|scope| {
        // One place a client: a client waits until its answer was checked.
        let (sender, answers) = sync_channel(NUM_CLIENTS);
        for _ in 0..NUM_CLIENTS {
            let sender = sender.clone();
            scope.spawn(|| {
                let sender = sender;
                client(&server, &body, &stop, &sender);
            });
        }
        drop(sender);
        for switch in 0..NUM_SWITCHES {
            let next = &generations[(switch + 1) % 2];
            skeg_vector_store::set_current(root.path(), next, None).expect("CURRENT is switched");
            num_answers += until_seen(&answers, next, &mut expected);
        }
        stop.store(true, Ordering::Release);
        for answer in answers {
            check(&answer, &mut expected);
        }
    });
    assert_eq!(expected.len(), 2, "both generations answered");
    let [a, b] = generations.map(|id| expected[&id.to_string()].clone());
    assert_ne!(a, b, "the two generations steer differently");
    assert!(num_answers >= NUM_SWITCHES);
}
