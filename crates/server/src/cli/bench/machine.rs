//! What a figure was measured on, as far as the process can tell.

use serde::Serialize;

/// Facts printed beside every figure that was measured in process.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// Processors that the process may use.
    pub(super) num_cpus: usize,
    /// `release` or `debug`: whether this program's own code is optimised.
    pub(super) build: &'static str,
    pub(super) version: &'static str,
}

impl Machine {
    pub(super) fn here() -> Self {
        Self {
            num_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The most memory the process had at once, in bytes; `None` where the system does not say.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    if cfg!(target_os = "linux") {
        parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
    } else {
        None
    }
}

/// The line `VmHWM:    1234 kB` of `/proc/self/status`.
fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tskeg\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t 100 kB\n";
        assert_eq!(parse_peak(status), Some(123 * 1024));
        assert_eq!(parse_peak("Name:\tskeg\n"), None);
        assert_eq!(parse_peak("VmHWM:\t many\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
