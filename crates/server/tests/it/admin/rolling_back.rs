//! Going back, and reading `CURRENT` again.

use std::fs;

use serde_json::{Value, json};
use skeg_server::{AuditLog, reload_for_signal};
use skeg_vector_store::Reload;

use super::{files_of, start, upload, variant};
use crate::store::{self, TestPolicy};

const ROLLBACK: &str = "/v1/steering/rollback";
const RELOAD: &str = "/v1/steering/reload";

#[tokio::test]
async fn a_rollback_goes_to_what_served_before_and_not_forth_again() {
    let server = start();
    let first = server.live();
    let none = server.post(ROLLBACK, &json!({})).await;
    assert_eq!(none.error(), (404, "no_previous_generation".to_owned()));
    let (second, files) = files_of(&variant("second"));
    assert_eq!(server.publish(&upload(&files, json!({}))).await.status, 200);
    assert_eq!(server.get("/v1/steering").await.json()["replaced"], first);
    let back = server.post(ROLLBACK, &json!({"expected_generation": second})).await;
    assert_eq!((back.status.as_u16(), server.live()), (200, first.clone()));
    assert_eq!((&back.json()["from"], &back.json()["sequence"]), (&json!(second), &json!(3)));
    // The first one was published on nothing.
    let none = server.post(ROLLBACK, &json!({})).await;
    assert_eq!(none.error(), (404, "no_previous_generation".to_owned()));
    assert_eq!(server.post(ROLLBACK, &json!({"generation": second})).await.status, 200);
    assert_eq!(server.live(), second);
    let last = server.audited("rollback").pop().unwrap();
    assert_eq!(
        (&last["from"], &last["to"], &last["result"]),
        (&json!(first), &json!(second), &json!("done"))
    );
    assert!(last["hash"].as_str().unwrap().starts_with(&second));
}

#[tokio::test]
async fn a_rollback_names_a_generation_of_the_store_that_is_sound() {
    let server = start();
    let live = server.live();
    let unknown = server.post(ROLLBACK, &json!({"generation": "0123456789abcdef"})).await;
    assert_eq!(unknown.error(), (404, "generation_not_found".to_owned()));
    let (other, files) = files_of(&variant("other"));
    assert_eq!(server.publish(&upload(&files, json!({"publish": false}))).await.status, 200);
    let stale = json!({"generation": other, "expected_generation": other});
    assert_eq!(
        server.post(ROLLBACK, &stale).await.error(),
        (409, "generation_mismatch".to_owned())
    );
    fs::write(server.root().join("generations").join(&other).join("CARD.md"), "# Changed\n")
        .unwrap();
    let damaged = server.post(ROLLBACK, &json!({"generation": other})).await;
    assert_eq!(damaged.error(), (400, "invalid_generation".to_owned()));
    assert_eq!((server.live(), server.current()), (live.clone(), (1, live)));
    assert_eq!(
        server.results("rollback"),
        ["begun", "refused", "begun", "refused", "begun", "refused"]
    );
}

#[tokio::test]
async fn a_reload_takes_what_current_names_or_keeps_what_is_live() {
    let server = start();
    let first = server.live();
    let unchanged = server.post(RELOAD, &json!({})).await.json();
    assert_eq!((&unchanged["swapped"], &unchanged["generation"]), (&json!(false), &json!(first)));
    store::publish(server.root(), &TestPolicy { when_missing: "reject", ..TestPolicy::default() });
    // Without a body it is the same.
    let empty = super::request("POST", RELOAD, "new-key", axum::body::Body::empty());
    let swapped = server.send(empty).await.json();
    assert_eq!((&swapped["swapped"], &swapped["from"]), (&json!(true), &json!(first)));
    assert_eq!(swapped["generation"], server.live());
    let done = server.audited("reload").pop().unwrap();
    assert_eq!((&done["who"], &done["from"]), (&json!("ops-next"), &json!(first)));
    assert_eq!((&done["to"], &done["result"]), (&json!(server.live()), &json!("done")));

    let live = server.live();
    fs::write(
        server.root().join("CURRENT"),
        "{\"sequence\": 9, \"generation\": \"0123456789abcdef\"}",
    )
    .unwrap();
    let failed = server.post(RELOAD, &json!({})).await;
    assert_eq!(failed.error(), (503, "reload_failed".to_owned()));
    assert!(failed.text.contains("0123456789abcdef"), "{}", failed.text);
    assert_eq!(server.live(), live);
    assert_eq!(server.results("reload").pop().unwrap(), "failed");
}

#[tokio::test]
async fn what_the_store_does_by_itself_and_at_a_signal_is_audited() {
    let server = start();
    let first = server.live();
    let audit_path = server.root().join("signal.jsonl");
    let audit = AuditLog::open(&audit_path).unwrap();
    store::publish(server.root(), &TestPolicy { when_missing: "reject", ..TestPolicy::default() });
    // As the watching thread and SIGHUP do.
    let swapped =
        reload_for_signal(&server.server.store, &server.server.origin, Some(&audit)).unwrap();
    assert!(matches!(swapped, Reload::Swapped { .. }));
    let text = fs::read_to_string(audit_path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[1]["event"], &lines[1]["who"]), (&json!("reload"), &json!("signal")));
    assert_eq!((&lines[1]["from"], &lines[1]["to"]), (&json!(first), &json!(server.live())));

    fs::write(server.root().join("CURRENT"), "{").unwrap();
    let reason = server.server.store.reload().unwrap_err().to_string();
    let swaps = server.until_audited("swap", 2).await;
    assert_eq!((&swaps[0]["from"], &swaps[0]["to"]), (&json!(first), &json!(server.live())));
    assert_eq!(swaps[0]["hash"], server.server.store.current().generation.root_hash);
    assert_eq!((&swaps[1]["result"], &swaps[1]["reason"]), (&json!("failed"), &json!(reason)));
    let start = &server.audited("start")[0];
    assert_eq!((&start["to"], &start["result"]), (&json!(first), &json!("done")));
}
