//! Visits of clients: whose visit a bound session is, and what is noted of it when it comes and when
//! it goes.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use wire::{Agent, Jid, Mechanism};

use crate::{
    Server, Session,
    account::Role,
    client::{self, Client, Key, Owner, Refused, Tombstone},
    clock::Millis,
    end::{Actor, End, Reason},
    policy::NewClients,
    session::Identity,
    store::StoreError,
};

impl Server {
    /// Notes whose visit a bound session is; a client that was never seen before is made. Looks again
    /// if something has changed since `epoch`, so that nobody who was ended meanwhile stays.
    pub(crate) async fn enrol(
        self: &Arc<Self>,
        session: &Arc<Session>,
        identity: &Identity,
        known: Option<Client>,
        jid: &Jid,
        epoch: u64,
    ) -> Result<(), StoreError> {
        let resource = jid.resource().unwrap_or_default();
        if identity.client().is_none() {
            let key = match identity.agent_id() {
                Some(id) => Key::Agent(id.to_owned()),
                None => Key::Resource(resource.to_owned()),
            };
            let client = self.client_here(identity, key, known, session.address()).await?;
            if client.frozen.is_some() {
                self.registry.set_frozen(session, true);
            }
            self.bound_by_client(identity, &client);
            let _ = identity.client.set(client.handle());
        }
        // Before the epoch is looked at, everybody can see whose visit this is.
        fence(Ordering::SeqCst);
        if self.accounts_epoch.load(Ordering::SeqCst) != epoch
            && let Some(client) = identity.client()
        {
            let client = self.client(identity.account, client.sid).await?;
            let refused = client.as_ref().and_then(|client| client.refused(self.clock.now()));
            match client.filter(|client| client.over.is_none() && refused.is_none()) {
                Some(client) => {
                    self.registry.set_frozen(session, client.frozen.is_some());
                    self.bound_by_client(identity, &client);
                }
                None => {
                    let reason = match refused {
                        Some(Refused::Blocked(_)) => Reason::Blocked,
                        Some(Refused::Held(_)) => Reason::HeldOff,
                        None => Reason::Revoked,
                    };
                    self.end(session, End::new(reason));
                }
            }
        }
        Ok(())
    }

    /// The client that somebody is who has come from here: the known one if it is still that, or a new
    /// one. That it is here is noted.
    pub(crate) async fn client_here(
        self: &Arc<Self>,
        identity: &Identity,
        key: Key,
        known: Option<Client>,
        address: IpAddr,
    ) -> Result<Client, StoreError> {
        let (now, policy) = (self.clock.now(), identity.policy());
        // A renamed one is not who it wanted to be.
        let fits = |client: &Client| client.over.is_none() && client.key == key;
        let mut known = known.filter(fits);
        // The password lets the account in again, but not what is over with its tokens.
        let lapsed = |client: &Client| Some((client.clone(), client.lapsed(&policy, now)?));
        if let Some((client, why)) = known.as_ref().and_then(lapsed) {
            self.bury_client(&client, &Tombstone::new(now, why, &Actor::Server, None)).await?;
            known = None;
        }
        let from = Some((address, identity.mechanism));
        let mut client = match known {
            Some(client) => {
                let client = self.note_password(client, identity).await?;
                self.note_visit(&client, now, from, identity.agent.clone());
                client
            }
            None => self.new_client(identity, key, now, from).await?,
        };
        client.was_seen(now, from, &self.config.clients);
        Ok(client)
    }

    /// Bounds a session by what its client may: how long, and how much until it is confirmed.
    pub(crate) fn bound_by_client(&self, identity: &Identity, client: &Client) {
        let waits = client.waits(&self.config.clients, self.clock.now());
        let mut live = identity.live.lock();
        live.expires = client.stays_until(identity.token, &live.policy);
        if waits && identity.token.is_none() {
            live.most = live.most.min(Role::Restricted);
            live.role = live.role.min(live.most);
        }
    }

    /// Writes that a client has logged in with the password, unless that is known; durably, for by this
    /// its owner can tell what keeps it out.
    pub(crate) async fn note_password(
        &self,
        client: Client,
        identity: &Identity,
    ) -> Result<Client, StoreError> {
        let shown = Some(identity.passwords);
        if client.password == shown {
            return Ok(client);
        }
        let change = |client: &mut Client| {
            client.password = client.password.max(shown);
            true
        };
        let noted = self.change_client(client.account, client.sid, change).await?;
        Ok(noted.unwrap_or(client))
    }

    /// Writes that a client is here, if what is stored is old enough or says something else.
    fn note_visit(
        &self,
        client: &Client,
        now: Millis,
        from: Option<(IpAddr, Mechanism)>,
        agent: Option<Arc<Agent>>,
    ) {
        let granule = self.config.clients.last_use.get().unwrap_or(0);
        let fresh = client.seen.is_some_and(|seen| now.seconds_since(seen) < granule);
        let moved = from.is_some_and(|from| !client.has_come(from));
        let agent = agent.filter(|agent| client.clone().says(Some(agent)));
        if fresh && !moved && agent.is_none() {
            return;
        }
        let clients = self.config.clients.clone();
        self.note_client(client.account, client.sid, move |client| {
            client.says(agent.as_deref());
            client.was_seen(now, from, &clients);
            true
        });
    }

    async fn new_client(
        self: &Arc<Self>,
        identity: &Identity,
        key: Key,
        now: Millis,
        from: Option<(IpAddr, Mechanism)>,
    ) -> Result<Client, StoreError> {
        let whose = Owner {
            account: identity.account,
            jid: identity.jid.as_str(),
            generation: identity.generation,
            stamp: identity.stamp,
        };
        // The first one needs nobody to confirm it; afterwards there is somebody.
        let confirm = identity.policy().new_clients == NewClients::Confirm;
        let unconfirmed = confirm && {
            let others = self.clients_of(identity.account, None, 0).await?;
            others.iter().any(|client| client.over.is_none() && !client.unconfirmed)
        };
        let make = |sid| {
            let mut client = Client::new(&whose, sid, key.clone(), now, "login");
            client.says(identity.agent.as_deref());
            client.was_seen(now, from, &self.config.clients);
            client.password = Some(identity.passwords);
            client.unconfirmed = unconfirmed;
            client
        };
        let client = self.add_client(identity.account, make).await?;
        tracing::info!(
            event = "new-client",
            jid = client.jid,
            client = %client.id,
            sid = client.sid,
            unconfirmed,
        );
        // Whoever comes pays for the room: old tombstones and forgotten clients go now and then.
        if client.sid.is_multiple_of(16) {
            let (server, account) = (self.clone(), identity.account);
            let here: Vec<u64> = self
                .registry
                .of(identity.jid.as_str())
                .iter()
                .filter_map(|session| Some(session.identity()?.client()?.sid))
                .chain([client.sid])
                .collect();
            self.spawn(async move {
                if let Err(error) = server.tidy_clients(account, &here).await {
                    tracing::warn!(event = "clients-not-tidied", %error);
                }
            });
        }
        Ok(client)
    }

    /// The client that a session is a visit of; one that has bound nothing yet is noted as one now.
    pub(crate) async fn client_of_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        identity: &Identity,
    ) -> Result<Option<Client>, StoreError> {
        if let Some(known) = identity.client() {
            return self.client(identity.account, known.sid).await;
        }
        let Some(id) = identity.agent_id() else { return Ok(None) };
        let epoch = self.accounts_epoch.load(Ordering::SeqCst);
        let known = self.client_of_agent(identity.account.0, id).await?;
        if known.as_ref().is_some_and(|client| self.may_come(session, client).is_err()) {
            return Ok(None);
        }
        self.enrol(session, identity, known, &identity.jid, epoch).await?;
        match identity.client() {
            Some(client) => self.client(identity.account, client.sid).await,
            None => Ok(None),
        }
    }

    /// What is known of a session's client once it is over: when it was last there, and what it said
    /// it is.
    pub(crate) fn note_leaving(&self, session: &Session) {
        let Some(identity) = session.identity() else { return };
        let Some(client) = identity.client() else { return };
        let (seen, software) = (session.last_activity(), session.software());
        let granule = self.config.clients.last_use.get().unwrap_or(0);
        if let Some(known) = self.known_clients.get(identity.account.0, client.sid)
            && known.seen.is_some_and(|last| seen.seconds_since(last) < granule)
            && software.as_deref().is_none_or(|told| known.software.as_deref() == Some(told))
        {
            return;
        }
        let clients = self.config.clients.clone();
        self.note_client(identity.account, client.sid, move |client| {
            let fresh = client.seen.is_some_and(|last| seen.seconds_since(last) < granule);
            let told = software.as_deref().filter(|told| client.software.as_deref() != Some(told));
            if let Some(told) = told {
                client.software = Some(told.chars().take(client::TEXT).collect());
            }
            if !fresh {
                client.was_seen(seen, None, &clients);
            }
            told.is_some() || !fresh
        });
    }
}

impl Identity {
    /// Which installation of its software it says it is.
    pub(crate) fn agent_id(&self) -> Option<&str> {
        self.agent.as_ref()?.id.as_deref()
    }
}

impl Client {
    /// Notes what it says it is. Whether that is news.
    fn says(&mut self, agent: Option<&Agent>) -> bool {
        let Some(agent) = agent else { return false };
        let mut news = false;
        for (known, told) in
            [(&mut self.software, &agent.software), (&mut self.device, &agent.device)]
        {
            let told = told.as_ref().map(|told| told.chars().take(client::TEXT).collect());
            if told.is_some() && *known != told {
                *known = told;
                news = true;
            }
        }
        news
    }
}
