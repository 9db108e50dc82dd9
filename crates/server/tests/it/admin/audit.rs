//! Without its line in the audit log nothing is changed.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use skeg_server::{AuditLog, AuditSink, verify_audit_log};

use super::{AdminSetup, files_of, upload, variant};

/// A disk that is full while the test says so.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, bool)>>);

impl AuditSink for Disk {
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.0.extend_from_slice(line);
        Ok(())
    }
}

#[tokio::test]
async fn a_change_whose_line_cannot_be_written_is_refused() {
    let disk = Disk::default();
    let audit = Some(AuditLog::to_sink(disk.clone()));
    let server = AdminSetup { audit, ..AdminSetup::default() }.start();
    let live = server.live();
    let (id, files) = files_of(&variant("new"));
    let publication = upload(&files, json!({}));
    let refuse_all = json!({"action": "refuse_all", "expires": 60});
    disk.0.lock().unwrap().1 = true;
    for (path, body) in [
        ("/v1/steering/generations", &publication),
        ("/v1/steering/rollback", &json!({"generation": live})),
        ("/v1/steering/reload", &json!({})),
        ("/v1/steering/override", &refuse_all),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(answer.error(), (503, "audit_unavailable".to_owned()), "{path}");
        assert!(answer.text.contains("nothing was changed"), "{}", answer.text);
    }
    assert_eq!((server.live(), server.current()), (live.clone(), (1, live)));
    assert!(!server.root().join("generations").join(&id).exists());
    assert_eq!(server.server.chat(&[], json!({})).await.header("x-steering-override"), "");
    assert_eq!(server.get("/v1/steering").await.json()["audit"]["lines_lost"], 4);

    disk.0.lock().unwrap().1 = false;
    assert_eq!(server.publish(&publication).await.status, 200);
    assert_eq!(server.live(), id);
    let text = disk.0.lock().unwrap().0.clone();
    assert!(verify_audit_log(text.as_slice(), None).unwrap().is_whole());
}

#[tokio::test]
async fn the_state_has_the_hash_that_a_verifier_looks_for() {
    let server = super::start();
    let refuse_all = json!({"action": "refuse_all", "expires": 60});
    assert_eq!(server.override_(&refuse_all).await.status, 200);
    let audit = server.get("/v1/steering").await.json()["audit"].clone();
    let text = std::fs::read(&server.audit).unwrap();
    let hash = audit["sha256"].as_str().unwrap();
    let report = verify_audit_log(text.as_slice(), Some(hash)).unwrap();
    assert!(report.has_wanted && report.is_whole());
    assert_eq!(
        (json!(report.num_lines), report.last_sha256.as_deref()),
        (audit["sequence"].clone(), Some(hash))
    );
}
