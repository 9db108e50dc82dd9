//! Files of other programs: read as they mean it, written so that they read it, and refused where they are damaged.

use std::collections::BTreeMap;
use std::path::Path;

use skeg_lab::NoProgress;
use skeg_lab::exchange::{
    ActivationNorms, Declared, DeclaredStrength, FileFormat, FileVector, ImportOptions, Imported,
    VectorFile, activation_norms, exported,
};
use skeg_vector_store::{
    Action, Category, Generation, Operator, Orientation, Site, load_generation, write_generation,
};

use crate::tiny_model::{HIDDEN_SIZE, model};

const FORMATS: [FileFormat; 3] = [FileFormat::Gguf, FileFormat::Safetensors, FileFormat::Npz];
/// `gen_control_vector.py`'s.
const GOLDEN_LAYERS: [usize; 3] = [1, 2, 4];
const GOLDEN_SIZE: usize = 8;

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    std::fs::read(folder.join(name)).unwrap()
}

/// `sin(0.37 * i + 1.3 * layer)`, the same in the generators.
#[expect(clippy::cast_possible_truncation, reason = "rounded to f32 once, as in the generators")]
fn values(layers: &[usize], hidden_size: usize) -> Vec<f32> {
    let row = |&layer: &usize| {
        (0..hidden_size).map(move |i| (0.37 * i as f64 + 1.3 * layer as f64).sin() as f32)
    };
    layers.iter().flat_map(row).collect()
}

fn vector(layers: &[usize], hidden_size: usize) -> FileVector {
    let values = values(layers, hidden_size);
    FileVector { layers: Some(layers.to_vec()), num_rows: layers.len(), values }
}

/// Of `name`s, with all that can be declared.
fn file(names: &[&str], layers: &[usize], hidden_size: usize) -> VectorFile {
    let named = |name: &&str| ((*name).to_owned(), vector(layers, hidden_size));
    let strength = DeclaredStrength { default: 0.5, floor: 0.25, ceiling: 1.5 };
    VectorFile {
        declared: Declared {
            site: Some(Site::ResidPost),
            operator: Some(Operator::Add),
            orientation: Some(Orientation::Reversed),
            model_hint: Some("llama".to_owned()),
            architecture_id: Some("a".repeat(64)),
            weights_id: Some("b".repeat(64)),
            strengths: names.iter().map(|name| ((*name).to_owned(), strength)).collect(),
        },
        vectors: names.iter().map(named).collect(),
    }
}

/// The names of the vectors that a format can hold.
fn names(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Gguf => &["direction"],
        FileFormat::Safetensors | FileFormat::Npz => &["fraud_deception", "malware_viruses"],
    }
}

fn parse(bytes: &[u8], format: FileFormat) -> skeg_lab::Result<VectorFile> {
    VectorFile::parse(bytes, format, Path::new("a.file"))
}

fn refusal(bytes: &[u8], format: FileFormat) -> String {
    parse(bytes, format).unwrap_err().to_string()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_format_gives_back_every_bit() {
    // What a sum or a text in between would change.
    let odd = [f32::MIN_POSITIVE / 8.0, -0.0, f32::MAX, 1.0 + f32::EPSILON];
    for format in FORMATS {
        let mut written = file(names(format), &[1, 2, 7], GOLDEN_SIZE);
        for vector in written.vectors.values_mut() {
            vector.values[..4].copy_from_slice(&odd);
        }
        let bytes = written.to_bytes(format).unwrap();
        let read = parse(&bytes, format).unwrap();
        assert_eq!(read, written, "{format:?}");
        for (name, vector) in &read.vectors {
            assert_eq!(bits(&vector.values), bits(&written.vectors[name].values), "{format:?}");
        }
        assert_eq!(read.to_bytes(format).unwrap(), bytes, "{format:?}");
    }
}

#[test]
fn repengs_and_numpys_files_are_read_with_the_right_layers() {
    let read = parse(&golden("control_vector.gguf"), FileFormat::Gguf).unwrap();
    assert_eq!(read.vectors["direction"], vector(&GOLDEN_LAYERS, GOLDEN_SIZE));
    assert_eq!(read.declared.model_hint.as_deref(), Some("llama"));
    assert_eq!(read.declared.site, Some(Site::ResidPost));
    assert_eq!((read.declared.operator, read.declared.orientation), (Some(Operator::Add), None));

    let read = parse(&golden("vectors.npz"), FileFormat::Npz).unwrap();
    let expected = vector(&GOLDEN_LAYERS, GOLDEN_SIZE);
    assert_eq!(read.vectors, BTreeMap::from([("fraud_deception".to_owned(), expected)]));
    assert_eq!(read.declared, Declared::default());
}

/// For `gen_control_vector.py --check`, where a folder is named.
#[test]
#[expect(clippy::disallowed_methods, reason = "only a person who checks the files names a folder")]
fn exports_are_files_of_their_formats() {
    for (format, begin) in [(FileFormat::Gguf, &b"GGUF"[..]), (FileFormat::Npz, b"PK\x03\x04")] {
        let names = &names(format)[..1];
        let bytes = file(names, &GOLDEN_LAYERS, GOLDEN_SIZE).to_bytes(format).unwrap();
        assert!(bytes.starts_with(begin));
        if let Ok(folder) = std::env::var("SKEG_EXPORT_FOLDER") {
            std::fs::write(
                Path::new(&folder).join("exported").with_extension(format.as_str()),
                bytes,
            )
            .unwrap();
        }
    }
    if let Ok(folder) = std::env::var("SKEG_EXPORT_FOLDER") {
        // The vector of `gen_logits.py`, for `check_llama_cpp.py`.
        let bytes = file(&["direction"], &[14], 576).to_bytes(FileFormat::Gguf).unwrap();
        std::fs::write(Path::new(&folder).join("resid_post_14.gguf"), bytes).unwrap();
    }
}

#[test]
fn a_control_vector_is_added_to_the_residual_stream_or_is_not_one() {
    let mut one = file(&["direction"], &[1, 2], GOLDEN_SIZE);
    let refused = |file: &VectorFile| file.to_bytes(FileFormat::Gguf).unwrap_err().to_string();
    one.declared.site = Some(Site::AttnOut);
    assert!(refused(&one).contains("`resid_post` alone"), "{}", refused(&one));
    one.declared.site = Some(Site::ResidPost);
    for operator in [Operator::ProjectOut, Operator::AddNormRestored] {
        one.declared.operator = Some(operator);
        assert!(refused(&one).contains("is added, nothing else"), "{}", refused(&one));
        for format in [FileFormat::Safetensors, FileFormat::Npz] {
            let read = parse(&one.to_bytes(format).unwrap(), format).unwrap();
            assert_eq!(read.declared.operator, Some(operator));
        }
    }
    let first = file(&["direction"], &[0, 1], GOLDEN_SIZE);
    assert!(refused(&first).contains("layer 0"), "{}", refused(&first));
    let two = file(&["one", "two"], &[1], GOLDEN_SIZE);
    assert!(refused(&two).contains("2 vectors"), "{}", refused(&two));
    // A layer that is left alone needs no place.
    let mut silent = first;
    silent.vectors.get_mut("direction").unwrap().values[..GOLDEN_SIZE].fill(0.0);
    let read = parse(&silent.to_bytes(FileFormat::Gguf).unwrap(), FileFormat::Gguf).unwrap();
    assert_eq!(read.vectors["direction"], vector(&[1], GOLDEN_SIZE));
}

/// One text for another of the same length, everywhere in the bytes.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut found = bytes.to_vec();
    let places =
        (0..=bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes()));
    let places: Vec<usize> = places.collect();
    assert!(!places.is_empty(), "no `{from}`");
    places.iter().for_each(|&at| found[at..at + to.len()].copy_from_slice(to.as_bytes()));
    found
}

#[test]
fn an_alignment_that_divides_nothing_is_refused() {
    // Two metadata entries, no tensor.
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let kind = |kind: u32| kind.to_le_bytes().to_vec();
    let begin = [&b"GGUF"[..], &[3, 0, 0, 0], &[0; 8], &[2, 0, 0, 0, 0, 0, 0, 0]].concat();
    for (alignment, expected) in [(0, "a power of two"), (24, "a power of two"), (32, "is empty")] {
        let bytes = [
            begin.clone(),
            [text("general.architecture"), kind(8), text("controlvector")].concat(),
            [text("general.alignment"), kind(4), kind(alignment)].concat(),
        ]
        .concat();
        let error = refusal(&bytes, FileFormat::Gguf);
        assert!(error.contains(expected), "{alignment}: {error}");
    }
}

#[test]
fn what_is_not_known_is_not_guessed() {
    for (from, to, expected) in [
        ("add", "mul", "metadata `operator`"),
        ("resid_post", "resid_pest", "metadata `site`"),
        ("resid_post", "attn_outer", "metadata `site`"),
        ("reversed", "reverted", "metadata `orientation`"),
        ("controlvector\u{18}", "controlvectro\u{18}", "`general.architecture`"),
        ("direction.1", "direction.0", "the output of the first block"),
        ("direction.1", "direction.2", "is there twice"),
        ("direction.1", "direktion.1", "expected `direction.<layer>`"),
        ("direction.1", "direction.x", "expected `direction.<layer>`"),
        ("direction.1", "direction.+", "expected `direction.<layer>`"),
    ] {
        let bytes = file(&["direction"], &[1, 2], GOLDEN_SIZE).to_bytes(FileFormat::Gguf).unwrap();
        let error = refusal(&replaced(&bytes, from, to), FileFormat::Gguf);
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    let bytes = file(&["one"], &[1, 2], GOLDEN_SIZE).to_bytes(FileFormat::Safetensors).unwrap();
    for (from, to, expected) in [
        (r#""add""#, r#""mul""#, "metadata `operator`"),
        (r#""resid_post""#, r#""resid_pest""#, "metadata `site`"),
        ("one/resid_post", "one/resid_pest", "expected `<category>`"),
        (r#""layers":"[1,2]""#, r#""layers":"[1.2]""#, "metadata `layers`"),
        (r#""layers":"[1,2]""#, r#""layers":"[2,1]""#, "ascending"),
        (r#""layers":"[1,2]""#, r#""layers":"[123]""#, "2 rows for layers"),
        (r#""F32""#, r#""I32""#, "expected F32"),
    ] {
        let error = refusal(&replaced(&bytes, from, to), FileFormat::Safetensors);
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    let two = file(&["a", "b"], &[1], GOLDEN_SIZE).to_bytes(FileFormat::Safetensors).unwrap();
    let mixed = replaced(&two, "b/resid_post", "bxx/attn_out");
    let error = refusal(&mixed, FileFormat::Safetensors);
    assert!(error.contains("in a file of vectors for"), "{error}");
    let mut other = file(&["one"], &[1], GOLDEN_SIZE);
    other.vectors.get_mut("one").unwrap().values[3] = f32::NAN;
    let error = other.to_bytes(FileFormat::Npz).unwrap_err().to_string();
    assert!(error.contains("NaN in row 0, coordinate 3"), "{error}");
}

fn options(category: &str) -> ImportOptions {
    let category = Category::parse(category).unwrap();
    ImportOptions { category, name: None, site: None, layers: None, negate: false }
}

fn chosen(file: &VectorFile, options: &ImportOptions) -> Imported {
    file.choose(options).unwrap()
}

/// As it is stored, from a file's bytes.
fn stored(imported: &Imported, strength: Option<f32>) -> Generation {
    let norms: ActivationNorms = activation_norms(&model(), imported, &mut NoProgress).unwrap();
    let generation = imported.generation(&norms, strength, (FileFormat::Gguf, b"the file"));
    let root = tempfile::tempdir().unwrap();
    let id = write_generation(root.path(), &generation).unwrap();
    load_generation(root.path(), &id, Some(&generation.model)).unwrap()
}

#[test]
fn an_imported_vector_only_logs_until_a_strength_is_chosen() {
    let mut file = file(&["direction"], &[1, 2], HIDDEN_SIZE);
    file.declared.orientation = None;
    let imported = chosen(&file, &options("fraud_deception"));
    let generation = stored(&imported, None);
    let category = Category::parse("fraud_deception").unwrap();
    let rule = &generation.policy.categories[&category];
    assert_eq!((rule.action, rule.strength.ceiling.to_bits()), (Action::Log, 0));
    assert!(generation.card.contains("was not measured"), "{}", generation.card);
    let manifest = &generation.manifest;
    assert_eq!((manifest.site, &manifest.layers), (Site::ResidPost, &vec![1, 2]));
    assert_eq!(manifest.orientation, Orientation::SafeMinusUnsafe);
    assert_eq!(manifest.provenance.method, "imported from gguf (`direction`)");
    assert_eq!(manifest.provenance.data_sha256[0].len(), 64);
    // Strength is in the policy and not in the numbers.
    let steered = stored(&imported, Some(0.5));
    let rule = &steered.policy.categories[&category];
    assert_eq!((rule.action, rule.strength.default.to_bits()), (Action::Steer, 0.5_f32.to_bits()));
    for generation in [generation, steered] {
        let rows = &generation.vectors[&category];
        assert_eq!(bits(&rows.values), bits(&values(&[1, 2], HIDDEN_SIZE)));
        // Measured on the model, not taken from anywhere.
        let norms = generation.manifest.norms[&category].iter().map(|norm| norm.activation);
        assert!(
            norms.clone().all(|norm| norm > 0.1 && norm < 1000.0),
            "{:?}",
            norms.collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_generation_goes_out_and_comes_back() {
    let imported = chosen(&file(&["direction"], &[1, 2], HIDDEN_SIZE), &options("fraud_deception"));
    let generation = stored(&imported, Some(0.5));
    let category = Category::parse("fraud_deception").unwrap();
    for format in FORMATS {
        let file =
            exported(&generation, std::slice::from_ref(&category), (format, "llama")).unwrap();
        let read = parse(&file.to_bytes(format).unwrap(), format).unwrap();
        let declared = &read.declared;
        assert_eq!(declared.orientation, Some(Orientation::Reversed));
        let strength = declared.strengths.values().next().unwrap();
        assert_eq!(strength.default.to_bits(), 0.5_f32.to_bits());
        let again = stored(&chosen(&read, &options("fraud_deception")), Some(0.5));
        assert_eq!(again.vectors, generation.vectors);
        assert_eq!(again.manifest.norms, generation.manifest.norms);
        assert_eq!(again.manifest.orientation, Orientation::Reversed);
    }
    let error = exported(&generation, &[Category::parse("other").unwrap()], (FileFormat::Npz, "x"));
    assert!(error.unwrap_err().to_string().contains("it has fraud_deception"));
    let both = [category.clone(), category];
    let error = exported(&generation, &both, (FileFormat::Gguf, "x")).unwrap_err().to_string();
    assert!(error.contains("the format holds one vector"), "{error}");
}

#[test]
fn a_choice_agrees_with_the_file_or_is_refused() {
    let control = file(&["direction"], &[1, 2], HIDDEN_SIZE);
    let refused =
        |file: &VectorFile, options: &ImportOptions| file.choose(options).unwrap_err().to_string();
    let at = |site| ImportOptions { site: Some(site), ..options("fraud_deception") };
    let error = refused(&control, &at(Site::AttnOut));
    assert!(error.contains("act at `resid_post`, and `attn_out` was asked for"), "{error}");
    assert_eq!(chosen(&control, &at(Site::ResidPost)).site(), Site::ResidPost);

    let mut bare = file(&["honesty"], &[1, 2], HIDDEN_SIZE);
    bare.declared = Declared::default();
    bare.vectors.get_mut("honesty").unwrap().layers = None;
    let named = |options| ImportOptions { name: Some("honesty".to_owned()), ..options };
    let error = refused(&bare, &options("fraud_deception"));
    assert!(error.contains("among them honesty"), "{error}");
    let error = refused(&bare, &named(at(Site::AttnOut)));
    assert!(error.contains("on which layers its 2 rows act"), "{error}");
    let layered =
        |layers: &[usize], site| ImportOptions { layers: Some(layers.to_vec()), ..named(at(site)) };
    let error = refused(&bare, &layered(&[1], Site::AttnOut));
    assert!(error.contains("layers [1] for 2 rows"), "{error}");
    let unsited = ImportOptions { site: None, ..layered(&[0, 2], Site::AttnOut) };
    assert!(refused(&bare, &unsited).contains("does not say where its vectors act"));
    let taken = chosen(&bare, &layered(&[0, 2], Site::AttnOut));
    assert_eq!((taken.site(), taken.layers()), (Site::AttnOut, &[0, 2][..]));
    // Where the file says which, some are taken.
    let some = ImportOptions { layers: Some(vec![2]), ..options("fraud_deception") };
    let generation = stored(&chosen(&control, &some), None);
    let rows = generation.vectors.values().next().unwrap();
    assert_eq!(bits(&rows.values), bits(&values(&[2], HIDDEN_SIZE)));
    let other = ImportOptions { layers: Some(vec![5]), ..options("fraud_deception") };
    assert!(refused(&control, &other).contains("no row for layer 5"));
}

#[test]
fn a_vector_that_is_turned_round_says_so() {
    let mut file = file(&["direction"], &[1], HIDDEN_SIZE);
    let turned = ImportOptions { negate: true, ..options("fraud_deception") };
    let negated: Vec<f32> = values(&[1], HIDDEN_SIZE).iter().map(|value| -value).collect();
    for (declared, expected) in [
        (Some(Orientation::Reversed), Orientation::SafeMinusUnsafe),
        (Some(Orientation::SafeMinusUnsafe), Orientation::Reversed),
        (None, Orientation::SafeMinusUnsafe),
    ] {
        file.declared.orientation = declared;
        let generation = stored(&chosen(&file, &turned), None);
        assert_eq!(generation.manifest.orientation, expected);
        let rows = generation.vectors.values().next().unwrap();
        assert_eq!(bits(&rows.values), bits(&negated));
        assert!(generation.card.contains("turned round"), "{}", generation.card);
    }
}

#[test]
fn a_vector_of_another_model_is_refused() {
    let fits = |file: &VectorFile| {
        let imported = chosen(file, &options("fraud_deception"));
        activation_norms(&model(), &imported, &mut NoProgress).map(|_| ())
    };
    let error = fits(&file(&["direction"], &[1], 8)).unwrap_err().to_string();
    assert!(error.contains("8 values, the model's hidden size is 64"), "{error}");
    let error = fits(&file(&["direction"], &[1, 3], HIDDEN_SIZE)).unwrap_err().to_string();
    assert!(error.contains("layer 3, and the model has layers 0 to 2"), "{error}");
    let mut other = file(&["direction"], &[1], HIDDEN_SIZE);
    other.declared.architecture_id = Some("c".repeat(64));
    let error = fits(&other).unwrap_err().to_string();
    assert!(error.contains("is for architecture cccccccccccccccc"), "{error}");
}
