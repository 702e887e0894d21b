//! The addresses of the public pages: every link that stands in a mail, a feed or a page.
//!
//! Mail outlives releases, so these paths never change. What belongs to no newsletter stands under
//! `/-/`: a slug cannot begin with a hyphen, so no newsletter can take such a path. Knows no
//! database; tokens come sealed from [`crate::token`].

use url::Url;

/// Makes the addresses of pages below the public address.
#[derive(Debug, Clone)]
pub struct Links {
    /// Without a slash at the end.
    base: String,
}

impl Links {
    /// Links below `public_url` (`public_url` of the configuration).
    pub fn new(public_url: &Url) -> Self {
        Self { base: public_url.as_str().trim_end_matches('/').to_owned() }
    }

    /// The same pages as paths without a host, for links between our own pages.
    pub fn on_site(public_url: &Url) -> Self {
        Self { base: public_url.path().trim_end_matches('/').to_owned() }
    }

    /// The list of newsletters.
    pub fn home(&self) -> String {
        format!("{}/", self.base)
    }

    /// A newsletter's home: what it is, the form, the archive.
    pub fn newsletter(&self, slug: &str) -> String {
        format!("{}/{slug}/", self.base)
    }

    /// One issue, for good.
    pub fn issue(&self, slug: &str, number: i64) -> String {
        format!("{}/{slug}/{number}", self.base)
    }

    /// A newsletter's Atom feed (RFC 4287).
    pub fn atom(&self, slug: &str) -> String {
        format!("{}/{slug}/atom.xml", self.base)
    }

    /// A newsletter's RSS 2.0 feed.
    pub fn rss(&self, slug: &str) -> String {
        format!("{}/{slug}/rss.xml", self.base)
    }

    /// The page that confirms a subscription; `token` is that of a confirmation
    /// ([`Purpose::Confirm`](crate::token::Purpose::Confirm)).
    pub fn confirm(&self, token: &str) -> String {
        format!("{}/-/confirm/{token}", self.base)
    }

    /// The page that blocks the address a confirmation went to;
    /// [`Purpose::NotMe`](crate::token::Purpose::NotMe).
    pub fn not_me(&self, token: &str) -> String {
        format!("{}/-/not-me/{token}", self.base)
    }

    /// The page to leave, which is also the one-click target of RFC 8058;
    /// [`Purpose::Unsubscribe`](crate::token::Purpose::Unsubscribe).
    pub fn unsubscribe(&self, token: &str) -> String {
        [&self.base, "/-/unsubscribe/", token].concat()
    }

    /// A reader's preferences; [`Purpose::Preferences`](crate::token::Purpose::Preferences).
    pub fn preferences(&self, token: &str) -> String {
        [&self.base, "/-/preferences/", token].concat()
    }

    /// A reader's own data, from a link that was asked for and mailed;
    /// [`Purpose::MyData`](crate::token::Purpose::MyData).
    pub fn my_data(&self, token: &str) -> String {
        format!("{}/-/my-data/{token}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_may_have_a_path() {
        for (public_url, expected) in [
            ("https://news.example.com/", "https://news.example.com/-/unsubscribe/abc"),
            ("https://example.com/news/", "https://example.com/news/-/unsubscribe/abc"),
            ("https://example.com/news", "https://example.com/news/-/unsubscribe/abc"),
        ] {
            let links = Links::new(&Url::parse(public_url).unwrap());
            assert_eq!(links.unsubscribe("abc"), expected);
            let path = Links::on_site(&Url::parse(public_url).unwrap()).unsubscribe("abc");
            assert_eq!(path, Url::parse(expected).unwrap().path());
        }
    }
}
