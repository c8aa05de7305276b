//! Who was here: one row for each login of an account, with its end, and rows for logins that were
//! refused. `usher last` shows them; nothing else in the server depends on them.
//!
//! ```text
//!  enter ──┐
//!  see_off ┼─► notes (bounded) ─► one writer, one batch for all that waits ─► login, login_time, last_seen
//!  refused ┘
//! ```
//!
//! Nobody waits for a row to be written, and whatever cannot be written is in the log. Rows hold
//! names of tokens, never secrets; text that a peer has a say in is capped. Rows go once the login
//! has been over for `history.retention`: some at each login of the account, the rest by the pass of
//! [`privacy`], which also makes addresses vaguer.
//!
//! When an account was used last is a small row of its own, so that it outlives the history.

mod seen;
mod writer;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::{Jid, Mechanism, SaslFailure, TokenId};

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

pub use self::seen::{LAST_SEEN, Seen};
pub(crate) use self::writer::Notes;
use self::writer::{Note, Refused};
use crate::{
    Server, Session,
    clock::Millis,
    end::EndRecord,
    id::{AccountId, SessionId},
    privacy::{self, Aging},
    session::Identity,
    store::{Batch, Owner, Range, Row, SERVER, StoreError, Table},
};

/// Logins by account and stamp.
pub static LOGIN: Table = Table { name: "login", about: "logins of accounts and their ends" };
/// Logins of all accounts by stamp.
pub static LOGIN_TIME: Table =
    Table { name: "login_time", about: "logins in order of time: stamp to account" };

/// The refused ones among them, once more, so that they can be listed without the others.
pub static LOGIN_REFUSED: Table =
    Table { name: "login_refused", about: "refused logins in order of time: stamp to account" };

/// How [`LOGIN`] grows old.
pub(crate) static AGING: Aging = Aging { table: &LOGIN, change: age };

/// The longest text of a field, in characters.
const TEXT: usize = 100;
/// Rows that are read at a time.
const PAGE: usize = 200;
/// Rows of an account that a login removes at most.
const PRUNE: usize = 50;

/// A login, or several refused ones that are alike, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoginRecord {
    /// When; of several refused ones, the first.
    pub at: Millis,
    /// The account's address at that time.
    pub jid: String,
    /// The session, by the text of its id; of several refused ones, the last. Empty: a login without a
    /// session, by a browser.
    pub session: String,
    /// Where from: an address or, later, its network. None: forgotten, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// The id of the token in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What the client says it is; known by its end at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// It was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// It is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<LoginEnd>,
}

/// Why somebody did not get in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The SASL condition, or `throttled` or `dormant`.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last: Millis,
}

/// How a login ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginEnd {
    /// When.
    pub at: Millis,
    /// Why, by the name of the reason.
    pub reason: String,
    /// By whom, as in `admin:uid:0`.
    pub by: String,
    /// Stanzas that came.
    pub rx: u64,
    /// Stanzas that went.
    pub tx: u64,
}

/// What [`LOGIN_TIME`] and [`LOGIN_REFUSED`] say of a row of [`LOGIN`].
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    account: AccountId,
}

/// Writes a row and its places in the order of time.
fn put(batch: Batch, account: AccountId, key: &Bytes, record: &LoginRecord) -> Batch {
    let place = encode(&Place { account });
    let batch = batch.put(&LOGIN, account.0, key.clone(), encode(record));
    let batch = batch.put(&LOGIN_TIME, SERVER, key.clone(), place.clone());
    match record.refused {
        Some(_) => batch.put(&LOGIN_REFUSED, SERVER, key.clone(), place),
        None => batch,
    }
}

/// Removes the places of a row in the order of time.
fn misplace(batch: Batch, key: &Bytes) -> Batch {
    batch.delete(&LOGIN_TIME, SERVER, key.clone()).delete(&LOGIN_REFUSED, SERVER, key.clone())
}

/// At most [`TEXT`] characters of a text.
fn capped(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

fn key_of(stamp: u64) -> Bytes {
    Bytes::copy_from_slice(&stamp.to_be_bytes())
}

fn stamp_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// The first stamp of a time; see [`Server::stamp`].
fn first_stamp(at: Millis) -> u64 {
    at.0 << 20
}

fn decode<'a, T: Deserialize<'a>>(table: &'static Table, row: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(row)
        .map_err(|why| StoreError::Corrupt { table: table.name, why: why.to_string() })
}

fn encode<T: Serialize>(row: &T) -> Bytes {
    serde_json::to_vec(row).map(Bytes::from).unwrap_or_default()
}

impl LoginRecord {
    /// Of a session that is logged in.
    fn of(session: &Session, end: Option<&EndRecord>) -> Option<Self> {
        let identity = session.identity()?;
        Some(Self {
            at: identity.proved,
            jid: identity.jid.as_str().into(),
            session: session.id.to_string(),
            address: Some(session.address().to_string()),
            mechanism: Some(identity.mechanism.as_str().into()),
            token: identity.token.as_ref().map(TokenId::to_string),
            software: session.software().as_deref().map(capped),
            refused: None,
            end: end.map(|end| LoginEnd {
                at: end.at,
                reason: end.reason.as_str().into(),
                by: capped(&by(end)),
                rx: session.traffic.rx_stanzas.load(Relaxed),
                tx: session.traffic.tx_stanzas.load(Relaxed),
            }),
        })
    }

    /// When it was over, as far as it is known here.
    #[must_use]
    pub fn over(&self) -> Millis {
        let ended = self.end.as_ref().map(|end| end.at);
        let refused = self.refused.as_ref().map(|refused| refused.last);
        ended.or(refused).unwrap_or(self.at).max(self.at)
    }

    /// As much of it as may be shown or kept at this time.
    #[must_use]
    pub fn aged(mut self, now: Millis, ladder: &crate::config::Privacy) -> Self {
        // Of refused ones the address was noted again each time.
        let noted = self.refused.as_ref().map_or(self.at, |refused| refused.last);
        let age = now.seconds_since(noted);
        self.address = self.address.and_then(|stored| privacy::address(&stored, age, ladder));
        self.software = privacy::software(self.software, age, ladder);
        self
    }
}

fn by(end: &EndRecord) -> String {
    match &end.by {
        crate::end::Actor::Admin(name) => format!("admin:{name}"),
        other => other.kind().into(),
    }
}

/// What becomes of a row with time; an [`Aging`].
fn age(server: &Server, owner: Owner, row: &Row, now: Millis) -> Option<Batch> {
    let Ok(record) = decode::<LoginRecord>(&LOGIN, &row.value) else {
        tracing::warn!(event = "history-unreadable", account = owner);
        return None;
    };
    if server.history_past(&record, now) {
        let gone = Batch::new().delete(&LOGIN, owner, row.key.clone());
        return Some(misplace(gone, &row.key));
    }
    let aged = record.clone().aged(now, &server.config.privacy);
    (aged != record).then(|| Batch::new().put(&LOGIN, owner, row.key.clone(), encode(&aged)))
}

/// Which logins to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// Of this account only.
    pub account: Option<AccountId>,
    /// Refused ones only.
    pub failed: bool,
    /// Only ones with a smaller stamp: the cursor.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl Server {
    fn notes_logins_of(&self, account: &Jid) -> bool {
        let history = &self.config.history;
        let is_it = |text: &String| Jid::parse(text).is_ok_and(|jid| jid == *account);
        history.retention.get().is_some() && !history.nolog.iter().any(is_it)
    }

    /// Notes that a session has logged in.
    pub(crate) fn note_login(self: &Arc<Self>, session: &Arc<Session>, nolog: bool) {
        let Some(identity) = session.identity() else { return };
        let stamp = if self.notes_logins_of(&identity.jid) && !nolog { self.stamp() } else { 0 };
        // Whatever ends it from here on finds the stamp; what has ended it before is found below.
        if identity.noted.set(stamp).is_err() {
            return;
        }
        self.note_session(session, session.end_record().as_deref());
    }

    /// Notes a login that is no session, and so has no end either.
    pub(crate) fn note_visitor(
        self: &Arc<Self>,
        identity: &Identity,
        address: IpAddr,
        token: TokenId,
    ) {
        let record = LoginRecord {
            at: identity.proved,
            jid: identity.jid.as_str().into(),
            session: String::new(),
            address: Some(address.to_string()),
            mechanism: Some(identity.mechanism.as_str().into()),
            token: Some(token.to_string()),
            software: identity.agent.as_ref().and_then(|a| a.software.as_deref()).map(capped),
            refused: None,
            end: None,
        };
        let noted = self.notes_logins_of(&identity.jid);
        self.take_note(Note::Session {
            account: identity.account,
            stamp: if noted { self.stamp() } else { 0 },
            record: noted.then(|| Box::new(record)),
            seen: Seen { login: identity.proved, active: identity.proved, enabled: Millis(0) },
            over: false,
        });
    }

    /// Notes that a session has ended, if it was noted that it began.
    pub(crate) fn note_end(self: &Arc<Self>, session: &Arc<Session>, end: &EndRecord) {
        self.note_session(session, Some(end));
    }

    fn note_session(self: &Arc<Self>, session: &Session, end: Option<&EndRecord>) {
        let Some(identity) = session.identity() else { return };
        let Some(stamp) = identity.noted.get() else { return };
        let record = LoginRecord::of(session, end).filter(|_| *stamp != 0);
        let active = session.last_activity().max(identity.proved);
        self.take_note(Note::Session {
            account: identity.account,
            stamp: *stamp,
            record: record.map(Box::new),
            seen: Seen { login: identity.proved, active, enabled: Millis(0) },
            over: end.is_some(),
        });
    }

    /// A login was refused: counts it, unless it has been already, and notes it in the history of the
    /// account, if there is one.
    pub fn login_refused(
        self: &Arc<Self>,
        session: &Session,
        user: Option<&Jid>,
        failure: SaslFailure,
    ) {
        use SaslFailure::{
            Aborted, EncryptionRequired, IncorrectEncoding, InvalidMechanism, MalformedRequest,
        };
        let (mechanism, told) = session.attempt();
        session.set_attempt(None, false);
        let unfinished = matches!(
            failure,
            Aborted | EncryptionRequired | IncorrectEncoding | InvalidMechanism | MalformedRequest
        );
        if let Some(user) = user
            && !told
            && !unfinished
        {
            // Only a wrong secret is a try at a password: a device with a token that has expired is
            // not to keep its owner out.
            if failure == SaslFailure::NotAuthorized {
                let (address, now) = (session.address(), self.clock.now());
                self.throttle.failed(user, address, now);
                if self.throttle.refuses(user, address, now) {
                    self.locked_out(user, address);
                }
            }
            self.refused(session, user, mechanism, failure.as_str());
        }
    }

    /// Notes a refused login for this reason.
    pub(crate) fn refused(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        mechanism: Option<Mechanism>,
        reason: &'static str,
    ) {
        self.metrics.login_refused(mechanism, reason);
        if !self.notes_logins_of(user) {
            return;
        }
        let now = self.clock.now();
        self.take_note(Note::Refused(Refused {
            at: now,
            last: now,
            stamp: self.stamp(),
            jid: user.clone(),
            session: session.id,
            address: session.address(),
            mechanism,
            reason,
            count: 1,
        }));
    }

    /// Logins, newest first, with their stamps, as far as they may be shown.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn logins(&self, query: Query) -> Result<Vec<(u64, LoginRecord)>, StoreError> {
        // What has happened by now is to be seen.
        self.history_written(WAIT).await;
        let now = self.clock.now();
        let (mut found, mut before) = (Vec::new(), query.before);
        let (table, owner) = match query.account {
            Some(account) => (&LOGIN, account.0),
            None if query.failed => (&LOGIN_REFUSED, SERVER),
            None => (&LOGIN_TIME, SERVER),
        };
        while found.len() < query.limit {
            let range = Range {
                before: before.map(key_of),
                reverse: true,
                limit: PAGE,
                ..Range::default()
            };
            let rows = self.store.rows(table, owner, range).await?;
            for row in &rows {
                before = stamp_of(&row.key);
                let Some(stamp) = before else { continue };
                let value = match query.account {
                    Some(_) => Some(row.value.clone()),
                    None => {
                        let place: Place = decode(table, &row.value)?;
                        self.store.get(&LOGIN, place.account.0, &row.key).await?
                    }
                };
                // Gone with its account, or a moment ago.
                let Some(value) = value else { continue };
                let record: LoginRecord = decode(&LOGIN, &value)?;
                if query.failed && record.refused.is_none() || self.history_past(&record, now) {
                    continue;
                }
                found.push((stamp, record.aged(now, &self.config.privacy)));
                if found.len() == query.limit {
                    break;
                }
            }
            if rows.len() < PAGE {
                break;
            }
        }
        Ok(found)
    }

    /// The session of a login, if it is still there.
    #[must_use]
    pub fn login_session(&self, record: &LoginRecord) -> Option<Arc<Session>> {
        let id = record.session.parse::<SessionId>().ok()?;
        if record.refused.is_some() || record.end.is_some() {
            return None;
        }
        self.registry.get(id).filter(|session| session.alive())
    }

    /// Whether a login has been over for so long that it is to be forgotten.
    fn history_past(&self, record: &LoginRecord, now: Millis) -> bool {
        let Some(retention) = self.config.history.retention.get() else { return true };
        record.over().plus_seconds(retention) <= now && self.login_session(record).is_none()
    }

    /// Stamps below this one are of logins that may be past; `None` if all may be.
    fn history_cutoff(&self, now: Millis) -> Option<Bytes> {
        let retention = self.config.history.retention.get()?;
        let before = Millis(now.0.saturating_sub(retention.saturating_mul(1000)));
        Some(key_of(first_stamp(Millis(before.0 + 1))))
    }

    /// Removes what is left of logins whose accounts are gone, and notes that the sessions that are
    /// there are: the end of a round of the pass over all accounts. Gives the number of removed rows.
    pub(crate) async fn age_history(self: &Arc<Self>) -> Result<usize, StoreError> {
        self.note_all_active().await?;
        let mut removed = 0;
        for table in [&LOGIN_TIME, &LOGIN_REFUSED] {
            removed += self.remove_orphans(table).await?;
        }
        Ok(removed)
    }

    async fn remove_orphans(&self, table: &'static Table) -> Result<usize, StoreError> {
        let before = self.history_cutoff(self.clock.now());
        let (mut after, mut removed) = (None, 0);
        loop {
            let range = Range { after, before: before.clone(), limit: PAGE, ..Range::default() };
            let rows = self.store.rows(table, SERVER, range).await?;
            let mut batch = Batch::new();
            for row in &rows {
                let there = match decode::<Place>(table, &row.value) {
                    Ok(place) => self.store.get(&LOGIN, place.account.0, &row.key).await?,
                    Err(_) => None,
                };
                if there.is_none() {
                    batch = batch.delete(table, SERVER, row.key.clone());
                }
            }
            removed += batch.ops.len();
            if !batch.ops.is_empty() {
                self.store.commit(batch).await?;
            }
            match rows.last() {
                Some(last) if rows.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(removed),
            }
        }
    }

    /// What goes with an account besides the rows that it owns. What was noted before is written by
    /// now, so that nothing is written behind the deletion's back.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn forget_logins(&self, account: AccountId) -> Result<Batch, StoreError> {
        self.history_written(WAIT).await;
        let rows = self.store.rows(&LOGIN, account.0, Range::all()).await?;
        Ok(rows.iter().fold(Batch::new(), |batch, row| misplace(batch, &row.key)))
    }
}

/// How long whoever reads waits for what is still to be written.
const WAIT: std::time::Duration = std::time::Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lj_24_text_is_capped_by_characters_and_not_bytes() {
        assert_eq!(capped(&"é".repeat(10_000)), "é".repeat(100));
        assert_eq!(capped("short"), "short");
    }

    #[test]
    fn lj_24_a_row_is_over_when_the_last_of_it_is() {
        let mut record = LoginRecord {
            at: Millis(5),
            jid: "a@b".into(),
            session: String::new(),
            address: None,
            mechanism: None,
            token: None,
            software: None,
            refused: None,
            end: None,
        };
        assert_eq!(record.over(), Millis(5));
        record.refused = Some(Refusal { reason: "x".into(), count: 2, last: Millis(9) });
        assert_eq!(record.over(), Millis(9));
        record.refused = None;
        let (reason, by) = ("lost".to_owned(), "peer".to_owned());
        record.end = Some(LoginEnd { at: Millis(7), reason, by, rx: 0, tx: 0 });
        assert_eq!(record.over(), Millis(7));
        let text = encode(&record);
        assert_eq!(decode::<LoginRecord>(&LOGIN, &text), Ok(record));
    }
}
