//! The XML-RPC transport: `LJ.XMLRPC.<mode>` with one struct, answered by a struct or a fault. Read by the
//! server's own scanner, which refuses comments, entities and DTDs, within narrow bounds.
//!
//! Deliberately absent: dates as anything but text, and numbers with a fraction.

use axum::{
    body::Bytes,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, header};
use serde_json::{Map, Value};
use wire::{El, Frame, Limits, Xml};

use super::fault::{Fault, Number};

/// What all methods begin with.
const METHODS: &str = "LJ.XMLRPC.";
const PROLOG: &str = "<?xml version='1.0' encoding='UTF-8'?>";
const LIMITS: Limits =
    Limits { bytes: super::BODY, elements: 2_000, depth: 24, attributes: 8, namespaces: 8 };

/// The mode and the arguments of a call.
pub(super) fn read(body: Bytes) -> Result<(String, Map<String, Value>), Fault> {
    let wrong = |what: &str| Fault::with(Number::Argument, what);
    let text = std::str::from_utf8(&body).map_err(|_| Fault::from(Number::Encoding))?;
    let element = without_declaration(text)?;
    let frame = Frame::parse_within(body.slice_ref(element.as_bytes()), &LIMITS)
        .map_err(|why| Fault::with(Number::Argument, format!("the body is {why}")))?;
    let root = frame.root();
    if root.local() != "methodCall" {
        return Err(wrong("the body is no call"));
    }
    let name = only(root, "methodName").ok_or_else(|| wrong("it names no method"))?;
    let name = name.text();
    let name = name.trim();
    let Some(mode) = name.strip_prefix(METHODS) else {
        return Err(Fault::with(Number::Method, name));
    };
    let params = only(root, "params");
    let mut params = params.iter().flat_map(El::children).filter(|el| el.local() == "param");
    let (first, more) = (params.next(), params.next());
    if more.is_some() {
        return Err(Fault::with(Number::TooMany, "there is one, a struct"));
    }
    let args = match first {
        None => Map::new(),
        Some(param) => {
            let value = only(param, "value").ok_or_else(|| wrong("an argument has no value"))?;
            match self::value(value)? {
                Value::Object(args) => args,
                _ => return Err(wrong("the argument is no struct")),
            }
        }
    };
    Ok((mode.to_owned(), args))
}

/// What comes after the XML declaration, which may not say anything but UTF-8.
fn without_declaration(text: &str) -> Result<&str, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start();
    let Some(rest) = text.strip_prefix("<?xml") else { return Ok(text) };
    let Some((declaration, rest)) = rest.split_once("?>") else { return Ok(text) };
    let encoding = declaration.split_once("encoding").map(|(_, after)| after);
    let named = encoding.map(|after| after.split(['\'', '"']).nth(1).unwrap_or_default());
    match named {
        None => Ok(rest),
        Some(name) if ["utf-8", "us-ascii"].iter().any(|k| name.eq_ignore_ascii_case(k)) => {
            Ok(rest)
        }
        Some(_) => Err(Number::Encoding.into()),
    }
}

fn only<'a>(parent: El<'a>, local: &str) -> Option<El<'a>> {
    parent.children().find(|child| child.local() == local)
}

/// A `<value/>`; how deep it may go, the scanner has seen to.
fn value(el: El<'_>) -> Result<Value, Fault> {
    let wrong = |what: &str| Fault::with(Number::Argument, what);
    let Some(inner) = el.children().next() else { return Ok(el.text().into_owned().into()) };
    let text = inner.text();
    Ok(match inner.local() {
        "string" | "dateTime.iso8601" => text.into_owned().into(),
        "int" | "i4" | "i8" => {
            let number = text.trim().parse::<i64>().map_err(|_| wrong("a number is none"))?;
            number.into()
        }
        "boolean" => match text.trim() {
            "0" => false.into(),
            "1" => true.into(),
            _ => return Err(wrong("a boolean is neither 0 nor 1")),
        },
        "base64" => {
            let text: String = text.split_whitespace().collect();
            let bytes = STANDARD.decode(text).map_err(|_| wrong("base64 is none"))?;
            String::from_utf8(bytes).map_err(|_| Fault::from(Number::Encoding))?.into()
        }
        "nil" => Value::Null,
        "array" => {
            let data = only(inner, "data").ok_or_else(|| wrong("an array has no data"))?;
            let values = data.children().filter(|el| el.local() == "value");
            Value::Array(values.map(value).collect::<Result<_, _>>()?)
        }
        "struct" => {
            let mut fields = Map::new();
            for member in inner.children().filter(|el| el.local() == "member") {
                let name = only(member, "name").ok_or_else(|| wrong("a member has no name"))?;
                let it = only(member, "value").ok_or_else(|| wrong("a member has no value"))?;
                if fields.insert(name.text().trim().to_owned(), value(it)?).is_some() {
                    return Err(wrong("a member is there twice"));
                }
            }
            Value::Object(fields)
        }
        other => return Err(Fault::with(Number::Argument, format!("`{other}` is no type here"))),
    })
}

/// The answer.
pub(super) fn answer(outcome: Result<Map<String, Value>, Fault>) -> Response {
    let mut xml = Xml::new();
    xml.raw(PROLOG.as_bytes()).open("methodResponse");
    match outcome {
        Ok(reply) => {
            xml.open("params").open("param");
            write(&Value::Object(reply), &mut xml);
        }
        Err(fault) => {
            let fields = [
                ("faultCode".to_owned(), fault.number.number().into()),
                ("faultString".to_owned(), fault.text.into()),
            ];
            xml.open("fault");
            write(&Value::Object(Map::from_iter(fields)), &mut xml);
        }
    }
    let media = [(header::CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"))];
    (media, xml.finish()).into_response()
}

fn write(value: &Value, xml: &mut Xml) {
    xml.open("value");
    match value {
        Value::Array(values) => {
            xml.open("array").open("data");
            values.iter().for_each(|value| write(value, xml));
            xml.close().close();
        }
        Value::Bool(bool) => {
            xml.leaf("boolean", if *bool { "1" } else { "0" });
        }
        Value::Null => {
            xml.leaf("string", "");
        }
        Value::Number(number) => {
            // Its numbers have 32 bits.
            let fits = number.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            xml.leaf(if fits { "int" } else { "string" }, &number.to_string());
        }
        Value::Object(fields) => {
            xml.open("struct");
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                xml.open("member").leaf("name", name);
                write(value, xml);
                xml.close();
            }
            xml.close();
        }
        Value::String(text) => {
            xml.leaf("string", text);
        }
    }
    xml.close();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(params: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding='utf-8'?>\n<methodCall>\
             <methodName>LJ.XMLRPC.login</methodName><params>{params}</params></methodCall>\n"
        )
    }

    fn reads(text: &str) -> Result<Value, Number> {
        read(text.to_owned().into()).map(|(_, args)| args.into()).map_err(|fault| fault.number)
    }

    fn param(value: &str) -> String {
        format!("<param><value>{value}</value></param>")
    }

    fn member(name: &str, value: &str) -> String {
        let value = format!("<value>{value}</value>");
        param(&format!("<struct><member><name>{name}</name>{value}</member></struct>"))
    }

    #[test]
    fn lj_01_every_type_of_a_call_is_read() {
        for (value, read) in [
            ("plain &amp; bare", json!("plain & bare")),
            ("<string>a<![CDATA[<b>]]></string>", json!("a<b>")),
            ("<int> -7 </int>", json!(-7)),
            ("<i4>7</i4>", json!(7)),
            ("<boolean>1</boolean>", json!(true)),
            ("<base64>w6 k=</base64>", json!("é")),
            ("<array><data><value>1</value><value/></data></array>", json!(["1", ""])),
            ("<struct/>", json!({})),
        ] {
            assert_eq!(reads(&call(&member("x", value))), Ok(json!({ "x": read })), "{value}");
        }
        assert_eq!(reads(&call("")), Ok(json!({})));
        assert_eq!(reads(&call("").replace("<params></params>", "")), Ok(json!({})));
    }

    #[test]
    fn lj_01_a_second_argument_and_whatever_is_no_call_are_refused() {
        let two = call(&member("a", "b").repeat(2));
        assert_eq!(reads(&two), Err(Number::TooMany));
        assert_eq!(reads(&call(&param("text"))), Err(Number::Argument));
        for (from, to) in
            [("LJ.XMLRPC.", "LJ."), ("LJ.XMLRPC.login", ""), ("LJ.XMLRPC.", "system.")]
        {
            assert_eq!(reads(&call("").replace(from, to)), Err(Number::Method), "{to}");
        }
        for odd in [
            "",
            "<",
            "<methodCall/>",
            "<a/>",
            "<methodCall><methodName>x",
            "<!DOCTYPE x [<!ENTITY a 'b'>]><methodCall/>",
            &call("<!-- -->"),
            &call(&member("a", "<double>1.5</double>")),
            &call(&member("a", "<int>x</int>")),
            &call(&member("a", "<boolean>true</boolean>")),
            &call(&param("<struct><member><name>a</name></member></struct>")),
        ] {
            assert_eq!(reads(odd), Err(Number::Argument), "{odd}");
        }
        let deep = "<array><data><value>".repeat(9) + &"</value></data></array>".repeat(9);
        assert_eq!(reads(&call(&member("a", &deep))), Err(Number::Argument), "too deep");
        let wide =
            member("a", &format!("<array><data>{}</data></array>", "<value/>".repeat(3_000)));
        assert_eq!(reads(&call(&wide)), Err(Number::Argument), "too many elements");
    }

    #[test]
    fn lj_07_no_encoding_but_utf_8() {
        let latin = call("").replace("utf-8", "iso-8859-1");
        assert_eq!(reads(&latin), Err(Number::Encoding));
        let bytes = [call(&member("a", "x")).as_bytes(), b"\xff"].concat();
        assert_eq!(read(bytes.into()).map_err(|fault| fault.number), Err(Number::Encoding));
        assert_eq!(reads(&call(&member("a", "<base64>/w==</base64>"))), Err(Number::Encoding));
    }
}
