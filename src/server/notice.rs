//! What an account is told about itself, so that its owner hears of what others do to it: a message
//! from the account's domain. Sessions that get messages get a headline (RFC 6121 section 5.2.2); if
//! there is none, it is a normal message, which waits like any other where there is offline storage.
//!
//! The message has a body in each language that the server knows, as RFC 6121 section 5.2.3 provides,
//! and for machines `<notice xmlns='urn:usher:session:0' event='…'/>`. Nobody's name is in it.

use std::sync::Arc;

use wire::{Frame, Jid, Xml};

use crate::{
    Server,
    end::NAMESPACE,
    hooks::{Delivery, Flow},
    session::Flags,
    words,
};

words::spoken! {
    /// What the owner of an account is told. One table: the name for machines and the words.
    Notice:

    /// The owner has changed the password.
    PasswordChanged "password-changed" "The password of this account was changed";
    /// An administrator has set another password.
    PasswordReset "password-reset" "An administrator has set another password for this account";
    /// The account has another role.
    RoleChanged "role-changed" "An administrator has changed what this account may do";
    /// An administrator has ended all sessions.
    SessionsEnded "sessions-ended" "An administrator has ended all sessions of this account";
    /// A token that had been replaced was used.
    TokenReused "token-reused"
        "A token of this account that had been replaced was used again, perhaps by a thief; all that \
         came from it is void";
}

impl Notice {
    /// The message.
    fn message(self, host: &str, to: &str, headline: bool) -> Xml {
        let mut xml = Xml::new();
        xml.open("message").attr("from", host).attr("to", to);
        if headline {
            xml.attr("type", "headline");
        }
        xml.attr("xml:lang", "en").leaf("body", self.text());
        for (lang, text) in words::translations(self.text()) {
            xml.open("body").attr("xml:lang", lang).text(text).close();
        }
        xml.open("notice").ns(NAMESPACE).attr("event", self.as_str()).close();
        xml
    }
}

impl Server {
    /// Tells the owner of an account, unless `on.notify` says that nobody is told. Whatever comes of it
    /// is no reason for what it is about to fail.
    pub async fn notify_owner(self: &Arc<Self>, jid: &Jid, notice: Notice) {
        if !self.config.on.notify {
            return;
        }
        let to = jid.bare();
        let here = self.registry.of(to.as_str()).iter().any(|session| {
            session.flags().has(Flags::AVAILABLE)
                && session.presence().is_some_and(|presence| presence.priority >= 0)
        });
        let message = notice.message(to.domain(), to.as_str(), here).finish();
        let parts = (Jid::parse(to.domain()), Frame::parse(message));
        let (Ok(from), Ok(frame)) = parts else { return };
        let server = self.clone();
        let delivery = Delivery { server, from, to, origin: None, frame, lang: None, flight: None };
        if let Flow::Reject(error) = self.deliver(delivery).decided().await {
            tracing::info!(
                event = "owner-not-notified",
                jid = jid.as_str(),
                notice = notice.as_str(),
                error = error.condition.as_str(),
            );
        }
    }
}
