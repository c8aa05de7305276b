//! The one way a session ends, whatever the cause: owner, admin, deadline, limit, policy, shutdown,
//! replacement, fault, or the peer going away.
//!
//! ```text
//! authorise ─► durable ─► mark dead in the registry ─► hooks: unavailable presence …
//!   (callers: command, vault, sweeper, connection)       │
//!                                                        ▼
//!        outcome ◄─ settled ◄─ re-route what waited ◄─ stream error, bounded wait, close
//! ```
//!
//! Credentials go first and the connection last. Marking is atomic, so that of all causes that meet
//! exactly one wins, and there is exactly one record and one event per session.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use wire::{Kind, StreamCondition, StreamError, Xml};

use crate::{
    Server, Session, clock::Millis, events::Change, hearing, hooks::Ended, mailbox::Parcel,
};

/// Namespace of the application-specific element in stream errors and SASL failures that tells a
/// client why its session or credential is over: `<ended xmlns='urn:usher:session:0' reason='…'/>`.
pub const NAMESPACE: &str = "urn:usher:session:0";

/// How much of a session's standing goes with it. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The session: its stream, and whatever could resume it.
    Kick,
    /// The same, and its client is told that somebody means it.
    End,
    /// And every credential of its client.
    Revoke,
    /// And the client is refused, whatever it proves.
    Block,
    /// And the account may not log in.
    Disable,
}

impl Level {
    /// All levels, mildest first.
    pub const ALL: [Self; 5] = [Self::Kick, Self::End, Self::Revoke, Self::Block, Self::Disable];
    /// Their names, in the same order.
    pub const NAMES: &'static [&'static str] = &["kick", "end", "revoke", "block", "disable"];

    /// The name used on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kick => "kick",
            Self::End => "end",
            Self::Revoke => "revoke",
            Self::Block => "block",
            Self::Disable => "disable",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $condition:ident $text:literal;)*) => {
        /// Why a session ended. One table: the name on every face and in metrics, the stream error
        /// the peer sees, and what it is told when the cause brings no words of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// The name on every face.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The stream error that the peer sees.
            #[must_use]
            pub fn condition(self) -> StreamCondition {
                match self { $(Self::$variant => StreamCondition::$condition,)* }
            }

            /// What the peer is told.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// The account was deleted.
    AccountDeleted "account-deleted" NotAuthorized "This account has been deleted";
    /// The account was disabled.
    AccountDisabled "account-disabled" NotAuthorized "This account has been disabled";
    /// Not logged in in time.
    AuthTimeout "auth-timeout" ConnectionTimeout "Login took too long";
    /// Its client is blocked.
    Blocked "blocked" NotAuthorized "This client is blocked";
    /// Not bound in time.
    BindTimeout "bind-timeout" ConnectionTimeout "No resource was bound in time";
    /// The client closed its stream.
    Closed "closed" UndefinedCondition "The stream was closed";
    /// A newer session took its place, because the account has as many as it may.
    Displaced "displaced" Conflict "A newer session has taken the place of this one";
    /// An admin or the owner ended it; the same credential may come back.
    Ended "ended" PolicyViolation "This session was ended by an administrator";
    /// All sessions from before were ended at once.
    Epoch "epoch" Reset "All sessions were ended; log in again";
    /// Its client was ended a moment ago and may not come back yet.
    HeldOff "held-off" NotAuthorized "This client may not come back yet; try again later";
    /// It sent no stanza for too long.
    Idle "idle" Reset "This session was inactive for too long; log in again";
    /// An admin closed the stream; the client may come back at once.
    Kicked "kicked" PolicyViolation "This connection was closed by an administrator";
    /// It reached its greatest age.
    Lifetime "lifetime" Reset "This session has reached its greatest age; log in again";
    /// The connection broke.
    Lost "lost" ConnectionTimeout "The connection was lost";
    /// Its connection was lost, and no other one has gone on with it in time.
    NotResumed "not-resumed" ConnectionTimeout "Nobody came to resume this session in time";
    /// The password was changed.
    PasswordChanged "password-changed" Reset "The password was changed; log in again";
    /// The peer broke the rules of the stream; the condition is its own.
    Protocol "protocol" UndefinedCondition "The stream broke a rule of the protocol";
    /// Its account has another name now.
    Renamed "renamed" Reset "This account has another name now; log in with that";
    /// Another session took its resource.
    Replaced "replaced" Conflict "Another session has taken this resource";
    /// A login that went on with an earlier session became part of that one.
    Resumed "resumed" Conflict "This stream goes on over another connection";
    /// Its credential was revoked.
    Revoked "revoked" NotAuthorized "The credential of this session was revoked";
    /// The account's role changed.
    RoleChanged "role-changed" Reset "The role of this account changed; log in again";
    /// The server has as many connections as it may, and this one had not logged in.
    Shed "shed" ResourceConstraint "The server is too busy for connections that have not logged in";
    /// The server is stopping.
    Shutdown "shutdown" SystemShutdown "The server is shutting down";
    /// It did not read what was sent to it.
    SlowReader "slow-reader" ResourceConstraint "Too much data waits to be read by this client";
    /// Something in the server failed.
    Internal "internal" InternalServerError "The server failed to handle this session";
    /// Its token expired.
    TokenExpired "token-expired" NotAuthorized "The token of this session has expired";
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Who ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An administrator, by the name that the audit knows.
    Admin(Arc<str>),
    /// The owner of the account, from whichever session, by the account's address.
    Owner(Arc<str>),
    /// The peer itself, or its network.
    Peer,
    /// The server, by its rules.
    Server,
}

impl Actor {
    /// The kind alone, for those who may not know the name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Admin(_) => "admin",
            Self::Owner(_) => "owner",
            Self::Peer => "peer",
            Self::Server => "server",
        }
    }

    /// As the audit knows them.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Admin(name) | Self::Owner(name) => name,
            other => other.kind(),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Admin(name) | Self::Owner(name) => {
                serializer.collect_str(&format_args!("{}:{name}", self.kind()))
            }
            other => serializer.serialize_str(other.kind()),
        }
    }
}

/// A request to end a session.
#[derive(Clone, Debug)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// How far it goes.
    pub level: Level,
    /// Who asks.
    pub actor: Actor,
    /// Words for the peer instead of the reason's own.
    pub text: Option<String>,
    /// The stream error instead of the reason's own.
    pub error: Option<StreamError>,
}

impl End {
    /// What remains of a session that ends like this.
    pub(crate) fn record(&self, at: Millis) -> EndRecord {
        let Self { reason, level, .. } = *self;
        EndRecord { at, reason, level, by: self.actor.clone(), text: self.text.clone() }
    }

    /// An end by the server's own rules.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self { reason, level: Level::End, actor: Actor::Server, text: None, error: None }
    }

    /// The peer broke a rule of the stream.
    #[must_use]
    pub fn protocol(error: StreamError) -> Self {
        Self { error: Some(error), ..Self::new(Reason::Protocol) }
    }

    /// The peer closed its stream, or its connection broke.
    #[must_use]
    pub fn peer(reason: Reason) -> Self {
        Self { actor: Actor::Peer, level: Level::Kick, ..Self::new(reason) }
    }

    /// The same with another stream error than the reason's own, and everything else as it is.
    #[must_use]
    pub fn with_condition(mut self, condition: StreamCondition) -> Self {
        self.error = self.farewell().map(|error| StreamError { condition, ..error });
        self
    }

    /// What the peer is told; nothing if it is the one who went.
    fn farewell(&self) -> Option<StreamError> {
        if matches!(self.reason, Reason::Closed | Reason::Lost) {
            return None;
        }
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let own = match (&self.actor, self.reason) {
            (Actor::Owner(_), Reason::Ended | Reason::Kicked) => {
                "This session was ended by the owner of the account"
            }
            (_, reason) => reason.text(),
        };
        let text = self.text.clone().map_or(Cow::Borrowed(own), Cow::Owned);
        Some(StreamError {
            condition: self.reason.condition(),
            place: None,
            text: Some(text),
            lang: "en",
            app: Some(element(self.reason.as_str(), self.actor.kind())),
        })
    }
}

/// The application-specific element; see [`NAMESPACE`].
#[must_use]
pub fn element(reason: &str, by: &str) -> Bytes {
    let mut xml = Xml::new();
    xml.open("ended").ns(NAMESPACE).attr("reason", reason).attr("by", by);
    xml.finish()
}

/// What remains of an ended session: when, by whom, why.
#[derive(Clone, Debug, Serialize)]
pub struct EndRecord {
    /// When it was marked as ending.
    pub at: Millis,
    /// Why.
    pub reason: Reason,
    /// How far it went.
    pub level: Level,
    /// By whom.
    pub by: Actor,
    /// In whose words, if in any.
    pub text: Option<String>,
}

/// What became of a session that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Gone, by this request.
    Ended,
    /// Something else had ended it before; it is gone as well.
    AlreadyEnded,
    /// Marked dead and routed to no more, but its connection had not closed within the bound.
    Lingering,
}

impl Outcome {
    /// What became of a session: whether it is settled, and whether it was this request that ended it.
    #[must_use]
    pub fn of(settled: bool, ours: bool) -> Self {
        match (settled, ours) {
            (true, true) => Self::Ended,
            (true, false) => Self::AlreadyEnded,
            (false, _) => Self::Lingering,
        }
    }
}

impl Server {
    /// Ends a session. Nothing is routed to or from it once this returns; its connection closes
    /// after that. True: by this call; false: it was ending already. A command that ends the session
    /// that it was asked through is heard first; see [`hearing`].
    pub fn end(self: &Arc<Self>, session: &Arc<Session>, end: End) -> bool {
        hearing::put_off(session, &end).unwrap_or_else(|| self.end_now(session, end))
    }

    /// The same, whoever asks for it.
    pub(crate) fn end_now(self: &Arc<Self>, session: &Arc<Session>, end: End) -> bool {
        if !self.registry.mark_ending(session) {
            return false;
        }
        self.see_off(session, end);
        true
    }

    /// The rest of an end, by whoever has marked the session.
    pub(crate) fn see_off(self: &Arc<Self>, session: &Arc<Session>, end: End) {
        // Before its connection can see that it is over: what came in later would be lost.
        session.mailbox.close();
        let record = Arc::new(end.record(self.clock.now()));
        // Known together with the record: whoever sees that it is over waits for these as well.
        let leftover = session.mailbox.leftover();
        let rerouting = (!leftover.is_empty()).then(|| watch::channel(()));
        {
            let mut cold = session.cold.lock();
            let ending = cold.ending();
            ending.record = Some(record.clone());
            ending.farewell = end.farewell();
            ending.rerouting = rerouting.as_ref().map(|(_, receiver)| receiver.clone());
        }
        self.metrics.ended(record.reason);
        self.announce_end(session, &record);
        self.note_end(session, &record);
        let ended = Ended { server: self.clone(), session: session.clone(), record };
        if let Some(told) = self.hooks.ended.tell(&ended) {
            self.spawn(told);
        }
        if let Some((over, _)) = rerouting {
            self.reroute_leftover(session, leftover, over);
        }
        if session.connected() {
            session.mailbox.wake();
        } else {
            // There is no connection to do this. Whoever goes on with it at this moment has found it
            // ending: the flags change under one lock.
            let (server, session) = (self.clone(), session.clone());
            self.spawn(async move {
                if let Err(error) = server.forget_hibernated(&session).await {
                    tracing::error!(event = "resumption-storage-failed", %error);
                }
                server.settle(&session).await;
            });
        }
    }

    /// Finds other places for the messages that an ended session's connection has not taken, at once:
    /// those that come for the account from now on are not to overtake them.
    fn reroute_leftover(
        self: &Arc<Self>,
        session: &Arc<Session>,
        leftover: Vec<Parcel>,
        over: watch::Sender<()>,
    ) {
        let (server, ended) = (self.clone(), session.clone());
        let broke = session.resumable().and_then(|resumable| resumable.since());
        self.spawn(async move {
            for mut parcel in leftover {
                // Its copy on disk stays until it is somewhere else.
                let flight = parcel.flight();
                let waits = match parcel.kind() {
                    Kind::Message => !parcel.has_another_copy(),
                    Kind::Iq => true,
                    Kind::Other | Kind::Presence => false,
                };
                // What came for a session whose connection was gone is told with its own time.
                let at = parcel.waits_since().or(broke);
                if let Some(frame) = waits.then(|| parcel.into_frame()).flatten() {
                    let frame = match at {
                        Some(at) => server.delayed(&ended, frame, at),
                        None => frame,
                    };
                    server.reroute(&ended, frame, flight).await;
                }
            }
            drop(over);
        });
    }

    /// Waits until the messages that an ended session's connection has not taken are elsewhere.
    pub(crate) async fn rerouted(&self, session: &Session) {
        let rerouting = session.cold.lock().ending().rerouting.clone();
        if let Some(mut rerouting) = rerouting {
            while rerouting.changed().await.is_ok() {}
        }
    }

    /// Waits until an ending session is settled, at most its `close_wait` and a little more.
    pub async fn settled(&self, session: &Session) -> bool {
        if session.settled() {
            return true;
        }
        let receiver = {
            let mut cold = session.cold.lock();
            let ending = cold.ending();
            if ending.settled {
                return true;
            }
            let (sender, receiver) = tokio::sync::oneshot::channel();
            ending.waiters.push(sender);
            receiver
        };
        tokio::time::timeout(self.patience(), receiver).await.is_ok()
    }

    /// Waits until all of these ending sessions are settled, as long as for a single one. Gives those
    /// that are not.
    pub async fn all_settled<'a>(&self, sessions: &'a [Arc<Session>]) -> Vec<&'a Arc<Session>> {
        let all = async {
            for session in sessions {
                self.settled(session).await;
            }
        };
        // Those that are left over tell by themselves that they are.
        let _ = tokio::time::timeout(self.patience(), all).await;
        sessions.iter().filter(|session| !session.settled()).collect()
    }

    /// How long a connection may take to be gone.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.config.sessions.close_wait.get().unwrap_or(0) + 2)
    }

    /// The connection's last call: it is closed. Once the messages that were never handed to it are
    /// elsewhere, forgets the session and tells whoever waits. Idempotent.
    pub async fn settle(self: &Arc<Self>, session: &Arc<Session>) {
        if !self.end(session, End::peer(Reason::Lost)) {
            // Whoever has marked it is at this very moment writing down how it ended, and what it left.
            while session.end_record().is_none() {
                tokio::task::yield_now().await;
            }
        }
        self.rerouted(session).await;
        self.unauthed.left(session);
        self.registry.forget(session);
        let (waiters, record) = {
            let mut cold = session.cold.lock();
            let ending = cold.ending();
            if std::mem::replace(&mut ending.settled, true) {
                return;
            }
            (std::mem::take(&mut ending.waiters), ending.record.clone())
        };
        self.journal.forget_point(session.id);
        self.note_leaving(session);
        self.events.publish(session, Change::Ended(record.clone()));
        if let Some(record) = record {
            tracing::info!(
                event = "session-ended",
                session = %session.id,
                jid = session.jid().as_ref().map(wire::Jid::as_str),
                reason = record.reason.as_str(),
                by = record.by.kind(),
            );
            self.recent.push(session, record);
        }
        for waiter in waiters {
            // The one who waited may have given up; nobody misses the news then.
            let _ = waiter.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_that_are_offered() {
        assert_eq!(Level::ALL.map(Level::as_str), Level::NAMES);
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn the_peer_is_told_why_unless_it_went_itself() {
        let kicked = End { text: Some("tea & cake".into()), ..End::new(Reason::Kicked) };
        let xml = kicked.farewell().expect("is told").to_xml();
        let xml = String::from_utf8_lossy(&xml);
        assert!(xml.contains("<policy-violation"), "{xml}");
        assert!(xml.contains("tea &amp; cake"), "{xml}");
        assert!(xml.contains("reason='kicked'") || xml.contains("reason=\"kicked\""), "{xml}");
        assert!(End::peer(Reason::Closed).farewell().is_none());
    }
}
