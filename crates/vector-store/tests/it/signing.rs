//! Signatures of generations: another implementation's, every changed byte, whose count, and files of keys.

use std::fs;
use std::path::Path;

use serde_json::Value;
use skeg_vector_store::signature::{MAX_SIGNATURES, ParseKeyError};
use skeg_vector_store::{
    Error, Files, Generation, GenerationId, PublicKey, SecretKey, Signatures, TrustedKeys,
    add_generation, load_files, load_generation, read_files, sign_files, verify,
};

use crate::support::write;

/// Signs a generation in a folder.
pub(crate) fn sign(root: &Path, id: &GenerationId, key: &SecretKey) {
    let mut files = read_files(root, id).unwrap();
    let generation = load_files(root, Some(id), &files).unwrap();
    sign_files(&mut files, &generation, key).unwrap();
    assert_eq!(add_generation(root, &files).unwrap(), *id);
}

pub(crate) fn trusting(keys: &[&SecretKey]) -> TrustedKeys {
    let texts: Vec<String> = keys.iter().map(|key| key.public_key().to_string()).collect();
    TrustedKeys::parse(&texts).unwrap()
}

fn load(root: &Path, id: &GenerationId) -> Generation {
    load_generation(root, id, None).unwrap()
}

/// The key whose file has this base64.
fn key_of(secret: &str) -> SecretKey {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, format!("skeg-signing-key-v1 {secret}\n")).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    SecretKey::read(&path).unwrap()
}

/// By the Python package `cryptography`; the first key is RFC 8032's test 1.
#[test]
fn signatures_are_those_of_another_implementation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/signature.json");
    let cases: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let text = |field: &str| case[field].as_str().unwrap();
        let key = key_of(text("secret_key"));
        assert_eq!(key.public_key().to_string(), text("public_key"));
        let ours = Signatures::default().signed(&key, text("root_hash")).to_json().unwrap();
        let expected = format!(
            "{{\n  \"format_version\": 1,\n  \"signatures\": [\n    {{\n      \"key\": \"{}\",\n      \
             \"signature\": \"{}\"\n    }}\n  ]\n}}\n",
            text("public_key"),
            text("signature")
        );
        assert_eq!(String::from_utf8(ours).unwrap(), expected);
        let path = Path::new("SIGNATURES.json");
        let theirs = Signatures::parse(expected.as_bytes(), text("root_hash"), path).unwrap();
        assert!(theirs.keys().eq([&key.public_key()]));
        let other_hash = text("root_hash").replace('a', "b");
        let error = Signatures::parse(expected.as_bytes(), &other_hash, path).unwrap_err();
        assert!(error.to_string().contains("did not make for this generation"), "{error}");
    }
}

#[test]
fn signing_does_not_change_the_id_and_keys_add_up() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    let before = load(root.path(), &id);
    assert!(before.signatures.is_empty());
    let keys = [0; 3].map(|_| SecretKey::generate().unwrap());
    for (idx, key) in keys.iter().enumerate() {
        sign(root.path(), &id, key);
        // Again: nothing new.
        sign(root.path(), &id, key);
        assert_eq!(load(root.path(), &id).signatures.keys().count(), idx + 1);
    }
    let after = load(root.path(), &id);
    let mut public: Vec<PublicKey> = keys.iter().map(SecretKey::public_key).collect();
    public.sort();
    assert!(after.signatures.keys().eq(&public));
    assert_eq!(Generation { signatures: Signatures::default(), ..after.clone() }, before);
    assert_eq!(write(root.path(), 0), id);
    assert_eq!(load(root.path(), &id), after);
    let report = verify(root.path(), &id, None).unwrap();
    assert!(report.is_sound() && report.files.iter().all(|file| file.is_sound()), "{report:?}");
    assert_eq!(report.signatures, after.signatures);
    assert!(fs::read_dir(root.path().join("generations")).unwrap().count() == 1);
}

#[test]
fn only_a_trusted_signature_counts() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    let [ours, also_ours, theirs] = [0; 3].map(|_| SecretKey::generate().unwrap());
    let trusted = trusting(&[&ours, &also_ours]);
    let check = |trusted: &TrustedKeys| trusted.check(&load(root.path(), &id));
    check(&TrustedKeys::default()).unwrap();
    let error = check(&trusted).unwrap_err();
    assert!(matches!(&error, Error::Untrusted { generation, .. } if *generation == id));
    let text = error.to_string();
    assert!(text.contains("found no signature, expected a signature of "), "{text}");
    assert!(text.contains(&ours.public_key().to_string()), "{text}");
    sign(root.path(), &id, &theirs);
    let text = check(&trusted).unwrap_err().to_string();
    assert!(text.contains(&format!("found signatures of {} alone", theirs.public_key())), "{text}");
    check(&TrustedKeys::default()).unwrap();
    sign(root.path(), &id, &also_ours);
    check(&trusted).unwrap();
    assert_eq!(
        trusted.signers(&load(root.path(), &id).signatures),
        [also_ours.public_key().to_string()]
    );
    // The old key is taken away once the new one has signed.
    check(&trusting(&[&also_ours])).unwrap();
    assert!(check(&trusting(&[&ours])).is_err());
}

/// A signed generation, its files, and those of another one that the same key signed.
fn signed_pair() -> (Files, Files, SecretKey) {
    let key = SecretKey::generate().unwrap();
    let [one, other] = [0, 1].map(|mark| {
        let root = tempfile::tempdir().unwrap();
        let id = write(root.path(), mark);
        sign(root.path(), &id, &key);
        read_files(root.path(), &id).unwrap()
    });
    (one, other, key)
}

fn refused(files: &Files) -> String {
    load_files(Path::new("DIR"), None, files).unwrap_err().to_string()
}

#[test]
fn a_signature_of_another_generation_or_of_changed_files_is_refused() {
    let (mut one, other, key) = signed_pair();
    one.insert("SIGNATURES.json".to_owned(), other["SIGNATURES.json"].clone());
    let text = refused(&one);
    let expected = format!(
        "DIR/SIGNATURES.json: field `signatures[0].signature`: found a signature that key {} did not make for this \
         generation, expected its signature of the root hash ",
        key.public_key()
    );
    assert!(text.starts_with(&expected), "{text}");
    // The card and its digest in the manifest are changed: sound, with another root hash.
    let (one, _, _) = signed_pair();
    let mut changed = one.clone();
    let digest = crate::forge::sha256(&one["CARD.md"]);
    changed.insert("CARD.md".to_owned(), b"# Other\n".to_vec());
    let manifest = String::from_utf8(one["manifest.json"].clone()).unwrap();
    let manifest = manifest.replace(&digest, &crate::forge::sha256(b"# Other\n"));
    changed.insert("manifest.json".to_owned(), manifest.into_bytes());
    let text = refused(&changed);
    assert!(text.contains("did not make for this generation"), "{text}");
    changed.remove("SIGNATURES.json");
    load_files(Path::new("DIR"), None, &changed).unwrap();
}

/// Every byte counts: nothing in the file can be changed or left out, so nobody can make it say something else.
#[test]
fn a_file_of_signatures_that_is_changed_or_ends_at_any_byte_is_refused() {
    let (mut files, _, key) = signed_pair();
    let whole = files["SIGNATURES.json"].clone();
    let trusted = trusting(&[&key]);
    trusted.check(&load_files(Path::new("DIR"), None, &files).unwrap()).unwrap();
    for num_bytes in 0..whole.len() {
        files.insert("SIGNATURES.json".to_owned(), whole[..num_bytes].to_vec());
        assert!(load_files(Path::new("DIR"), None, &files).is_err(), "{num_bytes} bytes");
    }
    for idx in 0..whole.len() {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128] {
            let mut changed = whole.clone();
            changed[idx] ^= mask;
            files.insert("SIGNATURES.json".to_owned(), changed);
            assert!(load_files(Path::new("DIR"), None, &files).is_err(), "byte {idx}, {mask}");
        }
    }
}

#[test]
fn a_file_of_signatures_is_read_strictly() {
    let (mut files, _, key) = signed_pair();
    let whole = String::from_utf8(files["SIGNATURES.json"].clone()).unwrap();
    let mut check = |text: String, expected: &str| {
        files.insert("SIGNATURES.json".to_owned(), text.into_bytes());
        let found = refused(&files);
        assert!(found.contains(expected), "{found}");
    };
    check("[]".to_owned(), "found something else");
    check(whole.replace(": 1,", ": 2,"), "field `format_version`: found 2, expected 1");
    check(whole.replace("\"signatures\": [", "\"by\": 1, \"signatures\": ["), "unknown field `by`");
    check(whole.replace("\"key\"", "\"name\": \"ops\", \"key\""), "unknown field `name`");
    let none = "{\n  \"format_version\": 1,\n  \"signatures\": []\n}\n";
    check(none.to_owned(), "field `signatures`: found 0, expected 1 to 16");
    let entry = &whole[whole.find("    {").unwrap()..=whole.rfind("    }").unwrap() + 4];
    check(whole.replace(entry, &format!("{entry},\n{entry}")), "a key twice");
    let many = vec![entry; MAX_SIGNATURES + 1].join(",\n");
    check(whole.replace(entry, &many), "field `signatures`: found 17, expected 1 to 16");
    check(whole.replace('\n', "\r\n"), "found other spacing");
    check(format!("{whole}{}", " ".repeat(8192)), "found more than 8192 bytes");
    let public = key.public_key().to_string();
    check(whole.replace(&public, "ops"), "`signatures[0].key`: found something else");
    // A point of small order, under which one signature fits many texts.
    let weak = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    check(whole.replace(&public, weak), "`signatures[0].key`");
    check(whole.replace("\"signature\": \"", "\"signature\": \"AAAA"), "64 bytes in base64");
}

#[test]
fn there_is_room_for_sixteen_signatures() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    let keys = [0; MAX_SIGNATURES].map(|_| SecretKey::generate().unwrap());
    for key in &keys {
        sign(root.path(), &id, key);
    }
    let full = load(root.path(), &id);
    trusting(&keys.each_ref()).check(&full).unwrap();
    let mut files = read_files(root.path(), &id).unwrap();
    let error = sign_files(&mut files, &full, &SecretKey::generate().unwrap()).unwrap_err();
    assert!(error.to_string().contains("17 keys would have signed"), "{error}");
}

#[test]
fn trusted_keys_are_read_strictly() {
    let [a, b] = [0; 2].map(|_| SecretKey::generate().unwrap().public_key().to_string());
    let trusted = TrustedKeys::parse(&[format!("ops-2026:{a}"), b.clone()]).unwrap();
    let mut entries = trusted.entries();
    entries.sort();
    let mut expected = [format!("ops-2026:{a}"), b.clone()];
    expected.sort();
    assert_eq!(entries, expected);
    assert_eq!(TrustedKeys::parse(&entries).unwrap(), trusted);
    assert_eq!(trusted.name_of(&a.parse().unwrap()), "ops-2026");
    assert_eq!(trusted.name_of(&b.parse().unwrap()), b);
    assert!(TrustedKeys::parse::<String>(&[]).unwrap().is_empty());
    let refused = |entries: &[&str], expected: &str| {
        let ParseKeyError { reason } = TrustedKeys::parse(entries).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    };
    refused(&[&a, ""], "key 2: found 0 characters");
    refused(&[&a[1..]], "key 1: found 43 characters");
    refused(&[&format!("a b:{a}")], "key 1: found a name that is none");
    refused(&[&format!(":{a}")], "found a name that is none");
    refused(&[&a, &format!("x:{a}")], "key 2: found a key that is there already");
    refused(&[&format!("x:{a}"), &format!("x:{b}")], "key 2: found the name of another key");
}

#[test]
fn a_secret_key_is_written_once_for_its_owner_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signing.key");
    let key = SecretKey::generate().unwrap();
    key.write_new(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let secret = text.trim_end().strip_prefix("skeg-signing-key-v1 ").unwrap();
    assert_eq!(secret.len(), 44);
    assert!(!format!("{key:?}").contains(secret));
    let error = key.write_new(&path).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(SecretKey::read(&path).unwrap().public_key(), key.public_key());
    assert_ne!(SecretKey::generate().unwrap().public_key(), key.public_key());
    // The line is no entry of `trusted_keys`, and no error quotes it.
    let error = TrustedKeys::parse(&[text.trim_end()]).unwrap_err().to_string();
    assert!(!error.contains(secret), "{error}");
    let mode = |mode| {
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        mode(0o644);
        let error = SecretKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 644"), "{error}");
        mode(0o640);
        SecretKey::read(&path).unwrap();
    }
    mode(0o600);
    for wrong in
        [secret.to_owned(), text.replace("v1", "v2"), text.replacen(secret, &secret[4..], 1)]
    {
        fs::write(&path, &wrong).unwrap();
        let error = SecretKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("expected the one line") && !error.contains(secret), "{error}");
    }
    let error = SecretKey::read(&folder.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("skeg vectors keygen"), "{error}");
}
