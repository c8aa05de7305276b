//! `usher session end`: the end of sessions, in levels, now or later, at once or at a pace.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    sync::atomic::Ordering,
};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind, condition, row,
    select::{SELECTOR, Selected, each_once, may_touch, select, selectors, withhold},
    session::{account_of, plural},
};
use crate::{
    Session,
    change::Standing,
    client::{Check, Client, Over, WayBack, book::Handle},
    clock::Millis,
    config::Span,
    end::{Actor, End, Level, Outcome, Reason},
    id::{AccountId, SessionId},
    notice::Notice,
    pace::Pace,
    rights::Right,
    schedule::NotPlanned,
};

macro_rules! options {
    ($($name:ident $word:literal $form:ident $kind:expr, $about:literal;)*) => {
        $(pub(super) const $name: Arg =
            Arg { name: $word, about: $about, form: Form::$form, kind: $kind };)*
    };
}

options! {
    CONDITION "condition" Option ValueKind::Choice(condition::NAMES),
        "With level `kick` or `end`: the stream error that the peers see, instead of \
         `policy-violation`";
    REASON "reason" Option ValueKind::Text, "Words for the peers";
    LEVEL "level" Option ValueKind::Choice(Level::NAMES),
        "How far it goes: `kick`, `end` (if not said), `revoke`, `block` or `disable`";
    FOR "for" Option ValueKind::Span, "With `--level block`: for how long; for ever if not said";
    HOLD "hold-off" Option ValueKind::Span,
        "They may not come back before this long has passed: the account, if its bare JID is named, \
         else the clients";
    RATE "rate" Option ValueKind::Number,
        "So many a second, instead of all at once; `usher job` holds it or calls it off";
    IN "in" Option ValueKind::Span, "Not now, but when this long has passed";
    AT "at" Option ValueKind::Time, "Not now, but at this time";
    DRY "dry-run" Flag ValueKind::Text, "Only show which sessions would end, and their hash";
    IF_HASH "if-hash" Option ValueKind::Text,
        "Only if the sessions are still those that a dry run gave this hash for";
}

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "session end",
    about: "End sessions, and say what became of each once it is really gone",
    details: "A bare JID ends all sessions of the account, a full JID that one. What names sessions \
              adds to each other; what describes them narrows that, or everything. `kick` closes \
              the stream only, `end` also takes away whatever could resume it, `revoke` also \
              ends their clients with all grants and tokens (only the grant or token, if that is \
              what was named; if whole accounts were named, also their clients that are away), `block` also refuses those clients whatever they prove, `disable` \
              keeps their accounts from logging in. Credentials go first, connections last. The \
              answer names the ways back that are left.",
    args: selectors![REASON, CONDITION, LEVEL, FOR, HOLD, RATE, IN, AT, DRY, IF_HASH],
    mutates: true,
    right: Right::End,
    scope: Scope::Own,
    fresh: false,
    shape: Shape::Outcome(&["id", "jid", "outcome", "ways_back"]),
    run: |call| Box::pin(end(call)),
}];

/// The rights that a level takes.
fn rights(level: Level) -> &'static [Right] {
    match level {
        Level::Kick | Level::End => &[Right::End],
        Level::Revoke => &[Right::End, Right::Revoke],
        Level::Block => &[Right::End, Right::Revoke, Right::Block],
        Level::Disable => &[Right::End, Right::User],
    }
}

async fn end(call: Call) -> Result<Done, CommandError> {
    let level = call.text("level");
    let level = level.and_then(|name| Level::ALL.into_iter().find(|l| l.as_str() == name));
    let level = level.unwrap_or(Level::End);
    let holds = call.text("hold-off").is_some();
    // To look what would end changes nothing.
    if (level >= Level::Revoke || holds) && !call.flag("dry-run") {
        call.fresh()?;
    }
    if holds && call.confined().is_none() {
        call.need(Right::Block)?;
    }
    if call.text("for").is_some() && level != Level::Block {
        return Err(CommandError::usage("`--for` is how long a block holds")
            .hint("say `--level block`, or `--hold-off` for a short while"));
    }
    if call.text("condition").is_some() && level >= Level::Revoke {
        return Err(CommandError::usage(format!(
            "`--condition` does not go with `--level {}`: its peers are told that their credential \
             is gone",
            level.as_str()
        ))
        .hint("leave one of them out; `--reason` gives words to any level"));
    }
    let Selected { mut sessions, named } = select(&call).await?;
    let (withheld, refused) = withhold(&call, &mut sessions, rights(level)).await?;
    if let Some(why) = refused.filter(|_| sessions.is_empty()) {
        return Err(why);
    }
    if let Some((_, client)) = &named {
        let owner = Jid::parse(&client.jid).map_err(|why| CommandError::failed(why.to_string()))?;
        call.note(client.account, &client.jid);
        if let Some(why) = may_touch(&call, client.account, &owner, rights(level)).await? {
            return Err(why);
        }
        call.may_end_client(client.account, client.sid).await?;
    }
    if let Some(at) = later(&call)? {
        return plan(&call, at, level, &sessions).await;
    }
    // What was named is taken away even if nobody is there with it.
    let named = named.filter(|_| level >= Level::Revoke);
    let targets = Targets::of(&call, level, &sessions, named).await?;
    sessions.extend(targets.more(&call, level));
    each_once(&mut sessions);
    let hash = hash(level, &sessions);
    if let Some(wanted) = call.text("if-hash").filter(|wanted| *wanted != hash) {
        let message =
            format!("these are not the sessions of `{wanted}` any more; nothing was done");
        return Err(CommandError::failed(message).hint("look at another `--dry-run` first"));
    }
    let dry = call.flag("dry-run");
    if sessions.is_empty() && (dry || targets.is_empty()) {
        let what = match targets.gone {
            true => "there is no such client, grant or token",
            false => "no session matches",
        };
        let nothing = Done::nothing(what);
        return Ok(match dry {
            true => nothing.with("would_end", 0).with("hash", hash),
            false => nothing.with("ended", 0),
        });
    }
    if dry {
        for session in &sessions {
            call.row(one(session, "would-end".into(), None)).await?;
        }
        for session in &withheld {
            call.row(one(session, "forbidden".into(), None)).await?;
        }
        let count = plural(sessions.len());
        let message = format!("{count} would end; nothing was done; their hash is `{hash}`");
        return Ok(Done::said(message).with("would_end", sessions.len()).with("hash", hash));
    }
    let touched = sessions.iter().map(|session| account_of(session));
    call.reasoned(touched.chain(targets.accounts().map(Some)))?;
    carry_out(&call, level, sessions, withheld, &targets).await
}

/// When it is to happen, if not now.
fn later(call: &Call) -> Result<Option<Millis>, CommandError> {
    let now = call.server.clock.now();
    let span = call.value::<Span>("in").and_then(Span::get).map(|span| now.plus_seconds(span));
    let at = call.value::<jiff::Timestamp>("at");
    let at = at.map(|at| Millis(u64::try_from(at.as_millisecond()).unwrap_or(0)));
    if span.is_some() && at.is_some() {
        return Err(CommandError::usage("`--in` and `--at` say the same thing")
            .hint("leave one of them out"));
    }
    if call.text("if-hash").is_some() && (span.is_some() || at.is_some()) {
        return Err(CommandError::usage("who will be there later is not known yet")
            .hint("leave `--if-hash` out, or do it now"));
    }
    Ok(span.or(at))
}

async fn plan(
    call: &Call,
    at: Millis,
    level: Level,
    now: &[Arc<Session>],
) -> Result<Done, CommandError> {
    let own = call.confined().is_some();
    if !own {
        // Whoever will be there then: that nobody is there now is no leave.
        rights(level).iter().try_for_each(|right| call.need(*right))?;
    }
    if call.restraint().await?.is_some() {
        return Err(NotPlanned::Bounded.into());
    }
    if call.flag("dry-run") {
        let message =
            format!("{} would end if it were now; nothing was planned", plural(now.len()));
        return Ok(Done::said(message).with("would_end", now.len()));
    }
    call.reasoned(now.iter().map(|session| account_of(session)))?;
    let mut args = call.args.clone();
    args.remove("in");
    args.remove("at");
    let planned = call.server.plan(at, "session end", args, &call.caller, own).await?;
    let message = format!("planned as {} for {at}; `usher schedule list` shows it", planned.id);
    Ok(Done::said(message).with("schedule", planned.id).with("at", at.to_string()))
}

/// What is taken away before the sessions end.
struct Targets {
    /// Clients that end with all they have.
    clients: BTreeMap<(AccountId, u64), String>,
    /// The one grant or token that ends without its client.
    part: Option<(Handle, Client)>,
    /// Accounts that are disabled.
    disabled: BTreeMap<AccountId, Jid>,
    /// Something was named that is not there.
    gone: bool,
}

impl Targets {
    async fn of(
        call: &Call,
        level: Level,
        sessions: &[Arc<Session>],
        named: Option<(Handle, Client)>,
    ) -> Result<Self, CommandError> {
        let said = ["client", "grant", "token"].into_iter().any(|name| call.text(name).is_some());
        let mut targets = Self {
            clients: BTreeMap::new(),
            part: None,
            disabled: BTreeMap::new(),
            gone: said && named.is_none() && level >= Level::Revoke,
        };
        if level == Level::Disable {
            for me in sessions.iter().filter_map(|session| session.identity()) {
                targets.disabled.insert(me.account, me.jid.clone());
            }
        }
        if !matches!(level, Level::Revoke | Level::Block) {
            return Ok(targets);
        }
        // A block is of a client, whatever named it.
        let whole = level == Level::Block;
        let only = match named {
            Some((Handle::Client(_), client)) => Some((client, true)),
            Some((_, client)) if whole => Some((client, true)),
            Some((handle, client)) => {
                targets.part = Some((handle, client.clone()));
                Some((client, false))
            }
            None => None,
        };
        if let Some((client, true)) = &only {
            targets.clients.insert((client.account, client.sid), client.jid.clone());
        }
        let part = only.is_some_and(|(_, whole)| !whole);
        if level == Level::Revoke && only_names_accounts(call) {
            targets.clients.extend(away(call, sessions).await?);
        }
        for me in sessions.iter().filter_map(|session| session.identity()) {
            if let Some(client) = me.client().filter(|_| !part) {
                targets.clients.insert((me.account, client.sid), me.jid.as_str().to_owned());
            }
        }
        Ok(targets)
    }

    fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.part.is_none() && self.disabled.is_empty()
    }

    fn accounts(&self) -> impl Iterator<Item = AccountId> {
        let clients = self.clients.keys().map(|(account, _)| *account);
        clients.chain(self.part.iter().map(|(_, client)| client.account))
    }

    /// Whoever else goes with what is taken away.
    fn more(&self, call: &Call, level: Level) -> Vec<Arc<Session>> {
        let registry = &call.server.registry;
        let mut more = Vec::new();
        let jids: BTreeSet<&str> = self.clients.values().map(String::as_str).collect();
        for jid in jids {
            more.extend(registry.of(jid).into_iter().filter(|session| {
                session.identity().is_some_and(|me| {
                    me.client().is_some_and(|c| self.clients.contains_key(&(me.account, c.sid)))
                })
            }));
        }
        if level == Level::Disable {
            more.extend(self.disabled.values().flat_map(|jid| registry.of(jid.as_str())));
        }
        more
    }
}

/// Arguments that do not narrow down which sessions of the accounts that are named are meant.
const OF_ALL: &[&str] =
    &["dry-run", "hold-off", "if-hash", "level", "rate", "reason", SELECTOR.name];

/// Whether whole accounts are named, and nothing else: then what they have let in and is not here goes,
/// too.
fn only_names_accounts(call: &Call) -> bool {
    call.args.keys().all(|name| OF_ALL.contains(&&**name))
        && call.many(SELECTOR.name).all(|text| Jid::parse(text).is_ok_and(|jid| jid.is_bare()))
}

/// The clients of the accounts that are named, with or without a session, as far as the caller may end
/// them.
async fn away(
    call: &Call,
    sessions: &[Arc<Session>],
) -> Result<Vec<((AccountId, u64), String)>, CommandError> {
    let (server, restraint) = (&call.server, call.restraint().await?);
    let now = server.clock.now();
    let mut away = Vec::new();
    for jid in call.many(SELECTOR.name).filter_map(|text| Jid::parse(text).ok()) {
        let Some(owner) = call.account(&jid).await? else { continue };
        if let Some(why) = may_touch(call, owner.id, &jid, rights(Level::Revoke)).await? {
            if sessions.is_empty() {
                return Err(why);
            }
            continue;
        }
        let policy = server.policy_of(&owner);
        let clients = server.clients_of(owner.id, None, 0).await?;
        let there = clients.into_iter().filter(|client| {
            client.over(&owner, &policy, now).is_none()
                && !restraint.as_ref().is_some_and(|by| by.spares(owner.id, client.sid))
        });
        away.extend(there.map(|client| ((owner.id, client.sid), client.jid)));
    }
    Ok(away)
}

/// The sessions and the level in a few letters: two that differ in any have others.
fn hash(level: Level, sessions: &[Arc<Session>]) -> String {
    let mut hash = Sha256::new();
    hash.update(level.as_str());
    for session in sessions {
        hash.update(session.id.0.to_be_bytes());
    }
    let text = data_encoding::BASE32_NOPAD.encode(&hash.finalize()[..10]);
    text.to_ascii_lowercase()
}

pub(super) fn one(
    session: &Session,
    outcome: Value,
    ways: Option<&[WayBack]>,
) -> Map<String, Value> {
    row! {
        "id": session.id.to_string(),
        "jid": session.jid().as_ref().map(Jid::as_str),
        "client": session.identity().and_then(|me| me.client()).map(|c| c.id.to_string()),
        "outcome": outcome,
        "ways_back": ways,
    }
}

async fn carry_out(
    call: &Call,
    level: Level,
    mut sessions: Vec<Arc<Session>>,
    withheld: Vec<Arc<Session>>,
    targets: &Targets,
) -> Result<Done, CommandError> {
    let (text, began) = (call.text("reason").map(str::to_owned), call.server.clock.now());
    // By whom they are ended: those that are ending already are not ended by this.
    let ending: HashSet<SessionId> =
        sessions.iter().filter(|session| !session.alive()).map(|session| session.id).collect();
    hold_off(call, &sessions, withheld.is_empty()).await?;
    // Credentials first: all of them are dead before the first connection closes.
    let taken = take_away(call, level, targets, &text).await;
    let revoked = match taken {
        Ok(taken) => {
            sessions.extend(taken.1);
            taken.0
        }
        Err((0, error)) => return Err(error),
        Err((some, error)) => {
            let message = format!(
                "{}, after {some} credentials were taken away; no session without one was ended",
                error.message
            );
            let failed = CommandError { internal: error.internal, ..CommandError::failed(message) };
            return Err(failed.hint("see the server's log; try again"));
        }
    };
    each_once(&mut sessions);
    if sessions.is_empty() {
        let message =
            if revoked > 0 { "revoked, no session to end" } else { "it was over already" };
        return Ok(Done::said(message).with("ended", 0));
    }
    let reason = match level {
        Level::Kick => Reason::Kicked,
        Level::End => Reason::Ended,
        Level::Revoke => Reason::Revoked,
        Level::Block => Reason::Blocked,
        Level::Disable => Reason::AccountDisabled,
    };
    let condition = call.text("condition").and_then(condition::parse);
    let request = |session: &Session| {
        let actor = call.actor(account_of(session));
        let end = End { level, actor, text: text.clone(), ..End::new(reason) };
        match condition {
            Some(condition) => end.with_condition(condition),
            None => end,
        }
    };
    let fates = match call.value::<u32>("rate").and_then(Pace::per_second) {
        Some(pace) => at_pace(call, sessions, request, pace).await,
        None => at_once(call, sessions, request, &ending).await,
    };
    notify_owners(call, level, &fates).await;
    let took = call.server.clock.now().0.saturating_sub(began.0);
    Ok(report(call, &fates, &withheld).await?.with("milliseconds", took))
}

/// Tells the owners of accounts that were named, and of which an administrator has left no session.
/// Whoever ends what fits a description does not mean the owners.
async fn notify_owners(call: &Call, level: Level, fates: &[Fate]) {
    if !matches!(level, Level::End | Level::Revoke | Level::Block) {
        return;
    }
    for jid in call.many("selector").filter_map(|jid| Jid::parse(jid).ok()).filter(Jid::is_bare) {
        let ended = fates.iter().any(|(session, outcome)| {
            matches!(outcome, Some(Outcome::Ended | Outcome::Lingering))
                && session.identity().is_some_and(|me| {
                    me.jid == jid && matches!(call.actor(Some(me.account)), Actor::Admin(_))
                })
        });
        if ended && call.server.registry.of(jid.as_str()).is_empty() {
            call.server.notify_owner(&jid, Notice::SessionsEnded).await;
        }
    }
}

/// What became of one session; none: it was spared, because it was called off.
type Fate = (Arc<Session>, Option<Outcome>);

async fn at_once(
    call: &Call,
    sessions: Vec<Arc<Session>>,
    request: impl Fn(&Session) -> End,
    ending: &HashSet<SessionId>,
) -> Vec<Fate> {
    let ours = |session: &Arc<Session>| {
        let end = request(session);
        let (level, actor) = (end.level, end.actor.clone());
        call.server.end(session, end)
            || !ending.contains(&session.id)
                && session.end_record().is_some_and(|record| {
                    level >= Level::Revoke && record.level >= Level::Revoke && record.by == actor
                })
    };
    // All are marked dead before the first is waited for.
    let ours: Vec<bool> = sessions.iter().map(ours).collect();
    call.server.all_settled(&sessions).await;
    let fate = |(session, ours): (Arc<Session>, bool)| {
        let outcome = Outcome::of(session.settled(), ours);
        (session, Some(outcome))
    };
    sessions.into_iter().zip(ours).map(fate).collect()
}

/// Goes on when nobody listens any more: it is the job, not its caller, that is called off.
async fn at_pace(
    call: &Call,
    sessions: Vec<Arc<Session>>,
    request: impl Fn(&Session) -> End,
    pace: Pace,
) -> Vec<Fate> {
    let total = sessions.len() as u64;
    let Some(end) = sessions.first().map(|session| request(session)) else { return Vec::new() };
    let listed = call.server.begin("session end", call.caller.name(), total);
    let (server, control, done) =
        (call.server.clone(), listed.job.control.clone(), listed.job.done.clone());
    let (told, mut tells) = tokio::sync::watch::channel(0u64);
    let work = tokio::spawn(async move {
        let _listed = listed;
        let progress = |progress: crate::pace::Progress| {
            done.store(progress.done as u64, Ordering::Relaxed);
            told.send_replace(progress.done as u64);
        };
        server.end_paced(sessions, &end, pace, &control, progress).await
    });
    while tells.changed().await.is_ok() {
        let now = *tells.borrow_and_update();
        let _ = call.progress(now, total).await;
    }
    let fates = work.await.unwrap_or_default();
    fates.into_iter().map(|fate| (fate.session, fate.outcome)).collect()
}

async fn report(
    call: &Call,
    fates: &[Fate],
    withheld: &[Arc<Session>],
) -> Result<Done, CommandError> {
    let (mut ended, mut lingering, mut spared) = (0, 0, 0);
    // Of very many, the ways back are too much to ask for.
    let explain = fates.len() <= 1_000;
    for (session, outcome) in fates {
        ended += usize::from(*outcome == Some(Outcome::Ended));
        lingering += usize::from(*outcome == Some(Outcome::Lingering));
        spared += usize::from(outcome.is_none());
        let word = match outcome {
            Some(outcome) => serde_json::to_value(outcome).unwrap_or_default(),
            None => "spared".into(),
        };
        let ways = if explain { ways_back(call, session).await } else { None };
        // Whether or not somebody still listens, the rest is seen through.
        let _ = call.row(one(session, word, ways.as_deref())).await;
    }
    for session in withheld {
        let _ = call.row(one(session, "forbidden".into(), None)).await;
    }
    let mut message = format!("{} ended", plural(ended));
    if lingering > 0 {
        message.push_str(&format!(", {lingering} are dead but their connections linger"));
    }
    if spared > 0 {
        message.push_str(&format!(", {spared} spared, because it was called off"));
    }
    if !withheld.is_empty() {
        message.push_str(&format!(", {} forbidden", withheld.len()));
    }
    let done = Done::said(message).with("ended", ended).with("lingering", lingering);
    let done = if spared > 0 { done.with("spared", spared) } else { done };
    Ok(if withheld.is_empty() { done } else { done.with("forbidden", withheld.len()) })
}

/// How whoever had this session can come back; none if that is not known.
async fn ways_back(call: &Call, session: &Session) -> Option<Vec<WayBack>> {
    let (server, me) = (&call.server, session.identity()?);
    let account = server.account(me.jid.as_str()).await.ok()?;
    let Some(account) = account.filter(|account| account.id == me.account) else {
        return Some(Vec::new());
    };
    let Some(client) = me.client() else {
        return Some(if account.disabled { Vec::new() } else { vec![WayBack::Password] });
    };
    let client = server.client(me.account, client.sid).await.ok()??;
    let (policy, epochs) = (server.policy_of(&account), server.epochs_of(&account).await.ok()?);
    let check = Check { policy: &policy, epochs: &epochs, now: server.clock.now() };
    Some(client.ways_back(&account, &check))
}

/// Keeps whoever is ended from coming back too soon: their clients, or, if `whole` and it was named, the
/// account. Who may not end all of it may not keep all of it out either.
async fn hold_off(call: &Call, sessions: &[Arc<Session>], whole: bool) -> Result<(), CommandError> {
    let Some(span) = call.value::<Span>("hold-off").and_then(Span::get) else { return Ok(()) };
    let until = call.server.clock.now().plus_seconds(span);
    let bare: BTreeSet<Jid> =
        call.many("selector").filter_map(|jid| Jid::parse(jid).ok()).filter(Jid::is_bare).collect();
    let mut held = BTreeSet::new();
    for me in sessions.iter().filter_map(|session| session.identity()) {
        let client = me.client();
        if whole && bare.contains(&me.jid) {
            if held.insert((me.account, None)) {
                call.server.hold_account(&me.jid, Some(until)).await?;
            }
        } else if let Some(client) = client
            && held.insert((me.account, Some(client.sid)))
        {
            let hold = |client: &mut Client| {
                client.hold = Some(until);
                true
            };
            call.server.change_client(me.account, client.sid, hold).await?;
        }
    }
    Ok(())
}

/// Takes away the credentials, durably. Gives how many, and the sessions that ended by that; or how
/// many before something failed.
async fn take_away(
    call: &Call,
    level: Level,
    targets: &Targets,
    text: &Option<String>,
) -> Result<(usize, Vec<Arc<Session>>), (usize, CommandError)> {
    let server = &call.server;
    let mut taken = 0;
    let mut ended: Vec<Arc<Session>> = Vec::new();
    let now = server.clock.now();
    for ((account, sid), jid) in &targets.clients {
        call.note(*account, jid);
        let actor = call.actor(Some(*account));
        let found = server.client(*account, *sid).await.map_err(|why| (taken, why.into()))?;
        let Some(client) = found else { continue };
        let over = match level {
            Level::Block => {
                let until = call.value::<Span>("for").and_then(Span::get);
                let until = until.map(|span| now.plus_seconds(span));
                server.block_client(&client, until, &actor, text.clone()).await
            }
            _ => server.end_client(&client, Over::by(&actor), &actor, text.clone()).await.map(Some),
        };
        match over {
            Ok(Some((_, sessions))) => {
                taken += 1;
                ended.extend(sessions);
            }
            Ok(None) => {}
            Err(error) => return Err((taken, error.into())),
        }
    }
    if let Some((handle, client)) = &targets.part {
        let actor = call.actor(Some(client.account));
        let over = match handle {
            Handle::Token(id) => {
                let revoked = server.revoke_token(*id, &actor, text.clone()).await;
                revoked.map(|revoked| revoked.map(|(_, sessions)| sessions))
            }
            Handle::Grant(id) => {
                let over = server.end_grant(*id, Over::Revoked, &actor, text.clone()).await;
                over.map(|over| over.map(|(_, sessions)| sessions))
            }
            Handle::Client(_) => Ok(None),
        };
        match over {
            Ok(Some(sessions)) => {
                taken += 1;
                ended.extend(sessions);
            }
            Ok(None) => {}
            Err(error) => return Err((taken, error.into())),
        }
    }
    for (account, jid) in &targets.disabled {
        call.note(*account, jid.as_str());
        let sessions = server.registry.of(jid.as_str());
        let actor = call.actor(Some(*account));
        match server.set_standing(jid, Standing::Disabled, actor).await {
            Ok(_) => {
                taken += 1;
                ended.extend(sessions);
            }
            Err(error) => return Err((taken, error.into())),
        }
    }
    Ok((taken, ended))
}
