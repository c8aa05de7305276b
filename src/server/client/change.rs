//! Changes of a client, and the sessions that have to go or to go by them. Each is durable first, then
//! tells logins that are under way to look again, then sees to the sessions that it finds.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use super::{Block, Client, Over, Tombstone, book::Handle};
use crate::{
    Server,
    account::Role,
    clock::Millis,
    end::{Actor, Reason},
    epoch::Epoch,
    id::{AccountId, GrantId},
    registry::Few,
    store::StoreError,
};

impl Server {
    /// The sessions that are visits of a client.
    #[must_use]
    pub fn visits(&self, client: &Client) -> Few {
        let mut sessions = self.registry.of(&client.jid);
        sessions.retain(|session| {
            session.identity().is_some_and(|me| {
                me.account == client.account && me.client().is_some_and(|of| of.is(client))
            })
        });
        sessions
    }

    /// What was written about a client counts from here on for logins that are under way: either they
    /// see it, or they are seen.
    fn client_changed(&self) {
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Ends a client with all that it has, durably, and only then its sessions; they are returned,
    /// marked dead, for the caller to wait for.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn end_client(
        self: &Arc<Self>,
        client: &Client,
        why: Over,
        actor: &Actor,
        text: Option<String>,
    ) -> Result<(Client, Few), StoreError> {
        let tombstone = Tombstone::new(self.clock.now(), why, actor, text.clone());
        let buried = self.bury_client(client, &tombstone).await?;
        let buried = buried.unwrap_or_else(|| {
            let mut forgotten = client.clone();
            forgotten.end(&tombstone);
            forgotten
        });
        self.client_changed();
        let sessions = self.visits(&buried);
        self.end_revoked(&sessions, Reason::Revoked, actor, text);
        Ok((buried, sessions))
    }

    /// The same, and refuses it from now on, whatever it proves, until then or for ever. `None`: there
    /// is no such client any more.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn block_client(
        self: &Arc<Self>,
        client: &Client,
        until: Option<Millis>,
        actor: &Actor,
        text: Option<String>,
    ) -> Result<Option<(Client, Few)>, StoreError> {
        let at = self.clock.now();
        let tombstone = Tombstone::new(at, Over::Revoked, actor, text.clone());
        let block = Block { at, until, by: actor.name().to_owned(), text: text.clone() };
        let blocked = self.change_client(client.account, client.sid, |client| {
            client.block = Some(block.clone());
            client.end(&tombstone);
            true
        });
        let Some(blocked) = blocked.await? else { return Ok(None) };
        self.client_changed();
        let sessions = self.visits(&blocked);
        self.end_revoked(&sessions, Reason::Blocked, actor, text);
        Ok(Some((blocked, sessions)))
    }

    /// Changes a client, durably, and lets its sessions go by it at once. Gives it as it is now, with
    /// its sessions. `None`: there is no such client any more.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn alter_client(
        self: &Arc<Self>,
        account: AccountId,
        sid: u64,
        change: impl FnMut(&mut Client) -> bool,
    ) -> Result<Option<(Client, Few)>, StoreError> {
        let Some(client) = self.change_client(account, sid, change).await? else {
            return Ok(None);
        };
        self.client_changed();
        let sessions = self.visits(&client);
        let waits = client.waits(&self.config.clients, self.clock.now());
        loop {
            // Another change of the account must not be undone by what was read before it.
            let epoch = self.accounts_epoch.load(Ordering::SeqCst);
            let account = self.account(&client.jid).await?;
            let account = account.filter(|account| account.id == client.account);
            let role = account.map_or(Role::Restricted, |account| account.role);
            for identity in sessions.iter().filter_map(|session| session.identity()) {
                let mut live = identity.live.lock();
                live.expires = client.stays_until(identity.token, &live.policy);
                live.most = client.most(identity.token, waits && identity.token.is_none());
                live.role = role.min(live.most);
            }
            if self.accounts_epoch.load(Ordering::SeqCst) == epoch {
                break;
            }
        }
        sessions.iter().for_each(|session| self.rearm(session));
        Ok(Some((client, sessions)))
    }

    /// Raises the epoch of a grant, durably: its tokens from before are void, unless `grace` is given,
    /// and it stays. The sessions that they opened end; they are returned, marked dead. `None`: there
    /// is no such grant.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn raise_grant_epoch(
        self: &Arc<Self>,
        id: GrantId,
        grace: bool,
        actor: &Actor,
    ) -> Result<Option<(Epoch, Few)>, StoreError> {
        let Some(client) = self.client_with(Handle::Grant(id)).await? else { return Ok(None) };
        let changed = self.change_client(client.account, client.sid, |client| {
            let grant = client.grants.iter_mut().find(|grant| grant.id == id);
            grant.map(|grant| grant.epoch.raise(grace)).is_some()
        });
        let Some(client) = changed.await? else { return Ok(None) };
        self.client_changed();
        let Some(grant) = client.grants.iter().find(|grant| grant.id == id) else {
            return Ok(None);
        };
        let outlawed = |token: wire::TokenId| {
            let token = grant.tokens.iter().find(|record| record.id == token);
            token.is_none_or(|token| !grant.epoch.accepts(token.epoch))
        };
        let mut sessions = self.registry.of(&client.jid);
        sessions.retain(|session| {
            session.identity().is_some_and(|me| {
                me.account == client.account
                    && me.grant == Some(id)
                    && me.token.is_some_and(outlawed)
            })
        });
        self.end_revoked(&sessions, Reason::Epoch, actor, None);
        Ok(Some((grant.epoch.clone(), sessions)))
    }
}
