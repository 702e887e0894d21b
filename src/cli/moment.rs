//! Times as people type them on a command line: `90m` or `2d` ago, or a time.

use crate::timestamp::Timestamp;

/// The time that `text` names: how long ago (`90m`, `2d`, `1 week`), or when, in UTC unless it says
/// otherwise (`2024-08-11`, `2024-08-11 09:05`, `2024-08-11T09:05:07+02:00`). For clap.
pub(super) fn past(text: &str) -> Result<Timestamp, String> {
    past_at(text.trim(), Timestamp::now())
}

fn past_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let utc = jiff::tz::TimeZone::UTC;
    if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
        let at = civil.to_zoned(utc).map_err(|error| error.to_string())?;
        return Ok(Timestamp::from_microseconds(at.timestamp().as_microsecond()));
    }
    let ago = text
        .parse::<jiff::Span>()
        .ok()
        .filter(|span| !span.is_negative())
        .and_then(|span| now.to_jiff().to_zoned(utc).checked_sub(span).ok());
    match ago {
        Some(at) => Ok(Timestamp::from_microseconds(at.timestamp().as_microsecond())),
        None => Err("write how long ago, like 90m or 2d, or a time like 2024-08-11 09:05".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-03-02T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("90m", Some("2026-03-02T08:30:00.000Z")),
            ("1h 30m", Some("2026-03-02T08:30:00.000Z")),
            ("2d", Some("2026-02-28T10:00:00.000Z")),
            ("1 week", Some("2026-02-23T10:00:00.000Z")),
            ("1 month", Some("2026-02-02T10:00:00.000Z")),
            ("2026-03-01", Some("2026-03-01T00:00:00.000Z")),
            ("2026-03-01 09:05", Some("2026-03-01T09:05:00.000Z")),
            ("2026-03-01T09:05:07+02:00", Some("2026-03-01T07:05:07.000Z")),
            ("-1h", None),
            ("yesterday", None),
            ("", None),
        ] {
            let at = past_at(text, now).ok().map(|at| at.to_string());
            assert_eq!(at.as_deref(), expected, "{text}");
        }
    }
}
