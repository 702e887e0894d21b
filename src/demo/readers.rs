//! The people of the story, who act over HTTP and know only what is in their mail.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::mails_to;
use crate::{
    link::Links,
    sink::{Sink, mailbox::Received},
};

/// How many people act at once.
const AT_ONCE: usize = 32;

/// Who is in the story, and what becomes of them.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// Everybody who signs up.
    pub(super) all: Vec<String>,
    /// Those who never confirm.
    pub(super) silent: HashSet<String>,
    /// Those who sign up twice.
    pub(super) twice: Vec<String>,
    /// Confirmed, but refused with a 5xx when the issue comes.
    pub(super) refused: Vec<String>,
    /// Deferred with a 4xx first.
    pub(super) deferred: Vec<String>,
    /// Accepted at first, and bounced by a report.
    pub(super) bouncing: Vec<String>,
    /// Leave in the middle of the send with the button of the issue they just got.
    pub(super) leaving_after: usize,
    /// Leave in the middle of the send, before their copy went out.
    pub(super) leaving_before: usize,
}

impl Cast {
    pub(super) fn new(readers: u32) -> Self {
        let all: Vec<String> =
            (1..=readers).map(|number| format!("reader{number}@inbox.example")).collect();
        let every = |nth: usize, first: usize| -> Vec<String> {
            all.iter().skip(first).step_by(nth).cloned().collect()
        };
        let silent: HashSet<String> = every(50, 7).into_iter().collect();
        let confirmed = |addresses: Vec<String>| -> Vec<String> {
            addresses.into_iter().filter(|address| !silent.contains(address)).collect()
        };
        Self {
            twice: every(100, 3),
            refused: confirmed(every(60, 11)),
            deferred: confirmed(every(40, 21)),
            bouncing: confirmed(every(125, 31)),
            leaving_after: 5,
            leaving_before: 5,
            silent,
            all,
        }
    }

    pub(super) fn confirming(&self) -> impl Iterator<Item = &String> {
        self.all.iter().filter(|address| !self.silent.contains(*address))
    }

    /// Whether nothing happens to this reader but getting the issue.
    pub(super) fn is_ordinary(&self, address: &String) -> bool {
        ![&self.refused, &self.deferred, &self.bouncing].iter().any(|group| group.contains(address))
            && !self.silent.contains(address)
    }
}

/// Everybody's browser.
pub(super) struct Readers<'a> {
    http: reqwest::Client,
    links: Links,
    slug: String,
    mailbox: &'a Sink,
}

impl<'a> Readers<'a> {
    pub(super) fn new(links: Links, slug: String, mailbox: &'a Sink) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, links, slug, mailbox })
    }

    /// Fills in the form for everybody, twice for some.
    pub(super) async fn sign_up(&self, cast: &Cast) -> anyhow::Result<()> {
        let everybody = cast.all.iter().chain(&cast.twice);
        stream::iter(everybody.map(Ok))
            .try_for_each_concurrent(AT_ONCE, |address| self.fill_in_form(address))
            .await
    }

    async fn fill_in_form(&self, address: &str) -> anyhow::Result<()> {
        let page = self.links.newsletter(&self.slug);
        let html = self.http.get(&page).send().await?.error_for_status()?.text().await?;
        let time = between(&html, "name=\"form_time\" value=\"", "\"")
            .context("the page has no sign-up form")?;
        let form = [("address", address), ("website", ""), ("form_time", time)];
        let answer = self.http.post(format!("{page}subscribe")).form(&form).send().await?;
        let status = answer.status();
        anyhow::ensure!(
            status.is_success() || status.is_redirection(),
            "the sign-up of {address} was answered with {status}"
        );
        Ok(())
    }

    /// Opens the link of everybody's confirmation mail and presses the button.
    pub(super) async fn confirm(&self, cast: &Cast, patience: Duration) -> anyhow::Result<()> {
        stream::iter(cast.confirming().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |address| self.confirm_one(address, patience))
            .await
    }

    async fn confirm_one(&self, address: &str, patience: Duration) -> anyhow::Result<()> {
        let link = self.link_in_mail(address, "/-/confirm/", patience).await?;
        let page = self.http.get(&link).send().await?.error_for_status()?.text().await?;
        anyhow::ensure!(page.contains("method=\"post\""), "the confirmation page has no button");
        self.http.post(&link).send().await?.error_for_status()?;
        // The welcome mail has the link by which some leave later; and mailboxes misbehave only
        // once it has come.
        self.link_in_mail(address, "/-/unsubscribe/", patience).await?;
        Ok(())
    }

    /// While the issue goes out: some press the unsubscribe button of the copy they got, others
    /// leave by an earlier mail before theirs was sent.
    pub(super) async fn leave_in_the_middle(
        &self,
        cast: &Cast,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut got: Vec<String> = Vec::new();
        while got.len() < cast.leaving_after {
            anyhow::ensure!(begin.elapsed() < patience, "nobody got the issue");
            tokio::time::sleep(Duration::from_millis(50)).await;
            got = cast
                .confirming()
                .filter(|address| cast.is_ordinary(address) && self.issue_of(address).is_some())
                .take(cast.leaving_after)
                .cloned()
                .collect();
        }
        for address in &got {
            let copy = self.issue_of(address).context("a copy has gone")?;
            self.one_click(&copy).await?;
        }
        // Those at the end of the list are most likely still waiting for theirs.
        let waiting: Vec<&String> = cast
            .confirming()
            .filter(|address| cast.is_ordinary(address) && self.issue_of(address).is_none())
            .collect();
        stream::iter(waiting.iter().rev().take(cast.leaving_before))
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |address| async {
                let link = self.link_in_mail(address, "/-/unsubscribe/", patience).await?;
                self.post_one_click(&link).await
            })
            .await
    }

    /// The unsubscribe button of a mail program (RFC 8058).
    async fn one_click(&self, copy: &Received) -> anyhow::Result<()> {
        let content = copy.content();
        let header = content.header("List-Unsubscribe").context("no List-Unsubscribe")?;
        let link = between(header, "<http", ">").context("no https link to leave")?;
        self.post_one_click(&format!("http{link}")).await
    }

    async fn post_one_click(&self, link: &str) -> anyhow::Result<()> {
        let form = [("List-Unsubscribe", "One-Click")];
        let answer = self.http.post(link).form(&form).send().await?;
        anyhow::ensure!(answer.status() == 200, "one-click was answered with {}", answer.status());
        Ok(())
    }

    /// The copy of the issue that came to `address`.
    fn issue_of(&self, address: &str) -> Option<Arc<Received>> {
        mails_to(self.mailbox, address)
            .into_iter()
            .find(|mail| mail.content().header("List-Unsubscribe").is_some())
    }

    /// The link with `path` in a mail to `address`, once it has come.
    async fn link_in_mail(
        &self,
        address: &str,
        path: &str,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let begin = Instant::now();
        loop {
            let mails = mails_to(self.mailbox, address);
            let links = mails.iter().flat_map(|mail| mail.content().links);
            if let Some(link) = links.into_iter().find(|link| link.contains(path)) {
                return Ok(link);
            }
            anyhow::ensure!(begin.elapsed() < patience, "no mail with {path} came to {address}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What stands between `before` and `after` in `text`.
fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}
