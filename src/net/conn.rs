//! The one future per connection, polled by hand so that an idle one holds nothing but itself: bytes
//! are read into a buffer that all connections of a thread share and scanned there; only the tail of
//! an unfinished stanza is kept. One question to the server may be open at a time; while it is,
//! nothing is read, which keeps the order of stanzas and pushes back on the peer.
//!
//! A session may outlive its connection (XEP-0198): when the connection breaks it hibernates, and when
//! another connection goes on with it, this one is displaced. In both cases the session is no longer
//! this connection's to settle.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use server::{
    Server, Session,
    config::Phase,
    end::{End, Reason},
    hooks::{Flow, Moment},
    login::Candidate,
    mailbox::{Holder, Take},
    random,
    resumption::{Continued, Lease},
    session::Flags,
    task::NotBound,
    words::translate,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use wire::{
    Event, Frame, Jid, Limits, Scanner, StreamError,
    stream::{Effect, Effects, Input, Settings, Stream, TlsUp, sm},
};

use crate::{outbox::Outbox, pace::Pace, tls::Tls, transport::Transport};

/// Size of the read buffer of a thread: one TLS record.
const SCRATCH: usize = 16 * 1024;
/// Bytes that may wait in the outbox before no more mail is collected and the peer is not read.
const OUTBOX: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) server: Arc<Server>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) tls: Arc<Tls>,
}

/// An answer of the server.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one call")]
enum Answer {
    /// The stanza is where it belongs.
    Routed,
    /// For the stream's state machine, with what to remember until the login is entered.
    Step(Input, Option<Candidate>),
    /// An earlier session goes on here.
    Continue(Continued),
}

/// How a connection ended.
pub(crate) enum Fate {
    /// With its session, which is to be settled.
    Over,
    /// Without it: it waits for another connection, or has one.
    Parted,
}

type Waiting = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One connection.
pub(crate) struct Conn {
    shared: Arc<Shared>,
    session: Arc<Session>,
    transport: Transport,
    scanner: Scanner,
    stream: Stream,
    outbox: Outbox,
    waiting: Option<Waiting>,
    /// Read, but behind a stanza that is still being waited for.
    unread: Vec<u8>,
    candidate: Option<Box<Candidate>>,
    /// The right to the session, once its stream is managed.
    lease: Option<Lease>,
    /// What became of it.
    bond: Bond,
    pace: Pace,
    /// Bytes per second that the present phase allows.
    rate: u32,
    /// The peer was told to go on with TLS; the handshake starts when that has left.
    upgrade: bool,
    closing: Option<Box<Closing>>,
}

/// The last moments of a connection.
struct Closing {
    /// When it is cut, whatever the peer does.
    deadline: Pin<Box<Sleep>>,
    /// The peer has closed first: nothing to wait for once our last bytes have left.
    at_once: bool,
    /// Our side is shut.
    shut: bool,
    /// The peer's side is.
    peer_shut: bool,
}

/// Whether a connection still has its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bond {
    /// It has, and settles it.
    Held,
    /// The connection broke, and the session may wait for another one.
    Lost,
    /// Another connection has it, or the server has written it down.
    Displaced,
    /// There is nothing left to do about it.
    Parted,
}

/// Serves a connection until it is over and its session is settled.
pub(crate) async fn serve(mut conn: Conn) {
    if let Fate::Parted = (&mut conn).await {
        conn.bond = Bond::Parted;
        return;
    }
    let (server, session) = (conn.shared.server.clone(), conn.session.clone());
    conn.bond = Bond::Parted;
    drop(conn);
    let mut settle = Settle { server, session: Some(session.clone()) };
    // Boxed: it would otherwise be part of every connection's task for all its life.
    let server = settle.server.clone();
    Box::pin(async move { server.settle(&session).await }).await;
    settle.session = None;
}

/// Sees a session to its end even if its connection's task panics: that ends one session only.
struct Settle {
    server: Arc<Server>,
    session: Option<Arc<Session>>,
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let server = self.server.clone();
            self.server.spawn(async move {
                server.end(&session, End::new(Reason::Internal));
                server.settle(&session).await;
            });
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if matches!(self.bond, Bond::Held | Bond::Lost) {
            let session = Some(self.session.clone());
            drop(Settle { server: self.shared.server.clone(), session });
        }
    }
}

impl Conn {
    /// A connection that starts in the clear, or with a TLS handshake if `direct`, unless a proxy
    /// has seen to that: `proxied`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        session: Arc<Session>,
        tcp: tokio::net::TcpStream,
        direct: bool,
        proxied: Option<TlsUp>,
    ) -> Self {
        let mut transport = Transport::Tcp(tcp);
        if direct && proxied.is_none() {
            transport.encrypt(shared.tls.served(), true);
        }
        let phase = &shared.server.config.limits.unauthed;
        Self {
            scanner: Scanner::new(limits(phase)),
            stream: Stream::new(shared.settings.clone(), proxied),
            rate: phase.bytes_per_second,
            shared,
            session,
            transport,
            outbox: Outbox::default(),
            waiting: None,
            unread: Vec::new(),
            candidate: None,
            lease: None,
            bond: Bond::Held,
            pace: Pace::default(),
            upgrade: false,
            closing: None,
        }
    }

    /// The connection broke; nobody is there to be told.
    fn lost(&mut self) {
        self.transport = Transport::None;
        if self.bond != Bond::Held {
            return;
        }
        if self.session.is_resumable() && self.session.alive() {
            // Once the stanza that it is at is seen through.
            self.bond = Bond::Lost;
        } else {
            self.shared.server.end(&self.session, End::peer(Reason::Lost));
        }
    }

    /// Which connection of its session this is.
    fn holder(&self) -> Holder {
        self.lease.as_ref().map_or_else(Holder::default, |lease| lease.holder)
    }

    fn step(&mut self, input: Input) {
        let effects = self.stream.step(input, &mut random::text);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        for effect in effects {
            let server = &self.shared.server;
            match effect {
                Effect::Send(bytes) => self.outbox.push(bytes),
                Effect::StartTls => self.upgrade = true,
                Effect::Restart => self.scanner.restart(),
                Effect::Stanza(frame) => {
                    if self.lease.is_some() && !self.session.mailbox.receive(self.holder()) {
                        self.bond = Bond::Displaced;
                        return;
                    }
                    let server = &self.shared.server;
                    self.session.traffic.rx_stanzas.fetch_add(1, Relaxed);
                    let flow = server.inbound(&self.session, self.stream.lang(), frame);
                    if let Flow::Later(future) = flow {
                        self.wait(async move {
                            future.await;
                            Answer::Routed
                        });
                    }
                }
                Effect::Nonza(frame) => self.nonza(&frame),
                Effect::Ack(h) => {
                    if server.acknowledged(&self.session, self.holder(), h) {
                        self.outbox.push(sm::ask());
                    }
                }
                Effect::Ask => {
                    if let Some(counts) = self.session.mailbox.counts() {
                        self.outbox.push(sm::ack(counts.handled));
                    }
                }
                Effect::Manage(enable) => {
                    let managed = server.manage(&self.session, enable).map(|(enabled, lease)| {
                        self.lease = Some(lease);
                        enabled
                    });
                    self.step(Input::Managed(managed));
                }
                Effect::Refused { user, failure } => {
                    tracing::info!(
                        event = "login-refused",
                        session = %self.session.id,
                        jid = user.as_ref().map(Jid::as_str),
                        condition = failure.as_str(),
                        address = %self.session.address(),
                    );
                    server.login_refused(&self.session, user.as_ref(), failure);
                }
                Effect::Fail(error) => {
                    server.end(&self.session, End::protocol(error));
                }
                Effect::Closed => {
                    server.end(&self.session, End::peer(Reason::Closed));
                }
                question => self.ask(question),
            }
        }
    }

    /// Passes a question of the state machine on to the server.
    fn ask(&mut self, question: Effect) {
        let (server, session) = (self.shared.server.clone(), self.session.clone());
        match question {
            Effect::FindKeys { user, hash } => self.wait(async move {
                match server.scram_keys(&session, &user, hash).await {
                    Ok((keys, candidate)) => Answer::Step(Input::Keys(Ok(keys)), Some(candidate)),
                    Err(denied) => Answer::Step(Input::Keys(Err(denied)), None),
                }
            }),
            Effect::CheckPassword { user, password } => self.wait(async move {
                match server.check_password(&session, &user, password).await {
                    Ok(candidate) => Answer::Step(Input::Checked(Ok(user)), Some(candidate)),
                    Err(denied) => Answer::Step(Input::Checked(Err(denied)), None),
                }
            }),
            Effect::CheckToken { user, token } => self.wait(async move {
                match server.check_token(&session, user.as_ref(), token).await {
                    Ok(candidate) => {
                        let owner = candidate.jid().clone();
                        Answer::Step(Input::Checked(Ok(owner)), Some(candidate))
                    }
                    Err(denied) => Answer::Step(Input::Checked(Err(denied)), None),
                }
            }),
            Effect::CheckHashed { user, proof, agent, fast } => self.wait(async move {
                match server.check_hashed(&session, &user, &proof, &agent, fast).await {
                    Ok((token, candidate)) => {
                        Answer::Step(Input::Hashed(Ok(token)), Some(candidate))
                    }
                    Err(denied) => Answer::Step(Input::Hashed(Err(denied)), None),
                }
            }),
            Effect::Enter { user, mechanism, binding, agent } => {
                let candidate = self.candidate.take().filter(|candidate| *candidate.jid() == user);
                self.wait(async move {
                    let entered = match candidate {
                        Some(candidate) => {
                            let candidate = candidate.said_by(agent);
                            server.enter(&session, candidate, mechanism, binding).await
                        }
                        None => Err(wire::SaslFailure::NotAuthorized.into()),
                    };
                    Answer::Step(Input::Entered(entered.map(|_| ())), None)
                });
            }
            Effect::Bind(wanted) => self.wait(async move {
                Answer::Step(
                    match server.bind_wanted(&session, wanted).await {
                        Ok(bound) => Input::Bound(Ok(bound)),
                        Err(NotBound::Refused(error)) => Input::Bound(Err(error)),
                        Err(NotBound::First(task)) => Input::Task(Some(task)),
                    },
                    None,
                )
            }),
            Effect::Upgrade(able) => self.wait(async move {
                Answer::Step(Input::Task(server.upgrade_task(&session, &able).await), None)
            }),
            Effect::Perform { task, data } => self.wait(async move {
                let performed = server.perform(&session, task, &data).await;
                Answer::Step(Input::Performed(performed), None)
            }),
            Effect::Resume(resume) => self.wait(async move {
                match server.resume(&session, &resume).await {
                    Ok(continued) => Answer::Continue(continued),
                    // Its stream error says it.
                    Err(_) if !session.alive() => Answer::Routed,
                    Err(failed) => Answer::Step(Input::Resumed(Err(failed)), None),
                }
            }),
            Effect::Grant { wanted, fast } => self.wait(async move {
                let granted = server.grant_fast(&session, wanted, fast).await;
                Answer::Step(Input::Granted(granted), None)
            }),
            // Carried out on the spot, above.
            Effect::Send(_)
            | Effect::StartTls
            | Effect::Restart
            | Effect::Stanza(_)
            | Effect::Nonza(_)
            | Effect::Ack(_)
            | Effect::Ask
            | Effect::Manage(_)
            | Effect::Refused { .. }
            | Effect::Fail(_)
            | Effect::Closed => {}
        }
    }

    /// Passes on an element that is no stanza and that a plugin understands.
    fn nonza(&mut self, frame: &Frame) {
        let server = &self.shared.server;
        let moment = Moment { server: server.clone(), session: self.session.clone() };
        let nonzas = server.registrations.nonzas.iter();
        for nonza in nonzas.filter(|n| n.namespace == frame.ns() && n.local == frame.local()) {
            nonza.call(&moment, &frame.root());
        }
    }

    fn wait(&mut self, answer: impl Future<Output = Answer> + Send + 'static) {
        debug_assert!(self.waiting.is_none(), "one question at a time");
        self.waiting = Some(Box::pin(answer));
    }

    /// Takes on the limits of a phase, whole.
    fn enter_phase(&mut self, phase: Phase) {
        self.scanner.set_limits(limits(&phase));
        self.rate = phase.bytes_per_second;
    }

    /// A refusal in the language of the stream, if there are words for it.
    fn in_its_language(&self, input: &mut Input) {
        let (Input::Keys(Err(denied))
        | Input::Checked(Err(denied))
        | Input::Hashed(Err(denied))
        | Input::Performed(Err(denied))
        | Input::Entered(Err(denied))) = input
        else {
            return;
        };
        if let Some(lang) = self.stream.lang()
            && let Some((text, lang)) = denied.text.as_deref().and_then(|t| translate(t, lang))
        {
            denied.text = Some(text.into());
            denied.lang = lang;
        }
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        let Poll::Ready(answer) = waiting.as_mut().poll(cx) else { return false };
        self.waiting = None;
        let input = match answer {
            Answer::Routed => return true,
            Answer::Step(mut input, candidate) => {
                self.in_its_language(&mut input);
                if candidate.is_some() {
                    self.candidate = candidate.map(Box::new);
                }
                input
            }
            Answer::Continue(Continued { session, lease, resumed }) => {
                // The one that was made for this connection has become part of the other.
                self.session = session;
                self.lease = Some(lease);
                Input::Resumed(Ok(resumed))
            }
        };
        let limits = &self.shared.server.config.limits;
        match &input {
            Input::Entered(Ok(())) => self.enter_phase(limits.unbound),
            Input::Bound(Ok(_)) | Input::Resumed(Ok(_)) => self.enter_phase(limits.bound),
            _ => {}
        }
        if self.closing.is_none() {
            self.step(input);
        }
        true
    }

    /// Starts the handshake once `<proceed/>` has left, and sees it through.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> bool {
        if self.upgrade && self.outbox.is_flushed() {
            self.upgrade = false;
            self.transport.encrypt(self.shared.tls.served(), false);
        }
        if !matches!(self.transport, Transport::Handshake(..)) {
            return false;
        }
        match self.transport.poll_handshake(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok((info, up))) => {
                self.session.set_tls(info);
                self.step(Input::Encrypted(up));
            }
            Poll::Ready(Err(error)) => {
                tracing::info!(
                    event = "tls-failed",
                    session = %self.session.id,
                    address = %self.session.address(),
                    %error,
                );
                self.lost();
            }
        }
        true
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.closing.is_some() {
            return self.poll_discard(cx);
        }
        // Answers wait in the mailbox until the outbox has room: who asks faster than it reads has
        // to wait for them, and is not ended for what its own questions brought.
        let owed = self.outbox.bytes() + self.session.mailbox.untaken();
        // Whoever is frozen is neither heard nor told anything, and loses nothing by it.
        let frozen = self.session.flags().has(Flags::FROZEN);
        let busy = self.waiting.is_some() || self.upgrade || owed > OUTBOX || frozen;
        let busy = busy || self.bond != Bond::Held;
        if busy || !self.transport.is_open() || !self.session.alive() {
            return false;
        }
        if !self.unread.is_empty() {
            let unread = std::mem::take(&mut self.unread);
            self.scan(&unread);
            return true;
        }
        if !self.pace.ready(cx) {
            return false;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut self.transport).poll_read(cx, &mut read) {
                Poll::Pending => false,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    let count = read.filled().len();
                    self.session.traffic.rx_bytes.fetch_add(count as u64, Relaxed);
                    self.pace.spend(count, self.rate);
                    self.scan(read.filled());
                    true
                }
                Poll::Ready(_) => {
                    self.lost();
                    true
                }
            }
        })
    }

    /// Takes in what was read, up to a point where the server has to be asked first.
    fn scan(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let step = match self.scanner.feed(input) {
                Ok((used, event)) => {
                    input = input.get(used..).unwrap_or_default();
                    event
                }
                Err(error) => return self.step(Input::Fault(error)),
            };
            match step {
                None => continue,
                Some(Event::Open(header)) => self.step(Input::Header(header)),
                Some(Event::Stanza(frame)) => self.step(Input::Frame(frame)),
                Some(Event::Close) => self.step(Input::Close),
            }
            // Whatever came in the clear behind <starttls/> was never protected: it is dropped.
            if self.upgrade || self.bond != Bond::Held || !self.session.alive() {
                return;
            }
            if self.waiting.is_some() {
                self.unread = input.to_vec();
                return;
            }
        }
    }

    /// Reads what the peer still sends only to see it close.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        if closing.peer_shut || !self.transport.is_open() {
            return false;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut self.transport).poll_read(cx, &mut read) {
                Poll::Pending => false,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => true,
                Poll::Ready(_) => {
                    closing.peer_shut = true;
                    true
                }
            }
        })
    }

    fn collect_mail(&mut self, cx: &mut Context<'_>) -> bool {
        if self.bond == Bond::Displaced {
            return false;
        }
        let flags = self.session.flags();
        if flags.has(Flags::UNRESPONSIVE) {
            self.lost();
        }
        // The waker is left behind in any case: an end wakes through the mailbox as well. Nothing goes
        // before the peer knows its resource.
        let shut = self.closing.is_some() || !self.session.alive() || !self.transport.is_open();
        let held = shut || flags.has(Flags::FROZEN) || !self.stream.is_bound();
        let room = if held { 0 } else { OUTBOX.saturating_sub(self.outbox.bytes()) };
        let holder = self.holder();
        let (outbox, session, server) = (&mut self.outbox, &self.session, &self.shared.server);
        let taken = session.mailbox.take(holder, room, cx.waker(), |parcel| {
            session.traffic.tx_stanzas.fetch_add(1, Relaxed);
            server.woken(session, parcel).pieces(|piece| outbox.push(piece));
        });
        match taken {
            Take::Empty => false,
            Take::Some { ask } => {
                if ask {
                    // Together with what is to be acknowledged: nothing is sent for this alone.
                    outbox.push(sm::ask());
                    server.asked(session);
                }
                true
            }
            Take::Displaced => {
                self.bond = Bond::Displaced;
                true
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.outbox.is_flushed() || !self.transport.is_open() {
            return false;
        }
        let before = self.outbox.bytes();
        let result = self.outbox.poll_write(&mut self.transport, cx);
        let written = before - self.outbox.bytes();
        self.session.traffic.tx_bytes.fetch_add(written as u64, Relaxed);
        match result {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.lost();
                true
            }
        }
    }

    /// The session is over, or another connection's: say so, once.
    fn begin_closing(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let (mut error, reason) = match self.bond {
            Bond::Displaced => (self.displaced(), Reason::Resumed),
            _ if self.session.alive() => return,
            _ => {
                let reason = self.session.end_record().map(|record| record.reason);
                let Some(reason) = reason else { return };
                (self.session.take_farewell(), reason)
            }
        };
        if let Some((error, lang)) = error.as_mut().zip(self.stream.lang())
            && let Some((text, lang)) = error.text.as_deref().and_then(|t| translate(t, lang))
        {
            error.text = Some(text.into());
            error.lang = lang;
        }
        self.unread = Vec::new();
        // A stream that is to go on after a restart is not closed: its client would not come back to it.
        let broken = reason == Reason::Lost || (reason == Reason::Resumed && error.is_none());
        if self.transport.is_open() && !broken {
            self.outbox.push(self.stream.farewell(error.as_ref(), &mut random::text));
        }
        let wait = match reason {
            // Its place is given away already: what the socket takes at once is all it gets.
            Reason::Shed => 0,
            _ => self.shared.server.config.sessions.close_wait.get().unwrap_or(0),
        };
        self.closing = Some(Box::new(Closing {
            deadline: Box::pin(sleep_until(Instant::now() + Duration::from_secs(wait))),
            at_once: matches!(reason, Reason::Closed | Reason::Lost) || broken,
            shut: false,
            peer_shut: false,
        }));
    }

    /// The last words for a client whose stream goes on without this connection. None: the server
    /// stops, and the stream goes on once it is there again.
    fn displaced(&mut self) -> Option<StreamError> {
        if self.shared.server.stopping() {
            return None;
        }
        let proof = self.session.resumable().and_then(|resumable| resumable.proof_until());
        let (reason, by) = match proof {
            // It goes on once its owner has proved the password.
            Some(_) => (Reason::Idle, "server"),
            None => (Reason::Resumed, "peer"),
        };
        let app = server::end::element(reason.as_str(), by);
        Some(StreamError::new(reason.condition()).with_text(reason.text()).with_app(app))
    }

    /// Parts from a session that may go on without this connection, once the stanza that it is at is
    /// seen through.
    fn part(&mut self) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        match self.bond {
            Bond::Lost => {
                let holder = self.holder();
                if self.shared.server.hibernate(&self.session, holder) {
                    self.bond = Bond::Parted;
                    self.lease = None;
                    return true;
                }
                self.bond = Bond::Held;
                self.shared.server.end(&self.session, End::peer(Reason::Lost));
                false
            }
            Bond::Displaced => {
                // Whoever goes on with it waits for this.
                let had = self.lease.take().is_some();
                if had
                    && self.shared.server.stopping()
                    && let Some(counts) = self.session.mailbox.counts()
                {
                    // Nobody else tells the client before the server is there again.
                    self.outbox.push(sm::ack(counts.handled));
                }
                false
            }
            Bond::Held | Bond::Parted => false,
        }
    }

    /// Whether the connection can go: both sides are shut, or it has taken long enough.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        if closing.deadline.as_mut().poll(cx).is_ready() {
            // It was counted, so that its client will not send it again: it is seen through all the
            // same, and whoever goes on with the stream waits for it as long as for this connection.
            if let Some((waiting, lease)) = self.waiting.take().zip(self.lease.take()) {
                self.shared.server.spawn(async move {
                    waiting.await;
                    drop(lease);
                });
            }
            return true;
        }
        // A stanza that was taken in is seen through: a message may be half-way into storage. The last
        // words for a client whose stream goes on come behind that.
        let parts = self.bond == Bond::Displaced && self.lease.is_some();
        if self.waiting.is_some() || parts {
            return false;
        }
        if !self.transport.is_open() {
            return true;
        }
        if self.outbox.is_flushed() && !closing.shut {
            match Pin::new(&mut self.transport).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => closing.shut = true,
                Poll::Ready(Err(_)) => return true,
            }
        }
        closing.shut && (closing.at_once || closing.peer_shut)
    }
}

impl Future for Conn {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fate> {
        let conn = self.get_mut();
        loop {
            if conn.part() {
                return Poll::Ready(Fate::Parted);
            }
            conn.begin_closing();
            let progress = conn.poll_handshake(cx)
                | conn.poll_waiting(cx)
                | conn.poll_read(cx)
                | conn.collect_mail(cx)
                | conn.poll_write(cx);
            if conn.poll_closed(cx) {
                return Poll::Ready(match conn.bond {
                    Bond::Held | Bond::Lost => Fate::Over,
                    Bond::Displaced | Bond::Parted => Fate::Parted,
                });
            }
            let due = match conn.bond {
                Bond::Held => conn.closing.is_none() && !conn.session.alive(),
                Bond::Lost => conn.waiting.is_none(),
                Bond::Displaced => {
                    conn.closing.is_none() || (conn.lease.is_some() && conn.waiting.is_none())
                }
                Bond::Parted => false,
            };
            if !progress && !due {
                return Poll::Pending;
            }
        }
    }
}

fn limits(phase: &Phase) -> Limits {
    Limits {
        bytes: phase.stanza_bytes,
        elements: phase.elements,
        depth: phase.depth,
        attributes: phase.attributes,
        namespaces: phase.attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Conn>();
        assert!(size <= 512, "a connection takes {size} bytes");
    }
}
