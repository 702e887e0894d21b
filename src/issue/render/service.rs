//! Mails that are not issues: to confirm, to welcome, to part, to ask, to tell an operator. They go to
//! one person at once, so their links are values and not slots.

use serde_json::{Value, json};

use crate::issue::{
    brand::Brand,
    render::{
        RenderError, literal, mjml_to_html,
        palette::Palette,
        templates::Templates,
        tidy,
        view::{Markers, Target, frame},
        weave::Weave,
    },
};

/// A mail that is not an issue. Nothing that a requester typed is in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceMail {
    /// Asks for the confirmation of a sign-up.
    Confirmation {
        /// The page with the button that confirms.
        confirm_url: String,
        /// The page that blocks further sign-ups of this address.
        not_me_url: String,
        /// Until when the link works, for a person: `18 August 2024`.
        expires: String,
        /// Whether this repeats an earlier one.
        reminder: bool,
    },
    /// Tells a reader that the subscription is confirmed.
    Welcome {
        /// The page to leave.
        unsubscribe_url: String,
        /// The preferences page.
        preferences_url: String,
        /// Title and page of the latest issue, where there is one.
        latest: Option<(String, String)>,
    },
    /// Tells somebody who signed up again that nothing changed.
    AlreadySubscribed {
        /// The page to leave.
        unsubscribe_url: String,
        /// The preferences page.
        preferences_url: String,
    },
    /// Tells a reader that they have left.
    Goodbye {
        /// The sign-up page.
        subscribe_url: String,
    },
    /// Finds out whether an address that bounced softly still works.
    Probe {
        /// The page to leave.
        unsubscribe_url: String,
        /// The preferences page.
        preferences_url: String,
    },
    /// Tells an operator or editor something.
    OperatorNotice {
        /// What it is about; the subject too.
        headline: String,
        /// What happened and what to do.
        paragraphs: Vec<String>,
        /// Names and values to go with it.
        facts: Vec<(String, String)>,
        /// Label and target of a button.
        action: Option<(String, String)>,
    },
}

/// A mail that is the same for whoever gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedMail {
    /// The subject line.
    pub subject: String,
    /// The HTML part.
    pub html: String,
    /// The text part, with LF line ends.
    pub text: String,
}

impl ServiceMail {
    /// One of each, to try templates out with.
    pub fn examples() -> Vec<Self> {
        let url = |path: &str| format!("https://newsletter.example/{path}");
        let unsubscribe_url = url("leave/token");
        let preferences_url = url("preferences/token");
        vec![
            Self::Confirmation {
                confirm_url: url("confirm/token"),
                not_me_url: url("not-me/token"),
                expires: "18 August 2024".to_owned(),
                reminder: false,
            },
            Self::Confirmation {
                confirm_url: url("confirm/token"),
                not_me_url: url("not-me/token"),
                expires: "18 August 2024".to_owned(),
                reminder: true,
            },
            Self::Welcome {
                unsubscribe_url: unsubscribe_url.clone(),
                preferences_url: preferences_url.clone(),
                latest: Some(("Issue #437".to_owned(), url("issues/437"))),
            },
            Self::AlreadySubscribed {
                unsubscribe_url: unsubscribe_url.clone(),
                preferences_url: preferences_url.clone(),
            },
            Self::Goodbye { subscribe_url: url("") },
            Self::Probe { unsubscribe_url, preferences_url },
            Self::OperatorNotice {
                headline: "Issue #437 was halted".to_owned(),
                paragraphs: vec![
                    "More copies than allowed were refused in the first stage. \
                     Nothing more is sent until somebody decides."
                        .to_owned(),
                ],
                facts: vec![
                    ("Gate".to_owned(), "refused share".to_owned()),
                    ("Reply".to_owned(), "550 5.7.1 <blocked> & more".to_owned()),
                ],
                action: Some(("Look at the deliveries".to_owned(), url("admin/issues/437"))),
            },
        ]
    }

    fn template(&self) -> &'static str {
        match self {
            Self::Confirmation { .. } => "confirmation",
            Self::Welcome { .. } => "welcome",
            Self::AlreadySubscribed { .. } => "already_subscribed",
            Self::Goodbye { .. } => "goodbye",
            Self::Probe { .. } => "probe",
            Self::OperatorNotice { .. } => "operator_notice",
        }
    }
}

/// Renders a service mail.
pub(super) fn render(
    templates: &Templates,
    mail: &ServiceMail,
    brand: &Brand,
    palette: &Palette,
) -> Result<RenderedMail, RenderError> {
    let mut weave = Weave::new();
    let data = view(&mut weave, mail, brand, palette, Target::Text);
    let text = templates.text(mail.template(), &data)?;
    let Some((subject, text)) =
        text.trim_start().strip_prefix("Subject:").and_then(|text| text.split_once('\n'))
    else {
        return Err(RenderError::Template {
            file: format!("{}.txt.hbs", mail.template()),
            line: 1,
            message: "the first line is `Subject: …`".to_owned(),
        });
    };
    let finished = |text: &str| -> Result<String, RenderError> {
        Ok(literal(&weave.finish(text)?.into_merge_text()))
    };
    let subject = finished(subject)?.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = finished(&tidy(text))?;

    let mut weave = Weave::new();
    let mut data = view(&mut weave, mail, brand, palette, Target::Mail(palette));
    data["title"] =
        Markers::new(&mut weave, Target::Mail(palette), brand.direction).plain(&subject);
    let html = mjml_to_html(&templates.html("layout", &data)?)?;
    let html = literal(&weave.finish(&html)?.into_merge_text());
    Ok(RenderedMail { subject, html, text })
}

fn view(
    weave: &mut Weave,
    mail: &ServiceMail,
    brand: &Brand,
    palette: &Palette,
    target: Target<'_>,
) -> Value {
    let mut markers = Markers::new(weave, target, brand.direction);
    let mut view = frame(&mut markers, brand, palette);
    view.insert("template".to_owned(), json!(mail.template()));
    view.insert("language".to_owned(), json!(brand.language));
    view.insert("title".to_owned(), json!(""));
    for (name, value) in own(&mut markers, mail) {
        view.insert(name.to_owned(), value);
    }
    Value::Object(view)
}

/// What is particular to each mail.
fn own(markers: &mut Markers<'_, '_>, mail: &ServiceMail) -> Vec<(&'static str, Value)> {
    match mail {
        ServiceMail::Confirmation { confirm_url, not_me_url, expires, reminder } => vec![
            ("confirm_url", markers.plain(confirm_url)),
            ("not_me_url", markers.plain(not_me_url)),
            ("expires", markers.plain(expires)),
            ("reminder", json!(reminder)),
        ],
        ServiceMail::Welcome { unsubscribe_url, preferences_url, latest } => vec![
            ("reader", reader(markers, unsubscribe_url, preferences_url)),
            ("latest_title", markers.optional(latest.as_ref().map(|(title, _)| title.as_str()))),
            ("latest_url", markers.optional(latest.as_ref().map(|(_, url)| url.as_str()))),
        ],
        ServiceMail::AlreadySubscribed { unsubscribe_url, preferences_url }
        | ServiceMail::Probe { unsubscribe_url, preferences_url } => {
            vec![("reader", reader(markers, unsubscribe_url, preferences_url))]
        }
        ServiceMail::Goodbye { subscribe_url } => {
            vec![("subscribe_url", markers.plain(subscribe_url))]
        }
        ServiceMail::OperatorNotice { headline, paragraphs, facts, action } => {
            let paragraphs: Vec<Value> =
                paragraphs.iter().map(|paragraph| markers.plain(paragraph)).collect();
            let facts: Vec<Value> = facts
                .iter()
                .map(|(name, value)| {
                    json!({ "name": markers.plain(name), "value": markers.plain(value) })
                })
                .collect();
            vec![
                ("headline", markers.plain(headline)),
                ("paragraphs", json!(paragraphs)),
                ("facts", json!(facts)),
                ("action_label", markers.optional(action.as_ref().map(|(label, _)| &**label))),
                ("action_url", markers.optional(action.as_ref().map(|(_, url)| &**url))),
            ]
        }
    }
}

fn reader(markers: &mut Markers<'_, '_>, unsubscribe_url: &str, preferences_url: &str) -> Value {
    json!({
        "address": null,
        "unsubscribe": markers.plain(unsubscribe_url),
        "preferences": markers.plain(preferences_url),
        "issue": null,
    })
}
