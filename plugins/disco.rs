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

use crate::{caps, roster};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "disco",
    about: "Tells clients what the server can do",
    specs: &[Spec {
        id: "XEP-0030",
        version: "2.5.0",
        title: "Service Discovery",
        note: "Information and (empty) items of hosts and accounts",
    }],
    setup,
};

/// XEP-0004.
const DATA: &str = "jabber:x:data";

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

    fn answer(&self, node: Option<&str>) -> Answer {
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
    setup.iq(&[Target::Host], (ns::DISCO_ITEMS, "query"), items);
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
        Some(node) if node != caps::node(&info) => Answer::refuse(Condition::ItemNotFound),
        node => info.answer(node.as_deref()),
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
