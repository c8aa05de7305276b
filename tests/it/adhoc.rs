//! Commands that are given through the very session that they end: whoever asks hears the answer first.

use server::{account::Role, change::Standing, command::find, end::Actor};

use crate::world::{ParseJid, Remote, World};

const END: &str = "urn:usher:command:0#session-end";

/// A command in one request.
fn request(node: &str, fields: &[(&str, &str)]) -> String {
    let field =
        |(var, value): &(&str, &str)| format!("<field var='{var}'><value>{value}</value></field>");
    let fields: String = fields.iter().map(field).collect();
    format!(
        "<iq type='set' id='c' to='localhost'>\
         <command xmlns='http://jabber.org/protocol/commands' node='{node}'>\
         <x xmlns='jabber:x:data' type='submit'>{fields}</x></command></iq>"
    )
}

/// The next answer; stanzas of other kinds are passed over.
async fn answer(client: &mut Remote) -> String {
    loop {
        let element = client.element().await;
        if element.starts_with("<iq ") {
            return element;
        }
    }
}

async fn promote(world: &World, name: &str, role: Role) {
    let jid = format!("{name}@localhost");
    let standing = Standing::Role(role);
    let set = world.server.set_standing(&jid.parse_jid(), standing, Actor::Server).await;
    set.expect("is there");
}

#[tokio::test]
async fn lj_08_who_ends_all_sessions_hears_of_it_before_the_own_one_ends() {
    for level in ["kick", "end", "revoke", "block"] {
        let world =
            World::start(|config| config.sessions.close_wait = server::config::Span::seconds(1))
                .await;
        world.account("alice").await;
        // The older one asks: a client that has just come may not end older ones.
        let mut alice = world.bound("alice", "own").await;
        let mut other = world.bound("alice", "other").await;
        if level == "revoke" {
            alice.manage().await;
        }
        let session = world.session("alice@localhost/own");
        alice.send(request(END, &[("selector", "alice@localhost"), ("level", level)])).await;
        let told = answer(&mut alice).await;
        assert!(told.contains("2 sessions ended"), "{level}: {told}");
        assert_eq!(told.matches("<value>ended</value>").count(), 2, "{level}: {told}");
        let condition = match level {
            "revoke" | "block" => "not-authorized",
            _ => "policy-violation",
        };
        if level == "revoke" {
            assert!(alice.element().await.starts_with("<r "));
        }
        alice.expect_error(condition).await;
        other.expect_error(condition).await;
        assert!(!session.alive(), "{level}");
        world.empty().await;
    }
}

#[tokio::test]
async fn who_takes_away_the_own_account_or_password_hears_of_it_first() {
    for (command, fields, condition) in [
        ("user-disable", vec![("jid", "alice@localhost")], "not-authorized"),
        ("user-delete", vec![("jid", "alice@localhost")], "not-authorized"),
        ("epoch-raise", vec![("account", "alice@localhost"), ("reason", "x")], "reset"),
    ] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        promote(&world, "alice", Role::Admin).await;
        let mut alice = world.bound("alice", "own").await;
        let command_is = find(&command.replace('-', " ")).expect("is in the table");
        let fields: Vec<_> =
            fields.into_iter().filter(|(name, _)| command_is.arg(name).is_some()).collect();
        alice.send(request(&format!("urn:usher:command:0#{command}"), &fields)).await;
        let told = answer(&mut alice).await;
        assert!(
            told.contains("status=\"completed\"") || told.contains("status='completed'"),
            "{told}"
        );
        assert!(told.contains("1 session ended"), "{command}: {told}");
        alice.expect_error(condition).await;
        world.empty().await;
    }
}

#[tokio::test]
async fn who_stops_the_server_hears_that_it_stops() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    promote(&world, "alice", Role::Admin).await;
    let mut alice = world.bound("alice", "own").await;
    let server = world.server.clone();
    let main = tokio::spawn(async move {
        server.stop.asked().await;
        server.shutdown().await;
    });
    alice.send(request("http://jabber.org/protocol/admin#shutdown", &[])).await;
    let told = answer(&mut alice).await;
    assert!(told.contains("the server is stopping"), "{told}");
    alice.expect_error("system-shutdown").await;
    main.await.expect("does not panic");
}

#[tokio::test]
async fn nobody_is_spared_by_a_command_of_its_own_that_is_under_way() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("mallory").await;
    promote(&world, "mallory", Role::Admin).await;
    for resource in ["1", "2", "3"] {
        world.phantom("alice", resource).await;
    }
    let mut mallory = world.bound("mallory", "r").await;
    // One that takes long.
    let fields = [("selector", "alice@localhost"), ("rate", "1"), ("reason", "x")];
    mallory.send(request(END, &fields)).await;
    crate::world::assert_eventually("it is under way", || !world.server.jobs.all().is_empty())
        .await;
    let session = world.session("mallory@localhost/r");
    let end = server::end::End::new(server::end::Reason::Kicked);
    assert!(world.server.end(&session, end));
    assert!(!session.alive(), "at once");
    mallory.expect_error("policy-violation").await;
}
