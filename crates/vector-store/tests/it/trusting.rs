//! Where signatures are asked for: a store, and a copy of a place; and how places keep them.

use std::fs;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::Ordering;

use skeg_vector_store::mirror::{Mirror, Synced};
use skeg_vector_store::place::{CloudBucket, LocalPlace, ObjectPlace, Place};
use skeg_vector_store::{
    Change, Error, Generation, GenerationId, Reload, SecretKey, Store, TrustedKeys, gc,
    load_generation, read_current, set_current, sign_files,
};

use crate::bucket::{self, TestBucket, publish_to, write_to};
use crate::signing::{sign, trusting};
use crate::support::{model, publish, write};

fn keys<const N: usize>() -> [SecretKey; N] {
    [0; N].map(|_| SecretKey::generate().unwrap())
}

/// Signs a generation in any place.
fn sign_in(place: &dyn Place, id: &GenerationId, key: &SecretKey) {
    let mut files = place.read_files(id).unwrap();
    sign_files(&mut files, &place.load(id).unwrap(), key).unwrap();
    assert_eq!(place.add_files(&files).unwrap(), *id);
}

fn open_trusting(
    root: &std::path::Path,
    trusted: &TrustedKeys,
) -> skeg_vector_store::Result<Store<()>> {
    Store::open_trusting(root, model(), trusted.clone(), |_: &Generation| Ok(()))
}

#[test]
fn a_store_goes_live_with_trusted_generations_alone() {
    let root = tempfile::tempdir().unwrap();
    let [ours, theirs] = keys();
    let trusted = trusting(&[&ours]);
    let a = publish(root.path(), 0);
    let error = open_trusting(root.path(), &trusted).unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    sign(root.path(), &a, &ours);
    let store = open_trusting(root.path(), &trusted).unwrap();
    assert_eq!(store.trusted_keys(), &trusted);

    let b = publish(root.path(), 1);
    let is_untrusted = |result: Result<(), Error>| matches!(result, Err(Error::Untrusted { .. }));
    assert!(is_untrusted(store.reload().map(|_| ())));
    sign(root.path(), &b, &theirs);
    assert!(is_untrusted(store.reload().map(|_| ())));
    assert!(is_untrusted(store.check(&b).map(|_| ())));
    assert_eq!((store.current().generation.id.clone(), store.failed_reloads()), (a.clone(), 2));

    // A signature that says it is ours and is not: another generation's.
    let file = |id: &GenerationId| {
        root.path().join("generations").join(id.as_str()).join("SIGNATURES.json")
    };
    let others = fs::read(file(&b)).unwrap();
    fs::copy(file(&a), file(&b)).unwrap();
    assert!(matches!(store.reload(), Err(Error::Field(_))));
    assert!(matches!(store.check(&b), Err(Error::Field(_))));
    assert_eq!(store.current().generation.id, a);
    fs::write(file(&b), others).unwrap();

    sign(root.path(), &b, &ours);
    store.check(&b).unwrap();
    assert_eq!(store.reload().unwrap(), Reload::Swapped { from: a, to: b.clone() });
    assert_eq!(store.current().generation.signatures.keys().count(), 2);
    // Without keys nothing is asked for.
    let c = publish(root.path(), 2);
    let open = Store::open(root.path(), model(), |_: &Generation| Ok(())).unwrap();
    assert!(open.trusted_keys().is_empty() && open.current().generation.id == c);
}

#[test]
fn a_place_keeps_every_signature() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = bucket::empty();
    let (local, object) = (LocalPlace::new(folder.path().join("made")), bucket::place(&bucket));
    for place in [&local as &dyn Place, &object] {
        let id = write_to(place, 3);
        let unsigned = place.read_files(&id).unwrap();
        let keys = keys::<8>();
        // Signers that read before the others wrote: none of them is lost.
        let start = Barrier::new(keys.len());
        std::thread::scope(|scope| {
            for key in &keys {
                scope.spawn(|| {
                    let mut files = unsigned.clone();
                    let generation = place.load(&id).unwrap();
                    sign_files(&mut files, &generation, key).unwrap();
                    start.wait();
                    place.add_files(&files).unwrap();
                });
            }
        });
        let signed = place.load(&id).unwrap();
        assert_eq!(signed.signatures.keys().count(), keys.len());
        trusting(&[&keys[5]]).check(&signed).unwrap();
        // Writing it again without signatures takes none away.
        place.add_files(&unsigned).unwrap();
        assert_eq!(place.load(&id).unwrap(), signed);
        assert_eq!(place.generations().unwrap().len(), 1);
        // Nor does publishing, and a copy in a new place has them all.
        place.set_current(&id, None, &Change::default()).unwrap();
        let copy = bucket::place(&bucket::empty());
        copy.add_files(&place.read_files(&id).unwrap()).unwrap();
        assert_eq!(copy.load(&id).unwrap(), signed);
        // What serves and what is removed, signed or not, is told as before.
        let other = write_to(place, 4);
        sign_in(place, &other, &keys[0]);
        let rules = gc::KeepRules { changes: 1, grace: std::time::Duration::ZERO };
        assert_eq!(gc::collect(place, rules).unwrap().len(), 2);
        assert_eq!(place.generations().unwrap().len(), 1);
        assert!(place.read_files(&other).is_err());
    }
}

/// What is signed before it is published is signed whenever `CURRENT` names it, whichever write its publisher dies with.
#[test]
fn a_publisher_that_dies_leaves_no_signature_behind() {
    let [key] = keys();
    let trusted = trusting(&[&key]);
    let folder = tempfile::tempdir().unwrap();
    let new = write(folder.path(), 1);
    sign(folder.path(), &new, &key);
    let files = LocalPlace::new(folder.path()).read_files(&new).unwrap();
    let survives = |writes: usize| {
        let bucket = bucket::empty();
        publish_to(&bucket::place(&bucket), 0);
        let dying = ObjectPlace::new(TestBucket::dying(&bucket, writes, false));
        let published = dying
            .add_files(&files)
            .and_then(|id| dying.set_current(&id, Some(1), &Change::default()));
        let place = bucket::place(&bucket);
        if place.current().unwrap().generation == new {
            trusted.check(&place.load(&new).unwrap()).unwrap();
        }
        // Another one takes up where this one died.
        place.add_files(&files).unwrap();
        trusted.check(&place.load(&new).unwrap()).unwrap();
        published.is_ok()
    };
    // Four files, the signatures and CURRENT.
    assert_eq!((0..100).find(|writes| survives(*writes)), Some(6));
}

struct Replica {
    path: Arc<TestBucket>,
    mirror: Mirror,
}

fn start(bucket: &Arc<CloudBucket>, folder: &std::path::Path, trusted: &TrustedKeys) -> Replica {
    let path = Arc::new(TestBucket::new(bucket));
    let place = Box::new(ObjectPlace::new(Arc::clone(&path)));
    let mirror = Mirror::new(place, folder).unwrap().for_model(model()).trusting(trusted.clone());
    Replica { path, mirror }
}

#[test]
fn a_copy_follows_trusted_generations_alone() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let [ours, theirs] = keys();
    let trusted = trusting(&[&ours]);
    let a = write_to(&place, 0);
    sign_in(&place, &a, &ours);
    place.set_current(&a, None, &Change::default()).unwrap();
    let replica = start(&bucket, folder.path(), &trusted);
    assert!(matches!(replica.mirror.sync().unwrap(), Synced::Followed(_)));
    let store = open_trusting(folder.path(), &trusted).unwrap();

    let b = publish_to(&place, 1);
    for _ in 0..2 {
        assert!(matches!(replica.mirror.sync(), Err(Error::Untrusted { .. })));
    }
    sign_in(&place, &b, &theirs);
    assert!(matches!(replica.mirror.sync(), Err(Error::Untrusted { .. })));
    assert_eq!(read_current(folder.path()).unwrap().generation, a);
    // Not even its files are there.
    assert!(load_generation(folder.path(), &b, None).is_err());
    assert_eq!(store.reload().unwrap(), Reload::Unchanged);
    // Signed where it lies, without any change of CURRENT.
    sign_in(&place, &b, &ours);
    assert!(matches!(replica.mirror.sync().unwrap(), Synced::Followed(_)));
    assert_eq!(store.reload().unwrap(), Reload::Swapped { from: a, to: b });
}

#[test]
fn a_copy_takes_a_generation_again_that_was_signed_after_it_was_copied() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let [old, new] = keys();
    let a = publish_to(&place, 0);
    start(&bucket, folder.path(), &TrustedKeys::default()).mirror.sync().unwrap();
    // Started again with keys: the copy says what the place says, and neither is signed.
    let trusted = trusting(&[&old]);
    let replica = start(&bucket, folder.path(), &trusted);
    for _ in 0..2 {
        assert!(matches!(replica.mirror.sync(), Err(Error::Untrusted { .. })));
        assert!(open_trusting(folder.path(), &trusted).is_err());
    }
    sign_in(&place, &a, &old);
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Unchanged);
    open_trusting(folder.path(), &trusted).unwrap();
    // From here on a look at what has not changed is short again.
    replica.path.calls.lock().unwrap().clear();
    replica.mirror.sync().unwrap();
    assert_eq!(*replica.path.calls.lock().unwrap(), ["get CURRENT"]);
    // A new key: signed with both, then the old one is taken away.
    let trusted = trusting(&[&new]);
    let replica = start(&bucket, folder.path(), &trusted);
    assert!(matches!(replica.mirror.sync(), Err(Error::Untrusted { .. })));
    sign_in(&place, &a, &new);
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Unchanged);
    let store = open_trusting(folder.path(), &trusted).unwrap();
    assert_eq!(store.current().generation.signatures.keys().count(), 2);
    // With the place away it starts from what it has.
    let replica = start(&bucket, folder.path(), &trusted);
    replica.path.is_away.store(true, Ordering::SeqCst);
    assert!(replica.mirror.sync().is_err());
    open_trusting(folder.path(), &trusted).unwrap();
}

#[test]
fn a_copy_of_a_folder_is_checked_once() {
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [key] = keys();
    let id = write(root.path(), 0);
    sign(root.path(), &id, &key);
    set_current(root.path(), &id, None).unwrap();
    let place = Box::new(LocalPlace::new(root.path()));
    let mirror = Mirror::new(place, folder.path()).unwrap().trusting(trusting(&[&key]));
    assert!(matches!(mirror.sync().unwrap(), Synced::Followed(_)));
    // A folder has no tags; if each look loaded the copy, this one would copy it again.
    let card = folder.path().join("generations").join(id.as_str()).join("CARD.md");
    fs::write(&card, "changed").unwrap();
    assert_eq!(mirror.sync().unwrap(), Synced::Unchanged);
    assert_eq!(fs::read_to_string(card).unwrap(), "changed");
}
