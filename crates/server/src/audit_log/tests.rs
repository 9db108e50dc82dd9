//! The chain, whole and broken in every way that it can show.

use std::fs;

use super::*;

fn entry(to: &str) -> Entry {
    Entry { event: "swap", who: "store".to_owned(), to: Some(to.to_owned()), ..Entry::default() }
}

fn report(text: &str) -> AuditReport {
    verify_audit_log(text.as_bytes(), None).unwrap()
}

/// A log of three lines; its text and its folder.
fn three_lines() -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let log = AuditLog::open(&path).unwrap();
    for to in ["a", "b", "c"] {
        log.record(&entry(to)).unwrap();
    }
    (fs::read_to_string(&path).unwrap(), folder)
}

fn faulty_lines(text: &str) -> Vec<u64> {
    report(text).faults.iter().map(|fault| fault.line).collect()
}

#[test]
fn a_chain_is_whole_and_a_start_continues_it() {
    let (text, folder) = three_lines();
    let path = folder.path().join("audit.jsonl");
    let before = report(&text);
    assert!(before.is_whole(), "{before:?}");
    assert_eq!((before.num_lines, before.last_sequence), (3, 3));
    let again = AuditLog::open(&path).unwrap();
    assert_eq!(again.state().0.sequence, 3);
    again.record(&entry("d")).unwrap();
    let longer = fs::read_to_string(&path).unwrap();
    let after = report(&longer);
    assert!(longer.starts_with(&text) && after.is_whole(), "{after:?}");
    assert_eq!((after.num_lines, after.last_sha256), (4, Some(again.state().0.sha256)));
    let hash = before.last_sha256.unwrap();
    assert!(verify_audit_log(longer.as_bytes(), Some(&hash)).unwrap().has_wanted);
    assert!(!verify_audit_log(longer.as_bytes(), Some(NO_LINE)).unwrap().has_wanted);
    assert!(report("").is_whole());
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owner_s_and_one_process_s() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let log = AuditLog::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(AuditLog::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    drop(log);
    assert!(AuditLog::open(&path).is_ok());
}

#[test]
fn an_edit_is_found_at_the_next_line() {
    let (text, _folder) = three_lines();
    let edited = text.replacen("\"to\":\"b\"", "\"to\":\"x\"", 1);
    assert_ne!(edited, text);
    assert_eq!(faulty_lines(&edited), [3]);
    let garbled = text.replacen("{\"sequence\":2", "{\"sequence\":z", 1);
    assert_eq!(faulty_lines(&garbled), [2, 3]);
}

#[test]
fn a_removal_an_insertion_and_an_exchange_are_found() {
    let (text, _folder) = three_lines();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(faulty_lines(&[lines[1], lines[2]].concat()), [1]);
    assert_eq!(faulty_lines(&[lines[0], lines[2]].concat()), [2]);
    assert_eq!(faulty_lines(&[lines[0], lines[0], lines[1], lines[2]].concat()), [2]);
    assert_eq!(faulty_lines(&[lines[0], lines[2], lines[1]].concat()), [2, 3]);
    assert_eq!(faulty_lines(&[lines[0], "note\n", lines[1]].concat()), [2, 3]);
    assert_eq!(faulty_lines(&[lines[0], "note\n"].concat()), [2]);
}

#[test]
fn a_removal_at_the_end_is_found_by_a_hash_kept_elsewhere() {
    let (text, _folder) = three_lines();
    let kept = report(&text).last_sha256.unwrap();
    let shorter = text.split_inclusive('\n').take(2).collect::<String>();
    let found = verify_audit_log(shorter.as_bytes(), Some(&kept)).unwrap();
    assert!(found.is_whole() && !found.has_wanted);
}

#[test]
fn a_torn_last_line_is_said_and_the_chain_goes_on_behind_it() {
    let (text, folder) = three_lines();
    let path = folder.path().join("audit.jsonl");
    let start_of_third = text.match_indices('\n').nth(1).unwrap().0 + 1;
    // At every byte: a line that lost its end, and one that lost its line feed alone.
    for len in start_of_third + 1..text.len() {
        fs::write(&path, &text[..len]).unwrap();
        let torn = report(&text[..len]);
        assert!(!torn.is_whole());
        assert_eq!((torn.torn_bytes, torn.faults.len()), (len - start_of_third, 0), "{len}");
        let log = AuditLog::open(&path).unwrap();
        log.record(&entry("d")).unwrap();
        log.record(&entry("e")).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        assert!(after.starts_with(&text[..len]), "what is there stays");
        assert!(report(&after).is_whole(), "{len}: {:?}", report(&after));
        let line = after.lines().nth(3).unwrap();
        assert!(line.contains("is torn") && line.contains("\"torn_bytes\""), "{line}");
        assert!(!after.lines().nth(4).unwrap().contains("torn"), "it is said once");
    }
}

#[test]
fn a_break_found_at_the_start_is_said_in_the_next_line() {
    let (text, folder) = three_lines();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, text.replacen("\"to\":\"a\"", "\"to\":\"x\"", 1)).unwrap();
    let log = AuditLog::open(&path).unwrap();
    log.record(&entry("d")).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.lines().nth(3).unwrap().contains("line 2 of the log"), "{after}");
    assert_eq!(faulty_lines(&after), [2], "what follows is sound");
}

/// Fails while `full` says so.
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

#[test]
fn without_its_first_line_a_change_is_not_made_and_the_chain_stays_whole() {
    let disk = Arc::new(Mutex::new((Vec::new(), false)));
    let log = AuditLog::to_sink(Disk(Arc::clone(&disk)));
    let made = |log: &AuditLog| {
        let mut made = false;
        let outcome = audited(log, entry("a"), |_| {
            made = true;
            Ok(())
        });
        (made, outcome.map_err(|error| error.code()))
    };
    assert_eq!(made(&log), (true, Ok(())));
    disk.lock().unwrap().1 = true;
    assert_eq!(made(&log), (false, Err("audit_unavailable")));
    disk.lock().unwrap().1 = false;
    assert_eq!(made(&log), (true, Ok(())));
    assert_eq!(log.state().1, 1);
    let text = String::from_utf8(disk.lock().unwrap().0.clone()).unwrap();
    assert!(report(&text).is_whole());
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_change_that_is_refused_or_fails_says_why() {
    let disk = Arc::new(Mutex::new((Vec::new(), false)));
    let log = AuditLog::to_sink(Disk(Arc::clone(&disk)));
    let refuse = |error: ApiError| audited(&log, entry("a"), |_| Err::<(), _>(error)).unwrap_err();
    refuse(ApiError::invalid("files", "wrong shape"));
    refuse(ApiError::internal("the disk is on fire"));
    let text = String::from_utf8(disk.lock().unwrap().0.clone()).unwrap();
    let results: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: usize| (results[line]["result"].as_str(), results[line]["reason"].as_str());
    assert_eq!(of(0), (Some("begun"), None));
    assert_eq!(of(1), (Some("refused"), Some("invalid_value: wrong shape")));
    assert_eq!(of(3).0, Some("failed"));
    assert!(of(3).1.unwrap().contains("the disk is on fire"));
}
