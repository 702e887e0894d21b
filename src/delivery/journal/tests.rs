use super::*;

fn copy(subscriber: i64) -> CopyId {
    CopyId::Issue { issue: IssueId(7), subscriber: SubscriberId(subscriber) }
}

#[test]
fn the_last_word_on_each_copy_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    assert_eq!(read(&path).unwrap(), None);
    let journal = Journal::create(&path, "node", 0).unwrap();
    journal.dot(copy(1), 1).unwrap();
    journal.dot(copy(2), 3).unwrap();
    journal.dot(CopyId::Service(ServiceMailId(4)), 1).unwrap();
    journal.dot(copy(5), 1).unwrap();
    journal.body(copy(5), 1).unwrap();
    assert!(journal.verdict(copy(5), 1).is_none());
    let said = Reply::new(250, "2.0.0 queued\r\nas x");
    journal.reply(copy(2), 3, &said).unwrap();
    let remains = read(&path).unwrap().unwrap();
    assert_eq!((remains.node_uid.as_str(), remains.survived_power_loss), ("node", false));
    assert_eq!(remains.entries.len(), 3);
    assert_eq!(remains.entries[&copy(1)], Entry::Dot { attempt: 1 });
    let reply = Entry::Reply {
        attempt: 3,
        code: 250,
        enhanced: said.enhanced,
        text: "2.0.0 queued  as x".into(),
    };
    assert_eq!(remains.entries[&copy(2)], reply);
}

#[test]
fn a_line_cut_short_never_took_effect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 0).unwrap();
    journal.dot(copy(1), 1).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in whole.len() - 8..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().entries.len(), 0);
    }
}

#[test]
fn half_a_line_that_a_full_disk_left_does_not_swallow_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 0).unwrap();
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let whole = std::mem::replace(&mut journal.lock().file, full);
    assert!(journal.dot(copy(1), 1).is_err());
    assert!(journal.verdict(copy(1), 1).is_none());
    journal.lock().file = whole;
    journal.lock().file.write_all(b"D 7.1").unwrap();
    journal.dot(copy(2), 1).unwrap();
    journal.dot(copy(3), 1).unwrap();
    let entries = read(&path).unwrap().unwrap().entries;
    assert_eq!(entries[&copy(2)], Entry::Dot { attempt: 1 });
    assert_eq!(entries.len(), 2, "half a line is none");
}

#[test]
fn another_boot_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, format!("{MAGIC} node another-boot\nD 7.1 1\n")).unwrap();
    assert!(read(&path).unwrap().unwrap().survived_power_loss);
}

#[test]
fn what_a_failed_disk_lost_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 0).unwrap();
    journal.dot(copy(1), 1).unwrap();
    journal.dot(copy(2), 1).unwrap();
    assert!(!read(&path).unwrap().unwrap().survived_power_loss);
    let mut octets = fs::read(&path).unwrap();
    let lost = octets.len() - 8;
    octets[lost..].fill(0);
    fs::write(&path, &octets).unwrap();
    assert!(read(&path).unwrap().unwrap().survived_power_loss);
    // Of a file that lost its head nothing is believed.
    octets.fill(0);
    fs::write(&path, octets).unwrap();
    assert_eq!(read(&path).unwrap(), None);
}

#[test]
fn a_journal_that_lost_its_end_does_not_have_the_last_handoff() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 41).unwrap();
    assert_eq!(read(&path).unwrap().unwrap().handoffs, 41);
    journal.announce(42).unwrap();
    let before = fs::read(&path).unwrap().len();
    journal.dot(copy(1), 1).unwrap();
    journal.announce(43).unwrap();
    journal.dot(copy(2), 1).unwrap();
    let whole = fs::read(&path).unwrap();
    assert_eq!(read(&path).unwrap().unwrap().handoffs, 43);
    for cut in before..before + "D 7.1 1\nH 43".len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().handoffs, 42);
    }
}

#[test]
fn a_handoff_that_a_full_disk_kept_out_is_announced_before_the_next_dot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 7).unwrap();
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let whole = std::mem::replace(&mut journal.lock().file, full);
    assert!(journal.announce(8).is_err());
    assert!(journal.dot(copy(1), 1).is_err());
    journal.lock().file = whole;
    journal.dot(copy(2), 1).unwrap();
    let remains = read(&path).unwrap().unwrap();
    assert_eq!((remains.handoffs, remains.entries.len()), (8, 1));
}

#[test]
fn a_grown_file_is_replaced_and_keeps_what_is_live() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::create(&path, "node", 0).unwrap();
    journal.dot(copy(-1), 1).unwrap();
    journal.announce(5).unwrap();
    let reply = Reply::new(250, "x".repeat(TEXT_BYTES_MAX));
    for subscriber in 0..20_000 {
        journal.reply(copy(subscriber), 1, &reply).unwrap();
        journal.settled([copy(subscriber)]);
    }
    assert!(fs::metadata(&path).unwrap().len() <= BYTES_MAX + 1024);
    let remains = read(&path).unwrap().unwrap();
    assert_eq!((remains.handoffs, &remains.entries[&copy(-1)]), (5, &Entry::Dot { attempt: 1 }));
}
