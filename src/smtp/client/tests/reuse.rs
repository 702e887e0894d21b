//! Many messages over one session, step by step, in groups and across messages.

use super::super::*;
use super::server::*;

#[tokio::test]
async fn carries_messages_with_and_without_pipelining() {
    for (plan, across) in
        [(Plan::plain(), false), (Plan::pipelining(), false), (Plan::pipelining(), true)]
    {
        let server = Server::start(plan).await;
        let mut session = server.session().await;
        for number in 1..=5 {
            let (this, next) = (envelope(number), envelope(number + 1));
            let next = (across && number < 5).then_some(&next);
            let message = Outgoing { envelope: &this, body: BODY };
            let (transaction, dots) = send(&mut session, &message, next).await;
            assert!(matches!(&transaction.verdict, Verdict::Accepted(reply) if reply.code == 250));
            assert_eq!(transaction.session, SessionState::Usable);
            assert_eq!(transaction.next_opened, next.is_some());
            assert_eq!(session.holds_envelope(), next.is_some());
            assert_eq!(transaction.bytes, BODY.len() as u64 + 3);
            assert_eq!(dots, 1);
        }
        assert_eq!(session.messages_sent(), 5);
        session.quit().await;
        let journal = server.journal().await;
        let recipients: Vec<String> =
            (1..=5).map(|n| format!("RCPT TO:<reader{n}@example.net>")).collect();
        let taken: Vec<String> = journal.taken.iter().map(|(rcpt, _)| rcpt.clone()).collect();
        assert_eq!(taken, recipients);
        assert!(journal.taken.iter().all(|(_, body)| body == BODY));
        assert_eq!(journal.commands.last().map(String::as_str), Some("QUIT"));
    }
}
