//! Many ends at a measured pace. Time is the runtime's own and stands still while there is work, so
//! that what is measured here is the pace and not the machine.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use server::{
    Session,
    end::{End, Outcome, Reason},
    pace::{Control, Fate, Order, Pace, Progress},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::world::{World, tended};

/// A paced end at work, and what it has said so far.
struct Run {
    control: Control,
    task: JoinHandle<Vec<Fate>>,
    said: Arc<Mutex<Vec<Progress>>>,
}

impl Run {
    fn start(world: &World, sessions: Vec<Arc<Session>>, per_second: u32) -> Self {
        let (server, control) = (world.server.clone(), Control::default());
        let said = Arc::new(Mutex::new(Vec::new()));
        let (steer, heard) = (control.clone(), said.clone());
        let task = tokio::spawn(async move {
            let pace = Pace::per_second(per_second).expect("is not 0");
            let end = End::new(Reason::Ended);
            let say = |progress| heard.lock().expect("nobody panics").push(progress);
            server.end_paced(sessions, &end, pace, &steer, say).await
        });
        Self { control, task, said }
    }

    fn done(&self) -> usize {
        self.said.lock().expect("nobody panics").last().map_or(0, |progress| progress.done)
    }
}

fn world() -> World {
    World::without_doors(&[], |config| config.limits.per_address = 0)
}

fn sessions(world: &World, count: usize) -> Vec<Arc<Session>> {
    (0..count).map(|_| tended(&world.server)).collect()
}

async fn after(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn b_06_so_many_a_second_are_ended_and_each_is_accounted_for() {
    let world = world();
    let all = sessions(&world, 1_000);
    assert!(world.server.end(&all[7], End::new(Reason::Kicked)), "somebody was faster");
    let (start, run) = (Instant::now(), Run::start(&world, all.clone(), 100));
    for second in 1..10 {
        after(1_000).await;
        let due = second * 100;
        assert!((due - 4..=due + 4).contains(&run.done()), "{} after {second} s", run.done());
        let over = all.iter().filter(|session| !session.alive()).count();
        assert!(over.abs_diff(run.done()) <= 1, "no other one is over");
    }
    let fates = run.task.await.expect("does not panic");
    assert!((9.9..10.2).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    assert_eq!(fates.len(), 1_000);
    for (index, (fate, session)) in fates.iter().zip(&all).enumerate() {
        assert!(Arc::ptr_eq(&fate.session, session), "in the order in which they were named");
        let wanted = if index == 7 { Outcome::AlreadyEnded } else { Outcome::Ended };
        assert_eq!(fate.outcome, Some(wanted), "{index}");
    }
    let said = run.said.lock().expect("nobody panics");
    assert_eq!(said.last(), Some(&Progress { total: 1_000, done: 1_000, ended: 999 }));
    assert!(said.is_sorted_by_key(|progress| progress.done));
    assert_eq!(world.server.registry.counts().total, 0);
}

#[tokio::test(start_paused = true)]
async fn b_06_while_it_is_paused_nobody_is_ended_and_nothing_is_made_up_for() {
    let world = world();
    let run = Run::start(&world, sessions(&world, 300), 100);
    after(1_000).await;
    assert!(run.control.pause());
    after(50).await;
    let before = run.done();
    after(3_000).await;
    assert_eq!((run.done(), run.control.order()), (before, Order::Pause));
    assert!(run.control.resume());
    after(1_000).await;
    let made = run.done() - before;
    assert!((96..=106).contains(&made), "{made} in the second after the pause");
    let fates = run.task.await.expect("does not panic");
    assert!(fates.iter().all(|fate| fate.outcome == Some(Outcome::Ended)));
}

#[tokio::test(start_paused = true)]
async fn b_06_an_abort_spares_those_whose_turn_has_not_come() {
    for paused in [false, true] {
        let world = world();
        let all = sessions(&world, 100);
        let run = Run::start(&world, all.clone(), 10);
        after(2_010).await;
        if paused {
            assert!(run.control.pause());
            after(1_000).await;
        }
        run.control.abort();
        let begin = Instant::now();
        let fates = run.task.await.expect("does not panic");
        assert!(begin.elapsed() < Duration::from_secs(1), "it did not go on");
        let ended = fates.iter().take_while(|fate| fate.outcome == Some(Outcome::Ended)).count();
        assert!((19..=22).contains(&ended), "{ended}");
        assert!(fates[ended..].iter().all(|fate| fate.outcome.is_none() && fate.session.alive()));
        assert_eq!(world.server.registry.counts().total, 100 - ended);
    }
}

#[tokio::test(start_paused = true)]
async fn iv_04_b_06_a_connection_that_does_not_close_is_reported_and_holds_nobody_up() {
    let world = world();
    let mut all = sessions(&world, 10);
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    all.insert(0, world.server.connect(peer).expect("is let in"));
    let start = Instant::now();
    let fates = Run::start(&world, all, 1_000).task.await.expect("does not panic");
    assert_eq!(fates[0].outcome, Some(Outcome::Lingering));
    assert!(fates[1..].iter().all(|fate| fate.outcome == Some(Outcome::Ended)));
    assert!(start.elapsed() < Duration::from_secs(8), "close_wait and a little more");
}
