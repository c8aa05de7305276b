//! Rows of `client list` as XEP-0494 has them (section 3.1). Nothing is looked up here.

use bytes::Bytes;
use serde_json::{Map, Value};
use server::end::NAMESPACE;
use wire::Xml;

use super::Dialect;

/// One client, as the command shows it.
type Row = Map<String, Value>;

/// The list.
pub fn clients(rows: &[Row], dialect: Dialect) -> Bytes {
    let mut xml = Xml::new();
    xml.open("clients").ns(dialect.ns);
    for row in rows.iter().filter(|row| is_in(row)) {
        client(&mut xml, row, dialect);
    }
    xml.finish()
}

/// Whether a client has access: it is good, if not at this very moment, and it is there or knows
/// something that opens the account. One whose password was changed and that has no token has none.
pub fn is_in(row: &Row) -> bool {
    matches!(text(row, "state"), Some("frozen" | "good" | "held"))
        && (is(row, "connected") || is(row, "password") || way(row, "token") || way(row, "fast"))
}

fn client(xml: &mut Xml, row: &Row, dialect: Dialect) {
    let (connected, seen) = (is(row, "connected"), text(row, "seen"));
    xml.open("client").attr("connected", if connected { "true" } else { "false" });
    xml.attr("id", text(row, "id").unwrap_or_default());
    xml.attr("type", if connected { "session" } else { text(row, "type").unwrap_or("access") });
    for (name, at) in [("first-seen", text(row, "created")), ("last-seen", seen)] {
        if let Some(at) = at {
            xml.leaf(name, at);
        }
    }
    xml.open("auth");
    let auth = [
        ("password", is(row, "password")),
        (dialect.grant, way(row, "token")),
        ("fast", way(row, "fast")),
    ];
    for (name, _) in auth.iter().filter(|(_, has)| *has) {
        xml.open(name).close();
    }
    xml.close();
    if dialect.permission {
        permission(xml, row);
    }
    // What the owner calls it tells the owner more than what it calls itself.
    let device = text(row, "label").or_else(|| text(row, "device"));
    let agent = [("software", text(row, "software")), ("device", device)];
    if agent.iter().any(|(_, said)| said.is_some()) {
        xml.open("user-agent");
        for (name, said) in agent {
            if let Some(said) = said {
                xml.leaf(name, said);
            }
        }
        xml.close();
    }
    xml.close();
}

/// What it may do; if that is less than usual, why.
fn permission(xml: &mut Xml, row: &Row) {
    let access = text(row, "access").unwrap_or("restricted");
    xml.open("permission").attr("status", access);
    if access == "restricted" {
        let why = match text(row, "state") {
            Some("frozen") => "frozen",
            _ if is(row, "unconfirmed") => "unconfirmed",
            _ => "token",
        };
        xml.open("restriction").ns(NAMESPACE).attr("name", why).close();
    }
    xml.close();
}

fn text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name)?.as_str()
}

fn is(row: &Row, name: &str) -> bool {
    row.get(name) == Some(&Value::Bool(true))
}

fn way(row: &Row, way: &str) -> bool {
    let ways = row.get("ways_back").and_then(Value::as_array);
    ways.is_some_and(|ways| ways.iter().any(|one| one == way))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{CAM, EARLIER},
        *,
    };

    fn row(changes: Value) -> Row {
        let mut row = json!({
            "id": "c1", "jid": "a@b", "state": "good", "created": "T1", "seen": "T2",
            "connected": true, "password": true, "ways_back": ["password", "token", "fast"],
            "access": "unrestricted", "unconfirmed": false, "software": "S & T",
            "device": "D", "label": null, "type": "session",
        });
        for (name, value) in changes.as_object().unwrap() {
            row[name] = value.clone();
        }
        row.as_object().unwrap().clone()
    }

    fn shown(changes: Value, dialect: Dialect) -> String {
        let xml = clients(&[row(changes)], dialect);
        wire::Frame::parse(xml.clone()).expect("is well-formed");
        String::from_utf8(xml.to_vec()).unwrap()
    }

    #[test]
    fn a_client_has_all_that_the_specification_knows() {
        assert_eq!(
            shown(json!({}), CAM),
            "<clients xmlns='urn:xmpp:cam:0'><client connected='true' id='c1' type='session'>\
             <first-seen>T1</first-seen><last-seen>T2</last-seen>\
             <auth><password/><grant/><fast/></auth><permission status='unrestricted'/>\
             <user-agent><software>S &amp; T</software><device>D</device></user-agent>\
             </client></clients>"
        );
        let changes = json!({ "seen": null, "type": "access", "connected": false, "password": false,
            "ways_back": ["password", "token"], "software": null, "label": "mine" });
        assert_eq!(
            shown(changes, EARLIER),
            "<clients xmlns='xmpp:prosody.im/protocol/manage-clients'>\
             <client connected='false' id='c1' type='access'><first-seen>T1</first-seen>\
             <auth><bearer-token/></auth><user-agent><device>mine</device></user-agent>\
             </client></clients>"
        );
    }

    #[test]
    fn who_may_less_is_told_why() {
        for (changes, why) in [
            (json!({ "state": "frozen" }), "frozen"),
            (json!({ "unconfirmed": true }), "unconfirmed"),
            (json!({}), "token"),
        ] {
            let mut changes = changes;
            changes["access"] = "restricted".into();
            let element = format!("<restriction xmlns='{NAMESPACE}' name='{why}'/>");
            assert!(shown(changes, CAM).contains(&element), "{why}");
        }
    }

    #[test]
    fn what_has_no_access_is_not_listed() {
        let no_way = json!({ "connected": false, "password": false, "ways_back": ["password"] });
        for changes in [no_way, json!({ "state": "blocked" }), json!({ "state": "logout" })] {
            assert!(!shown(changes.clone(), CAM).contains("<client "), "{changes}");
        }
        assert!(shown(json!({ "state": "held", "connected": false }), CAM).contains("<client "));
    }
}
