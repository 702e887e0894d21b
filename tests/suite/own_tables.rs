//! Providers and reply rules of one's own: what the configuration says of them is held against them.

use std::fs;

use crate::installation::Installation;

const CAMPUS: &str = "[[provider]]\nid = 900\nname = \"campus\"\ntitle = \"The Campus\"\n\
     domains = [\"campus.example\"]\n";
const LIMIT: &str = "[[limits.provider]]\nname = \"campus\"\nper_second = 5.0\n";
const RULE: &str = "[[rule]]\nname = \"campus-asleep\"\nfault = \"rate\"\nreason = \"too-fast\"\n\
     provider = [\"campus\"]\nany = [\"the campus sleeps\"]\n\
     example = [{ text = \"the campus sleeps\", provider = \"campus\" }]\n";

/// A folder with this configuration in it.
fn with(tables: &str, limits: &str) -> Installation {
    let house = Installation::empty();
    fs::write(house.path("config.toml"), format!("{tables}{limits}")).unwrap();
    house
}

/// What the doctor says about something, with its level.
fn findings(house: &Installation, about: &str) -> Vec<(String, String)> {
    let ran = house.run(&["doctor", "--offline", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let of = found.as_array().unwrap().iter().filter(|finding| finding["about"] == about);
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    of.map(|finding| (text(finding, "level"), text(finding, "what"))).collect()
}

#[test]
fn limits_may_name_providers_of_ones_own_table_and_no_others() {
    let own = with("providers_file = \"providers.toml\"\n", LIMIT);
    fs::write(own.path("providers.toml"), CAMPUS).unwrap();
    own.newsletter("sre");
    assert_eq!(findings(&own, "limits"), []);

    let none = with("", LIMIT);
    let error = none.run(&["newsletter", "list"]).fails(1);
    assert!(error.contains("limits.provider: there is no provider `campus`"), "{error}");
    assert!(error.contains("google"), "it names those that there are: {error}");
    let found = findings(&none, "limits");
    assert_eq!(found, [("error".to_owned(), "there is no provider `campus`".to_owned())]);
}

#[test]
fn a_rule_that_does_not_decide_its_example_is_refused_by_file_rule_and_example() {
    let tables = "providers_file = \"providers.toml\"\nrules_file = \"rules.toml\"\n";
    let house = with(tables, "");
    fs::write(house.path("providers.toml"), CAMPUS).unwrap();
    fs::write(house.path("rules.toml"), RULE).unwrap();
    let reply = ["rules", "test", "450 4.7.0 The campus sleeps", "--provider", "campus"];
    assert!(house.run(&reply).ok().contains("campus-asleep"));
    assert_eq!(findings(&house, "rules"), []);

    let wakes = RULE.replace("text = \"the campus sleeps\"", "text = \"the campus wakes\"");
    fs::write(house.path("rules.toml"), wakes).unwrap();
    let error = house.run(&["newsletter", "list"]).fails(1);
    for words in ["rules.toml", "rule `campus-asleep`", "its example `the campus wakes`"] {
        assert!(error.contains(words), "{words} is not in {error}");
    }
    let found = findings(&house, "rules");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == "error" && found[0].1.contains("the campus wakes"), "{found:?}");
}
