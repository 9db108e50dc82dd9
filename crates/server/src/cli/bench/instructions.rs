//! Instructions that the whole process executes in user space: a cost that does not depend on who else
//! uses the machine.

/// A running count, or the reason why there is none.
#[derive(Debug)]
pub(super) struct Instructions {
    counter: Result<Counter, String>,
}

impl Instructions {
    /// Starts to count. Threads that exist already are not counted, so this comes before any work.
    pub(super) fn start() -> Self {
        Self { counter: Counter::start() }
    }

    /// Instructions executed so far; `None` where they are not counted.
    pub(super) fn executed(&mut self) -> Option<u64> {
        self.counter.as_mut().ok()?.read()
    }

    /// Why there is no count.
    pub(super) fn refused(&self) -> Option<&str> {
        self.counter.as_ref().err().map(String::as_str)
    }
}

#[cfg(target_os = "linux")]
use linux::Counter;

#[cfg(target_os = "linux")]
mod linux {
    use perf_event::Builder;
    use perf_event::events::{Event, Hardware};

    /// The kernel's counter of one process.
    #[derive(Debug)]
    pub(super) struct Counter(perf_event::Counter);

    impl Counter {
        pub(super) fn start() -> Result<Self, String> {
            Self::of(Hardware::INSTRUCTIONS).map_err(|error| {
                format!(
                    "the kernel gives no instruction counter ({error}); it needs a processor that counts, \
                     and kernel.perf_event_paranoid of at most 2"
                )
            })
        }

        /// User space alone, with the threads that the process will start.
        pub(super) fn of(event: impl Event + Clone) -> std::io::Result<Self> {
            let mut builder = Builder::new(event);
            builder.inherit(true).exclude_kernel(true).exclude_hv(true).enabled(true);
            builder.build().map(Self)
        }

        pub(super) fn read(&mut self) -> Option<u64> {
            self.0.read().ok()
        }
    }

    #[cfg(test)]
    mod tests {
        use perf_event::events::Software;

        use super::*;

        #[test]
        fn threads_started_later_are_counted_where_the_kernel_counts_at_all() {
            // A software event: it is there on machines whose processor has no counters.
            let Ok(mut counter) = Counter::of(Software::TASK_CLOCK) else { return };
            let before = counter.read().unwrap();
            let work = || (0..20_000_000_u64).fold(1_u64, |product, i| product.wrapping_mul(i | 1));
            let busy = std::thread::spawn(move || std::hint::black_box(work()));
            assert_ne!(busy.join().unwrap(), 0);
            let after = counter.read().unwrap();
            // Processor time, so other processes cannot make it less: what is left without the thread's own
            // work is microseconds.
            assert!(after - before > 1_000_000, "{} ns", after - before);
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Counter;

#[cfg(not(target_os = "linux"))]
impl Counter {
    fn start() -> Result<Self, String> {
        Err("instructions are counted on Linux alone".to_owned())
    }

    fn read(&mut self) -> Option<u64> {
        None
    }
}
