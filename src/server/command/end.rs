//! `usher session end`: which sessions are meant, which of them the caller may end, and their end.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde_json::Value;
use wire::{Jid, TokenId};

use super::{
    Call, CommandError, Done, row,
    session::{account_of, may_see, plural, select_jid},
    user::unknown,
};
use crate::{
    Session,
    account::Role,
    end::{End, Level, Outcome, Reason},
    id::{AccountId, SessionId},
    rights::Right,
};

/// All sessions that any of the selectors means, each once, as far as the caller may see them.
async fn select(call: &Call) -> Result<Vec<Arc<Session>>, CommandError> {
    let registry = &call.server.registry;
    let mut found: Vec<Arc<Session>> = Vec::new();
    let mut selectors = 0;
    for text in call.many("selector") {
        selectors += 1;
        let jid = Jid::parse(text)
            .map_err(|why| CommandError::usage(format!("`{text}` is not a JID: {why}")))?;
        // Who is at the socket is told that nothing matches; an account, that nobody is there.
        if call.account(&jid).await?.is_none() && call.caller.account().is_some() {
            return Err(unknown(&jid));
        }
        found.extend(select_jid(call, &jid));
    }
    if let Some(id) = call.value::<SessionId>("id") {
        selectors += 1;
        found.extend(registry.get(id));
    }
    if let Some(token) = call.value::<TokenId>("token") {
        selectors += 1;
        found.extend(registry.with_token(token));
    }
    if let Some(network) = call.network("ip") {
        selectors += 1;
        if call.confined().is_none() {
            // Who is found by an address is seen to have it.
            call.need(Right::ListIp)?;
        }
        if network.prefix_len() == network.max_prefix_len() {
            found.extend(registry.at(network.addr()));
        } else {
            found.extend(registry.all().filter(|session| network.contains(&session.address())));
        }
    }
    if call.flag("all") {
        selectors += 1;
        found.extend(registry.all());
    }
    if selectors == 0 {
        return Err(CommandError::usage("it is not said which sessions")
            .hint("name a JID, `--id`, `--token`, `--ip` or `--all`"));
    }
    found.retain(|session| may_see(call, session));
    each_once(&mut found);
    Ok(found)
}

/// Takes away the sessions that the caller may not end at this level, and gives them, with why not
/// the first of them.
async fn withhold(
    call: &Call,
    sessions: &mut Vec<Arc<Session>>,
    level: Level,
) -> Result<(Vec<Arc<Session>>, Option<CommandError>), CommandError> {
    let mut verdicts: BTreeMap<Option<AccountId>, Option<CommandError>> = BTreeMap::new();
    for session in sessions.iter() {
        call.note_session(session);
        let account = account_of(session);
        if call.caller.account().is_none() || verdicts.contains_key(&account) {
            continue;
        }
        let verdict = match session.identity() {
            Some(me) => may_end(call, me.account, &me.jid, level).await?,
            // Nobody's yet: who may end those of others may end it.
            None => call.need(Right::End).err(),
        };
        verdicts.insert(account, verdict);
    }
    let refused =
        |session: &Arc<Session>| verdicts.get(&account_of(session)).is_some_and(Option::is_some);
    let withheld: Vec<_> = sessions.iter().filter(|session| refused(session)).cloned().collect();
    sessions.retain(|session| !refused(session));
    let why = withheld.first().and_then(|session| verdicts.get(&account_of(session)).cloned()?);
    Ok((withheld, why))
}

/// Why the caller may not end what is of this account at this level, if so.
async fn may_end(
    call: &Call,
    account: AccountId,
    jid: &Jid,
    level: Level,
) -> Result<Option<CommandError>, CommandError> {
    let owner = call.server.account(jid.as_str()).await?.filter(|owner| owner.id == account);
    // One that is being deleted is nobody's any more.
    let role = owner.map_or(Role::Restricted, |owner| owner.role);
    let rights: &[Right] =
        if level == Level::Revoke { &[Right::End, Right::Revoke] } else { &[Right::End] };
    let act = |right: &Right| call.may_act(account, jid.as_str(), role, *right).err();
    Ok(rights.iter().find_map(act))
}

pub(super) async fn end(call: Call) -> Result<Done, CommandError> {
    let mut sessions = select(&call).await?;
    let level = call.text("level");
    let level = level.and_then(|name| Level::ALL.into_iter().find(|l| l.as_str() == name));
    let level = level.unwrap_or(Level::End);
    let (withheld, refused) = withhold(&call, &mut sessions, level).await?;
    if let Some(why) = refused.filter(|_| sessions.is_empty()) {
        return Err(why);
    }
    let tokens = match level {
        Level::Revoke => {
            call.fresh()?;
            tokens(&call, &sessions).await?
        }
        Level::Kick | Level::End => BTreeMap::new(),
    };
    // Whoever else has logged in with one of these tokens goes as well.
    sessions.extend(tokens.keys().flat_map(|token| call.server.registry.with_token(*token)));
    each_once(&mut sessions);
    let dry = call.flag("dry-run");
    if sessions.is_empty() && (dry || tokens.is_empty()) {
        let count = if dry { "would_end" } else { "ended" };
        let named = !dry && level == Level::Revoke && call.text("token").is_some();
        let what = if named { "there is no such token" } else { "no session matches" };
        return Ok(Done::nothing(what).with(count, 0));
    }
    let one = |session: &Session, outcome: Value| {
        row! {
            "id": session.id.to_string(),
            "jid": session.jid().map(Jid::as_str),
            "outcome": outcome,
        }
    };
    if dry {
        for session in &sessions {
            call.row(one(session, "would-end".into())).await?;
        }
        for session in &withheld {
            call.row(one(session, "forbidden".into())).await?;
        }
        let message = format!("{} would end; nothing was done", plural(sessions.len()));
        return Ok(Done::said(message).with("would_end", sessions.len()));
    }
    let touched = sessions.iter().map(|session| account_of(session));
    call.reasoned(touched.chain(tokens.values().copied().map(Some)))?;

    let text = call.text("reason").map(str::to_owned);
    // By whom they are ended: those that are ending already are not ended by this.
    let ending: HashSet<SessionId> =
        sessions.iter().filter(|session| !session.alive()).map(|session| session.id).collect();
    // Credentials first: all of them are dead before the first connection closes.
    let mut revoked = 0;
    for (token, owner) in tokens {
        match call.server.revoke_token(token, &call.actor(Some(owner)), text.clone()).await {
            Ok(None) => {}
            Ok(Some((found, more))) => {
                revoked += 1;
                call.note(found.client.account, &found.client.jid);
                sessions.extend(more);
            }
            Err(error) if revoked == 0 => return Err(error.into()),
            Err(error) => {
                let message = format!(
                    "{error}, after {revoked} tokens were revoked; no session without one was ended"
                );
                return Err(CommandError::failed(message).hint("see the server's log; try again"));
            }
        }
    }
    each_once(&mut sessions);
    if sessions.is_empty() {
        return Ok(match revoked {
            0 => Done::nothing("there is no such token").with("ended", 0),
            _ => Done::said("revoked the token, no session to end").with("ended", 0),
        });
    }
    let reason = match level {
        Level::Kick => Reason::Kicked,
        Level::End => Reason::Ended,
        Level::Revoke => Reason::Revoked,
    };
    let ours = |session: &Arc<Session>| {
        let actor = call.actor(account_of(session));
        let end = End { level, actor: actor.clone(), text: text.clone(), ..End::new(reason) };
        call.server.end(session, end)
            || !ending.contains(&session.id)
                && session.end_record().is_some_and(|record| {
                    level == Level::Revoke && record.level == level && record.by == actor
                })
    };
    // All are marked dead before the first is waited for.
    let ours: Vec<bool> = sessions.iter().map(ours).collect();
    call.server.all_settled(&sessions).await;
    let mut ended = 0;
    let mut lingering = 0;
    for (session, ours) in sessions.iter().zip(ours) {
        let outcome = Outcome::of(session.settled(), ours);
        ended += usize::from(outcome == Outcome::Ended);
        lingering += usize::from(outcome == Outcome::Lingering);
        let outcome = serde_json::to_value(outcome).unwrap_or_default();
        // Whether or not somebody still listens, the rest is seen through.
        let _ = call.row(one(session, outcome)).await;
    }
    for session in &withheld {
        let _ = call.row(one(session, "forbidden".into())).await;
    }
    let mut message = format!("{} ended", plural(ended));
    if lingering > 0 {
        message.push_str(&format!(", {lingering} are dead but their connections linger"));
    }
    let done = |message| Done::said(message).with("ended", ended).with("lingering", lingering);
    Ok(match withheld.len() {
        0 => done(message),
        some => done(format!("{message}, {some} forbidden")).with("forbidden", some),
    })
}

/// The tokens that are revoked together with these sessions, and whose they are: theirs, and the one
/// that was named.
async fn tokens(
    call: &Call,
    sessions: &[Arc<Session>],
) -> Result<BTreeMap<TokenId, AccountId>, CommandError> {
    let theirs = sessions.iter().filter_map(|session| session.identity());
    let theirs = theirs.filter_map(|identity| Some((identity.token?, identity.account)));
    let mut tokens: BTreeMap<_, _> = theirs.collect();
    let Some(named) = call.value::<TokenId>("token") else { return Ok(tokens) };
    let found = call.server.find_token(named).await?.map(|found| found.client);
    if let Some(record) = found.filter(|client| call.may_see(Some(client.account))) {
        let owner = Jid::parse(&record.jid).map_err(|why| CommandError::failed(why.to_string()))?;
        if let Some(why) = may_end(call, record.account, &owner, Level::Revoke).await? {
            return Err(why);
        }
        call.note(record.account, &record.jid);
        tokens.insert(named, record.account);
    }
    Ok(tokens)
}

fn each_once(sessions: &mut Vec<Arc<Session>>) {
    sessions.sort_by_key(|session| session.id);
    sessions.dedup_by_key(|session| session.id);
}
