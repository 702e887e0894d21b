//! Figures, times and addresses as people read them. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::{
    account::Role,
    address::{self, Address},
    timestamp::Timestamp,
};

/// `48,211`.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut words = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        words.push('−');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// An instant, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Instant {
    iso: String,
    text: String,
}

/// `2026-03-02 10:00:12`, in UTC.
pub(super) fn instant(at: Timestamp) -> Instant {
    let text = at.to_jiff().strftime("%Y-%m-%d %H:%M:%S").to_string();
    Instant { iso: format!("{at:.0}"), text }
}

/// The same with milliseconds, for the log.
pub(super) fn precise(at: Timestamp) -> Instant {
    let text = at.to_jiff().strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
    Instant { iso: at.to_string(), text }
}

/// `12 min`, in the largest unit that says enough.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `0.8 ms`, `12 ms`, `1.20 s`.
pub(super) fn micros(us: i64) -> String {
    match us {
        ..1_000 => format!("{:.2} ms", us as f64 / 1e3),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// `12.4`, with as many digits as a rate is worth.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { count(per_second.round() as i64) }
}

/// An address as `role` may see it.
pub(super) fn address(address: &str, role: Role) -> String {
    if role.sees_addresses() {
        return address.to_owned();
    }
    Address::parse(address).map_or_else(|_| "…".to_owned(), |it| it.redacted().to_string())
}

/// A text as `role` may see it: servers repeat addresses in their replies.
pub(super) fn text(text: &str, role: Role) -> String {
    if role.sees_addresses() || !text.contains('@') {
        return text.to_owned();
    }
    address::redacted_text(text)
}

/// `1 copy`, `2 copies`.
pub(super) fn copies(number: i64) -> String {
    if number == 1 { "1 copy".to_owned() } else { format!("{} copies", count(number)) }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        for (number, words) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (48_211, "48,211"),
            (-1_234_567, "−1,234,567"),
        ] {
            assert_eq!(count(number), words);
        }
        for (us, words) in
            [(80, "0.08 ms"), (1_234, "1.2 ms"), (56_789, "56 ms"), (1_204_000, "1.20 s")]
        {
            assert_eq!(micros(us), words);
        }
        for (seconds, words) in
            [(0, "0 s"), (119, "119 s"), (720, "12 min"), (7_260, "2 h 1 min"), (200_000, "2 days")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
        assert_eq!((rate(0.04).as_str(), rate(1234.4).as_str()), ("0.0", "1,234"));
    }

    #[test]
    fn addresses_are_for_operators() {
        for (given, viewer) in [
            (
                "550 5.1.1 <bob@example.org>: no such user",
                "550 5.1.1 <b…@example.org>: no such user",
            ),
            ("to=a.b+c@x.org,d@y.org", "to=a…@x.org,d…@y.org"),
            ("try later", "try later"),
            ("@", "…@"),
            ("ß@ü.example mailto:ada@x", "ß…@ü.example mailto:a…@x"),
        ] {
            assert_eq!(text(given, Role::Viewer), viewer);
            assert_eq!(text(given, Role::Operator), given);
        }
        assert_eq!(address("reader@example.org", Role::Editor), "r…@example.org");
        assert_eq!(address("reader@example.org", Role::Operator), "reader@example.org");
    }
}
