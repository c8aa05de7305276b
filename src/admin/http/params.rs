//! Arguments of a command from a query or a body. Here they get the shape that the table wants; whether
//! they are right, the table checks.

use serde_json::{Map, Value};
use server::command::{Arg, Command, CommandError, Form, ValueKind};

/// From the pairs of a query.
pub(crate) fn from_query(
    command: &Command,
    pairs: Vec<(String, String)>,
) -> Result<Map<String, Value>, CommandError> {
    let mut args = Map::new();
    for (name, value) in pairs {
        let arg = known(command, &name)?;
        match arg.form {
            Form::Flag => match &*value {
                "true" => put(&mut args, name, true.into())?,
                "false" => put(&mut args, name, false.into())?,
                _ => return Err(wrong(&name, "has to be `true` or `false`")),
            },
            Form::Many | Form::Options => {
                let list = args.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(value.into());
                }
            }
            Form::Option | Form::Optional | Form::Required => put(&mut args, name, value.into())?,
        }
    }
    Ok(args)
}

/// From the object in a body. Numbers may be numbers there; null is nothing.
pub(super) fn from_body(
    command: &Command,
    body: &[u8],
) -> Result<Map<String, Value>, CommandError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|why| {
        CommandError::usage(format!("the body is no JSON object: {why}"))
            .hint("send the arguments by name, as in `{\"jid\":\"alice@example.org\"}`")
    })?;
    let mut args = Map::new();
    for (name, value) in object {
        let arg = known(command, &name)?;
        match value {
            Value::Null => {}
            Value::Number(number) if arg.kind == ValueKind::Number => {
                args.insert(name, number.to_string().into());
            }
            value => {
                args.insert(name, value);
            }
        }
    }
    Ok(args)
}

fn known<'c>(command: &'c Command, name: &str) -> Result<&'c Arg, CommandError> {
    command.arg(name).ok_or_else(|| {
        let names: Vec<_> = command.args.iter().map(|arg| arg.name).collect();
        let error = CommandError::usage(format!("`{}` takes no argument `{name}`", command.name));
        match names.is_empty() {
            true => error.hint("it takes none"),
            false => error.hint(format!("it takes {}", names.join(", "))),
        }
    })
}

fn put(args: &mut Map<String, Value>, name: String, value: Value) -> Result<(), CommandError> {
    if args.contains_key(&name) {
        return Err(wrong(&name, "is there twice"));
    }
    args.insert(name, value);
    Ok(())
}

fn wrong(name: &str, what: &str) -> CommandError {
    CommandError::usage(format!("`{name}` {what}"))
}
