//! Who asks, and what they would like to have.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap, HeaderValue, header},
};

use crate::subscriber::Origin;

/// Whether a client would rather have JSON than a page.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let accept = text(header::ACCEPT);
    if accept.contains("text/html") {
        return false;
    }
    accept.contains("json") || is_json(headers)
}

/// Whether the request's body is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        let essence = text.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}

/// Where an act came from, for the record of consent.
pub(super) fn origin(
    headers: &HeaderMap,
    extensions: &Extensions,
    trusted: &[IpAddr],
    form: Option<String>,
) -> Origin {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let user_agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    let user_agent = user_agent.map(String::from_utf8_lossy);
    Origin::new(peer.map(|peer| address(headers, peer, trusted)), user_agent.as_deref(), form)
}

/// The client's own address. `X-Forwarded-For` is believed as far back as it was written by proxies
/// that we trust: the first entry from the right that is none of them.
fn address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpAddr]) -> IpAddr {
    let trusts = |ip: &IpAddr| trusted.iter().any(|proxy| proxy.to_canonical() == *ip);
    let peer = peer.to_canonical();
    if !trusts(&peer) {
        return peer;
    }
    let fields = headers.get_all("x-forwarded-for").iter();
    let entries: Vec<&str> =
        fields.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).collect();
    let mut nearest = peer;
    for entry in entries.into_iter().rev() {
        // What cannot be read was not written by a proxy of ours.
        let Some(ip) = forwarded(entry.trim()) else { break };
        nearest = ip.to_canonical();
        if !trusts(&nearest) {
            break;
        }
    }
    nearest
}

/// An entry as proxies write it: an address, some with a port.
fn forwarded(entry: &str) -> Option<IpAddr> {
    entry
        .parse::<IpAddr>()
        .or_else(|_| entry.parse::<SocketAddr>().map(|socket| socket.ip()))
        .or_else(|_| entry.trim_start_matches('[').trim_end_matches(']').parse())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let proxies: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.2"].iter().map(|ip| ip.parse().unwrap()).collect();
        for (peer, forwarded, expected) in [
            ("192.0.2.1", Some("203.0.113.9"), "192.0.2.1"),
            ("10.0.0.1", None, "10.0.0.1"),
            ("10.0.0.1", Some("203.0.113.9"), "203.0.113.9"),
            ("::ffff:10.0.0.1", Some("203.0.113.9:4711"), "203.0.113.9"),
            ("10.0.0.1", Some("[2001:db8::1]:80"), "2001:db8::1"),
            // What the client itself wrote stands further left.
            ("10.0.0.1", Some("1.2.3.4, 203.0.113.9, 10.0.0.2"), "203.0.113.9"),
            ("10.0.0.1", Some("203.0.113.9, garbage"), "10.0.0.1"),
            ("10.0.0.1", Some("10.0.0.2"), "10.0.0.2"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = forwarded {
                headers.insert("x-forwarded-for", value.parse().unwrap());
            }
            let found = address(&headers, peer.parse().unwrap(), &proxies);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_browser_gets_pages_and_a_program_json() {
        for (accept, content_type, json) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", "", false),
            ("application/json", "", true),
            ("application/problem+json", "", true),
            ("*/*", "application/json; charset=utf-8", true),
            ("*/*", "application/x-www-form-urlencoded", false),
            ("", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(wants_json(&headers), json, "{accept} {content_type}");
        }
    }
}
