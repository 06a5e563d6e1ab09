//! The guard of `http.*`: no spelling of a URL, and no answer to a name, leads to an address that is
//! private, this host's, or a metadata service's. What such an address is, is told here by the
//! standard library, not by the guard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use opcode_shard::actions::fuzz::reachable;

use crate::choices::Choices;

/// Where attacks go, and neighbours of that.
const FAVOURITES: [[u8; 4]; 16] = [
    [127, 0, 0, 1],
    [127, 255, 255, 254],
    [10, 0, 0, 1],
    [172, 16, 0, 1],
    [172, 31, 255, 255],
    [192, 168, 0, 1],
    [169, 254, 169, 254],
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [100, 64, 0, 1],
    [100, 100, 100, 200],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
    [192, 0, 0, 192],
    [168, 63, 129, 16],
    [240, 0, 0, 1],
];

/// Runs one input: as a URL, and as choices that spell one.
pub fn url_guard(data: &[u8]) {
    let mut choices = Choices::new(data);
    let addresses: Vec<IpAddr> = (0..choices.below(4)).map(|_| address(&mut choices)).collect();
    if let Ok(text) = std::str::from_utf8(data) {
        judge(text, &addresses);
        judge(&format!("http://{text}"), &addresses);
    }
    judge("http://name.example/x", &addresses);
    let v4 = v4(&mut choices);
    let url = spelled(v4, &mut choices);
    let found = judge(&url, &[]);
    if must_be_refused(v4.into(), false) {
        assert!(found.is_none_or(|found| found.is_empty()), "{url} leads to {v4}");
    }
}

/// Nothing that a URL leads to is forbidden, and without permission nothing is private.
fn judge(url: &str, addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
    let strict = reachable(url, addresses, false)?;
    for address in &strict {
        assert!(!must_be_refused(*address, false), "{url:?} with {addresses:?} leads to {address}");
    }
    let lax = reachable(url, addresses, true)?;
    for address in &lax {
        assert!(!must_be_refused(*address, true), "{url:?} with {addresses:?} leads to {address}");
    }
    assert!(strict.iter().all(|address| lax.contains(address)), "permission takes nothing away");
    Some(strict)
}

/// Whether nothing may connect to it; `lax` where private networks are allowed.
fn must_be_refused(address: IpAddr, lax: bool) -> bool {
    match address {
        IpAddr::V4(v4) => v4_refused(v4, lax),
        IpAddr::V6(v6) => v6_refused(v6, lax),
    }
}

fn v4_refused(v4: Ipv4Addr, lax: bool) -> bool {
    let [a, b, ..] = v4.octets();
    let never = a == 0
        || a >= 240
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || [[168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]].contains(&v4.octets());
    let private =
        v4.is_private() || v4.is_loopback() || v4.is_documentation() || (a == 100 && b & 0xc0 == 64);
    never || (private && !lax)
}

fn v6_refused(v6: Ipv6Addr, lax: bool) -> bool {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let v4 =
        |high: u16, low: u16| v4_refused(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)), lax);
    if v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() {
        return true;
    }
    if v6.is_loopback() || v6.is_unique_local() || a & 0xffc0 == 0xfec0 {
        return !lax;
    }
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(high, low),
        [0x2002, first, second, ..] => v4(first, second),
        _ => false,
    }
}

fn v4(choices: &mut Choices<'_>) -> Ipv4Addr {
    if choices.below(4) > 0 {
        return Ipv4Addr::from(*choices.one_of(&FAVOURITES));
    }
    Ipv4Addr::from([0; 4].map(|_| choices.below(256) as u8))
}

fn address(choices: &mut Choices<'_>) -> IpAddr {
    let v4 = v4(choices);
    let [a, b, c, d] = v4.octets();
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let (high, low) = (pair(a, b), pair(c, d));
    match choices.below(8) {
        0..=2 => v4.into(),
        3 => v4.to_ipv6_mapped().into(),
        4 => v4.to_ipv6_compatible().into(),
        5 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
        6 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
        _ => {
            let first = *choices.one_of(&[0, 0xfe80, 0xfc00, 0xfd12, 0xfec0, 0xff02, 0x2606, 0x2001]);
            Ipv6Addr::new(first, 0, 0, 0, 0, 0, high, low).into()
        }
    }
}

/// A URL that leads to `v4`, in one of the many ways to write that.
fn spelled(v4: Ipv4Addr, choices: &mut Choices<'_>) -> String {
    let [a, b, c, d] = v4.octets();
    let whole = v4.to_bits();
    let host = match choices.below(15) {
        0 => v4.to_string(),
        1 => whole.to_string(),
        2 => format!("{whole:#x}"),
        3 => format!("0{whole:o}"),
        4 => format!("{a:#x}.{b:#o}.{c}.{d}").replace("0o", "0"),
        5 => format!("{a}.{}", whole & 0x00ff_ffff),
        6 => format!("{a}.{b}.{}", whole & 0xffff),
        7 => format!("000{a:o}.0x{b:X}.{c}.{d}."),
        8 => format!("[::ffff:{v4}]"),
        9 => format!("[::ffff:{:x}:{:x}]", whole >> 16, whole & 0xffff),
        10 => format!("[0:0:0:0:0:FFFF:{v4}]"),
        11 => format!("[64:ff9b::{v4}]"),
        12 => format!("[2002:{:x}:{:x}::]", whole >> 16, whole & 0xffff),
        // Percent-encoded, and in full-width digits that IDNA folds.
        13 => v4.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect(),
        _ => v4.to_string().chars().map(wide).collect(),
    };
    let scheme = ["http", "https", "HTTP", "hTTps"][choices.below(4)];
    let user = ["", "a@", "a:b@", "example.com@", "%40@"][choices.below(5)];
    let port = ["", ":80", ":8080", ":"][choices.below(4)];
    let slashes = ["//", "/\\", "\\\\", "/", ""][choices.below(5)];
    format!("{scheme}:{slashes}{user}{host}{port}{}", ["/", "", "/x?y#z", "?@example.com"][choices.below(4)])
}

fn wide(c: char) -> char {
    match c {
        '.' => '\u{3002}',
        digit => char::from_u32(0xff10 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    }
}
