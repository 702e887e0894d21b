use super::*;

fn sizes(recipients: i64, seeds: i64, careful: bool) -> Vec<i64> {
    let stages = stages(recipients, seeds, &Sending::default(), careful);
    stages.iter().map(|stage| stage.size).collect()
}

#[test]
fn small_audiences_have_fewer_stages() {
    for (recipients, seeds, expected) in [
        (0, 0, vec![0, 0]),
        (60, 3, vec![3, 57]),
        (500, 0, vec![0, 50, 450]),
        (2_000, 5, vec![5, 50, 150, 1_795]),
        (100_000, 0, vec![0, 1_000, 9_000, 90_000]),
    ] {
        assert_eq!(sizes(recipients, seeds, false), expected, "{recipients} recipients");
    }
}

#[test]
fn every_copy_is_dealt_to_one_stage() {
    let share = |provider, recipients, seeds| Share {
        provider,
        recipients,
        seeds,
        bounced: 0,
        complained: 0,
        suppressed: 0,
        paused: 0,
    };
    let shares = [share(0, 7_001, 3), share(1, 998, 0), share(2, 1, 1)];
    let stages = stages(8_000, 4, &Sending::default(), false);
    let dealt = dealt(&shares, &stages);
    for share in &shares {
        let copies: i64 = dealt.iter().map(|stage| stage[&share.provider]).sum();
        assert_eq!(copies, share.recipients, "{dealt:?}");
        assert_eq!(dealt[0][&share.provider], share.seeds);
    }
    for (stage, dealt) in stages.iter().zip(&dealt) {
        let copies: i64 = dealt.values().sum();
        assert!((copies - stage.size).abs() <= 3, "{stage:?}: {dealt:?}");
    }
}

#[test]
fn a_large_import_is_met_with_one_more_stage() {
    for (recipients, seeds, expected) in [
        (0, 0, vec![0, 0]),
        (60, 3, vec![3, 5, 52]),
        (500, 0, vec![0, 5, 45, 450]),
        (2_000, 5, vec![5, 5, 45, 150, 1_795]),
        (100_000, 0, vec![0, 100, 900, 9_000, 90_000]),
    ] {
        assert_eq!(sizes(recipients, seeds, true), expected, "{recipients} recipients");
    }
}

#[test]
fn every_reader_is_dealt_a_place_and_another_one_each_issue() {
    let (first, second) = (deal(IssueId(1)), deal(IssueId(2)));
    assert_ne!(first, second);
    for (multiplier, offset) in [first, second] {
        assert!((1..PLACES).contains(&multiplier) && (0..PLACES).contains(&offset));
    }
    let canary = |issue: i64| {
        let (multiplier, offset) = deal(IssueId(issue));
        (1..=100_000_i64)
            .filter(move |id| (id * multiplier + offset) % PLACES < PLACES / 100)
            .collect::<std::collections::HashSet<_>>()
    };
    let (first, second) = (canary(1), canary(2));
    assert!((900..=1100).contains(&first.len()), "{}", first.len());
    assert!(first.intersection(&second).count() < 60);
}
