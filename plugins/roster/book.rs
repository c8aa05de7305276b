//! Rosters in memory: one per account, for as long as any of its sessions or any work under way
//! holds it. What is here is what is stored; every change is stored first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock, Weak},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use server::{
    Server, Session,
    id::AccountId,
    store::{Batch, Range, StoreError},
};
use tokio::sync::OnceCell;
use wire::Jid;

use super::{ROSTER, item::Item, subscription::State};

/// Where an account's version of its roster is stored, beside its contacts: no address is empty.
const VERSION: &[u8] = b"";

/// The rosters of a server that somebody holds at the moment.
#[derive(Default)]
pub struct Book {
    live: Mutex<HashMap<AccountId, Weak<Roster>>>,
}

/// One account's roster.
pub struct Roster {
    /// Whose.
    pub account: AccountId,
    /// Its bare JID.
    pub jid: Jid,
    /// Held by whoever changes it, from reading it until those who must know have been told, so
    /// that clients see changes in the order in which they happened. Whoever changes two rosters
    /// takes the gate of the lesser account id first.
    pub gate: tokio::sync::Mutex<()>,
    contents: RwLock<Contents>,
    loaded: OnceCell<()>,
    book: Weak<Book>,
}

#[derive(Default)]
struct Contents {
    items: BTreeMap<Jid, Item>,
    /// Grows with each change that clients can see; 0 before the first.
    version: u64,
    /// Rows as they are stored where that is not how they would be written now.
    foreign: BTreeMap<Jid, Bytes>,
}

/// A change of one contact in one roster.
pub struct Edit<'a> {
    /// Whose roster.
    pub roster: &'a Roster,
    /// The contact.
    pub contact: &'a Jid,
    /// What it was.
    pub before: Option<&'a Item>,
    /// What it is to be; none: gone.
    pub after: Option<&'a Item>,
}

/// A session's hold on the roster of its account.
#[derive(Default)]
struct Hold(OnceLock<Arc<Roster>>);

impl Book {
    /// The roster of an account: the one in memory, or else the one in the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open(
        server: &Server,
        account: AccountId,
        jid: &Jid,
    ) -> Result<Arc<Roster>, StoreError> {
        let book = server.slot::<Self>();
        let roster = {
            let mut live = book.live.lock();
            let known = live.get(&account).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let roster = Arc::new(Roster {
                    account,
                    jid: jid.clone(),
                    gate: tokio::sync::Mutex::default(),
                    contents: RwLock::default(),
                    loaded: OnceCell::new(),
                    book: Arc::downgrade(&book),
                });
                live.insert(account, Arc::downgrade(&roster));
                roster
            })
        };
        roster.loaded.get_or_try_init(|| roster.load(server)).await?;
        Ok(roster)
    }

    /// How many rosters are in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Roster {
    /// The roster that a session holds; none before it is bound.
    #[must_use]
    pub fn of(session: &Session) -> Option<Arc<Self>> {
        session.slot::<Hold>().0.get().cloned()
    }

    /// Lets a session hold it.
    pub fn hold(self: Arc<Self>, session: &Session) {
        // A session is of one account for ever; a second bind would bring the same roster.
        let _ = session.slot::<Hold>().0.set(self);
    }

    /// One contact, a hidden one included.
    #[must_use]
    pub fn item(&self, contact: &Jid) -> Option<Item> {
        self.contents.read().items.get(contact).cloned()
    }

    /// How the account stands to somebody.
    #[must_use]
    pub fn state(&self, contact: &str) -> State {
        self.contents.read().items.get(contact).map(Item::state).unwrap_or_default()
    }

    /// The contacts that are shown, and the version.
    #[must_use]
    pub fn listed(&self) -> (Vec<(Jid, Item)>, u64) {
        let contents = self.contents.read();
        let shown = contents.items.iter().filter(|(_, item)| !item.hidden);
        (shown.map(|(jid, item)| (jid.clone(), item.clone())).collect(), contents.version)
    }

    /// The version alone.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.contents.read().version
    }

    /// How many contacts are shown, and how many are hidden.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let contents = self.contents.read();
        let hidden = contents.items.values().filter(|item| item.hidden).count();
        (contents.items.len() - hidden, hidden)
    }

    /// The contacts of which something is so.
    #[must_use]
    pub fn contacts(&self, which: impl Fn(State) -> bool) -> Vec<Jid> {
        let contents = self.contents.read();
        let found = contents.items.iter().filter(|(_, item)| which(item.state()));
        found.map(|(jid, _)| jid.clone()).collect()
    }

    /// Unanswered requests of contacts, as they are delivered.
    #[must_use]
    pub fn requests(&self) -> Vec<Box<str>> {
        self.contents.read().items.values().filter_map(|item| item.request.clone()).collect()
    }

    /// Reads it from the store, whatever was here before.
    pub(super) async fn load(&self, server: &Server) -> Result<(), StoreError> {
        let mut contents = Contents::default();
        for row in server.store.rows(&ROSTER, self.account.0, Range::all()).await? {
            let corrupt = |why: String| StoreError::Corrupt { table: ROSTER.name, why };
            if row.key == VERSION {
                let read = serde_json::from_slice(&row.value);
                contents.version = read.map_err(|why| corrupt(why.to_string()))?;
                continue;
            }
            let key = std::str::from_utf8(&row.key).map_err(|why| corrupt(why.to_string()))?;
            let jid = Jid::parse(key).map_err(|why| corrupt(why.to_string()))?;
            let item = Item::decode(&row.value)?;
            if item.encode() != row.value {
                contents.foreign.insert(jid.clone(), row.value);
            }
            contents.items.insert(jid, item);
        }
        *self.contents.write() = contents;
        Ok(())
    }

    fn stored(&self, contact: &Jid, item: Option<&Item>) -> Option<Bytes> {
        let foreign = self.contents.read().foreign.get(contact).cloned();
        foreign.or_else(|| item.map(Item::encode))
    }

    fn apply(&self, contact: &Jid, after: Option<&Item>, version: Option<u64>) {
        let mut contents = self.contents.write();
        match after {
            Some(item) => contents.items.insert(contact.clone(), item.clone()),
            None => contents.items.remove(contact),
        };
        contents.foreign.remove(contact);
        contents.version = version.unwrap_or(contents.version);
    }
}

/// Makes changes durable, all or none, and then visible. The caller holds the gates.
///
/// # Errors
/// When they could not be stored; [`StoreError::Conflict`] when somebody else has changed a row,
/// and then the rosters have been read again.
pub async fn commit(server: &Server, edits: &[Edit<'_>]) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    let mut versions = Vec::with_capacity(edits.len());
    for edit in edits {
        let (owner, key) = (edit.roster.account.0, edit.contact.as_str().as_bytes().to_vec());
        let before = edit.roster.stored(edit.contact, edit.before);
        batch = batch.expect(&ROSTER, owner, key.clone(), before);
        batch = match edit.after {
            Some(item) => batch.put(&ROSTER, owner, key, item.encode()),
            None => batch.delete(&ROSTER, owner, key),
        };
        let version = edit.seen().then(|| server.stamp());
        if let Some(version) = version {
            batch = batch.put(&ROSTER, owner, VERSION, version.to_string());
        }
        versions.push(version);
    }
    match server.store.commit(batch).await {
        Ok(()) => {
            for (edit, version) in edits.iter().zip(versions) {
                edit.roster.apply(edit.contact, edit.after, version);
            }
            Ok(())
        }
        Err(error) => {
            if error == StoreError::Conflict {
                for edit in edits {
                    edit.roster.load(server).await?;
                }
            }
            Err(error)
        }
    }
}

impl Edit<'_> {
    /// Whether clients see a difference.
    fn seen(&self) -> bool {
        let unlisted = Item::unlisted();
        !self.before.unwrap_or(&unlisted).looks_like(self.after.unwrap_or(&unlisted))
    }
}

/// The last who held it takes it out of the book.
impl Drop for Roster {
    fn drop(&mut self) {
        if let Some(book) = self.book.upgrade() {
            let mut live = book.live.lock();
            // Somebody may have opened it anew in the meantime.
            if live.get(&self.account).is_some_and(|roster| roster.strong_count() == 0) {
                live.remove(&self.account);
            }
        }
    }
}
