//! With a trusted key: only what it signed becomes live, in a folder and where a place is followed.

use std::collections::BTreeMap;

use serde_json::json;
use skeg_vector_store::place::{LocalPlace, Place as _};
use skeg_vector_store::{GenerationId, SecretKey, load_files, sign_files};

use super::{AdminServer, AdminSetup, files_of, upload, variant};
use crate::harness::Setup;
use crate::store;

/// A server that trusts one key, and the key.
fn start(followed: bool) -> (AdminServer, SecretKey) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    SecretKey::generate().unwrap().write_new(&path).unwrap();
    let signing_key = Some(SecretKey::read(&path).unwrap());
    let setup = Setup { signing_key, followed, ..Setup::default() };
    let server = AdminSetup { setup, ..AdminSetup::default() }.start();
    (server, SecretKey::read(&path).unwrap())
}

fn signed(files: &BTreeMap<String, Vec<u8>>, key: &SecretKey) -> BTreeMap<String, Vec<u8>> {
    let mut files = files.clone();
    let generation = load_files("".as_ref(), None, &files).unwrap();
    sign_files(&mut files, &generation, key).unwrap();
    files
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_becomes_live() {
    for followed in [false, true] {
        let (server, key) = start(followed);
        let first = server.live();
        let (second, files) = files_of(&variant("second"));
        let others = signed(&files, &SecretKey::generate().unwrap());
        for (files, said) in [(&files, "found no signature"), (&others, "found signatures of ")] {
            let refused = server.publish(&upload(files, json!({}))).await;
            assert_eq!(refused.error(), (400, "untrusted_generation".to_owned()));
            assert!(refused.text.contains(said) && refused.text.contains("ops-key"), "{refused:?}");
        }
        assert_eq!((server.live(), server.current()), (first.clone(), (1, first.clone())));
        let last = server.audited("publish").pop().unwrap();
        assert_eq!((&last["result"], &last["to"]), (&json!("refused"), &json!(second)));

        let answer = server.publish(&upload(&signed(&files, &key), json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(server.live(), second);
        let state = server.get("/v1/steering").await.json();
        assert_eq!(state["signed_by"], json!(["ops-key"]));
        let list = server.get("/v1/steering/generations").await.json();
        let row = |id: &str| {
            let rows = list["data"].as_array().unwrap();
            rows.iter().find(|row| row["generation"] == id).unwrap().clone()
        };
        assert_eq!(row(&first)["signed_by"], json!(["ops-key"]));
        assert_eq!(row(&second)["signed_by"], json!(["ops-key"]));
    }
}

#[tokio::test]
async fn what_was_added_unsigned_can_be_signed_where_it_lies() {
    for followed in [false, true] {
        let (server, key) = start(followed);
        let (second, files) = files_of(&variant("second"));
        let added = server.publish(&upload(&files, json!({"publish": false}))).await;
        assert_eq!(added.status, 200, "{}", added.text);
        let go = json!({"generation": second});
        let refused = server.post("/v1/steering/rollback", &go).await;
        assert_eq!(refused.error(), (400, "untrusted_generation".to_owned()), "{}", refused.text);
        assert_eq!(server.current().0, 1);
        let root = if followed { server.server.place.path() } else { server.root() };
        let (place, id) = (LocalPlace::new(root), GenerationId::parse(&second).unwrap());
        if !followed {
            let list = server.get("/v1/steering/generations").await;
            assert!(list.text.contains("is not trusted: found no signature"), "{}", list.text);
        }
        store::sign(&place, &id, &key);
        assert_eq!(server.post("/v1/steering/rollback", &go).await.status, 200);
        assert_eq!((server.live(), place.current().unwrap().sequence), (second, 2));
    }
}

#[tokio::test]
async fn a_reload_of_what_nobody_trusted_signed_is_refused() {
    for followed in [false, true] {
        let (server, key) = start(followed);
        let first = server.live();
        let root = if followed { server.server.place.path() } else { server.root() };
        let place = LocalPlace::new(root);
        let (second, files) = files_of(&variant("second"));
        let id = place.add_files(&files).unwrap();
        place.set_current(&id, Some(1), &skeg_vector_store::Change::default()).unwrap();
        let refused = server.post("/v1/steering/reload", &json!({})).await;
        assert_eq!(refused.error(), (503, "reload_failed".to_owned()));
        assert!(refused.text.contains("is not trusted"), "{}", refused.text);
        assert_eq!(server.live(), first);
        store::sign(&place, &id, &key);
        assert_eq!(server.post("/v1/steering/reload", &json!({})).await.status, 200);
        assert_eq!(server.live(), second);
    }
}
