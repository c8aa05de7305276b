//! An old program that speaks LiveJournal's protocol, by either of its transports, without sockets.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body, http};
use http::{Request, header};
use http_body_util::BodyExt;
use server::{Server, bearer::Peer};
use tokio::sync::watch;
use tower::ServiceExt;
use wire::{El, Frame, Xml};

pub const FLAT: &str = "/interface/flat";
pub const XMLRPC: &str = "/interface/xmlrpc";

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Flat,
    XmlRpc,
}

pub const BOTH: [Transport; 2] = [Transport::Flat, Transport::XmlRpc];

/// What it was told, the same by either transport but for the number of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok(BTreeMap<String, String>),
    Fail(Option<u16>, String),
}

impl Outcome {
    /// A field of what went well.
    pub fn field(&self, name: &str) -> &str {
        match self {
            Self::Ok(fields) => fields.get(name).unwrap_or_else(|| panic!("no {name}: {fields:?}")),
            Self::Fail(..) => panic!("{self:?}"),
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok(_))
    }

    /// The number of an error, for those that are told it by text alone as well.
    pub fn number(&self) -> u16 {
        let Self::Fail(number, text) = self else { panic!("{self:?}") };
        let texts = [
            ("Invalid username", 100),
            ("Invalid password", 101),
            ("Client error: Invalid argument", 203),
            ("Client error: Not permitted", 301),
            ("Client error: The account is locked", 308),
            ("Client error: Too many failed logins or requests; wait", 402),
            ("Server error: Storage is out of reach", 502),
        ];
        let known = texts.iter().find(|(start, _)| text.starts_with(start));
        let known = known.unwrap_or_else(|| panic!("{text}")).1;
        assert!(number.is_none_or(|number| number == known), "{self:?}");
        known
    }
}

#[derive(Clone)]
pub struct Program {
    pub router: Router,
    pub transport: Transport,
    pub peer: Peer,
    pub cookies: Vec<String>,
    pub guarded: bool,
}

impl Program {
    pub fn new(server: &Arc<Server>, transport: Transport) -> Self {
        // Nobody stops it.
        let (_, stop) = watch::channel(false);
        let address = "192.0.2.7:4711".parse::<SocketAddr>().expect("an address");
        Self {
            router: admin::http::router(server, stop),
            transport,
            peer: Peer { address, encrypted: true },
            cookies: Vec::new(),
            guarded: true,
        }
    }

    /// The same from somewhere else.
    pub fn from(&self, address: &str) -> Self {
        let address = format!("{address}:4711").parse().expect("an address");
        Self { peer: Peer { address, ..self.peer }, ..self.clone() }
    }

    /// What is answered to a body, and its type.
    pub async fn post(&self, path: &str, body: impl Into<Body>) -> (String, String) {
        let mut request = Request::post(path).extension(self.peer);
        for cookie in &self.cookies {
            request = request.header(header::COOKIE, format!("a=b; ljsession={cookie}"));
        }
        if self.guarded {
            request = request.header("X-LJ-Auth", "cookie");
        }
        let request = request.body(body.into()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let media = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        let length = response.headers().get(header::CONTENT_LENGTH).cloned();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(length.expect("is set"), bytes.len().to_string().as_str());
        (media, String::from_utf8(bytes.to_vec()).expect("is UTF-8"))
    }

    /// One request. `expire` takes a list, as in `[1,2]`, and is said in the transport's own way.
    pub async fn ask(&self, mode: &str, args: &[(&str, &str)]) -> Outcome {
        match self.transport {
            Transport::Flat => self.ask_flat(mode, args).await,
            Transport::XmlRpc => self.ask_xmlrpc(mode, args).await,
        }
    }

    fn form(mode: &str, args: &[(&str, &str)]) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        if !mode.is_empty() {
            form.append_pair("mode", mode);
        }
        for (name, value) in args {
            match list(value).filter(|_| *name == "expire") {
                Some(ids) => {
                    form.extend_pairs(ids.map(|id| (format!("expire_id_{id}"), "1")));
                }
                None => {
                    form.append_pair(name, value);
                }
            }
        }
        form.finish()
    }

    async fn ask_flat(&self, mode: &str, args: &[(&str, &str)]) -> Outcome {
        let (media, text) = self.post(FLAT, Self::form(mode, args)).await;
        assert_eq!(media, "text/plain; charset=utf-8");
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        assert!(lines.len().is_multiple_of(2) && text.ends_with('\n'), "{text:?}");
        let keys: Vec<&str> = lines.iter().step_by(2).copied().collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let pairs = lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
        let mut fields: BTreeMap<String, String> = pairs.collect();
        assert_eq!(fields.len(), keys.len(), "each key once: {keys:?}");
        let success = fields.remove("success").expect("the server has answered");
        match (&*success, fields.remove("errmsg")) {
            ("OK", None) => Outcome::Ok(fields),
            ("FAIL", Some(text)) if fields.is_empty() => Outcome::Fail(None, text),
            other => panic!("{other:?} with {fields:?}"),
        }
    }

    async fn ask_xmlrpc(&self, mode: &str, args: &[(&str, &str)]) -> Outcome {
        let mut xml = Xml::new();
        xml.raw(b"<?xml version=\"1.0\"?>\n").open("methodCall");
        xml.leaf("methodName", &format!("LJ.XMLRPC.{mode}"));
        xml.open("params").open("param").open("value").open("struct");
        for (name, value) in args {
            xml.open("member").leaf("name", if *name == "user" { "username" } else { name });
            xml.open("value");
            match list(value).filter(|_| *name == "expire") {
                Some(ids) => {
                    xml.open("array").open("data");
                    for id in ids {
                        let kind = if id.parse::<i32>().is_ok() { "int" } else { "string" };
                        xml.open("value").leaf(kind, id).close();
                    }
                    xml.close().close();
                }
                None => {
                    xml.leaf("string", value);
                }
            }
            xml.close().close();
        }
        let (media, text) = self.post(XMLRPC, xml.finish()).await;
        assert_eq!(media, "text/xml; charset=utf-8");
        let text = text.split_once("?>").expect("a declaration").1.to_owned();
        let frame = Frame::parse(text).expect("is well-formed");
        let root = frame.root();
        assert_eq!(root.local(), "methodResponse");
        let inner = root.children().next().expect("an outcome");
        let mut fields = BTreeMap::new();
        if inner.local() == "fault" {
            flatten("", inner.children().next().expect("a value"), &mut fields);
            let code = fields["faultCode"].parse().expect("a number");
            return Outcome::Fail(Some(code), fields["faultString"].clone());
        }
        assert_eq!(inner.local(), "params");
        let param = inner.children().next().expect("one");
        flatten("", param.children().next().expect("a value"), &mut fields);
        Outcome::Ok(fields)
    }
}

fn list(text: &str) -> Option<impl Iterator<Item = &str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    Some(inner.split(',').filter(|item| !item.is_empty()))
}

/// A value as the flat transport shows it.
fn flatten(name: &str, value: El<'_>, fields: &mut BTreeMap<String, String>) {
    let inner = value.children().next().expect("a type");
    match inner.local() {
        "struct" => {
            for member in inner.children() {
                let mut parts = member.children();
                let field = parts.next().expect("a name").text().into_owned();
                let field = if name.is_empty() { field } else { format!("{name}_{field}") };
                flatten(&field, parts.next().expect("a value"), fields);
            }
        }
        "array" => {
            let data = inner.children().next().expect("data");
            let texts = data
                .children()
                .map(|value| value.children().next().expect("a type").text().into_owned());
            fields.insert(name.into(), texts.collect::<Vec<_>>().join(","));
        }
        _ => {
            fields.insert(name.into(), inner.text().into_owned());
        }
    }
}
