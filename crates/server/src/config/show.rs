//! The configuration in the form of `skeg.toml`, with secrets left out.

use std::fmt;
use std::num::NonZeroUsize;

use skeg_model::GpuOptions;

use super::{AdminConfig, ClassifierConfig, Config, LogFormat, ModelConfig};

/// In place of anything that could be used to call the server.
const REDACTED: &str = "<redacted>";

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log_format = match self.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        text(f, "model", &self.model.source)?;
        text(f, "device", &self.model.device)?;
        text(f, "weights", &self.model.weights_name())?;
        processor(f, &self.model)?;
        text(f, "cache_dir", &self.model.cache_dir.display())?;
        if let Some(vectors) = self.model.named_vectors() {
            text(f, "vectors", &vectors.display())?;
        }
        if let Some(address) = self.model.vectors_address() {
            text(f, "vectors_copy", &self.model.copy_root(address).display())?;
            writeln!(f, "vectors_poll_interval = {}", self.model.poll_interval.as_secs())?;
        }
        writeln!(f, "no_canary = {}", !self.canary)?;
        if !self.trusted_keys.is_empty() {
            writeln!(f, "trusted_keys = {:?}", self.trusted_keys.entries())?;
        }
        if let Some(path) = &self.decision_log {
            text(f, "decision_log", &path.display())?;
        }
        text(f, "host", &self.address.ip())?;
        writeln!(f, "port = {}", self.address.port())?;
        writeln!(f, "served_model_name = {:?}", self.served_model_names)?;
        writeln!(f, "max_body_bytes = {}", self.limits.max_body_bytes)?;
        writeln!(f, "body_read_timeout = {}", self.limits.body_read_timeout.as_secs())?;
        writeln!(f, "header_read_timeout = {}", self.connections.header_read_timeout.as_secs())?;
        writeln!(f, "write_timeout = {}", self.connections.write_timeout.as_secs())?;
        writeln!(f, "max_connections = {}", self.connections.max_connections)?;
        writeln!(f, "grace_period = {}", self.grace_period.as_secs())?;
        for (name, size) in self.engine.by_name() {
            match size {
                Some(size) => writeln!(f, "{name} = {size}")?,
                None => writeln!(f, "# {name}: chosen for the device when the model is loaded")?,
            }
        }
        text(f, "kv_cache_dtype", &self.engine.kv_cache_dtype)?;
        writeln!(f, "no_prefix_caching = {}", !self.engine.enable_prefix_caching)?;
        if let Some(tokens) = self.engine.max_model_len {
            writeln!(f, "max_model_len = {tokens}")?;
        }
        let interval = self.engine.projection_sample_interval;
        writeln!(f, "projection_sample_interval = {interval}")?;
        text(f, "log_format", &log_format)?;
        text(f, "log_level", &self.log.filter)?;
        for principal in &self.principals {
            writeln!(f, "[[principal]]")?;
            text(f, "name", &principal.name)?;
            text(f, "key_sha256", &REDACTED)?;
            text(f, "group", &principal.group)?;
        }
        classifier(f, &self.classifier)?;
        admin(f, &self.admin)
    }
}

fn processor(f: &mut fmt::Formatter<'_>, model: &ModelConfig) -> fmt::Result {
    if let Some(kernels) = model.cpu.kernels {
        text(f, "cpu_kernels", &kernels)?;
    }
    if let Some(threads) = model.cpu.num_threads {
        writeln!(f, "threads = {threads}")?;
    }
    if model.gpu.batch_invariant {
        writeln!(f, "batch_invariant = true")?;
    }
    if !model.gpu.cuda_graphs {
        writeln!(f, "no_cuda_graphs = true")?;
    }
    if model.gpu.programmatic_launches != GpuOptions::default().programmatic_launches {
        writeln!(f, "programmatic_launches = {}", model.gpu.programmatic_launches)?;
    }
    if model.tensor_parallel != NonZeroUsize::MIN {
        writeln!(f, "tensor_parallel = {}", model.tensor_parallel)?;
    }
    Ok(())
}

fn classifier(f: &mut fmt::Formatter<'_>, classifier: &ClassifierConfig) -> fmt::Result {
    writeln!(f, "[classifier]")?;
    text(f, "kind", &classifier.kind_name())?;
    let ClassifierConfig::Http(http) = classifier else { return Ok(()) };
    text(f, "url", &http.url)?;
    text(f, "shape", &http.shape_name())?;
    text(f, "model", &http.model)?;
    if http.key_env.is_some() {
        // It may be the key itself, by mistake.
        text(f, "key_env", &REDACTED)?;
    }
    writeln!(f, "timeout_ms = {}", http.timeout.as_millis())?;
    writeln!(f, "max_concurrent = {}", http.max_concurrent)?;
    text(f, "on_failure", &http.on_failure.as_str())?;
    if !http.categories.is_empty() {
        writeln!(f, "[classifier.categories]")?;
        for (name, category) in &http.categories {
            text(f, &format!("{name:?}"), category)?;
        }
    }
    Ok(())
}

fn admin(f: &mut fmt::Formatter<'_>, admin: &AdminConfig) -> fmt::Result {
    if admin.address.is_none() && admin.audit_log.is_none() {
        return Ok(());
    }
    writeln!(f, "[admin]")?;
    if let Some(address) = &admin.address {
        text(f, "address", address)?;
    }
    if let Some(root) = &admin.upload_root {
        text(f, "upload_root", &root.display())?;
    }
    writeln!(f, "max_upload_bytes = {}", admin.limits.max_upload_bytes)?;
    writeln!(f, "max_changes_per_minute = {}", admin.limits.max_changes_per_minute)?;
    if let Some(path) = &admin.audit_log {
        text(f, "audit_log", &path.display())?;
    }
    for key in &admin.keys {
        writeln!(f, "[[admin.keys]]")?;
        text(f, "name", &key.name)?;
        text(f, "sha256", &REDACTED)?;
    }
    Ok(())
}

fn text(f: &mut fmt::Formatter<'_>, key: &str, value: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "{key} = {:?}", value.to_string())
}
