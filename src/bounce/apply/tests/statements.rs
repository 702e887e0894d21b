//! No statement that meets a million rows reads them all: SQLite's own plan says so.

use super::{super::*, House};
use crate::db::record::record;

record! {
    struct Step {
        detail: String,
    }
}

#[tokio::test]
async fn statements_on_large_tables_use_an_index() {
    let house = House::new().await;
    for sql in [
        reader::BY_COPY,
        reader::BY_SERVICE_MAIL,
        reader::BY_ID,
        returned::KNOWN,
        returned::READ_BEFORE,
        replay::SELECT,
        soft::FAILURES,
        soft::SUCCESSES,
        brake::DECIDED,
        held::TAKE_BACK,
        inbound::FORGET,
        inbound::LIST,
        provider::LAST_TAKEN,
        provider::FORGET_EVENTS,
        "SELECT COUNT(*) FROM inbound_mail WHERE subscriber_id = $1",
        "SELECT subscriber_id FROM held_suppression \
         WHERE issue_id = $1 AND provider = $2 AND at = $3",
        "DELETE FROM suppression WHERE reason = 'bounce' AND address_hash IN \
         (SELECT address_hash FROM subscriber WHERE id IN (SELECT value FROM json_each($1)))",
    ] {
        let explained: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {sql}").into());
        let mut tx = house.db.begin().await.unwrap();
        let steps: Vec<Step> = tx.query(explained).all().await.unwrap();
        assert!(!steps.is_empty(), "{sql}");
        for step in steps {
            // Issues are few, and a list that is bound is as long as it is made.
            let small = step.detail == "SCAN i" || step.detail.contains("VIRTUAL TABLE");
            let whole = step.detail.starts_with("SCAN ") && !small;
            assert!(!whole && !step.detail.contains("AUTOMATIC"), "{}\n{sql}", step.detail);
        }
    }
}
