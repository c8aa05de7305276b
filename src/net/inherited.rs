//! Listening sockets that outlive a program: those that systemd has bound and passes on (socket
//! activation), and our own on the way from one image of the server to the next, so that nobody who
//! connects meanwhile is refused. Both are the same convention: descriptors from 3 on, with
//! `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` saying how many, for whom, and what they are.
//!
//! A socket is known by its address; what is spoken there is for the configuration to say.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{OwnedFd, RawFd},
    process::Command,
};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use socket2::SockRef;

use crate::listener::{Door, ListenError, Listener};

/// The number of the first descriptor.
const FIRST: RawFd = 3;
/// How the names of our own sockets begin; the key of the door follows.
const OURS: &str = "usher-";

/// The sockets that were passed on to this program.
#[derive(Default)]
pub struct Inherited(Vec<Given>);

struct Given {
    socket: TcpListener,
    address: SocketAddr,
    name: String,
}

impl Inherited {
    /// Takes them over. Changes the environment, so that no child takes them for its own: there must
    /// be no other thread yet.
    ///
    /// # Errors
    /// [`ListenError::NotListening`] if one of them is something else.
    pub fn from_env() -> Result<Self, ListenError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut all = Vec::new();
        for place in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let wrong = |error| ListenError::NotListening { name: name.clone(), error };
            if let Some(socket) = passed.take_tcp_listener(place).map_err(wrong)? {
                if !SockRef::from(&socket).is_listener().map_err(wrong)? {
                    return Err(wrong(io::ErrorKind::InvalidInput.into()));
                }
                let address = socket.local_addr().map_err(wrong)?;
                all.push(Given { socket, address, name });
            }
        }
        Ok(Self(all))
    }

    /// Listeners at all wanted addresses: those that are here are used, the others are bound. Must be
    /// called from within the runtime.
    ///
    /// # Errors
    /// [`ListenError`]; one of its reasons is a socket that nothing is configured for. One that we
    /// have passed on ourselves is closed instead: the configuration has changed meanwhile.
    pub fn open(self, wanted: &[(Door, SocketAddr)]) -> Result<Vec<Listener>, ListenError> {
        let given: Vec<_> = self.0.iter().map(|given| (given.address, &*given.name)).collect();
        let places = assign(wanted, &given);
        let mut here: Vec<_> = self.0.into_iter().map(Some).collect();
        let mut listeners = Vec::new();
        for ((door, address), place) in wanted.iter().zip(places) {
            let given = place.and_then(|place| here.get_mut(place)).and_then(Option::take);
            listeners.push(match given {
                Some(given) => Listener::inherit(*door, *address, given.socket)?,
                None => Listener::bind(*door, *address)?,
            });
        }
        for extra in here.into_iter().flatten() {
            if !extra.name.starts_with(OURS) {
                return Err(ListenError::NotWanted { address: extra.address });
            }
            tracing::info!(event = "no-longer-listening", address = %extra.address);
        }
        Ok(listeners)
    }
}

/// Which of the given sockets is for which of the wanted addresses. A port that is left to the kernel
/// takes what exact addresses leave, and only what we have bound for the same door.
fn assign(wanted: &[(Door, SocketAddr)], given: &[(SocketAddr, &str)]) -> Vec<Option<usize>> {
    let mut free: Vec<bool> = vec![true; given.len()];
    let mut places = vec![None; wanted.len()];
    let exact = |_: Door, wanted: SocketAddr, (given, _): (SocketAddr, &str)| given == wanted;
    // What `[::]` becomes on a machine without IPv6.
    let ipv4_alone = |_: Door, wanted: SocketAddr, (given, name): (SocketAddr, &str)| {
        wanted.is_ipv6()
            && wanted.ip().is_unspecified()
            && name.starts_with(OURS)
            && given == SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port()))
    };
    let any_port = |door: Door, wanted: SocketAddr, (given, name): (SocketAddr, &str)| {
        wanted.port() == 0
            && given.ip() == wanted.ip()
            && name.strip_prefix(OURS) == Some(door.key())
    };
    type Fits<'f> = &'f dyn Fn(Door, SocketAddr, (SocketAddr, &str)) -> bool;
    for fits in [&exact as Fits<'_>, &ipv4_alone, &any_port] {
        for ((door, address), place) in wanted.iter().zip(&mut places) {
            if place.is_some() {
                continue;
            }
            let mut left = given.iter().zip(&mut free).enumerate();
            let found = left.find(|(_, (given, free))| **free && fits(*door, *address, **given));
            if let Some((i, (_, free))) = found {
                *free = false;
                *place = Some(i);
            }
        }
    }
    places
}

/// A listening socket that stays open when its [`Listener`] is gone: whoever connects waits in the
/// kernel.
#[derive(Debug)]
pub struct Kept {
    socket: OwnedFd,
    door: Door,
}

impl Kept {
    pub(crate) fn new(socket: OwnedFd, door: Door) -> Self {
        Self { socket, door }
    }
}

/// Has a command take these sockets over, when it replaces this very process.
///
/// # Errors
/// Never in practice: the descriptors are numbered here.
pub fn pass_on(sockets: Vec<Kept>, command: &mut Command) -> io::Result<()> {
    let names: Vec<_> = sockets.iter().map(|kept| format!("{OURS}{}", kept.door.key())).collect();
    command
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDNAMES", names.join(":"));
    let numbered = (FIRST..).zip(sockets);
    let mappings =
        numbered.map(|(number, kept)| FdMapping { parent_fd: kept.socket, child_fd: number });
    command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn assigned(wanted: &[(Door, &str)], given: &[(&str, &str)]) -> Vec<Option<usize>> {
        let wanted: Vec<_> = wanted.iter().map(|(door, text)| (*door, address(text))).collect();
        let given: Vec<_> = given.iter().map(|(text, name)| (address(text), *name)).collect();
        assign(&wanted, &given)
    }

    #[test]
    fn sockets_are_known_by_their_address_in_any_order() {
        let wanted =
            [(Door::C2s, "[::]:5222"), (Door::C2s, "10.0.0.1:5222"), (Door::C2sTls, "[::]:5223")];
        let given = [("[::]:5223", "usher.socket"), ("[::]:5222", "usher.socket")];
        assert_eq!(assigned(&wanted, &given), [Some(1), None, Some(0)]);
        // Same port elsewhere, same address with another port.
        assert_eq!(assigned(&wanted, &[("127.0.0.1:5222", ""), ("[::]:80", "")]), [None; 3]);
        // A door may change while its socket stays.
        assert_eq!(assigned(&wanted[2..], &[("[::]:5223", "usher-c2s")]), [Some(0)]);
    }

    #[test]
    fn nothing_is_given_twice() {
        let wanted = [(Door::C2s, "127.0.0.1:0"), (Door::C2sTls, "127.0.0.1:0")];
        let given = [("127.0.0.1:40000", "usher-c2s_tls"), ("127.0.0.1:40001", "usher-c2s")];
        assert_eq!(assigned(&wanted, &given), [Some(1), Some(0)]);
        assert_eq!(assigned(&wanted, &given[..1]), [None, Some(0)]);
        let both = [(Door::C2s, "127.0.0.1:0"), (Door::C2s, "127.0.0.1:40001")];
        assert_eq!(assigned(&both, &given), [None, Some(1)], "an exact address goes first");
        let foreign = [("127.0.0.1:40000", "c2s")];
        assert_eq!(assigned(&wanted, &foreign), [None; 2], "a port that nobody asked for");
    }

    #[test]
    fn what_became_of_ipv6_where_there_is_none_is_known_again() {
        let wanted = [(Door::C2s, "[::]:5222")];
        assert_eq!(assigned(&wanted, &[("0.0.0.0:5222", "usher-c2s")]), [Some(0)]);
        assert_eq!(assigned(&wanted, &[("0.0.0.0:5222", "usher.socket")]), [None]);
    }

    fn given(socket: TcpListener, name: &str) -> Inherited {
        let address = socket.local_addr().expect("is bound");
        Inherited(vec![Given { socket, address, name: name.into() }])
    }

    fn bound() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("is bound");
        (socket, address)
    }

    #[tokio::test]
    async fn a_socket_is_used_instead_of_binding_and_may_be_kept() {
        let (socket, address) = bound();
        // Before anybody takes it over: it waits.
        let _early = std::net::TcpStream::connect(address).expect("is not refused");
        let [listener] = &given(socket, "").open(&[(Door::C2s, address)]).expect("opens")[..]
        else {
            panic!("not one")
        };
        assert_eq!(listener.address(), Some(address));
        let kept = listener.keep().expect("is kept");
        assert_eq!(kept.door, Door::C2s);
    }

    #[tokio::test]
    async fn a_kept_socket_refuses_nobody_when_its_listener_is_gone() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(Door::C2s, any).expect("a free port");
        let address = listener.address().expect("is bound");
        let kept = listener.keep().expect("is kept");
        drop(listener);
        std::net::TcpStream::connect(address).expect("is not refused");
        drop(kept);
        std::net::TcpStream::connect(address).expect_err("nobody is there");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_wants_is_an_error_unless_it_is_our_own() {
        let (socket, address) = bound();
        let error = given(socket, "usher.socket").open(&[]).map(|_| ()).expect_err("is extra");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("hint: "), "{text}");
        let (socket, address) = bound();
        assert!(given(socket, "usher-c2s").open(&[]).expect("is no error").is_empty());
        std::net::TcpStream::connect(address).expect_err("is closed");
    }
}
