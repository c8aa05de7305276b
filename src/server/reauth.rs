//! Sessions that wait for their owner to prove the password anew, instead of being ended because they
//! were inactive for too long (`sessions.reauth`). Their connection is closed, their stream stays: it
//! keeps what it is sent, and goes on for whoever logs in with the password and resumes it (XEP-0198).
//! XMPP has no way to prove a password within a stream that has logged in already (XEP-0388 section
//! 2.8.5), so that is what coming back means here.

use std::{net::IpAddr, sync::Arc};

use wire::{Denied, Jid, SaslFailure};

use crate::{
    Server, Session,
    client::Client,
    end::{End, Reason, element},
    events::Change,
    login::said,
    registry::Parted,
};

impl Server {
    /// Whether a session that is due for this reason waits for its owner instead.
    pub(crate) fn waits_instead(&self, session: &Session, reason: Reason) -> bool {
        reason == Reason::Idle
            && self.config.sessions.reauth.get().is_some()
            && session.is_resumable()
            && session.resumable().is_some_and(|resumable| resumable.proof_until().is_none())
    }

    /// What becomes of a session whose time is over. Whether it ended.
    pub(crate) fn expire(self: &Arc<Self>, session: &Arc<Session>, reason: Reason) -> bool {
        if !self.waits_instead(session, reason) {
            return self.end(session, End::new(reason));
        }
        let Some(resumable) = session.resumable() else { return false };
        let now = self.clock.now();
        let span = self.config.sessions.reauth.get().unwrap_or(0);
        resumable.wait_for_proof(Some(now.plus_seconds(span)));
        if session.connected() {
            let holder = session.mailbox.suspend();
            match self.registry.set_hibernating(session, holder, now) {
                Parted::Hibernating => {}
                Parted::Claimed => return false,
                Parted::Ended => {
                    self.settle_claimed(session);
                    return false;
                }
            }
        }
        self.rearm(session);
        self.events.publish(session, Change::Hibernating);
        tracing::info!(event = "waits-for-proof", session = %session.id);
        false
    }

    /// A login to an account begins: what waits for its owner waits a little longer, if it would be
    /// over otherwise before the login is.
    pub(crate) fn login_begins(&self, user: &Jid) {
        let grace = self.config.sessions.reauth_grace.get().unwrap_or(0);
        if self.config.sessions.reauth.get().is_none() || grace == 0 {
            return;
        }
        let until = self.clock.now().plus_seconds(grace);
        for session in self.registry.of(user.as_str()) {
            if session.resumable().is_some_and(|resumable| resumable.grace(until)) {
                self.rearm(&session);
            }
        }
    }

    /// Too many logins to an account have failed from an address: what waits for its owner from there
    /// is over.
    pub(crate) fn locked_out(self: &Arc<Self>, user: &Jid, address: IpAddr) {
        if !self.config.sessions.reauth_lockout {
            return;
        }
        for session in self.registry.of(user.as_str()) {
            let waits =
                session.resumable().is_some_and(|resumable| resumable.proof_until().is_some());
            if waits && session.address() == address {
                self.end(&session, End::new(Reason::Idle));
            }
        }
    }

    /// Refuses a token of FAST while a session of its client waits for its owner: the token is no proof
    /// of being there, and the client asks for the password then (XEP-0484 section 4.2).
    pub(crate) fn password_wanted(&self, user: &Jid, client: &Client) -> Result<(), Denied> {
        let waits = self.registry.of(user.as_str()).iter().any(|session| {
            session.identity().and_then(|me| me.client()).is_some_and(|of| of.is(client))
                && session.resumable().is_some_and(|resumable| resumable.proof_until().is_some())
        });
        if !waits {
            return Ok(());
        }
        let app = Some(element(Reason::Idle.as_str(), "server"));
        Err(Denied { app, ..said(SaslFailure::CredentialsExpired, Reason::Idle.text()) })
    }
}
