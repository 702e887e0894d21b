use super::*;
use crate::merge::{Field, Reader};
use std::borrow::Cow;

pub(crate) struct Ada;

impl Reader for Ada {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match field {
            Field::Address => "ada@example.org",
            Field::Name => "Ada",
            Field::UnsubscribeUrl => "https://news.example/leave/TOKEN",
            Field::UnsubscribeMailto => "mailto:leave@news.example",
            Field::PreferencesUrl => "https://news.example/preferences/TOKEN",
            Field::IssueUrl => "https://news.example/issues/12",
            Field::Attribute(_) => return None,
        }))
    }
}

fn sample() -> RenderedIssue {
    let parsed = crate::issue::parse("sample-issue.md", crate::issue::SAMPLE.as_bytes());
    assert_eq!(parsed.diagnostics, []);
    let brand = Brand {
        postal_address: Some("Example Press, 1 Sample Street, Exampleton".into()),
        ..Brand::new("Quiet Systems", "https://quiet.example")
    };
    Renderer::new(None).unwrap().issue(&parsed.document, &brand).unwrap()
}

fn merged(text: &MergeText) -> String {
    let mut out = String::new();
    text.write(&Ada, &mut out).unwrap();
    out
}

#[test]
fn the_sample_renders() {
    let issue = sample();
    let html = merged(&issue.html);
    println!("{} bytes", issue.html_bytes());
    if let Ok(folder) = std::env::var("POSTRIDER_TEST_OUT") {
        std::fs::write(format!("{folder}/sample.html"), &html).unwrap();
        std::fs::write(format!("{folder}/sample.txt"), merged(&issue.text)).unwrap();
        std::fs::write(format!("{folder}/sample-web.html"), issue.web_html()).unwrap();
        for (index, mail) in ServiceMail::examples().iter().enumerate() {
            let brand = Brand::new("Quiet Systems", "https://quiet.example");
            let mail = Renderer::new(None).unwrap().service(mail, &brand).unwrap();
            std::fs::write(format!("{folder}/service{index}.html"), &mail.html).unwrap();
            std::fs::write(
                format!("{folder}/service{index}.txt"),
                format!("{}\n\n{}", mail.subject, mail.text),
            )
            .unwrap();
        }
    }
}
