//! The registry under random churn by several tasks at once: whatever they do, counters equal the
//! lists that they count, indexes hold who is there and nobody else, and nothing is left.

use std::{
    collections::{BTreeMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use proptest::prelude::*;
use server::{
    Server, Session,
    end::{End, Reason},
    id::SessionId,
    registry::Counts,
    session::{Presence, Stage},
};
use wire::Frame;

use crate::world::{PASSWORD, START, World, enter};

/// What one task does next; numbers pick a session, an account or a resource.
#[derive(Clone, Copy, Debug)]
enum Op {
    Bind(usize, usize),
    Connect(usize),
    End(usize),
    Interested(usize),
    Login(usize, usize),
    Presence(usize, bool),
    Settle(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..1000_usize;
    prop_oneof![
        2 => n.clone().prop_map(Op::Connect),
        3 => (n.clone(), 0..3_usize).prop_map(|(s, a)| Op::Login(s, a)),
        3 => (n.clone(), 0..3_usize).prop_map(|(s, r)| Op::Bind(s, r)),
        2 => (n.clone(), any::<bool>()).prop_map(|(s, on)| Op::Presence(s, on)),
        1 => n.clone().prop_map(Op::Interested),
        1 => n.clone().prop_map(Op::End),
        1 => n.prop_map(Op::Settle),
    ]
}

const ACCOUNTS: [&str; 3] = ["a@localhost", "b@localhost", "c@localhost"];

async fn act(server: &Arc<Server>, all: &parking::Shared, op: Op) {
    let pick = |n: usize| all.pick(n);
    match op {
        Op::Connect(n) => {
            let address = Ipv4Addr::new(127, 0, 0, u8::try_from(n % 3 + 1).unwrap_or(1));
            if let Ok(session) = server.connect(SocketAddr::from((address, 1))) {
                all.add(session);
            }
        }
        Op::Login(n, account) => {
            if let Some(session) = pick(n) {
                enter(server, &session, ACCOUNTS[account]).await;
            }
        }
        Op::Bind(n, resource) => {
            if let Some(session) = pick(n) {
                let _ = server.bind(&session, Some(["x", "y", "z"][resource])).await;
            }
        }
        Op::Presence(n, on) => {
            if let Some(session) = pick(n) {
                let frame = Frame::parse("<presence/>").expect("a stanza");
                let presence = on.then_some(Presence { priority: 0, frame, since: START });
                server.registry.set_presence(&session, presence);
            }
        }
        Op::Interested(n) => {
            if let Some(session) = pick(n) {
                server.registry.set_interested(&session);
            }
        }
        Op::End(n) => {
            if let Some(session) = pick(n) {
                server.end(&session, End::new(Reason::Kicked));
            }
        }
        Op::Settle(n) => {
            if let Some(session) = pick(n) {
                server.settle(&session).await;
            }
        }
    }
}

/// The sessions that all tasks of a run share.
mod parking {
    use std::sync::{Arc, Mutex};

    use server::Session;

    #[derive(Default)]
    pub struct Shared(Mutex<Vec<Arc<Session>>>);

    impl Shared {
        pub fn add(&self, session: Arc<Session>) {
            self.0.lock().expect("nobody panics").push(session);
        }

        pub fn pick(&self, n: usize) -> Option<Arc<Session>> {
            let all = self.0.lock().expect("nobody panics");
            all.get(n.checked_rem(all.len())?).cloned()
        }
    }
}

/// The counters, counted by hand.
fn counted(sessions: &[Arc<Session>]) -> Counts {
    let at = |stage| sessions.iter().filter(|session| session.stage() == stage).count();
    Counts {
        total: sessions.len(),
        unauthed: at(Stage::Unauthed),
        c2s: at(Stage::C2s),
        bound: at(Stage::Bound),
        available: at(Stage::Available),
        interested: at(Stage::Interested),
        hibernating: sessions.iter().filter(|session| !session.connected()).count(),
    }
}

async fn churn(plans: Vec<Vec<Op>>) {
    let world = World::start_with(&[], |config| {
        config.limits.per_address = 20;
        config.limits.per_account = 8;
    })
    .await;
    for name in ACCOUNTS {
        world.account_with(name, PASSWORD).await;
    }
    let (server, all) = (world.server.clone(), Arc::new(parking::Shared::default()));
    let tasks = plans.into_iter().map(|plan| {
        let (server, all) = (server.clone(), all.clone());
        tokio::spawn(async move {
            for op in plan {
                act(&server, &all, op).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("does not panic");
    }
    let registry = &server.registry;
    let there: Vec<_> = registry.all().collect();
    assert_eq!(registry.counts(), counted(&there), "counters and list");
    let ids = |sessions: &[Arc<Session>]| -> HashSet<SessionId> {
        sessions.iter().map(|session| session.id).collect()
    };
    for name in ACCOUNTS {
        let mine = |session: &&Arc<Session>| {
            session.alive() && session.identity().is_some_and(|me| me.jid.as_str() == name)
        };
        let wanted: Vec<_> = there.iter().filter(mine).cloned().collect();
        let listed = registry.of(name);
        assert_eq!(ids(&listed), ids(&wanted), "the index of {name}");
        assert_eq!(listed.len(), wanted.len(), "each once");
        let names: HashSet<_> = listed.iter().filter_map(|session| session.full()).collect();
        let bound = listed.iter().filter(|session| session.full().is_some()).count();
        assert!(bound <= 8, "the cap of an account");
        assert!(listed.len() - bound <= 8, "as many again may have bound nothing yet");
        assert_eq!(names.len(), bound, "two sessions with one name");
    }
    let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for session in &there {
        addresses.entry(session.address()).or_default().push(session.clone());
    }
    for (address, wanted) in &addresses {
        assert_eq!(ids(&registry.at(*address)), ids(wanted), "the index of {address}");
        assert!(wanted.len() <= 20, "the cap of an address");
    }
    for session in &there {
        server.settle(session).await;
    }
    assert_eq!(registry.counts(), Counts::default(), "nothing is left");
    assert!(addresses.keys().all(|address| registry.at(*address).is_empty()));
    assert!(ACCOUNTS.iter().all(|name| registry.of(name).is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn pr_02_counters_equal_the_lists_they_count(
        plans in prop::collection::vec(prop::collection::vec(op(), 1..80), 4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(churn(plans));
    }
}
