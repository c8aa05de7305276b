//! Deadlines: that the sweeper, which looks at few sessions, ends exactly those that one would end
//! who looks at all of them; and the rules for inactivity and lifetime (RO-08 to RO-12 of the
//! catalogue of session control).

use std::{net::SocketAddr, sync::Arc};

use proptest::prelude::*;
use server::{
    Server, Session,
    account::Account,
    clock::Millis,
    config::{Config, Span},
    deadlines::HORIZON,
    end::{End, Reason},
    policy::Effective,
    vault::Mint,
};
use wire::{Frame, Mechanism, Secret, TokenId};

use crate::world::{START, World, assert_eventually, enter};

const DAY: u64 = 86_400_000;

pub fn unlimited(config: &mut Config) {
    config.limits.per_address = 0;
    config.limits.per_account = 0;
}

fn connect(server: &Arc<Server>) -> Arc<Session> {
    server.connect(SocketAddr::from(([127, 0, 0, 1], 1))).expect("is let in")
}

/// The session sends a stanza.
fn act(server: &Arc<Server>, session: &Arc<Session>) {
    let frame = Frame::parse("<presence type='probe'/>").expect("a stanza");
    let _ = server.inbound(session, None, frame);
}

/// Logs a session in with a token of its own.
async fn enter_with_token(
    server: &Arc<Server>,
    account: &Account,
    session: &Arc<Session>,
    ttl: Option<u64>,
    inactive: Option<u64>,
) -> TokenId {
    let mint = Mint { inactive, ttl, ..Mint::login(account.role, "test") };
    let (record, token) = server.mint(account, mint).await.expect("is stored");
    let secret = Secret::new(token.to_text().as_bytes().to_vec());
    let candidate = server.check_token(session, None, secret).await.expect("is valid");
    let entered = server.enter(session, candidate, Mechanism::OauthBearer, None).await;
    entered.expect("may log in");
    record.token.id
}

pub fn reason(session: &Session) -> Option<Reason> {
    session.end_record().map(|record| record.reason)
}

/// What a session's deadlines hang on, as one would note it down by hand.
struct Noted {
    session: Arc<Session>,
    login: Option<Login>,
    over: Option<Reason>,
}

struct Login {
    at: Millis,
    account: usize,
    bound: bool,
    last: Millis,
    expires: Option<Millis>,
    lifetime: Option<Span>,
    inactivity: Option<Span>,
}

/// The rules as they are documented, for one who looks at all sessions.
fn overdue(config: &Config, noted: &Noted, now: Millis) -> Option<Reason> {
    let passed = |since: Millis, span: Span| {
        span.get().is_some_and(|seconds| since.plus_seconds(seconds) <= now)
    };
    let Some(login) = &noted.login else {
        let late = passed(noted.session.created, config.limits.unauthed.time);
        return late.then_some(Reason::AuthTimeout);
    };
    if login.expires.is_some_and(|expires| expires <= now) {
        Some(Reason::TokenExpired)
    } else if !login.bound {
        passed(login.at, config.limits.unbound.time).then_some(Reason::BindTimeout)
    } else if passed(login.at, login.lifetime.unwrap_or(config.sessions.lifetime))
        || passed(login.at, config.limits.bound.time)
    {
        Some(Reason::Lifetime)
    } else if passed(login.last, login.inactivity.unwrap_or(config.sessions.inactivity)) {
        Some(Reason::Idle)
    } else {
        None
    }
}

/// What happens next; numbers pick a session.
#[derive(Clone, Copy, Debug)]
enum Op {
    Act(usize),
    Advance(u64),
    Bind(usize),
    Connect,
    End(usize),
    Login(usize, usize, Option<u64>, Option<u64>),
    Policy(usize, Option<u64>, Option<u64>),
    Settle(usize),
    Sweep,
}

/// Seconds; 0 is off.
fn seconds() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..8_u64, 30..90_u64, Just(86_400_u64)]
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..1_000_usize;
    let span = || prop::option::of(seconds());
    let ttl = || prop::option::of(1..100_u64);
    prop_oneof![
        4 => n.clone().prop_map(Op::Act),
        6 => prop_oneof![
            Just(0_u64), Just(1_u64), 0..3_000_u64, (1..90_u64).prop_map(|s| s * 1_000),
            Just(HORIZON * 1_000), Just(40 * DAY),
        ].prop_map(Op::Advance),
        4 => n.clone().prop_map(Op::Bind),
        4 => Just(Op::Connect),
        1 => n.clone().prop_map(Op::End),
        4 => (n.clone(), 0..2_usize, ttl(), ttl()).prop_map(|(s, a, t, i)| Op::Login(s, a, t, i)),
        3 => (n.clone(), span(), span()).prop_map(|(s, l, i)| Op::Policy(s, l, i)),
        1 => n.prop_map(Op::Settle),
        5 => Just(Op::Sweep),
    ]
}

struct Model {
    world: World,
    accounts: [Account; 2],
    all: Vec<Noted>,
}

impl Model {
    async fn new(spans: [u64; 5]) -> Self {
        let world = World::without_doors(&[], |config| {
            unlimited(config);
            let [unauthed, unbound, bound, lifetime, inactivity] = spans.map(Span::seconds);
            config.limits.unauthed.time = unauthed;
            config.limits.unbound.time = unbound;
            config.limits.bound.time = bound;
            config.sessions.lifetime = lifetime;
            config.sessions.inactivity = inactivity;
        });
        let accounts = [world.account("a").await, world.account("b").await];
        Self { world, accounts, all: Vec::new() }
    }

    /// Marks those that have to be over by now, of one account or of all; gives their number.
    fn mark(&mut self, account: Option<usize>) -> usize {
        let (config, now) = (&self.world.server.config, self.world.clock.now());
        let mut marked = 0;
        for noted in &mut self.all {
            let theirs = noted.login.as_ref().map(|login| login.account);
            if noted.over.is_none() && (account.is_none() || account == theirs) {
                noted.over = overdue(config, noted, now);
                marked += usize::from(noted.over.is_some());
            }
        }
        marked
    }

    async fn step(&mut self, op: Op) {
        let (server, now) = (self.world.server.clone(), self.world.clock.now());
        let count = self.all.len();
        let pick = |n: usize| n.checked_rem(count);
        match op {
            Op::Advance(milliseconds) => self.world.clock.advance(milliseconds),
            Op::Connect => {
                let session = connect(&server);
                self.all.push(Noted { session, login: None, over: None });
            }
            Op::Sweep => {
                let marked = self.mark(None);
                assert_eq!(server.sweep(), marked, "at {now}");
            }
            Op::Login(n, account, ttl, inactive) => {
                let Some(index) = pick(n) else { return };
                if self.all[index].login.is_some() || self.all[index].over.is_some() {
                    return;
                }
                // Whoever logs in clears away what is over of the same account.
                self.mark(Some(account));
                let session = self.all[index].session.clone();
                if ttl.or(inactive).is_some() {
                    let whose = &self.accounts[account];
                    enter_with_token(&server, whose, &session, ttl, inactive).await;
                } else {
                    assert!(enter(&server, &session, &self.accounts[account].jid).await);
                }
                self.all[index].login = Some(Login {
                    at: now,
                    account,
                    bound: false,
                    last: now,
                    expires: ttl.map(|ttl| now.plus_seconds(ttl)),
                    lifetime: None,
                    inactivity: None,
                });
            }
            Op::Act(n) | Op::Bind(n) | Op::End(n) | Op::Policy(n, ..) | Op::Settle(n) => {
                let Some(index) = pick(n) else { return };
                let noted = &mut self.all[index];
                let session = noted.session.clone();
                match (op, &mut noted.login) {
                    (Op::Settle(_), _) if noted.over.is_some() => server.settle(&session).await,
                    _ if noted.over.is_some() => {}
                    (Op::End(_), _) => {
                        assert!(server.end(&session, End::new(Reason::Kicked)));
                        noted.over = Some(Reason::Kicked);
                    }
                    (Op::Act(_), Some(login)) if login.bound => {
                        act(&server, &session);
                        login.last = now;
                    }
                    (Op::Bind(_), Some(login)) if !login.bound => {
                        let bound = server.bind(&session, Some(&format!("r{index}"))).await;
                        bound.expect("may bind");
                        login.bound = true;
                    }
                    (Op::Policy(_, lifetime, inactivity), Some(login)) => {
                        login.lifetime = lifetime.map(Span::seconds);
                        login.inactivity = inactivity.map(Span::seconds);
                        rules(&server, &session, login.lifetime, login.inactivity);
                    }
                    _ => {}
                }
            }
        }
    }

    async fn run(mut self, ops: Vec<Op>) {
        for op in ops.into_iter().chain([Op::Sweep]) {
            self.step(op).await;
            for (index, noted) in self.all.iter().enumerate() {
                assert_eq!(reason(&noted.session), noted.over, "session {index} after {op:?}");
            }
        }
        // What has ended leaves nothing behind.
        let server = &self.world.server;
        for noted in &self.all {
            server.end(&noted.session, End::new(Reason::Kicked));
        }
        self.world.clock.advance(HORIZON * 1_000);
        assert_eq!(server.sweep(), 0);
        assert_eq!(server.deadlines.waiting().entries, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn exactly_those_end_that_a_look_at_all_sessions_would_end(
        spans in prop::array::uniform5(seconds()),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async { Model::new(spans).await.run(ops).await });
    }
}

#[tokio::test]
async fn ro_08_inactivity_ends_a_session_at_the_very_instant_and_can_be_set_apart_or_off() {
    let world = World::without_doors(&[], |config| {
        config.sessions.inactivity = Span::days(1);
    });
    world.account("alice").await;
    let idle = world.phantom("alice", "idle").await;
    let active = world.phantom("alice", "active").await;
    let strict = world.phantom("alice", "strict").await;
    let free = world.phantom("alice", "free").await;
    rules(&world.server, &strict, None, Some(Span::seconds(50)));
    rules(&world.server, &free, None, Some(Span::OFF));

    world.clock.advance(25_000);
    assert_eq!(world.server.sweep(), 0);
    world.clock.advance(25_000);
    assert_eq!((world.server.sweep(), reason(&strict)), (1, Some(Reason::Idle)));
    world.clock.advance(DAY / 2 - 50_000);
    act(&world.server, &active);
    assert_eq!(world.server.sweep(), 0, "half a day");
    world.clock.advance(DAY / 2 - 1);
    assert_eq!(world.server.sweep(), 0, "a moment too early");
    world.clock.advance(1);
    assert_eq!((world.server.sweep(), reason(&idle)), (1, Some(Reason::Idle)));
    world.clock.advance(DAY / 2);
    assert_eq!((world.server.sweep(), reason(&active)), (1, Some(Reason::Idle)));
    world.clock.advance(1_000 * DAY);
    assert_eq!(world.server.sweep(), 0);
    assert!(free.alive());
}

#[tokio::test]
async fn ro_09_lifetime_counts_from_the_login_however_active_a_session_is() {
    let world = World::without_doors(&[], |config| {
        config.sessions.lifetime = Span::days(30);
    });
    world.account("alice").await;
    let usual = world.phantom("alice", "usual").await;
    let short = world.phantom("alice", "short").await;
    rules(&world.server, &short, Some(Span::seconds(100)), None);
    world.clock.advance(50_000);
    assert_eq!(world.server.sweep(), 0);
    act(&world.server, &short);
    world.clock.advance(50_000);
    assert_eq!((world.server.sweep(), reason(&short)), (1, Some(Reason::Lifetime)));
    world.clock.advance(29 * DAY - 100_000);
    assert_eq!(world.server.sweep(), 0);
    act(&world.server, &usual);
    world.clock.advance(DAY - 1);
    assert_eq!(world.server.sweep(), 0, "a moment too early");
    world.clock.advance(1);
    assert_eq!((world.server.sweep(), reason(&usual)), (1, Some(Reason::Lifetime)));
}

#[tokio::test]
async fn ro_10_either_deadline_alone_both_or_neither() {
    let wanted = |lifetime: bool, inactivity: bool| match (lifetime, inactivity) {
        // Inactive from 20 s on, so that inactivity comes first if there is such a thing.
        (_, true) => Some((70, Reason::Idle)),
        (true, false) => Some((100, Reason::Lifetime)),
        (false, false) => None,
    };
    for (lifetime, inactivity) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::without_doors(&[], |config| {
            let span = |on: bool, seconds| if on { Span::seconds(seconds) } else { Span::OFF };
            config.sessions.lifetime = span(lifetime, 100);
            config.sessions.inactivity = span(inactivity, 50);
        });
        world.account("alice").await;
        let session = world.phantom("alice", "r").await;
        for second in 1..=200 {
            world.clock.advance(1_000);
            if second == 20 {
                act(&world.server, &session);
            }
            let ended = world.server.sweep();
            let now = wanted(lifetime, inactivity).filter(|(at, _)| *at == second);
            assert_eq!(ended, usize::from(now.is_some()), "{lifetime} {inactivity} {second}");
        }
        let why = wanted(lifetime, inactivity).map(|(_, reason)| reason);
        assert_eq!(reason(&session), why, "{lifetime} {inactivity}");
    }
}

#[tokio::test]
async fn ro_10_without_deadlines_a_session_lives_on_and_costs_the_queue_nothing() {
    let world = World::without_doors(&[], |_| {});
    let account = world.account("alice").await;
    let session = connect(&world.server);
    let token = enter_with_token(&world.server, &account, &session, None, None).await;
    world.server.bind(&session, Some("r")).await.expect("may bind");
    let last_used = async || {
        world.server.find_token(token).await.expect("can be read").expect("is there").token.used
    };
    let mut at_login = None;
    while at_login.is_none() {
        tokio::task::yield_now().await;
        at_login = last_used().await;
    }
    for _ in 0..400 {
        world.clock.advance(DAY);
        act(&world.server, &session);
        assert_eq!(world.server.sweep(), 0);
        tokio::task::yield_now().await;
    }
    assert!(session.alive());
    assert_eq!(world.server.deadlines.waiting().entries, 0);
    assert_eq!(last_used().await, at_login, "its use is not even written");
}

#[tokio::test]
async fn the_use_of_a_token_that_dies_unused_is_noted_while_its_session_is_there() {
    let world = World::without_doors(&[], |config| config.tokens.last_use = Span::seconds(1));
    let account = world.account("alice").await;
    let session = connect(&world.server);
    let token = enter_with_token(&world.server, &account, &session, None, Some(100)).await;
    world.server.bind(&session, Some("r")).await.expect("may bind");
    for round in 1..=30 {
        world.clock.advance(9_999);
        assert_eq!(world.server.sweep(), 0);
        world.clock.advance(1);
        assert_eq!(world.server.sweep(), 0);
        let wanted = Some(START.plus_seconds(round * 10));
        let begin = tokio::time::Instant::now();
        loop {
            let record = world.server.find_token(token).await.expect("can be read");
            if record.expect("is there").token.used == wanted {
                break;
            }
            assert!(begin.elapsed().as_secs() < 20, "round {round}");
            tokio::task::yield_now().await;
        }
    }
    assert!(session.alive());
}

#[tokio::test]
async fn ro_12_ten_thousand_that_are_overdue_vanish_and_messages_go_on_meanwhile() {
    let world = World::without_doors(&[], |config| {
        unlimited(config);
        config.sessions.inactivity = Span::seconds(100);
    });
    for user in 0..100 {
        world.account(&format!("u{user}")).await;
    }
    for n in 0..10_000 {
        world.phantom(&format!("u{}", n % 100), &format!("r{n}")).await;
    }
    world.clock.advance(99_000);
    world.account("romeo").await;
    let [romeo, juliet] = [world.phantom("romeo", "a").await, world.phantom("romeo", "b").await];
    world.clock.advance(1_000);

    let server = world.server.clone();
    let sweep = tokio::spawn(async move { server.sweep_gently().await });
    let frame =
        Frame::parse("<message to='romeo@localhost/b' type='chat'><body>x</body></message>");
    let frame = frame.expect("a stanza");
    let (mut sent, mut arrived) = (0, 0);
    while !sweep.is_finished() {
        let _ = world.server.inbound(&romeo, None, frame.clone());
        sent += 1;
        juliet
            .mailbox
            .take(juliet.mailbox.holder(), usize::MAX, std::task::Waker::noop(), |_| arrived += 1);
        tokio::task::yield_now().await;
    }
    assert_eq!(sweep.await.expect("does not panic"), 10_000);
    assert!(sent >= 100, "one message for a step of the sweep at least: {sent}");
    assert_eq!(arrived, sent);
    assert!(romeo.alive() && juliet.alive());
}

#[tokio::test]
async fn ro_12_a_login_first_ends_what_is_over_of_the_same_account() {
    let world = World::without_doors(&[], |config| {
        config.limits.per_account = 1;
        config.limits.unbound.time = Span::seconds(100);
        config.sessions.inactivity = Span::seconds(100);
    });
    world.account("alice").await;
    world.account("bob").await;
    let bobs = world.phantom("bob", "r").await;
    let old = world.phantom("alice", "old").await;
    let unbound = connect(&world.server);
    assert!(enter(&world.server, &unbound, "alice@localhost").await);
    world.clock.advance(99_999);
    let early = connect(&world.server);
    assert!(!enter(&world.server, &early, "alice@localhost").await, "as many as it may have");
    world.clock.advance(1);
    world.phantom("alice", "new").await;
    assert_eq!((reason(&old), reason(&unbound)), (Some(Reason::Idle), Some(Reason::BindTimeout)));
    assert!(bobs.alive(), "no other account's: the sweeper sees to them");
    assert_eq!(world.server.sweep(), 1);
}

#[tokio::test]
async fn a_panic_over_one_session_does_not_make_others_immortal() {
    use server::{hooks::Flow, plugin::Plugin};
    static CLUMSY: [Plugin; 1] = [Plugin {
        name: "clumsy",
        about: "Falls over",
        specs: &[],
        setup: |setup| {
            setup.ended(|cx| match cx.session.full().and_then(|jid| jid.resource()) {
                Some("bad") => panic!("as the test wants it"),
                _ => Flow::Next,
            });
        },
    }];
    let world = World::without_doors(&CLUMSY, |config| {
        config.sessions.inactivity = Span::seconds(100);
    });
    world.account("alice").await;
    let mut sessions = Vec::new();
    for resource in ["a", "b", "bad", "c", "d"] {
        sessions.push(world.phantom("alice", resource).await);
    }
    world.clock.advance(100_000);
    for _ in 0..2 {
        let server = world.server.clone();
        let _ = tokio::spawn(async move { server.sweep_gently().await }).await;
    }
    assert_eventually("all are over", || sessions.iter().all(|session| !session.alive())).await;
}

/// Gives a session other deadlines than those of the configuration.
fn rules(
    server: &Arc<Server>,
    session: &Session,
    lifetime: Option<Span>,
    inactivity: Option<Span>,
) {
    let me = session.identity().expect("it has logged in");
    let sessions = &server.config.sessions;
    let policy = Effective {
        lifetime: lifetime.unwrap_or(sessions.lifetime).get(),
        inactivity: inactivity.unwrap_or(sessions.inactivity).get(),
        ..(*me.policy()).clone()
    };
    assert!(server.apply_policy(session, policy.into()));
}
