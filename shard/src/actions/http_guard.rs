//! Where `http.*` may connect to: decided on addresses, at the moment they are used.
//!
//! A name is resolved here and only addresses that pass are handed to the connector, so what was
//! checked is what is connected to: a name that changes its answer gains nothing. Hosts written
//! as addresses are checked before each request, each redirect is a new request, and forms that
//! hide an IPv4 address in an IPv6 one are unwrapped. Link-local and metadata addresses are
//! refused always.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What an address is, as far as the guard cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Somewhere on the internet.
    Public,
    /// This host or the network around it.
    Private,
    /// Never to be reached from a workflow.
    Forbidden,
}

/// Addresses of a name; the seam at which tests answer instead of DNS.
pub(super) trait Lookup: Send + Sync {
    fn lookup(&self, name: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The host's own resolver.
pub(super) struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let name = name.to_owned();
        Box::pin(
            async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.map(|a| a.ip()).collect()) },
        )
    }
}

/// The guard: a resolver that only gives what may be connected to.
#[derive(Clone)]
pub(super) struct Guard {
    allow_private: bool,
    lookup: Arc<dyn Lookup>,
}

/// A host that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) host: String,
    pub(super) class: Class,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Class::Public => write!(f, "{} may not be reached", self.host),
            Class::Private => write!(
                f,
                "{} is a private or loopback address, which http.* may not reach (allow_private_network is off)",
                self.host
            ),
            Class::Forbidden => write!(
                f,
                "{} is a link-local, metadata, multicast or unspecified address, which http.* may never reach",
                self.host
            ),
        }
    }
}

impl std::error::Error for Refused {}

impl Guard {
    pub(super) fn new(allow_private: bool, lookup: Arc<dyn Lookup>) -> Self {
        Self { allow_private, lookup }
    }

    /// Checks a host that is written as an address; names are checked when they are resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => self.check_address(host, address),
            Err(_) => Ok(()),
        }
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let class = classify(address);
        match class {
            Class::Public => Ok(()),
            Class::Private if self.allow_private => Ok(()),
            Class::Private | Class::Forbidden => Err(Refused { host: host.to_owned(), class }),
        }
    }

    /// The addresses of a name that may be connected to, at least one.
    pub(super) async fn addresses(
        &self,
        name: &str,
    ) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let found = self.lookup.lookup(name).await?;
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.check_address(name, address) {
                Ok(()) => allowed.push(SocketAddr::new(address, 0)),
                Err(e) => refused = Some(e),
            }
        }
        match refused {
            _ if !allowed.is_empty() => Ok(allowed),
            Some(refused) => Err(refused.into()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let allowed = guard.addresses(name.as_str()).await?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// What an address is, special forms unwrapped (IANA special-purpose registries).
pub(super) fn classify(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> Class {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        // "This network" (0.0.0.0 is this host), link-local, multicast, reserved, broadcast.
        (0, ..) | (169, 254, _) | (224.., ..) => Class::Forbidden,
        // Metadata services outside link-local: Azure, Alibaba, Oracle.
        _ if [[168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]].contains(&address.octets()) => {
            Class::Forbidden
        }
        (10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Class::Private,
        // Protocol assignments, documentation, benchmarks: nothing public answers there.
        (192, 0, 0 | 2) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Class::Private,
        _ => Class::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> Class {
    let segments = address.segments();
    let v4_of = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        classify_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        _ if address.is_unspecified() => Class::Forbidden,
        _ if address.is_loopback() => Class::Private,
        // The metadata services of EC2 and GCP.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254] => Class::Forbidden,
        // Mapped, compatible and translated IPv4, NAT64, 6to4: the IPv4 address decides.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4_of(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4_of(high, low),
        [0x2002, high, low, ..] => v4_of(high, low),
        // Local-use NAT64 ends in the translator's own network.
        [0x64, 0xff9b, 1, .., high, low] => match v4_of(high, low) {
            Class::Forbidden => Class::Forbidden,
            Class::Public | Class::Private => Class::Private,
        },
        // Link-local and multicast.
        [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] => Class::Forbidden,
        // Unique-local, site-local, discard-only, Teredo, documentation.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Class::Private,
        [0x100, 0, 0, 0, ..] | [0x2001, 0 | 0xdb8, ..] => Class::Private,
        _ => Class::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let table = [
            (Class::Public, "93.184.216.34 1.1.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.167.1.1"),
            (Class::Public, "2606:4700::1111 ::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::"),
            (Class::Private, "127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1"),
            (
                Class::Private,
                "198.18.0.1 192.0.2.1 203.0.113.9 ::1 fc00::1 fd12::1 fec0::1 2001::1 2001:db8::1",
            ),
            (Class::Private, "::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1.1.1.1 2002:7f00:1::"),
            (
                Class::Forbidden,
                "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 224.0.0.1 240.0.0.1 255.255.255.255",
            ),
            (Class::Forbidden, "168.63.129.16 100.100.100.200 192.0.0.192 :: fe80::1 febf::1 ff02::1"),
            (Class::Forbidden, "fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe"),
            (
                Class::Forbidden,
                "2002:a9fe:a9fe:: 64:ff9b:1::a9fe:a9fe ::ffff:0:169.254.169.254 ::ffff:0.0.0.0",
            ),
        ];
        for (class, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(classify(address.parse().unwrap()), class, "{address}");
            }
        }
    }

    #[test]
    fn hosts_written_as_addresses_are_seen_through() {
        let guard = Guard::new(false, Arc::new(SystemLookup));
        let lax = Guard::new(true, Arc::new(SystemLookup));
        let loopback =
            ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "[::ffff:7f00:1]", "[::1]"];
        for host in loopback {
            let url = Url::parse(&format!("http://{host}/")).unwrap();
            assert!(guard.check(&url).is_err(), "{host}");
            assert!(lax.check(&url).is_ok(), "{host}");
        }
        for host in ["2852039166", "169.254.169.254", "[::ffff:a9fe:a9fe]", "0", "[fe80::1]"] {
            let url = Url::parse(&format!("http://{host}/")).unwrap();
            assert_eq!(lax.check(&url).unwrap_err().class, Class::Forbidden, "{host}");
        }
    }
}
