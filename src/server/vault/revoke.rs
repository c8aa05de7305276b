//! The end of tokens and grants, durable before the sessions that they let in end.

use std::sync::{Arc, atomic::Ordering};

use wire::TokenId;

use super::Found;
use crate::{
    Server,
    client::{Client, Over, Tombstone, book::Handle},
    end::{Actor, End, Level, Reason},
    id::GrantId,
    registry::Few,
    store::StoreError,
};

impl Server {
    /// Revokes a token for good, durably, and only then ends the sessions that it opened; they are
    /// returned, marked dead, for the caller to wait for. `None`: there is no such token.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn revoke_token(
        self: &Arc<Self>,
        id: TokenId,
        actor: &Actor,
        reason: Option<String>,
    ) -> Result<Option<(Found, Few)>, StoreError> {
        let tombstone = Tombstone::new(self.clock.now(), Over::Revoked, actor, reason.clone());
        let Some(client) = self.client_with(Handle::Token(id)).await? else { return Ok(None) };
        let changed = self.change_client(client.account, client.sid, |client| {
            let Some((_, token)) = client.token_mut(id) else { return false };
            if token.over.is_some() {
                return false;
            }
            token.over = Some(tombstone.clone());
            // What its sessions were given for their next login goes with it.
            for grant in &mut client.grants {
                for child in grant.tokens.iter_mut().filter(|token| token.comes_of(id)) {
                    child.over.get_or_insert_with(|| tombstone.clone());
                }
            }
            true
        });
        let Some(client) = changed.await? else { return Ok(None) };
        self.metrics.token("revoked");
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        let mut sessions = self.registry.with_token(id);
        for token in client.grants.iter().flat_map(|grant| &grant.tokens) {
            if token.comes_of(id) {
                sessions.extend(self.registry.with_token(token.id));
            }
        }
        self.end_revoked(&sessions, Reason::Revoked, actor, reason);
        let found = client.token(id).map(|(grant, token)| (grant.clone(), token.clone()));
        Ok(found.map(|(grant, token)| (Found { client, grant, token }, sessions)))
    }

    /// Ends a grant with all its tokens, durably, and only then the sessions that they opened, and no
    /// others; they are returned, marked dead. `None`: there is no such grant.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn end_grant(
        self: &Arc<Self>,
        id: GrantId,
        why: Over,
        actor: &Actor,
        reason: Option<String>,
    ) -> Result<Option<(Client, Few)>, StoreError> {
        let tombstone = Tombstone::new(self.clock.now(), why, actor, reason.clone());
        let Some(client) = self.client_with(Handle::Grant(id)).await? else { return Ok(None) };
        let changed = self.change_client(client.account, client.sid, |client| {
            let grant = client.grants.iter_mut().find(|grant| grant.id == id);
            grant.filter(|grant| grant.over.is_none()).map(|grant| grant.end(&tombstone)).is_some()
        });
        let Some(client) = changed.await? else { return Ok(None) };
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        let mut sessions = self.registry.of(&client.jid);
        sessions.retain(|session| session.identity().is_some_and(|me| me.grant == Some(id)));
        self.end_revoked(&sessions, Reason::Revoked, actor, reason);
        Ok(Some((client, sessions)))
    }

    /// Ends sessions whose credential is gone.
    pub(crate) fn end_revoked(
        self: &Arc<Self>,
        sessions: &[Arc<crate::Session>],
        reason: Reason,
        actor: &Actor,
        text: Option<String>,
    ) {
        let end = End { level: Level::Revoke, actor: actor.clone(), text, ..End::new(reason) };
        for session in sessions {
            self.end(session, end.clone());
        }
    }
}
