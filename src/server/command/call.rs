//! One call of a command: admitted, run, audited. And what a command knows of its call: arguments,
//! whom it may touch, and where its rows go.

use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use wire::{Jid, Secret};

use super::{
    Command, CommandError, Done, Reply, Shape, ValueKind,
    caller::{Acting, Caller, Reach, lacks},
    columns, find, network,
    rate::Rated,
};
use crate::{
    Server, Session,
    account::{Account, Role},
    audit::{Entry, Subject},
    clock::Millis,
    end::Actor,
    hearing::Hearing,
    id::AccountId,
    rights::Right,
};

/// Fields of rows that tell from where somebody comes, in whichever command and at whichever depth.
pub const ADDRESSES: &[&str] =
    &["address", "addresses", "bound_to", "ip", "last_address", "peer", "port"];
/// What stands in their place for those who may not know.
pub const MASK: &str = "***";

/// A command as it was called.
pub struct Call {
    /// The server.
    pub server: Arc<Server>,
    /// Who calls, as they were when the command began.
    pub caller: Caller,
    /// Values by argument name. Absent: not given.
    pub args: Map<String, Value>,
    /// Where rows go while the command runs. Waits when the other side is slow; an error means that
    /// nobody listens any more.
    pub(super) rows: mpsc::Sender<Reply>,
    command: &'static Command,
    reach: Reach,
    /// The accounts that were touched, for the audit.
    subjects: Arc<Mutex<Vec<Subject>>>,
}

/// Runs a command by name: checks its arguments and whether the caller may, audits it, and sends
/// everything, the end included, to `rows`. If it ends the session that it is called from, that ends once
/// nobody listens to `rows` any more and its connection has taken what there was to hear.
pub async fn run(
    server: Arc<Server>,
    caller: Caller,
    name: &str,
    args: Map<String, Value>,
    rows: mpsc::Sender<Reply>,
) {
    let session = caller.account().and_then(|me| server.registry.get(me.session()?));
    let hearing = session.map(|session| Hearing::new(server.clone(), session));
    let command = perform(server, &caller, name, args, rows.clone());
    let performed = match &hearing {
        Some(hearing) => hearing.during(command).await,
        None => command.await,
    };
    let reply = match performed {
        Ok(done) => Reply::Done(done),
        Err(error) => Reply::Failed(error),
    };
    // Nobody may listen any more; the outcome of a mutating command is in the audit then.
    let _ = rows.send(reply).await;
    if let Some(hearing) = hearing {
        hearing.heard(rows.closed()).await;
    }
}

async fn perform(
    server: Arc<Server>,
    caller: &Caller,
    name: &str,
    args: Map<String, Value>,
    rows: mpsc::Sender<Reply>,
) -> Result<Done, CommandError> {
    let unknown = || CommandError::usage(format!("there is no command `{name}`"));
    let command = find(name).ok_or_else(unknown)?;
    command.check(&args)?;
    let entry = |ok, outcome, accounts| Entry {
        at: server.clock.now(),
        who: caller.name().to_string(),
        what: name.into(),
        args: command.without_secrets(&args),
        ok,
        outcome,
        accounts,
    };
    let rated = caller.account().map_or(Rated::Free, |acting| server.rate(acting, command));
    if let Rated::Refused { error, first } = rated {
        // The first one is enough: whoever asks too often is not to fill the audit.
        if first {
            written(&server, &entry(false, error.message.clone(), Vec::new())).await?;
        }
        return Err(error);
    }
    // Read anew for every call: whoever has lost a right since has lost it here.
    let admitted = match server.renewed(caller).await {
        Ok(caller) => server.admit(&caller, command).map(|reach| (caller, reach)),
        Err(error) => Err(error),
    };
    let (caller, reach) = match admitted {
        Ok((caller, _)) if matches!(rated, Rated::OnlyOwn(_)) => (caller, Reach::Own),
        Ok(admitted) => admitted,
        Err(refused) => {
            if command.mutates {
                written(&server, &entry(false, refused.message.clone(), Vec::new())).await?;
            }
            return Err(refused);
        }
    };
    let wide = caller.account().is_some() && reach == Reach::All && command.shows_others();
    if wide && matches!(command.shape, Shape::Stream(_)) {
        // It has no end of its own at which this could be written.
        written(&server, &entry(true, "began".into(), Vec::new())).await?;
    }
    let subjects = Arc::new(Mutex::new(Vec::new()));
    let call = Call {
        server: server.clone(),
        caller: caller.clone(),
        args: args.clone(),
        rows,
        command,
        reach,
        subjects: subjects.clone(),
    };
    let outcome = match ((command.run)(call).await, rated) {
        // With what is its own it could have been done.
        (Err(why), Rated::OnlyOwn(error)) if why.forbidden => Err(error),
        (outcome, _) => outcome,
    };
    let subjects = std::mem::take(&mut *subjects.lock());
    let audited = command.mutates
        || match caller.account() {
            None => server.config.audit.views && !subjects.is_empty(),
            Some(_) if matches!(command.shape, Shape::Stream(_)) => false,
            Some(_) if subjects.is_empty() => wide,
            Some(me) => subjects.iter().any(|subject| subject.id != me.id()),
        };
    if audited {
        let (ok, words) = match &outcome {
            Ok(done) => (true, done.message.clone()),
            Err(error) => (false, error.message.clone()),
        };
        written(&server, &entry(ok, words, subjects)).await?;
    }
    outcome
}

/// Whether a caller may run a command now, for faces that ask for its arguments after that. A refusal
/// is in the audit as if the command had been called; it is not told there again and again.
///
/// # Errors
/// When the caller may not.
pub async fn may_begin(
    server: &Server,
    caller: &Caller,
    command: &'static Command,
) -> Result<(), CommandError> {
    let Err(refused) = server.admit(caller, command) else { return Ok(()) };
    let rated = caller.account().map_or(Rated::Free, |acting| server.rate(acting, command));
    if command.mutates && !matches!(rated, Rated::Refused { first: false, .. }) {
        let (args, accounts) = (Map::new(), Vec::new());
        let (at, who) = (server.clock.now(), caller.name().to_string());
        let (what, outcome) = (command.name.into(), refused.message.clone());
        written(server, &Entry { at, who, what, args, ok: false, outcome, accounts }).await?;
    }
    Err(refused)
}

async fn written(server: &Server, entry: &Entry) -> Result<(), CommandError> {
    server.audit(entry).await.map_err(|error| {
        let colon = if entry.outcome.is_empty() { "" } else { "; but " };
        let outcome = &entry.outcome;
        let message = format!("{outcome}{colon}it could not be written to the audit: {error}");
        CommandError { internal: true, ..CommandError::failed(message) }
    })
}

impl Command {
    /// Whether, with its right, it shows data of people; numbers about the server are not.
    fn shows_others(&self) -> bool {
        !self.mutates && matches!(self.right, Right::Audit | Right::List | Right::ListIp)
    }

    fn without_secrets(&self, args: &Map<String, Value>) -> Map<String, Value> {
        let shown = |(name, value): (&String, &Value)| {
            let kind = self.arg(name).map(|arg| arg.kind);
            let value = match (kind, value) {
                (Some(ValueKind::Secret), _) => "(secret)".into(),
                (Some(ValueKind::CsvFile), Value::Array(rows)) => {
                    format!("({} rows)", rows.len()).into()
                }
                (_, other) => other.clone(),
            };
            (name.clone(), value)
        };
        args.iter().map(shown).collect()
    }
}

/// Whom the command may touch. Each command asks for each account that it touches.
impl Call {
    /// The caller, if it may touch nothing but what is its own.
    pub(super) fn confined(&self) -> Option<&Acting> {
        self.caller.account().filter(|_| self.reach == Reach::Own)
    }

    /// Whether the caller may see what is this account's; `None` is nobody's.
    pub(super) fn may_see(&self, account: Option<AccountId>) -> bool {
        self.confined().is_none_or(|me| account == Some(me.id()))
    }

    /// The account of this address, if there is one and the caller may see it. Whoever may see the
    /// own account only is not told whether there is another.
    pub(super) async fn account(&self, jid: &Jid) -> Result<Option<Account>, CommandError> {
        if let Some(me) = self.confined()
            && me.jid().as_str() != jid.bare_str()
        {
            return Err(lacks(&self.server, me, self.command.right));
        }
        let account = self.server.account(jid.bare_str()).await?;
        let account = account.filter(|account| self.may_see(Some(account.id)));
        if let Some(account) = &account {
            self.note(account.id, &account.jid);
        }
        Ok(account)
    }

    /// Refuses unless the caller may do this to the account: its own, or one whose role is below its
    /// own, with the right.
    pub(super) fn may_act(
        &self,
        target: AccountId,
        jid: &str,
        role: Role,
        right: Right,
    ) -> Result<(), CommandError> {
        let Some(me) = self.caller.account() else { return Ok(()) };
        if me.id() == target {
            return me.in_scope(right);
        }
        if !self.may_see(Some(target)) {
            return Err(lacks(&self.server, me, self.command.right));
        }
        self.need(right)?;
        if role < me.role() {
            return Ok(());
        }
        let (mine, role) = (me.role().as_str(), role.as_str());
        let message = format!("`{}` ({mine}) may not touch `{jid}` ({role})", me.jid());
        Err(CommandError::forbidden(message)
            .hint("only accounts of a lower role; the admin socket may touch all"))
    }

    /// Refuses unless the caller may make accounts, and tokens, of this role.
    pub(super) fn may_give(&self, role: Role) -> Result<(), CommandError> {
        let Some(me) = self.caller.account().filter(|me| role >= me.role()) else { return Ok(()) };
        let (mine, role) = (me.role().as_str(), role.as_str());
        let message = format!("`{}` ({mine}) may not give the role `{role}`", me.jid());
        Err(CommandError::forbidden(message)
            .hint("only a lower role than the own one; the admin socket may give all"))
    }

    /// Refuses unless the caller has this right over others.
    pub(super) fn need(&self, right: Right) -> Result<(), CommandError> {
        match self.caller.account() {
            Some(me) if !me.rights().has(right) => Err(lacks(&self.server, me, right)),
            _ => Ok(()),
        }
    }

    /// Refuses unless the session that calls, if one does, has shown the password lately.
    pub(super) fn fresh(&self) -> Result<(), CommandError> {
        self.caller.account().map_or(Ok(()), |me| self.server.fresh(me, self.command.name))
    }

    /// Refuses an account that ends what is of others and does not say why; who is at the admin
    /// socket answers to nobody.
    pub(super) fn reasoned(
        &self,
        targets: impl IntoIterator<Item = Option<AccountId>>,
    ) -> Result<(), CommandError> {
        let Some(me) = self.caller.account() else { return Ok(()) };
        let others = targets.into_iter().any(|target| target != Some(me.id()));
        if !others || self.text("reason").is_some_and(|reason| !reason.trim().is_empty()) {
            return Ok(());
        }
        let message = format!("`{}` needs `--reason` for what is not your own", self.command.name);
        Err(CommandError::usage(message).hint("say why; the peers and the audit are told"))
    }

    /// Refuses if the caller has lost what it was admitted for since; for commands that go on.
    pub(super) async fn renew(&mut self) -> Result<(), CommandError> {
        self.caller = self.server.renewed(&self.caller).await?;
        self.reach = self.server.admit(&self.caller, self.command)?;
        Ok(())
    }

    /// Notes an account that the call is about, for the audit.
    pub(super) fn note(&self, id: AccountId, jid: &str) {
        let mut subjects = self.subjects.lock();
        // Sorted: a command may be about very many.
        match subjects.binary_search_by_key(&id, |subject| subject.id) {
            Err(place) => subjects.insert(place, Subject { id, jid: jid.into() }),
            // It may have another name since.
            Ok(place) => {
                if let Some(subject) = subjects.get_mut(place).filter(|known| known.jid != jid) {
                    subject.jid = jid.into();
                }
            }
        }
    }

    /// Notes the account of a session.
    pub(super) fn note_session(&self, session: &Session) {
        if let Some(identity) = session.identity() {
            self.note(identity.account, identity.jid.as_str());
        }
    }

    /// The caller as the author of what is done to an account.
    pub(super) fn actor(&self, target: Option<AccountId>) -> Actor {
        self.caller.actor(target)
    }
}

/// What keeps a client that has only just come from throwing out those that were there before it: it
/// may be a thief's.
pub(super) struct Restraint {
    account: AccountId,
    /// Clients with a lower number were there before it.
    sid: u64,
    until: Millis,
}

impl Restraint {
    /// Whether a client of this account, or what is of it, is out of reach.
    pub(super) fn spares(&self, account: AccountId, sid: u64) -> bool {
        account == self.account && sid < self.sid
    }

    /// What the caller is told.
    pub(super) fn refusal(&self) -> CommandError {
        let message = "a client that has just come may not end, block or revoke older ones";
        let hint = format!("do it from an older client, or wait until {}", self.until);
        CommandError::forbidden(message).hint(hint)
    }
}

impl Call {
    /// What holds the caller back, if it calls from a session, or bears a token, whose client is younger
    /// than `clients.fresh`, or is not known yet. Nobody else is held back.
    ///
    /// # Errors
    /// When storage fails.
    pub(super) async fn restraint(&self) -> Result<Option<Restraint>, CommandError> {
        let Some(fresh) = self.server.config.clients.fresh.get() else { return Ok(None) };
        let session = self.session();
        let me = session.as_ref().and_then(|session| session.identity());
        let Some(acting) = self.caller.account() else { return Ok(None) };
        let (sid, came) = match (&me, acting.bearer()) {
            (Some(me), _) => (me.client().map(|client| client.sid), me.since),
            (None, Some(bearer)) => (Some(bearer.sid), self.server.clock.now()),
            (None, None) => return Ok(None),
        };
        let account = acting.id();
        let known = match sid {
            Some(sid) => self.server.client(account, sid).await?,
            None => None,
        };
        // Every client is older than one that is not known yet.
        let (sid, since) = known.map_or((u64::MAX, came), |client| (client.sid, client.created));
        let until = since.plus_seconds(fresh);
        let young = self.server.clock.now() < until;
        Ok(young.then_some(Restraint { account, sid, until }))
    }

    /// Refuses unless the caller may end this client, or what is of it; see [`Restraint`].
    ///
    /// # Errors
    /// When it may not, or storage fails.
    pub(super) async fn may_end_client(
        &self,
        account: AccountId,
        sid: u64,
    ) -> Result<(), CommandError> {
        match self.restraint().await?.filter(|restraint| restraint.spares(account, sid)) {
            Some(restraint) => Err(restraint.refusal()),
            None => Ok(()),
        }
    }

    /// The number of the client that the caller calls from, if it is one of this account.
    pub(super) fn own_client(&self, account: AccountId) -> Option<u64> {
        let me = self.caller.account().filter(|me| me.id() == account)?;
        match self.session() {
            Some(session) => session.identity()?.client().map(|client| client.sid),
            None => me.bearer().map(|bearer| bearer.sid),
        }
    }

    /// Whether the caller has shown a token, and not the password.
    pub(super) fn by_token(&self) -> bool {
        let bearer = self.caller.account().and_then(Acting::bearer);
        bearer.is_some_and(|bearer| bearer.proved.is_none())
            || self.session().is_some_and(|s| s.identity().is_some_and(|me| me.token.is_some()))
    }

    /// The session that the caller calls from.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        self.server.registry.get(self.caller.account()?.session()?)
    }
}

impl Call {
    /// The text of an argument, if it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.args.get(name)?.as_str()
    }

    /// The value of an argument, parsed; checked before the command ran, so that a value that does
    /// not parse counts as not given.
    #[must_use]
    pub fn value<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// Whether a flag was given.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.args.get(name).is_some_and(|value| value == &Value::Bool(true))
    }

    /// The values of an argument that may be given several times.
    pub fn many(&self, name: &str) -> impl Iterator<Item = &str> {
        self.args
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// A secret from an argument.
    ///
    /// # Errors
    /// When it was not given.
    pub fn secret(&self, name: &str) -> Result<Secret, CommandError> {
        let missing = || CommandError::usage(format!("a {name} is needed"));
        Ok(Secret::new(self.text(name).ok_or_else(missing)?.as_bytes().to_vec()))
    }

    /// How many rows are wanted at most; `otherwise`, if that was not said.
    ///
    /// # Errors
    /// When it is none.
    pub fn limit(&self, otherwise: usize) -> Result<usize, CommandError> {
        match self.value("limit").unwrap_or(otherwise) {
            0 => Err(CommandError::usage("`limit` has to be 1 at least")),
            limit => Ok(limit),
        }
    }

    /// A network from an argument.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<IpNet> {
        network(self.text(name)?).ok()
    }

    /// The JID in an argument.
    ///
    /// # Errors
    /// When it was not given.
    pub fn jid(&self, name: &str) -> Result<Jid, CommandError> {
        let missing = || CommandError::usage(format!("`{name}` is missing"));
        Jid::parse(self.text(name).ok_or_else(missing)?)
            .map_err(|why| CommandError::usage(format!("`{name}`: {why}")))
    }

    /// Sends a row to the caller: the one place where rows leave, where addresses are masked for those
    /// who may see none but their own, and where nothing but the columns that were asked for stays.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn row(&self, mut row: Map<String, Value>) -> Result<(), CommandError> {
        if let Some(me) = self.caller.account()
            && !me.rights().has(Right::ListIp)
            && !is_about(me, &row)
        {
            mask(&mut row);
        }
        if let Some(names) = self.columns() {
            row = names.filter_map(|name| row.remove_entry(name)).collect();
        }
        self.send(Reply::Row(row)).await
    }

    /// The columns that were asked for, if some were.
    fn columns(&self) -> Option<impl Iterator<Item = &str>> {
        let args = self.command.args.iter();
        let mut args = args.filter(|arg| matches!(arg.kind, ValueKind::Columns(_)));
        Some(columns(self.text(args.next()?.name)?))
    }

    /// Tells the caller that it misses nothing from here on.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn began(&self) -> Result<(), CommandError> {
        self.send(Reply::Began).await
    }

    /// Tells the caller how far a long command is.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn progress(&self, done: u64, total: u64) -> Result<(), CommandError> {
        self.send(Reply::Progress { done, total }).await
    }

    async fn send(&self, reply: Reply) -> Result<(), CommandError> {
        self.rows.send(reply).await.map_err(|_| CommandError::failed("the caller has gone"))
    }
}

/// Whether a row is about the caller itself, who knows where it is.
fn is_about(me: &Acting, row: &Map<String, Value>) -> bool {
    let jid = row.get("jid").and_then(Value::as_str).unwrap_or_default();
    jid.split('/').next() == Some(me.jid().as_str())
}

fn mask(fields: &mut Map<String, Value>) {
    for (name, value) in fields {
        match value {
            Value::Null => {}
            _ if ADDRESSES.contains(&name.as_str()) => *value = MASK.into(),
            Value::Object(inner) => mask(inner),
            Value::Array(list) => list.iter_mut().filter_map(Value::as_object_mut).for_each(mask),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_masked_at_any_depth_and_nothing_else_is() {
        let mut row = json!({
            "jid": "a@b/c", "address": "::1", "port": 1, "peer": null,
            "args": {"ip": "::1", "all": true}, "logins": [{"address": "::1", "at": "x"}, 1],
        });
        mask(row.as_object_mut().unwrap());
        let masked = json!({
            "jid": "a@b/c", "address": MASK, "port": MASK, "peer": null,
            "args": {"ip": MASK, "all": true}, "logins": [{"address": MASK, "at": "x"}, 1],
        });
        assert_eq!(row, masked);
    }
}
