//! Says that a test was skipped, where whoever runs the tests sees it. Tests only.

use std::io::Write as _;

/// Says why a test was skipped, past the capture of the test harness: a skip that nobody sees looks
/// like a pass.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
