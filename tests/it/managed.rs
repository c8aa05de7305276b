//! The client's side of stream management (XEP-0198), SASL 2 and FAST for tests over sockets, and what
//! a test needs to have sessions hibernate.

use std::sync::Arc;

use server::Session;

use crate::{
    dialogue::Chunks,
    script::Fast,
    world::{PASSWORD, ParseJid, Remote, World, assert_eventually},
    xml::{self, Vars},
};

/// An installation of some software.
pub const AGENT: &str = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>";
/// Asks for a token for the next login.
pub const WANT_TOKEN: &str = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>";
/// Says that the login is one with such a token.
pub const USE_TOKEN: &str = "<fast xmlns='urn:xmpp:fast:0'/>";
const ENABLE: &str = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";

/// The value of the first attribute of this name.
pub fn attribute<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown.split(&format!(" {name}='")).nth(1)?.split('\'').next()
}

/// What is between the first two tags of this name.
pub fn content<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown.split(&format!("<{name}>")).nth(1)?.split('<').next()
}

pub fn request_to_resume(id: &str, h: u32) -> String {
    format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='{h}'/>")
}

impl Remote {
    /// Turns stream management on. Gives what resumes the stream.
    pub async fn manage(&mut self) -> String {
        self.send(ENABLE).await;
        let enabled = self.quiet_element().await;
        assert!(enabled.starts_with("<enabled "), "{enabled}");
        attribute(&enabled, "id").expect("can be resumed").to_owned()
    }

    /// The next element that does not ask for an acknowledgement.
    pub async fn quiet_element(&mut self) -> String {
        loop {
            let element = self.element().await;
            if !element.starts_with("<r ") {
                return element;
            }
        }
    }

    /// Asks for something that is always answered, and gives what came before the answer.
    pub async fn until_now(&mut self) -> Vec<String> {
        self.send("<iq type='get' id='now' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
            .await;
        let mut seen = Vec::new();
        loop {
            let element = self.quiet_element().await;
            if element.starts_with("<iq") && attribute(&element, "id") == Some("now") {
                return seen;
            }
            seen.push(element);
        }
    }

    /// Tries to go on with a stream; the answer. It has logged in.
    pub async fn resume(&mut self, id: &str, h: u32) -> String {
        self.send(request_to_resume(id, h)).await;
        self.element().await
    }

    /// Logs in by SASL 2 with a password, and asks for this besides; the answer. Features that come
    /// behind it are read.
    pub async fn sasl2(&mut self, user: &str, password: &str, inline: &str) -> String {
        let login = crate::dialogue::encode(&format!(
            "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>\
             {{{{\\0{user}\\0{password}}}}}</initial-response>{inline}</authenticate>"
        ));
        self.send(login.expect("is right")).await;
        self.answer_to_login().await
    }

    /// The same with a token of FAST.
    pub async fn by_fast(&mut self, user: &str, token: &str, inline: &str) -> String {
        let plan = Fast {
            mechanism: "HT-SHA-256-NONE".into(),
            user: user.into(),
            token: token.into(),
            pairs: None,
            inline: format!("{AGENT}{USE_TOKEN}{inline}"),
        };
        self.fast(&plan).await;
        self.answer_to_login().await
    }

    async fn answer_to_login(&mut self) -> String {
        let answer = self.element().await;
        if answer.starts_with("<success") && !answer.contains("<resumed") {
            let features = xml::pattern("<stream:features>…</stream:features>").expect("is right");
            self.expect_item(&features, &mut Vars::new()).await.expect("features");
        }
        answer
    }
}

impl World {
    /// A connection under TLS whose stream is open.
    pub async fn secure(&self) -> Remote {
        let mut client = self.connect_in(true, Chunks::Whole).await;
        client.open().await;
        client
    }

    /// A client whose stream can be resumed, and by what.
    pub async fn managed(&self, name: &str, resource: &str) -> (Remote, String) {
        let mut client = self.bound(name, resource).await;
        let id = client.manage().await;
        (client, id)
    }

    /// The same, and it gets messages.
    pub async fn managed_available(&self, name: &str, resource: &str) -> (Remote, String) {
        let mut client = self.available(name, resource).await;
        let id = client.manage().await;
        (client, id)
    }

    /// A client's connection breaks, and the server has noticed.
    pub async fn lose(&self, client: Remote, jid: &str) -> Arc<Session> {
        let session = self.session(jid);
        drop(client);
        assert_eventually("it hibernates", || !session.connected()).await;
        session
    }

    /// A session that hibernates, and what resumes it.
    pub async fn asleep(&self, name: &str, resource: &str) -> (Arc<Session>, String) {
        let (client, id) = self.managed(name, resource).await;
        (self.lose(client, &format!("{name}@localhost/{resource}")).await, id)
    }

    /// What a new login with [`PASSWORD`] hears when it wants to go on with a stream.
    pub async fn try_to_resume(&self, name: &str, id: &str, h: u32) -> (Remote, String) {
        let mut client = self.authed(name).await;
        let answer = client.resume(id, h).await;
        (client, answer)
    }

    /// A session is gone and settled, and its full JID is nobody's.
    pub async fn is_over(&self, session: &Arc<Session>) {
        assert!(!session.alive(), "{session:?}");
        assert!(self.server.settled(session).await, "{session:?}");
        let jid = session.full().expect("was bound");
        assert!(self.server.registry.full(&jid.as_str().parse_jid()).is_none());
    }

    /// The only session that is not ending.
    pub fn only_alive(&self) -> Arc<Session> {
        let mut alive = self.server.registry.of("alice@localhost");
        alive.retain(|session| session.full().is_some());
        assert_eq!(alive.len(), 1, "{alive:?}");
        alive.remove(0)
    }

    /// A token for the next login of the usual installation.
    pub async fn fast_token(&self, name: &str) -> String {
        let mut client = self.secure().await;
        let answer = client.sasl2(name, PASSWORD, &format!("{AGENT}{WANT_TOKEN}")).await;
        attribute(&answer, "token").unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// The SASL condition or `in`, with the reason if one is told.
pub fn verdict(answer: &str) -> String {
    if answer.starts_with("<success") {
        return "in".into();
    }
    let failure = answer.strip_prefix("<failure").unwrap_or_else(|| panic!("{answer}"));
    let condition = failure.split('<').nth(1).and_then(|rest| rest.split(['/', ' ', '>']).next());
    let words: Vec<_> = condition.into_iter().chain(attribute(answer, "reason")).collect();
    words.join(" ")
}
