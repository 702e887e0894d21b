//! `postrider issue` up to a send: new, lint, preview, plan, list.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    time::{Duration, Instant},
};

use crate::installation::{Installation, settled};

/// An issue with nothing to find fault with, today or should midnight come before it is looked at.
pub(crate) fn issue(number: u32) -> String {
    let date = jiff::Zoned::now().date().tomorrow().unwrap();
    format!(
        "---\nnumber: {number}\ndate: {date}\npreheader: One good read about queues.\n---\n\n\
         Hi {{{{name|there}}}}, one link this week.\n\n\
         ## [Queues have a cost](https://example.org/queues-{number})\n\n\
         A short text about waiting.\n\n— Ruth Adeyemi — Example Rail\n"
    )
}

/// An installation with `437.md` in it.
pub(crate) fn with_issue() -> Installation {
    let house = Installation::new();
    fs::write(house.path("437.md"), issue(437)).unwrap();
    house
}

#[test]
fn the_help_names_every_verb() {
    let house = Installation::empty();
    insta::assert_snapshot!(house.run(&["issue", "--help"]).ok(), @"
    Write, check, send and follow issues

    Usage: postrider issue [OPTIONS] <COMMAND>

    Commands:
      new       Write a file to start from, with comments that explain it
      lint      Say what is wrong with an issue file, and what to do about it
      preview   Write an issue as readers will see it to files, or show it in a browser
      test      Send one copy, marked as a test, straight through the first relay
      plan      Show who would get an issue, who would not and why, in which stages, and until when
      send      Check an issue, show its plan and send it: seed list first, then stage by stage
      schedule  Check an issue and have it sent at a time of day
      approve   Approve of a send that somebody else asked for
      undo      Take back a send whose first copy has not left
      pause     Stop a send for now
      halt      Stop a send as a gate would, for a reason
      widen     Release the next stage now; after a halt that stage alone
      resume    Go on after a pause or a halt
      cancel    Give up all copies of an issue that have not left
      status    Show how far a send has come
      report    Show who did not get an issue, and why
      list      List the issues of a newsletter
      help      Print this message or the help of the given subcommand(s)

    Options:
      -c, --config <FILE>  The configuration file [default: config.toml, if there is one; else built-in
                           defaults] [env: POSTRIDER_CONFIG=]
      -h, --help           Print help
    ");
}

#[test]
fn a_new_issue_cannot_be_sent_as_it_is() {
    let house = Installation::new();
    let made = house.run(&["issue", "new"]);
    assert_eq!(made.stdout, "1.md\n");
    insta::assert_snapshot!(made.stderr, @"write issue 1 in it; `postrider issue preview 1.md --serve` shows it meanwhile");
    insta::assert_snapshot!(house.run(&["issue", "new"]).fails(3), @"error: 1.md is there already and was left as it is; name another file");
    let printed = house.run(&["issue", "new", "-", "--number", "12"]).ok();
    assert!(printed.contains("\nnumber: 12\n"), "{printed}");

    let found = house.run(&["issue", "lint", "1.md", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    found.fails(3);
    for finding in list.as_array().unwrap() {
        let code = finding["code"].as_str().unwrap();
        // It is dated today, which may be over by now.
        assert!(matches!(code, "placeholder-text" | "date-past"), "{finding:#}");
    }
    let shown = house.run(&["issue", "preview", "1.md", "--out", "looks"]).ok();
    assert_eq!(shown, "looks/issue.html\nlooks/issue.txt\nlooks/issue.eml\n");
}

#[test]
fn findings_carry_code_place_and_suggestion() {
    let house = with_issue();
    insta::assert_snapshot!(house.run(&["issue", "lint", "437.md"]).ok(), @"no problems found");
    let text = issue(437).replace("number: 437", "nubmer: 437").replace("https:", "http:");
    fs::write(house.path("bad.md"), text).unwrap();
    let found = house.run(&["issue", "lint", "bad.md"]);
    insta::assert_snapshot!(found.stdout, @"
    error[unknown-key]: the front matter has no key `nubmer`
     --> bad.md:2:1
      |
    2 | nubmer: 437
      | ^^^^^^
      |
      = help: did you mean `number`?

    error[number-missing]: the issue has no number
     --> bad.md:2:1
      |
    2 | nubmer: 437
      | ^
      |
      = help: add `number: 1`

    warning[link-http]: this link is http, which anyone on the way can read and change
     --> bad.md:9:25
      |
    9 | ## [Queues have a cost](http://example.org/queues-437)
      |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: if it works, write https://example.org/queues-437

    2 errors, 1 warning
    ");
    insta::assert_snapshot!(found.fails(3), @"error: the issue has errors; it would not be sent");
}

#[test]
fn earlier_issues_and_the_configuration_are_held_against_a_file() {
    let house = Installation::with_config("[lint]\ndisclose = [\"Example Rail\"]\n");
    fs::write(house.path("437.md"), issue(437)).unwrap();
    let codes = |file: &str| {
        let found = house.run(&["issue", "lint", file, "--json"]);
        let list: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
        let codes = list.as_array().unwrap().iter();
        codes.map(|found| found["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(codes("437.md"), ["disclosure-missing"]);
    let disclosed = |number| issue(number) + "\nFull disclosure: Example Rail employs me.\n";
    fs::write(house.path("437.md"), disclosed(437)).unwrap();
    assert_eq!(codes("437.md"), [""; 0]);
    house.run(&["newsletter", "set", "sre", "--seed", "ada@example.com"]).ok();
    house.run(&["issue", "send", "437.md", "--yes"]).ok();
    assert_eq!(codes("437.md"), [""; 0], "an issue is not held against itself");
    fs::write(house.path("other.md"), disclosed(437).replace("short", "long")).unwrap();
    assert_eq!(codes("other.md"), ["number-taken"]);
    let link_again = disclosed(439).replace("queues-439", "queues-437");
    fs::write(house.path("439.md"), link_again).unwrap();
    assert_eq!(codes("439.md"), ["number-gap", "link-in-archive"]);
}

#[test]
fn a_preview_has_both_parts_and_the_message() {
    let house = with_issue();
    house.run(&["issue", "preview", "437.md"]).ok();
    let read = |name: &str| fs::read_to_string(house.path("preview").join(name)).unwrap();
    assert!(read("issue.html").contains("Hi Ada Example, one link this week."));
    let text = read("issue.txt");
    assert!(text.contains("Hi Ada Example") && text.contains("https://example.org/queues-437"));
    let message = read("issue.eml");
    assert!(message.contains("\r\nSubject: SRE Digest #437\r\n"), "{message}");
    assert!(message.contains("\r\nTo: Ada Example <reader@example.org>\r\n"), "{message}");
    assert!(message.contains("\r\nList-Unsubscribe: <http"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_preview_follows_the_file() {
    let house = with_issue();
    let mut running =
        house.start(&["issue", "preview", "437.md", "--serve", "--listen", "127.0.0.1:0"]);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let url = lines.next().unwrap().unwrap();
    let get = async |path: &str| {
        reqwest::get(format!("{url}{path}")).await.unwrap().text().await.unwrap()
    };
    let version = get("version?after=0").await;
    assert!(get("?view=text").await.contains("one link this week"));
    assert!(get("mail?view=phone").await.contains("one link this week"));
    assert!(get("?view=source").await.contains("List-Unsubscribe:"));

    let changed = issue(437).replace("one link this week", "two lines <b>today</b> & more");
    fs::write(house.path("437.md"), changed).unwrap();
    assert_ne!(get(&format!("version?after={version}")).await, version);
    assert!(get("?view=findings").await.contains("html-in-markdown"));
    let outside = reqwest::Client::new().get(&url).header("host", "evil.example").send().await;
    assert_eq!(outside.unwrap().status(), 421);

    let error =
        house.run(&["issue", "preview", "437.md", "--serve", "--listen", "0.0.0.0:0"]).fails(2);
    assert!(error.contains("on this machine only"), "{error}");
}

#[test]
fn a_plan_says_who_and_who_not() {
    let house = with_issue();
    let readers: String = (0..600).map(|n| format!("reader{n}@gmail.com\n")).collect();
    let file = format!("address\n{readers}");
    let import = ["subscriber", "import", "-", "--consent-source", "form"];
    house.run_with_input(&import, file.as_bytes()).ok();
    house.run(&["newsletter", "set", "sre", "--seed", "ada@example.com"]).ok();
    house.run(&["subscriber", "suppress", "reader7@gmail.com", "--reason", "asked"]).ok();
    let plan = house.run(&["issue", "plan", "437.md"]).ok();
    let plan: Vec<&str> =
        plan.lines().filter(|line| !line.starts_with("largest message")).collect();
    insta::assert_snapshot!(settled(&house, &plan.join("\n")), @"
    600 recipients
    1 active subscriber left out (suppressed 1)
    not in the audience: 0 unsubscribed, 0 not confirmed

    staged smaller at first: 600 readers (100 %) were imported before the first issue
    stage  name       readers
        0  seed list        1
        1  0.1 %            5
        2  1 %             45
        3  rest           549

    provider  readers
    google        599
    other           1

    first copy: TIME (in 10 min)
    last copy:  TIME at today's limits (in 25 min)
    limited by: the soaks between stages, and the relays' own speed
    ");
    let plan = house.run(&["issue", "plan", "437.md", "--json"]).json();
    assert_eq!(plan["recipients"], 600);
    assert_eq!(plan["rehearsal"]["copies"], 600);
    assert_eq!(plan["excluded"]["suppressed"], 1);
    assert!(plan["rehearsal"]["largest_bytes"].as_u64().unwrap() > 2_000);
}

#[test]
fn bad_files_get_clear_answers_fast() {
    let house = Installation::new();
    let since = Instant::now();
    let lint = |bytes: &[u8]| {
        fs::write(house.path("bad.md"), bytes).unwrap();
        let ran = house.run(&["issue", "lint", "bad.md"]);
        let out = ran.stdout.clone();
        ran.fails(3);
        out
    };
    let yaml = lint(b"---\nnumber: [\n---\nText.\n");
    assert!(yaml.contains("error[front-matter-invalid]"), "{yaml}");
    assert!(yaml.contains(" --> bad.md:2:9\n"), "{yaml}");
    assert!(yaml.contains("put a value that begins with `[`"), "{yaml}");
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n * 7919 % 251) as u8).collect();
    insta::assert_snapshot!(lint(&garbage), @"
    error[not-text]: byte 0x8a is not UTF-8
     --> bad.md:1:2
      |
    1 | ␀
      |  ^
      |
      = help: save the file as UTF-8

    1 error
    ");
    insta::assert_snapshot!(lint(&vec![b'a'; 10_000_000]), @"
    error[file-too-large]: the file has 9.5 MB; an issue file has at most 2 MB
     --> bad.md:1:1
      |
    1 |
      | ^
      |
      = help: is this the right file? Images are linked, not embedded

    1 error
    ");
    let items = "## [T](https://example.org/)\n\nText.\n\n".repeat(50_000);
    let many = lint(format!("---\nnumber: 1\n---\n{items}").as_bytes());
    insta::assert_snapshot!(many.lines().take(3).collect::<Vec<_>>().join("\n"), @"
    error[too-many-items]: this would be item 2001; an issue has at most 2000
        --> bad.md:8004:1
         |
    ");
    // A minute is for slow machines; each of these takes a fraction of a second.
    assert!(since.elapsed() < Duration::from_mins(1), "{:?}", since.elapsed());

    let error = house.run(&["issue", "lint", "none.md"]).fails(1);
    insta::assert_snapshot!(error, @"error: cannot read none.md: No such file or directory (os error 2)");
    let error = house.run(&["issue", "lint", "."]).fails(1);
    insta::assert_snapshot!(error, @"error: . is a folder; name the issue file in it");
}
