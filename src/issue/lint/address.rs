//! Addresses of links: their host, the same without tracking, and when two lead to the same page.

use std::borrow::Cow;

use url::Url;

use crate::issue::field;

/// Parameters that follow readers around. Those ending in `_` are prefixes.
const TRACKING: &[&str] = &[
    "utm_",
    "mtm_",
    "pk_",
    "fbclid",
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "msclkid",
    "twclid",
    "ttclid",
    "yclid",
    "li_fat_id",
    "igshid",
    "igsh",
    "mc_cid",
    "mc_eid",
    "mkt_tok",
    "_hsenc",
    "_hsmi",
    "__hstc",
    "__hssc",
    "__hsfp",
    "hsctatracking",
    "vero_id",
    "vero_conv",
    "oly_anon_id",
    "oly_enc_id",
    "wickedid",
    "s_cid",
    "ck_subscriber_id",
    "_openstat",
    "ref_src",
];

/// The URL with something harmless where reader fields stand.
pub(super) fn without_fields(url: &str) -> Cow<'_, str> {
    if !url.contains("{{") {
        return Cow::Borrowed(url);
    }
    let pieces = field::pieces(url).into_iter().map(|(range, piece)| match piece {
        field::Piece::Text => &url[range],
        field::Piece::Field(_) => "x",
    });
    Cow::Owned(pieces.collect())
}

/// The URL without tracking parameters, and which were taken out; `None` when there are none.
/// Nothing else of the URL changes.
pub fn without_tracking(url: &str) -> Option<(String, Vec<String>)> {
    let (rest, fragment) = match url.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment)),
        None => (url, None),
    };
    let (base, query) = rest.split_once('?')?;
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
    let (tracking, kept): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| is_tracking(&name(pair)));
    if tracking.is_empty() {
        return None;
    }
    let mut fixed = base.to_owned();
    if !kept.is_empty() {
        fixed.push('?');
        fixed.push_str(&kept.join("&"));
    }
    if let Some(fragment) = fragment {
        fixed.push('#');
        fixed.push_str(fragment);
    }
    Some((fixed, tracking.into_iter().map(name).collect()))
}

fn is_tracking(name: &str) -> bool {
    TRACKING.iter().any(|known| match known.strip_suffix('_') {
        Some(_) => name.len() > known.len() && name.starts_with(known),
        None => name == *known,
    })
}

/// Hosts where many publish: that two links lead there says nothing.
const SHARED: &[&str] = &[
    "github.com",
    "gitlab.com",
    "medium.com",
    "youtube.com",
    "youtu.be",
    "substack.com",
    "dev.to",
    "linkedin.com",
    "x.com",
    "twitter.com",
    "bsky.app",
    "docs.google.com",
    "vimeo.com",
    "reddit.com",
    "news.ycombinator.com",
    "arxiv.org",
    "acm.org",
    "dl.acm.org",
    "infoq.com",
];

/// Whether one publisher stands behind the host.
pub(super) fn is_own_host(host: &str) -> bool {
    !SHARED.contains(&host)
}

/// The host of a web link, in lower case and without `www.`.
pub(super) fn host_of(url: &str) -> Option<String> {
    let parsed = Url::parse(&without_fields(url)).ok()?;
    matches!(parsed.scheme(), "http" | "https").then_some(())?;
    Some(parsed.host_str()?.trim_start_matches("www.").to_owned())
}

/// What two links have in common when they lead to the same page: host without `www.`, path without a
/// last slash, query without tracking, no scheme and no fragment.
pub fn link_key(url: &str) -> String {
    let fixed = without_tracking(url).map_or(Cow::Borrowed(url), |(fixed, _)| Cow::Owned(fixed));
    let Ok(parsed) = Url::parse(&fixed) else { return fixed.into_owned() };
    let Some(host) = parsed.host_str() else { return fixed.into_owned() };
    let mut key = host.trim_start_matches("www.").to_owned();
    if let Some(port) = parsed.port() {
        key.push(':');
        key.push_str(&port.to_string());
    }
    key.push_str(parsed.path().trim_end_matches('/'));
    if let Some(query) = parsed.query().filter(|query| !query.is_empty()) {
        key.push('?');
        key.push_str(query);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracking_parameters_go_and_nothing_else() {
        for (url, expected) in [
            ("https://e.example/a?utm_source=x", Some("https://e.example/a")),
            (
                "https://e.example/a?id=1&UTM_Medium=x&b=%20#frag",
                Some("https://e.example/a?id=1&b=%20#frag"),
            ),
            ("https://e.example/a?fbclid=1&gclid=2", Some("https://e.example/a")),
            ("https://e.example/a?id=1#utm_source=x", None),
            ("https://e.example/utm_source", None),
            ("https://e.example/?utm_=1", None),
        ] {
            assert_eq!(without_tracking(url).map(|(fixed, _)| fixed).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn the_same_page_has_the_same_key() {
        let key = "e.example/a/b?id=1";
        for url in [
            "https://e.example/a/b?id=1",
            "http://www.e.example/a/b?id=1",
            "https://E.example/a/b/?id=1&utm_source=x#top",
            "https://e.example:443/a/b?id=1",
        ] {
            assert_eq!(link_key(url), key, "{url}");
        }
        assert_ne!(link_key("https://e.example/a/b?id=2"), key);
        assert_ne!(link_key("https://e.example:8443/a/b?id=1"), key);
    }
}
