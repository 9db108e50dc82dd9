//! Who gets in, and what is shown.

use std::fs;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skeg_server::Principals;

use super::{AdminSetup, files_of, request, start, upload, variant};
use crate::harness::Answer;

const PATHS: [(&str, &str); 8] = [
    ("GET", "/v1/steering"),
    ("GET", "/v1/steering/generations"),
    ("GET", "/v1/steering/vectors/fraud_deception"),
    ("POST", "/v1/steering/generations"),
    ("POST", "/v1/steering/rollback"),
    ("POST", "/v1/steering/reload"),
    ("POST", "/v1/steering/override"),
    ("GET", "/nowhere"),
];

#[tokio::test]
async fn every_route_asks_for_a_key_and_takes_any_of_those_configured() {
    let server = start();
    for (method, path) in PATHS {
        for key in ["wrong", "", "old-keynew-key"] {
            let refused = server.send(request(method, path, key, Body::empty())).await;
            assert_eq!(refused.error(), (401, "invalid_api_key".to_owned()), "{path}");
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    for key in ["old-key", "new-key"] {
        assert_eq!(server.send(request("GET", PATHS[0].1, key, Body::empty())).await.status, 200);
    }
    assert_eq!(server.get("/nowhere").await.error(), (404, "not_found".to_owned()));
    let method = server.send(request("DELETE", PATHS[0].1, "old-key", Body::empty())).await;
    assert_eq!(method.error(), (405, "method_not_allowed".to_owned()));
    // A stranger leaves no line: nobody may fill the disk.
    assert_eq!(fs::read_to_string(&server.audit).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn without_configured_keys_nobody_gets_in() {
    let server = AdminSetup { keys: Principals::default(), ..AdminSetup::default() }.start();
    for (method, path) in PATHS {
        let refused = server.send(request(method, path, "old-key", Body::empty())).await;
        assert_eq!(refused.error(), (403, "no_admin_keys".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn the_public_interface_has_none_of_it() {
    let server = start();
    for (method, path) in PATHS {
        let answer = server.server.send(request(method, path, "old-key", Body::empty())).await;
        assert_eq!(answer.error(), (404, "not_found".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn the_state_says_what_steers() {
    let server = start();
    let state = server.get("/v1/steering").await.json();
    let live = server.server.store.current();
    let expected = json!({
        "generation": live.generation.id, "hash": live.generation.root_hash, "sequence": 1, "replaced": null,
        "categories": ["adult_content", "fraud_deception", "malware_viruses", "political_campaigning"],
        "weights_mismatch": false, "current": {"generation": live.generation.id, "sequence": 1},
        "model": {"architecture_id": "a".repeat(64), "weights_id": "b".repeat(64), "hidden_size": 4,
                  "num_hidden_layers": 4},
        "override": null, "swaps": {"ok": 0, "failed": 0},
    });
    for (field, expected) in expected.as_object().unwrap() {
        assert_eq!(state[field], *expected, "{field}");
    }
    assert!(state["age_seconds"].as_f64().unwrap() >= 0.0);
    let audit = &state["audit"];
    assert_eq!((&audit["sequence"], &audit["lines_lost"]), (&json!(1), &json!(0)));
    assert_eq!(audit["sha256"].as_str().unwrap().len(), 64);

    // What CURRENT says is told apart from what is live.
    fs::write(server.root().join("CURRENT"), "{").unwrap();
    let state = server.get("/v1/steering").await.json();
    assert_eq!(
        (&state["generation"], &state["sequence"]),
        (&json!(live.generation.id), &Value::Null)
    );
    assert!(state["current"]["error"].as_str().unwrap().contains("CURRENT"));
}

#[tokio::test]
async fn generations_are_listed_with_their_faults() {
    let server = start();
    let (other, files) = files_of(&variant("other"));
    let added = server.publish(&upload(&files, json!({"publish": false}))).await;
    assert_eq!(added.status, 200, "{}", added.text);
    fs::write(server.root().join("generations").join(&other).join("CARD.md"), "# Changed\n")
        .unwrap();
    let list = server.get("/v1/steering/generations").await.json();
    let row = |id: &str| {
        let rows = list["data"].as_array().unwrap();
        rows.iter().find(|row| row["generation"] == id).unwrap().clone()
    };
    let (live, damaged) = (row(&server.live()), row(&other));
    assert_eq!((&live["live"], &live["fault"]), (&json!(true), &Value::Null));
    assert_eq!((&live["site"], &live["layers"]), (&json!("attn_out"), &json!([1, 2])));
    assert_eq!(damaged["live"], false);
    assert!(damaged["fault"].as_str().unwrap().contains("CARD.md"));
}

#[tokio::test]
async fn vectors_travel_to_the_last_bit() {
    let server = start();
    let path = "/v1/steering/vectors/fraud_deception";
    let mut asked = request("GET", path, "old-key", Body::empty());
    let response = tower::ServiceExt::oneshot(server.router.clone(), asked).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert_eq!(response.headers()["x-steering-generation"], server.live().as_str());
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["fraud_deception/attn_out"]);
    let tensor = file.tensor("fraud_deception/attn_out").unwrap();
    assert_eq!(tensor.shape(), [2, 4]);
    assert_eq!(tensor.data(), 0.5_f32.to_le_bytes().repeat(8));

    asked = request("GET", path, "old-key", Body::empty());
    asked.headers_mut().insert("accept", "application/json".parse().unwrap());
    let json = Answer::of(tower::ServiceExt::oneshot(server.router.clone(), asked).await.unwrap())
        .await
        .json();
    assert_eq!((&json["layers"], &json["shape"]), (&json!([1, 2]), &json!([2, 4])));
    assert_eq!(STANDARD.decode(json["safetensors"].as_str().unwrap()).unwrap(), bytes);

    let unknown = server.get("/v1/steering/vectors/nonsense").await;
    assert_eq!(unknown.error(), (404, "category_not_found".to_owned()));
    assert!(unknown.text.contains("malware_viruses"));
    let bad_path = server.get("/v1/steering/vectors/%ff").await;
    assert_eq!(bad_path.error(), (400, "invalid_path".to_owned()));
}
