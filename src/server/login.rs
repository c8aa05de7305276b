//! From a connection to a bound session: the questions that the stream's state machine asks on the
//! way, and the one admission gate.
//!
//! A login reads the account, checks a proof, and enters the session in the registry; an account can
//! change between the first and the last of these. So each change of an account or token is durable
//! first, then bumps `accounts_epoch`, then ends the sessions that it finds; and a login notes the
//! epoch before it reads and, once it is entered, looks again if the epoch has moved. Whichever
//! comes first, nobody is left with a session that a change has outlawed.

mod proof;

pub use proof::NotProved;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::{
    Agent, Condition, Denied, Hash, Jid, Mechanism, SaslFailure, ScramKeys, Secret, StanzaError,
    StreamCondition, StreamError, Token,
    stream::{Bound, Wanted},
};

use crate::{
    Server, Session,
    account::{Account, Role},
    client::{Check, Client, Refused, Tombstone},
    clock::Millis,
    config::Conflict,
    end::{self, End, Reason},
    epoch::Stamp,
    events::Change,
    hooks::{Flow, Moment},
    random,
    registry::{Bind, Login, Room},
    session::{Identity, Live},
    store::StoreError,
    task::NotBound,
    unauthed::Admission,
    vault::{Found, LOGIN, TokenDenied},
};

/// Letters of a resource that the server makes for an installation: 60 bits.
const RESOURCE: usize = 12;

/// What is known of an account when somebody begins to prove that it is theirs.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(crate) epoch: u64,
    pub(crate) jid: Jid,
    /// None: there is no such account; nobody can prove the keys that were handed out for it.
    pub(crate) standing: Option<Standing>,
    /// Its login is not for the history.
    nolog: bool,
    /// What the client says it is.
    agent: Option<Arc<Agent>>,
}

impl Candidate {
    /// Of an account, by a token that is good.
    pub(crate) fn with_token(epoch: u64, jid: Jid, account: Arc<Account>, found: Found) -> Self {
        let standing = Standing { account, stamp: found.grant.stamp, found: Some(found) };
        Self { epoch, jid, standing: Some(standing), nolog: false, agent: None }
    }

    /// Whose account it is about.
    #[must_use]
    pub fn jid(&self) -> &Jid {
        &self.jid
    }

    /// With what the client says it is.
    #[must_use]
    pub fn said_by(self, agent: Option<Arc<Agent>>) -> Self {
        Self { agent, ..self }
    }

    /// A login of the server's own making, which leaves nothing in the history.
    #[must_use]
    pub fn nolog(self) -> Self {
        Self { nolog: true, ..self }
    }
}

/// An account as it was read, and what else counts for it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) account: Arc<Account>,
    /// The epochs that a session noted from now on is from: its token's, or those in force.
    stamp: Stamp,
    /// The token that was shown, with what it hangs on.
    pub(crate) found: Option<Found>,
}

pub(crate) fn said(failure: SaslFailure, text: &str) -> Denied {
    Denied { text: Some(text.into()), ..failure.into() }
}

/// The same for accounts that are there and for others.
fn throttled() -> Denied {
    let text = "Too many failed logins from your address; wait some minutes";
    said(SaslFailure::TemporaryAuthFailure, text)
}

fn dormant() -> Denied {
    let text = "This account was not used for too long; ask an administrator to enable it";
    said(SaslFailure::AccountDisabled, text)
}

pub(crate) fn disabled() -> Denied {
    said(SaslFailure::AccountDisabled, "This account is disabled")
}

pub(crate) fn store_failed(error: &StoreError) -> Denied {
    tracing::error!(event = "login-storage-failed", %error);
    said(SaslFailure::TemporaryAuthFailure, "The server cannot check this now; try again")
}

/// Told only to those who have the right secret.
pub(crate) fn over(tombstone: &Tombstone) -> Denied {
    let app = Some(end::element(tombstone.why.as_str(), tombstone.kind.as_str()));
    let text = tombstone.text.as_deref().unwrap_or(tombstone.why.text());
    Denied { app, ..said(SaslFailure::CredentialsExpired, text) }
}

/// Told only to those who have proved who they are.
pub(crate) fn refused(refused: Refused) -> Denied {
    let (failure, reason) = match refused {
        Refused::Blocked(_) => (SaslFailure::NotAuthorized, Reason::Blocked),
        Refused::Held(_) => (SaslFailure::TemporaryAuthFailure, Reason::HeldOff),
    };
    let app = Some(end::element(reason.as_str(), "admin"));
    Denied { app, ..said(failure, &refused.to_string()) }
}

impl Server {
    /// Takes in a new connection.
    ///
    /// # Errors
    /// The stream error to turn it away with: the server is stopping, its address has as many
    /// connections as it may, or the server has and all of them have logged in.
    pub fn connect(self: &Arc<Self>, peer: SocketAddr) -> Result<Arc<Session>, StreamError> {
        if self.stopping() {
            return Err(self.stop.farewell());
        }
        let cap = cap(self.config.limits.per_address);
        let mut drawn = 0;
        let (session, admission) = loop {
            let id = self.session_ids.draw();
            let session = Arc::new(Session::new(id, peer, self.clock.now()));
            let admission = self.unauthed.admit(&session, &self.registry, cap);
            if !matches!(admission, Admission::Duplicate) || !self.draws_again(&session, drawn) {
                break (session, admission);
            }
            drawn += 1;
        };
        let shed = match admission {
            Admission::Admitted { shed } => shed,
            Admission::Duplicate => {
                let text = "The server has no name for this session; try again";
                let error = StreamError::new(StreamCondition::InternalServerError);
                return Err(error.with_text(text));
            }
            Admission::Crowded => {
                tracing::info!(event = "server-full", address = %session.address());
                let text = "The server has as many connections as it may";
                return Err(StreamError::new(StreamCondition::ResourceConstraint).with_text(text));
            }
            Admission::AddressFull => return Err(self.address_full(&session)),
        };
        if let Some(shed) = shed {
            self.see_off(&shed, End::new(Reason::Shed));
        }
        self.rearm(&session);
        self.events.publish(&session, Change::Connected);
        Ok(session)
    }

    fn address_full(&self, session: &Session) -> StreamError {
        tracing::info!(event = "address-cap", address = %session.address());
        let text = "Too many connections from your address";
        StreamError::new(StreamCondition::PolicyViolation).with_text(text)
    }

    /// The SCRAM keys of an account; made-up ones, always the same, if there is none, so that nobody
    /// can tell.
    ///
    /// # Errors
    /// [`Denied`] when storage fails.
    pub async fn scram_keys(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        hash: Hash,
    ) -> Result<(ScramKeys, Candidate), Denied> {
        let mechanism = match hash {
            Hash::Sha1 => Mechanism::ScramSha1,
            Hash::Sha256 => Mechanism::ScramSha256,
        };
        session.set_attempt(Some(mechanism), false);
        self.not_throttled(session, user)?;
        self.find_keys(user, hash).await
    }

    /// Refuses a login where too many have failed, before any secret is looked at.
    pub(crate) fn not_throttled(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
    ) -> Result<(), Denied> {
        if !self.throttle.refuses(user, session.address(), self.clock.now()) {
            return Ok(());
        }
        let (mechanism, _) = session.attempt();
        self.refused(session, user, mechanism, "throttled");
        session.set_attempt(None, true);
        tracing::info!(event = "login-throttled", address = %session.address(), jid = user.as_str());
        Err(throttled())
    }

    async fn find_keys(&self, user: &Jid, hash: Hash) -> Result<(ScramKeys, Candidate), Denied> {
        self.login_begins(user);
        let epoch = self.accounts_epoch.load(Ordering::SeqCst);
        let account = self.account_at_login(user.as_str()).await;
        let account = account.map_err(|error| store_failed(&error))?;
        // Made for everybody, so that it takes the same time for everybody.
        let decoy = ScramKeys::decoy(
            hash,
            &self.keys.decoy_seed(),
            user,
            self.config.auth.scram_iterations,
        );
        let keys = account.as_ref().and_then(|account| account.keys(hash)).unwrap_or(decoy);
        let standing = match account {
            None => None,
            Some(account) => {
                let epochs = self.epochs_of(&account).await;
                let stamp = epochs.map_err(|error| store_failed(&error))?.stamp();
                Some(Standing { account, stamp, found: None })
            }
        };
        Ok((keys, Candidate { epoch, jid: user.clone(), standing, nolog: false, agent: None }))
    }

    /// Checks a password, or a token that a client without OAUTHBEARER sends in its place.
    ///
    /// # Errors
    /// [`Denied`]; the same for a wrong password and an unknown account.
    pub async fn check_password(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        password: Secret,
    ) -> Result<Candidate, Denied> {
        session.set_attempt(Some(Mechanism::Plain), false);
        if password.expose().starts_with(b"secret-token:") {
            return self.check_any_token(session, Some(user), password).await;
        }
        self.not_throttled(session, user)?;
        let (keys, candidate) = self.find_keys(user, Hash::Sha256).await?;
        let right = self.hashing.run(move || {
            let text = std::str::from_utf8(password.expose());
            text.is_ok_and(|text| wire::verify_password(Hash::Sha256, &keys, text))
        });
        let right = right.await;
        // Of many that were tried side by side, those beyond the limit learn nothing, right or wrong.
        self.not_throttled(session, user)?;
        match right {
            Some(true) if candidate.standing.is_some() => Ok(candidate),
            Some(_) => Err(SaslFailure::NotAuthorized.into()),
            None => Err(SaslFailure::TemporaryAuthFailure.into()),
        }
    }

    /// Checks a token; `user`, if named, has to be its owner.
    ///
    /// # Errors
    /// [`Denied`]; the reason only for those who have the right secret.
    pub async fn check_token(
        self: &Arc<Self>,
        session: &Session,
        user: Option<&Jid>,
        token: Secret,
    ) -> Result<Candidate, Denied> {
        session.set_attempt(Some(Mechanism::OauthBearer), false);
        self.check_any_token(session, user, token).await
    }

    async fn check_any_token(
        self: &Arc<Self>,
        session: &Session,
        user: Option<&Jid>,
        token: Secret,
    ) -> Result<Candidate, Denied> {
        let token =
            std::str::from_utf8(token.expose()).ok().and_then(|text| Token::parse(text).ok());
        let token = token.ok_or(SaslFailure::NotAuthorized)?;
        let owner = token.owner.clone();
        self.not_throttled(session, &owner)?;
        let checked = self.verify_login(user, token).await;
        if let Err(denied) = &checked {
            // The peer need not wait for the failure: noted here and now, and by the token's owner.
            self.login_refused(session, Some(&owner), denied.failure);
            session.set_attempt(None, true);
        }
        checked
    }

    async fn verify_login(
        self: &Arc<Self>,
        user: Option<&Jid>,
        token: Token,
    ) -> Result<Candidate, Denied> {
        let unknown = || Denied::from(SaslFailure::NotAuthorized);
        let epoch = self.accounts_epoch.load(Ordering::SeqCst);
        if user.is_some_and(|user| *user != token.owner) || !self.is_local(token.owner.domain()) {
            return Err(unknown());
        }
        let (found, account, _) =
            self.verify_token(&token, Some(LOGIN)).await.map_err(|why| match why {
                TokenDenied::Blocked(until) => refused(Refused::Blocked(until)),
                TokenDenied::Unknown => unknown(),
                TokenDenied::Disabled => disabled(),
                TokenDenied::Over(tombstone) => over(&tombstone),
                TokenDenied::Purpose => {
                    said(SaslFailure::NotAuthorized, "This token is not for logging in")
                }
                TokenDenied::Store(error) => store_failed(&error),
            })?;
        Ok(Candidate::with_token(epoch, token.owner, account, found))
    }

    /// The admission gate: enters a session whose peer has proved who it is.
    ///
    /// # Errors
    /// [`Denied`]: the account is disabled, has as many sessions as it may, or has changed.
    pub async fn enter(
        self: &Arc<Self>,
        session: &Arc<Session>,
        candidate: Candidate,
        mechanism: Mechanism,
        binding: Option<&'static str>,
    ) -> Result<Jid, Denied> {
        let Candidate { epoch, jid, standing, nolog, agent } = candidate;
        let standing = standing.ok_or(SaslFailure::NotAuthorized)?;
        let now = self.clock.now();
        self.admissible(session, &jid, &standing, mechanism).await?;
        // Those that are over but not swept yet take up no room.
        self.sweep_account(jid.as_str());
        let cap = cap(self.config.limits.per_account);
        if let Some(software) = agent.as_ref().and_then(|agent| agent.software.as_deref()) {
            session.set_software(software);
        }
        let identity = self.identity(&jid, &standing, (mechanism, binding), agent, now);
        match self.registry.login(session, identity, cap) {
            Login::Entered => self.rearm(session),
            Login::Ended => return Err(SaslFailure::TemporaryAuthFailure.into()),
            Login::TooMany => {
                let text = "This account has too many sessions that have bound no resource";
                return Err(said(SaslFailure::TemporaryAuthFailure, text));
            }
        }
        if self.accounts_epoch.load(Ordering::SeqCst) != epoch
            && !self.still_stands(&jid, &standing).await
        {
            self.end(session, End::new(Reason::PasswordChanged));
            return Err(SaslFailure::TemporaryAuthFailure.into());
        }
        self.unauthed.left(session);
        self.throttle.succeeded(&jid, session.address());
        if let Some(found) = &standing.found {
            if found.client.frozen.is_some() {
                self.registry.set_frozen(session, true);
            }
            self.note_use(found, Some((session.address(), mechanism)));
        }
        session.touch(now);
        self.metrics.logged_in(mechanism);
        self.note_login(session, nolog);
        self.events.publish(session, Change::LoggedIn);
        tracing::info!(
            event = "logged-in",
            session = %session.id,
            jid = jid.as_str(),
            mechanism = mechanism.as_str(),
            address = %session.address(),
        );
        Ok(jid)
    }

    /// Refuses whoever may not come in, by whichever door, though it has proved who it is.
    pub(crate) async fn admissible(
        self: &Arc<Self>,
        session: &Session,
        jid: &Jid,
        standing: &Standing,
        mechanism: Mechanism,
    ) -> Result<(), Denied> {
        let now = self.clock.now();
        if self.throttle.refuses(jid, session.address(), now) {
            // Since it was asked for its proof, others like it have failed too often. A wrong proof is
            // told so by the state machine; a right one must not be told apart from it.
            return Err(match mechanism.hash() {
                Some(_) => SaslFailure::NotAuthorized.into(),
                None => throttled(),
            });
        }
        let account = &standing.account;
        if account.disabled {
            return Err(disabled());
        }
        if let Some(until) = account.held(now) {
            return Err(refused(Refused::Held(until)));
        }
        let dormant_by_now = self.is_dormant(account.id, account.created, jid.as_str()).await;
        if dormant_by_now.map_err(|error| store_failed(&error))? {
            self.refused(session, jid, Some(mechanism), "dormant");
            session.set_attempt(None, true);
            return Err(dormant());
        }
        if self.stopping() {
            return Err(SaslFailure::TemporaryAuthFailure.into());
        }
        if let Some(found) = &standing.found {
            self.may_come(session, &found.client)?;
        }
        Ok(())
    }

    /// Whether a client may come at all, and from where this session does.
    pub(crate) fn may_come(&self, session: &Session, client: &Client) -> Result<(), Denied> {
        if let Some(why) = client.refused(self.clock.now()) {
            return Err(refused(why));
        }
        if self.is_elsewhere(session.address(), client) {
            return Err(SaslFailure::NotAuthorized.into());
        }
        Ok(())
    }

    /// Whether a client comes from outside of the network that it is bound to; that is noted.
    pub(crate) fn is_elsewhere(&self, address: IpAddr, client: &Client) -> bool {
        let elsewhere = client.bound_to.is_some_and(|network| !network.contains(&address));
        if elsewhere {
            tracing::warn!(
                event = "client-elsewhere",
                jid = client.jid,
                client = %client.id,
                %address,
            );
        }
        elsewhere
    }

    pub(crate) fn identity(
        &self,
        jid: &Jid,
        standing: &Standing,
        (mechanism, binding): (Mechanism, Option<&'static str>),
        agent: Option<Arc<Agent>>,
        now: Millis,
    ) -> Identity {
        let Standing { account, stamp, found } = standing;
        let policy = self.shared_policy(account);
        let most =
            found.as_ref().map_or(Role::Admin, |found| found.token.role.min(found.grant.role));
        let expires = found.as_ref().and_then(|found| {
            // As it is once this visit is noted.
            let mut client = found.client.clone();
            client.was_seen(now, None, &self.config.clients);
            client.stays_until(Some(found.token.id), &policy)
        });
        let client = OnceLock::new();
        if let Some(found) = found {
            let _ = client.set(found.client.handle());
        }
        Identity {
            account: account.id,
            jid: jid.clone(),
            mechanism,
            binding,
            client,
            grant: found.as_ref().map(|found| found.grant.id),
            token: found.as_ref().map(|found| found.token.id),
            generation: account.generation,
            passwords: account.passwords,
            stamp: *stamp,
            live: Mutex::new(Live { policy, most, role: account.role.min(most), expires }),
            inactive: found.as_ref().and_then(|found| found.token.inactive),
            use_noted: AtomicU64::new(now.0),
            resource: found.as_ref().and_then(|found| found.token.resource.clone()),
            since: now,
            proved: now,
            agent,
            noted: OnceLock::new(),
        }
    }

    /// Whether an account, and the token in use, are still as they were when they were read. Fails
    /// closed.
    pub(crate) async fn still_stands(&self, jid: &Jid, standing: &Standing) -> bool {
        let Ok(Some(account)) = self.account(jid.as_str()).await else { return false };
        let before = &standing.account;
        let same = account.id == before.id
            && account.generation == before.generation
            && !account.disabled
            && account.hold == before.hold
            && account.role >= before.role;
        let Ok(epochs) = self.epochs_of(&account).await else { return false };
        if !same || !epochs.accepts(standing.stamp) {
            return false;
        }
        let Some(found) = &standing.found else { return true };
        let policy = self.policy_of(&account);
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        let Ok(Some(client)) = self.client(account.id, found.client.sid).await else {
            return false;
        };
        client.refused(check.now).is_none()
            && client.token(found.token.id).is_some_and(|(grant, token)| {
                client.token_over(grant, token, &account, &check).is_none()
            })
    }

    /// Gives a session the full JID that it wants, and turns on what is wanted with it.
    ///
    /// # Errors
    /// The stanza error to answer the bind request with, or what has to be done first.
    pub async fn bind_wanted(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wanted: Wanted,
    ) -> Result<Bound, NotBound> {
        let (resource, request) = match wanted {
            Wanted::Resource(resource) => (resource, None),
            Wanted::Tag(tag, request) => {
                let me = session.identity();
                (me.and_then(|me| self.tagged(&me, tag.as_deref())), Some(request))
            }
        };
        let bound = self.bind(session, resource.as_deref()).await;
        let jid = bound.map_err(|refused| match request {
            Some(_) => self.choice(session, refused),
            None => NotBound::Refused(refused),
        })?;
        let features = request.map_or_else(Bytes::new, |request| {
            let moment = Moment { server: self.clone(), session: session.clone() };
            self.registrations.enable_inline(&moment, &request)
        });
        Ok(Bound { jid, features })
    }

    /// A resource with a name that the software gives itself in it (XEP-0386 section 3.2.1): the same
    /// for every visit of one installation. None: any.
    fn tagged(&self, identity: &Identity, tag: Option<&str>) -> Option<String> {
        let usable = |tag: &&str| identity.jid.with_resource(&format!("{tag}/")).is_ok();
        let tag = tag.filter(usable);
        let own = identity.agent_id().map(|id| {
            let account = identity.account.0.to_be_bytes();
            let input = [&account[..], id.as_bytes(), &[0], tag.unwrap_or_default().as_bytes()];
            let bytes = self.keys.derive("resource", &input.concat());
            data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        });
        let own = own.or_else(|| tag.map(|_| random::text()))?;
        let own = own.get(..RESOURCE).unwrap_or(&own);
        Some(tag.map_or_else(|| own.to_owned(), |tag| format!("{tag}/{own}")))
    }

    /// Gives a session a full JID: with this resource, or one of the server's making.
    ///
    /// # Errors
    /// The stanza error to answer the bind request with.
    pub async fn bind(
        self: &Arc<Self>,
        session: &Arc<Session>,
        resource: Option<&str>,
    ) -> Result<Jid, StanzaError> {
        let not_allowed = || StanzaError::new(Condition::NotAllowed);
        let identity = &*session.identity().ok_or_else(not_allowed)?;
        if let Some(resource) = resource
            && let Err(why) = identity.jid.with_resource(resource)
        {
            let text = format!("This resource cannot be used: {why}");
            return Err(StanzaError::new(Condition::BadRequest).with_text(text));
        }
        let epoch = self.accounts_epoch.load(Ordering::SeqCst);
        let pinned = identity.resource.as_deref();
        let resource = pinned.or(resource);
        let known = self.known_client(identity, resource).await;
        let mut known = known.map_err(|error| bind_failed(&error))?;
        if let Some(client) = &known
            && let Err(denied) = self.may_come(session, client)
        {
            let reason = match denied.failure {
                SaslFailure::TemporaryAuthFailure => Reason::HeldOff,
                _ => Reason::Blocked,
            };
            self.end(session, End { text: denied.text, ..End::new(reason) });
            return Err(not_allowed());
        }
        let moment = Moment { server: self.clone(), session: session.clone() };
        if let Flow::Reject(error) = self.hooks.binding.run(&moment).decided().await {
            return Err(error);
        }
        let conflict = match self.config.sessions.conflict {
            // A token that pins a resource opens no other.
            Conflict::Rename if pinned.is_some() => Conflict::Refuse,
            policy => policy,
        };
        let policy = identity.policy();
        let room = Room {
            cap: cap(self.config.limits.per_account),
            max: cap(policy.max_sessions),
            at_limit: policy.at_limit,
        };
        // XEP-0386: an earlier session of the same installation makes way.
        let client = identity.client().or(known.as_ref().map(Client::handle));
        let same = client.filter(|_| identity.agent_id().is_some());
        match self.registry.bind(session, resource, conflict, room, same, random::text) {
            Bind::Bound { jid, evicted } => {
                // The older ones are seen off before the newer one hears that it is bound, so that
                // contacts see them leave before they can see the newer one come.
                for (evicted, reason) in evicted {
                    self.see_off(&evicted, End::new(reason));
                    let was = evicted.identity().and_then(|was| was.client());
                    if let Some(known) =
                        known.as_mut().filter(|known| was.is_some_and(|was| was.is(known)))
                    {
                        // It was here until now, which is written only once it is settled.
                        known.seen = known.seen.max(Some(evicted.last_activity()));
                    }
                }
                // What sessions that are on their way out have left is elsewhere before this one can
                // take messages: some would else be kept for it, and later ones be handed to it first.
                for gone in self.registry.leaving(identity.jid.as_str()) {
                    self.rerouted(&gone).await;
                }
                if let Err(error) = self.enrol(session, identity, known, &jid, epoch).await {
                    self.end(session, End::new(Reason::Internal));
                    return Err(bind_failed(&error));
                }
                self.rearm(session);
                self.events.publish(session, Change::Bound);
                tracing::info!(event = "bound", session = %session.id, jid = jid.as_str());
                Ok(jid)
            }
            Bind::Taken => Err(StanzaError::new(Condition::Conflict)
                .with_text("Another session of this account has this resource")),
            Bind::TooMany => Err(StanzaError::new(Condition::ResourceConstraint)
                .with_text("This account has as many sessions as it may")),
            Bind::Impossible => Err(not_allowed()),
        }
    }

    /// Who a session is a visit of, if it was here before and brings no token that says so: by the
    /// installation that it says it is, else by the resource that it asks for.
    async fn known_client(
        &self,
        identity: &Identity,
        resource: Option<&str>,
    ) -> Result<Option<Client>, StoreError> {
        if identity.client().is_some() {
            return Ok(None);
        }
        if let Some(id) = identity.agent_id() {
            return self.client_of_agent(identity.account.0, id).await;
        }
        let Some(resource) = resource else { return Ok(None) };
        let prepared = identity.jid.with_resource(resource).ok();
        let prepared = prepared.as_ref().and_then(Jid::resource).unwrap_or(resource);
        self.client_of_resource(identity.account, prepared).await
    }
}

fn bind_failed(error: &StoreError) -> StanzaError {
    tracing::error!(event = "bind-storage-failed", %error);
    StanzaError::new(Condition::InternalServerError)
        .with_text("The server cannot bind a resource now; try again")
}

/// A cap from the configuration; 0, none, stays 0.
fn cap(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
