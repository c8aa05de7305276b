//! Programs that are told when sessions end: a receiver of their own, over real sockets.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde_json::Value;
use server::{
    Server,
    clock::Clock,
    config::{Config, Webhook},
    end::{End, Level, Reason},
    keyring::KeyRing,
};
use sha2::Sha256;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::world::{START, World, assert_eventually};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A receiver: what it was sent, and what it answers next; nothing there: 202.
#[derive(Clone, Default)]
struct Receiver {
    sent: Arc<Mutex<Vec<(u16, String)>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Receiver {
    async fn start(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        (address, self.serve(listener))
    }

    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let hear = async |State(receiver): State<Self>, body: String| {
            let status = receiver.answers.lock().pop_front().unwrap_or(202);
            receiver.sent.lock().push((status, body));
            StatusCode::from_u16(status).expect("a status")
        };
        let router = Router::new().route("/hook", post(hear)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") })
    }

    /// The tokens that were answered with 2xx.
    fn heard(&self) -> Vec<Value> {
        let sent = self.sent.lock();
        sent.iter().filter(|(status, _)| *status < 300).map(|(_, token)| claims(token)).collect()
    }
}

/// The claims of a token whose signature is right.
fn claims(token: &str) -> Value {
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(KEY.as_bytes()).expect("a key");
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    mac.verify_slice(&signature).expect("is signed with the key");
    let (header, claims) = signed.split_once('.').expect("three parts");
    let read = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
    };
    assert_eq!(read(header), serde_json::json!({ "typ": "secevent+jwt", "alg": "HS256" }));
    read(claims)
}

fn hook(address: SocketAddr) -> Webhook {
    let (name, url) = ("test".into(), format!("http://{address}/hook"));
    Webhook { name, url, key: KEY.into(), ..Webhook::default() }
}

fn told(hook: &Webhook) -> impl FnOnce(&mut Config) + use<> {
    let hook = hook.clone();
    |config| config.webhook = vec![hook]
}

/// Tells until it is dropped.
fn tell(server: &Arc<Server>, hook: &Webhook) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(net::webhook::tell(server.clone(), hook.clone(), stopped));
    stop
}

const TYPE: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const OURS: &str = "urn:usher:event:session-ended";

#[tokio::test]
async fn iv_16_every_cause_is_told_once_in_the_shape_of_the_standard() {
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start().await;
    let hook = hook(address);
    let world = World::without_doors(plugins::ALL, told(&hook));
    world.account("alice").await;
    let _telling = tell(&world.server, &hook);
    // One that never logged in is nobody's.
    let stranger =
        world.server.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).expect("is let in");
    world.server.end(&stranger, End::new(Reason::AuthTimeout));
    let mut wanted = Vec::new();
    for &reason in Reason::ALL {
        let session = world.phantom("alice", "phone").await;
        let (actor, by) = match reason {
            Reason::Kicked => (crate::world::admin(), "admin"),
            Reason::Closed => (server::end::Actor::Peer, "user"),
            Reason::Shutdown | Reason::Internal | Reason::Lost => {
                (server::end::Actor::Server, "system")
            }
            _ => (server::end::Actor::Server, "policy"),
        };
        let text = (reason == Reason::Kicked).then(|| "out with \"you\"".to_owned());
        let end = End { level: Level::Kick, actor, text, ..End::new(reason) };
        world.server.end(&session, end);
        // A login that became part of an earlier session has not ended that.
        if reason != Reason::Resumed {
            wanted.push((session.id.to_string(), reason, by));
        }
    }
    assert_eventually("all were told", || receiver.heard().len() >= wanted.len()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut heard = receiver.heard();
    heard.sort_by_key(|claims| claims["jti"].to_string());
    wanted.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(heard.len(), wanted.len(), "each once");
    for (claims, (id, reason, by)) in heard.iter().zip(&wanted) {
        assert_eq!(claims["jti"], format!("ended-{id}"));
        assert_eq!(claims["aud"], hook.url);
        assert_eq!(claims["iss"], "xmpp:localhost");
        assert_eq!(claims["sub_id"]["user"]["uri"], "xmpp:alice@localhost");
        assert_eq!(&claims["sub_id"]["session"]["id"], id);
        let event = &claims["events"][TYPE];
        assert_eq!(
            (&event["initiating_entity"], &event["reason_admin"]["en"]),
            (&Value::from(*by), &Value::from(reason.as_str()))
        );
        assert_eq!(event["event_timestamp"], START.0 / 1000);
        let ours = &claims["events"][OURS];
        assert_eq!(
            (&ours["jid"], &ours["reason"]),
            (&Value::from("alice@localhost/phone"), &Value::from(reason.as_str()))
        );
        if *reason == Reason::Kicked {
            assert_eq!(event["reason_user"]["en"], "out with \"you\"");
        }
    }
}

#[tokio::test]
async fn iv_16_a_receiver_that_fails_first_gets_each_event_once_in_the_end_and_always_the_same() {
    let receiver = Receiver::default();
    receiver.answers.lock().extend([503, 500, 302]);
    let (address, _serving) = receiver.start().await;
    let hook = hook(address);
    let world = World::without_doors(plugins::ALL, told(&hook));
    world.account("alice").await;
    let _telling = tell(&world.server, &hook);
    let session = world.phantom("alice", "phone").await;
    world.server.end(&session, End::new(Reason::Kicked));
    assert_eventually("it was heard", || !receiver.heard().is_empty()).await;
    let sent = receiver.sent.lock().clone();
    assert_eq!(sent.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [503, 500, 302, 202]);
    assert!(sent.iter().all(|(_, token)| *token == sent[0].1), "the same each time");
    assert_eventually_nothing_waits(&world.server, &hook).await;
    let text = world.server.metrics.text(&world.server);
    assert!(text.contains("usher_webhook_requests_total{outcome=\"failed\"} 3"), "{text}");
}

async fn assert_eventually_nothing_waits(server: &Arc<Server>, hook: &Webhook) {
    for _ in 0..500 {
        if server.events_for(hook, 1).await.expect("is read").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something still waits");
}

#[tokio::test]
async fn iv_16_what_was_not_heard_is_told_by_the_next_life_of_the_server() {
    // Nobody listens there yet.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = nobody.local_addr().expect("is bound");
    drop(nobody);
    let hook = hook(address);
    let (store, clock) = (store::memory(), Clock::manual(START));
    let id = {
        let keys = KeyRing::ephemeral();
        let world =
            World::start_keyed(store.clone(), keys, clock.clone(), plugins::ALL, told(&hook)).await;
        world.account("alice").await;
        let telling = tell(&world.server, &hook);
        let session = world.phantom("alice", "phone").await;
        world.server.shutdown().await;
        drop(telling);
        session.id
    };
    let receiver = Receiver::default();
    let listener = TcpListener::bind(address).await.expect("is free again");
    let _serving = receiver.serve(listener);
    let world = World::start_on(store, clock, plugins::ALL, told(&hook)).await;
    let _telling = tell(&world.server, &hook);
    assert_eventually("it was heard", || !receiver.heard().is_empty()).await;
    let [claims] = &receiver.heard()[..] else { panic!("not one") };
    assert_eq!(claims["jti"], format!("ended-{id}"));
    assert_eq!(claims["events"][OURS]["reason"], "shutdown");
}

#[tokio::test]
async fn one_event_that_is_refused_does_not_keep_the_others_back() {
    let receiver = Receiver::default();
    receiver.answers.lock().extend([400; 3]);
    let (address, _serving) = receiver.start().await;
    let hook = Webhook { reasons: vec!["kicked".into(), "revoked".into()], ..hook(address) };
    let world = World::without_doors(plugins::ALL, told(&hook));
    world.account("alice").await;
    let _telling = tell(&world.server, &hook);
    for reason in [Reason::Closed, Reason::Kicked, Reason::Idle] {
        let session = world.phantom("alice", "phone").await;
        world.server.end(&session, End::new(reason));
    }
    assert_eventually("it is refused", || !receiver.sent.lock().is_empty()).await;
    let session = world.phantom("alice", "phone").await;
    world.server.end(&session, End::new(Reason::Revoked));
    assert_eventually("both are heard", || receiver.heard().len() == 2).await;
    let reasons: Vec<_> =
        receiver.heard().iter().map(|c| c["events"][OURS]["reason"].clone()).collect();
    assert!(
        reasons.contains(&"kicked".into()) && reasons.contains(&"revoked".into()),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn what_nobody_hears_is_not_kept_for_ever() {
    let receiver = Receiver::default();
    receiver.answers.lock().extend([503; 2]);
    let (address, _serving) = receiver.start().await;
    let hook = hook(address);
    let world = World::without_doors(plugins::ALL, told(&hook));
    world.account("alice").await;
    let session = world.phantom("alice", "phone").await;
    world.server.end(&session, End::new(Reason::Kicked));
    world.clock.advance(3 * 86_400_000 + 1_000);
    let _telling = tell(&world.server, &hook);
    assert_eventually("it was tried", || !receiver.sent.lock().is_empty()).await;
    assert_eventually_nothing_waits(&world.server, &hook).await;
    assert!(receiver.heard().is_empty());
}
