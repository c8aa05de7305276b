//! Who calls a command, and what they may do.
//!
//! Somebody at the admin socket may do everything. Anybody else is an account of this server, known
//! by its internal id: a caller is made of an account that is there, and is looked up anew at every
//! call. So an account that was demoted has lost its rights at its next command, one that was deleted
//! has none, its successor of the same name inherits none, and an address of another server, whatever
//! stands before its `@`, is nobody here.

use std::sync::Arc;

use wire::{Jid, TokenId};

use super::{Command, CommandError, Scope};
use crate::{
    Server, Session,
    account::{Account, Role},
    clock::Millis,
    end::Actor,
    id::{AccountId, SessionId},
    rights::{Right, Rights},
    vault::{Found, WEB},
};

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// An account of this server.
    Account(Acting),
    /// Somebody at the admin socket: every right, over everybody.
    Local {
        /// The name for the audit: `uid:1000`.
        name: Arc<str>,
    },
}

/// An account that calls; made by [`Server::caller_as`], [`Server::caller_of`] and
/// [`Server::caller_by`] only.
#[derive(Clone, Debug)]
pub struct Acting {
    id: AccountId,
    jid: Jid,
    /// What it may be at most: less than the account's role if its session's token says so.
    most: Role,
    role: Role,
    /// Whether `role` is less than the account's.
    narrowed: bool,
    rights: Rights,
    session: Option<SessionId>,
    bearer: Option<Bearer>,
    via: Option<Arc<str>>,
    /// Whether what it does counts for how much an account may do.
    counts: bool,
    /// Whether it asks for nothing but what is its own, whatever it may do to others.
    own: bool,
}

/// The token that a caller without a session bears.
#[derive(Clone, Copy, Debug)]
pub struct Bearer {
    /// The token.
    pub token: TokenId,
    /// Its client, by its number.
    pub sid: u64,
    /// The commands that it is good for; none: all.
    pub scopes: Option<Rights>,
    /// When the password was shown for it; none: it stands for itself.
    pub proved: Option<Millis>,
}

/// When the password was shown by whom it never was.
const NEVER: Millis = Millis(0);

/// Whose data a call may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// That of everybody, by right.
    All,
    /// That of the own account only.
    Own,
}

impl Caller {
    /// Somebody at the admin socket, by the name for the audit.
    #[must_use]
    pub fn local(name: impl Into<Arc<str>>) -> Self {
        Self::Local { name: name.into() }
    }

    /// The name for the audit: `uid:1000`, `alice@localhost`, or `uid:0 as alice@localhost`.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Local { name } => name.clone(),
            Self::Account(acting) => match &acting.via {
                Some(via) => format!("{via} as {}", acting.jid).into(),
                None => acting.jid.as_str().into(),
            },
        }
    }

    /// What it may do to others.
    #[must_use]
    pub fn rights(&self) -> Rights {
        match self {
            Self::Local { .. } => Rights::ALL,
            Self::Account(acting) => acting.rights,
        }
    }

    /// The caller as the author of what is done to an account, or to a session of none.
    #[must_use]
    pub fn actor(&self, target: Option<AccountId>) -> Actor {
        match self {
            // Somebody who only acts as the owner is not the owner.
            Self::Account(acting) if acting.via.is_none() && target == Some(acting.id) => {
                Actor::Owner(acting.jid.as_str().into())
            }
            _ => Actor::Admin(self.name()),
        }
    }

    /// The same for what was counted before, when it was planned.
    #[must_use]
    pub(crate) fn uncounted(mut self) -> Self {
        if let Self::Account(acting) = &mut self {
            acting.counts = false;
        }
        self
    }

    /// The same with nothing but what is its own within reach: for whoever asks about that only, so that
    /// what it may do to others neither shows nor is noted.
    #[must_use]
    pub fn only_own(mut self) -> Self {
        if let Self::Account(acting) = &mut self {
            acting.own = true;
        }
        self
    }

    /// The account that calls, if it is one.
    #[must_use]
    pub fn account(&self) -> Option<&Acting> {
        match self {
            Self::Account(acting) => Some(acting),
            Self::Local { .. } => None,
        }
    }
}

impl Acting {
    /// Its internal id.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// Its bare JID.
    #[must_use]
    pub fn jid(&self) -> &Jid {
        &self.jid
    }

    /// What it is: its account's role, or less.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// What it may do to others.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Whether it is less than its account: then it must not get at what the account could do, as by
    /// setting its password.
    #[must_use]
    pub fn narrowed(&self) -> bool {
        self.narrowed || self.scopes().is_some()
    }

    /// The commands that it may give at most, by the right that they take, for what is its own as
    /// well; none: it knows no such bounds.
    #[must_use]
    pub fn scopes(&self) -> Option<Rights> {
        self.bearer?.scopes
    }

    /// Whether what it does counts for how much an account may do.
    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// The session that it calls from.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The token that it bears, if it calls from no session.
    #[must_use]
    pub fn bearer(&self) -> Option<Bearer> {
        self.bearer
    }

    /// Whether somebody at the admin socket calls in its place.
    pub(super) fn is_acted(&self) -> bool {
        self.via.is_some()
    }

    /// Refuses what its token is not good for.
    pub(super) fn in_scope(&self, right: Right) -> Result<(), CommandError> {
        match self.scopes() {
            Some(scopes) if !scopes.has(right) => {
                let message = format!("the token lacks the scope `{right}`");
                let hint =
                    format!("it is good for: {scopes}; scopes are set by `usher token mint`");
                let refused = CommandError::forbidden(message).hint(hint);
                Err(CommandError { scope: Some(right.as_str().into()), ..refused })
            }
            _ => Ok(()),
        }
    }
}

/// Refuses for want of a right.
pub(super) fn lacks(server: &Server, who: &Acting, right: Right) -> CommandError {
    if let Err(refused) = who.in_scope(right) {
        return refused;
    }
    let roles: Vec<_> = server.config.roles.with(right).map(Role::as_str).collect();
    let message = format!("`{}` ({}) lacks the right `{right}`", who.jid, who.role.as_str());
    let roles = roles.join(", ");
    CommandError::forbidden(message).hint(format!("roles that have it: {roles}"))
}

impl Server {
    /// Somebody at the admin socket acting as an account, with its rights and no others; the audit
    /// names both.
    ///
    /// # Errors
    /// When there is no such account here that may log in, and when `via` is an account itself.
    pub async fn caller_as(&self, jid: &str, via: &Caller) -> Result<Caller, CommandError> {
        let Caller::Local { name } = via else {
            return Err(CommandError::forbidden("only the admin socket acts as somebody else"));
        };
        let jid = Jid::parse(jid)
            .map_err(|why| CommandError::usage(format!("`{jid}` is not a JID: {why}")))?;
        self.account_address(&jid).map_err(|why| CommandError::forbidden(why.to_string()))?;
        let account = self.account(jid.as_str()).await?.filter(|account| !account.disabled);
        let account = account.ok_or_else(|| gone(&jid))?;
        Ok(self.acting(&account, jid, Role::Admin, By { via: Some(name.clone()), ..By::default() }))
    }

    /// The account of a session, with no more rights than the session has.
    ///
    /// # Errors
    /// When the session has not logged in, or is over, or its account is not what it was.
    pub async fn caller_of(&self, session: &Session) -> Result<Caller, CommandError> {
        let nobody = || CommandError::forbidden("the session has not logged in");
        let identity = session.identity().ok_or_else(nobody)?;
        let account = self.still_there(identity.account, &identity.jid).await?;
        let jid = identity.jid.clone();
        let by = By { session: Some(session.id), ..By::default() };
        let caller = self.acting(&account, jid, identity.role(), by);
        self.renewed(&caller).await
    }

    /// The account of a token that was verified, with no more rights than the token has.
    #[must_use]
    pub fn caller_by(&self, account: &Account, jid: Jid, found: &Found) -> Caller {
        let Found { client, grant, token } = found;
        // What a browser keeps is there in place of the password, and is as good only for a while.
        let proved = (token.purpose == WEB).then(|| token.proved.unwrap_or(NEVER));
        let bearer = Bearer { token: token.id, sid: client.sid, scopes: token.scopes, proved };
        let by = By { bearer: Some(bearer), ..By::default() };
        let mut most = token.role.min(grant.role);
        if token.purpose == WEB && client.waits(&self.config.clients, self.clock.now()) {
            // As a session that the password has opened.
            most = most.min(Role::Restricted);
        }
        self.acting(account, jid, most, by)
    }

    /// The owner of an account that has proved to be who it is by this very request.
    #[must_use]
    pub(crate) fn caller_in_person(&self, account: &Account, jid: Jid) -> Caller {
        self.acting(account, jid, Role::Admin, By::default())
    }

    fn acting(&self, account: &Account, jid: Jid, most: Role, by: By) -> Caller {
        let By { session, bearer, via, own } = by;
        let role = account.role.min(most);
        // A lower role may have been given what the account's own has not.
        let roles = &self.config.roles;
        let scopes = bearer.and_then(|bearer| bearer.scopes).unwrap_or(Rights::ALL);
        let rights = roles.rights(role) & roles.rights(account.role) & scopes;
        let narrowed = role < account.role;
        Caller::Account(Acting {
            id: account.id,
            jid,
            most,
            role,
            narrowed,
            rights,
            session,
            bearer,
            via,
            counts: true,
            own,
        })
    }

    /// Refuses a token that is over, or whose client is kept out.
    async fn still_good(&self, account: &Account, bearer: Bearer) -> Result<(), CommandError> {
        let client = self.client(account.id, bearer.sid).await?;
        let good = match client {
            Some(client) => self.is_good(account, &client, bearer.token).await?,
            None => false,
        };
        let over = || CommandError::forbidden(format!("the token `{}` is over", bearer.token));
        good.then_some(()).ok_or_else(over)
    }

    /// The account of this id, under this address, as it is now.
    async fn still_there(&self, id: AccountId, jid: &Jid) -> Result<Account, CommandError> {
        let account = match self.is_local(jid.domain()) {
            true => self.account(jid.as_str()).await?,
            false => None,
        };
        account.filter(|account| account.id == id && !account.disabled).ok_or_else(|| gone(jid))
    }

    /// The caller as it is now.
    ///
    /// # Errors
    /// When its account, or the session that it calls from, is over.
    pub(super) async fn renewed(&self, caller: &Caller) -> Result<Caller, CommandError> {
        let Caller::Account(acting) = caller else { return Ok(caller.clone()) };
        let account = self.still_there(acting.id, &acting.jid).await?;
        if let Some(id) = acting.session {
            let there = self.registry.get(id).filter(|session| session.alive());
            if there.is_none_or(|s| s.identity().is_none_or(|me| me.account != acting.id)) {
                return Err(CommandError::forbidden(format!("the session `{id}` is over")));
            }
        }
        if let Some(bearer) = acting.bearer {
            self.still_good(&account, bearer).await?;
        }
        let Acting { session, bearer, .. } = *acting;
        let by = By { session, bearer, via: acting.via.clone(), own: acting.own };
        Ok(self.acting(&account, acting.jid.clone(), acting.most, by))
    }

    /// Whether a caller may run a command now, on its own data at least. Does and notes nothing.
    ///
    /// # Errors
    /// The refusal.
    pub async fn may_run(&self, caller: &Caller, command: &Command) -> Result<(), CommandError> {
        self.admit(&self.renewed(caller).await?, command).map(|_| ())
    }

    /// Whether a caller may run a command at all, and on whose data: the one check of the table. What
    /// is not granted here is refused.
    pub(super) fn admit(&self, caller: &Caller, command: &Command) -> Result<Reach, CommandError> {
        let reach = self.reach(caller, command)?;
        if let Some(acting) = caller.account().filter(|_| command.fresh) {
            self.fresh(acting, command.name)?;
        }
        Ok(reach)
    }

    /// Whether a command is for a caller, if only on what is its own: what faces list commands by.
    /// Whether it has to show the password first is told when it is run.
    #[must_use]
    pub fn offers(&self, caller: &Caller, command: &Command) -> bool {
        self.reach(caller, command).is_ok()
    }

    fn reach(&self, caller: &Caller, command: &Command) -> Result<Reach, CommandError> {
        let Caller::Account(acting) = caller else { return Ok(Reach::All) };
        acting.in_scope(command.right)?;
        let own = command.scope == Scope::Own && acting.role > Role::Restricted;
        match acting.rights.has(command.right) && !acting.own {
            true => Ok(Reach::All),
            false if own => Ok(Reach::Own),
            false => Err(lacks(self, acting, command.right)),
        }
    }

    /// Whether a caller may do now what takes a recent password.
    #[must_use]
    pub fn is_fresh(&self, caller: &Caller) -> bool {
        caller.account().is_none_or(|acting| self.fresh(acting, "").is_ok())
    }

    /// Refuses what takes a recent password to a session that cannot show one. Who calls from no
    /// session has proved to be who it is in another way.
    pub(super) fn fresh(&self, acting: &Acting, what: &str) -> Result<(), CommandError> {
        let Some(window) = self.config.auth.step_up.get() else { return Ok(()) };
        let lately = |at: Millis| self.clock.now().seconds_since(at) < window;
        let proved = match (acting.session, acting.bearer.and_then(|bearer| bearer.proved)) {
            (Some(id), _) => self.registry.get(id).is_some_and(|session| {
                session.identity().is_some_and(|me| me.token.is_none() && lately(me.proved))
            }),
            (None, Some(at)) => lately(at),
            (None, None) => true,
        };
        let window = self.config.auth.step_up;
        let refused = || {
            let message = format!("`{what}` takes a login with the password within {window}");
            CommandError::login(message).hint("log in again with the password")
        };
        proved.then_some(()).ok_or_else(refused)
    }
}

/// By what an account calls, if not by its name alone.
#[derive(Default)]
struct By {
    session: Option<SessionId>,
    bearer: Option<Bearer>,
    /// Who acts as the account.
    via: Option<Arc<str>>,
    /// It asks for nothing but its own.
    own: bool,
}

fn gone(jid: &Jid) -> CommandError {
    CommandError::forbidden(format!("there is no account `{jid}` that may do anything"))
        .hint("`usher user show` tells whether it is there, and enabled")
}
