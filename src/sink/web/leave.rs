//! The mail client's own unsubscribe button (RFC 8058), pressed from the inbox: a POST to the
//! message's `List-Unsubscribe`. Anyone may have written the message, so that only links to the
//! sender that the sink belongs to are followed.

use std::time::Duration;

use url::Url;

use crate::sink::content::Content;

/// How long the sender may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the message's button leads, if it has one and that is a page of `base`'s server.
pub(super) fn target(content: &Content, base: &Url) -> Option<Url> {
    let post = content.header("list-unsubscribe-post")?;
    if !post.eq_ignore_ascii_case("List-Unsubscribe=One-Click") {
        return None;
    }
    let links = content.header("list-unsubscribe")?.split(',');
    let links = links.filter_map(|link| link.trim().strip_prefix('<')?.strip_suffix('>'));
    links.filter_map(|link| Url::parse(link).ok()).find(|link| link.origin() == base.origin())
}

/// Presses the button; returns the status that the server answered with.
pub(super) async fn press(target: Url) -> Result<u16, reqwest::Error> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_TIMEOUT)
        .build()?;
    let form = [("List-Unsubscribe", "One-Click")];
    Ok(client.post(target).form(&form).send().await?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_the_own_sender_are_followed() {
        let base: Url = "http://127.0.0.1:8080/".parse().unwrap();
        let found = |fields: &str| {
            let raw = format!("{fields}\r\n\r\nx\r\n");
            target(&Content::parse(raw.as_bytes()), &base).map(String::from)
        };
        let one_click = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Unsubscribe: ";
        let own = "http://127.0.0.1:8080/u/t";
        assert_eq!(
            found(&format!("{one_click}<{own}>, <mailto:u@x.example>")).as_deref(),
            Some(own)
        );
        assert_eq!(
            found(&format!("{one_click}<mailto:u@x.example>,\r\n <{own}>")).as_deref(),
            Some(own)
        );
        for foreign in [
            "http://127.0.0.1:5432/",
            "http://127.0.0.1/",
            "https://127.0.0.1:8080/",
            "http://evil.example:8080/",
            "http://127.0.0.1:8080@evil.example/",
            "nonsense",
        ] {
            assert_eq!(found(&format!("{one_click}<{foreign}>")), None, "{foreign}");
        }
        assert_eq!(found(&format!("List-Unsubscribe: <{own}>")), None);
    }
}
