//! Who asks: by the password in the clear, by a hash of an application password, by an answer to a
//! challenge, or by the cookie of a session. Failures count as failed logins, at the same throttle.
//!
//! Deliberately absent: any hash of the account's own password. What the server stores of it proves no
//! MD5, and nothing is stored beside it for this protocol.

use server::{bearer::Peer, command::Caller, vault::LJ};
use wire::{Jid, Secret};

use super::{
    Asked, Door,
    challenge::{NoGood, md5_hex},
    cookie::SessionString,
    fault::{Fault, Number},
};

/// The account that is named, by the rules for names: an address's localpart, of the host of this door.
pub(super) fn user(door: &Door, asked: &Asked) -> Result<Jid, Fault> {
    let text = ["user", "username"].into_iter().find_map(|name| asked.text(name));
    let text = text.as_deref().unwrap_or_default().trim();
    if text.is_empty() {
        return Err(Fault::with(Number::Missing, "no username was sent"));
    }
    named(door, text).ok_or_else(|| Number::User.into())
}

fn named(door: &Door, name: &str) -> Option<Jid> {
    let server = &door.api.server;
    let lj = &server.config.lj;
    let name = if lj.fold_hyphens { name.replace('-', "_") } else { name.to_owned() };
    let host = if lj.host.is_empty() { server.default_host().as_str() } else { &lj.host };
    Jid::from_parts(Some(&name), host, None).ok()
}

/// Refuses what carries a secret where others can read it.
pub(super) fn private(peer: Peer, what: &str) -> Result<(), Fault> {
    match peer.is_private() {
        true => Ok(()),
        false => Err(Fault::with(Number::Restricted, format!("{what} only over TLS"))),
    }
}

/// The caller, once its proof is right.
pub(super) async fn caller(door: &Door, asked: &Asked, user: &Jid) -> Result<Caller, Fault> {
    let method = asked.text("auth_method");
    match method.as_deref().map(str::trim).filter(|method| !method.is_empty()).unwrap_or("clear") {
        "clear" => clear(door, asked, user).await,
        "challenge" => challenge(door, asked, user).await,
        "cookie" => cookie(door, asked, user).await,
        other => Err(Fault::with(Number::Argument, format!("there is no auth_method {other}"))),
    }
}

async fn clear(door: &Door, asked: &Asked, user: &Jid) -> Result<Caller, Fault> {
    private(asked.peer, "passwords are taken")?;
    let (server, peer) = (&door.api.server, asked.peer.address);
    let given = |name| asked.text(name).filter(|text| !text.is_empty());
    // The hash wins if both are there.
    if let Some(hash) = given("hpassword") {
        let hash = Secret::new(hash.to_ascii_lowercase());
        let shown = |secret: &Secret| hash.ct_eq(md5_hex(secret).as_bytes());
        return Ok(server.caller_with_app_password(peer, user, shown).await?);
    }
    let missing = || Fault::with(Number::Missing, "no password was sent");
    let password = Secret::new(given("password").ok_or_else(missing)?.into_owned());
    Ok(server.caller_with_password(peer, user, password).await?)
}

async fn challenge(door: &Door, asked: &Asked, user: &Jid) -> Result<Caller, Fault> {
    let server = &door.api.server;
    let text = |name| asked.text(name).unwrap_or_default();
    let (challenge, response) = (text("auth_challenge"), text("auth_response"));
    let scheme = door.challenges.check(&server.keys, &challenge, server.clock.now());
    let scheme = scheme.map_err(|why| match why {
        NoGood::Expired => Number::Expired,
        NoGood::Wrong => Number::Password,
    })?;
    let shown = |secret: &Secret| scheme.proves(secret, &challenge, &response);
    let caller = server.caller_with_app_password(asked.peer.address, user, shown).await?;
    // Not before: whoever answers wrongly uses nothing up.
    match door.challenges.take(&challenge, server.clock.now()) {
        true => Ok(caller),
        false => Err(Number::Password.into()),
    }
}

/// Of several cookies each is tried in turn: a bad one does not spoil the others.
async fn cookie(door: &Door, asked: &Asked, user: &Jid) -> Result<Caller, Fault> {
    private(asked.peer, "cookies are taken")?;
    let mut fault = Fault::from(Number::Password);
    if !asked.guarded {
        return Err(fault);
    }
    let server = &door.api.server;
    let sessions = asked.sessions.iter().filter_map(|text| SessionString::parse(text));
    for session in sessions {
        // Whose it is has to be the user that is named.
        if named(door, &session.user).as_ref() != Some(user) {
            continue;
        }
        let (sid, token) = (session.sid, session.token(user.clone()));
        match server.bearer_for(asked.peer.address, &token, LJ).await {
            Ok((caller, found)) if found.client.sid == sid => return Ok(caller),
            Ok(_) => {}
            Err(why) => fault = why.into(),
        }
    }
    Err(fault)
}
