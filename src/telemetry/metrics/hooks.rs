//! What webhooks that events are posted to take.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    webhook: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BatchLabels {
    webhook: String,
    result: &'static str,
}

/// What one webhook took.
#[derive(Debug, Clone, Default)]
pub struct HookSeries {
    /// Batches that were taken.
    pub delivered: Counter,
    /// Tries that failed.
    pub failed: Counter,
    /// Events that were taken.
    pub events: Counter,
    /// Whether the last try worked.
    pub up: Gauge,
    /// Lines of the log that it has not come to yet.
    pub waiting: Gauge,
}

/// The series of all of them.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    batches: Family<BatchLabels, Counter>,
    events: Family<HookLabel, Counter>,
    up: Family<HookLabel, Gauge>,
    waiting: Family<HookLabel, Gauge>,
}

impl Hooks {
    pub(super) fn register(&self, registry: &mut Registry) {
        let batches = "Batches of events that were posted to a webhook, and what came of it";
        registry.register("webhook_batches", batches, self.batches.clone());
        let events = "Events that a webhook took";
        registry.register("webhook_events", events, self.events.clone());
        let up = "Whether a webhook took what was posted to it last";
        registry.register("webhook_up", up, self.up.clone());
        let waiting = "Lines of the log that a webhook has not come to yet";
        registry.register("webhook_waiting", waiting, self.waiting.clone());
    }

    /// The series of a webhook, from now on shown.
    pub(super) fn of(&self, name: &str) -> HookSeries {
        let label = HookLabel { webhook: name.to_owned() };
        let batches = |result| {
            self.batches.get_or_create_owned(&BatchLabels { webhook: name.to_owned(), result })
        };
        HookSeries {
            delivered: batches("delivered"),
            failed: batches("failed"),
            events: self.events.get_or_create_owned(&label),
            up: self.up.get_or_create_owned(&label),
            waiting: self.waiting.get_or_create_owned(&label),
        }
    }
}
