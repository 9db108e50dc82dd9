//! Numbers of what steers: the generation, its swaps, the override. Labels are ids, hashes and words of this program.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::kill_switch::OverrideAction;
use crate::operations::{AdminRequests, SwapSeconds};
use crate::origin::Origin;
use crate::state::App;

/// One reading.
#[derive(Debug)]
pub(super) struct Steering {
    generation: String,
    hash: String,
    age: Duration,
    swaps: u64,
    failed_swaps: u64,
    swap_seconds: SwapSeconds,
    admin_requests: AdminRequests,
    following: Option<Following>,
    overridden: Option<(OverrideAction, Duration)>,
}

/// How a place is followed.
#[derive(Debug)]
struct Following {
    follows: u64,
    faults: u64,
    is_sound: bool,
}

impl Following {
    /// `None` where nothing is followed.
    fn of(origin: &Origin) -> Option<Self> {
        let Origin::Followed(mirror) = origin else { return None };
        let is_sound = mirror.last_fault().is_none();
        Some(Self { follows: mirror.follows(), faults: mirror.faults(), is_sound })
    }
}

impl Steering {
    pub(super) fn of(app: &App) -> Self {
        let live = app.store.current();
        let engaged = app.operations.kill_switch.engaged();
        Self {
            generation: live.generation.id.to_string(),
            hash: live.generation.root_hash.clone(),
            age: live.since.elapsed(),
            swaps: app.store.swaps(),
            failed_swaps: app.store.failed_reloads(),
            swap_seconds: app.operations.swap_seconds.clone(),
            admin_requests: app.operations.admin_requests.clone(),
            following: Following::of(&app.origin),
            overridden: engaged.map(|engaged| (engaged.action, engaged.remaining())),
        }
    }

    pub(super) fn register(self, registry: &mut Registry) {
        let help = "Time from the look at CURRENT until the generation was live, in seconds";
        registry.register("skeg_swap_duration_seconds", help, self.swap_seconds.0.clone());
        let help = "Requests to the admin interface, by the status of the answer";
        registry.register("skeg_admin_requests", help, self.admin_requests.0.clone());
        registry.register_collector(Box::new(self));
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        let swap_seconds = SwapSeconds::default();
        swap_seconds.0.observe(0.5);
        let admin_requests = AdminRequests::default();
        admin_requests.count(axum::http::StatusCode::UNAUTHORIZED);
        Self {
            generation: "0123".to_owned(),
            hash: "0123ab".to_owned(),
            age: Duration::from_secs(7),
            swaps: 2,
            failed_swaps: 1,
            swap_seconds,
            admin_requests,
            following: Some(Following { follows: 2, faults: 1, is_sound: false }),
            overridden: Some((OverrideAction::DefaultOnly, Duration::from_secs(30))),
        }
    }
}

impl Collector for Steering {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("generation", self.generation.as_str()), ("hash", self.hash.as_str())];
        let info = Info::new(labels);
        let help = "The live generation of vectors";
        info.encode(encoder.encode_descriptor(
            "skeg_generation",
            help,
            None,
            info.metric_type(),
        )?)?;

        let help = "Time since the generation went live, in seconds";
        gauge(&mut encoder, "skeg_generation_age_seconds", help, self.age.as_secs_f64())?;
        let remaining = self.overridden.map_or(Duration::ZERO, |(_, remaining)| remaining);
        let help = "Time until the operator's override ends, in seconds; 0 without one";
        gauge(&mut encoder, "skeg_override_remaining_seconds", help, remaining.as_secs_f64())?;

        let help = "Whether the operator's override is in force";
        let mut family =
            encoder.encode_descriptor("skeg_override_active", help, None, MetricType::Gauge)?;
        for action in OverrideAction::ALL {
            let is_active = self.overridden.is_some_and(|(active, _)| active == action);
            let value = ConstGauge::new(if is_active { 1.0 } else { 0.0 });
            value.encode(family.encode_family(&[("action", action.as_str())])?)?;
        }

        let help = "Changes of the live generation since the start, and those that failed";
        results(&mut encoder, "skeg_swap", help, self.swaps, self.failed_swaps)?;
        self.following.as_ref().map_or(Ok(()), |following| following.encode(&mut encoder))
    }
}

impl Following {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Changes of the followed store that were copied, and faults met; one that lasts counts once";
        results(encoder, "skeg_store_follow", help, self.follows, self.faults)?;
        let help = "Whether the last look at the followed store succeeded";
        gauge(encoder, "skeg_store_following", help, if self.is_sound { 1.0 } else { 0.0 })
    }
}

/// A counter of what went well and what failed.
fn results(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    ok: u64,
    failed: u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (result, value) in [("ok", ok), ("failed", failed)] {
        ConstCounter::new(value).encode(family.encode_family(&[("result", result)])?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}
