//! Sizes of the engine: as given, and as chosen for the device that the model was loaded on.

use skeg_model::engine::EngineConfig;
use skeg_model::{DeviceChoice, KvCacheDtype, Llama};

use super::{ConfigError, RawConfig, at_least, positive};

/// On two cores twice the tokens a second of 8, and the first ones sooner (docs/performance.md); as many sequences of
/// 1,024 tokens as the cache has places for.
const MAX_NUM_SEQS_ON_THE_CPU: usize = 32;
/// Four full contexts of the default model.
const KV_CACHE_TOKENS_ON_THE_CPU: usize = 32768;
/// Requests that wait for each one that runs: about half a minute of work on a small machine.
const DEFAULT_QUEUE_DEPTH: usize = 4;
/// Below a thousandth of the time (docs/guide.md).
const DEFAULT_PROJECTION_SAMPLE_INTERVAL: usize = 64;

/// Sizes of the engine, all at least 1, its one switch, and how often its steering is measured. A size that is `None` is chosen
/// when the model was loaded ([`EngineSizes::on`]): none is where it cannot be on a GPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineSizes {
    pub(super) max_num_seqs: Option<usize>,
    pub(super) max_admitted_seqs: Option<usize>,
    pub(super) max_num_batched_tokens: Option<usize>,
    pub(super) kv_cache_tokens: Option<usize>,
    /// `None`: the model's context.
    pub(super) max_model_len: Option<usize>,
    pub(crate) kv_cache_dtype: KvCacheDtype,
    pub(crate) enable_prefix_caching: bool,
    /// In steps that steer; 0 = never.
    pub(crate) projection_sample_interval: usize,
}

/// Sizes for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChosenSizes {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_admitted_seqs: usize,
    max_num_batched_tokens: usize,
    /// `None`: as many as its memory has room for.
    kv_cache_tokens: Option<usize>,
    max_model_len: Option<usize>,
}

/// Where a model runs, as far as sizes depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Cpu,
    Gpu,
}

impl EngineSizes {
    /// The settings, checked for where the model may come to run.
    pub(super) fn from_raw(raw: &RawConfig, device: DeviceChoice) -> Result<Self, ConfigError> {
        let invalid = |error: skeg_model::Error| ConfigError::Invalid {
            setting: "kv_cache_dtype",
            reason: error.to_string(),
        };
        let kv_cache_dtype = raw.kv_cache_dtype.as_deref().map(str::parse).transpose();
        let given = Self {
            max_num_seqs: raw.max_num_seqs,
            max_admitted_seqs: raw.max_admitted_seqs,
            max_num_batched_tokens: raw.max_num_batched_tokens,
            kv_cache_tokens: raw.kv_cache_tokens,
            max_model_len: raw.max_model_len,
            kv_cache_dtype: kv_cache_dtype.map_err(invalid)?.unwrap_or_default(),
            enable_prefix_caching: !raw.no_prefix_caching.unwrap_or(false),
            projection_sample_interval: raw
                .projection_sample_interval
                .unwrap_or(DEFAULT_PROJECTION_SAMPLE_INTERVAL),
        };
        let may_be_on_a_gpu = match device {
            DeviceChoice::Cpu => false,
            DeviceChoice::Auto => cfg!(feature = "cuda"),
            DeviceChoice::Cuda(_) => true,
        };
        if may_be_on_a_gpu {
            given.at(Place::Gpu)?;
            return Ok(given);
        }
        let chosen = given.at(Place::Cpu)?;
        Ok(Self {
            max_num_seqs: Some(chosen.max_num_seqs),
            max_admitted_seqs: Some(chosen.max_admitted_seqs),
            max_num_batched_tokens: Some(chosen.max_num_batched_tokens),
            kv_cache_tokens: chosen.kv_cache_tokens,
            ..given
        })
    }

    /// The sizes that may be left to the device, by the names of their settings.
    pub(super) fn by_name(&self) -> [(&'static str, Option<usize>); 4] {
        [
            ("max_num_seqs", self.max_num_seqs),
            ("max_admitted_seqs", self.max_admitted_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("kv_cache_tokens", self.kv_cache_tokens),
        ]
    }

    /// Sizes for where a model was loaded: what was given, else what suits its device.
    pub(crate) fn on(&self, llama: &Llama) -> Result<ChosenSizes, ConfigError> {
        self.at(if llama.device().is_cpu() { Place::Cpu } else { Place::Gpu })
    }

    fn at(&self, place: Place) -> Result<ChosenSizes, ConfigError> {
        let (default_seqs, default_rows) = match place {
            Place::Cpu => (MAX_NUM_SEQS_ON_THE_CPU, EngineConfig::default().max_num_batched_tokens),
            Place::Gpu => {
                let EngineConfig { max_num_seqs, max_num_batched_tokens, .. } =
                    EngineConfig::on_gpu();
                (max_num_seqs, max_num_batched_tokens)
            }
        };
        let max_num_seqs = positive("max_num_seqs", self.max_num_seqs, default_seqs)?;
        let default_tokens = match place {
            Place::Cpu => Some(KV_CACHE_TOKENS_ON_THE_CPU.max(self.max_model_len.unwrap_or(0))),
            Place::Gpu => None,
        };
        let chosen = ChosenSizes {
            max_num_seqs,
            max_admitted_seqs: positive(
                "max_admitted_seqs",
                self.max_admitted_seqs,
                max_num_seqs.saturating_mul(DEFAULT_QUEUE_DEPTH),
            )?,
            max_num_batched_tokens: positive(
                "max_num_batched_tokens",
                self.max_num_batched_tokens,
                default_rows.max(max_num_seqs),
            )?,
            kv_cache_tokens: self
                .kv_cache_tokens
                .or(default_tokens)
                .map(|tokens| positive("kv_cache_tokens", Some(tokens), 1))
                .transpose()?,
            max_model_len: self
                .max_model_len
                .map(|tokens| positive("max_model_len", Some(tokens), 1))
                .transpose()?,
        };
        chosen.check()?;
        Ok(chosen)
    }
}

impl ChosenSizes {
    fn check(&self) -> Result<(), ConfigError> {
        let max_num_seqs = ("max_num_seqs", self.max_num_seqs);
        at_least(("max_num_batched_tokens", self.max_num_batched_tokens), max_num_seqs)?;
        at_least(("max_admitted_seqs", self.max_admitted_seqs), max_num_seqs)?;
        self.kv_cache_tokens.map_or(Ok(()), |tokens| {
            at_least(
                ("kv_cache_tokens", tokens),
                ("max_model_len", self.max_model_len.unwrap_or(1)),
            )
        })
    }

    /// The limits of an engine for that model: these sizes, a cache that fits where none was given, and `base` for everything else.
    ///
    /// # Errors
    /// As [`EngineConfig::with_fitting_cache`].
    pub(crate) fn over(
        &self,
        base: EngineConfig,
        llama: &Llama,
    ) -> skeg_model::Result<EngineConfig> {
        let config = EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_model_len: self.max_model_len,
            ..base
        };
        let config = match self.kv_cache_tokens {
            Some(kv_cache_tokens) => EngineConfig { kv_cache_tokens, ..config },
            None => config.with_fitting_cache(llama)?,
        };
        tracing::info!(
            max_num_seqs = config.max_num_seqs,
            max_admitted_seqs = self.max_admitted_seqs,
            max_num_batched_tokens = config.max_num_batched_tokens,
            kv_cache_tokens = config.kv_cache_tokens,
            "sizes of the engine"
        );
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(toml: &str, device: DeviceChoice) -> EngineSizes {
        EngineSizes::from_raw(&toml::from_str(toml).unwrap(), device).unwrap()
    }

    fn at(toml: &str, place: Place) -> [Option<usize>; 4] {
        let sizes = sizes(toml, DeviceChoice::Cuda(0)).at(place).unwrap();
        let ChosenSizes { max_num_seqs, max_admitted_seqs, max_num_batched_tokens, .. } = sizes;
        let tokens = sizes.kv_cache_tokens;
        [Some(max_num_seqs), Some(max_admitted_seqs), Some(max_num_batched_tokens), tokens]
    }

    #[test]
    fn what_is_not_set_comes_from_the_device_and_what_is_set_holds_on_both() {
        assert_eq!(at("", Place::Cpu), [Some(32), Some(128), Some(512), Some(32768)]);
        assert_eq!(at("", Place::Gpu), [Some(128), Some(512), Some(2048), None]);
        let set = "max_num_seqs = 600\nkv_cache_tokens = 64";
        assert_eq!(at(set, Place::Cpu), [Some(600), Some(2400), Some(600), Some(64)]);
        assert_eq!(at(set, Place::Gpu), [Some(600), Some(2400), Some(2048), Some(64)]);
        let set = "max_admitted_seqs = 300\nmax_num_batched_tokens = 256";
        assert_eq!(at(set, Place::Gpu), [Some(128), Some(300), Some(256), None]);
    }

    #[test]
    fn sizes_are_known_before_the_model_is_loaded_where_it_cannot_be_on_a_gpu() {
        let on_the_cpu = sizes("", DeviceChoice::Cpu);
        assert_eq!((on_the_cpu.max_num_seqs, on_the_cpu.kv_cache_tokens), (Some(32), Some(32768)));
        let on_a_gpu = sizes("max_num_seqs = 7", DeviceChoice::Cuda(1));
        assert_eq!((on_a_gpu.max_num_seqs, on_a_gpu.kv_cache_tokens), (Some(7), None));
        let auto = sizes("", DeviceChoice::Auto);
        assert_eq!(auto.max_num_seqs.is_none(), cfg!(feature = "cuda"));
    }

    #[test]
    fn sizes_that_do_not_fit_a_gpus_are_refused_before_the_model_is_loaded() {
        let raw = toml::from_str("max_num_batched_tokens = 64").unwrap();
        let said = EngineSizes::from_raw(&raw, DeviceChoice::Cuda(0)).unwrap_err().to_string();
        assert!(said.contains("`max_num_seqs`, which is 128"), "{said}");
    }
}
