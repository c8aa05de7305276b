//! What a client may have to do before its login succeeds (XEP-0388 tasks): to choose which session of
//! its account makes way for it, or to bring better keys of its password (XEP-0480).

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use wire::{
    Condition, Denied, Frame, Hash, SaslFailure, ScramKeys, StanzaError, Xml, ns, stream::Task,
};

use crate::{
    Server, Session,
    account::ACCOUNTS,
    end::{Actor, End, NAMESPACE, Reason},
    id::SessionId,
    login::{said, store_failed},
    policy::AtLimit,
    registry::Few,
    store::{Batch, SERVER, StoreError},
};

/// Chooses which session of the account ends: `at_limit = "ask"`.
pub const END_SESSION: &str = "USHER-END-SESSION";
/// Brings keys for SCRAM-SHA-256 with as many iterations as new passwords get.
pub const UPGRADE: &str = "UPGR-SCRAM-SHA-256";

/// Why a session has no resource yet.
#[derive(Debug)]
pub enum NotBound {
    /// It gets none.
    Refused(StanzaError),
    /// Something has to be done first.
    First(Task),
}

impl Server {
    /// The task for a session that got no resource because its account has as many sessions as it may,
    /// if the newer one is to choose then.
    pub(crate) fn choice(&self, session: &Session, refused: StanzaError) -> NotBound {
        let Some(me) = session.identity() else { return NotBound::Refused(refused) };
        let (policy, others) = (me.policy(), self.registry.bound(me.jid.as_str()));
        let max = usize::try_from(policy.max_sessions).unwrap_or(usize::MAX);
        let ask = policy.at_limit == AtLimit::Ask
            && refused.condition == Condition::ResourceConstraint
            && max > 0
            && others.len() >= max;
        if !ask {
            return NotBound::Refused(refused);
        }
        NotBound::First(Task {
            name: END_SESSION,
            text: "This account has as many sessions as it may: choose which of them ends".into(),
            data: self.sessions_to_choose(&others),
        })
    }

    fn sessions_to_choose(&self, sessions: &Few) -> Bytes {
        let mut xml = Xml::new();
        xml.open("sessions").ns(NAMESPACE);
        for session in sessions {
            let resource = session.full().and_then(|full| full.resource());
            xml.open("session").attr("id", &session.id.to_string());
            xml.attr_opt("resource", &resource).attr("since", &session.created.to_string());
            xml.attr("active", &session.last_activity().to_string());
            xml.attr_opt("software", &session.software());
            xml.attr("connected", if session.connected() { "true" } else { "false" });
            xml.close();
        }
        xml.finish()
    }

    /// The task by which a client that has just proved its password brings better keys of it; none:
    /// the ones there are are as good, or it cannot bring them.
    pub async fn upgrade_task(&self, session: &Session, able: &[String]) -> Option<Task> {
        let me = session.identity()?;
        let by_password = me.mechanism.hash().is_some() && me.token.is_none();
        if !by_password || !able.iter().any(|name| name == UPGRADE) {
            return None;
        }
        let account = self.account(me.jid.as_str()).await.ok()??;
        let wanted = self.config.auth.scram_iterations;
        if account.keys(Hash::Sha256).is_some_and(|keys| keys.iterations >= wanted) {
            return None;
        }
        let mut xml = Xml::new();
        xml.open("salt").ns(ns::SCRAM_UPGRADE).attr("iterations", &wanted.to_string());
        xml.text(&STANDARD.encode(self.upgrade_salt(session)));
        Some(Task {
            name: UPGRADE,
            text: "The password is to be stored in a way that is harder to guess from".into(),
            data: xml.finish(),
        })
    }

    /// The same for one session as long as it lasts, so that it need not be kept.
    fn upgrade_salt(&self, session: &Session) -> Vec<u8> {
        let derived = self.keys.derive("upgrade", &session.id.0.to_be_bytes());
        derived.get(..wire::sasl::SALT_SIZE).unwrap_or_default().to_vec()
    }

    /// A client does its task.
    ///
    /// # Errors
    /// [`Denied`]: its login fails.
    pub async fn perform(
        self: &Arc<Self>,
        session: &Session,
        task: &str,
        data: &Frame,
    ) -> Result<(), Denied> {
        match task {
            END_SESSION => self.end_chosen(session, data).await,
            UPGRADE => self.upgrade_keys(session, data).await,
            _ => Err(SaslFailure::MalformedRequest.into()),
        }
    }

    async fn end_chosen(self: &Arc<Self>, session: &Session, data: &Frame) -> Result<(), Denied> {
        let malformed = |text: &str| said(SaslFailure::MalformedRequest, text);
        let me = session.identity().ok_or(SaslFailure::MalformedRequest)?;
        let others = self.registry.bound(me.jid.as_str());
        let mut chosen = Few::new();
        for end in data.root().children().filter(|el| el.is("end", NAMESPACE)) {
            let id = end.attr("id").and_then(|id| id.parse::<SessionId>().ok());
            let found = others.iter().find(|other| Some(other.id) == id);
            // One that has ended meanwhile has made way all the same.
            chosen.extend(found.cloned());
        }
        if data.root().child("end", NAMESPACE).is_none() {
            return Err(malformed("Choose a session with <end id='…'/>"));
        }
        for other in &chosen {
            let actor = Actor::Owner(me.jid.as_str().into());
            self.end(other, End { actor, ..End::new(Reason::Displaced) });
        }
        Ok(())
    }

    async fn upgrade_keys(&self, session: &Session, data: &Frame) -> Result<(), Denied> {
        let malformed = || said(SaslFailure::MalformedRequest, "There are no keys in this");
        let me = session.identity().ok_or(SaslFailure::MalformedRequest)?;
        let root = data.root();
        let hash = root.child("hash", ns::SCRAM_UPGRADE).ok_or_else(malformed)?;
        let salted = STANDARD.decode(hash.text().trim()).map_err(|_| malformed())?;
        let (salt, iterations) = (self.upgrade_salt(session), self.config.auth.scram_iterations);
        let keys = ScramKeys::of_salted(Hash::Sha256, &salted, salt, iterations);
        let keys = keys.ok_or_else(malformed)?;
        loop {
            let key = Bytes::copy_from_slice(me.jid.as_str().as_bytes());
            let row = self.store.get(&ACCOUNTS, SERVER, &key).await;
            let row = row.map_err(|error| store_failed(&error))?.ok_or_else(malformed)?;
            let mut account =
                crate::account::Account::decode(&row).map_err(|error| store_failed(&error))?;
            // Another password by now: these keys are of the one before.
            if account.id != me.account || account.generation != me.generation {
                return Ok(());
            }
            account.set_sha256(&keys);
            let batch = Batch::new().expect(&ACCOUNTS, SERVER, key.clone(), Some(row)).put(
                &ACCOUNTS,
                SERVER,
                key,
                account.encode(),
            );
            match self.store.commit(batch).await {
                Ok(()) => {
                    tracing::info!(event = "keys-upgraded", jid = me.jid.as_str(), iterations);
                    return Ok(());
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failed(&error)),
            }
        }
    }
}
