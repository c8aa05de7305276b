//! Commands of the table as ad-hoc commands. Nothing about a single one is known here: node, form and
//! result are derived from its declaration, so that one that is added to the table is here too.
//!
//! Not offered are commands without an end, and those that read a file beside whoever calls.

use serde_json::{Map, Value};
use server::command::{self, Arg, Command, Form, Shape, ValueKind};

use super::form::{Field, Filled, Kind};

/// What the nodes begin with; behind it stands the command's name, with `-` between the words.
pub const NODES: &str = "urn:usher:command:0#";

/// The argument by which a command only shows what it would do, and the one that holds it to that.
const DRY_RUN: &str = "dry-run";
const IF_HASH: &str = "if-hash";

/// All that are offered.
pub fn all() -> impl Iterator<Item = &'static Command> {
    command::table().filter(|command| {
        let files = command.args.iter().any(|arg| arg.kind == ValueKind::CsvFile);
        !files && !matches!(command.shape, Shape::Stream(_))
    })
}

/// The node of a command.
pub fn node(command: &Command) -> String {
    format!("{NODES}{}", command.name.replace(' ', "-"))
}

/// The command of a node.
pub fn find(wanted: &str) -> Option<&'static Command> {
    wanted.strip_prefix(NODES)?;
    all().find(|command| node(command) == wanted)
}

/// The form of a command.
pub fn fields(command: &Command) -> Vec<Field> {
    let field = |arg: &Arg| Field {
        var: arg.name,
        label: arg.about,
        kind: kind(arg),
        required: arg.form == Form::Required,
    };
    command.args.iter().map(field).collect()
}

fn kind(arg: &Arg) -> Kind {
    match arg.kind {
        _ if arg.form == Form::Flag => Kind::Boolean,
        ValueKind::Columns(names) => Kind::ListMulti(names),
        ValueKind::Choice(words) if arg.takes_several() => Kind::ListMulti(words),
        ValueKind::Choice(words) => Kind::ListSingle(words),
        ValueKind::Jid if arg.takes_several() => Kind::JidMulti,
        ValueKind::Jid => Kind::JidSingle,
        ValueKind::Secret => Kind::TextPrivate,
        _ if arg.takes_several() => Kind::TextMulti,
        _ => Kind::TextSingle,
    }
}

/// The arguments that a form says; the table checks them.
pub fn args(command: &Command, filled: &Filled) -> Map<String, Value> {
    let value = |arg: &Arg, values: &[String]| match arg.form {
        Form::Flag => {
            let yes = values.iter().any(|value| value == "1" || value == "true");
            yes.then_some(Value::Bool(true))
        }
        Form::Many | Form::Options => {
            let lines = values.iter().map(|line| match arg.kind {
                ValueKind::Text => line.as_str(),
                _ => line.trim(),
            });
            let said: Vec<Value> = lines
                .filter(|line| arg.kind == ValueKind::Text || !line.is_empty())
                .map(Value::from)
                .collect();
            (!said.is_empty()).then_some(Value::Array(said))
        }
        Form::Option | Form::Optional | Form::Required => Some(values.join(",").into()),
    };
    let mut args = Map::new();
    for arg in command.args {
        let said = filled.get(arg.name).and_then(|values| value(arg, values));
        if let Some(said) = said {
            args.insert(arg.name.into(), said);
        }
    }
    args
}

/// Whether a command shows, if asked to, what it would do.
pub fn previews(command: &Command) -> bool {
    command.arg(DRY_RUN).is_some()
}

/// The arguments of a preview.
pub fn dry(mut args: Map<String, Value>) -> Map<String, Value> {
    args.insert(DRY_RUN.into(), true.into());
    args
}

/// The arguments to do what a preview has shown, and nothing else.
pub fn held_to(
    command: &Command,
    mut args: Map<String, Value>,
    hash: Option<&str>,
) -> Map<String, Value> {
    args.remove(DRY_RUN);
    if let Some(hash) = hash.filter(|_| command.arg(IF_HASH).is_some()) {
        args.insert(IF_HASH.into(), hash.into());
    }
    args
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_unique_and_name_their_command() {
        let nodes: BTreeSet<String> = all().map(node).collect();
        assert_eq!(nodes.len(), all().count());
        for command in all() {
            assert_eq!(find(&node(command)).map(|found| found.name), Some(command.name));
        }
        assert!(nodes.contains("urn:usher:command:0#session-end"));
        for other in ["", NODES, "session-end", "urn:usher:command:0#session end"] {
            assert!(find(other).is_none(), "{other}");
        }
        for absent in ["session watch", "user import"] {
            assert!(all().all(|command| command.name != absent), "{absent}");
        }
    }

    #[test]
    fn fields_are_what_the_arguments_are() {
        let end = command::find("session end").expect("is in the table");
        let fields = fields(end);
        assert_eq!(fields.len(), end.args.len());
        let of = |var: &str| fields.iter().find(|field| field.var == var).expect(var).kind;
        assert_eq!((of("selector"), of("others")), (Kind::JidMulti, Kind::Boolean));
        assert!(matches!(of("level"), Kind::ListSingle(words) if words.contains(&"revoke")));
        let add = super::fields(command::find("user add").expect("is in the table"));
        let of = |var: &str| add.iter().find(|field| field.var == var).expect(var);
        assert_eq!((of("jid").kind, of("jid").required), (Kind::JidSingle, true));
        assert_eq!(of("password").kind, Kind::TextPrivate);
        let list = super::fields(command::find("session list").expect("is in the table"));
        assert!(list.iter().any(|field| matches!(field.kind, Kind::ListMulti(_))));
    }

    #[test]
    fn arguments_are_what_was_filled_in() {
        let end = command::find("session end").expect("is in the table");
        let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filled = Filled::from([
            ("selector", of(&["a@b", "c@d/e"])),
            ("reason", of(&["so there"])),
            ("others", of(&["0"])),
            ("all", of(&["true"])),
        ]);
        let said = args(end, &filled);
        let wanted = json!({ "selector": ["a@b", "c@d/e"], "reason": "so there", "all": true });
        assert_eq!(Value::Object(said.clone()), wanted);
        assert!(previews(end));
        assert_eq!(dry(said.clone())["dry-run"], true);
        let held = held_to(end, dry(said.clone()), Some("abc"));
        assert_eq!((held.get("dry-run"), &held["if-hash"]), (None, &json!("abc")));
        assert_eq!(held_to(end, said.clone(), None), said);
        let list = command::find("session list").expect("is in the table");
        let filled = Filled::from([("columns", of(&["jid", "id"]))]);
        assert_eq!(Value::Object(args(list, &filled)), json!({ "columns": "jid,id" }));
    }
}
