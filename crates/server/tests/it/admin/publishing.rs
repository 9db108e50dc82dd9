//! A generation comes in whole, becomes live, or changes nothing.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::{AdminServer, AdminSetup, files_of, place, request, start, upload, variant};
use crate::store::{self, TestPolicy};

const GENERATIONS: &str = "/v1/steering/generations";

#[tokio::test]
async fn an_uploaded_generation_becomes_live_and_the_next_request_is_under_it() {
    let server = start();
    let before = server.live();
    let (id, files) = files_of(&variant("new"));
    let answer = server.publish(&upload(&files, json!({"expected_generation": before}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let live = server.server.store.current();
    let expected = json!({
        "generation": id, "hash": live.generation.root_hash, "from": before, "sequence": 2, "published": true, "live": true,
    });
    assert_eq!(answer.json(), expected);
    assert_eq!((server.live(), server.current()), (id.clone(), (2, id.clone())));
    let chat = server.server.chat(&[("x-safety-category", "fraud_deception")], json!({})).await;
    assert_eq!(chat.header("x-steering-generation"), id);

    let lines = server.audited("publish");
    assert_eq!(lines.len(), 2);
    let of = |line: &Value, field: &str| line[field].as_str().map(str::to_owned);
    for line in &lines {
        assert_eq!(of(line, "who").as_deref(), Some("ops"));
        assert_eq!(of(line, "from").as_ref(), Some(&before));
        assert_eq!(of(line, "request_id").as_deref(), Some(answer.header("x-request-id")));
    }
    assert_eq!((of(&lines[0], "result").as_deref(), of(&lines[0], "to")), (Some("begun"), None));
    assert_eq!(
        (of(&lines[1], "result").as_deref(), of(&lines[1], "to")),
        (Some("done"), Some(id.clone()))
    );
    assert_eq!(of(&lines[1], "hash").as_ref(), Some(&live.generation.root_hash));
    // The swap has a line of its own, whoever asked for it.
    let swaps = server.until_audited("swap", 1).await;
    assert_eq!(
        (&swaps[0]["who"], &swaps[0]["from"], &swaps[0]["to"]),
        (&json!("store"), &json!(before), &json!(id))
    );
}

#[tokio::test]
async fn a_folder_under_the_upload_root_can_be_named() {
    let server = start();
    let (id, files) = files_of(&variant("new"));
    place(&server, "team/new", &files);
    let answer = server.publish(&json!({"directory": "team/new"})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["generation"].as_str()),
        (200, Some(id.as_str()))
    );
    assert_eq!(server.live(), id);

    let off = AdminSetup { upload_root: false, ..AdminSetup::default() }.start();
    place(&off, "new", &files);
    assert_eq!(
        off.publish(&json!({"directory": "new"})).await.error(),
        (403, "no_upload_root".to_owned())
    );
}

#[tokio::test]
async fn the_upload_root_is_a_jail() {
    let server = start();
    let (_, files) = files_of(&variant("new"));
    place(&server, "../outside", &files);
    place(&server, "inside", &files);
    let uploads = server.root().join("uploads");
    symlink("../outside", uploads.join("link")).unwrap();
    fs::remove_file(uploads.join("inside/CARD.md")).unwrap();
    symlink("../../outside/CARD.md", uploads.join("inside/CARD.md")).unwrap();
    let absolute = server.root().join("outside").display().to_string();
    for named in
        ["../outside", "inside/../../outside", "link", "inside", "..", "", absolute.as_str()]
    {
        let refused = server.publish(&json!({"directory": named})).await;
        assert_eq!(refused.error(), (403, "outside_upload_root".to_owned()), "{named}");
        assert_eq!(refused.json()["error"]["param"], "directory");
    }
    let missing = server.publish(&json!({"directory": "nothing"})).await;
    assert_eq!(missing.error(), (404, "directory_not_found".to_owned()));
    assert_eq!(server.current().0, 1);
    let (begun, refused): (Vec<_>, Vec<_>) =
        server.results("publish").into_iter().partition(|result| result == "begun");
    assert_eq!((begun.len(), refused), (8, vec!["refused".to_owned(); 8]));
}

/// Nothing was published: `CURRENT`, what is live and the store's folders are as they were.
#[track_caller]
fn assert_untouched(server: &AdminServer, live: &str, text: &str) {
    assert_eq!((server.live().as_str(), server.current()), (live, (1, live.to_owned())), "{text}");
    let names = fs::read_dir(server.root().join("generations")).unwrap();
    let staged =
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(staged.count(), 0, "{text}");
}

#[tokio::test]
async fn a_bad_generation_changes_nothing() {
    let server = start();
    let live = server.live();
    let mut checked = 0;
    let mut check = async |body: Value, status: u16, code: &str, said: &str| {
        let answer = server.publish(&body).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{}", answer.text);
        assert!(answer.text.contains(said), "{said} is not in {}", answer.text);
        assert_untouched(&server, &live, &answer.text);
        checked += 1;
        let last = server.audited("publish").pop().unwrap();
        assert_eq!(last["result"], if status < 500 { "refused" } else { "failed" });
        assert!(last["reason"].as_str().unwrap().starts_with(code), "{last}");
    };
    let (_, whole) = files_of(&variant("new"));
    for name in whole.keys() {
        let mut files = whole.clone();
        files.get_mut(name).unwrap().push(b' ');
        // The manifest holds the others' hashes; a space behind it makes another generation, but a sound one.
        if name != "manifest.json" {
            check(upload(&files, json!({})), 400, "invalid_generation", name).await;
        }
        files.remove(name);
        check(upload(&files, json!({})), 400, "invalid_generation", name).await;
    }
    let mut files = whole.clone();
    files.insert("../evil".to_owned(), b"x".to_vec());
    check(upload(&files, json!({})), 400, "invalid_generation", "evil").await;

    let mut other_model = variant("other model");
    other_model.model.architecture_id = "c".repeat(64);
    let (_, files) = files_of(&other_model);
    check(upload(&files, json!({})), 400, "wrong_model", "architecture_id").await;

    // Sound and for this model, but the engine has no room.
    server.server.control.journal.lock().unwrap().refused_from = Some(0);
    check(upload(&whole, json!({})), 503, "cannot_go_live", "as the test says").await;
    assert_eq!(server.results("publish").len(), 2 * checked);
}

#[tokio::test]
async fn current_is_put_back_where_the_swap_itself_fails() {
    let server = start();
    let live = server.live();
    let (_, files) = files_of(&variant("new"));
    // One registration was made at the start, the next one checks, and the third would be the swap's.
    server.server.control.journal.lock().unwrap().refused_from = Some(2);
    let answer = server.publish(&upload(&files, json!({}))).await;
    assert_eq!(answer.error(), (503, "cannot_go_live".to_owned()), "{}", answer.text);
    assert_eq!((server.live(), server.current()), (live.clone(), (3, live.clone())));
    assert!(answer.text.contains(&format!("CURRENT names {live} again")), "{}", answer.text);
    let failed = server.until_audited("swap", 1).await;
    assert_eq!((&failed[0]["result"], &failed[0]["from"]), (&json!("failed"), &json!(live)));
    let metrics = server.server.get("/metrics").await.text;
    assert!(
        metrics.contains("skeg_swap_total{model_name=\"tiny\",result=\"failed\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn who_has_seen_another_generation_gets_409_and_is_told_the_one_found() {
    let server = start();
    let live = server.live();
    let (id, files) = files_of(&variant("new"));
    let stale = json!({"expected_generation": id});
    let answer = server.publish(&upload(&files, stale)).await;
    assert_eq!(answer.error(), (409, "generation_mismatch".to_owned()));
    assert_eq!(answer.json()["error"]["param"], "expected_generation");
    assert!(answer.text.contains(&live) && answer.text.contains("sequence 1"), "{}", answer.text);
    assert_untouched(&server, &live, &answer.text);
}

#[tokio::test]
async fn a_generation_can_be_added_and_published_later() {
    let server = start();
    let live = server.live();
    let (id, files) = files_of(&variant("later"));
    let added = server.publish(&upload(&files, json!({"publish": false}))).await;
    assert_eq!(added.status, 200, "{}", added.text);
    assert_eq!((&added.json()["published"], &added.json()["live"]), (&json!(false), &json!(false)));
    assert_untouched(&server, &live, &added.text);
    let published = server.post("/v1/steering/rollback", &json!({"generation": id})).await;
    assert_eq!((published.status.as_u16(), server.live()), (200, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_publishers_one_wins_each_round() {
    const PUBLISHERS: usize = 8;
    let server = start();
    for round in 0..4_u64 {
        let seen = server.live();
        let publishers = (0..PUBLISHERS).map(|publisher| {
            let (id, files) = files_of(&variant(&format!("{round} {publisher}")));
            let body = upload(&files, json!({"expected_generation": seen}));
            let request = request("POST", GENERATIONS, "old-key", body.to_string().into());
            let sending = server.sending(request);
            tokio::spawn(async move { (id, sending.await) })
        });
        let publishers: Vec<_> = publishers.collect();
        let mut winners = Vec::new();
        for publisher in publishers {
            let (id, answer) = publisher.await.unwrap();
            if answer.status == 200 {
                winners.push(id);
            } else {
                assert_eq!(answer.error(), (409, "generation_mismatch".to_owned()));
                assert!(answer.text.contains("another change was first"), "{}", answer.text);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(
            (server.live(), server.current()),
            (winners[0].clone(), (round + 2, winners[0].clone()))
        );
    }
    let done = server.results("publish").iter().filter(|result| *result == "done").count();
    assert_eq!((done, server.results("publish").len()), (4, 4 * PUBLISHERS * 2));
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_has_left() {
    let server = start();
    let (id, files) = files_of(&variant("new"));
    let body = upload(&files, json!({})).to_string();
    let request = request("POST", GENERATIONS, "old-key", body.into());
    let mut response = Box::pin(tower::ServiceExt::oneshot(server.router.clone(), request));
    // Polled until the work is in its thread, then dropped.
    std::future::poll_fn(|context| {
        drop(response.as_mut().poll(context));
        std::task::Poll::Ready(())
    })
    .await;
    drop(response);
    while server.live() != id {
        tokio::task::yield_now().await;
    }
    let done = server.until_audited("publish", 2).await;
    assert_eq!(done[1]["result"], "done");
}

#[tokio::test]
async fn the_metrics_name_the_generation_and_its_swaps() {
    let server = start();
    let (id, files) = files_of(&variant("new"));
    assert_eq!(server.publish(&upload(&files, json!({}))).await.status, 200);
    server.until_audited("swap", 1).await;
    let hash = server.server.store.current().generation.root_hash.clone();
    let metrics = server.server.get("/metrics").await.text;
    for line in [
        format!(
            "skeg_generation_info{{model_name=\"tiny\",generation=\"{id}\",hash=\"{hash}\"}} 1"
        ),
        "skeg_swap_total{model_name=\"tiny\",result=\"ok\"} 1".to_owned(),
        "skeg_swap_duration_seconds_count{model_name=\"tiny\"} 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let ready = server.server.get("/health/ready").await.json();
    assert_eq!((&ready["generation"], &ready["override"]), (&json!(id), &Value::Null));
    assert!(ready["generation_age_seconds"].is_u64());
    // Another policy's text is never a label.
    let policy = TestPolicy { when_missing: "reject", ..TestPolicy::default() };
    store::publish(server.root(), &policy);
    server.server.store.reload().unwrap();
    let metrics = server.server.get("/metrics").await.text;
    assert_eq!(metrics.matches("skeg_generation_info{").count(), 1, "the one before is gone");
}
