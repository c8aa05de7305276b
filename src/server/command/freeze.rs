//! `usher session freeze`, `unfreeze`: sessions and clients that are locked instead of ended.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Scope, Shape,
    caller::lacks,
    end::{REASON, one},
    select::{Selected, may_touch, select, selectors, withhold},
    session::{account_of, plural},
};
use crate::{
    client::{Client, Over, Tombstone, book::Handle},
    id::AccountId,
    rights::Right,
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "session freeze",
        about: "Lock sessions, and whatever their clients open, until they are unfrozen",
        details: "Nothing is read from a frozen session, and what it is sent waits, within \
                  `limits.mailbox_bytes`. It stays where it is, and nothing is lost; contacts see no \
                  change. It can still be ended.",
        args: SELECTORS,
        mutates: true,
        right: Right::Block,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&["id", "jid", "outcome"]),
        run: |call| Box::pin(freeze(call, true)),
    },
    Command {
        name: "session unfreeze",
        about: "Unlock sessions that were frozen, and their clients",
        details: "",
        args: SELECTORS,
        mutates: true,
        right: Right::Block,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&["id", "jid", "outcome"]),
        run: |call| Box::pin(freeze(call, false)),
    },
];

const SELECTORS: &[Arg] = selectors![REASON];

/// Durable first: a client that comes back in between is as locked as its session.
async fn freeze(call: Call, frozen: bool) -> Result<Done, CommandError> {
    let Selected { mut sessions, named } = select(&call).await?;
    let (withheld, refused) = withhold(&call, &mut sessions, &[Right::Block]).await?;
    if let Some(why) = refused.filter(|_| sessions.is_empty()) {
        return Err(why);
    }
    call.reasoned(sessions.iter().map(|session| account_of(session)))?;
    let identities = sessions.iter().filter_map(|session| session.identity());
    let mut clients: BTreeSet<(AccountId, u64)> =
        identities.filter_map(|me| Some((me.account, me.client()?.sid))).collect();
    if let Some((Handle::Client(_), client)) = &named {
        let owner = Jid::parse(&client.jid).map_err(|why| CommandError::failed(why.to_string()))?;
        if let Some(why) = may_touch(&call, client.account, &owner, &[Right::Block]).await? {
            return Err(why);
        }
        call.may_end_client(client.account, client.sid).await?;
        call.note(client.account, &client.jid);
        clients.insert((client.account, client.sid));
    }
    let now = call.server.clock.now();
    if !frozen && let Some(me) = call.confined() {
        // What somebody else has locked is not the owner's to open.
        for (account, sid) in &clients {
            let client = call.server.client(*account, *sid).await?;
            let by = client.and_then(|client| client.frozen).map(|mark| mark.by);
            if by.is_some_and(|by| by != me.jid().as_str()) {
                return Err(lacks(&call.server, me, Right::Block));
            }
        }
    }
    for (account, sid) in &clients {
        let text = call.text("reason").map(str::to_owned);
        let mark = Tombstone::new(now, Over::Frozen, &call.actor(Some(*account)), text);
        let change = |client: &mut Client| {
            let before = client.frozen.is_some();
            client.frozen = frozen.then(|| mark.clone());
            before != frozen
        };
        call.server.change_client(*account, *sid, change).await?;
    }
    // Whoever is just coming looks again.
    call.server.accounts_epoch.fetch_add(1, Ordering::SeqCst);
    let word = if frozen { "frozen" } else { "unfrozen" };
    let mut changed = 0;
    for session in &sessions {
        let did = call.server.registry.set_frozen(session, frozen);
        changed += usize::from(did);
        let outcome = if did { word.to_owned() } else { format!("already-{word}") };
        let _ = call.row(one(session, outcome.into(), None)).await;
    }
    for session in &withheld {
        let _ = call.row(one(session, "forbidden".into(), None)).await;
    }
    if sessions.is_empty() && clients.is_empty() {
        return Ok(Done::nothing("no session matches").with(word, 0));
    }
    Ok(Done::said(format!("{} {word}", plural(changed))).with(word, changed))
}
