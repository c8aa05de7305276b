//! The keys of the configuration as a tree, read from the JSON Schema that `schemars` derives from
//! [`Config`](super::Config): what there is, what it may be, what it is if nothing is said, and the
//! doc comment. The example, the reference and the checks of a file all walk this tree, so a key that
//! is added to the structs is documented and checked with nothing more to do.
//!
//! Deliberately no general reader of JSON Schema: it knows what our structs can produce.

use std::{fmt, sync::LazyLock};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::{Config, Span};

/// A key of the file, or a section of it.
#[derive(Debug)]
pub(super) struct Node {
    /// Its name in its section.
    pub(super) name: String,
    /// Its doc comment.
    pub(super) about: String,
    /// What it is if nothing is said; `null` if it is then not set at all.
    pub(super) default: Value,
    /// What it may be.
    pub(super) kind: Kind,
}

/// What a key may be.
#[derive(Debug)]
pub(super) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(Vec<String>),
    /// An array of plain values.
    List(Box<Kind>),
    /// A whole number, both ends included.
    Number(i128, i128),
    /// `[name]`.
    Section(Vec<Node>),
    /// `[[name]]`, any number of times.
    Sections(Vec<Node>),
    /// A length of time.
    Span,
    /// Any text.
    Text,
}

/// The top level: its doc comment, and its keys in the order of their declaration.
pub(super) struct Root {
    pub(super) about: String,
    pub(super) keys: Vec<Node>,
    pub(super) defaults: Value,
}

/// The tree of [`Config`], built once.
pub(super) static ROOT: LazyLock<Root> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    // Of plain structs with text keys: it cannot fail, and a test looks.
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    Root { about: about(&schema), keys: keys(&schema, Some(&defaults)), defaults }
});

impl Kind {
    /// Whether it is a section or several, which stand behind all plain keys of their parent.
    pub(super) fn is_section(&self) -> bool {
        matches!(self, Self::Section(_) | Self::Sections(_))
    }
}

/// What a value must be, as in "`x` must be ...".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("`true` or `false`"),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                match words.split_last() {
                    Some((last, [])) => write!(f, "{last}"),
                    Some((last, rest)) => write!(f, "{} or {last}", rest.join(", ")),
                    None => f.write_str("nothing"),
                }
            }
            Self::List(item) => match **item {
                Self::Text => f.write_str("a list of texts, as in `[\"a\", \"b\"]`"),
                ref item => write!(f, "a list, in brackets, each of it {item}"),
            },
            Self::Number(0, max) if *max >= NUMBER_MAX => f.write_str("a whole number"),
            Self::Number(min, max) if *max >= NUMBER_MAX => {
                write!(f, "a whole number, at least {min}")
            }
            Self::Number(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Section(_) => f.write_str("a table"),
            Self::Sections(_) => f.write_str("a list of tables"),
            Self::Span => f.write_str(
                "a length of time, as in `\"30s\"`, `\"5m\"`, `\"12h\"` or `\"30d\"`, or `\"off\"`",
            ),
            Self::Text => f.write_str("text in quotes"),
        }
    }
}

/// From here on an upper bound is that of the type, and says nothing to an operator.
const NUMBER_MAX: i128 = u32::MAX as i128;

/// The keys of an object's schema; `defaults` is the value of the object if nothing is said.
fn keys(schema: &Value, defaults: Option<&Value>) -> Vec<Node> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let node = |(name, schema): (&String, &Value)| {
        let own = defaults.and_then(|all| all.get(name)).or_else(|| schema.get("default"));
        let default = own.cloned().unwrap_or_default();
        let kind = kind(schema, &default);
        Node { name: name.clone(), about: about(schema), default, kind }
    };
    properties.map(|all: &Map<_, _>| all.iter().map(node).collect()).unwrap_or_default()
}

fn kind(schema: &Value, default: &Value) -> Kind {
    // `Option<T>` of an enum is `anyOf` it and null.
    if let Some(variants) = schema.get("anyOf").and_then(Value::as_array) {
        let null = |variant: &&Value| variant.get("type").is_some_and(|name| name == "null");
        if let Some(inner) = variants.iter().find(|variant| !null(variant)) {
            return kind(inner, default);
        }
    }
    if let Some(words) = words(schema) {
        return Kind::Choice(words);
    }
    // `Option<T>` of a plain type is `["string", "null"]`.
    let types = schema.get("type");
    let name = types.and_then(Value::as_str).or_else(|| {
        types.and_then(Value::as_array)?.iter().filter_map(Value::as_str).find(|t| *t != "null")
    });
    match name {
        Some("boolean") => Kind::Boolean,
        Some("integer") => {
            let bound = |name| schema.get(name).and_then(Value::as_i64).map(i128::from);
            let (min, max) = width(schema.get("format").and_then(Value::as_str));
            Kind::Number(bound("minimum").unwrap_or(min), bound("maximum").unwrap_or(max))
        }
        Some("array") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            if items.get("properties").is_some() {
                Kind::Sections(keys(items, None))
            } else {
                Kind::List(Box::new(kind(items, &Value::Null)))
            }
        }
        Some("object") => Kind::Section(keys(schema, Some(default))),
        _ if schema.get("pattern").is_some_and(|p| Some(p) == span().get("pattern")) => Kind::Span,
        _ => Kind::Text,
    }
}

/// The words of an enum without data: `enum` if its variants have no doc comments, else `oneOf`.
fn words(schema: &Value) -> Option<Vec<String>> {
    let plain = |list: &Value| -> Vec<String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(String::from).collect()
    };
    if let Some(list) = schema.get("enum") {
        return Some(plain(list));
    }
    let variants = schema.get("oneOf")?.as_array()?;
    Some(
        variants
            .iter()
            .flat_map(|variant| match variant.get("const").and_then(Value::as_str) {
                Some(word) => vec![word.to_owned()],
                None => variant.get("enum").map(plain).unwrap_or_default(),
            })
            .collect(),
    )
}

/// The range of an integer type. Numbers in TOML are 64 bits wide and signed.
fn width(format: Option<&str>) -> (i128, i128) {
    match format {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint" | "uint64") => (0, i64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

fn span() -> Value {
    Span::json_schema(&mut schemars::SchemaGenerator::default()).to_value()
}

fn about(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(path: &str) -> &'a Node {
        let (mut keys, mut found) = (&ROOT.keys, None);
        for part in path.split('.') {
            let node =
                keys.iter().find(|node| node.name == part).unwrap_or_else(|| panic!("{path}"));
            if let Kind::Section(inner) | Kind::Sections(inner) = &node.kind {
                keys = inner;
            }
            found = Some(node);
        }
        found.unwrap()
    }

    #[test]
    fn kinds_are_told_apart() {
        assert!(matches!(&find("storage").kind, Kind::Choice(w) if w == &["memory", "sqlite"]));
        assert!(matches!(find("host").kind, Kind::Sections(_)));
        assert!(matches!(&find("listen.c2s").kind, Kind::List(k) if matches!(**k, Kind::Text)));
        assert!(matches!(find("tls.certificate").kind, Kind::Text));
        assert!(matches!(find("tls.required").kind, Kind::Boolean));
        assert!(matches!(find("auth.attempts").kind, Kind::Number(2, 100)));
        assert!(matches!(find("limits.bound.depth").kind, Kind::Number(1, 65_535)));
        assert!(matches!(find("limits.per_address").kind, Kind::Number(0, 4_294_967_295)));
        assert!(matches!(find("limits.bound.time").kind, Kind::Span));
    }

    #[test]
    fn every_key_has_its_doc_comment_and_its_default() {
        fn walk(keys: &[Node], path: &str) {
            for node in keys {
                assert!(!node.about.is_empty(), "{path}{} has no doc comment", node.name);
                if let Kind::Section(inner) | Kind::Sections(inner) = &node.kind {
                    assert!(!inner.is_empty(), "{path}{} is empty", node.name);
                    walk(inner, &format!("{path}{}.", node.name));
                }
            }
        }
        assert!(!ROOT.about.is_empty());
        walk(&ROOT.keys, "");
        assert_eq!(find("limits.bound.stanza_bytes").default, 262_144);
        assert_eq!(find("limits.unbound.stanza_bytes").default, 10_000);
        assert_eq!(find("host.name").default, "localhost");
        assert_eq!(find("tls.key").default, Value::Null);
    }

    #[test]
    fn keys_stand_in_the_order_of_their_declaration() {
        let names: Vec<_> = ROOT.keys.iter().map(|node| node.name.as_str()).take(4).collect();
        assert_eq!(names, ["data_dir", "storage", "host", "listen"]);
    }
}
