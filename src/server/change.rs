//! Changes of an account, and who has to go because of them. Each is durable first, then tells logins
//! that are under way to look again, then ends the sessions that it outlaws; the answer comes last.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use wire::Jid;

use crate::{
    Server, Session,
    account::{ACCOUNTS, Account, AccountError, Keys, Role},
    clock::Millis,
    config::Who,
    end::{Actor, End, Level, Reason},
    epoch::{Epoch, Scope},
    hooks::AccountDeleted,
    id::SessionId,
    notice::Notice,
    policy::Policy,
    store::{Batch, SERVER, StoreError},
};

/// A change of what an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May not log in any more; all its sessions end.
    Disabled,
    /// May log in again.
    Enabled,
    /// Has another role. Its sessions have it at once, or end if `on.role_change` says so.
    Role(Role),
}

impl Server {
    /// Sets another password, by the owner from the session `current`, or by somebody else. Who has to
    /// go is said by `on.password_change` and `on.password_reset`; unless nobody has, tokens from
    /// before are void. Gives the number of sessions that ended.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn set_password(
        self: &Arc<Self>,
        jid: &Jid,
        keys: Keys,
        actor: Actor,
        current: Option<SessionId>,
    ) -> Result<usize, AccountError> {
        let who = match actor {
            Actor::Owner(_) => self.config.on.password_change,
            _ => self.config.on.password_reset,
        };
        let account = self.change_account(jid, |account| {
            account.set_keys(&keys);
            account.generation += u64::from(who != Who::Nobody);
        });
        let account = account.await?;
        self.note_author(&account, current).await?;
        let notice = match actor {
            Actor::Owner(_) => Notice::PasswordChanged,
            _ => Notice::PasswordReset,
        };
        let ended = self.end_account(jid, Reason::PasswordChanged, actor, who, current).await;
        self.notify_owner(jid, notice).await;
        Ok(ended)
    }

    /// The client that has set the account's password knows it.
    async fn note_author(
        &self,
        account: &Account,
        current: Option<SessionId>,
    ) -> Result<(), StoreError> {
        let session = current.and_then(|id| self.registry.get(id));
        let me = session.and_then(|session| session.identity());
        let Some(me) = me.filter(|me| me.account == account.id) else { return Ok(()) };
        let Some(client) = me.client() else { return Ok(()) };
        let change = |client: &mut crate::client::Client| {
            client.password = Some(account.passwords);
            true
        };
        self.change_client(account.id, client.sid, change).await.map(drop)
    }

    /// Changes what an account may do. Gives the number of sessions that ended because of it.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn set_standing(
        self: &Arc<Self>,
        jid: &Jid,
        standing: Standing,
        actor: Actor,
    ) -> Result<usize, AccountError> {
        let mut changed = false;
        let account = self.change_account(jid, |account| {
            let before = (account.disabled, account.role);
            match standing {
                Standing::Disabled => {
                    account.disabled = true;
                    // Whoever takes its deletion back does not take this back.
                    if let Some(deletion) = &mut account.deletion {
                        deletion.disabled = true;
                    }
                }
                Standing::Enabled => {
                    account.disabled = false;
                    account.hold = None;
                }
                Standing::Role(role) => account.role = role,
            }
            changed = before != (account.disabled, account.role);
        });
        let account = account.await?;
        let (reason, who) = match standing {
            Standing::Enabled => {
                self.note_enabled(jid).await?;
                return Ok(0);
            }
            Standing::Role(_) if !changed => return Ok(0),
            Standing::Role(_) => (Reason::RoleChanged, self.config.on.role_change),
            Standing::Disabled => (Reason::AccountDisabled, Who::All),
        };
        self.refresh_sessions(&account);
        let ended = self.end_account(jid, reason, actor, who, None).await;
        if let Standing::Role(_) = standing {
            self.notify_owner(jid, Notice::RoleChanged).await;
        }
        Ok(ended)
    }

    /// Gives an account a policy of its own, and groups. Its sessions go by them at once.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn set_policy(
        self: &Arc<Self>,
        jid: &Jid,
        mut change: impl FnMut(&mut Policy, &mut Vec<String>),
    ) -> Result<Account, AccountError> {
        let account =
            self.change_account(jid, |account| change(&mut account.policy, &mut account.groups));
        let account = account.await?;
        self.refresh_sessions(&account);
        self.refresh_deadlines(&account).await;
        Ok(account)
    }

    /// Keeps everybody out of an account until then; none: lets them in again.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn hold_account(&self, jid: &Jid, until: Option<Millis>) -> Result<(), AccountError> {
        self.change_account(jid, |account| account.hold = until).await.map(|_| ())
    }

    /// Deletes an account with all that it has, and ends its sessions. A later account of the same
    /// name inherits nothing.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn delete_account(
        self: &Arc<Self>,
        jid: &Jid,
        actor: Actor,
    ) -> Result<usize, AccountError> {
        // Nobody gets in from here on, so that nothing is written behind the deletion's back.
        let account = self.change_account(jid, |account| account.disabled = true).await?;
        let ended = self.end_account(jid, Reason::AccountDeleted, actor, Who::All, None).await;

        let cx = AccountDeleted { server: self.clone(), account: account.id, jid: jid.clone() };
        if let Some(told) = self.hooks.account_deleted.tell(&cx) {
            told.await;
        }
        let mut batch = Batch::new().delete(&ACCOUNTS, SERVER, jid.as_str().as_bytes().to_vec());
        batch = batch.and(self.handles_of(account.id).await?);
        batch = batch.and(self.forget_logins(account.id).await?);
        for table in &self.registrations.tables {
            batch = batch.delete_owner(table, account.id.0);
        }
        let outcome = self.store.commit(batch).await;
        self.known_accounts.forget(jid.as_str());
        outcome?;
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        Ok(ended)
    }

    /// Raises the epoch of an account: everything of it from before is void, unless `grace` is given.
    /// The sessions that end are returned, marked dead, for the caller to wait for.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn raise_account_epoch(
        self: &Arc<Self>,
        jid: &Jid,
        grace: bool,
        actor: &Actor,
    ) -> Result<(Epoch, Vec<Arc<Session>>), AccountError> {
        let account = self.change_account(jid, |account| account.epoch.raise(grace)).await?;
        let epochs = self.epochs_of(&account).await?;
        let sessions = self.registry.of(jid.as_str()).into_iter();
        let ended = sessions
            .filter(|session| session.identity().is_some_and(|me| !epochs.accepts(me.stamp)))
            .collect();
        Ok((account.epoch, self.end_by_epoch(ended, actor)))
    }

    /// Raises the epoch of the server or a host, in the same way.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn raise_epoch(
        self: &Arc<Self>,
        scope: Scope<'_>,
        grace: bool,
        actor: &Actor,
    ) -> Result<(Epoch, Vec<Arc<Session>>), StoreError> {
        let epoch = self.store_epoch(scope, grace).await?;
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        let outlawed = |session: &Arc<Session>| {
            session.identity().is_some_and(|me| match scope {
                Scope::Server => !epoch.accepts(me.stamp.server),
                Scope::Host(host) => me.jid.domain() == host && !epoch.accepts(me.stamp.host),
            })
        };
        let ended = self.registry.all().filter(outlawed).collect();
        Ok((epoch, self.end_by_epoch(ended, actor)))
    }

    fn end_by_epoch(
        self: &Arc<Self>,
        sessions: Vec<Arc<Session>>,
        actor: &Actor,
    ) -> Vec<Arc<Session>> {
        self.end_revoked(&sessions, Reason::Epoch, actor, None);
        sessions
    }

    /// Lets the sessions of an account go by what it may do now.
    fn refresh_sessions(&self, account: &Account) {
        let policy = self.shared_policy(account);
        for session in self.registry.of(&account.jid) {
            if let Some(identity) = session.identity() {
                let mut live = identity.live.lock();
                live.role = account.role.min(live.most);
                drop(live);
                self.apply_policy(&session, policy.clone());
            }
        }
    }

    /// Lets the sessions of an account go by how long their clients may stay now.
    async fn refresh_deadlines(&self, account: &Account) {
        for session in self.registry.of(&account.jid) {
            let known = session.identity().and_then(|me| me.client().map(|client| (me, client)));
            let Some((identity, known)) = known else { continue };
            loop {
                // Another change of the client must not be undone by what was read before it.
                let epoch = self.accounts_epoch.load(Ordering::SeqCst);
                match self.client(identity.account, known.sid).await {
                    Ok(Some(client)) => {
                        let mut live = identity.live.lock();
                        live.expires = client.stays_until(identity.token, &live.policy);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(event = "deadline-not-read", session = %session.id, %error);
                    }
                }
                if self.accounts_epoch.load(Ordering::SeqCst) == epoch {
                    break;
                }
            }
            self.rearm(&session);
        }
    }

    /// Reads, changes and writes an account until nobody came in between, then tells logins that are
    /// under way to look again.
    pub(crate) async fn change_account(
        &self,
        jid: &Jid,
        mut change: impl FnMut(&mut Account),
    ) -> Result<Account, AccountError> {
        let key = Bytes::copy_from_slice(jid.as_str().as_bytes());
        let account = loop {
            let row = self.store.get(&ACCOUNTS, SERVER, &key).await?;
            let row = row.ok_or_else(|| AccountError::Unknown(jid.as_str().into()))?;
            let mut account = Account::decode(&row)?;
            change(&mut account);
            let batch = Batch::new().expect(&ACCOUNTS, SERVER, key.clone(), Some(row)).put(
                &ACCOUNTS,
                SERVER,
                key.clone(),
                account.encode(),
            );
            let outcome = self.store.commit(batch).await;
            // Whatever came of it, and before logins are told to look again.
            self.known_accounts.forget(jid.as_str());
            match outcome {
                Ok(()) => break account,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        Ok(account)
    }

    /// Ends sessions of an account and waits for them.
    pub(crate) async fn end_account(
        self: &Arc<Self>,
        jid: &Jid,
        reason: Reason,
        actor: Actor,
        who: Who,
        current: Option<SessionId>,
    ) -> usize {
        let mut sessions = self.registry.of(jid.as_str());
        sessions.retain(|session| match who {
            Who::All => true,
            Who::Nobody => false,
            Who::Others => Some(session.id) != current,
        });
        let end = End { level: Level::Revoke, actor, ..End::new(reason) };
        for session in &sessions {
            self.end(session, end.clone());
        }
        self.all_settled(&sessions).await;
        sessions.len()
    }
}
