use super::*;

/// What is wrong with a file, as an operator sees it.
fn wrong(text: &str) -> String {
    parse(text, "f").expect_err(text).to_string()
}

fn right(text: &str) -> Config {
    parse(text, "f").unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn an_empty_file_is_the_default() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    assert_eq!(serde_json::to_value(right("")).unwrap(), defaults);
}

#[test]
fn a_phase_keeps_its_own_defaults_for_what_is_not_set() {
    let config = right("[limits.bound]\nelements = 5\n[limits.unauthed]\ntime = \"9s\"");
    let defaults = Config::default().limits;
    assert_eq!(config.limits.bound.elements, 5);
    assert_eq!(config.limits.bound.stanza_bytes, defaults.bound.stanza_bytes);
    assert_eq!(config.limits.bound.time, defaults.bound.time);
    assert_eq!(config.limits.unauthed.time, super::super::Span::seconds(9));
    assert_eq!(config.limits.unauthed.elements, defaults.unauthed.elements);
    assert_eq!(config.limits.unbound.elements, defaults.unbound.elements);
}

#[test]
fn values_of_every_kind_arrive() {
    let config = right(
        "data_dir = \"/d\"\nstorage = \"memory\"\n[[host]]\nname = \"a.example\"\n[[host]]\n\
         name = \"b.example\"\n[listen]\nc2s = []\nc2s_tls = [\"127.0.0.1:1\", \"[::1]:2\"]\n[tls]\n\
         certificate = \"c\"\nkey = \"k\"\nrequired = false\n[limits]\nmailbox_bytes = 1_000_000\n\
         [log]\nlevel = \"info, net=debug\"\nformat = \"json\"",
    );
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!(
        config.host.iter().map(|h| &*h.name).collect::<Vec<_>>(),
        ["a.example", "b.example"]
    );
    assert!(config.listen.c2s.is_empty());
    assert_eq!(config.listen.c2s_tls, ["127.0.0.1:1", "[::1]:2"]);
    assert_eq!(config.tls.key.as_deref(), Some(Path::new("k")));
    assert!(!config.tls.required);
    assert_eq!(config.limits.mailbox_bytes, 1_000_000);
    assert_eq!(config.log.format, super::super::LogFormat::Json);
}

#[test]
fn unknown_keys_are_named_with_path_line_and_neighbour() {
    assert_eq!(
        wrong("\n[limits.bound]\nstanza_byte = 10_000\n"),
        "f:3: unknown key `limits.bound.stanza_byte`\n\
         hint: the nearest known key is `limits.bound.stanza_bytes`"
    );
    assert_eq!(
        wrong("[listn]"),
        "f:1: unknown key `listn`\nhint: the nearest known key is `listen`"
    );
    assert_eq!(wrong("c2s = []"), "f:1: unknown key `c2s`\nhint: there is `listen.c2s`");
    assert_eq!(
        wrong("[[host]]\nname = \"a.example\"\n[[host]]\nnome = \"b.example\""),
        "f:4: unknown key `host[1].nome`\nhint: the nearest known key is `host[1].name`"
    );
    assert_eq!(
        wrong("[auth]\nzzzzzz = 1"),
        "f:2: unknown key `auth.zzzzzz`\nhint: known here: `scram_iterations`, `attempts`, `step_up`, \
         `pair_failures`, `address_failures`, `failure_period`, `dormant`"
    );
}

#[test]
fn rights_are_named_and_the_ends_of_the_ladder_have_none_to_set() {
    use crate::rights::{Right, Rights};
    let config = right("[roles.support]\nrights = [\"end\", \"list\"]\n[audit]\nviews = false");
    assert_eq!(config.roles.support.rights, Rights::of(&[Right::List, Right::End]));
    assert_eq!(config.roles.viewer.rights, Config::default().roles.viewer.rights);
    assert!(!config.audit.views);
    assert!(right("[roles.viewer]\nrights = []").roles.viewer.rights.is_empty());
    let text = wrong("[roles.viewer]\nrights = [\n\"list\",\n\"lsit-ip\"]");
    assert!(text.starts_with("f:4: `roles.viewer.rights[1]` must be `\"audit\"`"), "{text}");
    assert!(text.ends_with("not `\"lsit-ip\"`\nhint: the nearest is `list-ip`"), "{text}");
    for fixed in ["admin", "restricted"] {
        let text = wrong(&format!("[roles.{fixed}]\nrights = []"));
        assert!(text.contains(&format!("unknown key `roles.{fixed}`")), "{text}");
    }
}

#[test]
fn wrong_types_say_what_was_expected() {
    assert_eq!(
        wrong("[auth]\nattempts = \"many\""),
        "f:2: `auth.attempts` must be a whole number from 2 to 100, not `\"many\"`"
    );
    assert_eq!(
        wrong("storage = \"mysql\""),
        "f:1: `storage` must be `\"memory\"` or `\"sqlite\"`, not `\"mysql\"`"
    );
    assert_eq!(wrong("tls.required = 1"), "f:1: `tls.required` must be `true` or `false`, not `1`");
    assert_eq!(wrong("data_dir = 1.5"), "f:1: `data_dir` must be text in quotes, not `1.5`");
    assert!(wrong("listen = 5222").ends_with("not `5222`\nhint: head it with `[listen]`"));
    assert!(wrong("[host]\nname = \"a\"").ends_with("hint: head each of them with `[[host]]`"));
    assert!(wrong("host = [\"a\"]").contains("`host[0]` must be a table, not `\"a\"`"));
    assert!(wrong("[listen]\nc2s = \"[::]:1\"").contains("must be a list of texts"));
    assert!(wrong("[listen]\nc2s = [\n5222]").starts_with("f:3: `listen.c2s[0]` must be text"));
    assert!(wrong("[tokens]\nttl = 30").contains("`tokens.ttl` must be a length of time"));
    assert!(wrong("[tokens]\nttl = \"30y\"").contains("not `\"30y\"`"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    for text in [
        "[auth]\nattempts = 1",
        "[auth]\nattempts = 101",
        "[limits]\nper_address = -1",
        "[limits]\nper_address = 4294967296",
        "[limits]\nmailbox_bytes = 65535",
        "[limits.bound]\nstanza_bytes = 9999",
        "[limits.bound]\ndepth = 65536",
        "[storage_limits]\noffline_messages = 9223372036854775808",
    ] {
        assert!(wrong(text).starts_with("f:2: `"), "{text}");
    }
    right("[auth]\nattempts = 2\n[limits]\nper_address = 0xFFFFFFFF\nmailbox_bytes = 65_536");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() {
    let error = parse("a = 1\n[tls]\nrequired = 3\n[log]\nformat = \"xml\"\n", "f").unwrap_err();
    assert_eq!(
        error.problems().iter().map(|p| p.line).collect::<Vec<_>>(),
        [Some(1), Some(3), Some(5)]
    );
}

#[test]
fn broken_toml_is_one_line_with_its_place() {
    let error = wrong("[tls]\nrequired = \n");
    assert!(error.starts_with("f:2: "), "{error}");
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(wrong("[tls]\nrequired = true\nrequired = true").starts_with("f:3: "));
}

#[test]
fn certificate_and_key_go_together() {
    assert_eq!(
        wrong("[tls]\nkey = \"k\""),
        "f:2: `tls.key` is set, but `tls.certificate` is not\n\
         hint: set `tls.certificate` too, or neither for a self-signed certificate"
    );
    assert!(wrong("[tls]\ncertificate = \"c\"").contains("`tls.key` is not"));
}

#[test]
fn addresses_to_listen_on_are_addresses() {
    assert_eq!(
        wrong("[listen]\nc2s = [\"127.0.0.1:1\",\n\"localhost:5222\"]"),
        "f:3: `listen.c2s[1]`: `localhost:5222` is not an IP address and a port\n\
         hint: write them as in `0.0.0.0:5222`, `[::]:5222` or `127.0.0.1:5222`"
    );
    assert!(wrong("[listen]\nc2s_tls = [\"5223\"]").contains("`5223`"));
    assert!(wrong("[listen]\nc2s_tls = [\"[::]:5222\"]").contains("already"));
    right("[listen]\nc2s = [\"127.0.0.1:0\", \"127.0.0.1:0\"]");
}

#[test]
fn hosts_are_domain_names() {
    assert!(wrong("[[host]]\nname = \"a b\"").starts_with("f:2: `host[0].name`: `a b` is not a"));
    assert!(wrong("[[host]]\nname = \"me@a.example\"").contains("it is a whole JID"));
    assert!(wrong("[[host]]\nname = \"\"").contains("not a domain name"));
    assert!(wrong("host = []").contains("at least one"));
    let twice = wrong("[[host]]\nname = \"a.example\"\n[[host]]\nname = \"A.example\"");
    assert!(twice.starts_with("f:4: host `A.example` is there twice"), "{twice}");
}

#[test]
fn log_levels_are_levels() {
    right("[log]\nlevel = \"warn,net::conn=trace,store=off\"");
    // As a filter, a misspelt level would be a part of the server, logged in full.
    assert!(wrong("[log]\nlevel = \"inof\"").contains("`inof` is not a log level"));
    assert!(wrong("[log]\nlevel = \"info,net=loud\"").contains("`net=loud`"));
    assert!(wrong("[log]\nlevel = \"\"").contains("is not a log level"));
}

#[test]
fn a_token_lives_no_longer_than_the_longest_may() {
    assert!(wrong("[tokens]\nmax_ttl = \"30d\"").starts_with("f:2: `tokens.ttl` (`90d`) exceeds"));
    assert!(wrong("[tokens]\nttl = \"off\"").contains("(`off`)"));
    right("[tokens]\nttl = \"off\"\nmax_ttl = \"off\"");
}

#[test]
fn an_address_is_not_exact_for_longer_than_its_network_is_kept() {
    let error = wrong("[privacy]\naddress_exact = \"200d\"");
    assert!(error.starts_with("f:2: `privacy.address_exact` (`200d`) exceeds"), "{error}");
    assert!(wrong("[privacy]\naddress_network = \"7d\"").starts_with("f:2: "));
    right("[privacy]\naddress_exact = \"off\"");
    right("[privacy]\naddress_network = \"off\"");
}

#[test]
fn those_that_leave_no_history_are_accounts() {
    right("[history]\nnolog = [\"probe@a.example\"]");
    for bad in ["a.example", "probe@a.example/r", "a b@c"] {
        let error = wrong(&format!("[history]\nnolog = [\n\"{bad}\"]"));
        assert!(error.starts_with("f:3: `history.nolog[0]`"), "{error}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("none.toml");
    let error = load(Some(&file)).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration `"), "{error}");
    assert!(error.contains("\nhint: `usher config example > "), "{error}");
    fs::write(&file, "[auth]\nattempts = 7\n").unwrap();
    assert_eq!(load(Some(&file)).unwrap().auth.attempts, 7);
}

#[test]
fn proxies_are_networks() {
    let config = right("[listen]\nproxies = [\"10.0.0.0/24\", \"::1\", \"::ffff:192.0.2.1\"]");
    let trusted: Vec<_> = config.listen.trusted().iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/24", "::1/128", "192.0.2.1/32"]);
    assert_eq!(
        wrong("[listen]\nproxies = [\n\"10.0.0.0/8\",\n\"balancer\"]"),
        "f:4: `listen.proxies[1]`: `balancer` is neither an IP address nor a network such as \
         `203.0.113.0/24`\nhint: name the balancers alone, and as exactly as you can"
    );
    let text = wrong("[listen]\nproxies_tls = true");
    assert!(text.starts_with("f:2: `listen.proxies_tls` is set, but"), "{text}");
}

#[test]
fn webhooks_are_named_addressed_and_have_a_key() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let good = format!(
        "[[webhook]]\nname = \"billing\"\nurl = \"https://a.example/e\"\nkey = \"{KEY}\"\n"
    );
    assert_eq!(format!("{:?}", right(&good).webhook[0].key), "Hidden(…)");
    for (from, to, said) in [
        ("billing", "bil/ling", "`webhook[0].name`"),
        ("https://a", "http://a", "`webhook[0].url`"),
        ("https://a.example/e", "http://localhost.evil.example/", "`webhook[0].url`"),
        ("abcdef\"", "\"", "32 characters"),
    ] {
        let error = wrong(&good.replace(from, to));
        assert!(error.contains(said) && !error.contains("0123456789"), "{error}");
    }
    assert!(wrong(&format!("{good}reasons = [\"revokd\"]")).contains("`revokd` is no reason"));
    assert!(wrong(&format!("{good}{good}")).contains("twice"));
    right(&good.replace("https://a.example/e", "http://127.0.0.1:8080/e"));
}

#[test]
fn http_in_the_clear_does_not_leave_the_machine() {
    assert!(wrong("[listen]\nhttp = [\"0.0.0.0:80\"]").contains("loopback"));
    right("[listen]\nhttp = [\"[::1]:80\"]\nhttps = [\"0.0.0.0:443\"]");
    assert!(wrong("[http]\nproxies = [\"nowhere\"]").contains("`http.proxies[0]`"));
}

#[test]
fn livejournal_s_protocol_is_for_a_host_and_needs_a_door() {
    let door = "[listen]\nhttp = [\"[::1]:80\"]\n";
    right(&format!("{door}[lj]\nenabled = true\nhost = \"localhost\""));
    assert!(wrong("[lj]\nenabled = true").contains("nothing listens"));
    assert!(wrong("[lj]\nhost = \"elsewhere\"").contains("`elsewhere` is not served here"));
}
