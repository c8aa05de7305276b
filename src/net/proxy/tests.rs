use proptest::prelude::*;

use super::*;

/// All of it at once: how much belonged to the header, and what it says.
fn parse(input: &[u8]) -> Result<(usize, Option<Header>), ProxyError> {
    Reader::default().feed(input)
}

fn whole(input: &[u8]) -> Header {
    let (used, header) = parse(input).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(used, input.len());
    header.expect("is whole")
}

fn client(text: &str) -> Header {
    Header { client: Some(text.parse().expect("an address")), tls: None }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("fits").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn addition(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("fits").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// What a balancer writes about a client.
fn v2_of(client: SocketAddr, additions: &[u8]) -> Vec<u8> {
    let port = client.port().to_be_bytes();
    let (family, addresses) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[127, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), Ipv6Addr::LOCALHOST.octets()].concat()),
    };
    v2(0x21, family, &[&addresses, &port[..], &[0x14, 0x66], additions].concat())
}

fn v1_of(client: SocketAddr) -> String {
    let (family, own) = if client.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {own} {} 5222\r\n", client.ip(), client.port())
}

fn ssl(flags: u8, version: Option<&str>) -> Vec<u8> {
    let inner = version.map(|text| addition(TLV_SSL_VERSION, text.as_bytes())).unwrap_or_default();
    addition(TLV_SSL, &[&[flags, 0, 0, 0, 0][..], &inner].concat())
}

#[test]
fn a_line_names_the_client() {
    assert_eq!(
        whole(b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 5222\r\n"),
        client("192.0.2.7:50000")
    );
    assert_eq!(whole(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), client("[2001:db8::7]:1"));
    let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
    assert_eq!(
        whole(longest.as_bytes()).client.map(|client| client.ip()),
        Some(Ipv6Addr::from([0xff; 16]).into())
    );
}

#[test]
fn an_address_is_taken_whole_or_not_at_all() {
    // Elsewhere the first group alone was once taken for the address.
    let header = whole(b"PROXY TCP6 2000:1234::1 2000:1234::2 40000 5222\r\n");
    assert_eq!(header, client("[2000:1234::1]:40000"));
    for wrong in [
        "PROXY TCP6 2000 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
        "PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.8 1 2\r\n",
        "PROXY TCP4 192.0.2.07 192.0.2.8 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 1 x\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    ] {
        assert_eq!(parse(wrong.as_bytes()), Err(ProxyError::Address), "{wrong}");
    }
}

#[test]
fn a_line_of_another_form_is_refused() {
    for wrong in [
        "PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
        "PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n",
        "PROXY TCP5 192.0.2.7 192.0.2.8 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n",
        "PROXY \r\n",
        "PROXY UNKNOWN\n",
    ] {
        let outcome = parse(wrong.as_bytes());
        assert!(matches!(outcome, Err(ProxyError::Line | ProxyError::Address)), "{wrong}");
    }
    assert_eq!(parse(b"PROXY TCP4 \xff\r\n"), Err(ProxyError::Line));
}

#[test]
fn the_balancer_may_speak_for_itself() {
    assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Header::default());
    assert_eq!(whole(b"PROXY UNKNOWN ffff::1 what ever\r\n"), Header::default());
    assert_eq!(whole(&v2(0x20, 0x00, b"")), Header::default());
    assert_eq!(whole(&v2(0x20, 0x11, b"no additions")), Header::default());
    assert_eq!(whole(&v2(0x21, 0x00, b"?")), Header::default());
    assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])), Header::default());
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    assert_eq!(parse(b"<"), Err(ProxyError::Missing));
    assert_eq!(parse(b"\x16\x03\x01"), Err(ProxyError::Missing));
    assert_eq!(parse(b"PROXI"), Err(ProxyError::Missing));
    assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\r"), Err(ProxyError::Missing));
    assert_eq!(parse(b"PROX"), Ok((4, None)));
}

#[test]
fn headers_are_bounded() {
    let line = |length: usize| format!("PROXY UNKNOWN {}", "x".repeat(length - 14));
    assert_eq!(whole(format!("{}\r\n", line(LONGEST_LINE - 2)).as_bytes()), Header::default());
    assert_eq!(parse(line(LONGEST_LINE).as_bytes()), Err(ProxyError::LongLine));
    assert_eq!(whole(&v2(0x20, 0, &[0; LONGEST - FIXED])), Header::default());
    // Before any of it is read.
    let long = v2(0x20, 0, &[0; LONGEST - FIXED + 1]);
    assert_eq!(parse(&long[..FIXED]), Err(ProxyError::Long));
}

#[test]
fn version_2_of_another_form_is_refused() {
    let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0, 1, 0, 2];
    assert_eq!(whole(&v2(0x21, 0x11, &v4)), client("192.0.2.7:1"));
    assert_eq!(parse(&v2(0x11, 0x11, &v4)), Err(ProxyError::Version));
    assert_eq!(parse(&v2(0x22, 0x11, &v4)), Err(ProxyError::Command));
    assert_eq!(parse(&v2(0x21, 0x12, &v4)), Err(ProxyError::Family));
    assert_eq!(parse(&v2(0x21, 0x41, &v4)), Err(ProxyError::Family));
    assert_eq!(parse(&v2(0x21, 0x21, &v4)), Err(ProxyError::Short));
    assert_eq!(parse(&v2(0x21, 0x11, &v4[..11])), Err(ProxyError::Short));
    assert_eq!(parse(&v2(0x21, 0x11, &[&v4[..], &[4, 0]].concat())), Err(ProxyError::Addition));
    assert_eq!(
        parse(&v2(0x21, 0x11, &[&v4[..], &[4, 0, 9, 1]].concat())),
        Err(ProxyError::Addition)
    );
}

#[test]
fn the_clients_tls_is_told() {
    let from = "[2001:db8::7]:50000".parse().expect("an address");
    let tls = |additions: &[u8]| whole(&v2_of(from, additions)).tls;
    assert_eq!(tls(b""), None);
    assert_eq!(tls(&ssl(1, Some("TLSv1.3"))), Some(Version::Tls13));
    assert_eq!(tls(&ssl(7, Some("TLSv1.2"))), Some(Version::Tls12));
    assert_eq!(tls(&ssl(1, Some("TLSv1.1"))), Some(Version::Other));
    assert_eq!(tls(&ssl(1, None)), Some(Version::Unsaid));
    assert_eq!(tls(&ssl(0, Some("TLSv1.3"))), None, "the flag says whether it is so");
    assert_eq!(tls(&ssl(2, Some("TLSv1.3"))), None, "a certificate in an earlier session is none");
    let others = [addition(4, &[0; 9]), ssl(1, Some("TLSv1.3")), addition(0xee, b"x")].concat();
    assert_eq!(tls(&others), Some(Version::Tls13));
    let twice = [ssl(0, None), ssl(1, None)].concat();
    assert_eq!(parse(&v2_of(from, &twice)), Err(ProxyError::Addition));
    assert_eq!(parse(&v2_of(from, &addition(TLV_SSL, &[1, 0, 0, 0]))), Err(ProxyError::Addition));
    // The additions of LOCAL are not looked at.
    assert_eq!(whole(&v2(0x20, 0x11, &ssl(1, None))).tls, None);
}

/// Feeds it in pieces of these lengths, over and over.
fn in_pieces(input: &[u8], pieces: &[usize]) -> (usize, Result<Option<Header>, ProxyError>) {
    let (mut reader, mut total) = (Reader::default(), 0);
    let mut lengths = pieces.iter().cycle();
    while total < input.len() {
        let length = lengths.next().copied().unwrap_or(1).min(input.len() - total);
        match reader.feed(&input[total..total + length]) {
            Ok((used, Some(header))) => return (total + used, Ok(Some(header))),
            Ok((used, None)) => {
                assert_eq!(used, length, "takes all unless it is whole");
                total += used;
            }
            Err(why) => return (total, Err(why)),
        }
    }
    (total, Ok(None))
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        // Those with an IPv4 address inside are written in a form of their own.
        any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..40_usize, 1..8)
}

/// Anything, most of it nearly a header.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        bytes(),
        bytes().prop_map(|rest| [TEXT, &rest].concat()),
        "PROXY (TCP4|TCP6|UNKNOWN)[ 0-9a-f:.]{0,90}\r\n".prop_map(String::into_bytes),
        bytes().prop_map(|rest| [SIGNATURE, &rest].concat()),
        (any::<u8>(), any::<u8>(), bytes()).prop_map(|(c, f, rest)| v2(c, f, &rest)),
        (addresses(), bytes()).prop_map(|(client, rest)| v2_of(client, &rest)),
        (addresses(), bytes()).prop_map(|(c, rest)| v2_of(c, &addition(TLV_SSL, &rest))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        from in addresses(), flags in any::<u8>(), rest in "<[a-z]{0,9}>", cut in pieces(),
    ) {
        let text = v1_of(from);
        let binary = v2_of(from, &ssl(flags, Some("TLSv1.3")));
        let tls = (flags & 1 == 1).then_some(Version::Tls13);
        for (header, tls) in [(text.as_bytes(), None), (&binary[..], tls)] {
            let input = [header, rest.as_bytes()].concat();
            let expected = Header { client: Some(from), tls };
            prop_assert_eq!(in_pieces(&input, &cut), (header.len(), Ok(Some(expected))));
        }
    }

    #[test]
    fn no_input_breaks_it_and_chunks_do_not_matter(input in nearly(), cut in pieces()) {
        let (used, outcome) = in_pieces(&input, &cut);
        prop_assert!(used <= LONGEST);
        match parse(&input) {
            Ok(at_once) => prop_assert_eq!((used, outcome), (at_once.0, Ok(at_once.1))),
            Err(why) => prop_assert_eq!(outcome, Err(why)),
        }
    }
}
