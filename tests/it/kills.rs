//! A server that dies at each of its writes in turn, and the next one on what it left. What was
//! answered holds; what was not is either done or not done, can be done again, and never stands in
//! the way of anything else.

use std::sync::{Arc, atomic::AtomicUsize};

use server::{
    Server, account::Role, change::Standing, client::Over, clock::Clock, config::Config,
    epoch::Scope, store::SharedStore, vault::Mint,
};
use wire::{Secret, TokenId};

use crate::{
    clients::{leave, token_visit, visit},
    stores::{Between, Disk, one_less, refuse},
    world::{PASSWORD, ParseJid, START, admin, enter, tended},
};

impl Disk {
    /// A server that dies after so many writes from `live` on.
    fn server(&self, writes: Option<usize>) -> Arc<Server> {
        let mut config = Config::default();
        config.auth.scram_iterations = 2;
        config.auth.pair_failures = 0;
        // Whatever writes by itself would die in the place of what is looked at.
        config.history.retention = server::config::Span::OFF;
        let store: SharedStore = match writes {
            Some(writes) => {
                let left = AtomicUsize::new(writes);
                Between::new(self.store.clone(), move |store, batch| match one_less(&left) {
                    Some(_) => store.commit(batch),
                    None => refuse("it has died"),
                })
            }
            None => self.store.clone(),
        };
        Server::new(config, Clock::manual(START), store, self.keys(), &[]).expect("is put together")
    }
}

/// What an administrator does.
const ACTS: [&str; 11] = [
    "token revoked",
    "grant ended",
    "client ended",
    "client blocked",
    "disabled",
    "password set",
    "account epoch",
    "server epoch",
    "deleted",
    "deleted with grace",
    "renamed",
];

struct Set {
    id: TokenId,
    text: String,
}

async fn act(server: &Arc<Server>, what: &str, set: &Set) -> bool {
    let jid = "alice@localhost".parse_jid();
    let Ok(found) = server.find_token(set.id).await else { return false };
    match (what, found) {
        ("token revoked", _) => server.revoke_token(set.id, &admin(), None).await.is_ok(),
        ("grant ended", Some(found)) => {
            server.end_grant(found.grant.id, Over::Revoked, &admin(), None).await.is_ok()
        }
        ("client ended", Some(found)) => {
            server.end_client(&found.client, Over::Revoked, &admin(), None).await.is_ok()
        }
        ("client blocked", Some(found)) => {
            server.block_client(&found.client, None, &admin(), None).await.is_ok()
        }
        ("disabled", ..) => server.set_standing(&jid, Standing::Disabled, admin()).await.is_ok(),
        ("password set", ..) => {
            let keys = server.keys_of(Secret::new("next")).await.expect("usable");
            server.set_password(&jid, keys, admin(), None).await.is_ok()
        }
        ("deleted with grace", ..) => {
            let at = (START.plus_seconds(60), 1);
            server.delete_later(&jid, at, admin()).await.is_ok()
        }
        ("renamed", ..) => {
            let new = "alina@localhost".parse_jid();
            server.rename_account(&jid, &new, admin()).await.is_ok()
        }
        ("account epoch", ..) => server.raise_account_epoch(&jid, false, &admin()).await.is_ok(),
        ("server epoch", ..) => server.raise_epoch(Scope::Server, false, &admin()).await.is_ok(),
        ("deleted", ..) => server.delete_account(&jid, admin()).await.is_ok(),
        (_, None) => panic!("{what}: the token is not there"),
        (other, ..) => panic!("{other} is no act"),
    }
}

/// Whether the token still opens anything. Storage must not be in the way of an answer.
async fn opens(server: &Arc<Server>, text: &str) -> bool {
    match token_visit(server, text).await {
        Ok(session) => {
            leave(server, &session).await;
            true
        }
        Err(denied) => {
            assert_ne!(denied.failure.as_str(), "temporary-auth-failure", "{denied:?}");
            false
        }
    }
}

#[tokio::test]
async fn b_04_a_server_that_dies_at_any_write_neither_forgets_an_end_nor_half_does_it() {
    for what in ACTS {
        let mut answered = false;
        for writes in 0..40 {
            let disk = Disk::new();
            let first = disk.server(None);
            let jid = "alice@localhost".parse_jid();
            let keys = first.keys_of(Secret::new(PASSWORD)).await.expect("usable");
            let account = first.add_account(&jid, keys, Role::User).await.expect("is new");
            let minted = first.mint(&account, Mint::login(Role::User, "test")).await;
            let (found, token) = minted.expect("is minted");
            let set = Set { id: found.token.id, text: token.to_text().to_string() };
            assert!(opens(&first, &set.text).await);
            let other = first.mint(&account, Mint::login(Role::User, "test")).await;
            let (_, other) = other.expect("is minted");
            drop(first);

            let second = disk.server(Some(writes));
            let live = visit_if_possible(&second).await;
            answered = act(&second, what, &set).await;
            if answered && what != "token revoked" && what != "grant ended" {
                let whole = !matches!(what, "client ended" | "client blocked");
                assert!(!whole || live.is_none_or(|live| !live.alive()), "{what}: {writes}");
            }
            drop(second);

            let third = disk.server(None);
            let good = opens(&third, &set.text).await;
            assert!(
                !(answered && good),
                "{what} was answered, after {writes} writes, and is undone"
            );
            if !answered && good {
                // Not done: everything else is as it was, and it can be done now.
                assert!(opens(&third, &other.to_text()).await, "{what}: {writes}");
                let session = tended(&third);
                assert!(enter(&third, &session, "alice@localhost").await, "{what}: {writes}");
                leave(&third, &session).await;
            }
            let account = third.account("alice@localhost").await.expect("is read");
            if account.is_some() && third.find_token(set.id).await.expect("is read").is_some() {
                assert!(act(&third, what, &set).await, "{what}: {writes}");
            }
            assert!(!opens(&third, &set.text).await, "{what}: {writes}");
            if answered {
                break;
            }
        }
        assert!(answered, "{what} needs no more than forty writes");
    }
}

/// A session from before, if the server lives long enough to bind it.
async fn visit_if_possible(server: &Arc<Server>) -> Option<Arc<server::Session>> {
    let session = tended(server);
    if !enter(server, &session, "alice@localhost").await {
        return None;
    }
    server.bind(&session, Some("phone")).await.ok().map(|_| session)
}

#[tokio::test]
async fn pr_04_a_write_that_fails_at_bind_leaves_no_half_of_a_session() {
    for writes in 0..3 {
        let disk = Disk::new();
        let first = disk.server(None);
        let jid = "alice@localhost".parse_jid();
        let keys = first.keys_of(Secret::new(PASSWORD)).await.expect("usable");
        first.add_account(&jid, keys, Role::User).await.expect("is new");
        let second = disk.server(Some(writes));
        match visit_if_possible(&second).await {
            Some(session) => leave(&second, &session).await,
            None => {
                assert!(second.registry.bound("alice@localhost").is_empty(), "{writes}");
            }
        }
        let third = disk.server(None);
        leave(&third, &visit(&third, "alice@localhost", "phone").await).await;
    }
}
