//! Connections that come by way of a balancer: whose they are, how they are encrypted, and who may
//! say so.

use std::{net::SocketAddr, time::Duration};

use server::config::Config;
use tokio::io::AsyncReadExt;

use crate::{
    dialogue::HEADER,
    world::{PASSWORD, Remote, Socket, World, assert_eventually},
};

const V1: &[u8] = b"PROXY TCP6 2001:db8:1:2::7 ::1 40000 5222\r\n";

fn trusting(config: &mut Config) {
    config.listen.proxies = vec!["127.0.0.0/8".into()];
}

/// Version 2, for 192.0.2.7:40000, with the addition that the client spoke this TLS.
fn v2(command: u8, tls: Option<&str>) -> Vec<u8> {
    let mut rest = vec![192, 0, 2, 7, 127, 0, 0, 1, 0x9c, 0x40, 0x14, 0x66];
    if let Some(version) = tls {
        let length = u8::try_from(version.len()).expect("is short");
        rest.extend([0x20, 0, length + 8, 1, 0, 0, 0, 0, 0x21, 0, length]);
        rest.extend(version.as_bytes());
    }
    let length = u8::try_from(rest.len()).expect("is short");
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11, 0, length][..], &rest].concat()
}

async fn online(mut client: Remote, world: &World, resource: &str) -> (Remote, SocketAddr) {
    client.login("alice", PASSWORD).await;
    client.bind(resource).await;
    let peer = world.session(&format!("alice@localhost/{resource}")).peer();
    (client, peer)
}

/// The connection is closed without a word.
async fn cut(client: Remote) {
    let Socket::Tcp(mut tcp) = client.link else { panic!("not a plain connection") };
    let mut rest = Vec::new();
    // Bytes that nobody has read make a reset of the close.
    let _ = tcp.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_session_has_the_address_that_the_balancer_names() {
    let world = World::start(trusting).await;
    world.account("alice").await;
    let (_one, peer) = online(world.connect_through(V1, false).await, &world, "v1").await;
    assert_eq!(peer, "[2001:db8:1:2::7]:40000".parse().unwrap());
    let (_two, peer) =
        online(world.connect_through(&v2(0x21, None), false).await, &world, "v2").await;
    assert_eq!(peer, "192.0.2.7:40000".parse().unwrap());
}

#[tokio::test]
async fn a_balancer_that_speaks_for_itself_keeps_its_address() {
    let world = World::start(trusting).await;
    world.account("alice").await;
    let unknown = world.connect_through(b"PROXY UNKNOWN\r\n", false).await;
    let (_one, peer) = online(unknown, &world, "v1").await;
    assert_eq!(peer.ip().to_string(), "127.0.0.1");
    let local = world.connect_through(&v2(0x20, None), false).await;
    let (_two, peer) = online(local, &world, "v2").await;
    assert_eq!(peer.ip().to_string(), "127.0.0.1");
}

#[tokio::test]
async fn what_stands_behind_the_header_is_the_stream() {
    let world = World::start(trusting).await;
    let whole = [V1, HEADER.as_bytes()].concat();
    let mut client = world.connect_through(&whole, false).await;
    client.expect("<stream:stream from='localhost' id='*' version='1.0' …>").await;
    assert!(client.element().await.contains("mechanisms"));
}

#[tokio::test]
async fn tls_may_go_through_the_balancer_untouched() {
    let world = World::start(|config| {
        trusting(config);
        config.tls.required = true;
    })
    .await;
    world.account("alice").await;
    let mut client = world.connect_through(V1, true).await;
    client.start_tls().await.expect("a handshake");
    let (_client, peer) = online(client, &world, "r").await;
    assert_eq!(peer.ip().to_string(), "2001:db8:1:2::7");
    assert_ne!(world.only().tls().expect("is encrypted").cipher, "by proxy");
}

#[tokio::test]
async fn the_caps_are_those_of_the_clients_addresses() {
    let world = World::start(|config| {
        trusting(config);
        config.limits.per_address = 1;
    })
    .await;
    let mut one = world.connect_through(V1, false).await;
    one.open().await;
    // Another address by the same balancer.
    let mut two = world.connect_through(&v2(0x21, None), false).await;
    two.open().await;
    // The same /64.
    let same = b"PROXY TCP6 2001:db8:1:2::8 ::1 40000 5222\r\n";
    let mut three = world.connect_through(same, false).await;
    three.expect("<stream:stream …>").await;
    three.expect_error("policy-violation").await;
}

#[tokio::test]
async fn the_word_of_a_balancer_on_tls_counts_if_it_is_to() {
    for direct in [false, true] {
        let world = World::start(|config| {
            trusting(config);
            config.listen.proxies_tls = true;
            config.tls.required = true;
        })
        .await;
        world.account("alice").await;
        let mut client = world.connect_through(&v2(0x21, Some("TLSv1.3")), direct).await;
        let features = client.open().await;
        assert!(!features.contains("starttls"), "{features}");
        assert!(features.contains("PLAIN"), "{features}");
        assert!(!features.contains("-PLUS"), "there is nothing to bind to: {features}");
        let tls = world.only().tls().expect("is encrypted");
        assert_eq!((tls.version, tls.cipher), ("TLSv1.3", "by proxy"));
        drop(client);
        let again = world.connect_through(&v2(0x21, Some("TLSv1.2")), direct).await;
        let (_again, peer) = online(again, &world, "r").await;
        assert_eq!(peer.ip().to_string(), "192.0.2.7");

        // A client that came in the clear is asked for TLS as ever.
        if !direct {
            let mut clear = world.connect_through(&v2(0x21, None), direct).await;
            let features = clear.open().await;
            assert!(features.contains("<required"), "{features}");
        }
        cut(world.connect_through(&v2(0x21, Some("TLSv1.1")), direct).await).await;
    }
}

#[tokio::test]
async fn the_word_of_a_balancer_on_tls_does_not_count_by_itself() {
    let world = World::start(|config| {
        trusting(config);
        config.tls.required = true;
    })
    .await;
    let mut client = world.connect_through(&v2(0x21, Some("TLSv1.3")), false).await;
    let features = client.open().await;
    assert!(features.contains("<required"), "{features}");
    assert_eq!(world.only().tls(), None);
}

#[tokio::test]
async fn from_anybody_else_a_header_is_bad_xml() {
    for proxies in [vec![], vec!["192.0.2.0/24".to_owned()]] {
        let world = World::start(|config| config.listen.proxies = proxies).await;
        let mut client = world.connect_through(V1, false).await;
        client.expect("<stream:stream …>").await;
        client.expect_error("not-well-formed").await;
    }
}

#[tokio::test]
async fn a_balancer_without_a_whole_header_is_let_in_by_nobody() {
    let world = World::start(trusting).await;
    for wrong in [HEADER.as_bytes(), b"PROXY TCP6 2000 ::1 1 2\r\n", &v2(0x31, None)] {
        cut(world.connect_through(wrong, false).await).await;
    }
    assert_eq!(world.server.registry.counts().total, 0);
}

#[tokio::test]
async fn a_slow_balancer_holds_nobody_up_and_is_not_waited_for_long() {
    let world = World::start(trusting).await;
    world.account("alice").await;
    let slow = world.connect_through(&V1[..10], false).await;
    let silent = world.connect_through(b"", false).await;
    let (_quick, _) = online(world.connect_through(V1, false).await, &world, "r").await;
    // Time passes only when everybody waits.
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    cut(slow).await;
    cut(silent).await;
    assert!(before.elapsed() < Duration::from_secs(10));
    tokio::time::resume();
    assert_eventually("one session", || world.server.registry.counts().total == 1).await;
}
