//! An admin interface whose server follows a place: changes are made there, and seen here at once.

use std::fs;

use serde_json::json;
use skeg_vector_store::place::{LocalPlace, Place as _};
use skeg_vector_store::{Change, ChangeKind};

use super::{AdminServer, AdminSetup, files_of, upload, variant};
use crate::harness::Setup;
use crate::store::{self, TestPolicy};

const ROLLBACK: &str = "/v1/steering/rollback";
const RELOAD: &str = "/v1/steering/reload";

fn start() -> AdminServer {
    AdminSetup { setup: Setup { followed: true, ..Setup::default() }, ..AdminSetup::default() }
        .start()
}

fn place(server: &AdminServer) -> LocalPlace {
    LocalPlace::new(server.server.place.path())
}

#[tokio::test]
async fn a_change_is_made_at_the_place_under_the_operator_s_name_and_followed() {
    let server = start();
    let first = server.live();
    let (second, files) = files_of(&variant("second"));
    let answer = server.publish(&upload(&files, json!({"expected_generation": first}))).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!((&answer.json()["sequence"], &answer.json()["live"]), (&json!(2), &json!(true)));
    assert_eq!(server.live(), second);
    let current = place(&server).current().unwrap();
    assert_eq!((current.sequence, current.generation.as_str()), (2, second.as_str()));
    assert_eq!(server.current(), (2, second.clone()));
    let entry = place(&server).history(1).unwrap().remove(0);
    assert_eq!((entry.kind, entry.actor.as_str()), (ChangeKind::Publish, "ops"));

    assert_eq!(server.post(ROLLBACK, &json!({})).await.status, 200);
    assert_eq!(server.live(), first);
    assert_eq!(server.current(), (3, first));
    let entry = place(&server).history(1).unwrap().remove(0);
    assert_eq!((entry.kind, entry.sequence), (ChangeKind::Rollback, 3));
}

#[tokio::test]
async fn what_cannot_be_served_here_never_reaches_the_place() {
    let server = start();
    let first = server.live();
    let mut other_model = variant("other");
    other_model.model.weights_id = "c".repeat(64);
    let (_, files) = files_of(&other_model);
    let refused = server.publish(&upload(&files, json!({}))).await;
    assert_eq!(refused.error(), (400, "wrong_model".to_owned()));
    assert_eq!(place(&server).generations().unwrap().len(), 1);
    assert_eq!(place(&server).current().unwrap().sequence, 1);
    assert_eq!((server.live(), server.current()), (first.clone(), (1, first)));
}

#[tokio::test]
async fn compare_and_set_is_on_what_the_place_says_and_a_reload_fetches_it() {
    let server = start();
    let first = server.live();
    // Another publisher, of whom this server has not heard.
    store::publish(
        server.server.place.path(),
        &TestPolicy { when_missing: "reject", ..TestPolicy::default() },
    );
    let (second, files) = files_of(&variant("second"));
    let late = server.publish(&upload(&files, json!({"expected_generation": first}))).await;
    assert_eq!(late.error(), (409, "generation_mismatch".to_owned()));
    assert_eq!(server.live(), first);

    let reloaded = server.post(RELOAD, &json!({})).await;
    assert_eq!(reloaded.json()["swapped"], true);
    assert_eq!(server.current().0, 2);
    // A rollback names what only the place has.
    let third = place(&server).add_files(&files).unwrap();
    assert_eq!(third.as_str(), second);
    let row = |list: &serde_json::Value| {
        list["data"].as_array().unwrap().iter().find(|row| row["generation"] == second).cloned()
    };
    let listed = server.get("/v1/steering/generations").await.json();
    assert_eq!(row(&listed).unwrap()["here"], false);
    assert_eq!(server.post(ROLLBACK, &json!({"generation": second})).await.status, 200);
    assert_eq!(server.live(), second);
    let listed = server.get("/v1/steering/generations").await.json();
    let row = row(&listed).unwrap();
    assert_eq!(
        (&row["here"], &row["live"], &row["fault"]),
        (&json!(true), &json!(true), &json!(null))
    );
}

#[tokio::test]
async fn a_place_that_is_away_changes_nothing_and_the_state_says_so() {
    let server = start();
    let first = server.live();
    let root = server.server.place.path();
    let aside = root.join("aside");
    fs::rename(root.join("CURRENT"), &aside).unwrap();
    let (_, files) = files_of(&variant("second"));
    for answer in [
        server.publish(&upload(&files, json!({}))).await,
        server.post(ROLLBACK, &json!({})).await,
        server.post(RELOAD, &json!({})).await,
    ] {
        assert_eq!(answer.status, 503, "{}", answer.json());
    }
    assert_eq!(server.live(), first);
    let state = server.get("/v1/steering").await.json();
    assert!(state["origin"]["last_fault"].as_str().unwrap().contains("CURRENT"), "{state}");
    fs::rename(&aside, root.join("CURRENT")).unwrap();
    assert_eq!(server.post(RELOAD, &json!({})).await.status, 200);
    let state = server.get("/v1/steering").await.json();
    assert_eq!(
        (&state["origin"]["last_fault"], &state["generation"]),
        (&json!(null), &json!(first))
    );
    let change = Change::default();
    let id = skeg_vector_store::GenerationId::parse(&first).unwrap();
    assert_eq!(place(&server).set_current(&id, Some(1), &change).unwrap().sequence, 2);
}
