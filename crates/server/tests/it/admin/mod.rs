//! The admin interface in process, beside the public one.

mod audit;
mod following;
mod kill_switch;
mod publishing;
mod reading;
mod refusals;
mod rolling_back;
mod signing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skeg_server::{
    AdminLimits, AdminParts, AuditLog, PrincipalEntry, Principals, admin_app, follow_store,
    verify_audit_log,
};
use skeg_vector_store::{NewGeneration, read_current, read_files, write_generation};
use tower::ServiceExt as _;

use crate::harness::{Answer, Server, Setup};
use crate::store::{self, TestPolicy};

/// A key that is to be replaced, and the one that replaces it.
const KEYS: [(&str, &str); 2] = [("ops", "old-key"), ("ops-next", "new-key")];

/// How a test's admin interface is set up.
struct AdminSetup {
    setup: Setup,
    limits: AdminLimits,
    upload_root: bool,
    keys: Principals,
    /// In place of a file.
    audit: Option<AuditLog>,
}

impl Default for AdminSetup {
    fn default() -> Self {
        let keys = KEYS.map(|(name, key)| PrincipalEntry {
            name: name.to_owned(),
            key_sha256: Sha256::digest(key).into(),
            group: String::new(),
        });
        Self {
            setup: Setup::default(),
            limits: AdminLimits { max_changes_per_minute: 1000, ..AdminLimits::default() },
            upload_root: true,
            keys: Principals::from_entries(keys.into()),
            audit: None,
        }
    }
}

/// Both interfaces of one server.
struct AdminServer {
    server: Server,
    router: Router,
    audit: PathBuf,
}

impl AdminSetup {
    fn start(self) -> AdminServer {
        let server = self.setup.start();
        let audit_path = server.files.path().join("audit.jsonl");
        let audit = self.audit.unwrap_or_else(|| AuditLog::open(&audit_path).unwrap());
        follow_store(&server.store, &server.operations, Some(audit.clone())).unwrap();
        let uploads = server.files.path().join("uploads");
        std::fs::create_dir(&uploads).unwrap();
        let router = admin_app(AdminParts {
            store: Arc::clone(&server.store),
            origin: server.origin.clone(),
            model: store::binding(),
            engine: server.engine.clone(),
            operations: server.operations.clone(),
            keys: self.keys,
            audit,
            upload_root: self.upload_root.then_some(uploads),
            limits: self.limits,
        });
        AdminServer { server, router, audit: audit_path }
    }
}

fn start() -> AdminServer {
    AdminSetup::default().start()
}

impl AdminServer {
    async fn send(&self, request: Request<Body>) -> Answer {
        self.sending(request).await
    }

    /// [`Self::send`] as a task of its own can have it.
    fn sending(&self, request: Request<Body>) -> impl Future<Output = Answer> + Send + use<> {
        let response = self.router.clone().oneshot(request);
        async { Answer::of(response.await.unwrap()).await }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "old-key", Body::empty())).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(request("POST", path, "old-key", Body::from(body.to_string()))).await
    }

    async fn publish(&self, body: &Value) -> Answer {
        self.post("/v1/steering/generations", body).await
    }

    async fn override_(&self, body: &Value) -> Answer {
        self.post("/v1/steering/override", body).await
    }

    fn root(&self) -> &Path {
        self.server.files.path()
    }

    fn live(&self) -> String {
        self.server.store.current().generation.id.to_string()
    }

    /// What `CURRENT` says.
    fn current(&self) -> (u64, String) {
        let current = read_current(self.root()).unwrap();
        (current.sequence, current.generation.to_string())
    }

    /// The lines of the audit log, which is whole; those of `event` alone.
    fn audited(&self, event: &str) -> Vec<Value> {
        let text = std::fs::read(&self.audit).unwrap();
        let report = verify_audit_log(text.as_slice(), None).unwrap();
        assert!(report.is_whole(), "{report:?}");
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// `result` of each line of an event.
    fn results(&self, event: &str) -> Vec<String> {
        let lines = self.audited(event);
        lines.iter().map(|line| line["result"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an event has so many lines, since the store's are written by a thread of their own.
    async fn until_audited(&self, event: &str, count: usize) -> Vec<Value> {
        loop {
            // A line may be half there yet, so the chain is looked at once they all are.
            let text = std::fs::read_to_string(&self.audit).unwrap();
            let wanted = format!("\"event\":\"{event}\"");
            if text.ends_with('\n') && text.matches(&wanted).count() >= count {
                return self.audited(event);
            }
            tokio::task::yield_now().await;
        }
    }
}

fn request(method: &str, path: &str, key: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.header("authorization", format!("Bearer {key}")).body(body).unwrap()
}

/// A generation like the one that is live, and another one by its card.
fn variant(card: &str) -> NewGeneration {
    NewGeneration { card: format!("# {card}\n"), ..store::generation(&TestPolicy::default()) }
}

/// Its id, and its files by name.
fn files_of(generation: &NewGeneration) -> (String, BTreeMap<String, Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let id = write_generation(folder.path(), generation).unwrap();
    (id.to_string(), read_files(folder.path(), &id).unwrap())
}

/// `{"files": …}`, with what `extra` has.
fn upload(files: &BTreeMap<String, Vec<u8>>, extra: Value) -> Value {
    let files: BTreeMap<_, _> =
        files.iter().map(|(name, bytes)| (name, STANDARD.encode(bytes))).collect();
    let mut body = json!({"files": files});
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        body.extend(extra);
    }
    body
}

/// Puts a generation's files into `uploads/NAME`.
fn place(server: &AdminServer, name: &str, files: &BTreeMap<String, Vec<u8>>) {
    let folder = server.root().join("uploads").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}
