//! Reads `tests/scripts/*.script`: dialogues between clients and a server, as data. The format is
//! described in the README there. What runs them is in [`dialogue`](crate::dialogue).

use std::{collections::BTreeMap, fs, path::Path};

use server::config::{self, Config};

use crate::xml::{self, Item};

/// One dialogue.
#[derive(Debug)]
pub struct Case {
    /// Where it stands, as in `open.script:12`.
    pub place: String,
    pub name: String,
    /// What it is taken from, as in `RFC 6120 4.9.3.6`.
    pub reference: String,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// What is there before the dialogue starts.
#[derive(Debug, Default)]
pub struct Setup {
    /// Lines of configuration, in TOML.
    settings: String,
    pub accounts: Vec<Account>,
    pub tokens: Vec<Token>,
    /// The clients' connections are encrypted from their first byte on.
    pub tls: bool,
    /// It needs more of a server than its stream.
    server: bool,
}

#[derive(Debug)]
pub struct Account {
    pub jid: String,
    pub password: String,
    pub disabled: bool,
}

#[derive(Debug)]
pub struct Token {
    /// The script calls its text `${name}`.
    pub name: String,
    pub owner: String,
    pub state: TokenState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    Valid,
    Expired,
    /// There is a token of this id, and its secret is another.
    Forged,
    Revoked,
}

/// One step of one client.
#[derive(Debug)]
pub struct Step {
    pub line: usize,
    /// Empty in a dialogue with a single client.
    pub client: String,
    pub act: Act,
}

#[derive(Debug)]
pub enum Act {
    /// The client's TCP connection goes away without a word.
    Drop,
    /// The server sends what fits this pattern.
    Expect(Item),
    /// The server closes its stream, and then the TCP connection.
    ExpectClose,
    /// The server closes the TCP connection, or breaks it, without closing the stream.
    ExpectCut,
    /// The server accepts the proof of a token and proves that it has the token too; with what else it
    /// says.
    ExpectFast(Item),
    /// The server accepts a SCRAM proof and proves that it knows the password too; with what else it
    /// says, in the profile of SASL 2.
    ExpectScram(Option<Item>),
    /// The client proves that it has a token.
    Fast(Fast),
    /// The client runs SCRAM up to its proof.
    Scram(Scram),
    /// The client sends these bytes, once placeholders are filled in.
    Send(String),
    /// The client does its side of a TLS handshake.
    StartTls,
}

/// Parameters of a SCRAM exchange.
#[derive(Clone, Debug)]
pub struct Scram {
    /// As in `SCRAM-SHA-256-PLUS`.
    pub mechanism: String,
    pub user: String,
    pub password: String,
    /// `binding`, `data`, `authzid`, `flag`, `nonce`, `channel`: what differs from a plain one.
    pub options: BTreeMap<String, String>,
    /// In the profile of SASL 2, with this beside the initial response.
    pub inline: Option<String>,
}

/// A login with a token of FAST.
#[derive(Clone, Debug)]
pub struct Fast {
    /// As in `HT-SHA-256-NONE`.
    pub mechanism: String,
    pub user: String,
    pub token: String,
    /// Key/value pairs of the newer layout of the message; none: it is the older one.
    pub pairs: Option<String>,
    /// What stands beside the initial response.
    pub inline: String,
}

impl Case {
    /// The configuration of the server that it runs against. Hashing is as cheap as can be.
    pub fn config(&self) -> Config {
        let text = format!("tls.required = false\n{}", self.setup.settings);
        let text = match self.setup.settings.contains("tls.required") {
            true => self.setup.settings.clone(),
            false => text,
        };
        let mut config = config::parse(&text, &self.place).unwrap_or_else(|why| panic!("{why}"));
        config.auth.scram_iterations = 2;
        config.sessions.close_wait = config::Span::seconds(5);
        config
    }

    /// The names of its clients, in order of appearance.
    pub fn clients(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for step in &self.steps {
            if !names.contains(&&*step.client) {
                names.push(&step.client);
            }
        }
        names
    }

    /// Whether the state machine of the stream can have it without a server around it.
    pub fn is_about_one_stream(&self) -> bool {
        !self.setup.server && self.clients().len() == 1
    }
}

/// Every case of every script, by file.
pub fn all() -> BTreeMap<String, Vec<Case>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = fs::read_dir(&dir).expect("tests/scripts is there");
    let mut all = BTreeMap::new();
    for file in files {
        let path = file.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "script") {
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("is readable");
        let cases = parse(&name, &text).unwrap_or_else(|why| panic!("{why}"));
        all.insert(name, cases);
    }
    all
}

/// Reads one script.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut client = String::new();
    for (number, line) in joined(text) {
        let at = |why: String| format!("{file}:{number}: {why}");
        if let Some(name) = line.strip_prefix("== ") {
            client.clear();
            cases.push(Case {
                place: format!("{file}:{number}"),
                name: name.trim().to_owned(),
                reference: String::new(),
                setup: Setup::default(),
                steps: Vec::new(),
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            return Err(at("the first case starts with `== name`".into()));
        };
        if let Some(comment) = line.strip_prefix('#') {
            if case.reference.is_empty() {
                case.reference = comment.trim().to_owned();
            }
        } else if let Some(name) = line.strip_suffix(':').filter(|name| is_word(name)) {
            client = name.to_owned();
        } else if !line.is_empty() {
            read(case, &client, number, &line).map_err(at)?;
        }
    }
    for case in &cases {
        let names = case.steps.iter().any(|step| step.client.is_empty());
        if case.reference.is_empty() || case.steps.is_empty() || (names && case.clients().len() > 1)
        {
            let why = "a case has a reference (`# RFC …`), steps, and either names all its clients \
                       or none";
            return Err(format!("{}: {why}", case.place));
        }
    }
    Ok(cases)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Lines with their numbers; one that starts with white space goes on where the one before ended.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match lines.last_mut() {
            Some((_, last)) if line.starts_with([' ', '\t']) && !line.trim().is_empty() => {
                last.push_str(line.trim_start());
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
    }
    lines
}

/// Reads a line of a case.
fn read(case: &mut Case, client: &str, line: usize, text: &str) -> Result<(), String> {
    let setup = &mut case.setup;
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut step = |act| case.steps.push(Step { line, client: client.to_owned(), act });
    match *words {
        ["C:", "starttls"] => step(Act::StartTls),
        ["C:", "drop"] => step(Act::Drop),
        ["C:", "scram2", mechanism, user, password, ..] => step(Act::Scram(Scram {
            mechanism: format!("SCRAM-{mechanism}"),
            user: user.into(),
            password: password.into(),
            options: BTreeMap::new(),
            inline: Some(elements(text).into()),
        })),
        ["C:", "fast", mechanism, user, token, ref more @ ..] => step(Act::Fast(Fast {
            mechanism: mechanism.into(),
            user: user.into(),
            token: token.into(),
            pairs: more.first().and_then(|pairs| pairs.strip_prefix("pairs=")).map(Into::into),
            inline: elements(text).into(),
        })),
        ["C:", "scram", mechanism, user, password, ref options @ ..] => {
            let option = |option: &&str| {
                let (key, value) = option.split_once('=').ok_or("an option is `key=value`")?;
                Ok::<_, String>((key.to_owned(), value.to_owned()))
            };
            step(Act::Scram(Scram {
                mechanism: format!("SCRAM-{mechanism}"),
                user: user.into(),
                password: password.into(),
                options: options.iter().map(option).collect::<Result<_, _>>()?,
                inline: None,
            }));
        }
        ["S:", "close"] => step(Act::ExpectClose),
        ["S:", "cut"] => step(Act::ExpectCut),
        ["S:", "scram"] => step(Act::ExpectScram(None)),
        ["S:", "scram", ..] => step(Act::ExpectScram(Some(xml::pattern(elements(text))?))),
        ["S:", "fast", ..] => step(Act::ExpectFast(xml::pattern(elements(text))?)),
        ["C:", ..] => step(Act::Send(text["C:".len()..].trim_start_matches(' ').to_owned())),
        ["S:", ..] => {
            let pattern = crate::dialogue::encode(text["S:".len()..].trim())?;
            step(Act::Expect(xml::pattern(&pattern)?));
        }
        ["set", ..] => {
            setup.settings.push_str(&text["set".len()..]);
            setup.settings.push('\n');
        }
        ["account", jid, password, ref disabled @ ..] => setup.accounts.push(Account {
            jid: jid.into(),
            password: password.into(),
            disabled: match disabled {
                [] => false,
                ["disabled"] => true,
                _ => return Err("an account may be `disabled`".into()),
            },
        }),
        ["token", name, owner, ref state @ ..] => setup.tokens.push(Token {
            name: name.into(),
            owner: owner.into(),
            state: match state {
                [] => TokenState::Valid,
                ["expired"] => TokenState::Expired,
                ["forged"] => TokenState::Forged,
                ["revoked"] => TokenState::Revoked,
                _ => return Err("a token may be `expired`, `forged` or `revoked`".into()),
            },
        }),
        ["tls"] => setup.tls = true,
        ["server"] => setup.server = true,
        _ => return expand(case, client, line, &words),
    }
    Ok(())
}

/// The XML at the end of a line.
fn elements(text: &str) -> &str {
    text.find('<').map_or("", |at| &text[at..])
}

/// Lines that stand for several others.
fn expand(case: &mut Case, client: &str, line: usize, words: &[&str]) -> Result<(), String> {
    let lines: Vec<String> = match *words {
        ["open"] => vec![
            "C: <?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>"
                .into(),
            "S: <stream:stream from='localhost' id='*' version='1.0' …>".into(),
            "S: <stream:features>…</stream:features>".into(),
        ],
        ["login", user, password] => vec![
            "open".into(),
            format!("C: scram SHA-256 {user} {password}"),
            "S: scram".into(),
            "open".into(),
        ],
        ["bind", resource] => vec![
            format!(
                "C: <iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                 <resource>{resource}</resource></bind></iq>"
            ),
            format!(
                "S: <iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                 <jid>*/{resource}</jid></bind></iq>"
            ),
        ],
        ["enter", user, password, resource] => {
            vec![format!("login {user} {password}"), format!("bind {resource}")]
        }
        _ => return Err(format!("`{}` means nothing here", words.join(" "))),
    };
    lines.iter().try_for_each(|text| read(case, client, line, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_it_is_meant() {
        let text = "# about this file\n\n== first\n# RFC 1\naccount a@localhost pw disabled\n\
                    set tls.required = true\nC: <a\n  b='1'/>\nS: <c/>\nS: close\n\
                    == second\n# RFC 2\ntls\nx:\nopen\ny:\nC: drop\n";
        let cases = parse("t.script", text).expect("is right");
        assert_eq!(cases.len(), 2);
        assert!(cases[0].config().tls.required && !cases[1].config().tls.required);
        assert!(cases[0].setup.accounts[0].disabled);
        assert!(matches!(&cases[0].steps[0].act, Act::Send(text) if text == "<ab='1'/>"));
        assert!(cases[0].is_about_one_stream() && !cases[1].is_about_one_stream());
        assert_eq!(cases[1].clients(), ["x", "y"]);
        assert_eq!(cases[1].steps.len(), 4);
    }

    #[test]
    fn what_comes_with_a_login_is_kept_as_it_is_written() {
        let text = "== a\n# r\nC: scram2 SHA-256 u p <a b='1  2'/>\nC: scram2 SHA-1 u p\n\
                    C: fast HT-SHA-256-NONE u ${t} pairs= <f/>\nS: fast <success/>\n";
        let cases = parse("t.script", text).expect("is right");
        let acts: Vec<&Act> = cases[0].steps.iter().map(|step| &step.act).collect();
        let [Act::Scram(one), Act::Scram(two), Act::Fast(fast), Act::ExpectFast(_)] = acts[..]
        else {
            panic!("{acts:?}")
        };
        assert_eq!(one.inline.as_deref(), Some("<a b='1  2'/>"));
        assert_eq!(two.inline.as_deref(), Some(""));
        assert_eq!(
            (&*fast.token, fast.pairs.as_deref(), &*fast.inline),
            ("${t}", Some(""), "<f/>")
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for (text, line) in [
            ("C: <a/>", ":1:"),
            ("== a\n# r\nopen door", ":3:"),
            ("== a\n# r\nS: <a>", ":3:"),
            ("== a\nC: <a/>", ":1:"),
            ("== a\n# r", ":1:"),
            ("== a\n# r\nC: <a/>\nb:\nC: <a/>", ":1:"),
        ] {
            let why = parse("t.script", text).expect_err(text);
            assert!(why.contains(line), "{why}");
        }
    }
}
