//! What a sink does wrong when it is asked to.

use super::*;

async fn heard_at_the_dot(sink: &Sink, rule: Rule) -> Vec<u8> {
    let rule = Rule { stage: FaultStage::Dot, ..rule };
    sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.ask("MAIL FROM:<b+1@bounce.example>\r\n", 250).await;
    client.ask("RCPT TO:<ada@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    client.say(format!("{MAIL}.\r\nQUIT\r\n")).await;
    client.hear_out().await
}

#[tokio::test]
async fn replies_are_spoilt_as_rules_say() {
    let sink = start(SinkConfig::default()).await;
    let bye = b"221 2.0.0 Bye\r\n".as_slice();
    let text = |text: &str| Some(text.to_owned());
    for (rule, expected) in [
        (Rule::default(), b"250 2.0.0 Ok\r\n".as_slice()),
        (Rule { reply: text("554 5.7.1 spam"), ..Rule::default() }, b"554 5.7.1 spam\r\n"),
        (Rule { reply: text("250 odd"), ..Rule::default() }, b"250 odd\r\n"),
        (Rule { shape: RuleShape::BareLf, ..Rule::default() }, b"250 2.0.0 Ok\n"),
        (Rule { shape: RuleShape::Nul, ..Rule::default() }, b"250 2.0.0 Ok \0 nul\r\n"),
        (
            Rule { shape: RuleShape::InvalidUtf8, ..Rule::default() },
            b"250 2.0.0 Ok \xff\xfe\xc3\x28\r\n",
        ),
        (Rule { shape: RuleShape::NoEnhancedCode, ..Rule::default() }, b"250 Ok\r\n"),
        (Rule { lines: Some(1), ..Rule::default() }, b"250-line 0\r\n250 2.0.0 Ok\r\n"),
        (
            Rule { extra: text(r"250 again\r\n"), ..Rule::default() },
            b"250 2.0.0 Ok\r\n250 again\r\n",
        ),
        (Rule { raw: text(r"2\x35"), then: Then::Close, ..Rule::default() }, b"25"),
        (Rule { cut: Some(2), then: Then::Close, ..Rule::default() }, b"25"),
        (Rule { cut: Some(0), then: Then::Close, ..Rule::default() }, b""),
        (
            Rule { reply: text("421 4.3.2 bye"), then: Then::Close, ..Rule::default() },
            b"421 4.3.2 bye\r\n",
        ),
        (Rule { trickle: Duration::from_millis(1), ..Rule::default() }, b"250 2.0.0 Ok\r\n"),
    ] {
        let goes_on = rule.then == Then::GoOn;
        let heard = heard_at_the_dot(&sink, rule).await;
        let expected = if goes_on { [expected, bye].concat() } else { expected.to_vec() };
        assert_eq!(heard, expected, "{}", String::from_utf8_lossy(&heard));
    }
}

#[tokio::test]
async fn replies_can_be_huge() {
    let sink = start(SinkConfig::default()).await;
    let heard =
        heard_at_the_dot(&sink, Rule { line_bytes: Some(1_000_000), ..Rule::default() }).await;
    assert!(heard.len() > 1_000_000);
    let heard = heard_at_the_dot(&sink, Rule { lines: Some(1000), ..Rule::default() }).await;
    assert_eq!(heard.split(|byte| *byte == b'\n').count(), 1003);
}

#[tokio::test]
async fn the_journal_knows_the_verdict_that_the_client_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let sink = start(SinkConfig { journal: Some(path.clone()), ..SinkConfig::default() }).await;
    let lost = Rule { cut: Some(0), then: Then::Close, ..Rule::default() };
    let refused = Rule { reply: Some("452 4.2.2 full".into()), ..Rule::default() };
    for (rule, expected) in [
        (lost.clone(), (Verdict::Dropped, None, false)),
        (Rule { accepted: Some(true), ..lost.clone() }, (Verdict::Accepted, None, false)),
        (Rule { cut: Some(2), ..lost.clone() }, (Verdict::Accepted, None, false)),
        (Rule { cut: None, ..lost }, (Verdict::Accepted, Some(250), true)),
        (refused.clone(), (Verdict::Refused, Some(452), true)),
        (Rule { accepted: Some(true), ..refused }, (Verdict::Accepted, Some(452), true)),
    ] {
        heard_at_the_dot(&sink, rule.clone()).await;
        let record = journal::read(&path).unwrap().pop().unwrap();
        assert_eq!((record.verdict, record.code, record.reply_sent), expected, "{rule:?}");
    }
    assert_eq!(sink.mailbox().len(), 4);
}

#[tokio::test]
async fn connections_are_reset_stalled_and_delayed() {
    let sink = start(SinkConfig::default()).await;
    let strike = |rule: Rule| {
        sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
    };
    for stage in [FaultStage::Connect, FaultStage::Greeting] {
        strike(Rule { cut: Some(0), then: Then::Reset, ..Rule::at(stage) });
        assert!(Dialogue::connect(sink.smtp_addr).await.is_reset().await, "{stage:?}");
    }
    strike(Rule { then: Then::Reset, ..Rule::at(FaultStage::Rcpt) });
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.say("RCPT TO:<ada@example.org>\r\n").await;
    assert!(client.is_reset().await);

    strike(Rule { delay: Duration::from_millis(300), ..Rule::at(FaultStage::Noop) });
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    let started = std::time::Instant::now();
    client.ask("NOOP\r\n", 250).await;
    assert!(started.elapsed() >= Duration::from_millis(300));

    strike(Rule { then: Then::Stall, cut: Some(0), ..Rule::at(FaultStage::Mail) });
    client.say("MAIL FROM:<>\r\nNOOP\r\n").await;
    let silence = tokio::time::timeout(Duration::from_millis(200), client.hear()).await;
    assert!(silence.is_err(), "{silence:?}");
    // The stalled session ends with its client.
    drop(client);
    sink.wait_for(PATIENCE, |stats| stats.connections_open == 0).await.unwrap();
}

#[tokio::test]
async fn every_stage_can_refuse_and_close() {
    let sink = start(SinkConfig { auth: Auth::RequiredInTheClear, ..SinkConfig::default() }).await;
    let script = [
        (FaultStage::Hello, "EHLO client.example\r\n"),
        (FaultStage::Auth, "AUTH PLAIN AGEAYg==\r\n"),
        (FaultStage::Noop, "NOOP\r\n"),
        (FaultStage::Mail, "MAIL FROM:<b@bounce.example>\r\n"),
        (FaultStage::Rcpt, "RCPT TO:<ada@example.org>\r\n"),
        (FaultStage::Data, "DATA\r\n"),
        (FaultStage::Body, "Subject: x\r\n"),
        (FaultStage::Dot, ".\r\n"),
        (FaultStage::Idle, ""),
        (FaultStage::Rset, "RSET\r\n"),
        (FaultStage::Quit, "QUIT\r\n"),
    ];
    for stage in FaultStage::ALL.into_iter().filter(|stage| *stage != FaultStage::Starttls) {
        let rule = Rule {
            reply: Some("421 4.3.2 struck".into()),
            then: Then::Close,
            after_bytes: 1,
            ..Rule::at(stage)
        };
        sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
        let mut client = Dialogue::connect(sink.smtp_addr).await;
        if !matches!(stage, FaultStage::Connect | FaultStage::Greeting) {
            client.expect(220).await;
            for (step, line) in script {
                client.say(line).await;
                if step == stage {
                    break;
                }
                if !matches!(step, FaultStage::Body | FaultStage::Idle) {
                    assert!(client.hear().await.starts_with(['2', '3']), "{step:?}");
                }
            }
        }
        assert_eq!(client.hear_out().await, b"421 4.3.2 struck\r\n", "{stage:?}");
    }
}

#[tokio::test]
async fn a_success_in_place_of_354_takes_no_data() {
    let sink = start(SinkConfig::default()).await;
    let rule = Rule { reply: Some("250 2.0.0 Ok".into()), ..Rule::at(FaultStage::Data) };
    sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask("RCPT TO:<ada@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 250).await;
    client.ask("NOOP\r\n", 250).await;
    assert_eq!(sink.stats().accepted, 0);
}

#[tokio::test]
async fn tls_can_break_after_it_was_promised() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let sink =
        start(SinkConfig { tls: Tls::StartTls(Arc::new(tls)), ..SinkConfig::default() }).await;
    for (rule, expected) in [
        (
            Rule {
                extra: Some(r"\x15garbage".into()),
                then: Then::Close,
                ..Rule::at(FaultStage::Starttls)
            },
            b"220 2.0.0 Go ahead\r\n\x15garbage".as_slice(),
        ),
        (
            Rule {
                reply: Some("454 4.7.0 TLS is broken".into()),
                then: Then::Close,
                ..Rule::at(FaultStage::Starttls)
            },
            b"454 4.7.0 TLS is broken\r\n",
        ),
    ] {
        sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
        let mut client = Dialogue::greeted(sink.smtp_addr).await;
        client.say("STARTTLS\r\n").await;
        assert_eq!(client.hear_out().await, expected);
    }
}
