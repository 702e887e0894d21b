//! What a rehearsal has to tell: minute by minute, in the time of the real send.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    db::state::{EventKind, IssueState},
    delivery::{
        conductor,
        control::Edition,
        gates::{Finding, Gate},
        rehearsed::{Happened, Note},
        tally::Cell,
    },
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
};

/// How long the stretches are over which the peak rate is taken, in seconds.
const PEAK_STRETCH: f64 = 10.0;

/// What a real send would have done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The issue's number.
    pub number: i64,
    /// How many copies there were.
    pub audience: i64,
    /// How much faster than real time it was played.
    pub speed: u32,
    /// How far the send came.
    pub state: IssueState,
    /// What became of the copies, in words.
    pub outcome: String,
    /// How many copies had no outcome when the rehearsal ended.
    pub unfinished: i64,
    /// After how many seconds the last copy had its outcome; none when some had none.
    pub ends_after_s: Option<f64>,
    /// The most copies a second that were accepted over ten seconds.
    pub peak_per_second: f64,
    /// The most copies that were accepted in one minute.
    pub peak_per_minute: i64,
    /// The most connections that were open at once.
    pub connections_peak: u64,
    /// For how many seconds of the send's time this machine was all that held it back. A real relay
    /// may be slower or faster.
    pub machine_bound_s: f64,
    /// Which gates stopped it.
    pub halts: Vec<Halted>,
    /// Every minute in which something happened.
    pub minutes: Vec<Minute>,
}

/// A gate that stopped the send.
#[derive(Debug, Clone, Serialize)]
pub struct Halted {
    /// In which minute.
    pub minute: i64,
    /// The gate.
    pub gate: Gate,
    /// The provider whose copies tripped it.
    pub provider: Option<String>,
    /// In which stage.
    pub stage: i64,
    /// How many copies spoke against going on.
    pub hits: i64,
    /// Out of how many.
    pub sample: i64,
    /// The commonest replies.
    pub replies: Vec<String>,
    /// The figures in words.
    pub text: String,
}

impl Halted {
    /// `finding`, so long after the beginning.
    pub fn new(finding: &Finding, after: Duration, providers: &Providers) -> Self {
        Self {
            minute: (after.as_secs() / 60) as i64,
            gate: finding.gate,
            provider: finding.provider.map(|id| providers.name(ProviderId(id)).to_owned()),
            stage: finding.stage,
            hits: finding.hits,
            sample: finding.sample,
            replies: finding.replies.clone(),
            text: finding.in_words(),
        }
    }
}

/// One minute of the send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// Which, from 0.
    pub minute: i64,
    /// Copies that relays took.
    pub accepted: i64,
    /// Attempts that have to be repeated.
    pub deferred: i64,
    /// Copies that were refused for good.
    pub rejected: i64,
    /// Copies whose fate is not known.
    pub uncertain: i64,
    /// Reports that came back: bounces, complaints, readers who left.
    pub returned: i64,
    /// What happened to the send as a whole.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(edition: &Edition, total: &Cell, speed: u32, halts: Vec<Halted>) -> Self {
        Self {
            number: edition.number,
            audience: total.total(),
            speed,
            state: edition.state,
            outcome: conductor::outcome(total),
            unfinished: total.total() - total.finished(),
            ends_after_s: None,
            peak_per_second: 0.0,
            peak_per_minute: 0,
            connections_peak: 0,
            machine_bound_s: 0.0,
            halts,
            minutes: Vec::new(),
        }
    }

    /// Adds what happened, by minutes and by shorter stretches.
    pub(super) fn fill(
        &mut self,
        by_minute: &[Happened],
        by_stretch: &[Happened],
        notes: Vec<Note>,
        begin: Timestamp,
        providers: &Providers,
    ) {
        let mut minutes: BTreeMap<i64, Minute> = BTreeMap::new();
        for happened in by_minute {
            let minute = minutes.entry(happened.stretch).or_default();
            *match happened.kind {
                EventKind::Accepted => &mut minute.accepted,
                EventKind::Deferred => &mut minute.deferred,
                EventKind::Rejected => &mut minute.rejected,
                EventKind::Uncertain => &mut minute.uncertain,
                EventKind::Bounced | EventKind::Complained | EventKind::Unsubscribed => {
                    &mut minute.returned
                }
                _ => continue,
            } += happened.attempts;
        }
        for note in notes {
            let after = note.at.since(begin) * self.speed;
            let minute = minutes.entry((after.as_secs() / 60) as i64).or_default();
            minute.notes.push(in_words(&note, providers));
        }
        self.minutes = minutes.into_iter().map(|(minute, of)| Minute { minute, ..of }).collect();
        let most = |rows: &[Happened]| {
            let accepted = rows.iter().filter(|row| row.kind == EventKind::Accepted);
            accepted.map(|row| row.attempts).max().unwrap_or(0)
        };
        self.peak_per_minute = most(by_minute);
        self.peak_per_second = most(by_stretch) as f64 / PEAK_STRETCH;
        if self.unfinished == 0 {
            let last = by_stretch.iter().map(|row| row.stretch).max();
            self.ends_after_s = last.map(|stretch| (stretch + 1) as f64 * PEAK_STRETCH);
        }
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "issue {}, rehearsed to {} readers at {} times real time; nothing left this machine\n\n",
            self.number, self.audience, self.speed
        );
        let _ = writeln!(
            text,
            "{:>6}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
            "minute", "accepted", "deferred", "rejected", "uncertain", "returned"
        );
        for minute in &self.minutes {
            let figures = [
                minute.accepted,
                minute.deferred,
                minute.rejected,
                minute.uncertain,
                minute.returned,
            ];
            let _ = write!(text, "{:>6}", minute.minute);
            for figure in figures {
                let _ = write!(text, "  {figure:>9}");
            }
            let _ = writeln!(text);
            for note in &minute.notes {
                let _ = writeln!(text, "        {note}");
            }
        }
        let _ = writeln!(
            text,
            "\npeak: {} accepted in a minute, {:.1} a second over ten seconds, {} connections",
            self.peak_per_minute, self.peak_per_second, self.connections_peak
        );
        if self.machine_bound_s >= 60.0 {
            let minutes = self.machine_bound_s / 60.0;
            let _ = writeln!(
                text,
                "for {minutes:.1} minutes only this machine's own speed held it back; a lower --speed \
                 tells those times better"
            );
        }
        for halt in &self.halts {
            let at = halt.provider.as_ref().map_or_else(String::new, |name| format!(" at {name}"));
            let _ = writeln!(
                text,
                "a gate would halt it in minute {}, stage {}{at}: {}",
                halt.minute, halt.stage, halt.text
            );
            for reply in &halt.replies {
                let _ = writeln!(text, "  reply: {reply}");
            }
        }
        let _ = writeln!(text, "copies: {}", self.outcome);
        let end = match self.ends_after_s {
            Some(seconds) => format!("it would be done after {:.1} minutes", seconds / 60.0),
            None if self.state == IssueState::Halted => {
                format!("it would stand halted, with {} copies to go", self.unfinished)
            }
            None => format!("{} copies had no outcome when time was up", self.unfinished),
        };
        let _ = writeln!(text, "{end}");
        text
    }
}

fn in_words(note: &Note, providers: &Providers) -> String {
    let mut text = note.kind.as_str().replace('_', " ");
    if let Some(relay) = &note.relay {
        let _ = write!(text, " at relay {relay}");
    }
    if let Some(provider) = note.provider {
        let _ = write!(text, " at {}", providers.name(ProviderId(provider)));
    }
    if let Some(why) = &note.text {
        let _ = write!(text, ": {why}");
    }
    text
}
