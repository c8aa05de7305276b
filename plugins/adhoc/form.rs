//! Data forms (XEP-0004), as far as commands need them: fields to fill in, what was filled in, and
//! results as fields or as a table. What a value means is not known here.

use std::collections::BTreeMap;

use wire::{El, Xml};

/// XEP-0004.
pub const DATA: &str = "jabber:x:data";
/// The field that says what a form is for (XEP-0068).
const FORM_TYPE: &str = "FORM_TYPE";

/// A field to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub var: &'static str,
    /// For people.
    pub label: &'static str,
    /// What is to be filled in.
    pub kind: Kind,
    /// Whether it must be.
    pub required: bool,
}

/// What is to be filled in (section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Boolean,
    /// Addresses.
    JidMulti,
    /// An address.
    JidSingle,
    /// Some of these.
    ListMulti(&'static [&'static str]),
    /// One of these.
    ListSingle(&'static [&'static str]),
    /// Lines of text, or texts.
    TextMulti,
    /// A secret.
    TextPrivate,
    /// A line of text.
    TextSingle,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::JidMulti => "jid-multi",
            Self::JidSingle => "jid-single",
            Self::ListMulti(_) => "list-multi",
            Self::ListSingle(_) => "list-single",
            Self::TextMulti => "text-multi",
            Self::TextPrivate => "text-private",
            Self::TextSingle => "text-single",
        }
    }

    fn takes_several(self) -> bool {
        matches!(self, Self::JidMulti | Self::ListMulti(_) | Self::TextMulti)
    }
}

/// What was filled in: values by the names of fields. Fields that are not there were left out.
pub type Filled = BTreeMap<&'static str, Vec<String>>;

/// Reads what was filled in. Fields that were not asked for are passed over, as section 3.2 wants it;
/// one that is empty counts as left out.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read(form: &El<'_>, kind: &str, fields: &[Field]) -> Result<Filled, String> {
    match form.attr("type").as_deref() {
        Some("submit") => {}
        // XEP-0050 section 3.6.1 would have this carried out. Nobody means that.
        Some("cancel") => {
            return Err("the form is of type `cancel`; to cancel, send the action `cancel`".into());
        }
        other => {
            let other = other.unwrap_or_default();
            return Err(format!("the form is of type `{other}`; send one of type `submit`"));
        }
    }
    let mut filled = Filled::new();
    for el in form.children().filter(|el| el.is("field", DATA)) {
        let Some(var) = el.attr("var") else { continue };
        let values = || {
            let values = el.children().filter(|el| el.is("value", DATA));
            values.map(|value| value.text().into_owned()).collect::<Vec<_>>()
        };
        if var == FORM_TYPE {
            if values().iter().any(|value| value != kind) {
                return Err(format!(
                    "the form is not for this command: its `FORM_TYPE` is not `{kind}`"
                ));
            }
            continue;
        }
        let Some(field) = fields.iter().find(|field| field.var == var) else { continue };
        let values: Vec<String> =
            values().into_iter().filter_map(|value| field.tidy(value)).collect();
        if values.is_empty() {
            continue;
        }
        if values.len() > 1 && !field.kind.takes_several() {
            return Err(format!("`{var}` has {} values; give one", values.len()));
        }
        field.check(&values)?;
        if filled.insert(field.var, values).is_some() {
            return Err(format!("`{var}` is there twice"));
        }
    }
    match fields.iter().find(|field| field.required && !filled.contains_key(field.var)) {
        Some(missing) => Err(format!("`{}` is missing", missing.var)),
        None => Ok(filled),
    }
}

impl Field {
    /// A value as it was meant; none: nothing was said.
    fn tidy(&self, value: String) -> Option<String> {
        let value = match self.kind {
            // Spaces and empty lines belong to these.
            Kind::TextPrivate => value,
            Kind::TextMulti => return Some(value),
            _ => value.trim().to_owned(),
        };
        (!value.is_empty()).then_some(value)
    }

    fn check(&self, values: &[String]) -> Result<(), String> {
        match self.kind {
            Kind::Boolean => match values.first().map(String::as_str) {
                Some("0" | "1" | "false" | "true") => Ok(()),
                _ => Err(format!("`{}` has to be `true` or `false`", self.var)),
            },
            Kind::ListMulti(options) | Kind::ListSingle(options) => {
                match values.iter().find(|value| !options.contains(&value.as_str())) {
                    Some(other) => {
                        let options = options.join(", ");
                        Err(format!("`{}`: `{other}` is none of {options}", self.var))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Writes the field, with what was filled in before; secrets are not shown again.
    fn write(&self, xml: &mut Xml, filled: &Filled) {
        xml.open("field").attr("var", self.var).attr("type", self.kind.as_str());
        xml.attr("label", self.label);
        if self.required {
            xml.open("required").close();
        }
        let known = filled.get(self.var).filter(|_| self.kind != Kind::TextPrivate);
        for value in known.into_iter().flatten() {
            xml.leaf("value", value);
        }
        match self.kind {
            Kind::Boolean if known.is_none() => {
                xml.leaf("value", "0");
            }
            Kind::ListSingle(options) => {
                // Some clients send the first option if none is chosen: that is to mean nothing.
                if !self.required {
                    if known.is_none() {
                        xml.leaf("value", "");
                    }
                    xml.open("option").attr("label", "(not said)").leaf("value", "").close();
                }
                options.iter().for_each(|option| write_option(xml, option));
            }
            Kind::ListMulti(options) => options.iter().for_each(|option| write_option(xml, option)),
            _ => {}
        }
        xml.close();
    }
}

fn write_option(xml: &mut Xml, option: &str) {
    xml.open("option").attr("label", option).leaf("value", option).close();
}

/// Writes a form to be filled in.
pub fn ask(xml: &mut Xml, kind: &str, title: &str, about: &str, fields: &[Field], filled: &Filled) {
    xml.open("x").ns(DATA).attr("type", "form").leaf("title", title);
    if !about.is_empty() {
        xml.leaf("instructions", about);
    }
    form_type(xml, kind);
    for field in fields {
        field.write(xml, filled);
    }
    xml.close();
}

fn form_type(xml: &mut Xml, kind: &str) {
    xml.open("field").attr("var", FORM_TYPE).attr("type", "hidden").leaf("value", kind).close();
}

/// What is told: a name, its values, and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The name.
    pub var: String,
    /// For people; may be empty.
    pub label: &'static str,
    /// What they are.
    pub kind: Kind,
    /// The values.
    pub values: Vec<String>,
}

/// Writes a result as fields.
pub fn tell(xml: &mut Xml, kind: &str, told: &[Told]) {
    xml.open("x").ns(DATA).attr("type", "result");
    form_type(xml, kind);
    for told in told {
        let label = if told.label.is_empty() { &told.var } else { told.label };
        xml.open("field").attr("var", &told.var).attr("type", told.kind.as_str());
        xml.attr("label", label);
        for value in &told.values {
            xml.leaf("value", value);
        }
        xml.close();
    }
    xml.close();
}

/// Writes a result as a table (section 3.4). Nothing else may be in such a form, so it has no type.
pub fn table(xml: &mut Xml, columns: &[(String, Kind)], rows: &[Vec<Vec<String>>]) {
    xml.open("x").ns(DATA).attr("type", "result").open("reported");
    for (name, kind) in columns {
        xml.open("field").attr("var", name).attr("type", kind.as_str()).attr("label", name).close();
    }
    xml.close();
    for row in rows {
        xml.open("item");
        for ((name, _), values) in columns.iter().zip(row) {
            xml.open("field").attr("var", name);
            if values.is_empty() {
                xml.leaf("value", "");
            }
            for value in values {
                xml.leaf("value", value);
            }
            xml.close();
        }
        xml.close();
    }
    xml.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field { var: "jid", label: "Who", kind: Kind::JidSingle, required: true },
        Field { var: "level", label: "How", kind: Kind::ListSingle(&["a", "b"]), required: false },
        Field { var: "words", label: "What", kind: Kind::TextMulti, required: false },
        Field { var: "dry", label: "Whether", kind: Kind::Boolean, required: false },
        Field { var: "secret", label: "Key", kind: Kind::TextPrivate, required: false },
    ];

    fn fill(inside: &str) -> Result<Filled, String> {
        let xml = format!("<x xmlns='{DATA}' type='submit'>{inside}</x>");
        let frame = wire::Frame::parse(xml.into_bytes()).expect("is well-formed");
        read(&frame.root(), "urn:t", FIELDS)
    }

    fn field(var: &str, values: &[&str]) -> String {
        let values: String = values.iter().map(|v| format!("<value>{v}</value>")).collect();
        format!("<field var='{var}'>{values}</field>")
    }

    #[test]
    fn what_is_filled_in_is_read_and_what_was_not_asked_for_is_passed_over() {
        let inside = [
            field("FORM_TYPE", &["urn:t"]),
            field("jid", &[" a@b "]),
            field("level", &[""]),
            field("words", &["one", "", "two"]),
            field("dry", &["1"]),
            field("secret", &[" x "]),
            field("other", &["y"]),
        ];
        let filled = fill(&inside.concat()).expect("is right");
        let of = |var: &str| filled.get(var).map(|values| values.join("|"));
        assert_eq!(of("jid").as_deref(), Some("a@b"));
        assert_eq!(of("level"), None, "an empty value says nothing");
        assert_eq!(of("words").as_deref(), Some("one||two"));
        assert_eq!(of("secret").as_deref(), Some(" x "), "a secret is taken as it is");
        assert_eq!(filled.len(), 4);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let jid = field("jid", &["a@b"]);
        for (more, named) in [
            (field("level", &["c"]), "`c` is none of a, b"),
            (field("dry", &["maybe"]), "`dry`"),
            (field("level", &["a", "b"]), "2 values"),
            (field("FORM_TYPE", &["urn:other"]), "FORM_TYPE"),
            (jid.clone(), "twice"),
        ] {
            let why = fill(&format!("{jid}{more}")).expect_err(&more);
            assert!(why.contains(named), "{why}");
        }
        assert!(fill("").is_err_and(|why| why.contains("`jid` is missing")));
        for kind in ["cancel", "form", "result", ""] {
            let xml = format!("<x xmlns='{DATA}' type='{kind}'>{jid}</x>");
            let frame = wire::Frame::parse(xml.into_bytes()).expect("is well-formed");
            assert!(read(&frame.root(), "urn:t", FIELDS).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_form_shows_what_was_filled_in_but_no_secret() {
        let filled = Filled::from([("level", vec!["b".into()]), ("secret", vec!["x".into()])]);
        let mut xml = Xml::new();
        ask(&mut xml, "urn:t", "Title", "", FIELDS, &filled);
        let text = String::from_utf8(xml.finish().to_vec()).expect("is UTF-8");
        let level = "<field var='level' type='list-single' label='How'><value>b</value>\
                     <option label='(not said)'><value/></option>";
        assert!(text.contains(level), "{text}");
        assert!(text.contains("label='Who'><required/></field>"), "{text}");
        assert!(text.contains("<field var='secret' type='text-private' label='Key'/>"), "{text}");
    }

    #[test]
    fn every_cell_of_a_table_is_there() {
        let columns = [("a".into(), Kind::TextSingle), ("b".into(), Kind::TextMulti)];
        let mut xml = Xml::new();
        table(&mut xml, &columns, &[vec![vec![], vec!["1".into(), "2".into()]]]);
        let text = String::from_utf8(xml.finish().to_vec()).expect("is UTF-8");
        let item = "<item><field var='a'><value/></field>\
                    <field var='b'><value>1</value><value>2</value></field></item>";
        assert!(text.contains(item), "{text}");
        assert!(!text.contains("FORM_TYPE"), "{text}");
    }
}
