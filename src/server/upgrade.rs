//! What earlier releases left in the database, taken over at the first start of this one. Tokens had
//! tables of their own and hung on the account; each becomes a client of its own with its grant, and
//! keeps its id, its bounds and its end.

use serde::Deserialize;
use wire::TokenId;

use crate::{
    Server,
    account::{Account, Role},
    client::{Client, Key, Kind, Over, Owner, Tombstone},
    clock::Millis,
    epoch::{Epoch, Stamp},
    id::GrantId,
    store::{Batch, Range, SERVER, StoreError, Table},
    vault::{Grant, TokenRecord},
};

/// Tokens as release 0.1 kept them, by account and id.
static TOKENS: Table = Table { name: "token", about: "tokens of release 0.1, taken over" };
/// Whose they were.
static TOKEN_OWNERS: Table =
    Table { name: "token_owner", about: "owners of tokens of release 0.1" };

/// Accounts that are looked at in one go.
const PAGE: usize = 500;

#[derive(Clone, Deserialize)]
struct OldToken {
    #[serde(with = "crate::vault::token_id")]
    id: TokenId,
    key: u32,
    mac: String,
    generation: u64,
    created: Millis,
    created_by: String,
    expires: Option<Millis>,
    inactive: Option<u64>,
    last_used: Option<Millis>,
    role: Role,
    purpose: String,
    label: Option<String>,
    resource: Option<String>,
    revoked: Option<OldEnd>,
}

#[derive(Clone, Deserialize)]
struct OldEnd {
    at: Millis,
    by: String,
    reason: Option<String>,
}

impl OldToken {
    fn into_client(self, account: &Account, sid: u64) -> Client {
        let over = self.revoked.map(|end| Tombstone {
            at: end.at,
            why: Over::Revoked,
            by: end.by,
            kind: Kind::Admin,
            text: end.reason,
        });
        let owner = Owner {
            account: account.id,
            jid: &account.jid,
            generation: self.generation,
            stamp: Stamp::default(),
        };
        let id = GrantId::random();
        let token = TokenRecord {
            id: self.id,
            key: self.key,
            mac: self.mac,
            created: self.created,
            created_by: self.created_by.clone(),
            expires: self.expires,
            inactive: self.inactive,
            used: self.last_used,
            role: self.role,
            purpose: self.purpose,
            scopes: None,
            resource: self.resource,
            epoch: 0,
            fast: None,
            parent: None,
            proved: None,
            next: None,
            over: over.clone(),
        };
        let grant = Grant {
            id,
            created: self.created,
            created_by: self.created_by.clone(),
            expires: None,
            used: self.last_used,
            role: self.role,
            generation: self.generation,
            stamp: Stamp::default(),
            epoch: Epoch::default(),
            over: over.clone(),
            tokens: vec![token],
        };
        Client {
            label: self.label,
            seen: self.last_used,
            over,
            grants: vec![grant],
            ..Client::new(&owner, sid, Key::Grant(id), self.created, &self.created_by)
        }
    }
}

impl Server {
    /// Takes over what earlier releases left. To be called before the first session; does nothing on
    /// a database of this release. Gives the number of tokens that were taken over.
    ///
    /// # Errors
    /// When storage fails or holds nonsense: what was taken over by then stays so, and the next call
    /// goes on.
    pub async fn upgrade(&self) -> Result<usize, StoreError> {
        let mut taken = 0;
        while let [_, ..] = self.store.rows(&TOKEN_OWNERS, SERVER, Range::page(None, 1)).await?[..]
        {
            let before = taken;
            let mut after: Option<String> = None;
            loop {
                let page = self.accounts(after.as_deref(), PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.jid.clone());
                for account in &page {
                    taken += self.take_over(account).await?;
                }
            }
            if taken == before {
                // Tokens of accounts that are no more.
                let rows = self.store.rows(&TOKEN_OWNERS, SERVER, Range::page(None, PAGE)).await?;
                let gone = rows
                    .into_iter()
                    .fold(Batch::new(), |batch, row| batch.delete(&TOKEN_OWNERS, SERVER, row.key));
                self.store.commit(gone).await?;
            }
        }
        if taken > 0 {
            tracing::info!(event = "upgraded", tokens = taken);
        }
        Ok(taken)
    }

    async fn take_over(&self, account: &Account) -> Result<usize, StoreError> {
        let rows = self.store.rows(&TOKENS, account.id.0, Range::all()).await?;
        for row in &rows {
            let old: OldToken = serde_json::from_slice(&row.value)
                .map_err(|why| StoreError::Corrupt { table: TOKENS.name, why: why.to_string() })?;
            // Taken over already, if the server stopped between the two writes.
            if self.find_token(old.id).await?.is_none() {
                self.add_client(account.id, |sid| old.clone().into_client(account, sid)).await?;
            }
            let done = Batch::new().delete(&TOKENS, account.id.0, row.key.clone()).delete(
                &TOKEN_OWNERS,
                SERVER,
                row.key.clone(),
            );
            self.store.commit(done).await?;
        }
        Ok(rows.len())
    }
}
