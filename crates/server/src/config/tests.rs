//! Defaults, checks, layers and redaction.

use skeg_model::{DeviceChoice, GpuOptions};

use super::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn raw(toml: &str) -> RawConfig {
    toml::from_str(toml).unwrap()
}

fn config(toml: &str) -> Config {
    Config::try_from(raw(toml)).unwrap()
}

fn refused(toml: &str) -> String {
    Config::try_from(raw(toml)).unwrap_err().to_string()
}

fn principal(name: &str, key: &str) -> String {
    format!("[[principal]]\nname = \"{name}\"\nkey_sha256 = \"{key}\"\ngroup = \"staff\"\n")
}

#[test]
fn nothing_set_means_the_default_model_on_loopback() {
    let config = config("");
    assert_eq!(config.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.served_model_names, ["smollm2-135m-instruct"]);
    assert_eq!(config.engine.max_num_seqs, Some(32));
    assert_eq!(config.engine.max_admitted_seqs, Some(128));
    assert!(config.principals.is_empty());
}

#[test]
fn what_lies_above_hides_what_lies_below_setting_by_setting() {
    let above = raw("port = 1\nmax_num_seqs = 3");
    let below = raw("port = 2\nhost = \"::1\"\nlog_level = \"debug\"");
    let config = Config::try_from(above.over(below)).unwrap();
    assert_eq!(config.address.to_string(), "[::1]:1");
    assert_eq!(config.engine.max_num_seqs, Some(3));
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn an_open_address_needs_principals() {
    assert!(refused("host = \"0.0.0.0\"").contains("[[principal]]"));
    assert!(refused("host = \"::\"").contains("[[principal]]"));
    let config = config(&format!("host = \"0.0.0.0\"\n{}", principal("ann", KEY)));
    assert_eq!(config.principals[0].key_sha256[1], 0x11);
    assert!(refused("host = \"example.org\"").contains("no IP address"));
}

#[test]
fn principals_must_differ_and_have_a_hash() {
    let twice = principal("ann", KEY) + &principal("ann", &KEY.replace("00", "01"));
    assert!(refused(&twice).contains("names must differ"));
    let same_key = principal("ann", KEY) + &principal("bob", KEY);
    assert!(refused(&same_key).contains("keys must differ"));
    let message = refused(&principal("ann", "sk-secret"));
    assert!(message.contains("64 hex digits") && !message.contains("sk-secret"), "{message}");
}

#[test]
fn the_shown_configuration_holds_no_key() {
    let shown = config(&principal("ann", KEY)).to_string();
    assert!(shown.contains("name = \"ann\"") && shown.contains("<redacted>"), "{shown}");
    assert!(!shown.contains(&KEY[..8]), "{shown}");
}

#[test]
fn the_shown_configuration_can_be_read_again() {
    let text = "port = 0\nserved_model_name = [\"a\", \"b\"]\nmax_model_len = 64\nno_prefix_caching = true";
    let shown = config(text).to_string();
    let again = config(&shown);
    assert_eq!(again.to_string(), shown);
    assert_eq!(again.served_model_names, ["a", "b"]);
    assert!(!again.engine.enable_prefix_caching && config("").engine.enable_prefix_caching);
}

#[test]
fn the_live_probe_can_be_set_and_turned_off() {
    assert_eq!(config("").engine.projection_sample_interval, 64);
    for interval in [0, 7] {
        let set = format!("projection_sample_interval = {interval}\n");
        let shown = config(&set).to_string();
        assert!(shown.contains(&set), "{shown}");
        assert_eq!(config(&shown).engine.projection_sample_interval, interval);
        let above = raw(&set).over(raw("projection_sample_interval = 9"));
        assert_eq!(above.projection_sample_interval, Some(interval));
    }
}

#[test]
fn sizes_that_a_gpu_decides_are_shown_as_such_and_can_be_read_again() {
    let shown = config("device = \"cuda\"\nmax_num_seqs = 7").to_string();
    assert!(shown.contains("max_num_seqs = 7\n# max_admitted_seqs: chosen"), "{shown}");
    assert!(shown.contains("# kv_cache_tokens: chosen"), "{shown}");
    assert_eq!(config(&shown).to_string(), shown);
    assert!(!config("device = \"cpu\"").to_string().contains("chosen"));
}

#[test]
fn the_number_of_gpus_can_be_set_and_is_not_0() {
    assert!(!config("").to_string().contains("tensor_parallel"));
    let shown = config("tensor_parallel = 4").to_string();
    assert_eq!(config(&shown).model.load_options().tensor_parallel.get(), 4);
    let error = Config::try_from(raw("tensor_parallel = 0")).unwrap_err().to_string();
    assert!(error.contains("tensor_parallel") && error.contains("at least 1"), "{error}");
}

#[test]
fn how_a_gpu_is_used_can_be_set_and_lies_over_the_file() {
    let options = |config: &Config| config.model.load_options().gpu;
    assert_eq!(options(&config("")), GpuOptions::default());
    assert!(!config("").to_string().contains("cuda_graphs"));
    for is_on in [true, false] {
        let shown = config(&format!("programmatic_launches = {is_on}")).to_string();
        assert_eq!(options(&config(&shown)).programmatic_launches, is_on);
    }
    let set = GpuOptions { batch_invariant: true, cuda_graphs: false, ..GpuOptions::default() };
    let shown = config("batch_invariant = true\nno_cuda_graphs = true").to_string();
    assert_eq!(options(&config(&shown)), set);
    let above = raw("batch_invariant = false").over(raw(&shown));
    let expected = GpuOptions { batch_invariant: false, ..set };
    assert_eq!(options(&Config::try_from(above).unwrap()), expected);
}

#[test]
fn sizes_must_fit_each_other() {
    assert!(refused("max_num_seqs = 0").contains("`max_num_seqs`"));
    assert!(
        refused("max_num_seqs = 4\nmax_num_batched_tokens = 3").contains("at least `max_num_seqs`")
    );
    assert!(refused("max_model_len = 100\nkv_cache_tokens = 99").contains("`kv_cache_tokens`"));
    assert_eq!(config("max_model_len = 100000").engine.kv_cache_tokens, Some(100_000));
}

#[test]
fn slow_clients_have_bounds_that_can_be_set() {
    let default = config("");
    assert_eq!(default.connections, ConnectionLimits::default());
    assert_eq!(default.limits, Limits::default());
    let set =
        "body_read_timeout = 2\nheader_read_timeout = 3\nwrite_timeout = 5\nmax_connections = 4";
    let shown = config(set).to_string();
    assert!(shown.contains(set), "{shown}");
    let set = config(&shown);
    assert_eq!(set.limits.body_read_timeout, Duration::from_secs(2));
    let expected = ConnectionLimits {
        header_read_timeout: Duration::from_secs(3),
        write_timeout: Duration::from_secs(5),
        max_connections: 4,
    };
    assert_eq!(set.connections, expected);
    for setting in ["body_read_timeout", "header_read_timeout", "write_timeout", "max_connections"]
    {
        assert!(refused(&format!("{setting} = 0")).contains(&format!("`{setting}`")));
    }
    assert!(refused("header_read_timeout = 86401").contains("86400"));
}

#[test]
fn trusted_keys_are_checked_and_shown() {
    // RFC 8032's test 1.
    let key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    assert!(config("").trusted_keys.is_empty() && !config("").to_string().contains("trusted"));
    for entry in [key.to_owned(), format!("ops-2026:{key}")] {
        for list in [format!("\"{entry}\""), format!("[\"{entry}\"]")] {
            let config = config(&format!("trusted_keys = {list}"));
            let line = format!("trusted_keys = [\"{entry}\"]\n");
            assert!(config.to_string().contains(&line), "{config}");
            assert_eq!(self::config(&line).trusted_keys, config.trusted_keys);
        }
    }
    // What is given above hides what is below, and cannot widen it by mistake.
    let above = raw(&format!("trusted_keys = \"{key}\""));
    let below = raw("trusted_keys = \"nothing\"");
    assert_eq!(Config::try_from(above.over(below)).unwrap().trusted_keys.entries(), [key]);
    for wrong in ["", "ops:", "hunter2"] {
        let message = refused(&format!("trusted_keys = [\"{key}\", \"{wrong}\"]"));
        assert!(message.contains("setting `trusted_keys`: key 2: found "), "{message}");
        assert!(
            message.contains("skeg vectors keygen") && !message.contains("hunter2"),
            "{message}"
        );
    }
}

/// `[admin]` with an address, an audit log and one key.
fn admin(address: &str, key: &str) -> String {
    format!(
        "[admin]\naddress = \"{address}\"\naudit_log = \"audit.jsonl\"\n\
         keys = [{{ name = \"ops\", sha256 = \"{key}\" }}]\n"
    )
}

#[test]
fn administration_is_off_unless_it_has_an_address() {
    assert_eq!(config("").admin.address, None);
    let only_audited = config("[admin]\naudit_log = \"audit.jsonl\"").admin;
    assert!(only_audited.address.is_none() && only_audited.audit_log.is_some());
    for (text, expected) in [
        ("127.0.0.1:9", "127.0.0.1:9"),
        ("9", "127.0.0.1:9"),
        ("localhost", "127.0.0.1:8081"),
        ("localhost:0", "127.0.0.1:0"),
        ("10.0.0.1", "10.0.0.1:8081"),
        ("::1", "[::1]:8081"),
        ("[::1]:9", "[::1]:9"),
    ] {
        let found = config(&admin(text, KEY)).admin.address.map(|address| address.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{text}");
    }
    assert!(refused(&admin("example.org:1", KEY)).contains("`admin.address`"));
}

#[test]
fn administration_needs_keys_of_its_own_and_an_audit_log() {
    assert!(refused("[admin]\naddress = \"9\"\naudit_log = \"a\"").contains("needs keys"));
    let without_log = admin("9", KEY).replace("audit_log = \"audit.jsonl\"\n", "");
    assert!(refused(&without_log).contains("`admin.audit_log`"));
    let message = refused(&admin("9", "sk-secret"));
    assert!(message.contains("`sha256` is not 64") && !message.contains("sk-secret"), "{message}");
    let shared = principal("ann", KEY) + &admin("9", KEY);
    assert!(refused(&shared).contains("must not administer"));
    let second =
        format!("[[admin.keys]]\nname = \"next\"\nsha256 = \"{}\"\n", KEY.replace("00", "01"));
    let first = format!("[[admin.keys]]\nname = \"ops\"\nsha256 = \"{KEY}\"\n");
    let rotating = config(&format!("[admin]\naddress = \"9\"\naudit_log = \"a\"\n{first}{second}"));
    assert_eq!(rotating.admin.keys.len(), 2);
    assert!(refused("[admin]\nupload_root = \"no-such-folder\"").contains("`admin.upload_root`"));
    assert!(refused("[admin]\nmax_upload_bytes = 0").contains("`admin.max_upload_bytes`"));
    assert!(refused("[admin]\nmax_changes_per_minute = 0").contains("max_changes_per_minute"));
}

#[test]
fn flags_of_administration_lie_over_the_file() {
    let below = raw(&(admin("9", KEY) + "max_upload_bytes = 7\nmax_changes_per_minute = 8\n"));
    let above = raw("[admin]\naddress = \"10\"\nmax_upload_bytes = 70\n");
    let config = Config::try_from(above.over(below)).unwrap();
    let admin = &config.admin;
    assert_eq!(admin.address.unwrap().port(), 10);
    assert_eq!((admin.limits.max_upload_bytes, admin.limits.max_changes_per_minute), (70, 8));
    assert_eq!(admin.keys[0].name, "ops");
    let shown = config.to_string();
    assert!(shown.contains("[admin]\naddress = \"127.0.0.1:10\""), "{shown}");
    assert!(shown.contains("<redacted>") && !shown.contains(&KEY[..8]), "{shown}");
}

#[test]
fn models_that_serve_may_take_a_gpu_and_all_others_stay_on_the_cpu_unless_a_device_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let loaded = |given: &str| {
        let path = Some(file.path());
        [Config::load(raw(given), path), Config::load_serving(raw(given), path)]
            .map(|config| config.unwrap().model.load_options().device)
    };
    assert_eq!(loaded(""), [DeviceChoice::Cpu, DeviceChoice::Auto]);
    assert_eq!(loaded("device = \"auto\""), [DeviceChoice::Auto; 2]);
    std::fs::write(file.path(), "device = \"cuda:1\"").unwrap();
    assert_eq!(loaded(""), [DeviceChoice::Cuda(1); 2]);
    assert_eq!(loaded("device = \"cpu\""), [DeviceChoice::Cpu; 2]);
}

#[test]
fn words_that_are_not_known_are_named() {
    let message = refused("device = \"tpu\"");
    assert!(message.contains("`tpu`") && message.contains("`auto`"), "{message}");
    assert!(refused("weights = \"q4\"").contains("`q4`"));
    assert!(refused("log_format = \"xml\"").contains("`xml`"));
    assert!(refused("log_level = \"skeg=loudly\"").contains("log_level"));
    let message = refused("model = \"owner/name\"");
    assert!(message.contains("smollm2-135m-instruct") && message.contains("skeg model fetch"));
}

#[test]
fn a_model_that_was_not_fetched_says_how_to_fetch_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&format!("cache_dir = {:?}", folder.path()));
    let message = config.model.path().unwrap_err().to_string();
    assert!(message.contains("skeg model fetch smollm2-135m-instruct"), "{message}");
}

#[test]
fn without_a_store_the_places_that_were_looked_at_are_named() {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    let config = config(&format!("model = {:?}", file.path()));
    let message = config.model.vectors_root().unwrap_err().to_string();
    assert!(message.contains("--vectors") && message.contains("share/skeg"), "{message}");
}
