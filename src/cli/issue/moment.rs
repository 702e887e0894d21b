//! Times of day on the command line: `2024-08-12 09:00` in some zone, told apart from times that do
//! not exist or exist twice because clocks are changed.

use jiff::{
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use crate::timestamp::Timestamp;

/// Why a time of day is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MomentError {
    /// Not a date and time.
    #[error("`{0}` is not a date and time; write it like 2024-08-12 09:00")]
    Form(String),
    /// No such zone.
    #[error("there is no time zone `{0}`; write one like Europe/Vienna or UTC")]
    Zone(String),
    /// Clocks jump over it.
    #[error(
        "{at} does not exist in {zone}: clocks are put forward over it (from {before} to {after}); \
         choose another time"
    )]
    Gap {
        /// The time as written.
        at: DateTime,
        /// The zone.
        zone: String,
        /// The offset before the jump.
        before: String,
        /// The offset after it.
        after: String,
    },
    /// Clocks show it twice.
    #[error(
        "{at} comes twice in {zone}, as clocks are put back; say which one: \
         --at {at}{before} is the first, --at {at}{after} the second"
    )]
    Fold {
        /// The time as written.
        at: DateTime,
        /// The zone.
        zone: String,
        /// The offset the first time.
        before: String,
        /// The offset the second time.
        after: String,
    },
    /// Beyond what a calendar holds.
    #[error("`{0}` is too far away")]
    Range(String),
}

/// The zone of this name; with none, the system's.
pub(super) fn zone(name: Option<&str>) -> Result<TimeZone, MomentError> {
    match name {
        None => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name).map_err(|_| MomentError::Zone(name.to_owned())),
    }
}

/// The moment that `text` is in `zone`. A text with an offset of its own needs no zone.
pub(super) fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp, MomentError> {
    let text = text.trim();
    let stamp = |at: jiff::Timestamp| Timestamp::from_microseconds(at.as_microsecond());
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(stamp(at));
    }
    let has_time = text.contains(':');
    let at: DateTime = text
        .parse()
        .ok()
        .filter(|_| has_time)
        .ok_or_else(|| MomentError::Form(text.chars().take(60).collect()))?;
    let ambiguous = zone.to_ambiguous_timestamp(at);
    let name = || zone.iana_name().unwrap_or("this time zone").to_owned();
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {}
        AmbiguousOffset::Gap { before, after } => {
            let (before, after) = (before.to_string(), after.to_string());
            return Err(MomentError::Gap { at, zone: name(), before, after });
        }
        AmbiguousOffset::Fold { before, after } => {
            let (before, after) = (before.to_string(), after.to_string());
            return Err(MomentError::Fold { at, zone: name(), before, after });
        }
    }
    ambiguous.unambiguous().map(stamp).map_err(|_| MomentError::Range(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, in_zone: &str, expected: Result<&str, &str>) {
        let found = zone(Some(in_zone)).and_then(|zone| moment(text, &zone));
        let found = found.map(|at| at.to_string()).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text} in {in_zone}");
    }

    #[test]
    fn times_of_day_are_moments_in_a_zone() {
        check("2024-08-12 09:00", "Europe/Vienna", Ok("2024-08-12T07:00:00.000Z"));
        check("2024-08-12T09:00:30", "UTC", Ok("2024-08-12T09:00:30.000Z"));
        check("2024-12-12 09:00", "Europe/Vienna", Ok("2024-12-12T08:00:00.000Z"));
        check("2024-08-12T09:00+05:30", "Europe/Vienna", Ok("2024-08-12T03:30:00.000Z"));
    }

    #[test]
    fn what_is_no_moment_says_why() {
        check(
            "2024-03-31 02:30",
            "Europe/Vienna",
            Err(
                "2024-03-31T02:30:00 does not exist in Europe/Vienna: clocks are put forward over \
                 it (from +01 to +02); choose another time",
            ),
        );
        check(
            "2024-10-27 02:30",
            "Europe/Vienna",
            Err("2024-10-27T02:30:00 comes twice in Europe/Vienna, as clocks are put back; say \
                 which one: --at 2024-10-27T02:30:00+02 is the first, --at 2024-10-27T02:30:00+01 \
                 the second"),
        );
        check("2024-10-27T02:30:00+02", "Europe/Vienna", Ok("2024-10-27T00:30:00.000Z"));
        check("2024-10-27T02:30:00+01", "Europe/Vienna", Ok("2024-10-27T01:30:00.000Z"));
        check(
            "2024-08-12",
            "UTC",
            Err("`2024-08-12` is not a date and time; write it like 2024-08-12 09:00"),
        );
        check("soon", "UTC", Err("`soon` is not a date and time; write it like 2024-08-12 09:00"));
        check(
            "2024-08-12 09:00",
            "Europe/Wien",
            Err("there is no time zone `Europe/Wien`; write one like Europe/Vienna or UTC"),
        );
    }
}
