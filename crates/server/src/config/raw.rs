//! Settings as given: each may be absent. One struct is flags, environment and file at once, so that a
//! setting has one name: `--max-num-seqs`, `SKEG_MAX_NUM_SEQS`, `max_num_seqs`.
//!
//! clap reads flags and environment (in this order); [`RawConfig::over`] lays them over the file. Defaults
//! and checks are [`super::Config`]'s.

use std::path::PathBuf;

use serde::Deserialize;
use skeg_model::DeviceChoice;

use super::{RawAdmin, RawClassifier};

/// Every setting of `skeg serve`, and the keys of `skeg.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    /// Model: a catalogue name, a .gguf file or a Hugging Face folder [default: smollm2-135m-instruct]
    #[arg(long, env = "SKEG_MODEL", value_name = "NAME|PATH", help_heading = "Model")]
    pub(crate) model: Option<String>,
    /// Where the model runs: auto, cpu, cuda or cuda:N; auto is a GPU where this build has CUDA and there is one, else the
    /// CPU [default: auto]
    #[arg(long, env = "SKEG_DEVICE", help_heading = "Model")]
    pub(crate) device: Option<String>,
    /// Weights in memory: `as-stored`, or `f32` (dequantised; slower, more memory) [default: as-stored]
    #[arg(long, env = "SKEG_WEIGHTS", value_name = "FORM", help_heading = "Model")]
    pub(crate) weights: Option<String>,
    /// Instructions of the CPU kernels: portable, avx2 or avx512; all give the same bits [default: the fastest
    /// this processor has]
    #[arg(long, env = "SKEG_CPU_KERNELS", value_name = "LEVEL", help_heading = "Model")]
    pub(crate) cpu_kernels: Option<String>,
    /// Threads of a forward pass on the CPU [default: the processors this process may use]
    #[arg(long, env = "SKEG_THREADS", value_name = "NUM", help_heading = "Model")]
    pub(crate) threads: Option<usize>,
    /// On a GPU, give each row the same bits in any company: answers do not depend on other requests to the last bit, and prompts
    /// take longer; not with a GGUF's blocks, unless --weights is f32. On the CPU it is always so, and this changes nothing
    #[arg(
        long,
        env = "SKEG_BATCH_INVARIANT",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Model"
    )]
    pub(crate) batch_invariant: Option<bool>,
    /// On a GPU, start the operations of each step one by one instead of replaying them as a CUDA graph
    #[arg(
        long,
        env = "SKEG_NO_CUDA_GRAPHS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Model"
    )]
    pub(crate) no_cuda_graphs: Option<bool>,
    /// On a GPU of compute capability 9.0 or more, begin each kernel while the one before it ends: shorter steps. Off, since it was not
    /// tried on a GPU yet
    #[arg(
        long,
        env = "SKEG_PROGRAMMATIC_LAUNCHES",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Model"
    )]
    pub(crate) programmatic_launches: Option<bool>,
    /// GPUs of this host that the model is split over, from the one that --device names on; needs a build with NCCL [default: 1]
    #[arg(long, env = "SKEG_TENSOR_PARALLEL", value_name = "NUM", help_heading = "Model")]
    pub(crate) tensor_parallel: Option<usize>,
    /// Folder for fetched models [default: the platform's cache folder]
    #[arg(long, env = "SKEG_CACHE_DIR", value_name = "DIR", help_heading = "Model")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Vector store: a folder, or a place to follow into a copy: s3://, gs://, az:// or file:/// [default: vectors/MODEL here,
    /// then beside the program]
    #[arg(long, env = "SKEG_VECTORS", value_name = "DIR|PLACE", help_heading = "Steering")]
    pub(crate) vectors: Option<PathBuf>,
    /// Folder of the copy of a place that is followed; this server alone writes to it [default: by the place, in the cache
    /// folder]
    #[arg(long, env = "SKEG_VECTORS_COPY", value_name = "DIR", help_heading = "Steering")]
    pub(crate) vectors_copy: Option<PathBuf>,
    /// Mean time between two looks at a place that is followed, in seconds [default: 2]
    #[arg(
        long,
        env = "SKEG_VECTORS_POLL_INTERVAL",
        value_name = "SECONDS",
        help_heading = "Steering"
    )]
    pub(crate) vectors_poll_interval: Option<u64>,
    /// Let generations go live without answering a few prompts first
    #[arg(
        long,
        env = "SKEG_NO_CANARY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Steering"
    )]
    pub(crate) no_canary: Option<bool>,
    /// Public keys, as base64 or name:base64; only generations that one of them signed are served [default: none, signatures are not
    /// asked for]
    #[arg(
        long,
        env = "SKEG_TRUSTED_KEYS",
        value_name = "KEY",
        value_delimiter = ',',
        help_heading = "Steering"
    )]
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) trusted_keys: Option<Vec<String>>,
    /// Append one JSON line a request (who, category, generation, tokens steered; no content) to this file
    #[arg(long, env = "SKEG_DECISION_LOG", value_name = "FILE", help_heading = "Steering")]
    pub(crate) decision_log: Option<PathBuf>,

    /// Address to listen on; outside loopback at least one principal must be configured [default:
    /// 127.0.0.1]
    #[arg(long, env = "SKEG_HOST", value_name = "IP", help_heading = "Listening")]
    pub(crate) host: Option<String>,
    /// Port to listen on; 0 lets the system choose [default: 8080]
    #[arg(long, env = "SKEG_PORT", help_heading = "Listening")]
    pub(crate) port: Option<u16>,
    /// Name of the model in the API; the first is the main one, others are aliases [default: from --model]
    #[arg(
        long,
        env = "SKEG_SERVED_MODEL_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Listening"
    )]
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) served_model_name: Option<Vec<String>>,
    /// Largest request body, in bytes [default: 2097152]
    #[arg(long, env = "SKEG_MAX_BODY_BYTES", value_name = "BYTES", help_heading = "Listening")]
    pub(crate) max_body_bytes: Option<usize>,
    /// How long a request's body may take to come, in seconds [default: 30]
    #[arg(
        long,
        env = "SKEG_BODY_READ_TIMEOUT",
        value_name = "SECONDS",
        help_heading = "Listening"
    )]
    pub(crate) body_read_timeout: Option<u64>,
    /// How long a request's head may take to come, and a connection be idle, in seconds [default: 10]
    #[arg(
        long,
        env = "SKEG_HEADER_READ_TIMEOUT",
        value_name = "SECONDS",
        help_heading = "Listening"
    )]
    pub(crate) header_read_timeout: Option<u64>,
    /// How long a client may take nothing of what it is sent, in seconds [default: 60]
    #[arg(long, env = "SKEG_WRITE_TIMEOUT", value_name = "SECONDS", help_heading = "Listening")]
    pub(crate) write_timeout: Option<u64>,
    /// Connections open at once; more wait to be accepted [default: 1024]
    #[arg(long, env = "SKEG_MAX_CONNECTIONS", value_name = "NUM", help_heading = "Listening")]
    pub(crate) max_connections: Option<usize>,
    /// How long running answers may take to end after SIGTERM, in seconds [default: 30]
    #[arg(long, env = "SKEG_GRACE_PERIOD", value_name = "SECONDS", help_heading = "Listening")]
    pub(crate) grace_period: Option<u64>,

    /// Sequences that run in one batch [default: 32; on a GPU 128]
    #[arg(long, env = "SKEG_MAX_NUM_SEQS", value_name = "NUM", help_heading = "Engine")]
    pub(crate) max_num_seqs: Option<usize>,
    /// Sequences queued and running; beyond this a request gets 429 [default: 4 x max-num-seqs]
    #[arg(long, env = "SKEG_MAX_ADMITTED_SEQS", value_name = "NUM", help_heading = "Engine")]
    pub(crate) max_admitted_seqs: Option<usize>,
    /// Tokens in one forward pass, prompts and answers together [default: 512; on a GPU 2048]
    #[arg(
        long,
        env = "SKEG_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        help_heading = "Engine"
    )]
    pub(crate) max_num_batched_tokens: Option<usize>,
    /// Places in the KV cache, shared by all sequences [default: 32768; on a GPU as many as its memory has room for]
    #[arg(long, env = "SKEG_KV_CACHE_TOKENS", value_name = "TOKENS", help_heading = "Engine")]
    pub(crate) kv_cache_tokens: Option<usize>,
    /// Type of cached keys and values: f16, or f32 (twice the memory) [default: f16]
    #[arg(long, env = "SKEG_KV_CACHE_DTYPE", value_name = "DTYPE", help_heading = "Engine")]
    pub(crate) kv_cache_dtype: Option<String>,
    /// Do not keep prompts' keys and values for requests that begin alike; answers are the same either way
    #[arg(
        long,
        env = "SKEG_NO_PREFIX_CACHING",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Engine"
    )]
    pub(crate) no_prefix_caching: Option<bool>,
    /// Longest prompt and answer together [default: the model's context]
    #[arg(long, env = "SKEG_MAX_MODEL_LEN", value_name = "TOKENS", help_heading = "Engine")]
    pub(crate) max_model_len: Option<usize>,
    /// Every how many steps that steer the live probe measures whether a row moved as planned; 0 = never [default: 64]
    #[arg(
        long,
        env = "SKEG_PROJECTION_SAMPLE_INTERVAL",
        value_name = "STEPS",
        help_heading = "Engine"
    )]
    pub(crate) projection_sample_interval: Option<usize>,

    /// Log form on standard error: text or json [default: text]
    #[arg(long, env = "SKEG_LOG_FORMAT", value_name = "FORM", help_heading = "Logging")]
    pub(crate) log_format: Option<String>,
    /// Log level, or a filter such as `info,skeg_server=debug` [default: info]
    #[arg(long, env = "SKEG_LOG_LEVEL", value_name = "FILTER", help_heading = "Logging")]
    pub(crate) log_level: Option<String>,

    #[command(flatten)]
    #[serde(default)]
    pub(crate) classifier: RawClassifier,

    #[command(flatten)]
    #[serde(default)]
    pub(crate) admin: RawAdmin,

    /// Callers; in the file alone, since keys do not belong on a command line.
    #[arg(skip)]
    #[serde(default)]
    pub(crate) principal: Vec<RawPrincipal>,
}

/// One `[[principal]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPrincipal {
    pub(crate) name: String,
    pub(crate) key_sha256: String,
    pub(crate) group: String,
}

impl RawConfig {
    /// What lies below everything else where a model answers or its speed is measured.
    pub(crate) fn serving_defaults() -> Self {
        Self { device: Some(DeviceChoice::Auto.to_string()), ..Self::default() }
    }

    /// What is set here, and below that what `lower` sets.
    pub(crate) fn over(self, lower: Self) -> Self {
        Self {
            model: self.model.or(lower.model),
            device: self.device.or(lower.device),
            weights: self.weights.or(lower.weights),
            cpu_kernels: self.cpu_kernels.or(lower.cpu_kernels),
            threads: self.threads.or(lower.threads),
            batch_invariant: self.batch_invariant.or(lower.batch_invariant),
            no_cuda_graphs: self.no_cuda_graphs.or(lower.no_cuda_graphs),
            programmatic_launches: self.programmatic_launches.or(lower.programmatic_launches),
            tensor_parallel: self.tensor_parallel.or(lower.tensor_parallel),
            cache_dir: self.cache_dir.or(lower.cache_dir),
            vectors: self.vectors.or(lower.vectors),
            vectors_copy: self.vectors_copy.or(lower.vectors_copy),
            vectors_poll_interval: self.vectors_poll_interval.or(lower.vectors_poll_interval),
            no_canary: self.no_canary.or(lower.no_canary),
            trusted_keys: self.trusted_keys.or(lower.trusted_keys),
            decision_log: self.decision_log.or(lower.decision_log),
            host: self.host.or(lower.host),
            port: self.port.or(lower.port),
            served_model_name: self.served_model_name.or(lower.served_model_name),
            max_body_bytes: self.max_body_bytes.or(lower.max_body_bytes),
            body_read_timeout: self.body_read_timeout.or(lower.body_read_timeout),
            header_read_timeout: self.header_read_timeout.or(lower.header_read_timeout),
            write_timeout: self.write_timeout.or(lower.write_timeout),
            max_connections: self.max_connections.or(lower.max_connections),
            grace_period: self.grace_period.or(lower.grace_period),
            max_num_seqs: self.max_num_seqs.or(lower.max_num_seqs),
            max_admitted_seqs: self.max_admitted_seqs.or(lower.max_admitted_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.or(lower.max_num_batched_tokens),
            kv_cache_tokens: self.kv_cache_tokens.or(lower.kv_cache_tokens),
            kv_cache_dtype: self.kv_cache_dtype.or(lower.kv_cache_dtype),
            no_prefix_caching: self.no_prefix_caching.or(lower.no_prefix_caching),
            max_model_len: self.max_model_len.or(lower.max_model_len),
            projection_sample_interval: self
                .projection_sample_interval
                .or(lower.projection_sample_interval),
            log_format: self.log_format.or(lower.log_format),
            log_level: self.log_level.or(lower.log_level),
            classifier: self.classifier.over(lower.classifier),
            admin: self.admin.over(lower.admin),
            principal: if self.principal.is_empty() { lower.principal } else { self.principal },
        }
    }
}

/// `served_model_name = "a"` as well as `["a", "b"]`.
fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or an array of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    }))
}
