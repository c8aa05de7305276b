//! Service discovery (XEP-0030): what the server and its accounts are and can do. Everything is
//! collected from what plugins have registered; nothing is listed here.
//!
//! Accounts answer themselves and those who may see them. To anybody else they look like accounts
//! that do not exist (section 8).

use server::{
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, Xml, ns};

use crate::{adhoc, adhoc::form::DATA, caps, roster};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "disco",
    about: "Tells clients what the server can do",
    specs: &[Spec {
        id: "XEP-0030",
        version: "2.5.0",
        title: "Service Discovery",
        note: "Information and items of hosts and accounts; the only items are a host's commands",
    }],
    setup,
};

/// What something is (section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity<'a> {
    /// Its category.
    pub category: &'a str,
    /// Its type within the category.
    pub kind: &'a str,
    /// The language of its name; may be empty.
    pub lang: &'a str,
    /// Its name; may be empty.
    pub name: &'a str,
}

/// What is told about a host or an account.
#[derive(Clone, Debug)]
pub struct Info<'a> {
    /// What it is.
    pub identities: Vec<Identity<'a>>,
    /// What it can do.
    pub features: Vec<&'a str>,
    /// What else there is to know (XEP-0128).
    pub forms: Vec<Form<'a>>,
}

/// A data form that extends the information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form<'a> {
    /// Its `FORM_TYPE`.
    pub kind: &'a str,
    /// Its other fields and their values.
    pub fields: Vec<(&'a str, Vec<&'a str>)>,
}

impl Info<'_> {
    /// What is told about the domains that are served here.
    #[must_use]
    pub fn of_host<'a>(features: &[&'a str]) -> Info<'a> {
        let server = Identity { category: "server", kind: "im", lang: "", name: "Usher" };
        Info { identities: vec![server], features: features.to_vec(), forms: vec![] }
    }

    fn of_account<'a>(features: &[&'a str]) -> Info<'a> {
        let account = Identity { category: "account", kind: "registered", lang: "", name: "" };
        Info { identities: vec![account], features: features.to_vec(), forms: vec![] }
    }

    /// The answer of a node, or of all that it is.
    pub(crate) fn answer(&self, node: Option<&str>) -> Answer {
        let mut xml = Xml::new();
        xml.open("query").ns(ns::DISCO_INFO).attr_opt("node", &node);
        for identity in &self.identities {
            xml.open("identity").attr("category", identity.category).attr("type", identity.kind);
            for (name, value) in [("xml:lang", identity.lang), ("name", identity.name)] {
                if !value.is_empty() {
                    xml.attr(name, value);
                }
            }
            xml.close();
        }
        for feature in &self.features {
            xml.open("feature").attr("var", feature).close();
        }
        for form in &self.forms {
            xml.open("x").ns(DATA).attr("type", "result");
            xml.open("field").attr("var", "FORM_TYPE").attr("type", "hidden");
            xml.leaf("value", form.kind).close();
            for (name, values) in &form.fields {
                xml.open("field").attr("var", name);
                for value in values {
                    xml.leaf("value", value);
                }
                xml.close();
            }
            xml.close();
        }
        Answer::Result(xml.finish())
    }
}

fn setup(setup: &mut Setup<'_>) {
    let features = [ns::DISCO_INFO, ns::DISCO_ITEMS];
    setup.host_features(&features);
    setup.account_features(&features);
    setup.iq(&[Target::Host], (ns::DISCO_INFO, "query"), host_info);
    setup.iq(&[Target::Host], (ns::DISCO_ITEMS, "query"), host_items);
    for (namespace, answer) in
        [(ns::DISCO_INFO, account_info as fn(&Iq) -> Answer), (ns::DISCO_ITEMS, items)]
    {
        setup.iq(&[Target::Own, Target::Account], (namespace, "query"), move |iq| {
            roster::for_acquaintances(iq, answer)
        });
    }
}

fn host_info(iq: &Iq) -> Answer {
    let info = Info::of_host(&iq.server.registrations.host_features);
    let node = match node(iq) {
        Ok(node) => node,
        Err(answer) => return answer,
    };
    match node {
        Some(node) if node != caps::node(&info) => {
            adhoc::info(iq, &node).unwrap_or_else(|| Answer::refuse(Condition::ItemNotFound))
        }
        node => info.answer(node.as_deref()),
    }
}

/// Nodes of a host are commands.
fn host_items(iq: &Iq) -> Answer {
    match node(iq) {
        Ok(Some(node)) => {
            adhoc::items(iq, &node).unwrap_or_else(|| Answer::refuse(Condition::ItemNotFound))
        }
        _ => items(iq),
    }
}

fn account_info(iq: &Iq) -> Answer {
    match node(iq) {
        Ok(None) => Info::of_account(&iq.server.registrations.account_features).answer(None),
        Ok(Some(_)) => Answer::refuse(Condition::ItemNotFound),
        Err(answer) => answer,
    }
}

/// There are no items yet: no other services, and sessions are nobody's business.
fn items(iq: &Iq) -> Answer {
    match node(iq) {
        Ok(None) => {
            let mut xml = Xml::new();
            xml.open("query").ns(ns::DISCO_ITEMS);
            Answer::Result(xml.finish())
        }
        Ok(Some(_)) => Answer::refuse(Condition::ItemNotFound),
        Err(answer) => answer,
    }
}

/// The node that is asked about; nothing can be set.
fn node(iq: &Iq) -> Result<Option<String>, Answer> {
    if iq.set {
        return Err(Answer::refuse(Condition::BadRequest));
    }
    let query = iq.frame.payload();
    let node = query.and_then(|query| query.el.attr("node").map(std::borrow::Cow::into_owned));
    Ok(node.filter(|node| !node.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Client, World};

    async fn info(client: &Client, to: &str, node: &str) -> String {
        let query = format!("<query xmlns='{}'{node}/>", ns::DISCO_INFO);
        client.ask(&format!("<iq type='get' id='d' to='{to}'>{query}</iq>")).await
    }

    #[tokio::test]
    async fn a_host_tells_what_its_plugins_can_do() {
        let world = World::new(&["romeo"]).await;
        let romeo = world.online("romeo/a").await;
        let answer = info(&romeo, "localhost", "").await;
        assert!(
            answer.contains("<identity category='server' type='im' name='Usher'/>"),
            "{answer}"
        );
        for feature in [
            ns::DISCO_INFO,
            ns::DISCO_ITEMS,
            ns::PING,
            ns::VERSION,
            ns::ROSTER,
            "msgoffline",
            caps::NAMESPACE,
            "urn:xmpp:time",
            "jabber:iq:last",
        ] {
            assert!(answer.contains(&format!("<feature var='{feature}'/>")), "{feature}: {answer}");
        }
        assert!(info(&romeo, "localhost", " node='other'").await.contains("item-not-found"));
        let items = format!("<query xmlns='{}'/>", ns::DISCO_ITEMS);
        let items = romeo.ask(&format!("<iq type='get' id='i' to='localhost'>{items}</iq>")).await;
        assert!(items.contains("type='result'") && !items.contains("<item"), "{items}");
    }

    #[tokio::test]
    async fn the_announced_hash_is_that_of_the_answer() {
        let world = World::new(&["romeo"]).await;
        let romeo = world.online("romeo/a").await;
        let announced = world.server.registrations.stream_features.iter();
        let caps: Vec<_> = announced.filter(|xml| xml.contains(caps::NAMESPACE)).collect();
        assert_eq!(caps.len(), 1);
        let feature = wire::Frame::parse(caps[0].as_bytes().to_vec()).expect("is well-formed");
        let value = |name| feature.root().attr(name).expect("is there").into_owned();
        assert_eq!(value("hash"), "sha-1");
        // As a client does it: ask for the node, and hash what is answered.
        let node = format!("{}#{}", value("node"), value("ver"));
        let answer = info(&romeo, "localhost", &format!(" node='{node}'")).await;
        let answer = wire::Frame::parse(answer.into_bytes()).expect("is well-formed");
        let query = answer.root().child("query", ns::DISCO_INFO).expect("is answered");
        assert_eq!(query.attr("node").as_deref(), Some(node.as_str()));
        let mut text = String::new();
        for child in query.children() {
            let attr = |name| child.attr(name).unwrap_or_default();
            text += &match child.local() {
                "identity" => format!("{}/{}//{}<", attr("category"), attr("type"), attr("name")),
                _ => format!("{}<", attr("var")),
            };
        }
        use base64::{Engine, engine::general_purpose::STANDARD};
        let hash = STANDARD.encode(<sha1::Sha1 as sha1::Digest>::digest(text));
        assert_eq!(hash, value("ver"));
    }

    #[tokio::test]
    async fn accounts_answer_themselves_and_their_friends() {
        let world = World::new(&["romeo", "juliet", "nurse"]).await;
        world.befriend("romeo", "juliet").await;
        let romeo = world.online("romeo/a").await;
        let account = "<identity category='account' type='registered'/>";
        for to in ["romeo@localhost", "juliet@localhost"] {
            assert!(info(&romeo, to, "").await.contains(account), "{to}");
            assert!(info(&romeo, to, " node='x'").await.contains("item-not-found"), "{to}");
        }
        let mut strangers = Vec::new();
        for to in ["nurse", "nobody"] {
            let mut answers = info(&romeo, &format!("{to}@localhost"), "").await;
            let ping =
                format!("<iq type='get' id='p' to='{to}@localhost'><ping xmlns='urn:xmpp:ping'/>");
            answers += &romeo.ask(&format!("{ping}</iq>")).await;
            assert_eq!(answers.matches("service-unavailable").count(), 2, "{answers}");
            strangers.push(answers.replace(to, "X"));
        }
        assert_eq!(strangers[0], strangers[1], "nobody can tell who exists");
    }

    #[tokio::test]
    async fn small_questions_have_small_answers() {
        let world = World::new(&["romeo"]).await;
        let romeo = world.online("romeo/a").await;
        world.clock.advance(5_000);
        let host = " to='localhost'";
        for (to, payload, answer) in [
            (host, "<ping xmlns='urn:xmpp:ping'/>", "from='localhost' to='romeo@localhost/a'/>"),
            (
                "",
                "<ping xmlns='urn:xmpp:ping'/>",
                "from='romeo@localhost' to='romeo@localhost/a'/>",
            ),
            (host, "<query xmlns='jabber:iq:version'/>", "<name>Usher</name><version>0."),
            (host, "<time xmlns='urn:xmpp:time'/>", "<utc>2026-11-22T10:00:05.000Z</utc>"),
            (host, "<query xmlns='jabber:iq:last'/>", "seconds='5'"),
        ] {
            let came = romeo.ask(&format!("<iq type='get' id='q'{to}>{payload}</iq>")).await;
            assert!(came.contains("type='result' id='q'") && came.contains(answer), "{came}");
            let came = romeo.ask(&format!("<iq type='set' id='q'{to}>{payload}</iq>")).await;
            assert!(came.contains("bad-request"), "{came}");
        }
    }
}
