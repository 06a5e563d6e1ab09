//! Where a node listens, where others are told that it is, and what that asks for: beyond loopback
//! clients show a token and nodes a certificate.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};

use crate::config::Config;
use crate::transport::{Mutual, Security, host_of};

/// How far the peers' port is from the HTTP port when nothing is said.
const PEER_PORT_OFFSET: u16 = 1_000;

/// Where others reach a node, as `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) http: String,
    pub(crate) peer: String,
}

/// Refuses a listener for clients that anybody could reach without a token.
pub(crate) fn check_listen(config: &Config) -> Result<()> {
    if config.listen.ip().is_loopback() || config.token_file.is_some() {
        return Ok(());
    }
    bail!(
        "{} is not a loopback address, and without tokens anybody could use this node: name a file of \
         them with --token-file (`openssl rand -hex 32` makes one, and the file is for its owner alone), \
         or listen on 127.0.0.1",
        config.listen
    )
}

/// Where to listen for other nodes.
pub(crate) fn peer_listen(config: &Config, http: SocketAddr) -> SocketAddr {
    config.peer_listen.unwrap_or_else(|| {
        let port = match config.listen.port() {
            0 => 0,
            _ => http.port().checked_add(PEER_PORT_OFFSET).unwrap_or(0),
        };
        SocketAddr::new(http.ip(), port)
    })
}

/// Where others are told that this node is, which listens there.
pub(crate) fn advertised(config: &Config, http: SocketAddr, peer: SocketAddr) -> Result<Addresses> {
    let told = |wanted: Option<&String>, listening: SocketAddr, flag: &str, listen_flag: &str| match wanted {
        Some(text) => with_port(text, listening.port(), flag),
        None if listening.ip().is_unspecified() => bail!(
            "{listen_flag} {} is every address of this machine: say with {flag} HOST[:PORT] which of them \
             others reach it at",
            listening.ip()
        ),
        None => Ok(listening.to_string()),
    };
    let http = told(config.advertise.as_ref(), http, "--advertise", "--listen")?;
    // Whoever says where clients find the host has said where nodes do.
    let of_http =
        (peer.ip().is_unspecified() && config.advertise.is_some()).then(|| bracketed(host_of(&http)));
    let wanted = config.peer_advertise.clone().or(of_http);
    let peer = told(wanted.as_ref(), peer, "--peer-advertise", "--peer-listen")?;
    Ok(Addresses { http, peer })
}

/// What proves to other nodes who this is. Beyond loopback nothing but certificates will do.
pub(crate) fn security(config: &Config, peer: SocketAddr, addresses: &Addresses) -> Result<Security> {
    match &config.peer_tls_dir {
        Some(folder) => Ok(Security::Mutual(Mutual::load(folder, &addresses.peer)?)),
        None if peer.ip().is_loopback() => Ok(Security::Loopback),
        None => bail!(
            "{peer}, for other nodes, is not a loopback address, and without certificates nodes cannot prove \
             who they are: make them with `opcode cluster certs` and name their folder with --peer-tls-dir; \
             a node that stays alone may have --peer-listen 127.0.0.1:{}",
            peer.port()
        ),
    }
}

/// Refuses to join nodes elsewhere as one that is on their own loopback.
pub(crate) fn check_join(config: &Config, addresses: &Addresses) -> Result<()> {
    let is_loopback = |address: &str| {
        let host = host_of(address);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let seed = config.join.iter().map(|node| without_scheme(node)).find(|node| !is_loopback(node));
    for (what, address) in [("HTTP", &addresses.http), ("peer", &addresses.peer)] {
        if let Some(seed) = seed
            && is_loopback(address)
        {
            bail!(
                "{seed} could not reach this node, whose {what} address is {address}: listen beyond loopback, \
                 or say with --advertise and --peer-advertise where it is reached"
            );
        }
    }
    Ok(())
}

fn without_scheme(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// `HOST` or `HOST:PORT` with a port.
fn with_port(text: &str, default: u16, flag: &str) -> Result<String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let (host, port) = match (bare.parse::<IpAddr>(), text.rsplit_once(':')) {
        (Ok(_), _) => (bare, default),
        (Err(_), Some((host, port))) => match port.parse() {
            Ok(port) => (host.trim_start_matches('[').trim_end_matches(']'), port),
            Err(_) => bail!("{flag} {text}: {port} is no port"),
        },
        (Err(_), None) => (text, default),
    };
    let ip = host.parse::<IpAddr>();
    if ip.as_ref().is_ok_and(IpAddr::is_unspecified) || port == 0 {
        bail!("{flag} {text}: nobody can be reached there");
    }
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if ip.is_err() && !is_name {
        bail!("{flag} {text}: neither the name of a host nor an IP address");
    }
    Ok(format!("{}:{port}", bracketed(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, advertise: Option<&str>, peer_advertise: Option<&str>) -> Config {
        Config {
            listen: listen.parse().unwrap(),
            advertise: advertise.map(str::to_owned),
            peer_advertise: peer_advertise.map(str::to_owned),
            ..Config::default()
        }
    }

    fn told(listen: &str, advertise: Option<&str>, peer_advertise: Option<&str>) -> Result<(String, String)> {
        let config = config(listen, advertise, peer_advertise);
        let peer = peer_listen(&config, config.listen);
        advertised(&config, config.listen, peer).map(|told| (told.http, told.peer))
    }

    #[test]
    fn others_are_told_where_it_listens_or_what_is_said() {
        let two = |http: &str, peer: &str| (http.to_owned(), peer.to_owned());
        assert_eq!(told("127.0.0.1:4100", None, None).unwrap(), two("127.0.0.1:4100", "127.0.0.1:5100"));
        let wild = "0.0.0.0:4100";
        assert_eq!(told(wild, Some("10.0.0.1"), None).unwrap(), two("10.0.0.1:4100", "10.0.0.1:5100"));
        assert_eq!(told(wild, Some("n1.example:80"), None).unwrap(), two("n1.example:80", "n1.example:5100"));
        assert_eq!(told(wild, Some("a"), Some("b:9")).unwrap(), two("a:4100", "b:9"));
        assert_eq!(
            told("[::]:4100", Some("fd00::1"), None).unwrap(),
            two("[fd00::1]:4100", "[fd00::1]:5100")
        );
        assert_eq!(told(wild, Some("[fd00::1]:8"), None).unwrap(), two("[fd00::1]:8", "[fd00::1]:5100"));
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        let refused = told("0.0.0.0:4100", None, None).unwrap_err().to_string();
        assert!(refused.contains("--advertise"), "{refused}");
        for text in ["0.0.0.0", "[::]:1", "a b", "http://a", "a:b", "a:0", "", ":1"] {
            told("0.0.0.0:4100", Some(text), None).unwrap_err();
        }
    }

    #[test]
    fn beyond_loopback_tokens_and_certificates_are_asked_for() {
        let config = config("10.0.0.1:4100", None, None);
        assert!(check_listen(&config).unwrap_err().to_string().contains("--token-file"));
        let addresses = advertised(&config, config.listen, "10.0.0.1:5100".parse().unwrap()).unwrap();
        let refused = security(&config, "10.0.0.1:5100".parse().unwrap(), &addresses).err().unwrap();
        assert!(refused.to_string().contains("opcode cluster certs"), "{refused}");
    }

    #[test]
    fn nobody_joins_from_afar_as_a_loopback_address() {
        let mut config = config("127.0.0.1:4100", None, None);
        let local = Addresses { http: "127.0.0.1:4100".into(), peer: "127.0.0.1:5100".into() };
        let afar = Addresses { http: "10.0.0.2:4100".into(), peer: "10.0.0.2:5100".into() };
        config.join = vec!["127.0.0.1:4200".into(), "http://localhost:4300/".into()];
        check_join(&config, &local).unwrap();
        config.join.push("https://10.0.0.1:4100".into());
        let refused = check_join(&config, &local).unwrap_err().to_string();
        assert!(refused.contains("10.0.0.1:4100 could not reach"), "{refused}");
        check_join(&config, &afar).unwrap();
    }
}
