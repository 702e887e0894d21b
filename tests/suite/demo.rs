//! The first thing a newcomer runs, which checks itself.

use std::process::Command;

#[test]
fn the_demo_tells_its_story_and_every_number_adds_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["demo", "--exit", "--readers", "200"])
        .output()
        .unwrap();
    let (told, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaints}");
    assert!(told.contains("Everything adds up."), "{told}");
    assert!(!complaints.contains("ERROR"), "{complaints}");
}
