//! The flat transport: a form comes in, and lines go out, one with a key and one with its value, sorted by
//! key. Deliberately absent: uploads (`multipart/form-data`).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::{Map, Value};

use super::fault::{Fault, Number};

/// Pairs of a form at most.
const PAIRS: usize = 200;

/// The pairs of a form. Text that is no UTF-8, and a key that is there twice, are refused.
pub(super) fn read(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let mut args = Map::new();
    for (n, pair) in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).enumerate() {
        if n >= PAIRS {
            return Err(Fault::with(Number::Argument, "there are more than 200"));
        }
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let mut text = || {
            let raw = parts.next().unwrap_or_default();
            String::from_utf8(decoded(raw)).map_err(|_| Fault::from(Number::Encoding))
        };
        let (key, value) = (text()?, text()?);
        if args.insert(key.clone(), value.into()).is_some() {
            return Err(Fault::with(Number::Argument, format!("`{}` is there twice", line(&key))));
        }
    }
    Ok(args)
}

/// Without percent-encoding; what is none stays as it is.
fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            _ => out.push(*first),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The answer: `success` is there exactly once, and `errmsg` if and only if it is `FAIL`.
pub(super) fn answer(outcome: Result<Map<String, Value>, Fault>, urlenc: bool) -> Response {
    let mut pairs = Vec::new();
    match outcome {
        Ok(reply) => {
            for (name, value) in &reply {
                flatten(name, value, &mut pairs);
            }
            pairs.push(("success".to_owned(), "OK".to_owned()));
        }
        Err(fault) => {
            pairs.push(("success".into(), "FAIL".into()));
            pairs.push(("errmsg".into(), line(&fault.text)));
        }
    }
    pairs.sort_unstable();
    let text: String = match urlenc {
        false => pairs.iter().map(|(key, value)| format!("{key}\n{value}\n")).collect(),
        true => {
            let encoded = |text: &str| -> String {
                form_urlencoded::byte_serialize(text.as_bytes()).collect()
            };
            let pair =
                |(key, value): &(String, String)| format!("{}={}&", encoded(key), encoded(value));
            pairs.iter().map(pair).collect()
        }
    };
    let media = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    (media, text).into_response()
}

/// A value as pairs: what is inside it is named after it.
fn flatten(name: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Array(values) => {
            let texts: Vec<_> = values.iter().filter_map(Value::as_str).collect();
            texts.join(",")
        }
        Value::Bool(bool) => if *bool { "1" } else { "0" }.into(),
        Value::Null => return,
        Value::Number(number) => number.to_string(),
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&format!("{name}_{field}"), value, pairs);
            }
            return;
        }
        Value::String(text) => text.clone(),
    };
    pairs.push((line(name), line(&text)));
}

/// As one line: nothing in it can begin another.
fn line(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    async fn text(outcome: Result<Map<String, Value>, Fault>, urlenc: bool) -> String {
        let body = http_body_util::BodyExt::collect(answer(outcome, urlenc).into_body()).await;
        String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn lj_01_a_value_cannot_begin_a_line() {
        let reply = map(json!({ "b": "x\r\nsuccess\nOK\r", "a\nsuccess": "OK" }));
        assert_eq!(
            text(Ok(reply.clone()), false).await,
            "asuccess\nOK\nb\nxsuccessOK\nsuccess\nOK\n"
        );
        assert_eq!(text(Ok(reply), true).await, "asuccess=OK&b=xsuccessOK&success=OK&");
        let fault = Fault::with(Number::Method, "x\nsuccess\nOK");
        assert_eq!(
            text(Err(fault), false).await,
            "errmsg\nClient error: Unknown mode: xsuccessOK\nsuccess\nFAIL\n"
        );
    }

    #[tokio::test]
    async fn what_is_inside_a_value_is_named_after_it() {
        let reply =
            map(json!({ "o": { "2": "unknown", "1": "ended" }, "l": ["a", "b"], "n": null }));
        assert_eq!(text(Ok(reply), true).await, "l=a%2Cb&o_1=ended&o_2=unknown&success=OK&");
    }

    #[test]
    fn lj_07_forms_are_read_strictly_and_as_utf_8() {
        let read = |text: &[u8]| read(text).map(Value::Object).map_err(|fault| fault.number);
        assert_eq!(
            read(b"a=b+c%20%C3%A9&d&e=%zz%4&&"),
            Ok(json!({
                "a": "b c é", "d": "", "e": "%zz%4",
            }))
        );
        assert_eq!(read(b"a=%ff"), Err(Number::Encoding));
        assert_eq!(read(b"a=\xff"), Err(Number::Encoding));
        assert_eq!(read(b"a=1&%61=2"), Err(Number::Argument));
        assert_eq!(read(&b"a=1&".repeat(300)), Err(Number::Argument));
        let many: String = (0..=PAIRS).map(|n| format!("k{n}=&")).collect();
        assert_eq!(read(many.as_bytes()), Err(Number::Argument));
    }
}
