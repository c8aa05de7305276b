//! Lists of sessions: pages with a cursor, filters, totals, and what is not shown.

use std::sync::Arc;

use server::{
    Server, Session,
    command::{self, Done, Reply},
    config::Span,
    end::{End, Reason},
};

use crate::{
    deadlines::{reason, unlimited},
    world::{ParseJid, World},
};

/// A listing: the ids of its rows, in order, and how it closed.
async fn list(server: &Arc<Server>, args: &[(&str, &str)]) -> (Vec<String>, Done) {
    let (rows, mut replies) = tokio::sync::mpsc::channel(16);
    let args = args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let run =
        command::run(server.clone(), command::Caller::local("test"), "session list", args, rows);
    let task = tokio::spawn(run);
    let mut ids = Vec::new();
    let done = loop {
        match replies.recv().await {
            Some(Reply::Row(row)) => ids.push(row["id"].as_str().expect("a text").to_owned()),
            Some(Reply::Done(done)) => break done,
            other => panic!("{other:?}"),
        }
    };
    task.await.expect("does not panic");
    (ids, done)
}

#[tokio::test]
async fn lj_25_what_is_overdue_is_not_listed_and_a_new_login_clears_it_away() {
    let world = World::without_doors(&[], |config| {
        config.sessions.inactivity = Span::seconds(100);
    });
    world.account("alice").await;
    let old = world.phantom("alice", "old").await;
    world.clock.advance(99_999);
    for args in [&[][..], &[("pattern", "alice@localhost")], &[("pattern", "*@localhost")]] {
        assert_eq!(list(&world.server, args).await.0, [old.id.to_string()]);
    }
    world.clock.advance(1);
    for args in [&[][..], &[("pattern", "alice@localhost")], &[("pattern", "*@localhost")]] {
        let (ids, done) = list(&world.server, args).await;
        assert!(ids.is_empty() && !done.matched, "hidden before anybody has swept");
    }
    assert!(old.alive());
    let new = world.phantom("alice", "new").await;
    assert_eq!(reason(&old), Some(Reason::Idle));
    world.server.settle(&old).await;
    assert_eq!(world.server.registry.counts().total, 1);
    assert_eq!(list(&world.server, &[]).await.0, [new.id.to_string()]);
}

#[tokio::test]
async fn iv_14_a_page_of_fifty_among_ten_thousand_sessions_and_their_total() {
    let world = World::without_doors(&[], unlimited);
    let server = &world.server;
    for user in 0..100 {
        world.account(&format!("u{user}")).await;
    }
    let lucas = ["luca", "lucas", "gianluca", "xlucax"];
    for name in lucas {
        world.account(name).await;
    }
    let mut wanted = Vec::new();
    for n in 0..10_000 {
        if n % 50 == 0 {
            let session = world.phantom(lucas[n / 50 % 4], &format!("r{n}")).await;
            wanted.push(session.id);
        } else {
            world.phantom(&format!("u{}", n % 100), &format!("r{n}")).await;
        }
    }
    wanted.sort();
    let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let mut args = vec![("pattern", "*luca*"), ("limit", "50")];
        args.extend(after.as_deref().map(|after| ("after", after)));
        let (ids, done) = list(server, &args).await;
        assert_eq!((ids.len(), &done.fields["total"]), (50, &200.into()));
        seen.extend(ids);
        let next = done.fields.get("next").and_then(|next| next.as_str());
        assert_eq!(next, seen.last().map(String::as_str).filter(|_| seen.len() < 200));
        assert_eq!(done.message.contains("--after"), next.is_some(), "{}", done.message);
        match next {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(seen == wanted, "all of them, in order, each once");
    let (ids, done) = list(server, &[("limit", "50")]).await;
    assert_eq!((ids.len(), &done.fields["total"]), (50, &10_000.into()));
    let (ids, done) = list(server, &[("stage", "c2s"), ("limit", "50")]).await;
    assert!(ids.is_empty() && !done.matched);

    // However rare what is looked for, one page looks at no more than it may.
    let rare =
        |session: &Session| session.full().is_some_and(|jid| jid.resource() == Some("r9950"));
    let (mut looked, mut pages, mut found, mut after) = (0, 0, Vec::new(), None);
    loop {
        let page = server.registry.page_where(after, 50, 1_000, rare);
        assert!(page.looked_at <= 1_000);
        (looked, pages, after) = (looked + page.looked_at, pages + 1, page.next);
        found.extend(page.sessions);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((looked, pages, found.len()), (10_000, 10, 1));

    // An address without `*` is no walk, and in order as well.
    let jid = "gianluca@localhost".parse_jid();
    let page = server.registry.page_of(&jid, None, 10, |_| true);
    assert_eq!((page.sessions.len(), page.looked_at), (10, 50));
    assert_eq!(page.next, page.sessions.last().map(|session| session.id));
    let (ids, done) = list(server, &[("pattern", "Gianluca@localhost"), ("limit", "30")]).await;
    assert_eq!((ids.len(), &done.fields["total"]), (30, &50.into()));
    let full = found[0].full().expect("is bound").to_string();
    assert_eq!(list(server, &[("pattern", &full)]).await.0, [found[0].id.to_string()]);
}

#[tokio::test]
async fn a_session_that_is_ending_is_listed_for_its_account_until_it_is_settled() {
    let world = World::without_doors(&[], |_| {});
    world.account("alice").await;
    let server = &world.server;
    let old = world.phantom("alice", "r").await;
    let new = world.phantom("alice", "r").await;
    assert_eq!(reason(&old), Some(Reason::Replaced));
    let both = [old.id.max(new.id), old.id.min(new.id)].map(|id| id.to_string());
    for pattern in ["alice@localhost", "alice@localhost/r", "*@localhost"] {
        let (mut ids, _) = list(server, &[("pattern", pattern)]).await;
        ids.reverse();
        assert_eq!(ids, both, "{pattern}");
    }
    server.end(&new, End::new(Reason::Kicked));
    server.settle(&old).await;
    assert_eq!(list(server, &[("pattern", "alice@localhost")]).await.0, [new.id.to_string()]);
    server.settle(&new).await;
    assert!(!list(server, &[("pattern", "alice@localhost")]).await.1.matched);
}
