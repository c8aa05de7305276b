//! Where clients are kept: one row each, found by its number, by the name it comes back with, and by
//! the handles of all that it has. Every change is read, changed and written until nobody came in
//! between.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use wire::{Jid, TokenId};

use super::{Client, ClientRef, Key, Tombstone};
use crate::{
    Server,
    account::{ACCOUNTS, Account},
    clock::Millis,
    config::Clients,
    id::{AccountId, ClientId, GrantId},
    privacy::Aging,
    store::{Batch, Owner, Range, Row, SERVER, StoreError, Table},
    vault::Grant,
};

/// Clients by account and number.
pub static CLIENTS: Table =
    Table { name: "client", about: "clients with their grants and tokens: keyed hashes, bounds" };
/// The numbers of an account's clients by what they come back with.
pub static CLIENT_KEYS: Table =
    Table { name: "client_key", about: "resource or token id to the number of a client" };
/// The number of an account's latest client.
pub static CLIENT_COUNTS: Table =
    Table { name: "client_count", about: "the number that an account's latest client got" };
/// Whose a client, grant or token is, by its id.
pub static HANDLES: Table =
    Table { name: "handle", about: "ids of clients, grants and tokens to account and number" };

/// How [`CLIENTS`] grows old.
pub(crate) static AGING: Aging = Aging { table: &CLIENTS, change: age };

fn age(server: &Server, owner: Owner, row: &Row, now: Millis) -> Option<Batch> {
    let Ok(client) = Client::decode(&row.value) else {
        tracing::warn!(event = "client-unreadable", account = owner);
        return None;
    };
    let details =
        |client: &Client| (client.address.clone(), client.software.clone(), client.device.clone());
    let before = details(&client);
    let aged = client.aged(now, &server.config.privacy);
    let changed = before != details(&aged);
    changed.then(|| Batch::new().put(&CLIENTS, owner, row.key.clone(), aged.encode()))
}

const COUNT: &[u8] = b"sid";

/// The name of something that belongs to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// The client itself.
    Client(ClientId),
    /// One of its grants.
    Grant(GrantId),
    /// One of their tokens.
    Token(TokenId),
}

impl Handle {
    fn key(self) -> Bytes {
        match self {
            Self::Client(id) => id.to_string(),
            Self::Grant(id) => id.to_string(),
            Self::Token(id) => id.to_string(),
        }
        .into()
    }
}

impl Key {
    /// Its row in [`CLIENT_KEYS`]; what a token opens is found by the token's id instead.
    fn row(&self) -> Option<Bytes> {
        match self {
            Self::Resource(resource) => Some(format!("r{resource}").into()),
            Self::Grant(_) => None,
            Self::Agent(id) => Some(format!("a{id}").into()),
        }
    }
}

fn sid_key(sid: u64) -> Bytes {
    Bytes::copy_from_slice(&sid.to_be_bytes())
}

fn token_key(id: TokenId) -> Bytes {
    id.to_string().into()
}

fn number(table: &'static Table, row: &[u8]) -> Result<u64, StoreError> {
    let bytes = row
        .try_into()
        .map_err(|_| StoreError::Corrupt { table: table.name, why: "not a number".into() })?;
    Ok(u64::from_be_bytes(bytes))
}

impl Client {
    fn decode(row: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(row)
            .map_err(|why| StoreError::Corrupt { table: CLIENTS.name, why: why.to_string() })
    }

    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    /// All names by which it and what it has are found.
    fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        let tokens = |grant: &Grant| -> Vec<Handle> {
            grant.tokens.iter().map(|token| Handle::Token(token.id)).collect()
        };
        let grants = self
            .grants
            .iter()
            .flat_map(move |grant| std::iter::once(Handle::Grant(grant.id)).chain(tokens(grant)));
        std::iter::once(Handle::Client(self.id)).chain(grants)
    }

    /// Whether it, and all that it has, may be forgotten: over for longer than tombstones stand.
    fn forgettable(&self, clients: &Clients, now: Millis) -> bool {
        let Some(over) = &self.over else { return false };
        let stands = clients.tombstones.get();
        !self.is_blocked(now) && stands.is_some_and(|stands| over.at.plus_seconds(stands) <= now)
    }
}

impl Server {
    /// The client with this number.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn client(&self, account: AccountId, sid: u64) -> Result<Option<Client>, StoreError> {
        let row = self.store.get(&CLIENTS, account.0, &sid_key(sid)).await?;
        row.map(|row| Client::decode(&row)).transpose()
    }

    /// The client that a handle belongs to.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn client_with(&self, handle: Handle) -> Result<Option<Client>, StoreError> {
        let Some(row) = self.store.get(&HANDLES, SERVER, &handle.key()).await? else {
            return Ok(None);
        };
        let bad = || StoreError::Corrupt { table: HANDLES.name, why: "not two numbers".into() };
        let (account, sid) = row.split_at_checked(8).ok_or_else(bad)?;
        self.client(AccountId(number(&HANDLES, account)?), number(&HANDLES, sid)?).await
    }

    /// The client that logs in with the password and asks for this resource.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn client_of_resource(
        &self,
        account: AccountId,
        resource: &str,
    ) -> Result<Option<Client>, StoreError> {
        let Some(key) = Key::Resource(resource.into()).row() else { return Ok(None) };
        self.client_by(account.0, &key).await
    }

    /// The client that says it is this installation of its software. Looked for in any case, so that
    /// how long it takes tells nobody whether the account is there.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn client_of_agent(
        &self,
        owner: Owner,
        id: &str,
    ) -> Result<Option<Client>, StoreError> {
        let Some(key) = Key::Agent(id.into()).row() else { return Ok(None) };
        self.client_by(owner, &key).await
    }

    /// The client that a token opens. Looked for in any case, so that how long it takes tells nobody
    /// whether the account is there.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn client_of_token(
        &self,
        owner: Owner,
        token: TokenId,
    ) -> Result<Option<Client>, StoreError> {
        self.client_by(owner, &token_key(token)).await
    }

    async fn client_by(&self, owner: Owner, key: &[u8]) -> Result<Option<Client>, StoreError> {
        let version = match self.known_clients.find(owner, key) {
            Ok(known) => return Ok(Some((*known).clone())),
            Err(version) => version,
        };
        let Some(sid) = self.store.get(&CLIENT_KEYS, owner, key).await? else { return Ok(None) };
        let client = self.client(AccountId(owner), number(&CLIENT_KEYS, &sid)?).await?;
        if let Some(client) = &client {
            self.known_clients.keep(version, owner, key, Arc::new(client.clone()));
        }
        Ok(client)
    }

    /// Up to `limit` clients of an account with numbers above `after` (0: all), ended ones included.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn clients_of(
        &self,
        account: AccountId,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Client>, StoreError> {
        let range = Range::page(after.map(sid_key), limit);
        let rows = self.store.rows(&CLIENTS, account.0, range).await?;
        rows.iter().map(|row| Client::decode(&row.value)).collect()
    }

    /// Makes a client: `make` gets its number. Durable when this returns. Only for an account that is
    /// there by that name: what is written behind a deletion's or a new name's back, nobody would find.
    ///
    /// # Errors
    /// When storage fails, or the account is not there any more: there is none then.
    pub(crate) async fn add_client(
        &self,
        account: AccountId,
        make: impl Fn(u64) -> Client,
    ) -> Result<Client, StoreError> {
        loop {
            let row = self.store.get(&CLIENT_COUNTS, account.0, COUNT).await?;
            let last = row.as_deref().map(|row| number(&CLIENT_COUNTS, row)).transpose()?;
            let client = make(last.unwrap_or(0) + 1);
            let name = Bytes::copy_from_slice(client.jid.as_bytes());
            let owner = self.store.get(&ACCOUNTS, SERVER, &name).await?;
            let there = owner.as_ref().map(Account::decode).transpose()?;
            if there.is_none_or(|there| there.id != account) {
                let why = format!("there is no account `{}` any more", client.jid);
                return Err(StoreError::Unavailable(why));
            }
            let mut batch = Batch::new()
                .expect(&ACCOUNTS, SERVER, name, owner)
                .expect(&CLIENT_COUNTS, account.0, COUNT, row)
                .put(&CLIENT_COUNTS, account.0, COUNT, sid_key(client.sid))
                .and(indexed(&client));
            let key = client.key.row();
            if let Some(key) = key.clone() {
                batch = batch.put(&CLIENT_KEYS, account.0, key, sid_key(client.sid));
            }
            batch = batch.put(&CLIENTS, account.0, sid_key(client.sid), client.encode());
            match self.store.commit(batch).await {
                Ok(()) => {
                    if let Some(key) = &key {
                        self.known_clients.forget_key(account.0, key);
                    }
                    return Ok(client);
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes a client, durably. `change` may be asked several times, says whether there is anything
    /// to write, and may add grants and tokens. Gives the client as it is now; none: there is none.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn change_client(
        &self,
        account: AccountId,
        sid: u64,
        mut change: impl FnMut(&mut Client) -> bool,
    ) -> Result<Option<Client>, StoreError> {
        loop {
            let Some(row) = self.store.get(&CLIENTS, account.0, &sid_key(sid)).await? else {
                return Ok(None);
            };
            let before = Client::decode(&row)?;
            let mut client = before.clone();
            if !change(&mut client) {
                return Ok(Some(client));
            }
            let known: Vec<Handle> = before.handles().collect();
            let mut batch = Batch::new().expect(&CLIENTS, account.0, sid_key(sid), Some(row)).put(
                &CLIENTS,
                account.0,
                sid_key(sid),
                client.encode(),
            );
            for handle in client.handles().filter(|handle| !known.contains(handle)) {
                batch = batch.and(index(&client, handle));
            }
            let left: Vec<Handle> = client.handles().collect();
            for handle in known.into_iter().filter(|handle| !left.contains(handle)) {
                batch = batch.and(unindex(&client, handle));
            }
            let outcome = self.store.commit(batch).await;
            // Whatever came of it, what is known of it may be wrong now.
            self.known_clients.forget(account.0, sid);
            match outcome {
                Ok(()) => return Ok(Some(client)),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes that a client was used, without making anybody wait; not at all if somebody has changed
    /// it in between, for then it was written anyway, or is over.
    pub(crate) fn note_client(
        &self,
        account: AccountId,
        sid: u64,
        change: impl FnMut(&mut Client) -> bool + Send + 'static,
    ) {
        let (store, known, mut change) = (self.store.clone(), self.known_clients.clone(), change);
        self.spawn(async move {
            let noted =
                async {
                    let Some(row) = store.get(&CLIENTS, account.0, &sid_key(sid)).await? else {
                        return Ok(());
                    };
                    let mut client = Client::decode(&row)?;
                    if client.over.is_some() || !change(&mut client) {
                        return Ok(());
                    }
                    let batch = Batch::new()
                        .expect(&CLIENTS, account.0, sid_key(sid), Some(row))
                        .put(&CLIENTS, account.0, sid_key(sid), client.encode());
                    let outcome = store.commit(batch).await;
                    known.forget(account.0, sid);
                    outcome
                };
            match noted.await {
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(error) => tracing::warn!(event = "last-use-not-written", %error),
            }
        });
    }

    /// Forgets a client with all that it has.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn forget_client(&self, client: &Client) -> Result<(), StoreError> {
        let mut batch = Batch::new().delete(&CLIENTS, client.account.0, sid_key(client.sid));
        for handle in client.handles() {
            batch = batch.and(unindex(client, handle));
        }
        if let Some(key) = client.key.row() {
            // A newer client may have the name by now; its row stays.
            let sid = self.store.get(&CLIENT_KEYS, client.account.0, &key).await?;
            if sid.as_deref() == Some(&client.sid.to_be_bytes()) {
                batch = batch.expect(&CLIENT_KEYS, client.account.0, key.clone(), sid).delete(
                    &CLIENT_KEYS,
                    client.account.0,
                    key,
                );
            }
        }
        let outcome = self.store.commit(batch).await;
        self.known_clients.forget(client.account.0, client.sid);
        match outcome {
            Err(StoreError::Conflict) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What gives the clients of an account its new name, as long as nobody changes or adds one
    /// meanwhile.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn renamed_clients(
        &self,
        account: AccountId,
        jid: &Jid,
    ) -> Result<Batch, StoreError> {
        let count = self.store.get(&CLIENT_COUNTS, account.0, COUNT).await?;
        let mut batch = Batch::new().expect(&CLIENT_COUNTS, account.0, COUNT, count);
        for row in self.store.rows(&CLIENTS, account.0, Range::all()).await? {
            let mut client = Client::decode(&row.value)?;
            client.jid = jid.as_str().to_owned();
            batch = batch.expect(&CLIENTS, account.0, row.key.clone(), Some(row.value)).put(
                &CLIENTS,
                account.0,
                row.key,
                client.encode(),
            );
        }
        Ok(batch)
    }

    /// Forgets what is known of an account's clients without storage, because all of it was changed.
    pub(crate) fn forget_known_clients(&self, account: AccountId) {
        self.known_clients.forget_all(account.0);
    }

    /// All rows that an account's clients have outside of the account's own.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn handles_of(&self, account: AccountId) -> Result<Batch, StoreError> {
        let mut batch = Batch::new();
        for client in self.clients_of(account, None, 0).await? {
            for handle in client.handles() {
                batch = batch.delete(&HANDLES, SERVER, handle.key());
            }
        }
        Ok(batch)
    }

    /// Forgets what has been over for longer than tombstones stand and, beyond `clients.per_account`,
    /// clients without a way back of their own that were not seen for the longest time. `here`: the
    /// numbers of those that have a session.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn tidy_clients(
        &self,
        account: AccountId,
        here: &[u64],
    ) -> Result<usize, StoreError> {
        let (bounds, now) = (&self.config.clients, self.clock.now());
        let mut clients = self.clients_of(account, None, 0).await?;
        let mut gone = 0;
        let (over, mut rest): (Vec<_>, Vec<_>) =
            clients.drain(..).partition(|client| client.forgettable(bounds, now));
        rest.retain(|client| {
            client.has_no_token() && client.block.is_none() && !here.contains(&client.sid)
        });
        rest.sort_by_key(|client| client.seen.unwrap_or(client.created));
        let cap = usize::try_from(bounds.per_account).unwrap_or(usize::MAX);
        let total = self.store.count(&CLIENTS, account.0).await?;
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let too_many = total.saturating_sub(over.len()).saturating_sub(cap);
        for client in over.iter().chain(rest.iter().take(too_many)) {
            self.forget_client(client).await?;
            gone += 1;
        }
        Ok(gone)
    }

    /// Ends a client with all that it has, durably; what sessions it has is the caller's business.
    /// Gives it as it is now; none: there is none.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn bury_client(
        &self,
        client: &Client,
        tombstone: &Tombstone,
    ) -> Result<Option<Client>, StoreError> {
        let ended = self.change_client(client.account, client.sid, |client| {
            let before = client.over.is_some();
            client.end(tombstone);
            !before
        });
        let ended = ended.await?;
        // Logins that are under way look again.
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        Ok(ended)
    }
}

/// Rows by which all that a client has is found.
fn indexed(client: &Client) -> Batch {
    client.handles().fold(Batch::new(), |batch, handle| batch.and(index(client, handle)))
}

fn index(client: &Client, handle: Handle) -> Batch {
    let place = [client.account.0.to_be_bytes(), client.sid.to_be_bytes()].concat();
    let batch = Batch::new().expect(&HANDLES, SERVER, handle.key(), None).put(
        &HANDLES,
        SERVER,
        handle.key(),
        place,
    );
    match handle {
        Handle::Token(id) => {
            batch.put(&CLIENT_KEYS, client.account.0, token_key(id), sid_key(client.sid))
        }
        Handle::Client(_) | Handle::Grant(_) => batch,
    }
}

fn unindex(client: &Client, handle: Handle) -> Batch {
    let batch = Batch::new().delete(&HANDLES, SERVER, handle.key());
    match handle {
        Handle::Token(id) => batch.delete(&CLIENT_KEYS, client.account.0, token_key(id)),
        Handle::Client(_) | Handle::Grant(_) => batch,
    }
}

impl ClientRef {
    /// Whether a client is the one that this names.
    #[must_use]
    pub fn is(self, client: &Client) -> bool {
        self.id == client.id
    }
}
