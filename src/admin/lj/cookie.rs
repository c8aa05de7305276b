//! The session string `ws:<user>:<number>:<auth>`: another text of a token, by which old programs know
//! their session. `auth` is the token's id and its secret of 192 bits; the server keeps a keyed hash of
//! that secret and nothing else. It means something in this protocol only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use wire::{Jid, Secret, Token, TokenId};

/// A session string, taken apart.
pub(super) struct SessionString {
    /// Whose it is: a name without host.
    pub(super) user: String,
    /// The number of its client within the account.
    pub(super) sid: u64,
    id: TokenId,
    secret: Secret,
}

impl SessionString {
    /// Of a token that was made for this protocol.
    pub(super) fn new(sid: u64, token: Token) -> Self {
        let user = token.owner.local().unwrap_or_default().to_owned();
        Self { user, sid, id: token.id, secret: token.secret }
    }

    /// None: it is no such string.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (kind, user, sid, auth) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let digits = !sid.is_empty() && sid.bytes().all(|byte| byte.is_ascii_digit());
        if kind != "ws" || user.is_empty() || !digits || parts.next().is_some() {
            return None;
        }
        let auth = Secret::new(URL_SAFE_NO_PAD.decode(auth).ok()?);
        let (id, secret) = auth.expose().split_first_chunk::<8>()?;
        let (id, secret) = (TokenId(u64::from_be_bytes(*id)), Secret::new(secret));
        let whole = secret.len() == 24;
        whole.then_some(Self { user: user.to_owned(), sid: sid.parse().ok()?, id, secret })
    }

    /// As the client keeps it.
    pub(super) fn text(&self) -> String {
        let auth = Secret::new([&self.id.0.to_be_bytes(), self.secret.expose()].concat());
        let auth = URL_SAFE_NO_PAD.encode(auth.expose());
        format!("ws:{}:{}:{auth}", self.user, self.sid)
    }

    /// The token that it stands for, if it is of this account.
    pub(super) fn token(self, owner: Jid) -> Token {
        Token { id: self.id, secret: self.secret, owner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let owner = "alice@localhost".parse().unwrap();
        Token { id: TokenId(7), secret: Secret::new(vec![9; 24]), owner }
    }

    #[test]
    fn lj_15_a_session_string_is_read_as_it_was_written() {
        let text = SessionString::new(12, token()).text();
        let auth = text.strip_prefix("ws:alice:12:").unwrap();
        assert_eq!(auth.len(), 43, "256 bits, 192 of them secret");
        let read = SessionString::parse(&text).unwrap();
        assert_eq!((&*read.user, read.sid, read.text()), ("alice", 12, text.clone()));
        let token = read.token("alice@localhost".parse().unwrap());
        assert!(token.id == TokenId(7) && token.secret.ct_eq(&[9; 24]));
    }

    #[test]
    fn lj_15_what_is_no_session_string_is_none() {
        let text = SessionString::new(12, token()).text();
        let short = text.get(..text.len() - 2).unwrap();
        for odd in [
            "",
            "ws",
            "ws:alice:12",
            "ws:alice:12:",
            short,
            &format!("{text}AA"),
            &format!("{text}:x"),
            &text.replace("ws:", "v1:"),
            &text.replace(":12:", "::"),
            &text.replace(":12:", ":+12:"),
            &text.replace(":12:", ":-1:"),
            &text.replace(":12:", ":99999999999999999999:"),
            &text.replace("alice", ""),
        ] {
            assert!(SessionString::parse(odd).is_none(), "{odd}");
        }
    }
}
