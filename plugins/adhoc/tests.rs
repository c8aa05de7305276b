//! Dialogues: what a client says and what it is answered.

use std::sync::Arc;

use server::{
    account::Role,
    change::Standing,
    command::{self, Caller},
    end::{Actor, End, Reason},
};

use super::{steps, waiting};
use crate::testing::{Client, World, bare, eventually};

const COMMANDS: &str = super::COMMANDS;

/// A world with these accounts and roles; each has a session `a`.
async fn world(accounts: &[(&str, Role)]) -> (World, Vec<Client>) {
    let world = World::new(&[]).await;
    let mut clients = Vec::new();
    for (name, role) in accounts {
        world.add(name).await;
        let standing = Standing::Role(*role);
        let set = world.server.set_standing(&bare(name), standing, Actor::Server).await;
        set.expect("is there");
        clients.push(world.online(&format!("{name}/a")).await);
    }
    (world, clients)
}

fn node(command: &str) -> String {
    format!("urn:usher:command:0#{command}")
}

impl Client {
    /// Sends a command; `more` are further attributes, `inside` its content.
    async fn command(&self, node: &str, more: &str, inside: &str) -> String {
        let command = format!("<command xmlns='{COMMANDS}' node='{node}'{more}>{inside}</command>");
        let mut came =
            self.tell(&format!("<iq type='set' id='c' to='localhost'>{command}</iq>")).await;
        // What else comes of it is not asked about here.
        came.retain(|stanza| stanza.starts_with("<iq "));
        assert_eq!(came.len(), 1, "one answer: {came:?}");
        came.remove(0)
    }

    /// Begins a command; the id it has from then on.
    async fn begin(&self, node: &str) -> String {
        let answer = self.command(node, "", "").await;
        assert!(answer.contains("status='executing'"), "{answer}");
        id_of(&answer)
    }

    async fn disco(&self, what: &str, node: &str) -> String {
        let query =
            format!("<query xmlns='http://jabber.org/protocol/disco#{what}' node='{node}'/>");
        self.ask(&format!("<iq type='get' id='d' to='localhost'>{query}</iq>")).await
    }
}

fn id_of(answer: &str) -> String {
    let (_, rest) = answer.split_once("sessionid='").expect("has an id");
    rest.split('\'').next().expect("has an end").to_owned()
}

fn form(fields: &[(&str, &[&str])]) -> String {
    let field = |(var, values): &(&str, &[&str])| {
        let values: String = values.iter().map(|v| format!("<value>{v}</value>")).collect();
        format!("<field var='{var}'>{values}</field>")
    };
    let fields: String = fields.iter().map(field).collect();
    format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>")
}

fn with(id: &str, action: &str) -> String {
    format!(" sessionid='{id}' action='{action}'")
}

fn refused(answer: &str, condition: &str) -> bool {
    answer.contains("type='error'") && answer.contains(&format!("<{condition} xmlns="))
}

#[tokio::test]
async fn commands_are_listed_for_those_who_may_run_them() {
    let roles = [
        ("admin", Role::Admin),
        ("viewer", Role::Viewer),
        ("user", Role::User),
        ("bot", Role::Restricted),
    ];
    let (world, clients) = world(&roles).await;
    for (client, (name, role)) in clients.iter().zip(roles) {
        let list = client.disco("items", COMMANDS).await;
        let caller = world.server.caller_of(&client.session).await.expect("is there");
        for face in super::Face::all() {
            let listed = list.contains(&format!("node='{}'", face.node()));
            assert_eq!(listed, face.is_for(&world.server, &caller), "{name}: {}", face.node());
            let info = client.disco("info", &face.node()).await;
            match listed {
                true => {
                    assert!(info.contains("category='automation' type='command-node'"), "{info}");
                    assert!(info.contains("<feature var='jabber:x:data'/>"), "{info}");
                }
                false => {
                    assert!(refused(&info, "forbidden"), "{info}");
                    let answer = client.command(&face.node(), "", "").await;
                    assert!(refused(&answer, "forbidden"), "{answer}");
                }
            }
        }
        assert_eq!(list.contains("<item "), role > Role::Restricted, "{list}");
        assert_eq!(list.contains("#session-end'"), role > Role::Restricted);
        assert_eq!(list.contains("#user-list'"), role > Role::User);
        assert_eq!(list.contains("#user-add'"), role == Role::Admin);
        let info = client.disco("info", COMMANDS).await;
        assert!(info.contains("category='automation' type='command-list'"), "{info}");
    }
    assert!(refused(&clients[0].disco("info", &node("nothing")).await, "item-not-found"));
    assert!(refused(&clients[0].disco("items", "other").await, "item-not-found"));
    let leaf = clients[0].disco("items", &node("status")).await;
    assert!(leaf.contains("type='result'") && !leaf.contains("<item"), "{leaf}");
    let host = "<iq type='get' id='d' to='localhost'>\
                <query xmlns='http://jabber.org/protocol/disco#info'/></iq>";
    let host = clients[2].ask(host).await;
    assert!(host.contains(&format!("<feature var='{COMMANDS}'/>")), "{host}");
}

#[tokio::test]
async fn every_command_of_the_table_that_makes_sense_is_offered_with_its_arguments() {
    let (_world, clients) = world(&[("admin", Role::Admin)]).await;
    for command in
        super::generic::all().filter(|command| command.mutates || !command.args.is_empty())
    {
        let answer = clients[0].command(&super::generic::node(command), "", "").await;
        assert!(answer.contains("status='executing'"), "{}: {answer}", command.name);
        for arg in command.args {
            assert!(answer.contains(&format!("<field var='{}'", arg.name)), "{}", command.name);
        }
        let preview = answer.contains("<next/>");
        assert_eq!(preview, command.arg("dry-run").is_some(), "{}", command.name);
    }
    let offered = super::generic::all().count();
    assert_eq!(offered, command::table().count() - 2, "but for `session watch` and `user import`");
}

#[tokio::test]
async fn what_needs_nothing_is_done_at_once_and_what_changes_something_is_asked_first() {
    let (_world, clients) = world(&[("admin", Role::Admin)]).await;
    let answer = clients[0].command(&node("whoami"), "", "").await;
    assert!(answer.contains("status='completed'"), "{answer}");
    assert!(
        answer.contains("<field var='role' type='text-single' label='role'><value>admin</value>")
    );
    let over = id_of(&answer);
    let again = clients[0].command(&node("whoami"), &with(&over, "complete"), "").await;
    assert!(refused(&again, "session-expired") && refused(&again, "not-allowed"), "{again}");
    let id = clients[0].begin(&node("keys-rotate")).await;
    let answer = clients[0].command(&node("keys-rotate"), &with(&id, "complete"), "").await;
    assert!(answer.contains("<note type='info'>key 2 is in use</note>"), "{answer}");
}

#[tokio::test]
async fn lj_26_the_own_sessions_are_listed_and_ended_by_an_ordinary_account() {
    let (world, clients) = world(&[("juliet", Role::User), ("nurse", Role::User)]).await;
    let other = world.online("juliet/balcony").await;
    let juliet = &clients[0];
    let answer = juliet.command(&node("session-list"), "", &form(&[])).await;
    assert_eq!(answer.matches("<item>").count(), 2, "{answer}");
    assert!(
        answer.contains("<value>juliet@localhost/balcony</value>") && !answer.contains("nurse")
    );
    let columns = form(&[("columns", &["jid", "stage"])]);
    let answer = juliet.command(&node("session-list"), "", &columns).await;
    let reported = "<reported><field var='jid' type='jid-single' label='jid'/>\
                    <field var='stage' type='text-single' label='stage'/></reported>";
    assert!(answer.contains(reported), "{answer}");
    // As somebody with a client does it: begin, see who would go, do it.
    let tending = tend(&world, &other);
    let end = node("session-end");
    let id = juliet.begin(&end).await;
    let named = form(&[("selector", &["juliet@localhost"]), ("others", &["1"])]);
    let shown = juliet.command(&end, &with(&id, "next"), &named).await;
    assert!(
        shown.contains("status='executing'") && shown.contains("<prev/><complete/>"),
        "{shown}"
    );
    assert!(shown.contains("<value>would-end</value>") && other.session.alive(), "{shown}");
    let back = juliet.command(&end, &with(&id, "prev"), "").await;
    let remembered = "label='Full or bare JIDs'><value>juliet@localhost</value>";
    assert!(back.contains(remembered), "{back}");
    let shown = juliet.command(&end, &with(&id, "next"), &named).await;
    assert!(shown.contains("would-end"), "{shown}");
    let done = juliet.command(&end, &with(&id, "execute"), "").await;
    assert!(done.contains("status='completed'"), "{done}");
    assert!(done.contains("<note type='info'>1 session ended</note>"), "{done}");
    tending.await.expect("does not panic");
    assert!(!other.session.alive() && juliet.session.alive() && clients[1].session.alive());
}

/// Does for a session what its connection does when it ends.
fn tend(world: &World, client: &Client) -> tokio::task::JoinHandle<()> {
    let (server, session) = (world.server.clone(), Arc::clone(&client.session));
    tokio::spawn(async move {
        while session.alive() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        server.settle(&session).await;
    })
}

#[tokio::test]
async fn b_05_nobody_ends_whom_the_preview_has_not_shown() {
    let (world, clients) = world(&[("juliet", Role::User)]).await;
    let one = world.online("juliet/1").await;
    let end = node("session-end");
    let id = clients[0].begin(&end).await;
    let shown = clients[0].command(&end, &with(&id, "next"), &form(&[("others", &["1"])])).await;
    assert!(shown.contains("juliet@localhost/1"), "{shown}");
    let two = world.online("juliet/2").await;
    let done = clients[0].command(&end, &with(&id, "complete"), "").await;
    assert!(done.contains("status='completed'") && done.contains("<note type='error'>"), "{done}");
    assert!(one.session.alive() && two.session.alive());
}

#[tokio::test]
async fn refusals_are_errors_with_the_words_of_the_table() {
    let (world, clients) =
        world(&[("staff", Role::Support), ("juliet", Role::User), ("admin", Role::Admin)]).await;
    let end = node("session-end");
    // No reason, wrong form, wrong value: it can be said again.
    let id = clients[0].begin(&end).await;
    let juliet: (&str, &[&str]) = ("selector", &["juliet@localhost"]);
    for (inside, named) in [
        (form(&[juliet]), "needs `--reason`"),
        (form(&[]), "it is not said which sessions"),
        (form(&[("selector", &["@"])]), "is not a JID"),
        (form(&[juliet, ("level", &["everything"])]), "`everything` is none of"),
        (form(&[("FORM_TYPE", &["urn:other"])]), "FORM_TYPE"),
    ] {
        let answer = clients[0].command(&end, &with(&id, "complete"), &inside).await;
        assert!(refused(&answer, "bad-payload") && refused(&answer, "bad-request"), "{answer}");
        assert!(answer.contains(named), "{answer}");
    }
    // What the role does not reach.
    let inside = form(&[("selector", &["admin@localhost"]), ("reason", &["x"])]);
    let answer = clients[0].command(&end, &with(&id, "complete"), &inside).await;
    assert!(refused(&answer, "forbidden") && answer.contains("hint: "), "{answer}");
    assert!(clients[1].session.alive() && clients[2].session.alive());
    // What takes a password is told before anything is filled in.
    world.clock.advance(24 * 3_600_000);
    let answer = clients[2].command(&node("user-add"), "", "").await;
    assert!(
        refused(&answer, "forbidden") && answer.contains("login with the password"),
        "{answer}"
    );
    // What could not be done is completed, with an error.
    let none = form(&[("session", &["juliet@localhost"])]);
    let twice = world.online("juliet/b").await;
    let answer = clients[2].command(&node("session-show"), "", &none).await;
    assert!(answer.contains("status='completed'"), "{answer}");
    assert!(
        answer.contains("<note type='error'>`juliet@localhost` has 2 sessions; hint: "),
        "{answer}"
    );
    drop(twice);
    // What was not there is a warning.
    let nobody = form(&[("pattern", &["nobody@localhost"])]);
    let answer = clients[2].command(&node("user-list"), "", &nobody).await;
    assert!(answer.contains("<note type='warn'>no account matches</note>"), "{answer}");
}

#[tokio::test]
async fn a_refused_change_is_in_the_audit_though_no_form_was_filled_in() {
    let (world, clients) = world(&[("juliet", Role::User)]).await;
    let before = world.server.verify_audit().await.expect("is whole").count;
    for command in ["user-disable", "user-disable", "user-list"] {
        let answer = clients[0].command(&node(command), "", "").await;
        assert!(refused(&answer, "forbidden"), "{answer}");
    }
    assert_eq!(world.server.verify_audit().await.expect("is whole").count, before + 2);
    let entry = world.server.audit_tail(1).await.expect("is read").pop().expect("is there");
    assert_eq!((entry.what.as_str(), entry.ok), ("user disable", false));
    assert_eq!(entry.who, "juliet@localhost");
}

#[tokio::test]
async fn actions_and_ids_that_do_not_fit_have_their_own_conditions() {
    let (world, clients) = world(&[("juliet", Role::User), ("nurse", Role::User)]).await;
    let juliet = &clients[0];
    let list = node("session-list");
    for action in ["cancel", "prev", "next", "complete"] {
        let answer = juliet.command(&list, &format!(" action='{action}'"), "").await;
        assert!(refused(&answer, "bad-action"), "{action}: {answer}");
    }
    assert!(refused(&juliet.command(&list, " action='undo'", "").await, "malformed-action"));
    assert!(refused(&juliet.command(&list, " xml:lang='not a tag'", "").await, "bad-locale"));
    assert!(juliet.command(&list, " xml:lang='fr-CA'", "").await.contains("xml:lang='en'"));
    assert!(refused(&juliet.command(&node("nothing"), "", "").await, "item-not-found"));
    assert!(refused(&juliet.command(&list, &with("never", "complete"), "").await, "bad-sessionid"));
    let get = format!(
        "<iq type='get' id='c' to='localhost'><command xmlns='{COMMANDS}' node='{list}'/></iq>"
    );
    assert!(refused(&juliet.ask(&get).await, "bad-request"));
    let bare = format!("<iq type='set' id='c' to='localhost'><command xmlns='{COMMANDS}'/></iq>");
    assert!(refused(&juliet.ask(&bare).await, "bad-request"));

    let id = juliet.begin(&list).await;
    let other = world.online("juliet/b").await;
    for (who, node) in [(&clients[1], &list), (&other, &list), (juliet, &node("user-show"))] {
        let answer = who.command(node, &with(&id, "complete"), &form(&[])).await;
        assert!(refused(&answer, "bad-sessionid"), "{answer}");
    }
    // The command is in the refusal, for clients that look there for what they have under way.
    let answer = juliet.command(&list, &with(&id, "prev"), "").await;
    assert!(answer.contains(&format!("sessionid='{id}'")), "{answer}");
    for action in ["prev", "next"] {
        assert!(refused(&juliet.command(&list, &with(&id, action), "").await, "bad-action"));
    }
    let canceled = juliet.command(&list, &with(&id, "cancel"), "").await;
    assert!(canceled.contains("status='canceled'") && !canceled.contains("<x "), "{canceled}");
    let answer = juliet.command(&list, &with(&id, "complete"), &form(&[])).await;
    assert!(refused(&answer, "session-expired"), "{answer}");
    // A form that is taken back is not carried out.
    let id = juliet.begin(&list).await;
    let taken_back = "<x xmlns='jabber:x:data' type='cancel'/>";
    let answer = juliet.command(&list, &with(&id, "complete"), taken_back).await;
    assert!(refused(&answer, "bad-payload"), "{answer}");
    // At the very instant that its time has passed, it is over.
    world.clock.advance(steps::WAIT * 1_000 - 1);
    let answer = juliet.command(&list, &with(&id, "complete"), taken_back).await;
    assert!(refused(&answer, "bad-payload"), "{answer}");
    world.clock.advance(steps::WAIT * 1_000);
    let answer = juliet.command(&list, &with(&id, "complete"), &form(&[])).await;
    assert!(refused(&answer, "session-expired"), "{answer}");
}

#[tokio::test]
async fn what_waits_is_bounded_and_goes_with_its_session() {
    let (world, clients) = world(&[("juliet", Role::User)]).await;
    let other = world.online("juliet/b").await;
    let list = node("session-list");
    let first = clients[0].begin(&list).await;
    for _ in 0..steps::PER_ACCOUNT {
        clients[0].begin(&list).await;
    }
    assert_eq!(waiting(&world.server), steps::PER_ACCOUNT);
    let answer = clients[0].command(&list, &with(&first, "complete"), &form(&[])).await;
    assert!(refused(&answer, "session-expired"), "{answer}");
    let answer = other.command(&list, "", "").await;
    assert!(refused(&answer, "resource-constraint"), "{answer}");
    world.server.end(&clients[0].session, End::new(Reason::Kicked));
    eventually("its commands are gone", async || waiting(&world.server) == 0).await;
    other.begin(&list).await;
}

#[tokio::test]
async fn the_account_that_has_lost_a_right_has_lost_it_between_form_and_submission() {
    let (world, clients) = world(&[("staff", Role::Operator), ("juliet", Role::User)]).await;
    let disable = node("user-disable");
    let id = clients[0].begin(&disable).await;
    let standing = Standing::Role(Role::Viewer);
    let set = world.server.set_standing(&bare("staff"), standing, Actor::Server).await;
    set.expect("is there");
    let answer = clients[0]
        .command(&disable, &with(&id, "complete"), &form(&[("jid", &["juliet@localhost"])]))
        .await;
    assert!(refused(&answer, "forbidden"), "{answer}");
    let account = world.server.account("juliet@localhost").await.expect("is read");
    assert!(account.is_some_and(|account| !account.disabled));
    assert!(clients[0].session.alive(), "a lower role does not end a session");
}

#[tokio::test]
async fn an_answer_has_no_more_rows_than_there_is_room_for_and_says_so() {
    let (world, clients) = world(&[("viewer", Role::Viewer)]).await;
    let keys = wire::Secret::new(b"pencil".to_vec());
    let keys = world.server.keys_of(keys).await.expect("has keys");
    for number in 0..super::report::ROWS {
        let jid = bare(&format!("user{number:04}"));
        let added = world.server.add_account(&jid, keys.clone(), Role::User).await;
        added.expect("is new");
    }
    let answer = clients[0].command(&node("user-list"), "", &form(&[])).await;
    assert_eq!(answer.matches("<item>").count(), super::report::ROWS);
    assert!(answer.contains("<note type='warn'>1 more are not shown"), "{answer}");
    let local = Caller::local("uid:0");
    let limit = serde_json::json!({ "pattern": "user000*" }).as_object().cloned();
    let direct =
        command::collect(world.server.clone(), local, "user list", limit.expect("is one"), 4).await;
    assert_eq!((direct.rows.len(), direct.left_out), (4, 6));
}

fn admin(name: &str) -> String {
    format!("http://jabber.org/protocol/admin#{name}")
}

/// Carries out a use case in one request.
async fn carry_out(client: &Client, name: &str, fields: &[(&str, &[&str])]) -> String {
    client.command(&admin(name), "", &form(fields)).await
}

#[tokio::test]
async fn users_are_added_disabled_enabled_and_deleted() {
    let (world, clients) = world(&[("admin", Role::Admin)]).await;
    let admin = &clients[0];
    let account =
        async |name: &str| world.server.account(bare(name).as_str()).await.expect("is read");
    let new: (&str, &[&str]) = ("accountjid", &["juliet@localhost"]);
    let fields = [new, ("password", &["R0m30"]), ("password-verify", &["R0me0"])];
    let answer = carry_out(admin, "add-user", &fields).await;
    assert!(refused(&answer, "bad-payload") && answer.contains("differ"), "{answer}");
    assert!(refused(&carry_out(admin, "add-user", &[new]).await, "bad-payload"));
    assert!(account("juliet").await.is_none());
    let fields =
        [new, ("password", &["R0m30"]), ("password-verify", &["R0m30"]), ("email", &["x"])];
    let answer = carry_out(admin, "add-user", &fields).await;
    assert!(answer.contains("<note type='info'>added `juliet@localhost` as user"), "{answer}");
    let answer = carry_out(admin, "add-user", &fields).await;
    assert!(answer.contains("status='completed'") && answer.contains("<note type='error'>"));

    let fields = [("accountjid", new.1), ("password", &["other"])];
    let answer = carry_out(admin, "change-user-password", &fields).await;
    assert!(answer.contains("set the password of `juliet@localhost`"), "{answer}");
    world.add("nurse").await;
    let both: &[(&str, &[&str])] = &[("accountjids", &["juliet@localhost", "nurse@localhost"])];
    let answer = carry_out(admin, "disable-user", both).await;
    assert_eq!(answer.matches("<note type='info'>disabled").count(), 2, "{answer}");
    assert!(account("nurse").await.is_some_and(|account| account.disabled));
    let count = carry_out(admin, "get-disabled-users-num", &[]).await;
    assert!(count.contains("<field var='disabledusersnum'") && count.contains("<value>2</value>"));
    let disabled = carry_out(admin, "get-disabled-users-list", &[]).await;
    let values = "<value>juliet@localhost</value><value>nurse@localhost</value></field>";
    assert!(disabled.contains(values), "{disabled}");
    carry_out(admin, "reenable-user", both).await;
    assert!(account("nurse").await.is_some_and(|account| !account.disabled));
    // Some are not there: that is said, and the others are seen to.
    let three: &[(&str, &[&str])] =
        &[("accountjids", &["juliet@localhost", "nobody@localhost", "nurse@localhost"])];
    let answer = carry_out(admin, "delete-user", three).await;
    assert_eq!(answer.matches("<note type='info'>deleted").count(), 2, "{answer}");
    assert!(answer.contains("<note type='error'>`nobody@localhost`"), "{answer}");
    assert!(account("juliet").await.is_none() && account("nurse").await.is_none());
    assert!(refused(&carry_out(admin, "delete-user", &[]).await, "bad-payload"));
}

#[tokio::test]
async fn iv_01_sessions_end_by_their_full_address_or_all_by_the_bare_one() {
    let (world, clients) = world(&[("staff", Role::Support), ("juliet", Role::User)]).await;
    let mut sessions = Vec::new();
    for resource in ["1", "2", "3"] {
        let client = world.online(&format!("juliet/{resource}")).await;
        tend(&world, &client);
        sessions.push(client);
    }
    tend(&world, &clients[1]);
    let alive = || sessions.iter().map(|one| one.session.alive()).collect::<Vec<_>>();
    let one: (&str, &[&str]) = ("accountjids", &["juliet@localhost/2"]);
    let answer = carry_out(&clients[0], "end-user-session", &[one]).await;
    assert!(refused(&answer, "bad-payload") && answer.contains("reason"), "{answer}");
    assert_eq!(alive(), [true; 3]);
    let why: (&str, &[&str]) = ("x-reason", &["test"]);
    let answer = carry_out(&clients[0], "end-user-session", &[one, why]).await;
    assert!(answer.contains("<note type='info'>1 session ended</note>"), "{answer}");
    assert_eq!(alive(), [true, false, true]);
    let all: (&str, &[&str]) = ("accountjids", &["juliet@localhost"]);
    let answer = carry_out(&clients[0], "end-user-session", &[all, why]).await;
    assert!(answer.contains("<note type='info'>3 sessions ended</note>"), "{answer}");
    assert_eq!(alive(), [false; 3]);
    // Nobody is kept out by it.
    world.online("juliet/again").await;
    // A plain user ends its own in the same way, and no other.
    let juliet = world.online("juliet/own").await;
    let answer =
        carry_out(&juliet, "end-user-session", &[("accountjids", &["staff@localhost"])]).await;
    assert!(refused(&answer, "forbidden"), "{answer}");
    assert!(clients[0].session.alive());
}

#[tokio::test]
async fn users_are_counted_and_listed_by_what_they_are() {
    let roles = [("viewer", Role::Viewer), ("juliet", Role::User), ("romeo", Role::User)];
    let (world, clients) = world(&roles).await;
    world.add("nurse").await;
    world.clock.advance(599_999);
    clients[1].send("<message to='romeo@localhost' type='chat'><body>x</body></message>").await;
    world.clock.advance(1);
    let number = async |name: &str| {
        let answer = carry_out(&clients[0], name, &[]).await;
        let (_, rest) = answer.split_once("usersnum'").expect(&answer);
        let (_, rest) = rest.split_once("<value>").expect("has a value");
        rest.split('<').next().expect("has an end").to_owned()
    };
    assert_eq!(number("get-registered-users-num").await, "4");
    assert_eq!(number("get-online-users-num").await, "3");
    // Whoever asks does something by that.
    assert_eq!(number("get-active-users-num").await, "2");
    assert_eq!(number("get-idle-users-num").await, "1");
    let listed = async |name: &str| {
        let answer = carry_out(&clients[0], name, &[("max_items", &["25"])]).await;
        let (_, rest) = answer.split_once("userjids'").expect(&answer);
        let users = ["juliet", "nurse", "romeo", "viewer"];
        let here = |user: &&str| rest.contains(&format!("<value>{user}@localhost</value>"));
        users.into_iter().filter(here).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed("get-registered-users-list").await, "juliet nurse romeo viewer");
    assert_eq!(listed("get-online-users-list").await, "juliet romeo viewer");
    assert_eq!(listed("get-active-users").await, "juliet viewer");
    assert_eq!(listed("get-idle-users").await, "romeo");
    let answer = carry_out(&clients[0], "get-online-users-list", &[("max_items", &["7"])]).await;
    assert!(refused(&answer, "bad-payload"), "{answer}");
    let form = clients[0].command(&admin("get-online-users-list"), "", "").await;
    assert!(form.contains("<option label='none'><value>none</value></option>"), "{form}");

    let stats = async |who: &Client| {
        carry_out(who, "user-stats", &[("accountjid", &["juliet@localhost"])]).await
    };
    let answer = stats(&clients[0]).await;
    assert!(
        answer.contains("label='The names of an account&apos;s online sessions'><value>a</value>")
    );
    assert!(answer.contains("<value>***</value>") && !answer.contains("127.0.0.1"), "{answer}");
    assert!(stats(&clients[1]).await.contains("<value>127.0.0.1</value>"), "its own it knows");
    assert!(refused(&stats(&clients[2]).await, "forbidden"));
}

#[tokio::test]
async fn the_last_login_of_one_is_told_as_fields_and_of_several_as_a_table() {
    let (world, clients) = world(&[("viewer", Role::Viewer), ("juliet", Role::User)]).await;
    let told = async || {
        carry_out(&clients[0], "get-user-lastlogin", &[("accountjids", &["juliet@localhost"])])
            .await
    };
    let field = "<value>2026-11-22T10:00:00.000Z</value>";
    eventually("it is written", async || told().await.contains(field)).await;
    assert!(told().await.contains("<value>http://jabber.org/protocol/admin</value>"));
    let both = [("accountjids", &["juliet@localhost", "viewer@localhost"] as &[&str])];
    let answer = carry_out(&clients[0], "get-user-lastlogin", &both).await;
    assert_eq!(answer.matches("<item>").count(), 2, "{answer}");
    let nobody = [("accountjids", &["nobody@localhost"] as &[&str])];
    let answer = carry_out(&clients[0], "get-user-lastlogin", &nobody).await;
    assert!(answer.contains("<note type='warn'>there is no account"), "{answer}");
    drop(world);
}

#[tokio::test]
async fn an_announcement_reaches_whoever_is_online() {
    let (world, clients) = world(&[("admin", Role::Admin), ("juliet", Role::User)]).await;
    let silent = world.bind("juliet/silent").await;
    let lines = [("announcement", &["Fish &amp;", "", "chips"] as &[&str])];
    let answer = carry_out(&clients[0], "announce", &lines).await;
    assert!(answer.contains("<note type='info'>told 2 sessions</note>"), "{answer}");
    let body = "<message type='headline' from='localhost' to='juliet@localhost/a'>\
                <body>Fish &amp;&#10;&#10;chips</body></message>";
    assert_eq!(clients[1].take(), [body]);
    assert!(silent.take().is_empty(), "it has not said that it takes messages");
    assert!(refused(&carry_out(&clients[1], "announce", &lines).await, "forbidden"));
    let empty = [("announcement", &[" "] as &[&str])];
    assert!(refused(&carry_out(&clients[0], "announce", &empty).await, "bad-payload"));
}

#[tokio::test]
async fn the_service_is_stopped_later_and_only_in_the_run_that_was_meant() {
    let (world, clients) = world(&[("admin", Role::Admin), ("juliet", Role::User)]).await;
    let fields = [("delay", &["30"] as &[&str]), ("announcement", &["soon"])];
    let answer = carry_out(&clients[0], "shutdown", &fields).await;
    assert!(answer.contains("told 2 sessions") && answer.contains("planned as 1 for"), "{answer}");
    assert!(crate::testing::one(&clients[1].take(), &["<body>soon</body>"]));
    let [planned] = &world.server.planned().await.expect("is read")[..] else { panic!("one plan") };
    assert_eq!(planned.what, "stop");
    world.clock.advance(29_999);
    assert_eq!(world.server.run_due().await.expect("is read"), 0);
    let again = world.restarted();
    world.clock.advance(1);
    assert_eq!(again.server.run_due().await.expect("is read"), 1);
    let asked = tokio::time::timeout(std::time::Duration::ZERO, again.server.stop.asked()).await;
    assert!(asked.is_err(), "another run was meant");

    carry_out(&clients[0], "shutdown", &fields).await;
    world.clock.advance(30_000);
    assert_eq!(world.server.run_due().await.expect("is read"), 1);
    let asked = tokio::time::timeout(std::time::Duration::ZERO, world.server.stop.asked()).await;
    assert_eq!(asked.expect("is asked"), server::stop::Wish::Stop);
    let answer = carry_out(&clients[0], "restart", &[]).await;
    assert!(answer.contains("<note type='error'>this server cannot start itself anew"), "{answer}");
}
