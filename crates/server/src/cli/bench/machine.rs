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
        parse_status(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
    } else {
        None
    }
}

/// The memory that another process has now, in bytes; `None` where the system does not say.
pub(super) fn resident_bytes(process_id: u32) -> Option<u64> {
    if cfg!(target_os = "linux") {
        parse_status(&std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?, "VmRSS:")
    } else {
        None
    }
}

/// The memory that programs can still be given without swapping, in bytes; `None` where the system does not say.
pub(super) fn available_bytes() -> Option<u64> {
    if cfg!(target_os = "linux") {
        parse_status(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
    } else {
        None
    }
}

/// A line such as `VmHWM:    1234 kB` of a process's `status`.
fn parse_status(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_present_use_are_read_in_bytes() {
        let status = "Name:\tskeg\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t 100 kB\n";
        assert_eq!(parse_status(status, "VmHWM:"), Some(123 * 1024));
        assert_eq!(parse_status(status, "VmRSS:"), Some(100 * 1024));
        assert_eq!(parse_status("Name:\tskeg\n", "VmHWM:"), None);
        assert_eq!(parse_status("VmHWM:\t many\n", "VmHWM:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 16));
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 16));
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
