//! A server with a million sessions: memory, lookups, lists, ends, and messages meanwhile.
//!
//! The sessions have no sockets. What stands in for a connection's task is a waker that hands a
//! session which is over to one task that settles them all.

use std::{
    collections::VecDeque,
    future::poll_fn,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake, Waker},
    time::{Duration, Instant},
};

use server::{
    Server, Session,
    account::{Account, Role},
    clock::{Clock, Millis},
    config::{Config, Span},
    end::{Actor, End, Outcome, Reason},
    keyring::KeyRing,
    pace::{Control, Pace},
    policy::Effective,
    registry::BUDGET,
    vault::Mint,
};
use tokio::{runtime::Runtime, sync::mpsc};
use wire::{Frame, Hash, Jid, Mechanism, Secret, TokenId};

/// Where every tenth session comes from.
const PROXY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Messages a second while routing is watched.
const RATE: u32 = 1_000;
/// Sessions a second that are ended meanwhile.
const PACE: u32 = 20_000;
/// How often each way to end a session is tried.
const TRIES: usize = 100;
/// Pairs of sessions that write to each other.
const PAIRS: usize = 64;

/// Prints the report.
pub fn report(sessions: usize) {
    let sessions = sessions.max(1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build();
    Scale::build(runtime.expect("a runtime"), sessions).report();
}

struct Scale {
    runtime: Runtime,
    server: Arc<Server>,
    clock: Clock,
    /// Some of the sessions, in no order: those that will be ended.
    doomed: Vec<Arc<Session>>,
    tokens: Vec<TokenId>,
    pairs: Vec<Pair>,
    settle: mpsc::UnboundedSender<Arc<Session>>,
}

/// Somebody who writes and somebody who reads.
struct Pair {
    romeo: Arc<Session>,
    frame: Frame,
    on_the_way: Arc<Mutex<VecDeque<Instant>>>,
}

/// In place of a connection: closes at once.
struct Closer {
    session: Weak<Session>,
    settle: mpsc::UnboundedSender<Arc<Session>>,
}

impl Wake for Closer {
    fn wake(self: Arc<Self>) {
        let Some(session) = self.session.upgrade() else { return };
        // Whatever has come is read; and then it waits again, before it looks whether it is over.
        session.mailbox.take(
            session.mailbox.holder(),
            usize::MAX,
            &Waker::from(self.clone()),
            drop,
        );
        if !session.alive() {
            // Nobody settles any more: the report is over.
            let _ = self.settle.send(session);
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn line(what: &str, value: impl std::fmt::Display) {
    println!("{what:<58} {value}");
}

fn micros(time: Duration) -> String {
    match time.as_secs_f64() * 1e6 {
        short if short < 10.0 => format!("{short:.2} µs"),
        some if some < 10_000.0 => format!("{some:.0} µs"),
        long => format!("{:.1} ms", long / 1e3),
    }
}

/// Median, 99th percentile and the worst.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied();
    let [half, most] = [at(0.5), at(0.99)].map(|time| micros(time.unwrap_or_default()));
    let worst = micros(times.last().copied().unwrap_or_default());
    format!("p50 {half}, p99 {most}, worst {worst} ({})", times.len())
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed(), result)
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).expect("a good address")
}

impl Scale {
    fn build(runtime: Runtime, count: usize) -> Self {
        let mut config = Config::default();
        config.limits.per_address = 0;
        config.limits.per_account = 0;
        config.sessions.inactivity = Span::days(1);
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let (store, keys) = (store::memory(), KeyRing::ephemeral());
        let server = Server::new(config, clock.clone(), store, keys, plugins::ALL);
        let server = server.expect("a server");
        let (settle, mut over) = mpsc::unbounded_channel::<Arc<Session>>();
        let settler = server.clone();
        runtime.spawn(async move {
            while let Some(session) = over.recv().await {
                settler.settle(&session).await;
            }
        });
        let (doomed, tokens, pairs) = (Vec::new(), Vec::new(), Vec::new());
        let mut scale = Self { runtime, server, clock, doomed, tokens, pairs, settle };

        let before = resident();
        let begin = Instant::now();
        let accounts = scale.accounts(count * 7 / 10);
        let built = begin.elapsed();
        line("accounts", accounts.len());
        line("built in", format!("{:.1} s", built.as_secs_f64()));
        line("bytes per account, in the memory store", (resident() - before) / accounts.len());

        let (before, begin) = (resident(), Instant::now());
        scale.sessions(&accounts, count);
        let built = begin.elapsed();
        line("sessions, bound", count);
        line("built in", format!("{:.1} s", built.as_secs_f64()));
        line("bytes per session, all indexes included", (resident() - before) / count);
        line("  of these the session itself", size_of::<Session>());
        let waiting = scale.server.deadlines.waiting();
        let queued = waiting.bytes as f64 / waiting.entries.max(1) as f64;
        line("  and in the queue of deadlines", format!("{queued:.1}"));
        scale.tokens(&accounts[0]);
        scale.pairs();
        scale
    }

    fn accounts(&self, count: usize) -> Vec<Account> {
        self.runtime.block_on(async {
            // One password for all: its hashing is not what this is about.
            let keys = self.server.keys_of(Secret::new("secret")).await.expect("a good password");
            let mut accounts = Vec::with_capacity(count);
            for user in 0..count {
                let jid = jid(&format!("user{user}@localhost"));
                let account = self.server.add_account(&jid, keys.clone(), Role::User).await;
                accounts.push(account.expect("is new"));
            }
            accounts
        })
    }

    async fn session(server: &Arc<Server>, account: &str, index: usize) -> Arc<Session> {
        let own = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(index).unwrap_or(0));
        let peer = SocketAddr::from((if index.is_multiple_of(10) { PROXY } else { own }, 5222));
        let session = server.connect(peer).expect("may connect");
        let found = server.scram_keys(&session, &jid(account), Hash::Sha256).await;
        let (_, candidate) = found.expect("storage works");
        let entered = server.enter(&session, candidate, Mechanism::ScramSha256, None).await;
        entered.expect("may enter");
        server.bind(&session, Some(&format!("r{index}"))).await.expect("may bind");
        session
    }

    fn sessions(&mut self, accounts: &[Account], count: usize) {
        self.runtime.block_on(async {
            for index in 0..count {
                // Spread over the seconds of ten minutes, as they would be.
                if index.is_multiple_of((count / 600).max(1)) {
                    self.clock.advance(1_000);
                    assert_eq!(self.server.sweep(), 0);
                }
                let account = &accounts[index % accounts.len()].jid;
                let session = Self::session(&self.server, account, index).await;
                if index % 8 == 5 && self.doomed.len() < count / 10 + 3 * TRIES {
                    self.doomed.push(session);
                }
            }
        });
    }

    /// Sessions that a token opened, each by its own.
    fn tokens(&mut self, account: &Account) {
        for _ in 0..TRIES {
            let id = self.runtime.block_on(async {
                let mint = Mint::login(Role::User, "bench");
                let minted = self.server.mint(account, mint).await;
                let (record, token) = minted.expect("storage works");
                let secret = Secret::new(token.to_text().as_bytes().to_vec());
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 5222));
                let session = self.server.connect(peer).expect("may connect");
                let candidate = self.server.check_token(&session, None, secret).await;
                let candidate = candidate.expect("is valid");
                let mechanism = Mechanism::OauthBearer;
                let entered = self.server.enter(&session, candidate, mechanism, None).await;
                entered.expect("may enter");
                self.server.bind(&session, None).await.expect("may bind");
                self.connect(&session);
                record.token.id
            });
            self.tokens.push(id);
        }
    }

    fn pairs(&mut self) {
        for index in 0..PAIRS {
            let pair = self.runtime.block_on(async {
                let romeo = Self::session(&self.server, &format!("user{index}@localhost"), 50_000_001).await;
                let to = format!("user{}@localhost", index + PAIRS);
                let juliet = Self::session(&self.server, &to, 50_000_002).await;
                for session in [&romeo, &juliet] {
                    let policy = session.identity().expect("is logged in").policy();
                    let policy = Effective { inactivity: None, ..(*policy).clone() };
                    self.server.apply_policy(session, policy.into());
                }
                let to = juliet.full().expect("is bound");
                let text = format!(
                    "<message to='{to}' type='chat' id='x'><body>Wherefore art thou?</body></message>"
                );
                let on_the_way = Arc::default();
                Pair { romeo, frame: Frame::parse(text).expect("a stanza"), on_the_way }
            });
            self.pairs.push(pair);
        }
    }

    /// Gives a session something that closes when it is over.
    fn connect(&self, session: &Arc<Session>) {
        let closer = Closer { session: Arc::downgrade(session), settle: self.settle.clone() };
        session.mailbox.take(session.mailbox.holder(), 0, &Waker::from(Arc::new(closer)), |_| {});
    }

    fn report(mut self) {
        self.lookups();
        self.lists();
        self.ends();
        self.sweeps();
        self.paced_end();
        self.all_expire();
    }

    fn lookups(&self) {
        let registry = &self.server.registry;
        let many = 10_000_u32;
        let (time, ()) = timed(|| {
            for _ in 0..many {
                black_box(registry.counts());
            }
        });
        line("counts by stage", micros(time / many));
        let some = self.doomed.iter().step_by((self.doomed.len() / many as usize).max(1));
        let some: Vec<_> = some.collect();
        let each = |what: &str, find: &dyn Fn(&Session) -> bool| {
            let (time, all) = timed(|| some.iter().all(|session| find(session)));
            assert!(all, "{what}");
            line(what, micros(time / u32::try_from(some.len()).unwrap_or(1)));
        };
        each("one by its id", &|session| registry.get(session.id).is_some());
        each("one by its full JID", &|session| {
            session.full().is_some_and(|full| registry.full(full).is_some())
        });
        each("those of an account, as a list", &|session| {
            session.identity().is_some_and(|me| {
                !registry.page_of(&me.jid, None, 100, |_| true).sessions.is_empty()
            })
        });
        let (time, found) = timed(|| registry.at(PROXY.into()).len());
        line(&format!("the {found} behind one address"), micros(time));
    }

    fn lists(&self) {
        let registry = &self.server.registry;
        let cursors: Vec<_> = self.doomed.iter().take(1_000).map(|session| session.id).collect();
        let each = |what: &str, page: &dyn Fn(server::id::SessionId) -> usize| {
            let (times, seen): (Vec<_>, Vec<_>) =
                cursors.iter().map(|cursor| timed(|| page(*cursor))).unzip();
            line(&format!("{what} ({} at most)", seen.iter().max().unwrap_or(&0)), spread(times));
        };
        each("page of 100", &|after| registry.page(Some(after), 100).len());
        let proxied = |session: &Session| session.address() == PROXY;
        // Once over all of them: whether the machine has put their memory aside is not in question.
        let (time, count) = timed(|| self.runtime.block_on(registry.count_where(proxied)));
        line(&format!("all behind one address counted ({count})"), micros(time));
        each("filtered page of 100, one in ten matches", &|after| {
            registry.page_where(Some(after), 100, BUDGET, proxied).sessions.len()
        });
        let rare = |session: &Session| {
            session.full().is_some_and(|jid| jid.resource().is_some_and(|r| r.ends_with("9999")))
        };
        each("filtered page of 100, one in 10,000 matches, one look", &|after| {
            registry.page_where(Some(after), 100, BUDGET, rare).sessions.len()
        });
        let (time, count) = timed(|| self.runtime.block_on(registry.count_where(rare)));
        line(&format!("all of these counted ({count})"), micros(time));
    }

    fn ends(&mut self) {
        let end = || End { actor: Actor::Admin("bench".into()), ..End::new(Reason::Ended) };
        let taken = self.doomed.split_off(self.doomed.len().saturating_sub(3 * TRIES));
        for session in &taken {
            self.connect(session);
        }
        let server = self.server.clone();
        let run = |what: &str, targets: &[Arc<Session>], find: &dyn Fn(&Session) -> Vec<_>| {
            let (mut dead, mut settled) = (Vec::new(), Vec::new());
            for target in targets {
                let begin = Instant::now();
                self.runtime.block_on(async {
                    let found: Vec<Arc<Session>> = find(target);
                    let found: Vec<_> =
                        found.into_iter().filter(|s| Arc::ptr_eq(s, target)).collect();
                    assert_eq!(found.len(), 1, "it is found");
                    for session in &found {
                        assert!(server.end(session, end()));
                    }
                    dead.push(begin.elapsed());
                    assert!(server.all_settled(&found).await.is_empty());
                    settled.push(begin.elapsed());
                });
            }
            line(&format!("end by {what}, until dead"), spread(dead));
            line(&format!("end by {what}, until settled"), spread(settled));
        };
        let registry = &self.server.registry;
        run("full JID", &taken[..TRIES], &|session| {
            session.full().and_then(|full| registry.full(full)).into_iter().collect()
        });
        run("bare JID", &taken[TRIES..2 * TRIES], &|session| {
            session.identity().map_or_else(Vec::new, |me| registry.of(me.jid.as_str()).into_vec())
        });
        run("id", &taken[2 * TRIES..], &|session| registry.get(session.id).into_iter().collect());

        let (mut dead, mut settled) = (Vec::new(), Vec::new());
        for token in std::mem::take(&mut self.tokens) {
            let begin = Instant::now();
            self.runtime.block_on(async {
                let by = Actor::Admin("bench".into());
                let revoked = self.server.revoke_token(token, &by, None).await;
                let (_, sessions) = revoked.expect("storage works").expect("is there");
                assert_eq!(sessions.len(), 1);
                dead.push(begin.elapsed());
                assert!(self.server.all_settled(&sessions).await.is_empty());
                settled.push(begin.elapsed());
            });
        }
        line("end by token, which is revoked, until dead", spread(dead));
        line("end by token, until settled", spread(settled));
    }

    /// What the sweeper does once a second.
    fn sweeps(&self) {
        let guard = self.runtime.enter();
        let mut times = Vec::new();
        for _ in 0..3_600 {
            self.clock.advance(1_000);
            let (time, ended) = timed(|| self.server.sweep());
            assert_eq!(ended, 0);
            times.push(time);
        }
        drop(guard);
        let sum: Duration = times.iter().sum();
        line("sweeps of an hour, nobody overdue", spread(times));
        line("  in sum", micros(sum));
    }

    fn paced_end(&mut self) {
        let runtime = &self.runtime;
        let doomed = std::mem::take(&mut self.doomed);
        let presence = Frame::parse("<presence/>").expect("a stanza");
        for session in &doomed {
            runtime.block_on(async {
                self.server.inbound(session, None, presence.clone()).decided().await;
            });
            session.mailbox.take(session.mailbox.holder(), usize::MAX, Waker::noop(), drop);
            self.connect(session);
        }
        self.receivers();
        let quiet = self.watched(async { tokio::time::sleep(Duration::from_secs(5)).await });
        line("a message, before", spread(quiet.0));
        let (server, count) = (self.server.clone(), doomed.len());
        let begin = Instant::now();
        let (times, fates) = self.watched(async move {
            let pace = Pace::per_second(PACE).expect("is not 0");
            let end = End::new(Reason::Ended);
            server.end_paced(doomed, &end, pace, &Control::default(), |_| {}).await
        });
        let took = begin.elapsed();
        assert!(fates.iter().all(|fate| fate.outcome == Some(Outcome::Ended)));
        line(
            &format!("{count} available sessions ended at {PACE} a second"),
            format!("in {:.2} s", took.as_secs_f64()),
        );
        line("a message, meanwhile", spread(times));
    }

    fn all_expire(&self) {
        self.clock.advance(2 * 86_400_000);
        let server = self.server.clone();
        let begin = Instant::now();
        let (times, ended) = self.watched(async move { server.sweep_gently().await });
        line(
            &format!("{ended} expire at once, dead"),
            format!("in {:.1} s", begin.elapsed().as_secs_f64()),
        );
        line("a message, meanwhile", spread(times));
    }

    /// One task for each who reads, as if it were a connection's.
    fn receivers(&self) {
        for pair in &self.pairs {
            let to = jid(&pair.frame.to().unwrap_or_default());
            let juliet = self.server.registry.full(&to).expect("is there");
            let on_the_way = pair.on_the_way.clone();
            self.runtime.spawn(async move {
                poll_fn(|cx| {
                    let mut arrived = 0;
                    juliet
                        .mailbox
                        .take(juliet.mailbox.holder(), usize::MAX, cx.waker(), |_| arrived += 1);
                    let now = Instant::now();
                    let mut sent = on_the_way.lock().expect("nobody panics");
                    for _ in 0..arrived {
                        if let Some(at) = sent.pop_front() {
                            ARRIVED.lock().expect("nobody panics").push(now - at);
                        }
                    }
                    Poll::<()>::Pending
                })
                .await;
            });
        }
    }

    /// Does something while messages are sent from a thread of its own, which waits for nobody; gives
    /// how long each took from its sender to its receiver's task.
    fn watched<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> (Vec<Duration>, T) {
        let over = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = self.runtime.enter();
                let begin = Instant::now();
                for round in 0.. {
                    let pair = &self.pairs[round as usize % PAIRS];
                    let due = begin + Duration::from_secs(1) / RATE * round;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    pair.on_the_way.lock().expect("nobody panics").push_back(Instant::now());
                    black_box(self.server.inbound(&pair.romeo, None, pair.frame.clone()));
                }
            });
            let done = self.runtime.block_on(self.runtime.spawn(work)).expect("does not panic");
            over.store(true, Ordering::Release);
            done
        });
        // The last ones are on their way.
        std::thread::sleep(Duration::from_millis(200));
        (std::mem::take(&mut *ARRIVED.lock().expect("nobody panics")), done)
    }
}

/// How long the messages took that have arrived.
static ARRIVED: Mutex<Vec<Duration>> = Mutex::new(Vec::new());
