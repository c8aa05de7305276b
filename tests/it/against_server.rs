//! All scripts, run against a whole server over sockets: real TLS, a store, all plugins. Each case
//! has a server of its own.

use std::collections::HashMap;

use server::{change::Standing, end::Actor};
use wire::{Secret, Token};

use crate::{
    dialogue::{self, Chunks, Client},
    script::{self, Case, TokenState},
    world::{ParseJid, World},
    xml::Vars,
};

/// Builds what a case starts from, and runs it.
async fn run(case: &Case, chunks: &Chunks) -> Result<(), String> {
    let world = World::start(|config| *config = case.config()).await;
    let server = &world.server;
    let mut vars = Vars::new();
    for account in &case.setup.accounts {
        world.account_with(&account.jid, &account.password).await;
    }
    for token in &case.setup.tokens {
        let account = server.account(&token.owner).await.map_err(|why| why.to_string())?;
        let account = account.ok_or("a token needs an account")?;
        let ttl = if token.state == TokenState::Expired { 0 } else { 3600 };
        let (id, mut text) = world.token(&account, Some(ttl)).await;
        if token.state == TokenState::Forged {
            let mut real = Token::parse(&text).map_err(|why| why.to_string())?;
            real.secret = Secret::new([7; wire::token::SECRET_SIZE]);
            text = real.to_text().to_string();
        }
        if token.state == TokenState::Revoked {
            let revoked = server.revoke_token(id, &Actor::Admin("test".into()), None).await;
            revoked.map_err(|why| why.to_string())?;
        }
        vars.insert(token.name.clone(), text);
    }
    for account in case.setup.accounts.iter().filter(|account| account.disabled) {
        let jid = account.jid.parse_jid();
        let done = server.set_standing(&jid, Standing::Disabled, Actor::Server).await;
        done.map_err(|why| why.to_string())?;
    }
    let mut clients = HashMap::new();
    for name in case.clients() {
        let client: Client<_> = world.connect_in(case.setup.tls, chunks.clone()).await;
        clients.insert(name.to_owned(), client);
    }
    dialogue::run(case, &mut clients, &mut vars).await?;
    drop(clients);
    world.deserted().await;
    Ok(())
}

async fn run_all(chunks: Chunks) {
    let (mut failed, mut count) = (Vec::new(), 0);
    for case in script::all().values().flatten() {
        count += 1;
        if let Err(why) = run(case, &chunks).await {
            failed.push(format!("{} {}: {why}", case.place, case.name));
        }
    }
    let failures = failed.len();
    assert!(failed.is_empty(), "{failures} of {count} cases failed\n{}", failed.join("\n"));
}

#[tokio::test]
async fn scripts_in_one_piece() {
    run_all(Chunks::Whole).await;
}

#[tokio::test]
async fn scripts_byte_by_byte() {
    run_all(Chunks::Bytes).await;
}

#[test]
fn every_script_has_cases_and_most_run_on_the_machine_too() {
    let scripts = script::all();
    assert!(scripts.len() >= 10, "{:?}", scripts.keys());
    for (file, cases) in &scripts {
        assert!(!cases.is_empty(), "{file} has no case");
    }
    let all = scripts.values().flatten();
    let (machine, server): (Vec<_>, Vec<_>) = all.partition(|case| case.is_about_one_stream());
    assert!(machine.len() > server.len(), "{} and {}", machine.len(), server.len());
    let mut names: Vec<_> = machine.iter().chain(&server).map(|case| &case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), machine.len() + server.len(), "two cases have the same name");
}
