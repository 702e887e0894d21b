//! No statement that meets a million rows reads them all: SQLite's own plan says so.

use super::*;

record! {
    struct Step {
        detail: String,
    }
}

/// What each statement may not do: read a whole table, or build an index for itself.
#[tokio::test]
async fn statements_on_large_tables_use_an_index() {
    let house = House::new().await;
    for sql in [
        "SELECT id FROM subscriber WHERE address_hash = $1",
        "SELECT s.id, b.state FROM subscriber s LEFT JOIN subscription b ON b.newsletter_id = $1 \
         AND b.subscriber_id = s.id WHERE s.address_hash = $2",
        "SELECT b.state FROM subscription b JOIN newsletter n ON n.id = b.newsletter_id \
         WHERE b.subscriber_id = $1",
        "SELECT reason FROM suppression WHERE address_hash = $1",
        "SELECT address FROM suppression WHERE created_at < $1 AND ($2 IS NULL OR reason = $2) \
         ORDER BY created_at DESC LIMIT $3",
        "SELECT id FROM confirmation WHERE token_hash = $1 AND purpose = $2",
        "SELECT id FROM confirmation WHERE subscriber_id = $1 AND newsletter_id = $2 \
         AND purpose = 'subscription' AND used_at IS NULL ORDER BY id DESC LIMIT 1",
        "UPDATE confirmation SET used_at = $2 WHERE subscriber_id = $1 AND used_at IS NULL",
        "SELECT c.id FROM confirmation c JOIN subscriber s ON s.id = c.subscriber_id \
         LEFT JOIN subscription b ON b.newsletter_id = c.newsletter_id \
         AND b.subscriber_id = c.subscriber_id WHERE c.used_at IS NULL AND c.reminded_at IS NULL \
         AND c.created_at <= $2 ORDER BY c.created_at LIMIT $3",
        "SELECT newsletter_id FROM subscription WHERE state IN (0, 3) AND state = 3 \
         AND created_at <= $1 LIMIT $2",
        "UPDATE subscription SET state = 2 WHERE subscriber_id = $1 AND state IN (0, 1)",
        "UPDATE service_mail SET state = $1 WHERE subscriber_id = $3 AND state = $4 \
         AND ($5 IS NULL OR newsletter_id = $5)",
        "DELETE FROM inbound_mail WHERE subscriber_id = $1",
        "UPDATE event SET text = NULL WHERE subscriber_id = $1 AND text IS NOT NULL",
        "DELETE FROM soft_bounce WHERE subscriber_id = $1",
        "DELETE FROM signup_count WHERE scope = $1 AND day = $2",
        "SELECT s.id FROM subscription b CROSS JOIN subscriber s ON s.id = b.subscriber_id \
         LEFT JOIN suppression x ON x.address_hash = s.address_hash \
         WHERE b.newsletter_id = $1 AND b.subscriber_id > $2 ORDER BY b.subscriber_id LIMIT $3",
        "SELECT j.key, x.reason, s.id, b.state FROM json_each($1) j \
         LEFT JOIN suppression x ON x.address_hash = unhex(j.value) \
         LEFT JOIN subscriber s ON s.address_hash = unhex(j.value) \
         LEFT JOIN subscription b ON b.newsletter_id = $2 AND b.subscriber_id = s.id \
         WHERE x.address_hash IS NOT NULL OR s.id IS NOT NULL",
    ] {
        let explained: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {sql}").into());
        let mut tx = house.db.begin().await.unwrap();
        let steps: Vec<Step> = tx.query(explained).all().await.unwrap();
        for step in steps {
            let whole = step.detail.starts_with("SCAN ") && !step.detail.contains(" j VIRTUAL");
            let sorts = step.detail.contains("TEMP B-TREE") || step.detail.contains("AUTOMATIC");
            assert!(!whole && !sorts, "{}\n{sql}", step.detail);
        }
    }
}
