//! What is posted at once: lines of the log behind a cursor, bounded in number and size.

use bytes::Bytes;
use serde_json::{Value, json};

use super::state::newest_event;
use crate::{
    address::{self, Address},
    config::EventHook,
    db::{self, Db},
    event::{Filter, Line},
    provider::Providers,
    report::{self, Start},
};

/// How many lines of the log are looked at for one batch.
const LINES: u32 = 500;
/// How large the events of a batch may be together; a single one may be larger.
const OCTETS_MAX: usize = 512 * 1024;

/// Events that are posted together.
#[derive(Debug)]
pub(super) struct Batch {
    /// The body of the request.
    pub(super) body: Bytes,
    /// How many events it has.
    pub(super) events: u64,
    /// The line of the log up to which it reaches.
    pub(super) up_to: i64,
    /// The newest line there is.
    pub(super) newest: i64,
    /// Whether there are more lines to be looked at now.
    pub(super) more: bool,
}

impl Batch {
    /// Reads what `hook` wants of the lines behind `after`. With `until` that is a batch which was begun
    /// before: whatever is wanted up to that line.
    pub(super) async fn read(
        db: &Db,
        providers: &Providers,
        hook: &EventHook,
        after: i64,
        until: Option<i64>,
    ) -> db::Result<Self> {
        let kinds = hook.kinds();
        let newest = newest_event(db).await?;
        let (mut events, mut octets, mut up_to) = (Vec::new(), 0, after);
        let last = until.unwrap_or(newest);
        while up_to < last {
            let filter = Filter::default();
            let page = report::log_page(db, &filter, Start::After(up_to), LINES).await?;
            let read_to = page.newer.max(up_to);
            for line in page.lines.into_iter().rev().filter(|line| line.id <= last) {
                let is_wanted = kinds.as_ref().is_none_or(|kinds| kinds.contains(&line.kind));
                let text = if is_wanted { in_json(&line, providers, hook)? } else { String::new() };
                if until.is_none() && octets > 0 && octets + text.len() > OCTETS_MAX {
                    return Ok(Self::of(&events, up_to, newest));
                }
                up_to = line.id;
                octets += text.len();
                events.extend(is_wanted.then_some(text));
            }
            // Where a line is missing (it was never committed) there is nothing to wait for.
            up_to = read_to.min(last).max(up_to);
            if until.is_none() {
                break;
            }
        }
        Ok(Self::of(&events, up_to, newest))
    }

    fn of(events: &[String], up_to: i64, newest: i64) -> Self {
        let body = format!("{{\"type\":\"delivery.events\",\"events\":[{}]}}", events.join(","));
        Self { body: body.into(), events: events.len() as u64, up_to, newest, more: up_to < newest }
    }
}

/// One event, as `delivery log --json` has it. Readers' addresses are told to those who may have them.
fn in_json(line: &Line, providers: &Providers, hook: &EventHook) -> db::Result<String> {
    let encode = |error: serde_json::Error| sqlx::Error::Encode(Box::new(error));
    let mut event = report::line_in_json(line, providers).map_err(encode)?;
    if let Some(fields) = event.as_object_mut().filter(|_| !hook.addresses) {
        if let Some(Value::String(address)) = fields.get("address") {
            let shown = Address::parse(address).map(|address| address.redacted().to_string());
            fields.insert("address".to_owned(), json!(shown.ok()));
        }
        if let Some(Value::String(text)) = fields.get("text") {
            let text = address::redacted_text(text);
            fields.insert("text".to_owned(), json!(text));
        }
    }
    serde_json::to_string(&event).map_err(encode)
}
