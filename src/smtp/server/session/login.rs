//! The part of a session that makes it trusted: STARTTLS (RFC 3207) and AUTH (RFC 4954).

use std::sync::Arc;

use super::{Auth, End, Handler, Line, OUT_OF_ORDER, Reply, Session, Stage, Tls, auth};

impl<H: Handler> Session<'_, H> {
    pub(super) async fn start_tls(&mut self) -> Result<(), End> {
        let Tls::StartTls(config) = self.shared.config.tls.clone() else {
            return self.refuse(&Reply::new(502, "5.5.1", "STARTTLS is not offered"));
        };
        if self.wire.is_tls() || self.hello.is_none() {
            return self.refuse(&OUT_OF_ORDER);
        }
        if !self.wire.available().is_empty() {
            // RFC 3207, section 5: what came in the clear must not be taken as if it came in TLS.
            return self.hang_up(
                &Reply::new(554, "5.5.1", "Nothing may follow STARTTLS before TLS"),
                End::LimitExceeded,
            );
        }
        let response = self.at(Stage::StartTls).await;
        if self.answer(response, &[Reply::new(220, "2.0.0", "Go ahead")]).await? {
            self.wire.flush_all().await?;
            self.wire.start_tls(config, self.shared.config.limits.command_timeout).await?;
            (self.hello, self.envelope, self.logged_in) = (None, None, false);
        }
        Ok(())
    }

    pub(super) fn offers_auth(&self) -> bool {
        match self.shared.config.auth {
            Auth::Off => false,
            Auth::Offered | Auth::Required => self.wire.is_tls(),
            Auth::RequiredInTheClear => true,
        }
    }

    pub(super) async fn auth(&mut self, mechanism: &str, initial: Option<&str>) -> Result<(), End> {
        if !self.offers_auth() {
            return self.refuse(&Reply::new(502, "5.5.1", "AUTH is not offered here"));
        }
        if self.hello.is_none() || self.logged_in || self.envelope.is_some() {
            return self.refuse(&OUT_OF_ORDER);
        }
        let initial = initial.map(|initial| auth::decode(initial.as_bytes()));
        let credentials = match mechanism {
            "PLAIN" | "XOAUTH2" => {
                let response = match initial {
                    Some(response) => response,
                    None => self.challenge("").await?,
                };
                let read = if mechanism == "PLAIN" { auth::plain } else { auth::xoauth2 };
                response.as_deref().and_then(read)
            }
            "LOGIN" => {
                let user = match initial {
                    Some(user) => user,
                    None => self.challenge("VXNlcm5hbWU6").await?,
                };
                let secret = self.challenge("UGFzc3dvcmQ6").await?;
                user.zip(secret).map(|(user, secret)| auth::Credentials {
                    mechanism: "LOGIN",
                    user,
                    secret,
                })
            }
            _ => return self.refuse(&Reply::new(504, "5.5.4", "Unknown mechanism")),
        };
        let Some(credentials) = credentials else {
            return self.refuse(&Reply::new(501, "5.5.2", "That cannot be decoded"));
        };
        let handler = Arc::clone(&self.shared.handler);
        let response = handler.authenticate(&mut self.state, &credentials).await;
        self.logged_in = self.answer(response, &[Reply::new(235, "2.7.0", "Welcome")]).await?;
        Ok(())
    }

    /// Asks for more in the course of AUTH; `None` when the client cancels or makes no sense.
    async fn challenge(&mut self, text: &'static str) -> Result<Option<String>, End> {
        self.say(&Reply::plain(334, text));
        Ok(match self.read_line().await? {
            Line::Complete => auth::decode(&self.wire.line),
            Line::BareLf | Line::TooLong => None,
        })
    }
}
