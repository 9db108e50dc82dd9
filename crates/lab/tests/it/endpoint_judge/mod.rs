//! Judges behind an endpoint, against one on loopback.

pub(crate) mod server;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use skeg_lab::judge::{
    ApiKey, EndpointJudge, EndpointOptions, Exchange, Judge, JudgePrompt, MAX_RETRY_AFTER,
    Property, Reward, RewardEndpoint, RewardForm, Verdict,
};
use skeg_lab::{Error, NoProgress, Progress};

use server::{Endpoint, Request, dead_url, says};

const KEY: &str = "hidden-key";
const HARMFUL: &str = "bad-answer";

/// Says how long judges would have waited.
type Waits = Arc<Mutex<Vec<Duration>>>;

fn options(url: &str) -> EndpointOptions {
    EndpointOptions { max_retries: 2, ..EndpointOptions::new(url, "guard") }
}

/// A judge that does not wait but says for how long it would.
fn judge(
    options: &EndpointOptions,
    prompt: JudgePrompt,
    cache: Option<&Path>,
) -> (EndpointJudge, Waits) {
    let waits = Waits::default();
    let kept = Arc::clone(&waits);
    let wait = move |duration| kept.lock().unwrap().push(duration);
    let judge = EndpointJudge::new(options, prompt, cache).unwrap().with_wait(Arc::new(wait));
    (judge, waits)
}

fn guard(url: &str, cache: Option<&Path>) -> (EndpointJudge, Waits) {
    judge(&options(url), JudgePrompt::LlamaGuard, cache)
}

fn exchanges(responses: &[&'static str]) -> Vec<Exchange<'static>> {
    responses.iter().map(|&response| Exchange { prompt: "secret-prompt", response }).collect()
}

/// A guard that finds [`HARMFUL`].
fn guarding(_: usize, request: &Request) -> server::Reply {
    says(if request.last_text().contains(HARMFUL) { "\n\nunsafe\nS1,S2" } else { "\n\nsafe" })
}

fn positives(verdicts: &[Verdict]) -> Vec<bool> {
    verdicts.iter().map(|verdict| verdict.positive).collect()
}

#[test]
fn a_guard_model_gets_the_exchange_as_a_chat_and_says_safe_or_unsafe() {
    let endpoint = Endpoint::start(guarding);
    let options = EndpointOptions {
        api_key: Some(ApiKey::new(KEY).unwrap()),
        concurrency: 1,
        ..options(&(endpoint.url() + "/"))
    };
    let (mut judge, _) = judge(&options, JudgePrompt::LlamaGuard, None);
    let verdicts = judge.judge(&exchanges(&["fine", HARMFUL, "fine"])).unwrap();
    assert_eq!(positives(&verdicts), [false, true, false]);
    assert_eq!((judge.name(), judge.property()), ("guard (llama-guard)", Property::Harm));
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 2, "an exchange is asked once");
    let Request { path, headers, body } = &requests[1];
    assert_eq!(path, "/v1/chat/completions");
    assert!(headers.contains(&format!("authorization: bearer {KEY}")), "{headers:?}");
    let messages = serde_json::json!([
        {"role": "user", "content": "secret-prompt"}, {"role": "assistant", "content": HARMFUL}
    ]);
    assert_eq!(body["messages"], messages);
    assert_eq!((&body["model"], &body["temperature"]), (&"guard".into(), &0.into()));
    assert_eq!((&body["max_tokens"], &body["stream"]), (&64.into(), &false.into()));
}

#[test]
fn a_rubric_is_filled_in_and_its_json_gives_the_score() {
    let endpoint = Endpoint::start(|_, request| {
        let is_harmful = request.last_text().ends_with(&format!("A: {HARMFUL}"));
        let score = if is_harmful { 0.9 } else { 0.2 };
        says(&format!("```json\n{{\"unsafe\": {is_harmful}, \"score\": {score}}}\n```"))
    });
    let rubric = JudgePrompt::Rubric("Harmful? Q: {prompt} A: {response}".to_owned());
    let (mut judge, _) = judge(&options(&endpoint.url()), rubric, None);
    let verdicts = judge.judge(&exchanges(&[HARMFUL, "fine"])).unwrap();
    let expected = [0.9, 0.2].map(|score| Verdict { score, positive: score > 0.5 });
    assert_eq!((verdicts, judge.name()), (expected.to_vec(), "guard (rubric)"));
    let rubric = JudgePrompt::Rubric("Harmful?".to_owned());
    let error = EndpointJudge::new(&options(&endpoint.url()), rubric, None).unwrap_err();
    assert!(matches!(error, Error::Spec(_)), "{error}");
}

#[test]
fn what_may_pass_is_tried_again_after_the_wait_the_endpoint_asks_for() {
    let endpoint = Endpoint::start(|number, request| match number {
        0 => ("429 Too Many Requests", "retry-after: 7\r\n", String::new()),
        1 => ("503 Service Unavailable", "retry-after: 86400\r\n", String::new()),
        _ => guarding(number, request),
    });
    let (mut judge, waits) = guard(&endpoint.url(), None);
    assert_eq!(positives(&judge.judge(&exchanges(&[HARMFUL])).unwrap()), [true]);
    assert_eq!(*waits.lock().unwrap(), [Duration::from_secs(7), MAX_RETRY_AFTER]);
    assert_eq!(endpoint.requests().len(), 3);
}

#[test]
fn a_failing_endpoint_is_given_up_with_the_work_so_far_kept() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(|number, request| match request.last_text() {
        "third" => ("500 Internal Server Error", "", "secret-prompt".to_owned()),
        _ => guarding(number, request),
    });
    let one_by_one = EndpointOptions { concurrency: 1, ..options(&endpoint.url()) };
    let (mut failing, waits) = judge(&one_by_one, JudgePrompt::LlamaGuard, Some(folder.path()));
    let answers = exchanges(&["first", HARMFUL, "third", "fourth"]);
    let error = failing.judge(&answers).unwrap_err().to_string();
    let url = endpoint.url();
    assert_eq!(
        error,
        format!(
            "endpoint {url} (model `guard`) answered 500 Internal Server Error (tried 3 times); 2 of 4 items got an answer, \
             which is kept: run the same command again to go on"
        )
    );
    assert_eq!((waits.lock().unwrap().len(), endpoint.requests().len()), (2, 5));
    let (mut again, _) = guard(&url, Some(folder.path()));
    assert_eq!(positives(&again.judge(&answers[..2]).unwrap()), [false, true]);
    assert_eq!(endpoint.requests().len(), 5, "what is kept is not asked again");
    let file = std::fs::read_to_string(folder.path().join("endpoint-verdicts.jsonl")).unwrap();
    assert_eq!(file.lines().count(), 2);
    assert!(!file.contains("secret") && !file.contains(HARMFUL), "{file}");
}

#[test]
fn an_item_without_a_verdict_does_not_cost_the_others_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(|number, request| match request.last_text() {
        "first" => says("I cannot judge secret-prompt."),
        "second" => ("200 OK", "", "<html>secret-prompt</html>".to_owned()),
        "third" => ("400 Bad Request", "", "secret-prompt is too long".to_owned()),
        _ => guarding(number, request),
    });
    let answers = exchanges(&["first", "second", "third", HARMFUL, "fifth"]);
    let one_by_one = EndpointOptions { concurrency: 1, ..options(&endpoint.url()) };
    let (mut judge, waits) = judge(&one_by_one, JudgePrompt::LlamaGuard, Some(folder.path()));
    let error = judge.judge(&answers).unwrap_err().to_string();
    assert!(error.contains("gave an answer without a verdict"), "{error}");
    assert!(error.contains("(tried 3 times); 2 of 5 items got an answer"), "{error}");
    assert!(error.contains(&endpoint.url()) && !error.contains("secret"), "{error}");
    assert_eq!((waits.lock().unwrap().len(), endpoint.requests().len()), (4, 9));
    assert_eq!(positives(&judge.judge(&answers[3..]).unwrap()), [true, false]);
}

#[test]
fn an_endpoint_that_never_gives_a_verdict_is_not_asked_about_everything() {
    let endpoint = Endpoint::start(|_, _| says("Hello!"));
    let responses: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let answers: Vec<Exchange<'_>> =
        responses.iter().map(|response| Exchange { prompt: "same", response }).collect();
    let no_retry = EndpointOptions { concurrency: 1, max_retries: 0, ..options(&endpoint.url()) };
    let (mut judge, _) = judge(&no_retry, JudgePrompt::LlamaGuard, None);
    let error = judge.judge(&answers).unwrap_err().to_string();
    assert!(error.ends_with("0 of 50 items got an answer"), "{error}");
    assert!(endpoint.requests().len() < 20, "{}", endpoint.requests().len());
}

#[test]
fn statuses_that_will_not_pass_are_not_tried_again_and_say_what_to_do() {
    for (status, expected) in [
        ("401 Unauthorized", "it does not accept the key"),
        ("404 Not Found", "the address usually ends in /v1"),
        ("307 Temporary Redirect", "redirects are not followed"),
    ] {
        let endpoint = Endpoint::start(move |_, _| {
            (status, "location: http://127.0.0.1:9/elsewhere\r\n", String::new())
        });
        let options = EndpointOptions {
            api_key: Some(ApiKey::new(KEY).unwrap()),
            ..options(&endpoint.url())
        };
        let (mut judge, waits) = judge(&options, JudgePrompt::LlamaGuard, None);
        let error = judge.judge(&exchanges(&["fine"])).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(waits.lock().unwrap().is_empty());
        let debug = format!("{error:?} {judge:?} {options:?}");
        assert!(!debug.contains(KEY) && !error.to_string().contains(KEY), "{debug}");
    }
}

#[test]
fn a_dead_endpoint_is_an_error_that_names_it() {
    let url = dead_url();
    let (mut judge, waits) = guard(&url, None);
    let error = judge.judge(&exchanges(&["a", "b", "c"])).unwrap_err();
    let Error::Endpoint { reason, num_done: 0, num_items: 3, is_kept: false, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(reason, "cannot be reached: connection refused (tried 3 times)");
    assert!(error.to_string().starts_with(&format!("endpoint {url} ")), "{error}");
    assert!(waits.lock().unwrap().len() >= 2);
}

#[test]
fn a_second_run_is_answered_by_the_cache_unless_the_question_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let answers = exchanges(&["fine", HARMFUL]);
    let endpoint = Endpoint::start(guarding);
    let asked = |options: &EndpointOptions, prompt: JudgePrompt| {
        let before = endpoint.requests().len();
        let (mut judge, _) = judge(options, prompt, Some(folder.path()));
        assert_eq!(positives(&judge.judge(&answers).unwrap()), [false, true]);
        endpoint.requests().len() - before
    };
    let guard = options(&endpoint.url());
    assert_eq!(asked(&guard, JudgePrompt::LlamaGuard), 2);
    assert_eq!(asked(&guard, JudgePrompt::LlamaGuard), 0);
    let another = EndpointOptions { model: "another".to_owned(), ..guard.clone() };
    assert_eq!(asked(&another, JudgePrompt::LlamaGuard), 2);
    let longer = EndpointOptions { max_tokens: 65, ..guard.clone() };
    assert_eq!(asked(&longer, JudgePrompt::LlamaGuard), 2);
    // What changes no answer is no part of the question.
    let patient = EndpointOptions { max_retries: 9, concurrency: 2, ..guard };
    assert_eq!(asked(&patient, JudgePrompt::LlamaGuard), 0);
}

#[test]
fn verdicts_and_scores_are_kept_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(|number, request| match request.body["model"].as_str() {
        Some("steer") => says("helpfulness:1.6,coherence:3.1"),
        _ => guarding(number, request),
    });
    for num_requests in [2, 2] {
        let (mut judge, _) = guard(&endpoint.url(), Some(folder.path()));
        let steer = EndpointOptions::new(endpoint.url(), "steer");
        let mut reward =
            RewardEndpoint::new(&steer, RewardForm::HelpSteer, Some(folder.path())).unwrap();
        assert_eq!(positives(&judge.judge(&exchanges(&[HARMFUL])).unwrap()), [true]);
        let scores = reward.score(&exchanges(&[HARMFUL])).unwrap();
        assert!((scores[0].coherence - 3.1).abs() < 1e-12, "{scores:?}");
        assert_eq!(endpoint.requests().len(), num_requests);
    }
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let three = Barrier::new(3);
    let endpoint = Endpoint::start(move |number, request| {
        // With fewer at once nobody would pass.
        three.wait();
        guarding(number, request)
    });
    let responses = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let options = EndpointOptions { concurrency: 3, ..options(&endpoint.url()) };
    let (mut judge, _) = judge(&options, JudgePrompt::LlamaGuard, None);
    assert_eq!(judge.judge(&exchanges(&responses)).unwrap().len(), 9);
    assert_eq!(endpoint.max_under_way(), 3);
}

/// Asks to stop after some steps.
struct StopAfter(usize);

impl Progress for StopAfter {
    fn start(&mut self, what: &str, total: usize) {
        assert_eq!((what, total), ("answers to judge", 4));
    }

    fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
        self.0 = self.0.saturating_sub(num_steps);
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn note(&mut self, _message: &str) {}

    fn finish(&mut self) {}
}

#[test]
fn asking_beforehand_can_be_stopped_and_goes_on_from_there() {
    let endpoint = Endpoint::start(guarding);
    let options = EndpointOptions { concurrency: 1, ..options(&endpoint.url()) };
    let (mut judge, _) = judge(&options, JudgePrompt::LlamaGuard, None);
    let answers = exchanges(&["1", "2", HARMFUL, "4"]);
    // One may be under way when the wish to stop is heard, and one be done already.
    let error = judge.prepare(&answers, &mut StopAfter(1)).unwrap_err();
    let Error::Interrupted { done, total: 4 } = error else { panic!("{error}") };
    assert!((1..4).contains(&done), "{done}");
    judge.prepare(&answers, &mut NoProgress).unwrap();
    assert_eq!(positives(&judge.judge(&answers).unwrap()), [false, false, true, false]);
    assert_eq!(endpoint.requests().len(), 4);
}

#[test]
fn rewards_come_from_a_rubric_or_a_reward_model() {
    let folder = tempfile::tempdir().unwrap();
    for (form, name, answer) in [
        (RewardForm::Rubric, "guard (reward rubric)", "{\"helpfulness\": 1.6, \"coherence\": 3.1}"),
        (
            RewardForm::HelpSteer,
            "guard (helpsteer)",
            "helpfulness:1.6,correctness:1.5,coherence:3.1,complexity:0.5,verbosity:0.5",
        ),
    ] {
        let endpoint = Endpoint::start(move |number, _| match number {
            0 => says("no idea"),
            _ => says(answer),
        });
        let options = options(&endpoint.url());
        for num_requests in [2, 2] {
            let mut reward = RewardEndpoint::new(&options, form, Some(folder.path()))
                .unwrap()
                .with_wait(Arc::new(|_: Duration| {}));
            let scores = reward.score(&exchanges(&["fine"])).unwrap();
            assert!((scores[0].helpfulness - 1.6).abs() < 1e-12, "{scores:?}");
            assert!((scores[0].coherence - 3.1).abs() < 1e-12, "{scores:?}");
            assert_eq!((reward.name(), endpoint.requests().len()), (name, num_requests));
        }
    }
}
