//! Transcripts of LiveJournal's protocol as data: `tests/lj/*.lj`, one file for each row, run by either
//! transport.
//!
//! ```text
//!  === title                begins a scene, with a server of its own; alice and bob have accounts
//!  set KEY VALUE            a setting of `[lj]`
//!  do …                     something happens, see `Scene::happen`
//!  > MODE NAME=VALUE …      is asked by both transports; values are percent-encoded, `{{x}}` is known
//!  < OK NAME=VALUE …        all fields of the answer; `*` is anything, `{{x}}` is noted or compared
//!  < FAIL NUMBER TEXT       the flat transport tells the text only
//!  post PATH                the next lines are a body, up to `gives TYPE`, and then the answer
//! ```

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use server::{
    Server,
    account::Role,
    change::Standing,
    config::Lj,
    vault::{LJ_APP, LJ_SCOPES, Mint},
};
use sha2::Sha256;

use super::program::{BOTH, Outcome, Program, Transport};
use crate::world::{ParseJid, World};

/// The passwords of the two accounts.
const ACCOUNTS: [(&str, &str); 2] = [("alice", "secret"), ("bob", "another")];

struct Scene {
    world: World,
    program: Program,
    vars: BTreeMap<String, String>,
}

fn setting(lj: &mut Lj, key: &str, value: &str) {
    match key {
        "challenge" => lj.challenge = value.parse().expect("a span"),
        "expire_id_presence" => lj.expire_id_presence = true,
        "fold_hyphens" => lj.fold_hyphens = true,
        "host" => lj.host = value.into(),
        "maintenance" => lj.maintenance = value.into(),
        other => panic!("no setting {other}"),
    }
}

impl Scene {
    async fn new(settings: &[(&str, &str)], transport: Transport) -> Self {
        let world = World::without_doors(plugins::ALL, |config| {
            config.lj.enabled = true;
            config
                .host
                .push(server::config::Host { name: "other.example".into(), ..Default::default() });
            for (key, value) in settings {
                setting(&mut config.lj, key, value);
            }
        });
        for (name, password) in ACCOUNTS {
            world.account_with(&format!("{name}@localhost"), password).await;
        }
        let program = Program::new(&world.server, transport);
        // Longer than a name may be.
        let vars = BTreeMap::from([("endless".to_owned(), "x".repeat(1_024))]);
        Self { world, program, vars }
    }

    fn server(&self) -> &Arc<Server> {
        &self.world.server
    }

    /// Text with what is known put in.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.vars {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        text
    }

    fn args(&self, text: &str) -> Vec<(String, String)> {
        let words = text.split_whitespace();
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let encoded = format!("x={}", value.replace('+', "%2B"));
            let value = form_urlencoded::parse(encoded.as_bytes()).next().expect("one").1;
            (self.filled(name), self.filled(&value))
        };
        words.map(pair).collect()
    }

    async fn account(&self, name: &str) -> server::account::Account {
        let jid = format!("{name}@localhost");
        self.server().account(&jid).await.expect("is read").expect("is there")
    }

    async fn happen(&mut self, what: &str) {
        let filled = self.filled(what);
        let words: Vec<&str> = filled.split_whitespace().collect();
        let admin = crate::world::admin();
        match words[..] {
            ["add", jid, password] => {
                self.world.account_with(jid, password).await;
            }
            // An application password, noted under this name.
            ["app", name, "as", var] => {
                let mint = Mint {
                    purpose: LJ_APP.into(),
                    scopes: Some(LJ_SCOPES),
                    ..Mint::login(Role::Admin, "test")
                };
                let account = self.account(name).await;
                let (found, token) = self.server().mint(&account, mint).await.expect("is stored");
                let password = token.secret.expose_str().expect("is text").to_owned();
                self.vars.insert(format!("{var}.md5"), md5_hex(password.as_bytes()));
                self.vars.insert(format!("{var}.id"), found.token.id.to_string());
                self.vars.insert(var.into(), password);
            }
            ["c0", challenge, password, "as", var] => {
                self.vars.insert(var.into(), c0(challenge, password));
            }
            ["c1", challenge, password, "as", var] => {
                let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(password.as_bytes());
                let mut mac = mac.expect("any length");
                mac.update(challenge.as_bytes());
                self.vars.insert(var.into(), hex(&mac.finalize().into_bytes()));
            }
            ["cookie", cookie] => self.program.cookies.push(cookie.into()),
            ["from", address] => self.program = self.program.from(address),
            ["let", var, text] => {
                self.vars.insert(var.into(), text.into());
            }
            ["lock", name] => {
                let jid = format!("{name}@localhost").parse_jid();
                let standing = self.server().set_standing(&jid, Standing::Disabled, admin);
                standing.await.expect("is there");
            }
            ["no", "cookies"] => self.program.cookies.clear(),
            ["no", "header"] => self.program.guarded = false,
            ["plain"] => self.program.peer.encrypted = false,
            // A client that has a token and no session, by its number.
            ["token", name, "as", var] => {
                let account = self.account(name).await;
                let mint = Mint::login(Role::Admin, "test");
                let (found, _) = self.server().mint(&account, mint).await.expect("is stored");
                self.vars.insert(var.into(), found.client.sid.to_string());
            }
            ["revoke", id] => {
                let id = id.parse().expect("an id");
                let revoked = self.server().revoke_token(id, &admin, None).await;
                revoked.expect("is stored").expect("is there");
            }
            ["wait", seconds] => {
                self.world.clock.advance(seconds.parse::<u64>().expect("a number") * 1_000);
            }
            _ => panic!("nobody knows how to {what}"),
        }
    }

    async fn ask(&self, line: &str) -> Outcome {
        let (mode, rest) = match line.strip_prefix("- ") {
            // No mode at all.
            Some(rest) => ("", rest),
            None => line.split_once(' ').unwrap_or((line, "")),
        };
        let args = self.args(rest);
        let args: Vec<_> = args.iter().map(|(name, value)| (&**name, &**value)).collect();
        self.program.ask(&self.filled(mode), &args).await
    }

    fn expect(&mut self, wanted: &str, got: &Outcome) {
        if let Some(failure) = wanted.strip_prefix("FAIL ") {
            let Outcome::Fail(number, text) = got else { panic!("{got:?} instead of {wanted}") };
            let (code, said) = failure.split_once(' ').expect("a number and a text");
            assert!(number.is_none_or(|number| number.to_string() == code), "{got:?}: {wanted}");
            assert_eq!(*text, self.filled(said));
            return;
        }
        let wanted = wanted.strip_prefix("OK").unwrap_or_else(|| panic!("{wanted}?"));
        let Outcome::Ok(fields) = got else { panic!("{got:?} instead of{wanted}") };
        let wanted: BTreeMap<_, _> = self.args(wanted).into_iter().collect();
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(fields), names(&wanted), "{fields:?}");
        for (name, value) in wanted {
            let got = &fields[&name];
            match value.strip_prefix("{{").and_then(|name| name.strip_suffix("}}")) {
                Some(var) => {
                    self.vars.insert(var.into(), got.clone());
                }
                None => assert!(value == "*" || value == *got, "{name} is {got}, not {value}"),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest;
    hex(&md5::Md5::digest(bytes))
}

/// The answer to a challenge of this scheme.
pub fn c0(challenge: &str, password: &str) -> String {
    md5_hex(format!("{challenge}{}", md5_hex(password.as_bytes())).as_bytes())
}

async fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lj").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let scenes: Vec<&str> = text.split("\n=== ").skip(1).collect();
    assert!(!scenes.is_empty(), "{name} has no scene");
    for transport in BOTH {
        for scene in &scenes {
            let (title, lines) = scene.split_once('\n').expect("a title");
            eprintln!("{name}, {transport:?}: {title}");
            play(lines, transport).await;
        }
    }
}

async fn play(text: &str, transport: Transport) {
    let lines: Vec<&str> = text.lines().collect();
    let settings: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("set ")).collect();
    let settings: Vec<_> = settings.iter().map(|l| l.split_once(' ').unwrap_or((l, ""))).collect();
    let mut scene = Scene::new(&settings, transport).await;
    let mut outcome = None;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        eprintln!("  {line}");
        at += 1;
        if let Some(path) = line.strip_prefix("post ") {
            let gives = lines[at..].iter().position(|l| l.starts_with("gives ")).expect("gives");
            let body = lines[at..at + gives].join("\n");
            let rest = &lines[at + gives + 1..];
            let end = rest.iter().position(|l| l.starts_with("post ")).unwrap_or(rest.len());
            let media = lines[at + gives].strip_prefix("gives ").expect("gives");
            let (kind, got) = scene.program.post(path, body).await;
            assert_eq!(kind, media);
            assert_eq!(got.trim_end(), rest[..end].join("\n").trim_end());
            at += gives + 1 + end;
        } else if let Some(line) = line.strip_prefix("> ") {
            assert!(outcome.is_none(), "what comes of it is not said");
            outcome = Some(scene.ask(line).await);
        } else if let Some(line) = line.strip_prefix("< ") {
            scene.expect(line, &outcome.take().expect("something was asked"));
        } else if let Some(line) = line.strip_prefix("do ") {
            scene.happen(line).await;
        } else {
            let known = line.is_empty() || line.starts_with("set ") || line.starts_with('#');
            assert!(known, "{line}?");
        }
    }
    assert!(outcome.is_none(), "what comes of it is not said");
}

#[tokio::test]
async fn lj_01_flat_and_xml_rpc_on_the_wire() {
    run("lj-01.lj").await;
}

#[tokio::test]
async fn lj_02_a_request_is_looked_at_in_order() {
    run("lj-02.lj").await;
}

#[tokio::test]
async fn lj_03_names_are_prepared() {
    run("lj-03.lj").await;
}

#[tokio::test]
async fn lj_04_passwords_in_the_clear_and_hashed() {
    run("lj-04.lj").await;
}

#[tokio::test]
async fn lj_05_challenges() {
    run("lj-05.lj").await;
}

#[tokio::test]
async fn lj_06_cookies() {
    run("lj-06.lj").await;
}

#[tokio::test]
async fn lj_07_versions_and_encodings() {
    run("lj-07.lj").await;
}

#[tokio::test]
async fn lj_08_all_sessions_end() {
    run("lj-08.lj").await;
}

#[tokio::test]
async fn lj_09_sessions_that_are_named_end_if_the_value_is_true() {
    run("lj-09.lj").await;
}

#[tokio::test]
async fn lj_10_a_list_of_sessions() {
    run("lj-10.lj").await;
}

#[tokio::test]
async fn lj_11_nothing_named_or_nothing_there() {
    run("lj-11.lj").await;
}

#[tokio::test]
async fn lj_12_right_or_wrong_and_never_both() {
    run("lj-12.lj").await;
}

#[tokio::test]
async fn lj_13_numbers_and_texts() {
    run("lj-13.lj").await;
}

#[tokio::test]
async fn lj_14_lj_18_sessions_are_made() {
    run("lj-14.lj").await;
}

#[tokio::test]
async fn lj_30_too_many_failures() {
    run("lj-30.lj").await;
}

#[tokio::test]
async fn lj_15_the_session_string() {
    run("lj-15.lj").await;
}
