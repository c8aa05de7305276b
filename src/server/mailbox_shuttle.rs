//! A mailbox under several threads, in many orders of all their steps: nobody waits for a wake-up that
//! never comes, nothing is lost or comes twice, and whoever is displaced neither takes nor counts.
//!
//! `cargo test -p server --features shuttle mailbox_shuttle`; under that feature no other test runs.

use std::task::{Wake, Waker};

use bytes::Bytes;
use shuttle::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use wire::Kind;

use crate::mailbox::{Holder, Mailbox, Parcel, Refused, Take};

/// How many orders are tried by each of the two ways of choosing.
const ORDERS: usize = 20_000;
/// How many threads push, and how many parcels each.
const PUSHERS: u32 = 2;
const EACH: u32 = 3;
const ALL: u32 = PUSHERS * EACH;

fn in_many_orders(test: fn()) {
    shuttle::check_random(test, ORDERS);
    shuttle::check_pct(test, ORDERS, 3);
}

fn parcel(number: u32) -> Parcel {
    Parcel::whole(Kind::Message, Bytes::from(number.to_string()))
}

fn number(parcel: Parcel) -> u32 {
    let mut whole = String::new();
    parcel.pieces(|piece| whole.push_str(std::str::from_utf8(&piece).expect("a number")));
    whole.parse().expect("a number")
}

/// Wakes a thread that waits; rung before it waits, it does not wait.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

/// A waker.
struct Rope(Arc<Bell>);

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        *self.0.rung.lock().expect("nobody panics") = true;
        self.0.heard.notify_one();
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("nobody panics");
        while !*rung {
            rung = self.heard.wait(rung).expect("nobody panics");
        }
        *rung = false;
    }
}

/// The client of a stream, over whatever connection it has.
#[derive(Default)]
struct Client {
    connection: u32,
    handled: Vec<u32>,
    /// Stanzas of its own that the server has counted.
    counted: u32,
}

impl Client {
    fn h(&self) -> u32 {
        u32::try_from(self.handled.len()).expect("few")
    }
}

fn push_all(mailbox: &Mailbox, thread: u32) {
    for one in 0..EACH {
        mailbox.push(parcel(thread * EACH + one), usize::MAX).expect("open");
    }
}

/// What a connection does until it is displaced, or its client has everything.
fn connection(mailbox: &Mailbox, client: &Mutex<Client>, me: u32, holder: Holder) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::new(Rope(bell.clone())));
    loop {
        let mut sent = Vec::new();
        match mailbox.take(holder, 2, &waker, |parcel| sent.push(number(parcel))) {
            Take::Displaced => {
                assert!(sent.is_empty(), "it was displaced, and takes {sent:?}");
                assert!(!mailbox.receive(holder), "it was displaced, and counts");
                return;
            }
            Take::Empty => {
                if client.lock().expect("nobody panics").h() == ALL {
                    return;
                }
                bell.wait();
            }
            Take::Some { .. } => {
                let h = {
                    let mut client = client.lock().expect("nobody panics");
                    // What comes over a connection that it has given up it never sees.
                    if client.connection == me {
                        client.handled.extend(sent);
                    }
                    client.h()
                };
                mailbox.ack(holder, h).expect("what was sent is acknowledged, and nothing else");
                let counts = mailbox.receive(holder);
                client.lock().expect("nobody panics").counted += u32::from(counts);
            }
        }
    }
}

#[test]
fn who_claims_a_stream_gets_all_that_its_client_has_not_and_is_woken_for_the_rest() {
    in_many_orders(|| {
        let mailbox = Arc::new(Mailbox::default());
        mailbox.manage();
        let client = Arc::new(Mutex::new(Client::default()));
        let pushers = (0..PUSHERS).map(|thread| {
            let mailbox = mailbox.clone();
            thread::spawn(move || push_all(&mailbox, thread))
        });
        let mut threads: Vec<_> = pushers.collect();
        let (first, its) = (mailbox.clone(), client.clone());
        threads.push(thread::spawn(move || connection(&first, &its, 0, Holder::default())));
        for me in [1, 2] {
            let h = {
                let mut client = client.lock().expect("nobody panics");
                client.connection = me;
                client.h()
            };
            let (holder, counts) = mailbox.claim(h).expect("it says what it has");
            assert_eq!(counts.acked, h);
            let (mailbox, client) = (mailbox.clone(), client.clone());
            threads.push(thread::spawn(move || connection(&mailbox, &client, me, holder)));
        }
        for thread in threads {
            thread.join().expect("does not panic");
        }
        let client = client.lock().expect("nobody panics");
        let mut sorted = client.handled.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..ALL).collect::<Vec<_>>(), "each once");
        for thread in 0..PUSHERS {
            let of = |one: &&u32| **one / EACH == thread;
            assert!(client.handled.iter().filter(of).is_sorted(), "{:?}", client.handled);
        }
        let counts = mailbox.counts().expect("it counts");
        assert_eq!((counts.acked, counts.handled), (ALL, client.counted));
        assert_eq!(mailbox.bytes(), 0);
    });
}

#[test]
fn what_is_pushed_as_a_session_ends_is_acknowledged_or_left_over_or_refused() {
    in_many_orders(|| {
        let mailbox = Arc::new(Mailbox::default());
        mailbox.manage();
        let refused = Arc::new(Mutex::new(Vec::new()));
        let pushers = (0..PUSHERS).map(|thread| {
            let (mailbox, refused) = (mailbox.clone(), refused.clone());
            thread::spawn(move || {
                for one in 0..EACH {
                    match mailbox.push(parcel(thread * EACH + one), usize::MAX) {
                        Ok(_) => {}
                        Err(Refused::Closed(parcel)) => {
                            refused.lock().expect("nobody panics").push(number(parcel));
                        }
                        Err(Refused::Full(_)) => panic!("there is room"),
                    }
                }
            })
        });
        let mut threads: Vec<_> = pushers.collect();
        let (taking, closed) = (mailbox.clone(), Arc::new(Mutex::new(false)));
        let over = closed.clone();
        let taker = thread::spawn(move || {
            let bell = Arc::new(Bell::default());
            let waker = Waker::from(Arc::new(Rope(bell.clone())));
            let (mut acknowledged, mut h) = (Vec::new(), 0);
            loop {
                let mut sent = Vec::new();
                let holder = Holder::default();
                match taking.take(holder, 2, &waker, |parcel| sent.push(number(parcel))) {
                    Take::Displaced => panic!("nobody has claimed it"),
                    Take::Empty if *over.lock().expect("nobody panics") => return acknowledged,
                    Take::Empty => bell.wait(),
                    Take::Some { .. } => {
                        h += u32::try_from(sent.len()).expect("few");
                        // Refused: it is left over, and finds another way.
                        if taking.ack(holder, h).is_ok() {
                            acknowledged.extend(sent);
                        }
                    }
                }
            }
        });
        let elsewhere = refused.clone();
        threads.push(thread::spawn(move || {
            mailbox.close();
            let left: Vec<u32> = mailbox.leftover().into_iter().map(number).collect();
            *closed.lock().expect("nobody panics") = true;
            mailbox.wake();
            elsewhere.lock().expect("nobody panics").extend(left);
        }));
        let mut all = taker.join().expect("does not panic");
        for thread in threads {
            thread.join().expect("does not panic");
        }
        all.extend(refused.lock().expect("nobody panics").iter());
        all.sort_unstable();
        assert_eq!(all, (0..ALL).collect::<Vec<_>>(), "each in one place");
    });
}
