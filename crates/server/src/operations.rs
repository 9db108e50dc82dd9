//! What operators do to a running server and count of it: shared by the public listener, the admin listener and the store's events.

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::classifier::ClassifierMetrics;
use crate::gate::GateMetrics;
use crate::kill_switch::KillSwitch;
use crate::metrics::{RequestMetrics, SequenceMetrics};

/// The kill switch, how long swaps took, and what requests came to; clones share all of it.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    pub(crate) kill_switch: KillSwitch,
    pub(crate) swap_seconds: SwapSeconds,
    pub(crate) admin_requests: AdminRequests,
    pub(crate) requests: RequestMetrics,
    pub(crate) sequences: SequenceMetrics,
    pub(crate) gate: GateMetrics,
    pub(crate) classifier: ClassifierMetrics,
}

/// Requests to the admin interface by the status of their answers: what is refused without a key leaves no other trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdminRequests(pub(crate) Family<StatusLabel, Counter>);

/// The label of [`AdminRequests`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabel {
    status: u16,
}

impl AdminRequests {
    pub(crate) fn count(&self, status: StatusCode) {
        self.0.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
    }
}

/// The times of swaps, in seconds: from the look at `CURRENT` until the generation was live.
#[derive(Debug, Clone)]
pub(crate) struct SwapSeconds(pub(crate) Histogram);

impl Default for SwapSeconds {
    /// From a small model's few vectors to a gigabyte on a slow disk.
    fn default() -> Self {
        const BOUNDS: [f64; 12] =
            [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        Self(Histogram::new(BOUNDS))
    }
}
